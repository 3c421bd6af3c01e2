"""How things are said: plain aligned text for people, JSON for machines, problems on stderr.

What others wrote (titles, names, reasons) is foreign: ``safe`` takes out whatever could steer a terminal.
Times are ISO 8601 in UTC with an age in words; sizes are binary units.
"""

import dataclasses
import enum
import json
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence

import click

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def line(text: str = "") -> None:
    """One line of the result."""
    click.echo(text)


def note(text: str) -> None:
    """Something said beside the result."""
    click.echo(text, err=True)


def error(text: str) -> None:
    """Why it did not work."""
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {safe(text, lines=True)}", err=True)


def document(value: object) -> None:
    """One JSON document."""
    click.echo(_dump(value, indent=2))


def documents(values: Iterable[object]) -> None:
    """JSON documents, one a line."""
    for value in values:
        click.echo(_dump(value, indent=None))


def _dump(value: object, indent: int | None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=_plain)
    # JSON leaves C1 controls and bidirectional overrides as they are; a terminal obeys them.
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _plain(value: object) -> object:
    # A type that has a text form of its own (an identifier, a path) is that text; other dataclasses are their fields.
    if dataclasses.is_dataclass(value) and type(value).__str__ is object.__str__:
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=str)
    return str(value)


def safe(text: object, *, lines: bool = False) -> str:
    """A foreign text that cannot steer a terminal: every character that does not print is shown as U+FFFD.

    With ``lines``, line ends stay; otherwise they become spaces.
    """
    kept = "\n" if lines else ""
    return "".join(
        c if c.isprintable() or c in kept else " " if c in "\n\r\t" else "�" for c in str(text)
    )  # fmt: skip


def size(count: int | None) -> str:
    """``1.5 MiB``; a dash for a size that its owner hides."""
    if count is None:
        return "–"
    amount = float(count)
    for unit in _UNITS:
        if amount < 1024 or unit == _UNITS[-1]:
            break
        amount /= 1024
    return f"{count} B" if unit == "B" else f"{amount:.1f} {unit}"


def number(count: int, thing: str, things: str | None = None) -> str:
    """``1 file``, ``10,000 files``."""
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"


def moment(seconds: float) -> str:
    """``2026-11-23T14:33:00Z``; peers may have named a time that no calendar has."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s"


def span(seconds: float) -> str:
    """``3 minutes``: the largest unit that fits, for people."""
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return number(int(seconds // length), unit)
    return number(max(0, int(seconds)), "second")


def when(seconds: float, now: float | None = None) -> str:
    """A moment and how long ago it was, or in how long it will be."""
    away = (time.time() if now is None else now) - seconds
    if abs(away) < 1:
        return f"{moment(seconds)} (now)"
    return f"{moment(seconds)} ({span(away)} ago)" if away > 0 else f"{moment(seconds)} (in {span(-away)})"


def width(text: str) -> int:
    """Columns that a terminal needs for it: Chinese characters take two."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )  # fmt: skip


def facts(pairs: Iterable[tuple[str, object]], indent: str = "") -> None:
    """Aligned ``name  value`` lines; those without a value are left out."""
    shown = [(name, safe(value, lines=True)) for name, value in pairs if value not in (None, "", ())]
    column = max((width(name) for name, _ in shown), default=0)
    for name, value in shown:
        label = click.style(name, dim=True) + " " * (column - width(name))
        for index, part in enumerate(value.split("\n")):
            click.echo(f"{indent}{label if index == 0 else ' ' * column}  {part}".rstrip())


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], right: Sequence[int] = ()) -> None:
    """Aligned columns; ``right`` are those flush right. On a terminal, the last column is cut to fit."""
    cells = [[safe(cell) for cell in row] for row in rows]
    columns = [max(width(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]
    limit = None
    if sys.stdout.isatty():
        import shutil

        limit = shutil.get_terminal_size().columns
    for index, row in enumerate([list(headers), *cells]):
        padded = [
            " " * (columns[i] - width(cell)) + cell if i in right else cell + " " * (columns[i] - width(cell))
            for i, cell in enumerate(row)
        ]
        text = "  ".join(padded).rstrip()
        if limit is not None:
            text = cut(text, limit)
        click.echo(click.style(text, dim=True) if index == 0 else text)


def cut(text: str, columns: int) -> str:
    """As much as fits, with an ellipsis where something was left out."""
    if width(text) <= columns:
        return text
    taken, room = "", columns - 1
    for c in text:
        room -= width(c)
        if room < 0:
            break
        taken += c
    return taken + "…"
