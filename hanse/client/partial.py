"""Where a fetch writes until it is complete: a folder ``.NAME.hanse-partial`` beside the target, with mode 0700.

It holds the journal and the data; the data is renamed to the target when all of it is verified and durable.
The rules it keeps: nothing is written outside of it; nothing that exists under the target's name is replaced.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import threading
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from hanse.client.durable import rename_new, sync_filesystem
from hanse.client.journal import Journal
from hanse.errors import Conflict, HomeInUse, InvalidInput, NoSpace
from hanse.files import storage_errors, sync_folder
from hanse.model.manifest import Element

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_KEEP = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_EMPTY = _KEEP | os.O_TRUNC
_NAME_BYTES = 220  # leaves room for what is put around it within 255 bytes
_SINGLE = "content"
_SLACK = 1 << 20  # bytes of metadata


def partial_path(target: Path) -> Path:
    """Where a fetch to ``target`` writes."""
    name = target.name
    if len(os.fsencode(name)) > _NAME_BYTES:
        name = sha256(os.fsencode(name)).hexdigest()
    return target.with_name(f".{name}.hanse-partial")


class Place(Protocol):
    """Where a fetch writes until it is complete; one process at a time. ``finish`` makes all durable, then visible.

    What was ``create``d and ``written`` is there when it is ``open``ed again, after a kill too. To be closed.
    """

    target: Path
    journal: Journal

    def need(self, length: int, elements: int) -> None:
        """That so many more bytes have room. Raises NoSpace."""

    def create(self, index: int, element: Element, *, empty: bool = False) -> int:
        """A descriptor to write an element with, ``empty`` or as it was left. ``index``: position in the manifest."""

    def open(self, index: int, element: Element) -> int | None:
        """A descriptor of what is there of an element, None if nothing is."""

    def sealed(self, index: int, pieces: Sequence[memoryview], offset: int) -> Sequence[memoryview]:
        """Verified bytes as they are to lie on the disk."""

    def opened(self, index: int, data: memoryview, offset: int) -> None:
        """Makes what was read from the disk, in place, what it was before."""

    def keep_leaves(self, index: int, leaves: bytes) -> None:
        """The verified leaf hashes of a large element's chunks, for reading parts of it later."""

    def date(self, descriptor: int, element: Element) -> None:
        """An element is complete."""

    def finish(self) -> None: ...

    def close(self) -> None: ...


class Partial:
    """A ``Place`` on the way to files that anybody can read: of one fetch; one process at a time. To be closed."""

    def __init__(self, target: Path, name: bytes, *, single: bool) -> None:
        """``name`` (32 bytes) says what is fetched: what was begun of anything else is removed.

        Raises InvalidInput, HomeUnusable, Conflict, HomeInUse.
        """
        self.target = target
        self._single = single
        self._folder = partial_path(target)
        if not target.parent.is_dir():
            raise InvalidInput(f"{target.parent} is not a folder: make it first, or choose another place with -o")
        with storage_errors(str(target)):
            self._lock = self._enter()
            try:
                journal = Journal.open(self._folder / "journal", name)
                if journal is None:
                    self._empty()
                    journal = Journal.open(self._folder / "journal", name)
                assert journal is not None  # noqa: S101 - it was made anew
                self.journal = journal
                (self._folder / "data").mkdir(mode=0o777, exist_ok=True)
                self._data = os.open(self._folder / "data", _FOLDER)
                self._near = threading.local()
                self._folders: set[int] = set()
            except BaseException:
                os.close(self._lock)
                raise

    def need(self, length: int, elements: int) -> None:
        """That so many more bytes have room. Raises NoSpace."""
        room = os.statvfs(self._folder)
        needed, free = length + elements * 512 + _SLACK, room.f_bavail * room.f_frsize
        if needed > free:
            raise NoSpace(
                f"{self.target} needs {needed / 1e6:,.0f} MB and the disk has {free / 1e6:,.0f} MB free: "
                "free some, or choose another place with -o"
            )

    def create(self, index: int, element: Element, *, empty: bool = False) -> int:  # noqa: ARG002 - a Place's
        """As a Place does; its folders are made."""
        folder, name = self._place(element)
        mode = 0o777 if element.executable else 0o666
        return os.open(name, _EMPTY if empty else _KEEP, mode, dir_fd=self._inside(folder, make=True))

    def open(self, index: int, element: Element) -> int | None:  # noqa: ARG002 - a Place's
        folder, name = self._place(element)
        try:
            return os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._inside(folder, make=False))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sealed(self, index: int, pieces: Sequence[memoryview], offset: int) -> Sequence[memoryview]:  # noqa: ARG002
        return pieces

    def opened(self, index: int, data: memoryview, offset: int) -> None:
        pass

    def keep_leaves(self, index: int, leaves: bytes) -> None:
        pass

    def date(self, descriptor: int, element: Element) -> None:
        """The modification time of the manifest."""
        try:  # noqa: SIM105 - contextlib.suppress costs a microsecond for each of many files
            os.utime(descriptor, ns=(element.modified_ns, element.modified_ns))
        except OverflowError:
            pass  # a time that no disk can hold is no reason to fail

    def finish(self) -> None:
        """Makes all durable, then visible. Raises Conflict when something has appeared at the target meanwhile."""
        with storage_errors(str(self.target)):
            source = self._folder / "data"
            if self._single:
                source /= _SINGLE
                descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            else:
                sync_filesystem(source)
            try:
                rename_new(source, self.target)
            except FileExistsError:
                raise Conflict(
                    f"{self.target} appeared while it was fetched: move it away and run it again; nothing is sent twice"
                ) from None
            sync_folder(self.target.parent)
        self.discard()

    def discard(self) -> None:
        with storage_errors(str(self._folder)):
            shutil.rmtree(self._folder)

    def close(self) -> None:
        self.journal.close()
        for descriptor in self._folders:
            os.close(descriptor)
        os.close(self._data)
        os.close(self._lock)

    def _enter(self) -> int:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(self._folder, _FOLDER)
        try:
            found = os.fstat(lock)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
                raise Conflict(f"{self._folder} is not this user's own: remove it, or choose another place with -o")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HomeInUse(f"another process is fetching to {self.target}: wait for it") from None
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _empty(self) -> None:
        for entry in os.scandir(self._folder):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)

    def _place(self, element: Element) -> tuple[str, str]:
        folder, _, name = (_SINGLE if self._single else element.name.text).rpartition("/")
        return folder, name

    def _inside(self, folder: str, *, make: bool) -> int:
        """A descriptor of a folder of the data, reached without following a link on the way.

        Each thread keeps the one that it was in last: the next file is usually there too.
        """
        if not folder:
            return self._data
        near = self._near
        if getattr(near, "folder", None) == folder:
            return int(near.descriptor)
        at = self._data
        try:
            for part in folder.split("/"):
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o777, dir_fd=at)
                above, at = at, os.open(part, _FOLDER, dir_fd=at)
                if above != self._data:
                    os.close(above)
        except BaseException:
            if at != self._data:
                os.close(at)
            raise
        if getattr(near, "folder", None) is not None:
            self._folders.discard(near.descriptor)
            os.close(near.descriptor)
        near.folder, near.descriptor = folder, at
        self._folders.add(at)
        return at


def remove_leftover(target: Path) -> None:
    """Of a fetch that was killed between making the target visible and cleaning up."""
    shutil.rmtree(partial_path(target), ignore_errors=True)
