"""``hanse-registry serve --workers 2`` with less patience: ``python -m tests.supervised HOME SILENCE``."""

import os
import sys
from pathlib import Path

from registry import app
from registry.observe import start_log


def main(home: str, silence: str) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    start_log(debug=False)

    def ready(address: object) -> None:
        print(f"listening on {address}", flush=True)

    app.serve(Path(home), ready, workers=2, silence=int(silence))


if __name__ == "__main__":
    main(*sys.argv[1:])
