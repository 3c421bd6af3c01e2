"""Backups of a registry's home: made while it serves, tried out before they are called one, never half.

A folder of backups has one folder a backup, named by the time (UTC): a job that runs every night calls the same command
and overwrites nothing. What is being written has a name with a dot before it and ".partial" after, and gets its own
when all of it is on the disk and was restored once into a folder beside it.

    made = make(home, fingerprint, Path("/backups"), now, check=problems_of)
    copy_back(made, Path("/var/lib/hanse/registry-2"), problems_of)

What it is not: encrypted. A backup holds the league's keys.
"""

import contextlib
import datetime
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from hashlib import file_digest, sha256
from pathlib import Path, PurePosixPath

import hanse
from hanse.errors import HomeInUse, HomeUnusable, NotFound, WrongContent
from hanse.files import storage_errors, sync_folder, write_durably
from hanse.home import Home
from registry import config as settings
from registry.storage import snapshot
from registry.storage.base import Head
from registry.store import DATABASE

FILE = "backup.json"
FORMAT = 1
_PARTIAL = ".partial"
_PLACING = f".{settings.MARKER}{_PARTIAL}"
_AT_ONCE = 1 << 20
_LEFT_OUT = ("lock",)
_ALTERED = "{} is not what was backed up: it was altered or damaged; take another backup"
_BESIDE = re.compile(r"\.db-(wal|shm|journal)$")  # is in the copy of the database


