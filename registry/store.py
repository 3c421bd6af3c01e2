"""Where a registry keeps its records: in a file of its home, or in a PostgreSQL that several processes share.

A password is in no file of ours and no error: libpq finds it where it always does (PGPASSWORD, ~/.pgpass, a service
file), or the whole address comes from the environment, HANSE_REGISTRY_STORE, which counts before the configured one.

    Store.parse("postgresql://registry@db.example.org/registry").open()
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.parse import parse_qs

from hanse.errors import HomeUnusable, InvalidInput
from registry.storage.base import Storage
from registry.storage.sqlite import SqliteStorage

IN_FILE: Final = "file"  # what is told instead of an address
VARIABLE = "HANSE_REGISTRY_STORE"
DATABASE = "registry.db"
_SCHEMES = ("postgresql://", "postgres://")
_FORM = "postgresql://USER@HOST[:PORT][,HOST…]/DATABASE"


@dataclass(frozen=True, slots=True)
class Store:
    """The address of a PostgreSQL. repr() does not show it: one from the environment may have a password."""

    address: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "Store":
        """One that may be written down. Raises InvalidInput, which never repeats it."""
        store = cls.told(text)
        authority, _, query = text.partition("://")[2].partition("?")
        user, at, _ = authority.rpartition("@")
        if (at and ":" in user) or "password" in parse_qs(query):
            raise InvalidInput(
                f"the store's address has a password in it: leave it out, and give it in PGPASSWORD, in ~/.pgpass, or "
                f"with the whole address in the variable {VARIABLE}"
            )
        return store

    @classmethod
    def told(cls, text: str) -> "Store":
        """One that is not written down. Raises InvalidInput, which never repeats it."""
        if not text.startswith(_SCHEMES):
            raise InvalidInput(f"the store is no address of a PostgreSQL: write {_FORM}")
        return cls(text)

    @classmethod
    def chosen(cls, configured: "Store | None") -> "Store | None":
        """What the environment says, else what is configured. Raises HomeUnusable."""
        text = os.environ.get(VARIABLE)
        if not text:
            return configured
        try:
            return cls.told(text)
        except InvalidInput as error:
            raise HomeUnusable(f"{VARIABLE}: {error}") from None

    def open(self) -> Storage:
        """Closed by the caller. Raises HomeUnusable, with the way out, Overloaded, NoSpace, StorageFailed."""
        try:
            from registry.storage.postgres import PostgresStorage
        except ImportError:
            raise HomeUnusable("a store in PostgreSQL needs the extra: pip install 'hanse[postgres]'") from None
        return PostgresStorage(self.address)


Wanted = Store | Literal["file"] | None
"""Where somebody wants a registry to be kept, if not as its settings say."""


def open_storage(folder: Path, configured: Store | None) -> Storage:
    """Of a registry's home. Closed by the caller; raises what its opening raises."""
    store = Store.chosen(configured)
    return SqliteStorage(folder / DATABASE) if store is None else store.open()
