"""The canary: what is private is wrapped, fetched by whom it is for, and provoked to show itself; then looked for.

Content, file names, row values, digests and the name of the folder that it lies in, in every form that they might
take; in everything that the registry keeps, that a daemon logs and that anybody but the owner is told.
"""

import base64
import os
import re
import secrets
import sqlite3
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest

from hanse import limits, merkle, wire
from hanse.client.identity import MARKER, Identity
from hanse.home import Home
from hanse.model.address import Address
from hanse.rpc.channel import dial
from hanse.v1 import node_pb2
from tests.processes import League, Node, Result, environment, free_port, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("canary")]

NORTH, ACME, EAST = "86.north", "86.acme", "86.east"
MARK = secrets.token_hex(6)
SOURCE = f"kenari{MARK}a"
# Rare characters, four of each: eight bytes in UTF-16, which keys, hashes and signatures do not have by chance.
FOLDER, NAME, WORDS = "病房档案", "龘靐齉爩", "龗麤灪龖"
NAMES = (f"ward/kenari{MARK}b.csv", f"{FOLDER}/{NAME}{MARK}c.txt", f"kenari{MARK}d.bin")
ROW = f"kenari{MARK}e,positive,1951-02-03"
CONTENTS = (
    f"patient,result,born\n{ROW}\n".encode() * 100,
    f"{WORDS} kenari{MARK}f".encode(),
    f"kenari{MARK}g".encode() + os.urandom(3 * limits.CHUNK_BYTES),
)
LISTED = f"kenari{MARK}h.csv"
LISTED_CONTENT = f"kenari{MARK}i,1\n".encode()
HIDDEN = f"kenari{MARK}j"


def leaves(content: bytes) -> list[bytes]:
    size = limits.CHUNK_BYTES
    return [merkle.leaf_hash(content[at : at + size]) for at in range(0, len(content), size)]


def digests() -> dict[str, bytes]:
    """SHA-256, Merkle roots and leaves of all that is private."""
    found = {}
    for number, content in enumerate((*CONTENTS, LISTED_CONTENT)):
        found |= {f"sha256 of {number}": sha256(content).digest(), f"root of {number}": merkle.root(leaves(content))}
        found |= {f"leaf {at} of {number}": leaf for at, leaf in enumerate(leaves(content))}
    return found


def forms(digest: bytes) -> list[bytes]:
    """Raw, hexadecimal, base64; of base64 the part that does not depend on what follows."""
    return [
        digest,
        digest.hex().encode(),
        digest.hex().upper().encode(),
        base64.b64encode(digest)[:42],
        base64.urlsafe_b64encode(digest)[:42],
    ]


TEXTS = {"the mark": MARK, "a row": "positive,1951", "a name": NAME, "a folder": FOLDER, "content": WORDS}
CANARIES: dict[str, list[bytes]] = {
    **{what: [text.encode(), ascii(text)[1:-1].encode(), text.encode("utf-16-le")] for what, text in TEXTS.items()},
    **{what: forms(digest) for what, digest in digests().items()},
}


def seen(data: bytes, but: tuple[bytes, ...] = ()) -> list[str]:
    """Which canaries are in there. ``but`` is taken out before: what somebody asked for."""
    for each in but:
        data = data.replace(each, b"")
    return [what for what, texts in CANARIES.items() if any(text in data for text in texts)]


