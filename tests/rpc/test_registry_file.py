"""A registry as one file: it proves itself to a stranger, what was done to it is found, and it becomes a registry."""

import random
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from hanse import transparency, wire
from hanse.errors import HomeInUse, HomeUnusable, VerificationFailed
from hanse.model.identifier import Prefix
from hanse.v1 import registry_file_pb2, registry_pb2
from registry import app, operating
from registry.index import Query, ask
from registry.storage.base import Storage
from registry.storage.sqlite import SqliteStorage
from tests.league import Registry
from tests.processes import run
from tests.rpc.test_registry_check import make

Part = registry_file_pb2.RegistryPart


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("file") / "registry"
    make(folder)
    return folder


@pytest.fixture(scope="module")
def file(home: Path) -> Path:
    path = home.parent / "league.hanse"
    operating.export(home, path)
    return path


def parts_of(data: bytes) -> list[Part]:
    found, at = [], 0
    while at < len(data):
        length = shift = 0
        while True:
            byte, at = data[at], at + 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        found.append(Part.FromString(data[at : at + length]))
        at += length
    return found


def joined(parts: list[Part], *, digest: bool = True) -> bytes:
    """A file of these, with a digest that fits: by somebody who knows the format."""
    data = b""
    for part in parts:
        if digest and part.WhichOneof("part") == "trailer":
            part.trailer.sha256 = sha256(data).digest()
        content = part.SerializeToString()
        length, size = b"", len(content)
        while size > 0x7F:
            length, size = length + bytes((size & 0x7F | 0x80,)), size >> 7
        data += length + bytes((size,)) + content
    return data


def refused(data: bytes, folder: Path) -> str:
    path = folder / "altered.hanse"
    path.write_bytes(data)
    with pytest.raises(VerificationFailed) as raised:
        operating.verify(path)
    return str(raised.value)


def everything(storage: Storage) -> list[object]:
    size = storage.last_position()
    positions = [at for text in ("trial", "weather", "mistake", "7") for at in storage.find(ask(Query(text)), size, 9)]
    prefixes = [each.prefix for each in storage.membership()[1]]
    return [
        storage.head(), storage.changes(0, 10_000, 1 << 30, certificates=True), storage.membership(), positions,
        storage.records_at(positions), [storage.organizations(each, 0) for each in prefixes],
        storage.located(["86.north/one", "86.north/gone"]), storage.located_membership(),
    ]  # fmt: skip


def test_given_a_file_then_a_stranger_proves_it(file: Path, home: Path) -> None:
    told = run("registry.cli", "verify", file, "--json").json
    with app.opened(home) as registry:
        head = registry.storage.head()
        assert told["league"] == registry.authority.fingerprint.hex()
    assert (told["entries"], told["root"], told["members"]) == (head.size, head.root.hex(), 2)
    assert [told[f"{kind}_entries"] for kind in ("record", "organization", "membership", "certificate")] == [
        306, 3, 4, 2,
    ]  # fmt: skip
    said = run("registry.cli", "verify", file).stdout
    assert told["league"] in said
    assert file.stat().st_mode & 0o777 == 0o600


def test_given_a_file_then_no_secret_is_in_it(file: Path, home: Path) -> None:
    data = file.read_bytes()
    for key in (home / "keys").iterdir():
        assert b"".join(key.read_bytes().splitlines()[1:-1])[:40] not in data
    with app.opened(home) as registry:
        assert bytes.fromhex(registry.storage.recall("page_secret") or "") not in data


