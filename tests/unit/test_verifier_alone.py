"""The verifier stands alone: copied to another machine, it needs Python, ``cryptography``, and nothing else."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from hanse import limits, verifier
from hanse.evidence import lines
from hanse.model.envelope import PayloadType
from tests.evidence_year import Year, ordinary

SOURCE = Path(verifier.__file__)

# Whoever imports something that an auditor's machine has not fails.
FORBID = """
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"hanse", "node", "registry", "google", "grpc", "sqlite_utils", "click", "tests"}:
            raise ImportError("forbidden: " + name)
sys.meta_path.insert(0, Forbidden())
"""


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory):
    with Year.begin(tmp_path_factory.mktemp("year")) as made:
        made.made = ordinary(made)  # type: ignore[attr-defined]
        for party in (made.north, made.acme):
            made.export(party, made.folder / f"{party.prefix}.txt")
        yield made


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    copy = tmp_path / "verifier.py"
    copy.write_bytes(SOURCE.read_bytes())
    return copy


def run(*argv: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([str(each) for each in argv], capture_output=True, text=True, cwd=cwd, check=False, env={})


def test_it_names_only_the_standard_library_and_cryptography() -> None:
    named = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Import):
            named |= {each.name.split(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            named.add((node.module or "").split(".")[0])
    assert named - set(sys.stdlib_module_names) == {"cryptography"}


@pytest.mark.parametrize("jobs", [1, 2])
def test_copied_alone_it_verifies_where_nothing_of_hanse_can_be_imported(
    year: Year, copied: Path, tmp_path: Path, jobs: int
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(FORBID)
    done = subprocess.run(
        [sys.executable, "-P", copied, year.folder / "86.north.txt", "--jobs", str(jobs)],
        capture_output=True, text=True, cwd=tmp_path, check=False, env={"PYTHONPATH": str(site)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "All that is in this file is proved" in done.stdout
    forbidden = subprocess.run(
        [sys.executable, "-c", "import click"], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(site)},
    )  # fmt: skip
    assert "forbidden: click" in forbidden.stderr  # the hook does what the test relies on


def test_it_runs_isolated_without_site(year: Year, copied: Path, tmp_path: Path) -> None:
    """``-I -S``: no environment, no site-packages; cryptography is put on the path by hand."""
    import cryptography

    packages = Path(cryptography.__file__).parent.parent
    program = (
        f"import sys; sys.path.append({str(packages)!r}); sys.argv[1:] = ['86.north.txt', '--json', '--jobs', '1']\n"
    )
    program += f"import runpy; runpy.run_path({str(copied)!r}, run_name='__main__')"
    done = run(sys.executable, "-I", "-S", "-c", program, cwd=year.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1])["exit_code"] == 0


def test_as_a_module_it_says_the_same(year: Year, copied: Path) -> None:
    file = year.folder / "86.acme.txt"
    root = SOURCE.parent.parent
    alone = run(sys.executable, copied, file, cwd=root)
    module = run(sys.executable, "-m", "hanse.verifier", file, cwd=root)
    command = run(sys.executable, "-m", "node.cli", "evidence", "verify", file, cwd=root)
    assert alone.stdout == module.stdout == command.stdout
    assert (alone.returncode, module.returncode, command.returncode) == (0, 0, 0)


def test_json_is_one_document_a_line_and_the_file_is_the_last(year: Year, capsys: pytest.CaptureFixture[str]) -> None:
    assert verifier.main([str(year.folder / "86.north.txt"), "--json"]) == 0
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["document"] for each in documents] == ["receipt"] * 4 + ["file"]
    assert documents[-1]["receipts"] == {"proved": 3, "partly": 0, "half": 1, "settled": 0, "wrong": 0}
    assert {each["verdict"] for each in documents[:-1]} == {"proved", "half"}
    assert all(each["proved"] for each in documents[:-1])


def test_one_receipt_is_told_in_detail(year: Year, capsys: pytest.CaptureFixture[str]) -> None:
    digest = year.made["lab"].digest.hex()  # type: ignore[attr-defined]
    file = str(year.folder / "86.north.txt")
    key = f"86.north={year.north.key.public.key_id}"
    assert verifier.main([file, "--receipt", digest[:12].upper(), "--key", key]) == 0
    said = capsys.readouterr().out
    for words in (
        f"receipt       {digest}",
        "signed by both: the owner 86.north with key",
        "the key of 86.north is the one that was confirmed with --key",
        "on trust:    key",
        "covers the object, the operation, the holder, the time and the purposes (academic-research)",
        "That nothing was left out",
        "times are by the clocks of those who signed",
    ):
        assert words in said
    assert verifier.main([file, "--receipt", "00ff"]) == 1
    assert "No receipt in this file begins with 00ff." in capsys.readouterr().out


def test_what_is_wrong_is_said_with_its_line_and_ends_with_6(
    year: Year, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray((year.folder / "86.north.txt").read_bytes())
    at = data.index(b'"kind":"grant"') + 60
    data[at] ^= 1
    (tmp_path / "altered").write_bytes(data)
    assert verifier.main([str(tmp_path / "altered")]) == 6
    line = data.count(b"\n", 0, at) + 1
    said = capsys.readouterr().out
    assert f"WRONG: line {line} (grant): it was altered" in said
    assert "do not rely on this file" in said
    assert verifier.main([str(tmp_path / "altered"), "--json"]) == 6
    documents = [json.loads(each) for each in capsys.readouterr().out.splitlines()]
    assert {"document": "problem", "line": line, "kind": "grant"}.items() <= next(
        each for each in documents if each["document"] == "problem"
    ).items()


def test_what_is_erased_missing_and_one_sides_word_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Year.begin(tmp_path) as made:
        told, record = ordinary(made), made.record("other")
        made.receipt(record, half=made.acme, delivery=bytes(16), unique_bytes=7)
        made.receipt(record, delivery=bytes(16), unique_bytes=8)
        made.receipt(record, record=bytes(32))
        made.evidence[made.acme.prefix].erase(0)
        made.export(made.acme, tmp_path / "file")
    assert verifier.main([str(tmp_path / "file")]) == 1
    said = capsys.readouterr().out
    for words in (
        "Erased: position 0 of the log, said to have been a request. Only that it was there is proved.",
        "Missing, says the exporter: record 86.north/other version 1: this home has not kept it",
        "Halves of deliveries that both signed for later: 1",
        "signed by both, and not all of it is proved",
        "Nothing is wrong, and not everything is proved.",
    ):
        assert words in said
    assert told["half"].digest.hex()[:16] not in said  # it is north's
    assert "\n\n\n" not in said


def test_a_file_that_is_not_there_is_no_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verifier.main([str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err


def test_a_key_that_is_none_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        verifier.main(["file", "--key", "86.north=12"])
    assert ended.value.code == 2
    assert "32 hexadecimal digits" in capsys.readouterr().err


def test_what_others_wrote_cannot_steer_a_terminal() -> None:
    assert verifier.safe("a\x1b[2Jb\u202ec\n") == "a\ufffd[2Jb\ufffdc\ufffd"


def test_its_own_words_are_those_of_the_agreement() -> None:
    assert (verifier.FORMAT, verifier.VERSION, verifier.BLOCK) == (lines.FORMAT, lines.VERSION, lines.BLOCK)
    assert (verifier.CLOCK_SKEW, verifier.GRANT_CHAIN) == (limits.CLOCK_SKEW, limits.GRANT_CHAIN)
    assert (verifier.ENVELOPE_BYTES, verifier.NOTE_BYTES) == (limits.ENVELOPE_BYTES, limits.NOTE_BYTES)
    assert set(verifier.TYPES.values()) <= {each.value for each in PayloadType}
