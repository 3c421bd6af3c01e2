"""Fetching: from an honest owner, through interruptions, and from one that lies."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hanse import limits, wire
from hanse.client.client import Client
from hanse.client.naming import safe_name
from hanse.client.partial import partial_path
from hanse.client.progress import Progress
from hanse.errors import (
    BadSignature,
    Conflict,
    HanseError,
    HomeInUse,
    InvalidInput,
    LimitExceeded,
    NoSpace,
    NotFound,
    NotPermitted,
    RolledBack,
    SourceChanged,
    Unreachable,
    VerificationFailed,
    Withdrawn,
    WrongContent,
)
from hanse.model.organization import NodeEndpoint
from hanse.rpc import tls
from hanse.signing import SigningKey
from hanse.v1 import node_pb2
from tests.simulator import Organization, SimulatedLeague, element, raw_page

CHUNK = limits.MIN_CHUNK_BYTES
LARGE = 5_000_000  # more than fetch takes for small


@pytest.fixture(scope="module")
def shared() -> Iterator[SimulatedLeague]:
    with SimulatedLeague() as league:
        yield league


_numbers = itertools.count()


@pytest.fixture
def league(shared: SimulatedLeague) -> Iterator[SimulatedLeague]:
    yield shared
    shared.lies.clear()


@pytest.fixture
def north(league: SimulatedLeague) -> Iterator[Organization]:
    organization = league.join(f"86.north{next(_numbers)}")
    yield organization
    if organization.node is not None:
        organization.node.stop()


@pytest.fixture
def client(league: SimulatedLeague, tmp_path: Path) -> Iterator[Client]:
    acme = league.join(f"86.acme{next(_numbers)}")
    with Client(acme.home(tmp_path / "home")) as client:
        yield client


def content(length: int, seed: int = 0) -> bytes:
    return b"%016x" % seed + os.urandom(max(0, length - 16)) if length > 16 else b"%d" % seed * length


FOLDER = {
    "visits.csv": content(40_000),
    "empty": b"",
    "deep/er/notes.txt": b"notes",
    "deep/big.bin": content(LARGE),
    "数据.csv": content(200_000, 2),
    "exactly one chunk": content(CHUNK),
}


def written(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def only(*names: str, at: Path) -> None:
    """Nothing else is left there: no half-written file, no temporary one."""
    assert sorted(path.name for path in at.iterdir()) == sorted([*names, "home"])


# From an honest owner.


@pytest.mark.parametrize("length", [0, 1, CHUNK, CHUNK + 1, 100_000, LARGE, LARGE + 12_345])
def test_a_file_arrives_as_it_is(north: Organization, client: Client, tmp_path: Path, length: int) -> None:
    data = content(length)
    north.wrap("x.bin", data)
    fetched = client.fetch(f"{north.prefix}/x.bin", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data
    assert (fetched.path, fetched.transferred_bytes, fetched.elements) == (tmp_path / "out", length, 1)
    only("out", at=tmp_path)


@pytest.mark.parametrize("streams", [1, 4])
def test_a_folder_arrives_with_names_times_and_modes(
    north: Organization, client: Client, tmp_path: Path, streams: int
) -> None:
    described = [element(name, data) for name, data in FOLDER.items()]
    described[0] = element("visits.csv", FOLDER["visits.csv"], executable=True, modified_ns=1_600_000_000_000_000_001)
    north.wrap("trial", FOLDER, elements=described)
    fetched = client.fetch(f"{north.prefix}/trial", tmp_path / "out", streams=streams)
    assert written(tmp_path / "out") == FOLDER
    visits = (tmp_path / "out/visits.csv").stat()
    assert visits.st_mtime_ns == 1_600_000_000_000_000_001
    assert visits.st_mode & 0o111
    assert not (tmp_path / "out/empty").stat().st_mode & 0o111
    assert (tmp_path / "out/deep/big.bin").stat().st_mtime_ns == 1_700_000_000_123_456_789
    assert fetched.total_bytes == sum(map(len, FOLDER.values()))
    only("out", at=tmp_path)


def test_an_empty_folder_arrives(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("nothing", {})
    client.fetch(f"{north.prefix}/nothing", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_many_small_files_cost_few_calls(north: Organization, client: Client, tmp_path: Path) -> None:
    files = {f"d{n % 7}/f{n}": b"%d" % n * (n % 50) for n in range(3000)}
    north.wrap("many", files)
    client.fetch(f"{north.prefix}/many", tmp_path / "out")
    assert written(tmp_path / "out") == files
    assert north.node is not None
    assert north.node.calls.count("fetch") == 1
    assert "hashes" not in north.node.calls


def test_chosen_elements(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("trial", FOLDER)
    client.fetch(f"{north.prefix}/trial", tmp_path / "one", elements=["deep/er/notes.txt"])
    assert (tmp_path / "one").read_bytes() == b"notes"
    client.fetch(f"{north.prefix}/trial", tmp_path / "two", elements=["visits.csv", "deep/big.bin"])
    assert written(tmp_path / "two") == {name: FOLDER[name] for name in ("visits.csv", "deep/big.bin")}
    with pytest.raises(NotFound, match="no element of that name"):
        client.fetch(f"{north.prefix}/trial", tmp_path / "three", elements=["no such"])
    with pytest.raises(InvalidInput):
        client.fetch(f"{north.prefix}/trial", tmp_path / "three", elements=["../x"])
    only("one", "two", at=tmp_path)


def test_names_are_chosen_when_none_is_given(
    north: Organization, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    north.wrap("data.csv", b"1,2")
    north.wrap("a/b", {"x": b"1"})
    assert client.fetch(f"{north.prefix}/data.csv").path == tmp_path / "data.csv"
    assert client.fetch(f"{north.prefix}/a/b").path == tmp_path / "a_b"
    (tmp_path / "folder").mkdir()
    assert client.fetch(f"{north.prefix}/data.csv", "folder").path == tmp_path / "folder/data.csv"


@pytest.mark.parametrize(
    ("suffix", "name"),
    [
        ("trial-7", "trial-7"),
        ("a/b\\c", "a_b_c"),
        ("..", "object"),
        ("../../etc", "_.._etc"),
        (".hidden", "hidden"),
        ("-rf", "_rf"),
        ("数" * 100, "数" * 66),
    ],
)
def test_a_suffix_is_made_a_safe_name(suffix: str, name: str) -> None:
    assert safe_name(suffix) == name


def test_an_older_version_when_it_is_asked_for(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("x", b"old")
    north.wrap("x", b"new")
    client.fetch(f"{north.prefix}/x", tmp_path / "new")
    client.fetch(f"{north.prefix}/x", tmp_path / "old", version=1)
    assert ((tmp_path / "old").read_bytes(), (tmp_path / "new").read_bytes()) == (b"old", b"new")


def test_progress_ends_complete(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("trial", FOLDER)
    told: list[Progress] = []
    client.fetch(f"{north.prefix}/trial", tmp_path / "out", progress=told.append)
    total = sum(map(len, FOLDER.values()))
    assert told[-1] == Progress(total, total, len(FOLDER), len(FOLDER), 0)
    assert [each.done_bytes for each in told] == sorted(each.done_bytes for each in told)


# What is at the target already.


def test_the_same_content_is_done_at_once(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("trial", FOLDER)
    client.fetch(f"{north.prefix}/trial", tmp_path / "out")
    again = client.fetch(f"{north.prefix}/trial", tmp_path / "out")
    assert again.already_there
    assert again.transferred_bytes == 0


def test_other_content_is_never_replaced(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("x", b"theirs")
    north.wrap("trial", {"a": b"1"})
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a").write_bytes(b"2")
    for identifier, target in [("x", "file"), ("trial", "file"), ("trial", "folder")]:
        with pytest.raises(Conflict, match="move it away"):
            client.fetch(f"{north.prefix}/{identifier}", tmp_path / target)
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert written(tmp_path / "folder") == {"a": b"2"}


def test_an_empty_folder_gives_way(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("trial", {"a": b"1"})
    (tmp_path / "out").mkdir()
    client.fetch(f"{north.prefix}/trial", tmp_path / "out")
    assert written(tmp_path / "out") == {"a": b"1"}


def test_a_dangling_link_is_not_followed(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("x", b"theirs")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Conflict):
        client.fetch(f"{north.prefix}/x", tmp_path / "out")
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_folder_is_named(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("x", b"1")
    with pytest.raises(InvalidInput, match="is not a folder"):
        client.fetch(f"{north.prefix}/x", tmp_path / "no/where")


def test_a_full_disk_is_told_before_anything_is_sent(
    north: Organization, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    north.wrap("x", content(LARGE))
    real = os.statvfs(tmp_path)
    full = os.statvfs_result((*real[:4], 100, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(NoSpace, match="needs 6 MB and the disk has 0 MB free"):
        client.fetch(f"{north.prefix}/x", tmp_path / "out")
    assert north.node is not None
    assert "fetch" not in north.node.calls


# Interruptions.


@pytest.mark.parametrize("name", ["trial", "x"])
def test_a_broken_stream_is_resumed_in_the_same_run(
    north: Organization, client: Client, tmp_path: Path, name: str
) -> None:
    north.wrap("trial", FOLDER)
    north.wrap("x", content(LARGE))
    node = north.serve()
    node.cut_after = 2_000_000

    def restore() -> None:
        with node._lock:  # under which it is counted
            node.cut_after = None

    threading.Timer(0.5, restore).start()
    fetched = client.fetch(f"{north.prefix}/{name}", tmp_path / "out")
    assert client.verify(tmp_path / "out", f"{north.prefix}/{name}") == []
    assert fetched.resumed_bytes == 0
    only("out", at=tmp_path)


@pytest.mark.parametrize("name", ["trial", "x"])
def test_a_second_run_goes_on_from_the_first(north: Organization, client: Client, tmp_path: Path, name: str) -> None:
    north.wrap("trial", {f"f{n}": content(300_000, n) for n in range(20)})
    north.wrap("x", content(6_000_000))
    node = north.serve()
    node.cut_after = 4_000_000
    with pytest.raises(Unreachable) as told:
        client.fetch(f"{north.prefix}/{name}", tmp_path / "out", patience=0.5)
    assert not (tmp_path / "out").exists()
    node.cut_after, node.sent_bytes = None, 0
    fetched = client.fetch(f"{north.prefix}/{name}", tmp_path / "out")
    assert fetched.resumed_bytes >= 2_000_000
    assert str(told.value).endswith(
        f". {fetched.resumed_bytes:,} of 6,000,000 bytes are verified and kept: the same again goes on from there"
    )
    assert fetched.resumed_bytes + node.sent_bytes == 6_000_000
    assert client.verify(tmp_path / "out", f"{north.prefix}/{name}") == []
    only("out", at=tmp_path)


def test_what_the_journal_claims_wrongly_is_fetched_again(north: Organization, client: Client, tmp_path: Path) -> None:
    """After a power cut the journal may know of data that never reached the disk."""
    north.wrap("x", content(6_000_000))
    node = north.serve()
    node.cut_after = 4_000_000
    with pytest.raises(Unreachable):
        client.fetch(f"{north.prefix}/x", tmp_path / "out", patience=0.2)
    data = partial_path(tmp_path / "out") / "data/content"
    with data.open("r+b") as file:
        file.write(b"\0" * 100_000)
    with (partial_path(tmp_path / "out") / "journal").open("ab") as journal:
        journal.write(b"torn")
    node.cut_after = None
    client.fetch(f"{north.prefix}/x", tmp_path / "out")
    assert client.verify(tmp_path / "out", f"{north.prefix}/x") == []


def test_a_new_version_begins_anew(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("x", content(6_000_000))
    node = north.serve()
    node.cut_after = 4_000_000
    with pytest.raises(Unreachable):
        client.fetch(f"{north.prefix}/x", tmp_path / "out", patience=0.2)
    node.cut_after = None
    data = content(3_000_000, 1)
    north.wrap("x", data)
    fetched = client.fetch(f"{north.prefix}/x", tmp_path / "out")
    assert (fetched.version, fetched.resumed_bytes) == (2, 0)
    assert (tmp_path / "out").read_bytes() == data


def test_the_new_address_of_a_node_is_looked_up(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("x", b"1")
    client.resolve(f"{north.prefix}/x")
    node = north.serve()
    node.stop()
    node.address = type(node.address)("127.0.0.1", 0)
    node.start()
    north.publish_organization(nodes=(NodeEndpoint(node.address, north.node_certificate),))
    client.fetch(f"{north.prefix}/x", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"1"


def test_a_node_that_comes_back_is_waited_for(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("x", b"1")
    node = north.serve()
    node.stop()
    threading.Timer(0.7, node.start).start()
    client.fetch(f"{north.prefix}/x", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"1"


def test_two_fetches_to_one_target_do_not_mix(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("x", content(LARGE))
    node = north.serve()
    entered, go_on = threading.Event(), threading.Event()

    def slow(parts: Iterator[bytes]) -> Iterator[bytes]:
        for part in parts:
            entered.set()
            go_on.wait(90)
            yield part

    node.lies["fetch"] = slow
    first = threading.Thread(target=client.fetch, args=(f"{north.prefix}/x", tmp_path / "out"))
    first.start()
    assert entered.wait(90)
    with pytest.raises(HomeInUse, match="another process is fetching"):
        client.fetch(f"{north.prefix}/x", tmp_path / "out")
    go_on.set()
    first.join(60)
    assert client.verify(tmp_path / "out", f"{north.prefix}/x") == []


# What the owner says no to.


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NotPermitted("it is not for you: ask data@north.example"), "ask data@north.example"),
        (NotFound("no such object"), "no such object"),
        (SourceChanged("the source changed since version 3"), "since version 3"),
    ],
)
def test_what_the_owner_says_is_passed_on(
    north: Organization, client: Client, tmp_path: Path, error: HanseError, text: str
) -> None:
    north.wrap("x", b"1")
    north.serve().refuse = error
    with pytest.raises(type(error), match=text):
        client.fetch(f"{north.prefix}/x", tmp_path / "out")
    only(at=tmp_path)


def test_a_withdrawn_object_is_not_fetched(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("x", b"1")
    north.withdraw("x", "consent was revoked")
    with pytest.raises(Withdrawn, match="consent was revoked"):
        client.fetch(f"{north.prefix}/x", tmp_path / "out")


def test_a_node_that_is_away_for_good(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("x", b"1")
    north.serve().stop()
    with pytest.raises(Unreachable, match="does not answer"):
        client.fetch(f"{north.prefix}/x", tmp_path / "out", patience=0.3)


def test_more_streams_than_are_sensible(client: Client, tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded, match="1 to 32 streams"):
        client.fetch("86.north/x", tmp_path / "out", streams=100)


# An owner's node that lies.


def flipped(parts: Iterator[bytes]) -> Iterator[bytes]:
    first = bytearray(next(parts))
    first[len(first) // 2] ^= 1
    yield bytes(first)
    yield from parts


def flipped_late(parts: Iterator[bytes]) -> Iterator[bytes]:
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
    while True:
        yield bytes(1_000_000)


def empty(parts: Iterator[bytes]) -> Iterator[bytes]:
    return iter(())


def swapped(parts: Iterator[bytes]) -> Iterator[bytes]:
    return reversed(list(parts))


LIES = [flipped, flipped_late, truncated, over_long, endless, empty, swapped]


@pytest.mark.parametrize("name", ["trial", "x"])
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_bytes_that_are_not_those_that_were_signed(
    north: Organization, client: Client, tmp_path: Path, lie: Callable[..., Any], name: str
) -> None:
    north.wrap("trial", {"a": content(150_000, 1), "b": content(150_000, 2)})
    north.wrap("x", content(LARGE))
    node = north.serve()
    node.lies["fetch"] = lie
    with pytest.raises(WrongContent) as raised:
        client.fetch(f"{north.prefix}/{name}", tmp_path / "out")
    assert raised.value.exit_code == 6
    assert not (tmp_path / "out").exists()
    assert node.sent_bytes < 2 * LARGE + 20_000_000  # it was cut off
    node.lies.clear()
    client.fetch(f"{north.prefix}/{name}", tmp_path / "out")
    assert client.verify(tmp_path / "out", f"{north.prefix}/{name}") == []


@pytest.mark.parametrize(
    "lie",
    [
        lambda messages: [node_pb2.HashesResponse(hashes=bytes(32) + messages[0].hashes[32:]), *messages[1:]],
        lambda messages: [*messages, node_pb2.HashesResponse(hashes=bytes(32))],
        lambda messages: messages[:-1],
        lambda messages: itertools.repeat(messages[0], 10_000),
        lambda messages: [],
    ],
    ids=["altered", "one more", "fewer", "endless", "none"],
)
def test_chunk_hashes_that_do_not_match(
    north: Organization, client: Client, tmp_path: Path, lie: Callable[..., Any]
) -> None:
    north.wrap("x", content(LARGE))
    north.serve().lies["hashes"] = lie
    with pytest.raises(WrongContent, match="chunk hashes"):
        client.fetch(f"{north.prefix}/x", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def other_object(north: Organization) -> Callable[..., Any]:
    other = north.wrap("other", b"other")
    return lambda messages: [
        node_pb2.DescribeResponse(
            record=messages[0].record,
            manifest=wire.envelope_to_message(other.manifest_envelope),
            salt=other.salt,
        ),
        *messages[1:],
    ]


def other_record(north: Organization) -> Callable[..., Any]:
    other = north.wrap("other", b"other")
    return lambda messages: [
        node_pb2.DescribeResponse(
            record=wire.envelope_to_message(other.record_envelope),
            manifest=wire.envelope_to_message(other.manifest_envelope),
            salt=other.salt,
        ),
        *messages[1:],
    ]


def wrong_salt(north: Organization) -> Callable[..., Any]:
    return lambda messages: [
        node_pb2.DescribeResponse(record=messages[0].record, manifest=messages[0].manifest, salt=b"x"),
        *messages[1:],
    ]


def unknown_key(north: Organization) -> Callable[..., Any]:
    forged = north.make("x", [element("x", b"forged")], [b"forged"], True, key=SigningKey.generate())
    return lambda messages: [
        node_pb2.DescribeResponse(
            record=wire.envelope_to_message(forged.record_envelope),
            manifest=wire.envelope_to_message(forged.manifest_envelope),
            salt=forged.salt,
        ),
        *(node_pb2.DescribeResponse(page=page) for page in forged.pages),
    ]


@pytest.mark.parametrize(
    ("lie", "error", "text"),
    [
        (other_object, WrongContent, "manifest of .*/other version 1 was offered for .*/x"),
        (other_record, WrongContent, "record of .*/other was offered for .*/x"),
        (wrong_salt, WrongContent, "not the one that its record is committed to"),
        (unknown_key, BadSignature, "not signed by"),
    ],
    ids=["other manifest", "other record", "wrong salt", "unknown key"],
)
def test_a_description_of_something_else(
    north: Organization,
    client: Client,
    tmp_path: Path,
    lie: Callable[[Organization], Callable[..., Any]],
    error: type[HanseError],
    text: str,
) -> None:
    told = lie(north)
    north.wrap("x", b"1")
    north.serve().lies["describe"] = told
    with pytest.raises(error, match=text):
        client.fetch(f"{north.prefix}/x", tmp_path / "out")
    only(at=tmp_path)


def test_an_older_version_is_a_rollback(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("x", b"old")
    north.wrap("x", b"new")
    client.resolve(f"{north.prefix}/x")
    north.objects[f"{north.prefix}/x"].pop()
    with pytest.raises(RolledBack, match=r"version 1 of .* was offered, but version 2 was seen before"):
        client.fetch(f"{north.prefix}/x", tmp_path / "out")


def test_another_version_than_was_asked_for(north: Organization, client: Client, tmp_path: Path) -> None:
    north.wrap("x", b"old")
    north.wrap("x", b"new")
    versions = north.objects[f"{north.prefix}/x"]
    versions[0] = versions[1]
    with pytest.raises(WrongContent, match=r"version 2 of .* was offered, not 1"):
        client.fetch(f"{north.prefix}/x", tmp_path / "out", version=1)


PAGE = {"media_type": "text/csv", "length": 1, "chunk_size": CHUNK, "merkle_root": bytes(32), "sha256": bytes(32)}


@pytest.mark.parametrize(
    "names",
    [
        ["../../x"],
        ["/etc/x"],
        ["C:\\x"],
        ["C:x"],
        ["a/../../x"],
        ["a//b"],
        ["./x"],
        ["x" * 300],
        ["a\nb"],
        ["a\\b"],
        [""],
        ["Visits.csv", "visits.CSV"],
        ["STRASSE", "straße"],
        ["a", "a/b"],
        ["A/b", "a"],
        ["x", "x"],
    ],
    ids=lambda names: "|".join(name[:12] for name in names).encode("unicode_escape").decode() or "empty",
)
def test_names_that_a_hostile_owner_signs(
    north: Organization, client: Client, tmp_path: Path, names: list[str]
) -> None:
    """The owner signs all of it: the names themselves are refused."""
    version = north.wrap("trial", {f"f{n}": b"1" for n in range(len(names))})
    page = raw_page(0, *({**PAGE, "name": name} for name in names))
    hostile(north, version, [page])
    with pytest.raises(WrongContent) as raised:
        client.fetch(f"{north.prefix}/trial", tmp_path / "out")
    assert raised.value.exit_code == 6
    assert not [name for name in names if len(name) > 3 and name in str(raised.value)]
    only(at=tmp_path)


def hostile(north: Organization, version: Any, pages: list[bytes], **changes: Any) -> None:
    """Replaces the version's pages by others that its owner signs."""
    from dataclasses import replace
    from hashlib import sha256

    from hanse import merkle
    from hanse.model.envelope import PayloadType
    from hanse.signing import sign

    manifest = replace(
        version.manifest, pages_root=merkle.root(map(merkle.leaf_hash, pages)), page_count=len(pages), **changes
    )
    envelope = sign(PayloadType.MANIFEST, wire.encode_manifest(manifest), north.key)
    record = replace(version.record, commitment=sha256(version.salt + envelope.digest).digest())
    signed = sign(PayloadType.RECORD, wire.encode_record(record), north.key)
    version.pages, version.manifest_envelope, version.record_envelope = pages, envelope, signed
    north.league.records[version.record.id.key] = signed


