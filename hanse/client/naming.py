"""Under which name a fetch writes."""

import os
from pathlib import Path

from hanse.client.content import Description
from hanse.model.identifier import Identifier
from hanse.model.manifest import Element


def safe_name(suffix: str) -> str:
    """A file name made from an identifier's suffix: it cannot leave a folder, hide, or look like an option."""
    name = suffix.replace("/", "_").replace("\\", "_").lstrip(".")
    if name.startswith("-"):
        name = "_" + name[1:]
    while len(name.encode()) > 200:
        name = name[:-1]
    return name or "object"


def target_path(
    identifier: Identifier,
    description: Description,
    chosen: dict[int, Element] | None,
    to: Path | None,
    *,
    single: bool,
) -> Path:
    """Where a fetch ends: a file goes into a folder that exists; without ``to``, under the object's own name."""
    if single:
        element = next(iter(chosen.values())) if chosen is not None else next(e for _, e in description.elements())
        own_name = element.name.text.rpartition("/")[2]
        if to is None:
            return Path(own_name).absolute()
        return (to / own_name if to.is_dir() else to).absolute()
    target = (Path(safe_name(identifier.suffix)) if to is None else to).absolute()
    return Path(os.path.normpath(target))
