"""The vault's keys: one file of 32 random bytes a lease, mode 0600, in N/vault/keys. Nothing else lies in that folder.

The rule it keeps: the bytes of a key are on the disk under its final name or not at all, so that there is one place
to destroy them in; therefore no temporary file. A file that was cut off by a power cut is no key.

    make(folder, name); read(folder, name); destroy(folder, name)
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from hanse.files import storage_errors, sync_folder
from hanse.sealing import KEY_BYTES, new_key

_WRITE = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW


def new_name() -> str:
    """Of a key, and of the folder of what is sealed with it."""
    return secrets.token_hex(16)


def make(folder: Path, name: str) -> bytes:
    """A new key, durable before it is given."""
    key = new_key()
    with storage_errors("the vault's key"):
        descriptor = os.open(folder / name, _WRITE | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, key)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(folder)
    return key


def read(folder: Path, name: str) -> bytes | None:
    """None if there is no such key any more."""
    with storage_errors("the vault's key"):
        try:
            key = (folder / name).read_bytes()
        except FileNotFoundError:
            return None
    return key if len(key) == KEY_BYTES else None


def exists(folder: Path, name: str) -> bool:
    """Whether it may still be read."""
    return (folder / name).exists()


def destroy(folder: Path, name: str) -> None:
    """Overwrites and removes it; returns when both are durable. Again does no harm."""
    with storage_errors("the vault's key"):
        with contextlib.suppress(FileNotFoundError):
            if not (folder / name).is_symlink():  # what somebody else's link leads to is not ours
                _overwrite(folder / name)
            os.unlink(folder / name)
        sync_folder(folder)


def _overwrite(path: Path) -> None:
    descriptor = os.open(path, _WRITE)
    try:
        for data in (secrets.token_bytes(KEY_BYTES), bytes(KEY_BYTES)):
            os.pwrite(descriptor, data, 0)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def names(folder: Path) -> Iterator[str]:
    """Of all that are there."""
    with storage_errors("the vault's keys"), contextlib.suppress(FileNotFoundError):
        yield from os.listdir(folder)
