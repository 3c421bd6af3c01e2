"""What the verifier says again in its own words agrees with the code that everybody else uses."""

import secrets
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse import merkle, papers, trust, verifier, wire, wire_papers
from hanse.errors import HanseError, InvalidInput
from hanse.evidence import checkpoint
from hanse.model import keys, purposes
from hanse.model.envelope import PayloadType, Signature
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.organization import IdentityKey, OrganizationRecord
from hanse.model.papers import AccessRequest, Deletion, Delivered, Denial, Grant, Receipt, Revocation, joined
from hanse.model.purposes import Purpose
from hanse.model.terms import Conditions, Duty, DutyKind, Operation
from hanse.signing import SigningKey, sign

NORTH, ACME = Prefix("86.north"), Prefix("86.acme")
times = st.integers(1, (1 << 40) - 1)
digests = st.binary(min_size=32, max_size=32)
nonces = st.binary(min_size=16, max_size=16)
words = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=40)
prefixes = st.sampled_from([NORTH, ACME, Prefix("86.a-b.c0")])
ids = st.sampled_from([Identifier.of(NORTH, each) for each in ("trial", "Trial 7", "数据/二", "x" * 400)])
named_purposes = st.one_of(
    st.sampled_from(purposes.NAMES).map(Purpose),
    words.filter(lambda text: Purpose.parse(text).name == text).map(Purpose.parse),
)
some_purposes = st.lists(named_purposes, max_size=4, unique=True).map(tuple)
limits_ = st.one_of(st.none(), st.integers(1, (1 << 63) - 1))
duties = st.one_of(
    st.integers(1, 1 << 40).map(lambda seconds: Duty(DutyKind.DELETE_AFTER, seconds)),
    words.map(lambda text: Duty(DutyKind.ATTRIBUTE, 0, text)),
    words.map(lambda text: Duty(DutyKind.OTHER, 0, text)),
    st.just(Duty(DutyKind.DO_NOT_PASS_ON)),
)


@st.composite
def conditions(draw: st.DrawFn) -> Conditions:
    begin, end = draw(st.one_of(st.none(), st.integers(1, 50))), draw(st.one_of(st.none(), st.integers(51, 99)))
    owed = tuple(draw(st.lists(duties, max_size=3)))
    may_pass = draw(st.booleans()) and all(each.kind is not DutyKind.DO_NOT_PASS_ON for each in owed)
    small = st.one_of(st.none(), st.integers(1, 5), limits_)
    return Conditions(
        draw(st.sampled_from([(Operation.FETCH,), (Operation.DESCRIBE, Operation.FETCH), (Operation.DESCRIBE,)])),
        draw(some_purposes), begin, end, draw(small), draw(small), owed, may_pass,
    )  # fmt: skip


parts = st.builds(
    lambda whole, a, b, c: Delivered(a, b) if whole else Delivered(a, 0, c, b),
    st.booleans(), st.integers(0, 30), st.integers(1, 9), st.integers(0, 30),
)  # fmt: skip
receipts = st.builds(
    Receipt, nonces, prefixes, prefixes, ids, st.integers(1, (1 << 63) - 1), digests, st.one_of(digests, st.just(b"")),
    some_purposes, st.lists(parts, max_size=6).map(joined), st.integers(0, (1 << 63) - 1), st.integers(1, 1 << 38),
    st.integers(1 << 38, (1 << 40) - 1),
)  # fmt: skip
grants = st.builds(
    Grant, nonces, prefixes, prefixes, st.one_of(st.none(), st.just(KeyId("ab" * 16))),
    st.lists(ids, min_size=1, max_size=3).map(tuple), conditions(), st.one_of(digests, st.just(b"")),
    st.one_of(digests, st.just(b"")), times,
)  # fmt: skip
requests = st.builds(
    AccessRequest, nonces, prefixes, ids, st.just((Operation.FETCH,)), some_purposes, words,
    st.one_of(st.none(), times), times,
)  # fmt: skip
denials = st.builds(Denial, digests, prefixes, words, times)
revocations = st.builds(Revocation, digests, prefixes, words, times)
deletions = st.builds(
    Deletion, prefixes, prefixes, ids, st.integers(1, 99), digests, st.sampled_from(["expired", "revoked"]), times
)

