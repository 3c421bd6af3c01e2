"""A mirror of a registry: it follows the log, verifies everything, serves what it has, and can be promoted."""

from pathlib import Path

from registry import config

MARKER = "mirror.toml"


def is_mirror(folder: Path) -> bool:
    """Whether the folder is one's home, and not yet a registry's."""
    return (folder / MARKER).exists() and not (folder / config.MARKER).exists()