@dataclass
class Scene:
    """What was said to whom, all of it, and where the metrics are."""

    league: League
    metrics: int
    said: list[Result] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)

    @property
    def north(self) -> Node:
        return self.league.nodes[NORTH]

    def hanse(self, prefix: str, *arguments: object, expect: int | None = 0) -> Result:
        """A command of anybody but the owner."""
        result = self.league.nodes[prefix].command(*arguments, expect=expect)
        self.said.append(result)
        return result

    def call(self, prefix: str, method: str, request: Any) -> None:
        """A raw call to the owner's node; what it is told at the end is kept, trailing metadata and all."""
        own = Identity.load(Home.open(self.league.nodes[prefix].home, MARKER, ""))
        owner = Identity.load(Home.open(self.north.home, MARKER, ""))
        with closing(
            dial(
                Address.parse(self.north.process.address),
                roots=owner.node_certificate,
                server_name=owner.prefix.server_name,
                key=own.tls_key,
                chain=own.member_certificate,
            )
        ) as channel:
            call = channel.unary_stream(f"/hanse.v1.Node/{method}")(request.SerializeToString(), timeout=60)
            with pytest.raises(grpc.RpcError) as ended:
                for _ in call:
                    pass
            error: Any = ended.value
            trailing = b"".join(_bytes(value) for _, value in error.trailing_metadata() or ())
            self.errors.append((error.details() or "").encode() + trailing)


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("league")
    data = folder / SOURCE
    for name, content in zip(NAMES, CONTENTS, strict=True):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)
    (folder / "shown").mkdir()
    (folder / "shown" / LISTED).write_bytes(LISTED_CONTENT)
    with League(folder) as league:
        north = league.join(NORTH, serve=False)
        metrics = free_port()
        settings = (north.home / "node.toml").read_text() if (north.home / "node.toml").exists() else ""
        (north.home / "node.toml").write_text(f'{settings}\nlog_level = "debug"\nmetrics = "127.0.0.1:{metrics}"\n')
        north.start()
        league.join(ACME)
        league.join(EAST, serve=False)
        for suffix, path, *more in [
            ("trial", data, "--allow", ACME, "--title", "Trial"),
            ("rows", data / NAMES[0], "--allow", ACME, "--title", "Rows"),
            ("open", data / NAMES[2], "--open"),
            ("shown", folder / "shown", "--open", "--list-elements"),
            (HIDDEN, data, "--unlisted", "--allow", ACME),
        ]:
            north.command("add", path, "--id", suffix, *more)
        north.published()
        yield Scene(league, metrics)


def test_whom_it_is_for_gets_it(scene: Scene) -> None:
    """And by every way there is: as a whole, one element, verified, found, again, with something in the way."""
    out = scene.league.folder / "acme-out"
    scene.hanse(ACME, "fetch", f"{NORTH}/trial", "-o", out)
    assert {name: (out / name).read_bytes() for name in NAMES} == dict(zip(NAMES, CONTENTS, strict=True))
    scene.hanse(ACME, "fetch", f"{NORTH}/trial", "-o", out)
    scene.hanse(ACME, "fetch", f"{NORTH}/trial", "-o", scene.league.folder / "one", "--element", NAMES[1])
    scene.hanse(ACME, "fetch", f"{NORTH}/{HIDDEN}", "-o", scene.league.folder / "acme-hidden")
    scene.hanse(ACME, "fetch", f"{NORTH}/rows", "-o", scene.league.folder / "rows")
    scene.hanse(ACME, "fetch", f"{NORTH}/rows", "-o", scene.league.folder / "rows-2", "--streams", "3")
    scene.hanse(ACME, "verify", out, f"{NORTH}/trial")
    (out / NAMES[0]).write_bytes(b"not what was promised")
    differs = scene.hanse(ACME, "verify", out, f"{NORTH}/trial", expect=6)
    assert NAMES[0] in differs.stdout  # which the one who asks may be told, where it is asked for
    scene.hanse(ACME, "fetch", f"{NORTH}/trial", "-o", out, expect=7)
    for prefix in (ACME, EAST):
        scene.hanse(prefix, "search", "trial")
        scene.hanse(prefix, "resolve", f"{NORTH}/trial", "--json")
        scene.hanse(prefix, "doctor", f"{NORTH}/trial", expect=None)
    scene.hanse(EAST, "fetch", f"{NORTH}/open", "-o", scene.league.folder / "east-open")


def test_nobody_finds_it_by_searching(scene: Scene) -> None:
    for text in (f"kenari{MARK}b", f"kenari{MARK}e", NAME, NAME[:2], SOURCE):
        assert scene.hanse(EAST, "search", text, "--json").lines == [], text
    assert scene.hanse(EAST, "search", "", "--json").lines


