"""System calls that Python has no names for: one sync for many files, early write-back, a rename that never replaces.

Each falls back to what every POSIX system has.
"""

import ctypes
import errno
import os
import queue
import threading
from pathlib import Path

_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_SYNC_FILE_RANGE_WRITE = 2

try:
    _libc: ctypes.CDLL | None = ctypes.CDLL(None, use_errno=True)
except OSError:
    _libc = None


def sync_filesystem(folder: Path) -> None:
    """All that was written on the file system of ``folder`` is on the disk: one call instead of one a file."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call = getattr(_libc, "syncfs", None)
        if call is None:
            os.sync()
        elif call(descriptor) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(descriptor)


def rename_new(source: Path, target: Path) -> None:
    """Renames, unless there is something under the new name: then FileExistsError. An empty folder gives way."""
    call = getattr(_libc, "renameat2", None)
    if call is not None:
        if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in (errno.ENOSYS, errno.EINVAL, errno.EEXIST):
            raise OSError(number, os.strerror(number), str(target))
    if source.is_dir() or not os.path.lexists(target):
        try:
            source.rename(target)  # of a folder: fails unless the target is missing or an empty folder
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOTDIR):
                raise
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


class WriteBack:
    """Has written ranges brought to the disk in the background, so that the sync at the end is short."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._queue: queue.SimpleQueue[tuple[int, int, int] | None] = queue.SimpleQueue()
        self._call = getattr(_libc, "sync_file_range", None)
        self._thread = threading.Thread(target=self._run, name="hanse-write-back", daemon=True)
        self._thread.start()

    def wrote(self, descriptor: int, offset: int, length: int, pending: int) -> int:
        """Notes that ``length`` bytes up to ``offset + length`` were written; gives back what has gathered."""
        pending += length
        if pending < self._every:
            return pending
        end = offset + length
        self._queue.put((os.dup(descriptor), max(0, end - pending), pending))
        return 0

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            descriptor, offset, length = item
            try:
                if self._call is not None:
                    self._call(
                        descriptor,
                        ctypes.c_int64(offset),
                        ctypes.c_int64(length),
                        ctypes.c_uint(_SYNC_FILE_RANGE_WRITE),
                    )
                else:
                    os.fdatasync(descriptor)
            except OSError:
                pass  # the sync at the end reports what is lasting
            finally:
                os.close(descriptor)
