"""The real `hanse fetch` against an owner's node that lies: exit code 6, nothing under the final name, nothing outside.

The node is simulated, since ours refuses to lie; the command is a process of its own.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from hanse import limits, merkle, wire
from hanse.client.client import Client
from hanse.model.envelope import PayloadType
from hanse.rpc import tls
from hanse.signing import SigningKey, sign
from hanse.v1 import node_pb2
from tests.processes import Result, run
from tests.simulator import ROOT, Organization, SimulatedLeague, SimulatedNode, Version, element, raw_page

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("lying-peer")]

LARGE = os.urandom(6_000_000)  # more than is held in memory: verified chunk by chunk
FILES = {"visits.csv": b"1,44\n" * 10_000, "empty": b"", "scans/one.bin": os.urandom(50_000)}


@dataclass
class Scene:
    """North serves a folder and a large file; acme's home fetches into an empty folder beside other things."""

    league: SimulatedLeague
    north: Organization
    node: SimulatedNode
    home: Path
    around: Path

    @property
    def out(self) -> Path:
        return self.around / "here" / "out"

    def fetch(self, name: str = "trial", *more: object) -> Result:
        result = run("node.cli", "fetch", f"86.north/{name}", "-o", self.out, *more, "--home", self.home)
        assert "Traceback" not in result.stderr, str(result)
        return result

    def refused(self, result: Result, names: str) -> None:
        """6, a word of what is wrong, and no file but what is being fetched under its temporary name."""
        assert (result.code, result.stdout) == (6, ""), str(result)
        assert names in result.stderr, str(result)
        assert not self.out.exists()
        left = {path.relative_to(self.around) for path in self.around.rglob("*") if not path.is_dir()}
        assert {str(path) for path in left if not str(path).startswith("here/.out.hanse-partial")} == {"mine.txt"}
        assert (self.around / "mine.txt").read_bytes() == b"mine"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with SimulatedLeague() as league:
        north = league.join("86.north")
        north.wrap("trial", FILES)
        north.wrap("large", LARGE)
        home = league.join("86.acme").home(tmp_path / "acme")
        around = tmp_path / "around"
        (around / "here").mkdir(parents=True)
        (around / "mine.txt").write_bytes(b"mine")
        assert north.node is not None
        yield Scene(league, north, north.node, home, around)


def test_an_honest_node_is_believed(scene: Scene) -> None:
    """So that what follows is refused for the lie and for nothing else."""
    result = scene.fetch()
    assert result.code == 0, str(result)
    assert {name: (scene.out / name).read_bytes() for name in FILES} == FILES


# The bytes.


