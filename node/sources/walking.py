"""What is in a file or folder, in the order of a manifest: names compared as UTF-8 bytes.

It never leaves the folder: every folder is opened from the descriptor of the one above, without following links.

What becomes an element (SPEC.md section 8.1):
- every regular file, hidden ones too;
- a symbolic link to a regular file inside the folder, with the bytes of that file.
What is refused, by an error that names it to the owner: a link that leaves the folder, leads nowhere or leads to a
folder; sockets, pipes and devices; what cannot be read; names that cannot be written on every common file system,
and two names that some file system takes for one.
Empty folders are no elements; they are counted, and ``add`` says how many there were.

    with Walk(Source.of(path)) as walk:
        for found in walk: ...
"""

import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple, NoReturn

from hanse import limits
from hanse.errors import HanseError, InvalidInput, LimitExceeded, SourceChanged
from hanse.model.manifest import ElementName
from node.sources.source import Source, SourceKind

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a pipe that took a file's place does not hold us up.
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class OpenFolder:
    """The descriptor of a folder; closed when nobody holds it any more."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Found(NamedTuple):
    """A file: its name as an element, and how to open it: ``base`` in ``folder``."""

    name: ElementName
    folder: OpenFolder
    base: str

    def open(self) -> int:
        """A descriptor. Raises OSError."""
        return os.open(self.base, FILE_FLAGS, dir_fd=self.folder.fd)

    def status(self) -> os.stat_result:
        """Raises OSError."""
        return os.stat(self.base, dir_fd=self.folder.fd, follow_symlinks=False)


class Walk:
    """Passes over a source, one at a time. ``empty_folders`` is that of the last, when it is over."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._root = os.fsdecode(source.folder)
        self.empty_folders = 0

    def __iter__(self) -> Iterator[Found]:
        """Raises InvalidInput, SourceChanged, LimitExceeded."""
        self.empty_folders = 0
        try:
            top = OpenFolder(os.open(self._source.folder, FOLDER_FLAGS))
        except OSError as error:
            unreadable(self._root, error)
        if self._source.kind is SourceKind.FILE:
            yield Found(self._name(self._source.path.name), top, self._source.path.name)
        else:
            yield from self._folder(top, "", 0)

    def measure(self) -> tuple[int, int]:
        """About how many bytes in how many files there are: for a progress bar, before the pass."""
        if self._source.kind is SourceKind.FILE:
            try:
                return self._source.path.stat().st_size, 1
            except OSError:
                return 0, 1
        size = files = 0
        folders = [self._root]
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
                        else:
                            size += entry.stat(follow_symlinks=False).st_size
                            files += 1
            except OSError:  # the pass itself will say so
                continue
        return size, files

    def where(self, name: str) -> str:
        """The path of an element, for messages to the owner."""
        return os.path.join(self._root, name).encode(errors="backslashreplace").decode()

    def _name(self, text: str) -> ElementName:
        try:
            return ElementName.parse(text)
        except InvalidInput as error:
            raise type(error)(f"{self.where(text)} cannot be wrapped: {error}. Rename it") from None

    def _folder(self, folder: OpenFolder, above: str, depth: int) -> Iterator[Found]:
        if depth > limits.FOLDER_DEPTH:
            raise LimitExceeded(f"{self.where(above)} is nested deeper than {limits.FOLDER_DEPTH} folders")
        entries = self._entries(folder, above)
        if not entries and above:
            self.empty_folders += 1
        # A folder sorts as what its elements begin with: "a-b" < "a/c" < "a0".
        for text, kind in sorted(entries):
            if kind == stat.S_IFREG:
                yield Found(self._name(above + text), folder, text)
            elif kind == stat.S_IFLNK:
                yield self._link(above + text)
            else:
                try:
                    inner = OpenFolder(os.open(text[:-1], FOLDER_FLAGS, dir_fd=folder.fd))
                except OSError as error:
                    unreadable(self.where(above + text), error)
                yield from self._folder(inner, above + text, depth + 1)

    def _entries(self, folder: OpenFolder, above: str) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        folds: dict[str, str] = {}
        try:
            with os.scandir(folder.fd) as entries:
                for entry in entries:
                    text = entry.name
                    fold = text.lower() if text.isascii() else _fold(text)
                    if folds.setdefault(fold, text) is not text:
                        raise InvalidInput(
                            f"{self.where(above + text)} and {self.where(above + folds[fold])} have names that some "
                            "file systems take for one: rename one of them"
                        )
                    if entry.is_symlink():
                        found.append((text, stat.S_IFLNK))
                    elif entry.is_file(follow_symlinks=False):
                        found.append((text, stat.S_IFREG))
                    elif entry.is_dir(follow_symlinks=False):
                        found.append((text + "/", stat.S_IFDIR))
                    else:
                        raise InvalidInput(
                            f"{self.where(above + text)} is a socket, a pipe or a device, so it has no bytes to "
                            "wrap: move it out of the folder"
                        )
        except OSError as error:
            unreadable(self.where(above), error)
        return found

    def _link(self, text: str) -> Found:
        name = self._name(text)
        target = resolve_link(self._root, name.text)
        if target is None:
            raise InvalidInput(
                f"{self.where(name.text)} is a symbolic link that leaves the folder or leads nowhere: replace it by "
                "what it points to, or wrap that as an object of its own"
            )
        parent, _, base = target.rpartition("/")
        try:
            held = OpenFolder(open_folder(self._root, parent))
            found = Found(name, held, base)
            mode = found.status().st_mode
        except OSError as error:
            unreadable(self.where(name.text), error)
        if not stat.S_ISREG(mode):
            raise InvalidInput(
                f"{self.where(name.text)} is a symbolic link to something that is not a file: replace it by what it "
                "points to"
            )
        return found


def _fold(text: str) -> str:
    try:
        return ElementName(text).fold
    except ValueError:
        return text  # not UTF-8: refused by its name, later


def resolve_link(root: str, name: str) -> str | None:
    """Where inside ``root`` a symbolic link leads, as a relative path; None if it leads out of it or nowhere.

    Only a hint: what is opened by it is opened without following links, so that it stays inside whatever happens.
    """
    try:
        target = os.path.realpath(os.path.join(root, name), strict=True)
    except OSError:
        return None
    inside = os.path.relpath(target, root)
    if inside == os.curdir or inside == os.pardir or inside.startswith(os.pardir + "/"):
        return None
    return inside


def open_folder(root: str, path: str) -> int:
    """A descriptor of the folder at the relative ``path``, reached without following a link. Raises OSError."""
    fd = os.open(root, FOLDER_FLAGS)
    for part in path.split("/") if path else ():
        try:
            inner = os.open(part, FOLDER_FLAGS, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    return fd


def unreadable(where: str, error: OSError) -> NoReturn:
    """Raises the error that says to the owner what is the matter with a path."""
    raise _explained(where, error) from None


def _explained(where: str, error: OSError) -> HanseError:
    if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.ESTALE):
        return SourceChanged(f"{where} changed while it was read: run it again when nobody writes to it")
    return InvalidInput(f"{where} cannot be read: {error.strerror}. Check its owner and mode, or move it away")