KINDS: dict[str, tuple[Any, Callable[[Any], bytes], Callable[[bytes], Any]]] = {
    "receipt": (receipts, wire_papers.encode_receipt, wire_papers.decode_receipt),
    "grant": (grants, wire_papers.encode_grant, wire_papers.decode_grant),
    "request": (requests, wire_papers.encode_request, wire_papers.decode_request),
    "denial": (denials, wire_papers.encode_denial, wire_papers.decode_denial),
    "revocation": (revocations, wire_papers.encode_revocation, wire_papers.decode_revocation),
    "deletion": (deletions, wire_papers.encode_deletion, wire_papers.decode_deletion),
}


def theirs(conditions: Conditions) -> verifier.Conditions:
    numbers = {each: number for number, each in enumerate(DutyKind, 1)}
    return verifier.Conditions(
        tuple(each.value for each in conditions.operations), tuple(map(str, conditions.purposes)),
        conditions.valid_from, conditions.valid_until, conditions.max_fetches, conditions.max_bytes,
        tuple((numbers[each.kind], each.seconds, each.text) for each in conditions.duties), conditions.pass_on,
    )  # fmt: skip


def told(paper: Any) -> dict[str, Any]:
    """A paper's fields by the verifier's names."""
    names = {"issued_at": "at", "deleted_at": "at", "request": "of", "grant": "of"}
    match paper:
        case Denial() | Revocation():
            found = {names.get(each, each): getattr(paper, each) for each in type(paper).__slots__}
        case _:
            found = {
                {"issued_at": "at", "deleted_at": "at"}.get(each, each): getattr(paper, each)
                for each in type(paper).__slots__
            }
    plain: dict[str, Any] = {}
    for name, value in found.items():
        match value:
            case Prefix() | Identifier() | KeyId():
                plain[name] = str(value)
            case Conditions():
                plain[name] = theirs(value)
            case tuple() if name == "delivered":
                plain[name] = tuple((e.element, e.elements, e.first_chunk, e.chunks) for e in value)
            case tuple():
                plain[name] = tuple(map(str, value))
            case _:
                plain[name] = "" if name == "to_key" and value is None else value
    return plain


def agrees(kind: str, payload: bytes) -> None:
    """Both read it and find the same, or both refuse it."""
    try:
        ours = KINDS[kind][2](payload)
    except InvalidInput:
        ours = None
    try:
        found = verifier.READERS[kind](payload)
    except verifier.Malformed as error:
        if "group" in str(error):
            return  # protobuf's own reader lets pass what it skips in a group, whatever it is
        found = None
    assert (ours is None) == (found is None), (kind, payload.hex(), ours, found)
    if ours is not None:
        assert found._asdict().items() <= told(ours).items()


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_paper_is_read_alike(kind: str, data: st.DataObject) -> None:
    strategy, encode, decode = KINDS[kind]
    paper = data.draw(strategy)
    payload = encode(paper)
    assert decode(payload) == paper
    agrees(kind, payload)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=250, deadline=None)
