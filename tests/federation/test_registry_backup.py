"""A registry is backed up while members publish, and comes back: whole, or not at all."""

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanse import merkle
from registry.storage.sqlite import SqliteStorage
from tests.breaking import small_disk
from tests.league import Member, Registry
from tests.processes import Result, run

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("registry-backup")]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry.start(tmp_path_factory.mktemp("backup") / "registry") as made:
        yield made


@pytest.fixture(scope="module")
def north(registry: Registry) -> Member:
    return registry.join("86.north")


def command(*arguments: object, code: int = 0) -> Result:
    result = run("registry.cli", *arguments)
    assert result.code == code, str(result)
    assert "Traceback" not in result.stderr
    return result


def log_of(home: Path) -> tuple[int, bytes, list[bytes]]:
    storage = SqliteStorage(home / "registry.db")
    try:
        head = storage.head()
        return head.size, head.root, [merkle.leaf_hash(each) for each in storage.leaves(0, head.size)]
    finally:
        storage.close()


@pytest.fixture(scope="module")
def backup(registry: Registry, north: Member, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Made while ``north`` published as fast as it could; ``before``: how much was done when it began."""
    acknowledged, ended = [], threading.Event()

    def publish() -> None:
        while not ended.is_set():
            number = len(acknowledged)
            outcomes = north.publish(*(north.record(f"{number}-{each}", title="trial") for each in range(20)))
            acknowledged.append([each.code for each in outcomes])

    publishing = threading.Thread(target=publish)
    publishing.start()
    while not acknowledged:
        assert publishing.is_alive()
    before = sum(map(len, acknowledged))
    folder = tmp_path_factory.mktemp("backups") / "nightly"
    made = command("backup", folder, "--home", registry.folder, "--json").json
    after = sum(map(len, acknowledged))
    ended.set()
    publishing.join()
    assert {code for each in acknowledged for code in each} == {1}
    assert after > before, "it served meanwhile"
    return made | {"before": before, "nightly": folder}


def test_given_a_registry_that_serves_when_backed_up_then_it_has_all_that_was_acknowledged_before(
    registry: Registry, backup: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(backup["folder"])
    assert folder.parent == backup["nightly"]
    assert [each.name for each in folder.parent.iterdir()] == [folder.name], "nothing partial is left"
    modes = {path.stat().st_mode & 0o777 for path in folder.rglob("*")} | {folder.stat().st_mode & 0o777}
    assert modes == {0o700, 0o600}
    told = command("restore", folder, "--home", tmp_path / "new").stdout
    assert f"{backup['entries']:,} entries" in told
    assert "rollback" in told
    size, root, _ = log_of(tmp_path / "new")
    assert (size, root.hex()) == (backup["entries"], backup["root"])
    assert size >= backup["before"]
    assert merkle.root(log_of(registry.folder)[2][:size]) == root, "the log that is served continues it"
    again = Registry(tmp_path / "new")
    again.serve()
    try:
        again.join("86.after")  # it can sign, certify and store
    finally:
        again.stop()
    command("check", "--home", tmp_path / "new")


def test_given_one_command_for_every_night_then_each_backup_is_another_folder(
    registry: Registry, backup: dict[str, Any]
) -> None:
    (backup["nightly"] / ".2026-01-01T000000Z.partial").mkdir()  # of one that was killed
    told = command("backup", backup["nightly"], "--home", registry.folder).stdout
    assert "restored and checked" in told
    assert len([*backup["nightly"].iterdir()]) == 2
    refused = command("restore", backup["nightly"], "--home", backup["nightly"] / "new", code=3).stderr
    assert f"the newest backup in it is {max(backup['nightly'].iterdir())}" in refused


def test_given_a_home_in_use_then_nothing_is_restored_into_it(registry: Registry, backup: dict[str, Any]) -> None:
    assert "is not empty" in command("restore", backup["folder"], "--home", registry.folder, code=7).stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("registry.db", "registry.db is not what was backed up"),
        ("keys/registry.pem", "registry.pem is not what was backed up"),
        ("registry.toml", "registry.toml is not what was backed up"),
        ("backup.json", "is damaged"),
    ],
)
def test_given_a_damaged_backup_then_it_is_refused_and_nothing_is_left(
    backup: dict[str, Any], tmp_path: Path, name: str, said: str
) -> None:
    shutil.copytree(backup["folder"], tmp_path / "damaged")
    content = bytearray((tmp_path / "damaged" / name).read_bytes())
    content[len(content) // 2 if name != "backup.json" else 0] ^= 1
    (tmp_path / "damaged" / name).write_bytes(content)
    refused = command("restore", tmp_path / "damaged", "--home", tmp_path / "new", code=6)
    assert said in refused.stderr
    assert not (tmp_path / "new").exists() or not any((tmp_path / "new").iterdir())


def test_given_a_backup_whose_log_was_exchanged_then_its_checks_find_it(backup: dict[str, Any], tmp_path: Path) -> None:
    """Digests and all were made to fit: what was signed does not."""
    folder = tmp_path / "forged"
    shutil.copytree(backup["folder"], folder)
    facts = json.loads((folder / "backup.json").read_text())
    facts["entries"] -= 1
    (folder / "backup.json").write_text(json.dumps(facts))
    refused = command("restore", folder, "--home", tmp_path / "new", code=6).stderr
    assert "is not the one that backup.json names" in refused


def test_given_a_folder_of_a_members_name_then_what_to_restore_is_asked(
    registry: Registry, backup: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from registry.cli import main

    shutil.copytree(backup["folder"], tmp_path / "86.north")
    monkeypatch.chdir(tmp_path)
    invoke = CliRunner().invoke
    refused = invoke(main, ["restore", "86.north", "--home", str(registry.folder)])
    assert refused.exit_code == 7
    assert "write ./86.north for the folder" in refused.stderr
    assert invoke(main, ["restore", "./86.north", "--home", str(tmp_path / "new")]).exit_code == 0
    assert invoke(main, ["restore", "no prefix", "--home", str(tmp_path / "new2")]).exit_code == 2
    assert invoke(main, ["restore", "86.south", "--home", str(registry.folder)]).exit_code == 3
    command("suspend", "86.north", "--home", registry.folder)
    assert "good standing" in command("restore", "86.north", "--home", registry.folder).stdout


def test_given_a_full_disk_then_there_is_no_backup_and_those_before_stay(
    registry: Registry, backup: dict[str, Any], tmp_path: Path
) -> None:
    size = backup["bytes"]
    (tmp_path / "disk").mkdir()
    for room in (size // 2, size + size // 2):  # in the middle of the copy; when it is tried out
        with small_disk(tmp_path / "disk", room) as disk:
            refused = command("backup", disk.folder / "b", "--home", registry.folder, code=1)
            assert "no space left" in refused.stderr
            assert [*(disk.folder / "b").iterdir()] == []
