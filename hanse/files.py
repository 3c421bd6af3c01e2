"""Files that must survive a power cut: written whole under a temporary name, synced, renamed.

The rule it keeps: under its final name a file is either what it was or all that it is to be.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from hanse.errors import HomeUnusable, NoSpace, StorageFailed


@contextlib.contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turns an OSError into the error that says what happened to ``what`` and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"no space left on the disk of {what}: free some, then run it again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise HomeUnusable(f"{what} cannot be used: {error.strerror}. Check its owner and mode") from error
        raise StorageFailed(f"{what} failed: {error.strerror or error}") from error


def write_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replaces a file atomically. Raises NoSpace, HomeUnusable, StorageFailed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(str(path)):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(data)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Waits until nobody else, in this or another process, is inside with the same file. It ends with the process."""
    with storage_errors(str(lock)):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