@pytest.mark.parametrize(
    "changes",
    [{"element_count": 3}, {"total_bytes": 5}, {"element_count": 1}],
    ids=["more elements", "other bytes", "fewer elements"],
)
def test_a_manifest_that_contradicts_its_pages(
    north: Organization, client: Client, tmp_path: Path, changes: dict[str, Any]
) -> None:
    version = north.wrap("trial", {"a": b"1", "b": b"2"})
    hostile(north, version, version.pages, **changes)
    with pytest.raises(WrongContent):
        client.fetch(f"{north.prefix}/trial", tmp_path / "out")
    only(at=tmp_path)


@pytest.mark.parametrize(
    "field",
    [
        {"chunk_size": 0},
        {"chunk_size": 1},
        {"chunk_size": 1 << 31},
        {"merkle_root": b"short"},
        {"length": 1 << 63},
        {"length": 1 << 62},
        {"media_type": "no media type"},
    ],
    ids=str,
)
def test_an_element_that_makes_no_sense(
    north: Organization, client: Client, tmp_path: Path, field: dict[str, Any]
) -> None:
    version = north.wrap("trial", {"a": b"1"})
    hostile(
        north, version, [raw_page(0, {**PAGE, "name": "a", **field})], total_bytes=field.get("length", 1) % (1 << 63)
    )
    with pytest.raises(WrongContent, match="cannot be accepted"):
        client.fetch(f"{north.prefix}/trial", tmp_path / "out")


