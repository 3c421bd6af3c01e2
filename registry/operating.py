"""What an operator does with a registry as a whole: wires its home with backups, files and other stores.

What it is not: the daemon, or what changes the league; both are in registry.app.
"""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hanse import transparency, wire
from hanse.errors import Conflict, HomeUnusable, InvalidInput, NotFound
from hanse.evidence.checkpoint import Checkpoint
from hanse.files import storage_errors, write_durably
from hanse.home import Home
from hanse.model.identifier import Prefix
from hanse.model.organization import Authority
from hanse.rpc import tls
from hanse.signing import SigningKey
from registry import app, copying, exporting, importing
from registry import backup as backups
from registry import config as settings
from registry.backup import Backup
from registry.config import Config
from registry.exporting import Written
from registry.importing import Verified
from registry.storage.base import Head
from registry.storage.sqlite import SqliteStorage
from registry.store import DATABASE, IN_FILE, VARIABLE, Store, Wanted


def backup(folder: Path, into: Path, clock: app.Clock = time.time) -> Backup:
    """A new backup in a folder of its own in ``into``, of a registry that serves or not."""
    with app.opened(folder, clock) as registry:
        league, now = registry.authority.fingerprint, int(clock())
        copied = None if isinstance(registry.storage, SqliteStorage) else lambda path: _copy(registry, path, now)
        return backups.make(registry.home, league, into, now, check=_holds_together, copied=copied)


def _copy(registry: app.Registry, path: Path, now: int) -> None:
    """A backup is a file whatever the store is: it can be tried out, and go back into either."""
    with registry.storage.reading() as source, closing(SqliteStorage(path)) as target:
        copying.copy(source, target, registry.authority, now)


def _holds_together(folder: Path) -> list[str]:
    return app.check(folder, in_file=True)


def restore(backup: Path, home: Path, store: Wanted = None, clock: app.Clock = time.time) -> Backup:
    """A new home of a backup, kept as its settings say, or in ``store``: a database, which must be empty, is filled.

    Raises NotFound, HomeInUse, WrongContent; AlreadyExists for a database with a registry in it.
    """

    def place(folder: Path, text: str) -> str:
        text, chosen = _placed(text, store, folder)
        if chosen is not None:
            authority = wire.decode_authority((folder / app.AUTHORITY).read_bytes())
            app.refuse_used(folder, chosen)
            with closing(SqliteStorage(folder / DATABASE)) as source, closing(chosen.open()) as target:
                copying.copy(source, target, authority, int(clock()))
            (folder / DATABASE).unlink()
        return text

    made = backups.read(backup)
    backups.copy_back(made, home, app.check, place)
    return made


def _placed(text: str, store: Wanted, folder: Path) -> tuple[str, Store | None]:
    """The settings with the store that is wanted, and that store; None is the file. Raises Conflict, HomeUnusable."""
    if store is not None:
        text = settings.with_store(text, None if store == IN_FILE else store.address)
    chosen = Store.chosen(settings.parse(text, str(folder / settings.MARKER)).store)
    if store == IN_FILE and chosen is not None:
        raise Conflict(f"{VARIABLE} names a store, and counts before what you ask for: unset it first")
    return text, chosen


def export(folder: Path, path: Path, clock: app.Clock = time.time) -> Written:
    """The registry as one file, of one that serves or not. Raises AlreadyExists."""
    with app.opened(folder, clock) as registry:
        return _write(registry, path)


def _write(registry: app.Registry, path: Path) -> Written:
    now = int(registry.clock())

    def sign(checkpoint: Checkpoint) -> str:
        return transparency.sign(checkpoint, registry.statements.key, now)

    with registry.storage.reading() as storage:
        return exporting.write(storage, registry.authority_bytes, registry.announced, sign, path, now)


def verify(path: Path, clock: app.Clock = time.time) -> Verified:
    """What a registry's file is proved to have; needs no home and no key. Raises NotFound, VerificationFailed."""
    with _opened(path) as file:
        return importing.verify(file, str(path), int(clock()))


