"""Tiles: the hashes of a log in files of at most 256, of which every proof is made. Pure.

A tile of level L has the roots of up to 256 subtrees of 256**L leaves each, left to right; level 0 has leaf hashes.
A full tile never changes, and the beginning of one that grows never does.
Sources: https://c2sp.org/tlog-tiles, RFC 6962 section 2.1

    new, root = append(size, stored, leaf_hashes)
    path(0, 1_234_567)                     # "tile/0/x001/x234/567"
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

from hanse.errors import InvalidInput
from hanse.merkle import EMPTY_ROOT, HASH_BYTES, Nodes, node_hash, perfect

WIDTH = 256
HEIGHT = 8  # levels of a tree within one tile
LEVELS = 8  # of tiles: more than 2**63 leaves need
ENTRIES = -1  # the level of what is no hash: the leaves' data

Read = Callable[[int, int], bytes]
"""The hashes of tile (level, number), one after the other."""

Subtrees = tuple[bytes, ...]
"""The hashes of a tile, then of the perfect subtrees over 2, 4, … 128 of them, as far as there are any."""


def width(level: int, number: int, size: int) -> int:
    """How many hashes tile ``number`` has in a tree of ``size`` leaves; 0 when there is no such tile."""
    return max(0, min(WIDTH, (size >> HEIGHT * max(level, 0)) - number * WIDTH))


def append(size: int, read: Read, leaves: Sequence[bytes]) -> tuple[dict[tuple[int, int], Subtrees], bytes]:
    """The tiles that come to be other ones when leaf hashes are added to ``size`` leaves, and the new root."""
    changed: dict[tuple[int, int], Subtrees] = {}
    coming, count, level = list(leaves), size, 0
    while coming:
        number, filled = divmod(count, WIDTH)
        hashes = read(level, number)[: filled * HASH_BYTES] if filled else b""
        above = []
        for first in range(-filled, len(coming), WIDTH):
            tile = subtrees(hashes + b"".join(coming[max(first, 0) : first + WIDTH]))
            changed[level, number] = tile
            if len(tile[0]) == WIDTH * HASH_BYTES:
                above.append(_pair(tile[-1]))
            hashes, number = b"", number + 1
        coming, count, level = above, count >> HEIGHT, level + 1
    new = size + len(leaves)
    return changed, root_of(new, lambda level, number: changed.get((level, number)) or subtrees(read(level, number)))


def root_of(size: int, tile: Callable[[int, int], Subtrees]) -> bytes:
    """The root over ``size`` leaves: of the last tile of each level alone."""
    digest = b""
    for level, position in reversed(list(perfect(size))):
        found = node(tile, level, position)
        digest = node_hash(found, digest) if digest else found
    return digest or EMPTY_ROOT


def node(tile: Callable[[int, int], Subtrees], level: int, position: int) -> bytes:
    """The root of 2**level leaves, of which the first is the leaf number position * 2**level."""
    of, inside = divmod(level, HEIGHT)
    number, index = divmod(position, WIDTH >> inside)
    hashes = tile(of, number)[inside]
    found = hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]
    if len(found) != HASH_BYTES:
        raise InvalidInput(f"tile {of}/{number} is shorter than the log")
    return found


def inclusion_proof(tile: Callable[[int, int], Subtrees], index: int, size: int) -> tuple[bytes, ...]:
    """What merkle.inclusion_proof gives, by the shortest way: one tile a level of tiles, and no hashing but beside it.

    Raises InvalidInput when the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise InvalidInput(f"a tree of {size} leaves has no leaf {index}")
    parts = list(perfect(size))
    own = next(at for at, (level, position) in enumerate(parts) if index >> level == position)
    path: list[bytes] = []
    for level in range(parts[own][0]):  # inside the perfect subtree that has the leaf
        of, inside = divmod(level, HEIGHT)
        if not inside:
            within = tile(of, index >> level + HEIGHT)
        sibling = ((index >> level) & (WIDTH >> inside) - 1 ^ 1) * HASH_BYTES
        path.append(within[inside][sibling : sibling + HASH_BYTES])
    if parts[own + 1 :]:
        digest = b""
        for level, position in reversed(parts[own + 1 :]):
            found = node(tile, level, position)
            digest = node_hash(found, digest) if digest else found
        path.append(digest)
    path.extend(node(tile, level, position) for level, position in reversed(parts[:own]))
    return tuple(path)


def nodes(tile: Callable[[int, int], Subtrees]) -> Nodes:
    """As hanse.merkle takes them."""
    return lambda level, position: node(tile, level, position)


def subtrees(hashes: bytes) -> Subtrees:
    """Everything inside a tile, from its hashes."""
    levels = [hashes]
    step = 2 * HASH_BYTES
    while len(levels) < HEIGHT:
        below = levels[-1]
        whole = len(below) - len(below) % step
        levels.append(b"".join([sha256(b"\x01" + below[at : at + step]).digest() for at in range(0, whole, step)]))
    return tuple(levels)


def packed(tile: Subtrees) -> bytes:
    """A tile with what is inside it, when it is full; else its hashes alone, which will have to be read again."""
    return b"".join(tile) if len(tile[0]) == WIDTH * HASH_BYTES else tile[0]


def unpacked(data: bytes, count: int) -> Subtrees:
    """The same again, of the first ``count`` hashes."""
    if count < WIDTH:
        return subtrees(data[: count * HASH_BYTES])
    levels, start = [], 0
    for inside in range(HEIGHT):
        length = (WIDTH >> inside) * HASH_BYTES
        levels.append(data[start : start + length])
        start += length
    return tuple(levels)


def path(level: int, number: int, count: int = WIDTH) -> str:
    """Where tlog-tiles puts a tile of ``count`` hashes, or of entries."""
    digits = [f"{number % 1000:03}"]
    while number >= 1000:
        number //= 1000
        digits.insert(0, f"x{number % 1000:03}")
    partial = "" if count == WIDTH else f".p/{count}"
    return f"tile/{'entries' if level == ENTRIES else level}/{'/'.join(digits)}{partial}"


def parse_path(text: str) -> tuple[int, int, int]:
    """(level, number, count) of a path, in its one form. Raises InvalidInput."""
    _, _, rest = text.partition("tile/")
    name, _, rest = rest.partition("/")
    whole, _, partial = rest.partition(".p/")
    digits = whole.replace("/x", "").removeprefix("x").replace("/", "")
    level = ENTRIES if name == "entries" else int(name) if name.isascii() and name.isdecimal() and len(name) < 3 else 64
    if len(digits) < 20 and all(
        each.isascii() and each.isdecimal() and len(each) < 20 for each in (digits, partial or "0")
    ):
        found = (level, int(digits), int(partial) if partial else WIDTH)
        if found[0] < LEVELS and 0 < found[2] <= WIDTH and path(*found) == text:
            return found
    raise InvalidInput("this is no tile's path")


def _pair(hashes: bytes) -> bytes:
    return sha256(b"\x01" + hashes).digest()