def test_given_a_file_and_the_keys_then_it_is_the_same_registry_and_serves(
    file: Path, home: Path, tmp_path: Path
) -> None:
    done = run("registry.cli", "import", file, "--home", tmp_path / "new", "--keys", home)
    assert done.code == 0, str(done)
    assert "proved: 315 entries" in done.stdout
    assert app.check(tmp_path / "new", deep=True) == []
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    one, other = SqliteStorage(home / "registry.db"), SqliteStorage(tmp_path / "new" / "registry.db")
    assert everything(one) == everything(other)
    one.close()
    other.close()
    registry = Registry(tmp_path / "new")
    registry.serve()
    try:
        member = registry.join("86.later")
        assert [each.code for each in member.publish(member.record("x", title="Later"))] == [1]
        assert member.resolve("86.north/one").resolutions[0].state == registry_pb2.Resolution.STATE_ACTIVE
    finally:
        registry.stop()
    assert app.check(tmp_path / "new") == []


def test_given_an_empty_registry_then_its_file_is_proved_and_imported(tmp_path: Path) -> None:
    app.init(tmp_path / "empty", "Empty", Prefix("86"))
    operating.export(tmp_path / "empty", tmp_path / "empty.hanse")
    assert operating.verify(tmp_path / "empty.hanse").signed.checkpoint.size == 0
    operating.import_(tmp_path / "empty.hanse", tmp_path / "new", tmp_path / "empty")
    assert app.check(tmp_path / "new") == []


def test_given_a_bit_anywhere_that_was_flipped_then_the_file_is_refused(file: Path, tmp_path: Path) -> None:
    """All of the header and of the trailer, and a sample of what is between."""
    data = file.read_bytes()
    chance = random.Random(22)
    trailer = len(data) - len(joined(parts_of(data)[-1:], digest=False))
    places = [*range(40), *chance.sample(range(40, trailer), 30), *range(trailer, len(data), 9)]
    for at in places:
        altered = bytearray(data)
        altered[at] ^= 1 << chance.randrange(8)
        assert "is not to be believed" in refused(bytes(altered), tmp_path), at