def import_(path: Path, folder: Path, keys: Path, store: Wanted = None, clock: app.Clock = time.time) -> Verified:
    """A new home, with the keys of a backup or of another home, and its settings if it has any.

    ``store`` is another one than they name.
    Raises NotFound, AlreadyExists, HomeInUse, HomeUnusable, VerificationFailed.
    """
    with _opened(path) as file, backups.emptied_unless_done(folder):
        encoded, authority = importing.league_of(file, str(path))
        given = keys / settings.MARKER
        text = given.read_text() if given.exists() else Config(authority.display_name, authority.root).to_toml()
        text, chosen = _placed(text, store, keys)
        config = settings.parse(text, str(given))
        if chosen is not None:
            app.refuse_used(folder, chosen)
        home = Home.create(folder, settings.MARKER)
        for name, content in _keys(keys, authority).items():
            home.write_secret(name, content)
        storage = app.furnish(home, config, encoded)
        try:
            file.seek(0)
            verified = importing.fill(storage, file, str(path), int(clock()))
            if verified.registries:
                app.reach(storage, config, verified.registries)
        finally:
            storage.close()
        if verified.authority_bytes != encoded:
            raise Conflict(f"{path} was exchanged while it was read: try again")
        # Last: a home with this file is complete.
        write_durably(home / settings.MARKER, text.encode())
    return verified


def move(folder: Path, store: Store, clock: app.Clock = time.time) -> Head:
    """Moves the registry from the home's file to another store, and has the home use it.

    Raises Conflict, and what opening the store raises. Begun again after an error, it goes on.
    """
    with app.opened(folder, clock) as registry, _file_of(registry) as source, closing(store.open()) as target:
        if target.recall(app.LEAGUE) not in (None, registry.authority.fingerprint.hex()):
            raise Conflict("that store is another league's: take an empty one")
        source.moving = True
        head = copying.copy(source, target, registry.authority, int(clock()))
        path = registry.home / settings.MARKER
        write_durably(path, settings.with_store(path.read_text(), store.address).encode())
    return head


def stay(folder: Path) -> None:
    """Ends a move that was begun: the home's file takes new entries again. Raises Conflict after one that was done."""
    with app.opened(folder) as registry, _file_of(registry) as source:
        source.moving = False


@contextmanager
def _file_of(registry: app.Registry) -> Iterator[SqliteStorage]:
    if Store.chosen(registry.config.store) is not None:
        raise Conflict(f"{registry.home.folder} uses another store already than its {DATABASE}")
    with closing(SqliteStorage(registry.home / DATABASE)) as storage:
        yield storage


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if not path.is_file():
        raise NotFound(f"there is no file {path}")
    with storage_errors(str(path)), path.open("rb") as file:
        yield file


def _keys(folder: Path, authority: Authority) -> dict[str, bytes]:
    """By their names in a home. Raises HomeUnusable unless they are those of the league."""
    found = {name: Home(folder).read_secret(name) for name in (app.REGISTRY_KEY, app.CA_KEY)}
    if SigningKey.from_pem(found[app.REGISTRY_KEY]).public != authority.registry_key or not tls.is_key_of(
        tls.TlsKey.from_pem(found[app.CA_KEY]), authority.ca_certificate
    ):
        raise HomeUnusable(f"the keys in {folder} are not those of the league {authority.display_name!r}: take others")
    return found | {app.TLS_KEY: tls.TlsKey.generate().to_pem()}


@dataclass(frozen=True, slots=True)
class What:
    """What `restore` is asked for: the one that is not None."""

    prefix: Prefix | None
    backup: Path | None


def what_to_restore(text: str) -> What:
    """A member's prefix or a backup's folder. Raises InvalidInput, NotFound; Conflict when it may be either."""
    path = Path(text)
    try:
        prefix = Prefix.parse(text)
    except InvalidInput as error:
        if "/" not in text and not path.is_dir():
            raise InvalidInput(f"{error}; nor is there a backup's folder {text}") from None
        backups.read(path)
        return What(None, path)
    if (path / backups.FILE).exists():
        raise Conflict(
            f"{text} is a backup's folder here, and may be a member's prefix: write ./{text} for the folder, or run it "
            "from another folder"
        )
    return What(prefix, None)
