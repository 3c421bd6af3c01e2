"""Opening elements for peers: only while they are what was promised, and only inside their source.

Every step of the way is opened without following links, and the file's fingerprint must be the one under which
it was hashed, both when it is opened and after it was read. Nothing here names a path in an error: peers read it.

    with Opener(source) as opener:
        with opener.open(name, fingerprint) as element:
            element.read_into(view, offset)
            element.check()
"""

import errno
import os
import stat
from collections import OrderedDict
from typing import NoReturn

from hanse.errors import Overloaded, SourceChanged, StorageFailed
from node.sources.fingerprint import Fingerprint
from node.sources.source import Source
from node.sources.walking import FILE_FLAGS, OpenFolder, open_folder, resolve_link

FOLDERS = 32  # kept open by one Opener: neighbours in a manifest share theirs


def _changed() -> NoReturn:
    raise SourceChanged("the data is not what it was when this version was made; its owner can `hanse refresh` it")


def _failed(error: OSError) -> NoReturn:
    """Raises what a peer may know of a failure: not where it was."""
    match error.errno:
        case errno.EMFILE | errno.ENFILE | errno.ENOMEM:
            raise Overloaded("the node has too many files open: try again later") from error
        case errno.EIO:
            raise StorageFailed(
                "the disk that holds the data failed; its owner can find out with `hanse check`"
            ) from error
    raise SourceChanged(
        "the data cannot be read any more where it was when this version was made; its owner can `hanse check` it"
    ) from error


class OpenElement:
    """An open file that was as promised when it was opened. Close it. Several threads may read from it."""

    __slots__ = ("_expected", "_fd", "length")

    def __init__(self, fd: int, expected: Fingerprint) -> None:
        self._fd = fd
        self._expected = expected
        self.length = expected.size

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fills the whole view from ``offset`` bytes on. Raises SourceChanged if there is less."""
        try:
            while view:
                count = os.preadv(self._fd, [view], offset)
                if count == 0:
                    _changed()
                view, offset = view[count:], offset + count
        except OSError as error:
            _failed(error)

    def unchanged(self) -> bool:
        """Whether everything that was read since it was opened is as promised."""
        return Fingerprint.of(os.fstat(self._fd)) == self._expected

    def check(self) -> None:
        """Raises SourceChanged unless ``unchanged``."""
        if not self.unchanged():
            _changed()

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> "OpenElement":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Opener:
    """Opens elements of one source, for one stream: it is not shared by threads. Close it."""

    def __init__(self, source: Source) -> None:
        self._root = os.fsdecode(source.folder)
        self._folders: OrderedDict[str, OpenFolder] = OrderedDict()

    def open(self, name: str, expected: Fingerprint) -> OpenElement:
        """Raises SourceChanged: gone, replaced, or written to since it was hashed."""
        fd = self._open(name, expected)
        return OpenElement(fd, expected)

    def read(self, name: str, expected: Fingerprint, view: memoryview) -> None:
        """The whole of a short element, into a view of exactly its length. Raises SourceChanged."""
        fd = self._open(name, expected)
        try:
            done = os.readv(fd, [view]) if view else 0
            while done < len(view):
                count = os.readv(fd, [view[done:]])
                if count == 0:
                    _changed()
                done += count
            if Fingerprint.of(os.fstat(fd)) != expected:
                _changed()
        except OSError as error:
            _failed(error)
        finally:
            os.close(fd)

    def _open(self, name: str, expected: Fingerprint) -> int:
        above, _, base = name.rpartition("/")
        try:
            try:
                fd = os.open(base, FILE_FLAGS, dir_fd=self._folder(above).fd)
            except OSError as error:
                # A link inside the folder, perhaps: SPEC.md section 8.1.
                target = resolve_link(self._root, name) if error.errno == errno.ELOOP else None
                if target is None:
                    raise
                above, _, base = target.rpartition("/")
                folder = OpenFolder(open_folder(self._root, above))
                fd = os.open(base, FILE_FLAGS, dir_fd=folder.fd)
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode) or Fingerprint.of(status) != expected:
                    _changed()
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            _failed(error)
        return fd

    def _folder(self, above: str) -> OpenFolder:
        try:
            folder = self._folders[above]
            self._folders.move_to_end(above)
        except KeyError:
            folder = self._folders[above] = OpenFolder(open_folder(self._root, above))
            if len(self._folders) > FOLDERS:
                self._folders.popitem(last=False)
        return folder

    def close(self) -> None:
        self._folders.clear()

    def __enter__(self) -> "Opener":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