def test_errors_are_provoked(scene: Scene) -> None:
    folder, data = scene.league.folder, scene.league.folder / SOURCE
    no = folder / "no"
    for id, code in ((f"{NORTH}/trial", 4), (f"{NORTH}/{HIDDEN}", 3), (f"{NORTH}/none", 3)):
        scene.hanse(EAST, "fetch", id, "-o", no, expect=code)
        scene.hanse(EAST, "fetch", id, "-o", no, "--element", "guess.csv", expect=code)
        scene.hanse(EAST, "verify", folder / "rows", id, expect=code)
        scene.call(EAST, "Describe", node_pb2.DescribeRequest(id=id))
        scene.call(EAST, "Hashes", node_pb2.HashesRequest(id=id, version=1))
        scene.call(EAST, "Fetch", node_pb2.FetchRequest(id=id, version=1, spans=[node_pb2.Span(elements=3)]))
    scene.hanse(ACME, "fetch", f"{NORTH}/trial", "-o", no, "--element", "guess.csv", expect=3)
    scene.hanse(ACME, "fetch", f"{NORTH}/trial", "-o", no, "--version", "9", expect=3)
    for spans in ([node_pb2.Span(element=9, elements=1)], [node_pb2.Span(element=2, chunks=99)], [node_pb2.Span()]):
        scene.call(ACME, "Fetch", node_pb2.FetchRequest(id=f"{NORTH}/trial", version=1, spans=spans))
    # A target that takes no more than a block: the consumer's disk fails.
    command = f"ulimit -f 8; exec {os.sys.executable} -m node.cli fetch {NORTH}/trial -o {no} --home "  # type: ignore[attr-defined]
    home = scene.league.nodes[ACME].home
    done = subprocess.run(
        ["bash", "-c", f"{command}{home}"], capture_output=True, env=environment(), cwd=Path.cwd(), timeout=60
    )
    assert done.returncode == 1, done.stderr
    scene.errors.append(done.stderr)

    # The sources change, vanish, and become something else.
    (data / NAMES[0]).write_bytes(CONTENTS[0] + b"more")
    scene.hanse(ACME, "fetch", f"{NORTH}/rows", "-o", folder / "rows-3", expect=7)
    scene.hanse(ACME, "fetch", f"{NORTH}/trial", "-o", no, expect=7)
    (data / NAMES[0]).unlink()
    scene.hanse(ACME, "fetch", f"{NORTH}/rows", "-o", folder / "rows-4", expect=None)
    (data / NAMES[0]).mkdir()
    scene.hanse(ACME, "fetch", f"{NORTH}/rows", "-o", folder / "rows-5", expect=None)
    (data / NAMES[0]).rmdir()
    (data / NAMES[0]).symlink_to("/etc/shadow")
    scene.hanse(ACME, "fetch", f"{NORTH}/rows", "-o", folder / "rows-6", expect=None)
    (data / NAMES[0]).unlink()
    os.mkfifo(data / NAMES[0])
    scene.hanse(ACME, "fetch", f"{NORTH}/rows", "-o", folder / "rows-7", expect=None)
    data.rename(folder / f"{SOURCE}-moved")
    scene.hanse(ACME, "fetch", f"{NORTH}/trial", "-o", no, expect=None)
    scene.hanse(EAST, "fetch", f"{NORTH}/open", "-o", no, expect=None)
    for result in scene.said[-6:]:
        assert result.code not in (0, 6), str(result)
    scene.call(ACME, "Fetch", node_pb2.FetchRequest(id=f"{NORTH}/trial", version=1, spans=[node_pb2.Span(elements=3)]))

    # The object ends; then the node's own disk fails under it.
    scene.north.command("withdraw", "open", "--reason", "over")
    scene.north.published()
    scene.hanse(EAST, "fetch", f"{NORTH}/open", "-o", no, expect=3)


def test_the_nodes_own_database_fails(scene: Scene) -> None:
    """As a broken disk would make it: first a table is gone, then the file is no database."""
    fetch = node_pb2.FetchRequest(id=f"{NORTH}/shown", version=1, spans=[node_pb2.Span(elements=1)])
    with closing(sqlite3.connect(scene.north.home / "catalog.db")) as catalog:
        catalog.execute("DROP TABLE element")
        catalog.commit()
    scene.call(ACME, "Fetch", fetch)
    (scene.north.home / "catalog.db").write_bytes(b"no database")
    (scene.north.home / "catalog.db-wal").unlink(missing_ok=True)
    scene.call(ACME, "Fetch", fetch)