def flipped(parts: Iterator[bytes]) -> Iterator[bytes]:
    first = bytearray(next(parts))
    first[len(first) // 2] ^= 1
    yield bytes(first)
    yield from parts


def flipped_at_the_end(parts: Iterator[bytes]) -> Iterator[bytes]:
    *before, last = parts
    yield from before
    yield last[:-1] + bytes([last[-1] ^ 0x80])


def truncated(parts: Iterator[bytes]) -> Iterator[bytes]:
    *before, last = parts
    yield from before
    yield last[:-1]


def over_long(parts: Iterator[bytes]) -> Iterator[bytes]:
    yield from parts
    yield b"more"


def endless(parts: Iterator[bytes]) -> Iterator[bytes]:
    yield from parts
    yield from itertools.repeat(bytes(1_000_000))


def of_other_bytes(parts: Iterator[bytes]) -> Iterator[bytes]:
    return (os.urandom(len(part)) for part in parts)


FEWER, MORE, HASH = "fewer bytes than", "more bytes than", "it has another hash"
OF_THE_BYTES = [
    (flipped, HASH), (flipped_at_the_end, HASH), (truncated, FEWER), (over_long, MORE), (endless, MORE),
    (of_other_bytes, HASH),
]  # fmt: skip


@pytest.mark.parametrize("name", ["trial", "large"])
@pytest.mark.parametrize(("lie", "names"), OF_THE_BYTES, ids=[lie.__name__ for lie, _ in OF_THE_BYTES])
def test_bytes_that_were_not_promised(
    scene: Scene, lie: Callable[[Iterator[bytes]], Iterator[bytes]], names: str, name: str
) -> None:
    scene.node.lies["fetch"] = lie
    scene.refused(scene.fetch(name), names)
    assert scene.node.sent_bytes < 40_000_000  # an endless stream is cut off
    scene.node.lies.clear()
    again = scene.fetch(name)
    assert again.code == 0, str(again)
    if name == "large":
        assert scene.out.read_bytes() == LARGE
    else:
        assert {each: (scene.out / each).read_bytes() for each in FILES} == FILES


OF_THE_HASHES = {
    "altered": lambda sent: [node_pb2.HashesResponse(hashes=bytes(32) + sent[0].hashes[32:]), *sent[1:]],
    "one more": lambda sent: [*sent, node_pb2.HashesResponse(hashes=bytes(32))],
    "fewer": lambda sent: sent[:-1],
    "endless": lambda sent: itertools.repeat(sent[0]),
    "a part of one": lambda sent: [*sent[:-1], node_pb2.HashesResponse(hashes=sent[-1].hashes[:-1])],
}


@pytest.mark.parametrize("lie", OF_THE_HASHES.values(), ids=OF_THE_HASHES)
def test_chunk_hashes_that_were_not_signed(scene: Scene, lie: Callable[[Any], Any]) -> None:
    scene.node.lies["hashes"] = lie
    scene.refused(scene.fetch("large"), "chunk hashes")


# What describes them.


def described(version: Version, *, record: Any = None, pages: Iterable[bytes] | None = None) -> list[Any]:
    return [
        node_pb2.DescribeResponse(
            record=wire.envelope_to_message(record or version.record_envelope),
            manifest=wire.envelope_to_message(version.manifest_envelope),
            salt=version.salt,
        ),
        *(node_pb2.DescribeResponse(page=page) for page in pages or version.pages),
    ]


def manifest_of_another_object(scene: Scene) -> list[Any]:
    true = scene.north.objects["86.north/trial"][0]
    return described(scene.north.objects["86.north/large"][0], record=true.record_envelope)


def another_object(scene: Scene) -> list[Any]:
    return described(scene.north.objects["86.north/large"][0])


def an_older_version(scene: Scene) -> list[Any]:
    scene.north.wrap("trial", {"new": b"new"})
    with Client(scene.home) as client:
        assert client.resolve("86.north/trial", max_age=0).record.record.version == 2
    return described(scene.north.objects["86.north/trial"][0])


def an_unknown_key(scene: Scene) -> list[Any]:
    return described(scene.north.make("trial", [], [], False, key=SigningKey.generate()))


def the_key_of_another_member(scene: Scene) -> list[Any]:
    return described(scene.north.make("trial", [], [], False, key=scene.league.join("86.mallory").key))


def a_manifest_signed_by_somebody_else(scene: Scene) -> list[Any]:
    true = scene.north.objects["86.north/trial"][0]
    forged = sign(PayloadType.MANIFEST, true.manifest_envelope.payload, SigningKey.generate())
    return described(replace(true, manifest_envelope=forged))


def an_altered_manifest(scene: Scene) -> list[Any]:
    true = scene.north.objects["86.north/trial"][0]
    altered = wire.encode_manifest(replace(true.manifest, total_bytes=1))
    return described(replace(true, manifest_envelope=replace(true.manifest_envelope, payload=altered)))


def another_salt(scene: Scene) -> list[Any]:
    return described(replace(scene.north.objects["86.north/trial"][0], salt=bytes(16)))


def other_pages(scene: Scene) -> list[Any]:
    true = scene.north.objects["86.north/trial"][0]
    page = raw_page(0, {**PAGE, "name": "another.txt"})
    return described(true, pages=[page])


def a_page_too_many(scene: Scene) -> list[Any]:
    true = scene.north.objects["86.north/trial"][0]
    return described(true, pages=[*true.pages, true.pages[0]])


def endless_pages(scene: Scene) -> Any:
    head, page = described(scene.north.objects["86.north/trial"][0])
    return itertools.chain([head], itertools.repeat(page))


def a_huge_page(scene: Scene) -> list[Any]:
    return described(scene.north.objects["86.north/trial"][0], pages=[bytes(limits.MESSAGE_BYTES * 2)])


def a_page_over_the_limit(scene: Scene) -> list[Any]:
    return described(scene.north.objects["86.north/trial"][0], pages=[bytes(limits.MANIFEST_PAGE_BYTES + 1)])


def nothing_at_all(scene: Scene) -> list[Any]:
    return []


COMMITTED = "not the one that its record is committed to"
OF_THE_DESCRIPTION = [
    (manifest_of_another_object, "a manifest of 86.north/large version 1 was offered for 86.north/trial"),
    (another_object, "a record of 86.north/large was offered for 86.north/trial"),
    (an_older_version, "version 1 of 86.north/trial was offered, but version 2 was seen before"),
    (an_unknown_key, "the record of 86.north/trial is not signed by 86.north"),
    (the_key_of_another_member, "the record of 86.north/trial is not signed by 86.north"),
    (a_manifest_signed_by_somebody_else, "the manifest of 86.north/trial is not signed by 86.north"),
    (an_altered_manifest, COMMITTED),
    (another_salt, COMMITTED),
    (other_pages, "are not those of the manifest"),
    (a_page_too_many, "more pages than the manifest"),
    (endless_pages, "more pages than the manifest"),
    (a_huge_page, "a message larger than the agreement allows"),
    (a_page_over_the_limit, "too large"),
    (nothing_at_all, "without a record and a manifest"),
]


@pytest.mark.parametrize(("lie", "names"), OF_THE_DESCRIPTION, ids=[lie.__name__ for lie, _ in OF_THE_DESCRIPTION])
def test_a_description_of_something_else(scene: Scene, lie: Callable[[Scene], Any], names: str) -> None:
    told = lie(scene)
    scene.node.lies["describe"] = lambda _: told
    scene.refused(scene.fetch(), names)


# Names and numbers that the owner itself signs.

PAGE = {"media_type": "text/csv", "length": 1, "chunk_size": limits.MIN_CHUNK_BYTES, "merkle_root": bytes(32),
        "sha256": bytes(32)}  # fmt: skip


def sign_pages(scene: Scene, *pages: bytes, count: int, total: int) -> None:
    """Makes the owner of the trial a liar: it signs these pages, whatever is in them."""
    version = scene.north.objects["86.north/trial"][0]
    root = merkle.root(map(merkle.leaf_hash, pages))
    manifest = replace(version.manifest, pages_root=root, page_count=len(pages), element_count=count, total_bytes=total)
    envelope = sign(PayloadType.MANIFEST, wire.encode_manifest(manifest), scene.north.key)
    record = replace(version.record, commitment=sha256(version.salt + envelope.digest).digest())
    signed = sign(PayloadType.RECORD, wire.encode_record(record), scene.north.key)
    version.pages, version.manifest_envelope, version.record_envelope = list(pages), envelope, signed
    scene.league.records[version.record.id.key] = signed


RELATIVE, EMPTY, LONG = "relative path with forward slashes", "an empty part, '.' or '..'", "has more than 255 bytes"
SAME = "whose names some file systems take for the same"
NAMES: list[tuple[list[str], str]] = [
    (["../../x"], EMPTY),
    (["a/../../x"], EMPTY),
    ([".."], EMPTY),
    (["/etc/x"], RELATIVE),
    (["//host/share"], RELATIVE),
    (["C:\\x"], RELATIVE),
    (["C:x"], RELATIVE),
    (["..\\x"], RELATIVE),
    (["x" * 300], LONG),
    (["病" * 100], LONG),
    (["/".join(["y" * 100] * 50)], "has 1 to 4096 bytes"),
    (["a\x1b[2Jb"], "control character"),
    (["Visits.csv", "visits.CSV"], SAME),
    (["STRASSE", "straße"], SAME),
    (["x", "x"], SAME),
    (["a", "a/b"], "whose name is also that of a folder"),
]


@pytest.mark.parametrize(("names", "why"), NAMES, ids=[ascii("|".join(name[:9] for name in each)) for each, _ in NAMES])
def test_names_that_a_hostile_owner_signs(scene: Scene, names: list[str], why: str) -> None:
    sign_pages(scene, raw_page(0, *({**PAGE, "name": each} for each in names)), count=len(names), total=len(names))
    result = scene.fetch()
    scene.refused(result, why)
    assert not any(name in result.stderr for name in names if len(name) > 2)
    assert "\x1b" not in result.stderr
    assert not list((scene.around / "here").iterdir())


NUMBERS: list[tuple[dict[str, Any], int]] = [
    ({"chunk_size": 0}, 1),
    ({"chunk_size": 0xFFFFFFFF}, 1),
    ({"merkle_root": b"short"}, 1),
    ({"length": 1 << 63}, 0),
    ({"length": (1 << 62)}, 1 << 62),
    ({"media_type": "no media type"}, 1),
]


@pytest.mark.parametrize(("field", "total"), NUMBERS, ids=str)
def test_numbers_that_a_hostile_owner_signs(scene: Scene, field: dict[str, Any], total: int) -> None:
    sign_pages(scene, raw_page(0, {**PAGE, "name": "a", **field}), count=1, total=total)
    scene.refused(scene.fetch(), "names an element that cannot be accepted")


def test_more_than_this_disk_holds_is_said_before_anything_is_written(scene: Scene) -> None:
    """A promise of 2 TiB, in chunks that would be allowed."""
    huge = {**PAGE, "name": "a", "length": 1 << 41, "chunk_size": 1 << 20}
    sign_pages(scene, raw_page(0, huge), count=1, total=1 << 41)
    result = scene.fetch()
    assert result.code == 1, str(result)
    assert "MB free" in result.stderr
    assert not scene.out.exists()


def test_an_element_with_the_promised_sha256_only(scene: Scene) -> None:
    """The Merkle root is what counts: the whole's SHA-256 is for users' own tools, and has to hold too."""
    true = element("a", b"1")
    page = {**PAGE, "name": "a", "merkle_root": bytes(32), "sha256": true.sha256}
    sign_pages(scene, raw_page(0, page), count=1, total=1)
    scene.node.lies["fetch"] = lambda _: iter([b"1"])
    scene.refused(scene.fetch(), HASH)


# Whoever answers.


@pytest.mark.parametrize("whose", ["another member", "self made", "issued by the authority"])
def test_a_certificate_that_the_owners_record_does_not_name(scene: Scene, whose: str) -> None:
    key, prefix = tls.TlsKey.generate(), scene.north.prefix
    if whose == "another member":
        other = scene.league.join("86.mallory")
        key, certificate = other.tls_key, other.node_certificate
    elif whose == "self made":
        certificate = tls.make_node_certificate(key, ROOT, prefix, scene.league.now)
    else:
        league = scene.league
        request = tls.make_request(key, prefix)
        certificate = tls.issue_member(league.ca_key, league.ca_certificate, request, ROOT, prefix, league.now)
    scene.node.stop()
    scene.node.tls_key, scene.node.certificate = key, certificate
    scene.node.start()
    scene.refused(scene.fetch(), "does not have the key that 86.north names in its own signed record")
    assert scene.node.calls == []


def test_a_node_cannot_make_the_command_claim_that_something_was_verified_or_not(scene: Scene) -> None:
    """An error of the class VerificationFailed is never taken from a peer: nor is its exit code."""
    from hanse.errors import WrongContent

    scene.node.refuse = WrongContent("everything is forged \x1b[31m")
    result = scene.fetch()
    assert result.code == 5, str(result)
    assert "\x1b[31m" not in result.stderr
    assert not scene.out.exists()


# Links on the way.


def test_a_link_that_is_put_in_the_way_is_not_followed(scene: Scene) -> None:
    """Somebody on this machine puts a link that leads out where a folder of the fetch is about to be made."""
    outside = scene.around / "outside"
    outside.mkdir()

    def plant(parts: Iterator[bytes]) -> Iterator[bytes]:
        (scene.around / "here" / ".out.hanse-partial" / "data" / "scans").symlink_to(outside)
        yield from parts

    scene.node.lies["fetch"] = plant
    result = scene.fetch()
    assert result.code == 1, str(result)
    assert list(outside.iterdir()) == []
    assert not scene.out.exists()
