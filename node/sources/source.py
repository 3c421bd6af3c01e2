"""A source: the file or the folder that an object's bytes are in. It is wrapped where it lies; nothing is copied.

What it is not: a reader. node.sources.walking finds what is in it, node.sources.opening opens it for peers.

    source = Source.of(Path("trial-7"))
"""

import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hanse.errors import InvalidInput, NotFound


class SourceKind(StrEnum):
    """What there is at the path."""

    FILE = "file"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True)
class Source:
    """``path`` is absolute and free of symbolic links: a link that is added stands for what it points to."""

    kind: SourceKind
    path: Path

    @classmethod
    def of(cls, path: Path) -> "Source":
        """Raises NotFound, InvalidInput. The message names the path: it is for the owner, not for a peer."""
        try:
            real = path.resolve(strict=True)
            mode = real.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{path} does not exist") from None
        except RuntimeError:
            raise InvalidInput(f"{path} is a symbolic link that leads back to itself") from None
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror}. Check its owner and mode") from None
        if stat.S_ISDIR(mode):
            return cls(SourceKind.FOLDER, real)
        if stat.S_ISREG(mode):
            return cls(SourceKind.FILE, real)
        raise InvalidInput(f"{path} is neither a file nor a folder, so it has no bytes to wrap")

    @property
    def folder(self) -> bytes:
        """The folder from which names of elements are opened."""
        return os.fsencode(self.path if self.kind is SourceKind.FOLDER else self.path.parent)
