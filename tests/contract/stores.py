"""One process of several that write to one PostgreSQL: ``python -m tests.contract.stores DSN NAME``.

Four threads store records until a file ``NAME`` in the working folder is gone, each as a publisher does: again and
again until it is told that it is stored. What was acknowledged is printed, a line each. With ``newer`` after the name
it is a program of the next version of the schema.
"""

import random
import sys
import threading
from hashlib import sha256
from pathlib import Path

from hanse.errors import NoSpace, Overloaded
from registry.index import Document
from registry.storage import postgres_migrations
from registry.storage.base import NewRecord, Storage, Writing, transact
from registry.storage.postgres import PostgresStorage

THREADS = 4
SHARED = "86.north/shared"
NEXT_STEP = postgres_migrations.Step(1, "ALTER TABLE members ADD COLUMN IF NOT EXISTS nickname TEXT")


def new(key: str, version: int = 1, size: int = 500) -> NewRecord:
    """Of text that nobody can compress; who wrote it is in it."""
    content = f"{key} {version} {random.getrandbits(64)} ".encode() + random.randbytes(size)
    document = Document("heart trial", "", "", "", "xall")
    return NewRecord(key, version, sha256(content).digest(), 100, content, document)


def put(storage: Storage, records: list[NewRecord]) -> None:
    """Until they are stored, once."""

    def action(writing: Writing) -> None:
        known = writing.stored([each.key for each in records])
        writing.put_records([each for each in records if each.key not in known])

    while True:
        try:
            return transact(storage, action)
        except (Overloaded, NoSpace):
            continue


def put_next(storage: Storage) -> None:
    """The next version of the object that all write to."""

    def action(writing: Writing) -> None:
        stored = writing.stored([SHARED]).get(SHARED)
        writing.put_records([new(SHARED, stored.version + 1 if stored else 1)])

    transact(storage, action)


def run(storage: Storage, name: str, go_on: Path) -> None:
    count = 0
    chance = random.Random(name)
    while go_on.exists():
        records = [new(f"86.north/{name}.{count + at}") for at in range(chance.choice((1, 2, 30)))]
        count += len(records)
        put(storage, records)
        print("".join(f"{each.key} {each.digest.hex()}\n" for each in records), end="", flush=True)
        if chance.random() < 0.2:
            try:
                put_next(storage)
            except Overloaded:
                continue


def main(dsn: str, name: str, version: str = "") -> None:
    if version == "newer":
        postgres_migrations.STEPS += (NEXT_STEP,)
    storage = PostgresStorage(dsn)
    print("listening on it", flush=True)
    threads = [
        threading.Thread(target=run, args=(storage, f"{name}.{number}", Path(name))) for number in range(THREADS)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    storage.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
