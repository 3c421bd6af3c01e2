"""A home folder: everything that one node, or one registry, keeps. What is in it has a name here.

It opens keys only with the right modes, and gives one process at a time the right to serve from it.

    home = Home.open(Path("north"))
    with home.lock("hanse serve"):
        ...
"""

import contextlib
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from hanse.errors import HomeInUse, HomeUnusable
from hanse.files import storage_errors, write_durably


def default_home(environment: Mapping[str, str] = os.environ) -> Path:
    """HANSE_HOME, else the platform's data folder. It need not exist."""
    chosen = environment.get("HANSE_HOME")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_data_path

    return user_data_path("hanse", appauthor=False)


class Home:
    """A folder with mode 0700. Every path in it is built by ``/``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @classmethod
    def create(cls, folder: Path, marker: str) -> "Home":
        """A new home. Raises HomeInUse when there is one, HomeUnusable when the folder cannot be used."""
        with storage_errors(f"the home {folder}"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if (folder / marker).exists():
                raise HomeInUse(f"{folder} is already set up: use it as it is, or choose another --home")
            folder.chmod(0o700)
            (folder / "keys").mkdir(mode=0o700, exist_ok=True)
        return cls(folder)

    @classmethod
    def open(cls, folder: Path, marker: str, remedy: str) -> "Home":
        """An existing home. Raises HomeUnusable, with the way out."""
        with storage_errors(f"the home {folder}"):
            if not (folder / marker).exists():
                raise HomeUnusable(f"there is nothing in {folder} yet: {remedy}")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise HomeUnusable(f"the home {folder} is not writable: check its owner and mode")
        return cls(folder)

    def read_secret(self, name: str) -> bytes:
        """A file that must be readable by its owner only. Raises HomeUnusable."""
        path = self / name
        with storage_errors(str(path)):
            try:
                mode = stat.S_IMODE(path.stat().st_mode)
                content = path.read_bytes()
            except FileNotFoundError:
                raise HomeUnusable(f"{path} is missing: restore it from your backup") from None
        if mode & 0o077:
            raise HomeUnusable(f"{path} has mode {mode:04o}, so others can read it: chmod 600 {path}")
        return content

    def write_secret(self, name: str, content: bytes) -> None:
        write_durably(self / name, content, 0o600)

    def holder(self) -> int | None:
        """The process that serves from this home. For what is said, not for what is done: the lock decides that."""
        try:
            told = re.search(r"\(process (\d+)\)", (self / "lock").read_text(errors="replace"))
            process = int(told[1]) if told else None
            if process is not None:
                os.kill(process, 0)
        except (FileNotFoundError, ProcessLookupError, OverflowError):
            return None
        except PermissionError:
            return process  # it lives, and is another user's
        return process

    @contextlib.contextmanager
    def lock(self, holder: str) -> Iterator[None]:
        """Held until the process ends, however it ends. Raises HomeInUse."""
        with storage_errors(f"the home {self.folder}"):
            descriptor = os.open(self / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    told = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
                    raise HomeInUse(
                        f"{self.folder} is in use by {told}: stop it first, or choose another --home"
                    ) from None
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{holder} (process {os.getpid()})\n".encode(), 0)
                yield
            finally:
                os.close(descriptor)