@pytest.mark.parametrize(
    ("lie", "text"),
    [
        (lambda messages: messages[:-1], "not those of the manifest"),
        (lambda messages: [*messages, messages[-1]], "more pages"),
        (lambda messages: [messages[0], *([messages[1]] * 10_000)], "more pages"),
        (lambda messages: [messages[0], messages[2], messages[1]], "not those of the manifest"),
        (
            lambda messages: [messages[0], node_pb2.DescribeResponse(page=bytes(limits.MANIFEST_PAGE_BYTES + 1))],
            "large",
        ),
        (lambda messages: [messages[0], node_pb2.DescribeResponse(page=bytes(5_000_000))], "larger than the agreement"),
        (lambda messages: [], "without a record"),
        (lambda messages: messages[1:], "without a record"),
    ],
    ids=["fewer", "more", "endless", "swapped", "too large", "huge", "nothing", "no head"],
)
def test_pages_that_are_not_those_of_the_manifest(
    north: Organization, client: Client, tmp_path: Path, lie: Callable[..., Any], text: str
) -> None:
    north.wrap("trial", {"a": b"1", "b": b"2"}, page_elements=1)
    north.serve().lies["describe"] = lie
    with pytest.raises(WrongContent, match=text):
        client.fetch(f"{north.prefix}/trial", tmp_path / "out")
    only(at=tmp_path)


