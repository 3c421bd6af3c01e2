"""Models as bytes and back: nothing is lost, and nothing that does not parse escapes as anything but InvalidInput."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse import limits, wire
from hanse.client.peer import data_of_response
from hanse.errors import InvalidInput, LimitExceeded
from hanse.model.address import Address
from hanse.model.envelope import Envelope, Signature
from hanse.model.identifier import Identifier, Prefix
from hanse.model.invitation import Invitation
from hanse.model.manifest import Element, ElementName, Manifest, ManifestPage
from hanse.model.organization import Member, Pass, Renewal
from hanse.model.publishing import OutcomeCode, PublishOutcome
from hanse.model.record import (
    Access,
    AccessMode,
    Date,
    ListedElement,
    Metadata,
    ObjectRecord,
    Relation,
    Status,
    Summary,
)
from hanse.model.resolution import Resolution, ResolutionState
from hanse.model.search import Query
from hanse.v1 import envelope_pb2, manifest_pb2, node_pb2, organization_pb2, record_pb2, registry_pb2

DECODERS: list[Callable[[bytes], Any]] = [
    wire.decode_envelope,
    wire.decode_organization,
    wire.decode_authority,
    wire.decode_pass,
    wire.decode_renewal,
    wire.decode_record,
    wire.decode_manifest,
    wire.decode_page,
    lambda data: wire.decode_membership(data, b""),
]

text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=30)
digest = st.binary(min_size=32, max_size=32)
times = st.integers(1, (1 << 40) - 1)


@given(st.sampled_from(DECODERS), st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(decode: Callable[[bytes], Any], data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        decode(data)


@given(st.text(max_size=400))
def test_any_text_is_an_invitation_or_refused(given_text: str) -> None:
    for candidate in (given_text, "hanse-invite:1:" + given_text):
        with pytest.raises(InvalidInput):
            wire.invitation_from_text(candidate)


records = st.builds(
    ObjectRecord,
    id=st.just(Identifier.parse("86.north/x")),
    version=st.just(2),
    previous=digest,
    type=text,
    status=st.sampled_from(Status),
    metadata=st.builds(
        Metadata,
        title=text,
        creators=st.lists(text).map(tuple),
        publication_year=st.integers(0, 3000),
        dates=st.lists(st.builds(Date, text, text)).map(tuple),
        relations=st.lists(st.builds(Relation, st.sampled_from(["Cites", "IsPartOf"]), text)).map(tuple),
        attributes_json=st.sampled_from(["", "{}", '{"a": [1, null]}']),
    ),
    summary=st.builds(
        Summary,
        element_count=st.none() | st.integers(0, 1 << 40),
        total_bytes=st.none() | st.integers(0, 1 << 60),
        media_types=st.sampled_from([(), ("text/csv",)]),
        elements=st.sampled_from([(), (ListedElement("a/b", "text/csv", 5),)]),
    ),
    access=st.builds(Access, st.sampled_from(AccessMode), st.lists(text).map(tuple), st.lists(text).map(tuple)),
    operations=st.sampled_from([("describe", "fetch"), ()]),
    commitment=digest,
    issued_at=times,
    time_to_live=st.integers(0, 1 << 31),
    reason=text,
)


@given(records)
def test_a_record_comes_back(record: ObjectRecord) -> None:
    assert wire.decode_record(wire.encode_record(record)) == record


@given(st.binary(max_size=100), st.lists(st.builds(Signature, text, st.binary(max_size=64)), max_size=4))
def test_an_envelope_comes_back(payload: bytes, signatures: list[Signature]) -> None:
    envelope = Envelope("kind", payload, tuple(signatures))
    assert wire.decode_envelope(wire.encode_envelope(envelope)) == envelope


ELEMENT = Element(ElementName("a/数据"), "text/csv", 5, limits.CHUNK_BYTES, b"m" * 32, b"s" * 32, -7, True)


def test_manifest_and_page_come_back() -> None:
    manifest = Manifest(Identifier.parse("86.north/x"), 3, 1, 5, 1, b"r" * 32, 1000, True)
    assert wire.decode_manifest(wire.encode_manifest(manifest)) == manifest
    page = ManifestPage(7, (ELEMENT, ELEMENT))
    assert wire.decode_page(wire.encode_page(page)) == page


def test_statements_come_back() -> None:
    statement = Pass(Prefix("86.north"), b"l" * 32, 1000, 1600)
    assert wire.decode_pass(wire.encode_pass(statement)) == statement
    renewal = Renewal(Prefix("86.north"), b"l" * 32, 1000, b"csr")
    assert wire.decode_renewal(wire.encode_renewal(renewal)) == renewal


def test_an_invitation_comes_back_however_it_was_pasted() -> None:
    invitation = Invitation((Address("r", 1), Address("::1", 2)), Prefix("86.a"), b"s" * 16, b"l" * 32, 1000, "A 数")
    pasted = wire.invitation_to_text(invitation)
    assert wire.invitation_from_text(pasted) == invitation
    assert wire.invitation_from_text(f"  {pasted[:30]}\n   {pasted[30:]}\n") == invitation
    for cut in (pasted[:-1], pasted[:-10], pasted[:20], pasted[:40] + pasted[41:], pasted.replace("1:", "2:", 1)):
        with pytest.raises(InvalidInput, match=r"paste the whole string again|not an invitation"):
            wire.invitation_from_text(cut)


def test_members_come_back_only_with_their_own_list() -> None:
    member = Member(Prefix("86.a"), "A", 3, 99, "why")
    listed = wire.encode_members([member], [Address("r", 1)])
    from hashlib import sha256

    head = wire.encode_membership_head(4, 1000, sha256(listed).digest(), b"l" * 32)
    membership, league = wire.decode_membership(head, listed)
    assert (membership.members, membership.version, league) == ({member.prefix: member}, 4, b"l" * 32)
    with pytest.raises(InvalidInput, match="not the one that the registry signed"):
        wire.decode_membership(head, listed + b"\x12\x00")


@pytest.mark.parametrize("outcome", [PublishOutcome(b"d" * 32, code, "text") for code in OutcomeCode], ids=str)
def test_an_outcome_comes_back(outcome: PublishOutcome) -> None:
    assert wire.outcome_from_message(wire.outcome_to_message(outcome)) == outcome


def test_an_outcome_of_a_later_agreement_is_worth_another_try() -> None:
    assert wire.outcome_from_message(registry_pb2.PublishOutcome(code=77)).code is OutcomeCode.TRY_AGAIN  # type: ignore[arg-type]


@pytest.mark.parametrize("state", ResolutionState)
def test_a_resolution_comes_back(state: ResolutionState) -> None:
    resolution = Resolution(state, referral=(Address("r", 1),))
    message = registry_pb2.ResolveResponse(resolutions=[wire.resolution_to_message(resolution)])
    assert wire.resolutions_from_message(message) == [resolution]


def test_a_query_comes_back() -> None:
    query = Query("数据", Prefix("86.a"), "Dataset", "s", "text/csv", AccessMode.OPEN, 1, 2, 50, "token")
    assert wire.query_from_message(wire.query_to_message(query)) == query
    assert wire.query_from_message(registry_pb2.SearchRequest()) == Query()


@pytest.mark.parametrize(
    "message",
    [
        registry_pb2.SearchRequest(text="x" * 1025),
        registry_pb2.SearchRequest(page_size=101),
        registry_pb2.SearchRequest(access="maybe"),
        registry_pb2.SearchRequest(owner="no prefix"),
    ],
    ids=["long", "many", "access", "owner"],
)
def test_a_query_that_is_refused(message: registry_pb2.SearchRequest) -> None:
    with pytest.raises(InvalidInput):
        wire.query_from_message(message)


KEY = organization_pb2.IdentityKey(public_key=b"k" * 32, valid_from=1)
OLD = organization_pb2.IdentityKey(public_key=b"k" * 32, valid_from=1, valid_until=2)
ORGANIZATION = {"prefix": "86.a", "version": 1, "keys": [KEY], "issued_at": 1}
RECORD = {
    "id": "86.a/x",
    "version": 1,
    "status": record_pb2.ObjectRecord.STATUS_ACTIVE,
    "access": record_pb2.Access(mode=record_pb2.Access.MODE_OPEN),
    "commitment": bytes(32),
    "issued_at": 1,
}
MANIFEST = {"id": "86.a/x", "version": 1, "pages_root": bytes(32), "issued_at": 1}


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        *[
            (wire.decode_organization, organization_pb2.OrganizationRecord(**{**ORGANIZATION, **changes}))
            for changes in (
                {"prefix": ""},
                {"version": 0},
                {"version": 1, "previous": bytes(32)},
                {"version": 2, "previous": b""},
                {"keys": []},
                {"keys": [OLD]},
                {"keys": [KEY, KEY]},
                {"keys": [organization_pb2.IdentityKey(public_key=bytes(31), valid_from=1)]},
                {"issued_at": 0},
                {"issued_at": -1},
                {"display_name": "\x1b[31m"},
                {"nodes": [organization_pb2.NodeEndpoint(address="nowhere")]},
            )
        ],
        *[
            (wire.decode_record, record_pb2.ObjectRecord(**{**RECORD, **changes}))
            for changes in (
                {"id": "x"},
                {"version": 0},
                {"version": 2},
                {"status": 0},
                {"status": 9},
                {"access": record_pb2.Access()},
                {"commitment": bytes(31)},
                {"issued_at": 0},
                {"reason": "\x00"},
                {"metadata": record_pb2.Metadata(title="\x07")},
                {"metadata": record_pb2.Metadata(attributes_json="[]")},
                {"metadata": record_pb2.Metadata(attributes_json="[" * 100_000)},
                {"metadata": record_pb2.Metadata(relations=[record_pb2.Relation(type="Likes", id="x")])},
                {"summary": record_pb2.Summary(media_types=["x"])},
                {"summary": record_pb2.Summary(elements=[record_pb2.ListedElement(name="../x")])},
            )
        ],
        *[
            (wire.decode_manifest, manifest_pb2.Manifest(**{**MANIFEST, **changes}))
            for changes in (
                {"id": ""},
                {"pages_root": b""},
                {"issued_at": 0},
                {"single_file": True, "element_count": 2},
            )
        ],
    ],
)
def test_a_message_that_makes_no_sense(decode: Callable[[bytes], Any], message: Any) -> None:
    with pytest.raises(InvalidInput):
        decode(message.SerializeToString())


def test_the_valid_ones_of_the_table_are_valid() -> None:
    wire.decode_organization(organization_pb2.OrganizationRecord(**ORGANIZATION).SerializeToString())  # type: ignore[arg-type]
    wire.decode_record(record_pb2.ObjectRecord(**RECORD).SerializeToString())  # type: ignore[arg-type]
    wire.decode_manifest(manifest_pb2.Manifest(**MANIFEST).SerializeToString())  # type: ignore[arg-type]


def test_what_is_too_large_is_refused() -> None:
    with pytest.raises(LimitExceeded, match="65536 bytes"):
        wire.envelope_from_message(envelope_pb2.Envelope(payload=bytes(limits.ENVELOPE_BYTES + 1)))
    with pytest.raises(LimitExceeded, match="4 signatures"):
        wire.envelope_from_message(envelope_pb2.Envelope(signatures=[envelope_pb2.Signature()] * 5))
    with pytest.raises(LimitExceeded, match="page of a manifest"):
        wire.decode_page(bytes(limits.MANIFEST_PAGE_BYTES + 1))


@pytest.mark.parametrize("length", [0, 1, 127, 128, 16_383, 16_384, 1 << 20, (1 << 21) + 1])
def test_bytes_of_a_stream_are_read_without_protobuf(length: int) -> None:
    data = bytes(length)
    assert bytes(data_of_response(node_pb2.FetchResponse(data=data).SerializeToString())) == data


@given(st.binary(max_size=50))
def test_a_message_of_another_shape_is_read_as_protobuf_reads_it(message: bytes) -> None:
    from google.protobuf.message import DecodeError

    try:
        expected = node_pb2.FetchResponse.FromString(message).data
    except DecodeError:
        with pytest.raises(ValueError, match="not a FetchResponse"):
            data_of_response(message)
        return
    assert bytes(data_of_response(message)) == expected
