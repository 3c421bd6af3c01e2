"""Makes hanse/v1 from proto/, or with --check compares it with what is committed.

python tests/docs/regenerate_stubs.py [--check]
"""

import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def generate(into: Path) -> None:
    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "proto").rglob("*.proto"))
    outputs = [f"--{kind}_out={into}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    plugins = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", "-I", "proto", *outputs, *protos],
        cwd=ROOT, check=True, stderr=subprocess.DEVNULL, env=os.environ | {"PATH": plugins},
    )  # fmt: skip


def differences() -> list[str]:
    committed = ROOT / "hanse" / "v1"
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = Path(folder) / "hanse" / "v1"
        names = {path.name for root in (committed, fresh) for path in root.iterdir() if "_pb2" in path.name}
        _, different, missing = filecmp.cmpfiles(committed, fresh, sorted(names), shallow=False)
    return different + missing


if __name__ == "__main__":
    if "--check" in sys.argv:
        found = differences()
        if found:
            sys.exit(f"hanse/v1 is not what proto/ generates: {', '.join(found)}; run `make stubs`")
    else:
        shutil.rmtree(ROOT / "hanse" / "v1", ignore_errors=True)
        generate(ROOT)