def test_whoever_answers_with_another_certificate_is_not_believed(
    north: Organization, league: SimulatedLeague, client: Client, tmp_path: Path
) -> None:
    """A certificate of another member, one of the authority in the owner's name: neither is what the owner signed."""
    north.wrap("x", b"1")
    node = north.serve()
    other = league.join(f"86.other{next(_numbers)}")
    impostor = tls.TlsKey.generate()
    request = tls.make_request(impostor, north.prefix)
    issued = tls.issue_member(league.ca_key, league.ca_certificate, request, node_root(), north.prefix, league.now)
    self_made = tls.make_node_certificate(impostor, node_root(), north.prefix, league.now)
    for key, certificate in [(other.tls_key, other.node_certificate), (impostor, issued), (impostor, self_made)]:
        node.stop()
        node.tls_key, node.certificate = key, certificate
        node.start()
        with pytest.raises(VerificationFailed, match=f"does not have the key that {north.prefix} names"):
            client.fetch(f"{north.prefix}/x", tmp_path / "out")
    only(at=tmp_path)


def node_root() -> Any:
    from tests.simulator import ROOT

    return ROOT


def test_a_stream_that_stands_still_is_given_up(
    north: Organization, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STREAM_STALL", 0.5)
    north.wrap("x", content(LARGE))
    released = threading.Event()

    def stall(parts: Iterator[bytes]) -> Iterator[bytes]:
        released.wait(90)
        yield from parts

    north.serve().lies["fetch"] = stall
    started = time.monotonic()
    with pytest.raises(Unreachable, match="sent nothing for"):
        client.fetch(f"{north.prefix}/x", tmp_path / "out", patience=0.1)
    released.set()
    assert time.monotonic() - started < 60