ASKED_FOR = (LISTED.encode(),)  # --list-elements
OWN_WORDS = (f"{NORTH}/{HIDDEN}".encode(), HIDDEN.encode())  # an identifier that the one who asks has typed


def test_nothing_of_it_is_in_the_registry(scene: Scene) -> None:
    def look() -> None:
        files = [path for path in scene.league.registry.home.rglob("*") if path.is_file()]
        names = {path.name for path in files}
        assert "registry.db" in names
        found = {path.name: seen(path.read_bytes(), ASKED_FOR) for path in files}
        assert not any(found.values()), found
        assert any(LISTED.encode() in path.read_bytes() for path in files)  # it would be found

    assert (scene.league.registry.home / "registry.db-wal").exists()
    look()
    scene.league.registry.process.terminate()
    look()
    scene.league.registry.start()


def test_nothing_of_it_is_in_any_index_of_the_registry(scene: Scene) -> None:
    """Row by row, decoded: an index may keep a word in pieces."""
    with closing(sqlite3.connect(scene.league.registry.home / "registry.db")) as database:
        dump = "\n".join(_rows(database)).encode(errors="surrogateescape")
    assert seen(dump, ASKED_FOR) == []
    assert LISTED.encode() in dump


def _rows(database: sqlite3.Connection) -> Iterator[str]:
    tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        for row in database.execute(f'SELECT * FROM "{table}"'):
            for cell in row:
                yield cell.decode(errors="surrogateescape") if isinstance(cell, bytes) else str(cell)


def test_nothing_of_it_is_in_a_daemons_log(scene: Scene) -> None:
    nodes = scene.league.nodes
    for process in (scene.league.registry.process, nodes[NORTH].process, nodes[ACME].process):
        text = process.everything
        assert seen(text.encode(), OWN_WORDS) == [], text
        assert "Traceback" not in text
    assert "call.failed" in nodes[NORTH].process.everything  # there was something to tell


def test_nothing_of_it_is_in_what_anybody_was_told(scene: Scene) -> None:
    assert len(scene.said) > 40
    assert sum(result.code != 0 for result in scene.said) > 20
    for result in scene.said:
        typed = tuple(str(each).encode() for each in result.argv)
        assert seen(result.stderr.encode(), (*OWN_WORDS, *typed)) == [], str(result)
        if "verify" not in result.argv and "fetch" not in result.argv:
            assert seen(result.stdout.encode(), (*OWN_WORDS, *typed, *ASKED_FOR)) == [], str(result)
    assert len(scene.errors) > 12
    for error in scene.errors:
        assert seen(error, OWN_WORDS) == [], error


def test_nothing_of_it_is_in_the_metrics(scene: Scene) -> None:
    until(lambda: scene.north.process.running, "the node")
    with urllib.request.urlopen(f"http://127.0.0.1:{scene.metrics}/metrics", timeout=60) as page:
        text = page.read()
    assert b"hanse_requests_total" in text
    assert seen(text) == []
    assert not re.search(rb"86\.[a-z]", text)  # no prefix; 86.0 is a number


def test_what_was_asked_to_be_listed_is_listed_and_no_digest_with_it(scene: Scene) -> None:
    record = scene.league.nodes[EAST].json("resolve", f"{NORTH}/shown")
    assert [(each["name"], each["bytes"]) for each in record["listed"]] == [(LISTED, len(LISTED_CONTENT))]
    told = scene.league.nodes[EAST].command("resolve", f"{NORTH}/shown").stdout
    assert LISTED in told
    assert seen(told.encode(), ASKED_FOR) == []


def test_the_eyes_are_open() -> None:
    """What the looking would find, in each of its forms."""
    digest = sha256(CONTENTS[0]).digest()
    for form in forms(digest):
        assert seen(b"before " + form + b" after") == ["sha256 of 0"]
    embedded: Callable[[bytes], bytes] = lambda data: base64.b64encode(data + b"and more")  # noqa: E731
    assert "sha256 of 0" in seen(embedded(digest))
    for what, text in TEXTS.items():
        assert what in seen(f"x{text}x".encode())
        assert what in seen(ascii(text).encode())
    page = wire.encode_page(wire.ManifestPage(0, ()))
    assert seen(page) == []