def test_a_damaged_paper_is_read_or_refused_alike(kind: str, data: st.DataObject) -> None:
    strategy, encode, _ = KINDS[kind]
    payload = bytearray(encode(data.draw(strategy)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload)))
        match data.draw(st.sampled_from(["flip", "cut", "put", "double", "drop"])):
            case "flip" if at < len(payload):
                payload[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del payload[at:]
            case "put":
                payload[at:at] = data.draw(st.binary(min_size=1, max_size=12))
            case "double":
                payload += payload[at:]
            case _:
                del payload[at : at + data.draw(st.integers(1, 40))]
    agrees(kind, bytes(payload))


@given(conditions(), conditions())
@settings(max_examples=400, deadline=None)
def test_within_means_the_same(inner: Conditions, outer: Conditions) -> None:
    assert verifier.is_within(theirs(inner), theirs(outer)) == inner.is_within(outer)
    assert verifier.is_within(theirs(inner), theirs(inner))


def test_the_vocabulary_and_the_weak_keys_are_the_same() -> None:
    assert {name: tuple(each) for name, each in purposes._VOCABULARY.items()} == verifier.PURPOSES
    assert purposes._SPELLINGS == verifier._SPELLINGS
    assert keys._SMALL_ORDER == verifier._SMALL_ORDER


@given(st.binary(max_size=300))
@settings(max_examples=500, deadline=None)
def test_an_envelope_of_any_bytes_is_read_or_refused_alike(data: bytes) -> None:
    envelope_agrees(data)


@given(st.binary(max_size=80), st.lists(st.tuples(words, st.binary(max_size=64)), max_size=5), st.data())
@settings(max_examples=200, deadline=None)
def test_an_envelope_is_read_or_refused_alike(
    payload: bytes, signatures: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    from hanse.model.envelope import Envelope

    encoded = bytearray(wire.encode_envelope(Envelope("x", payload, tuple(Signature(*each) for each in signatures))))
    envelope_agrees(bytes(encoded))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    envelope_agrees(bytes(encoded))


def envelope_agrees(data: bytes) -> None:
    try:
        ours = wire.decode_envelope(data)
    except InvalidInput:
        with pytest.raises(verifier.Malformed):
            verifier.read_envelope(data)
        return
    try:
        found = verifier.read_envelope(data)
    except verifier.Malformed as error:
        if "group" not in str(error):
            raise
        return
    assert (found.type, found.payload) == (ours.payload_type, ours.payload)
    assert [tuple(each) for each in found.signatures] == [(each.keyid, each.sig) for each in ours.signatures]
    assert found.encoding == ours.pre_authentication_encoding


# Signatures.


def organization(prefix: Prefix, *signers: SigningKey) -> OrganizationRecord:
    current, *before = signers
    keys = (IdentityKey(current.public, 1), *(IdentityKey(each.public, 1, 100 * n) for n, each in enumerate(before, 1)))
    return OrganizationRecord(prefix, 1 + len(before), b"", "", "", keys, (), 1)


def known(record: OrganizationRecord) -> verifier.Organization:
    found = tuple(
        verifier.Key(each.public_key.raw, str(each.public_key.key_id), each.valid_from, each.valid_until)
        for each in record.keys
    )
    return verifier.Organization(str(record.prefix), "", found, record.version, b"", True)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whether_a_receipt_is_signed_is_judged_alike(data: st.DataObject) -> None:
    north, acme = [[SigningKey.generate() for _ in range(3)] for _ in range(2)]
    owner, consumer = organization(NORTH, *north), organization(ACME, *acme)
    ended = data.draw(st.sampled_from([50, 100, 101, 200, 300]))
    receipt = Receipt(
        secrets.token_bytes(16), NORTH, ACME, Identifier.of(NORTH, "x"), 1, bytes(32), b"", (), (), 0, 1, ended
    )
    stranger = SigningKey.generate()
    chosen = data.draw(st.lists(st.sampled_from([*north, *acme, stranger]), max_size=4, unique=True))
    envelope = sign(PayloadType.RECEIPT, wire_papers.encode_receipt(receipt), *chosen)
    if chosen and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(chosen) - 1))
        broken = list(envelope.signatures)
        broken[at] = data.draw(
            st.sampled_from([
                Signature(broken[at].keyid, bytes(64)), Signature("ff" * 16, broken[at].sig),
                Signature(broken[at].keyid, b""), broken[0],
            ])
        )  # fmt: skip
        envelope = type(envelope)(envelope.payload_type, envelope.payload, tuple(broken))
    try:
        signed = {str(each) for each in papers.verify_receipt(envelope, owner, consumer)[1]}
    except HanseError:
        signed = set()
    world = verifier.World({"86.north": known(owner), "86.acme": known(consumer)}, None, frozenset())
    theirs = verifier.read_envelope(wire.encode_envelope(envelope))
    body = verifier.read_receipt(theirs.payload)
    signers = tuple(
        verifier.signer(theirs, theirs.encoding, prefix, world.organizations[prefix], body.at)
        for prefix in (body.owner, body.consumer)
    )
    paper = verifier.Paper(b"", body, signers, -1, b"", None)
    whole = verifier._signature_problem("receipt", theirs, theirs.encoding, paper, world)
    half = verifier._signature_problem("half-receipt", theirs, theirs.encoding, paper, world)
    good = {each.prefix for each in signers if each.state == verifier.GOOD}
    if signed == {"86.north", "86.acme"}:
        assert good == signed
        assert half
    if not whole:
        assert signed == {"86.north", "86.acme"}
    if not half:
        assert len(signed) == 1
        assert good == signed