@dataclass(frozen=True, slots=True)
class Kept:
    """One file of a backup."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Backup:
    """What ``backup.json`` says. ``made_at`` is Unix seconds; ``files`` are by their names in the home."""

    folder: Path
    made_at: int
    program: str
    league: str
    schema: int
    entries: int
    root: str
    files: dict[str, Kept]

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(each.bytes for each in self.files.values())

    @property
    def made(self) -> str:
        """When, in UTC, for people."""
        return f"{datetime.datetime.fromtimestamp(self.made_at, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"

    def to_json(self) -> str:
        facts = asdict(self) | {"format": FORMAT}
        del facts["folder"]
        return json.dumps(facts, indent=1, ensure_ascii=False) + "\n"


def make(
    home: Home,
    league: bytes,
    into: Path,
    now: int,
    *,
    check: Callable[[Path], list[str]],
    copied: Callable[[Path], None] | None = None,
) -> Backup:
    """A new backup in the folder ``into``. ``check`` says what is wrong with a home: it is asked about a restored copy.

    ``copied`` makes the file of the database, for a registry whose store is not in its home.

    Raises HomeInUse, HomeUnusable, NoSpace, StorageFailed, WrongContent; then there is no new backup.
    """
    with storage_errors(str(into)):
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(into):
            for left in into.glob(f".*{_PARTIAL}"):  # of one that was killed
                shutil.rmtree(left)
            folder = _unused(into, now)
            partial, tried = (into / f".{folder.name}{each}{_PARTIAL}" for each in ("", ".tried"))
            try:
                partial.mkdir(mode=0o700)
                made = _filled(home, league, partial, now, copied)
                copy_back(made, tried, check)
                partial.rename(folder)
                sync_folder(into)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            finally:
                shutil.rmtree(tried, ignore_errors=True)
    return replace(made, folder=folder)


@contextlib.contextmanager
def _alone(into: Path) -> Iterator[None]:
    descriptor = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeInUse(
                f"another backup is being written to {into}: wait for it, or choose another folder"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _unused(into: Path, now: int) -> Path:
    while True:
        folder = into / f"{datetime.datetime.fromtimestamp(now, datetime.UTC):%Y-%m-%dT%H%M%SZ}"
        if not folder.exists():
            return folder
        now += 1  # two within one second


def _filled(home: Home, league: bytes, folder: Path, now: int, copied: Callable[[Path], None] | None) -> Backup:
    schema, head = 0, Head(0, b"")
    for path in sorted(home.folder.rglob("*")):
        name = path.relative_to(home.folder)
        if not path.is_file() or name.name.startswith(".") or name.name in _LEFT_OUT or _BESIDE.search(name.name):
            continue
        if copied is not None and str(name) == DATABASE:
            continue  # from before it moved to another store
        target = folder / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if target.suffix == ".db":
            snapshot.copy(path, target)
            if str(name) == DATABASE:
                snapshot.take_writes(target)
        else:
            write_durably(target, path.read_bytes())
    if copied is not None:
        copied(folder / DATABASE)
    if (folder / DATABASE).exists():
        schema, head = snapshot.describe(folder / DATABASE)
    files = {
        str(path.relative_to(folder)): Kept(path.stat().st_size, _digest(path))
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip
    for each in {path.parent for path in (folder / name for name in files)}:
        sync_folder(each)
    made = Backup(folder, now, hanse.__version__, league.hex(), schema, head.size, head.root.hex(), files)
    write_durably(folder / FILE, made.to_json().encode())  # last: a folder without it is no backup
    return made


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def read(folder: Path) -> Backup:
    """What a backup says of itself. Raises NotFound, WrongContent."""
    path = folder / FILE
    if not path.is_file():
        newest = max((each.parent.name for each in folder.glob(f"[!.]*/{FILE}")), default="")
        hint = f"; the newest backup in it is {folder / newest}" if newest else ""
        raise NotFound(f"{folder} is no backup: there is no {FILE} in it{hint}")
    with storage_errors(str(path)):
        content = path.read_bytes()
    try:
        facts = json.loads(content)
        if facts.pop("format") != FORMAT:
            raise HomeUnusable(f"{path} was written by another version of hanse-registry: restore it with that one")
        files = {name: Kept(**each) for name, each in facts.pop("files").items()}
        made = Backup(folder=folder, files=files, **facts)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise WrongContent(f"{path} is damaged: take another backup") from None
    for name in files:
        if PurePosixPath(name).is_absolute() or not {".", ".."}.isdisjoint(PurePosixPath(name).parts):
            raise WrongContent(f"{path} names a file outside: take another backup")
    return made


def copy_back(
    made: Backup, into: Path, check: Callable[[Path], list[str]], place: Callable[[Path, str], str] | None = None
) -> None:
    """Makes the home ``into``, which is new or empty, of a backup; what is there after an error is no home.

    ``place`` may put the database elsewhere; it is given the settings, and says what they are then.
    Raises HomeInUse, NoSpace, StorageFailed, WrongContent.
    """
    with emptied_unless_done(into):
        for name, kept in made.files.items():
            if name != settings.MARKER:
                _copy(made.folder / name, into / name, kept)
        _expect_log(made, into)
        marker, read = into / settings.MARKER, into / _PLACING
        _copy(made.folder / settings.MARKER, read, made.files[settings.MARKER])
        if place is not None:
            write_durably(read, place(into, read.read_text()).encode())
        read.rename(marker)  # last: a home with this file is complete
        sync_folder(into)
        problems = check(into)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise WrongContent(f"what was restored does not hold together, and was removed: {problems[0]}{more}")


@contextlib.contextmanager
def emptied_unless_done(home: Path) -> Iterator[None]:
    """A folder for a new home, empty again after an error. Raises HomeInUse unless it is new or empty."""
    with storage_errors(str(home)):
        if home.exists() and any(home.iterdir()):
            raise HomeInUse(f"{home} is not empty: a new home is made in a new folder; choose another --home")
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
        try:
            yield
        except BaseException:
            for each in home.iterdir():
                shutil.rmtree(each) if each.is_dir() else each.unlink()
            raise


def _expect_log(made: Backup, into: Path) -> None:
    if not (into / DATABASE).exists():
        return
    schema, head = snapshot.describe(into / DATABASE)
    if (schema, head.size, head.root.hex()) != (made.schema, made.entries, made.root):
        raise WrongContent(
            f"{made.folder}: the log in {DATABASE} is not the one that {FILE} names: take another backup"
        )


def _copy(source: Path, target: Path, kept: Kept) -> None:
    """Raises WrongContent unless it is what was kept."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest = sha256()
    try:
        with source.open("rb") as read, target.open("xb") as write:
            os.fchmod(write.fileno(), 0o600)
            while part := read.read(_AT_ONCE):
                digest.update(part)
                write.write(part)
            write.flush()
            os.fsync(write.fileno())
    except FileNotFoundError:
        raise WrongContent(f"{source} is missing in the backup: take another one") from None
    if digest.hexdigest() != kept.sha256:
        raise WrongContent(_ALTERED.format(source))
    sync_folder(target.parent)
