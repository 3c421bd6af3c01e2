"""Whether local bytes are those of a published version.

What it is not: a transfer. Only the manifest comes from the owner; what is compared is hashed here.

    differences(Path("trial-7"), description)   # [] when they match
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hanse.client.content import Description
from hanse.client.progress import Progress, Report
from hanse.files import storage_errors
from hanse.merkle import EMPTY_ROOT, RootBuilder, leaf_hash
from hanse.model.manifest import Element

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class Kind(StrEnum):
    """How a local file differs from the version."""

    MISSING = "missing"
    EXTRA = "extra"
    DIFFERENT = "different"
    NOT_A_FILE = "not a file"


@dataclass(frozen=True, slots=True)
class Difference:
    """``name`` is the element's, or of what is extra, relative to the folder."""

    name: str
    kind: Kind


def holds(descriptor: int, element: Element, opened: Callable[[memoryview, int], None] | None = None) -> bool:
    """Whether an open file has exactly the element's bytes. ``opened`` is given what was read, and where, to unseal."""
    if os.fstat(descriptor).st_size != element.length:
        return False
    if not element.length:
        return element.merkle_root == EMPTY_ROOT
    builder = RootBuilder()
    buffer = memoryview(bytearray(min(element.chunk_size, element.length)))
    for index in range(element.chunk_count):
        chunk = buffer[: element.chunk_length(index)]
        if not read_at(descriptor, chunk, index * element.chunk_size):
            return False
        if opened is not None:
            opened(chunk, index * element.chunk_size)
        builder.add(leaf_hash(chunk))
    return builder.root() == element.merkle_root


def read_at(descriptor: int, into: memoryview, offset: int) -> bool:
    """Fills ``into``; False if the file ends before."""
    while into:
        read = os.preadv(descriptor, [into], offset)
        if not read:
            return False
        into, offset = into[read:], offset + read
    return True


def differences(
    path: Path, description: Description, chosen: dict[int, Element] | None = None, report: Report | None = None
) -> list[Difference]:
    """Of a file, if one element is meant and no folder is there, else of a folder."""
    elements: Iterable[tuple[int, Element]] = description.elements() if chosen is None else chosen.items()
    single = description.manifest.single_file or (chosen is not None and len(chosen) == 1)
    total_bytes = description.manifest.total_bytes if chosen is None else sum(e.length for e in chosen.values())
    total = description.manifest.element_count if chosen is None else len(chosen)
    found: list[Difference] = []
    done = done_bytes = 0
    as_file = single and not path.is_dir()
    with storage_errors(str(path)):
        root = os.open(path.parent if as_file else path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            names = set()
            for _, element in elements:
                name = path.name if as_file else element.name.text
                names.add(name)
                kind = _compare(root, name, element, follow=as_file)
                if kind is not None:
                    found.append(Difference(element.name.text, kind))
                done, done_bytes = done + 1, done_bytes + element.length
                if report is not None:
                    report(Progress(done_bytes, total_bytes, done, total))
            if not as_file:
                found += [Difference(name, Kind.EXTRA) for name in _files(path) if name not in names]
        finally:
            os.close(root)
    return found


def _compare(root: int, name: str, element: Element, *, follow: bool) -> Kind | None:
    try:
        descriptor = os.open(name, _READ & ~os.O_NOFOLLOW if follow else _READ, dir_fd=root)
    except FileNotFoundError:
        return Kind.MISSING
    except NotADirectoryError:
        return Kind.MISSING
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a symbolic link, a socket
            return Kind.NOT_A_FILE
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return Kind.NOT_A_FILE
        return None if holds(descriptor, element) else Kind.DIFFERENT
    finally:
        os.close(descriptor)


def _files(folder: Path) -> Iterator[str]:
    for at, folders, files in os.walk(folder):
        for name in files + [each for each in folders if os.path.islink(os.path.join(at, each))]:
            yield os.path.relpath(os.path.join(at, name), folder)