def test_given_a_file_that_was_cut_off_anywhere_then_it_is_refused(file: Path, tmp_path: Path) -> None:
    data = file.read_bytes()
    for length in (0, 1, 7, 500, len(data) // 2, len(data) - 1, len(joined(parts_of(data)[:-1], digest=False))):
        refused(data[:length], tmp_path)
    assert "was cut off" in refused(joined(parts_of(data)[:100]), tmp_path)
    assert "something follows its end" in refused(data + b"\0", tmp_path)


def renumbered(parts: list[Part]) -> list[Part]:
    for position, part in enumerate(parts[1:-1], 1):
        part.entry.position = position
    return parts


def other_league(parts: list[Part], folder: Path) -> list[Part]:
    """A league of one's own, with these entries."""
    app.init(folder / "other", "Other", Prefix("86"))
    with app.opened(folder / "other") as other:
        parts[0].header.authority = other.authority_bytes
        checkpoint = transparency.verify(parts[-1].trailer.checkpoint, wire.decode_authority(AUTHORITY[0])).checkpoint
        named = type(checkpoint)(transparency.origin(other.authority), checkpoint.size, checkpoint.root)
        parts[-1].trailer.checkpoint = transparency.sign(named, other.statements.key, 1_800_000_000)
    return parts


AUTHORITY: list[bytes] = []


def copied(part: Part) -> Part:
    return Part.FromString(part.SerializeToString())


def without(parts: list[Part], number: int) -> list[Part]:
    return [*parts[:number], *parts[number + 1 :]]


def swapped(parts: list[Part], one: int, other: int) -> list[Part]:
    parts[one], parts[other] = parts[other], parts[one]
    return parts


def spliced(parts: list[Part], **change: object) -> list[Part]:
    for name, value in change.items():
        setattr(parts[-1].trailer, name, value)
    return parts


def resigned(parts: list[Part]) -> list[Part]:
    """A record with the signature of another."""
    parts[20].entry.envelope.signatures[0].CopyFrom(parts[21].entry.envelope.signatures[0])
    return parts


FORGERIES: list[tuple[str, Callable[[list[Part]], list[Part]], str]] = [
    ("an entry left out", lambda parts: without(parts, 100), "position 101 comes where position 100 should be"),
    ("an entry left out, renumbered", lambda parts: renumbered(without(parts, 100)), "some are missing, or were added"),
    ("the last entry left out", lambda parts: without(parts, -2), "some are missing, or were added"),
    ("two entries exchanged", lambda parts: swapped(parts, 100, 101), "position 101 comes where position 100"),
    ("two entries exchanged, renumbered", lambda parts: renumbered(swapped(parts, 100, 101)), "re-ordered"),
    (
        "an entry twice",
        lambda parts: renumbered([*parts[:101], copied(parts[100]), *parts[101:]]),
        "does not continue version 1",
    ),
    ("a joining left out", lambda parts: renumbered(without(parts, 1)), "had not joined"),
    ("a record's signature exchanged", resigned, "is not signed by a key that its owner had then"),
    ("another list of members", lambda parts: spliced(parts, members=b""), "its list of members is not the one"),
    ("wrong counts", lambda parts: spliced(parts, records=1), "counts its entries wrongly"),
    ("no checkpoint", lambda parts: spliced(parts, checkpoint=""), "is not to be believed"),
    ("the trailer twice", lambda parts: [*parts, parts[-1]], "follows its end"),
    ("the header twice", lambda parts: [parts[0], *parts], "a part where none belongs"),
    ("no header", lambda parts: parts[1:], "it is no registry's file"),
]


@pytest.mark.parametrize(("forge", "said"), [each[1:] for each in FORGERIES], ids=[each[0] for each in FORGERIES])
def test_given_a_file_that_was_forged_then_what_is_wrong_is_named(
    file: Path, tmp_path: Path, forge: Callable[[list[Part]], list[Part]], said: str
) -> None:
    """By somebody who makes its digest fit."""
    assert said in refused(joined(forge(parts_of(file.read_bytes()))), tmp_path)


def test_given_a_checkpoint_of_an_older_log_or_of_another_league_then_it_is_refused(
    file: Path, home: Path, tmp_path: Path
) -> None:
    AUTHORITY[:] = [(home / "authority.bin").read_bytes()]
    parts = parts_of(file.read_bytes())
    shorter = parts_of(file.read_bytes())
    with app.opened(home) as registry:
        signed = transparency.verify(parts[-1].trailer.checkpoint, registry.authority)
        forged = type(signed.checkpoint)(signed.checkpoint.origin, signed.checkpoint.size, bytes(32))
        shorter[-1].trailer.checkpoint = transparency.sign(forged, registry.statements.key, signed.at)
    assert "exchanged, altered or re-ordered" in refused(joined(shorter), tmp_path)
    assert "a membership that the league's registry did not sign" in refused(
        joined(other_league(parts, tmp_path)), tmp_path
    )


def test_given_other_keys_or_a_home_in_use_then_nothing_is_imported(file: Path, home: Path, tmp_path: Path) -> None:
    app.init(tmp_path / "other", "Other", Prefix("86"))
    with pytest.raises(HomeUnusable, match="are not those of the league"):
        operating.import_(file, tmp_path / "new", tmp_path / "other")
    with pytest.raises(HomeInUse, match="is not empty"):
        operating.import_(file, tmp_path / "other", home)
    altered = bytearray(file.read_bytes())
    altered[-100] ^= 1
    (tmp_path / "altered.hanse").write_bytes(altered)
    with pytest.raises(VerificationFailed):
        operating.import_(tmp_path / "altered.hanse", tmp_path / "new", home)
    assert [*(tmp_path / "new").iterdir()] == []
    again = run("registry.cli", "export", file, "--home", home)
    assert again.code == 7
    assert "is there already" in again.stderr


@pytest.fixture(autouse=True)
def _tidy(tmp_path: Path) -> Iterator[None]:
    yield
    shutil.rmtree(tmp_path, ignore_errors=True)