def test_a_chain_of_organization_records_is_followed_alike() -> None:
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from tests.evidence_year import Party

    with TemporaryDirectory() as folder:
        party = Party.make(Path(folder) / "north", "86.north")
        for year in range(1, 4):
            party.rotate(party.record.issued_at + year * 1000)  # type: ignore[union-attr]
        found = None
        for envelope in party.history:
            found = verifier.follow(found, verifier.read_envelope(wire.encode_envelope(envelope)))
        assert found is not None
        assert (found.digest, found.version, found.complete) == (party.verified.digest, 4, True)
        for left_out in range(3):
            chain = party.history[:left_out] + party.history[left_out + 1 :]
            with pytest.raises(HanseError):
                trust.chain(chain, pinned=None, now=1 << 39)
            try:
                found = None
                for envelope in chain:
                    found = verifier.follow(found, verifier.read_envelope(wire.encode_envelope(envelope)))
                assert not found or not found.complete
            except verifier.Malformed:
                pass


# Trees and notes.


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 100])
def test_trees_and_proofs_are_the_same(size: int) -> None:
    leaves = [merkle.leaf_hash(b"%d" % number) for number in range(size)]
    tree = verifier.Tree()
    for leaf in leaves:
        tree.add(leaf)
    root = merkle.root(leaves)
    assert tree.root() == root

    def node(level: int, position: int) -> bytes:
        return merkle.root(leaves[position << level : (position + 1) << level])

    for position in range(size):
        proof = merkle.inclusion_proof(node, position, size)
        joined_proof = b"".join(proof)
        assert verifier.root_from_proof(leaves[position], position, size, joined_proof) == root
        for other in range(size):
            if other != position:
                assert verifier.root_from_proof(leaves[position], other, size, joined_proof) != root
        if proof:
            assert verifier.root_from_proof(leaves[position], position, size, joined_proof[32:]) != root
        assert verifier.root_from_proof(leaves[position], position, size, joined_proof + bytes(32)) != root


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_checkpoints_are_read_or_refused_alike(data: st.DataObject) -> None:
    key, other = SigningKey.generate(), SigningKey.generate()
    name = checkpoint.origin(NORTH)
    note = checkpoint.sign(checkpoint.Checkpoint(name, data.draw(st.integers(1, 1 << 40)), bytes(32)), key)
    cosigned = checkpoint.sign(checkpoint.parse(note)[0], other).rpartition("\n\n")[2]
    note = data.draw(st.sampled_from([note, note + cosigned]))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(note) - 1))
        note = note[:at] + data.draw(st.sampled_from(["", "x", "\n", " ", "0", "="])) + note[at + 1 :]
    organization_ = organization(NORTH, key)
    try:
        ours = checkpoint.read(note, name, [each.public_key for each in organization_.keys])
    except HanseError:
        with pytest.raises(verifier.Malformed):
            verifier.read_note(note, known(organization_))
        return
    found = verifier.read_note(note, known(organization_))
    assert (found.size, found.root) == (ours.size, ours.root)


@given(st.integers(0, 70), st.integers(0, 70), st.integers(0, 9), st.booleans())
def test_both_agree_on_which_log_continues_which(old: int, more: int, spoilt: int, truly: bool) -> None:
    leaves = [merkle.leaf_hash(b"%d" % n) for n in range(old + more)]
    node = merkle.nodes(leaves or [bytes(32)])
    proof = list(merkle.consistency_proof(node, old, old + more))
    if not truly and spoilt < len(proof):
        proof[spoilt] = bytes(32)
    elif not truly:
        proof.append(bytes(32))
    before, after = (verifier.Checkpoint(size, merkle.root(leaves[:size]), "") for size in (old, old + more))
    try:
        merkle.verify_consistency(before.size, before.root, after.size, after.root, proof)
        expected = True
    except HanseError:
        expected = False
    assert expected is truly
    assert verifier.continues(before, after, b"".join(proof)) is expected
