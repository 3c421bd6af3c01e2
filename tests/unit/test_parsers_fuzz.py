"""Every parser, with anything: it gives a value that comes back as it was, or raises InvalidInput, and nothing else.

Keys and settings on this machine's own disk raise HomeUnusable instead: it is the operator who can mend them.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hanse import limits, trust, wire
from hanse.client.journal import Journal
from hanse.client.peer import data_of_response
from hanse.errors import HomeUnusable, InvalidInput, NotAuthenticated, VerificationFailed
from hanse.model.address import Address
from hanse.model.envelope import Envelope, PayloadType, Signature
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId, PublicKey
from hanse.model.manifest import ElementName
from hanse.model.organization import IdentityKey, NodeEndpoint, OrganizationRecord
from hanse.model.purposes import Purpose
from hanse.model.record import Relation, check_media_type, check_text
from hanse.model.search import Query
from hanse.model.terms import Duty, Party
from hanse.model.terms_json import parse_terms
from hanse.rpc import status, tls
from hanse.signing import SigningKey, is_signed_by, sign
from hanse.v1 import envelope_pb2, manifest_pb2, organization_pb2, record_pb2, registry_pb2
from node import own_policies
from node.cli.operating import parse_since
from node.config import Config
from node.metadata import format_metadata, parse_metadata
from registry import config as registry_config
from registry import duration, index
from tests.garbage import TEXTS, damaged, messages

few = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])  # built field by field
many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
texts = st.text(max_size=300) | st.sampled_from(TEXTS) | st.text("0123456789abcdefx.:-/ ", max_size=60)

KEY = SigningKey.generate()
TLS_KEY = tls.TlsKey.generate()
NORTH = Prefix("86.north")
CERTIFICATE = tls.make_node_certificate(TLS_KEY, Prefix("86"), NORTH, 1_800_000_000)
ORGANIZATION = OrganizationRecord(
    NORTH, 1, b"", "North", "data@north.example", (IdentityKey(KEY.public, 1_800_000_000),),
    (NodeEndpoint(Address("127.0.0.1", 4600), CERTIFICATE),), 1_800_000_000,
)  # fmt: skip
ENVELOPE = sign(PayloadType.ORGANIZATION, wire.encode_organization(ORGANIZATION), KEY)
AUTHORITY = wire.encode_authority(Prefix("86"), "League", CERTIFICATE, KEY.public)

# Texts.

BY_TEXT: dict[str, Callable[[str], Any]] = {
    "prefix": Prefix.parse,
    "identifier": Identifier.parse,
    "key id": KeyId.parse,
    "address": Address.parse,
    "element's name": ElementName.parse,
    "text": check_text,
    "media type": check_media_type,
    "relation": Relation.parse,
    "invitation": wire.invitation_from_text,
    "party": Party.parse,
    "duty": Duty.parse,
    "purpose": Purpose.parse,
    "terms": parse_terms,
    "own policies": lambda text: own_policies.parse(text, "own.cedar"),
    "duration": duration.parse,
    "settings": Config.parse,
    "metadata": parse_metadata,
    "question": lambda text: index.ask(Query(text=text)),
}


@pytest.mark.parametrize("parse", BY_TEXT.values(), ids=BY_TEXT)
@given(text=texts)
@many
def test_any_text_is_a_value_or_wrong_input(parse: Callable[[str], Any], text: str) -> None:
    with contextlib.suppress(InvalidInput):
        parse(text)


COME_BACK: dict[str, Callable[[str], Any]] = {
    name: BY_TEXT[name]
    for name in ("prefix", "identifier", "key id", "address", "element's name", "party", "duty", "purpose")
}


@pytest.mark.parametrize("parse", COME_BACK.values(), ids=COME_BACK)
@given(text=texts)
@many
def test_what_was_parsed_is_parsed_the_same_again(parse: Callable[[str], Any], text: str) -> None:
    with contextlib.suppress(InvalidInput):
        parsed = parse(text)
        assert parse(str(parsed)) == parsed
        assert str(parse(str(parsed))) == str(parsed)


@given(st.integers(1, 999_999), st.sampled_from("smhdw"))
def test_a_duration_comes_back(number: int, unit: str) -> None:
    seconds = duration.parse(f"{number}{unit}")
    assert duration.parse(duration.to_text(seconds)) == seconds or seconds > 999_999


@given(texts | st.from_regex(r"\d{1,12}[smhdw]|\d{1,6}-\d{1,3}-\d{1,3}(T\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?)?"))
@example("9999-12-31T23:59:59-14:00")
@example("0001-01-01")
@many
def test_a_time_that_was_typed_is_a_number_or_wrong_usage(text: str) -> None:
    with contextlib.suppress(click.BadParameter):
        assert isinstance(parse_since(text, 1_800_000_000), int)


@given(st.binary(max_size=300))
@many
def test_metadata_of_any_bytes(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        parse_metadata(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "value", "id", "a"]), inner),
    max_leaves=6,
)
METADATA = ["title", "creators", "publication_year", "dates", "relations", "attributes", "subjects", "language", "nope"]


@given(st.dictionaries(st.sampled_from(METADATA), json_values, max_size=4))
@many
def test_metadata_of_any_json_comes_back_or_is_wrong_input(said: dict[str, Any]) -> None:
    import json

    with contextlib.suppress(InvalidInput):
        parsed = parse_metadata(json.dumps(said))
        assert parse_metadata(format_metadata(parsed)) == parsed


@given(st.integers(100, 100_000))
@settings(max_examples=5, deadline=None)
def test_metadata_that_is_nested_too_deep(depth: int) -> None:
    for text in ('{"attributes": ' + "[" * depth, '{"attributes": {"a": ' + "[" * depth + "]" * depth + "}}"):
        with contextlib.suppress(InvalidInput):
            parse_metadata(text)


@given(
    st.dictionaries(
        st.sampled_from(["root", "name", "listen", "advertise", "metrics", "referrals", "calls_per_second", "x"]),
        st.sampled_from(
            ['"86"', '"a:1"', '["a:1"]', "1", "-1", "1e400", "nan", "true", "{}", '{"10"=["b:2"]}', '"\\u0000"']
        ),
    )
)
@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_registrys_settings(tmp_path: Path, said: dict[str, str]) -> None:
    path = tmp_path / "registry.toml"
    path.write_text("".join(f"{name} = {value}\n" for name, value in said.items()))
    with contextlib.suppress(HomeUnusable):
        assert registry_config.load(path).root == Prefix("86")


# Searches.


@given(texts, texts, texts, st.integers(-(1 << 63), (1 << 63) - 1))
@many
def test_any_question_is_one_that_the_database_understands(text: str, kind: str, subject: str, when: int) -> None:
    import sqlite3

    with contextlib.suppress(InvalidInput):
        question = index.ask(Query(text=text, type=kind, subject=subject, media_type=kind, issued_from=when))
        with contextlib.closing(sqlite3.connect(":memory:")) as database:
            columns = ", ".join((*index.TEXT_COLUMNS, "facets"))
            database.execute(f"CREATE VIRTUAL TABLE search USING fts5({columns})")
            database.execute(
                "SELECT rowid FROM search WHERE search MATCH ?", (index.expression(question, {}),)
            ).fetchall()


@given(st.text(max_size=80) | st.from_regex(r"[A-Za-z0-9_-]{36,44}={0,2}", fullmatch=True))
@many
def test_no_page_token_can_be_made_up(token: str) -> None:
    with pytest.raises(InvalidInput):
        index.read_page_token(token, index.ask(Query(text="x")), b"secret")


@given(st.integers(0, (1 << 63) - 1), st.integers(0, (1 << 32) - 1), st.data())
@many
def test_a_page_token_comes_back_for_its_own_question_only(as_of: int, offset: int, data: st.DataObject) -> None:
    question, page = index.ask(Query(text="x")), index.Page(as_of, offset)
    token = index.page_token(page, question, b"secret")
    assert index.read_page_token(token, question, b"secret") == page
    with pytest.raises(InvalidInput):
        index.read_page_token(token, index.ask(Query(text="y")), b"secret")
    broken = data.draw(damaged(token.encode())).decode("latin-1")
    with contextlib.suppress(InvalidInput):
        assert index.read_page_token(broken, question, b"secret") == page


# Messages.

DECODED: dict[type[Message], Callable[[bytes], Any]] = {
    envelope_pb2.Envelope: wire.decode_envelope,
    organization_pb2.OrganizationRecord: wire.decode_organization,
    organization_pb2.Authority: wire.decode_authority,
    organization_pb2.Pass: wire.decode_pass,
    organization_pb2.Renewal: wire.decode_renewal,
    organization_pb2.MembershipHead: lambda data: wire.decode_membership(data, b""),
    record_pb2.ObjectRecord: wire.decode_record,
    manifest_pb2.Manifest: wire.decode_manifest,
    manifest_pb2.ManifestPage: wire.decode_page,
}


@pytest.mark.parametrize("kind", DECODED, ids=lambda kind: kind.DESCRIPTOR.name)
@given(data=st.data())
@few
def test_a_message_that_makes_no_sense_is_wrong_input(kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(kind))
    with contextlib.suppress(InvalidInput):
        DECODED[kind](message.SerializeToString())


FROM_MESSAGE: dict[type[Message], Callable[[Any], Any]] = {
    registry_pb2.SearchRequest: wire.query_from_message,
    registry_pb2.ResolveResponse: wire.resolutions_from_message,
    registry_pb2.SearchResponse: wire.search_result_from_message,
    registry_pb2.PublishOutcome: wire.outcome_from_message,
    registry_pb2.Change: wire.change_from_message,
    envelope_pb2.Envelope: wire.envelope_from_message,
}


@pytest.mark.parametrize("kind", FROM_MESSAGE, ids=lambda kind: kind.DESCRIPTOR.name)
@given(data=st.data())
@few
def test_an_answer_that_makes_no_sense_is_wrong_input(kind: type[Message], data: st.DataObject) -> None:
    with contextlib.suppress(InvalidInput):
        FROM_MESSAGE[kind](data.draw(messages(kind)))


@given(messages(organization_pb2.MemberList), messages(organization_pb2.MembershipHead))
@few
def test_a_list_of_members_that_makes_no_sense_but_is_signed(listed: Any, head: Any) -> None:
    from hashlib import sha256

    members = listed.SerializeToString()
    head.members_sha256 = sha256(members).digest()
    with contextlib.suppress(InvalidInput):
        wire.decode_membership(head.SerializeToString(), members)


@given(damaged(wire.encode_organization(ORGANIZATION)))
@many
def test_a_damaged_organization_record_is_another_or_wrong_input(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        decoded = wire.decode_organization(data)
        assert wire.decode_organization(wire.encode_organization(decoded)) == decoded


@given(damaged(wire.encode_envelope(ENVELOPE)))
@many
def test_a_damaged_envelope_is_believed_only_if_what_was_signed_is_whole(data: bytes) -> None:
    try:
        envelope = wire.decode_envelope(data)
        verified = trust.organization(envelope, pinned=None, now=1_800_000_000)
    except (InvalidInput, VerificationFailed):
        return
    assert verified.record == ORGANIZATION


@given(damaged(wire.invitation_to_text(wire.Invitation((Address("r", 1),), NORTH, b"s" * 16, b"l" * 32, 9)).encode()))
@many
def test_an_invitation_that_was_altered_is_told(data: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        told = wire.invitation_from_text(data.decode("latin-1"))
        assert (told.prefix, told.secret, told.league) == (NORTH, b"s" * 16, b"l" * 32)


@given(damaged(AUTHORITY))
@many
def test_an_authority_is_the_one_of_the_fingerprint_or_none(data: bytes) -> None:
    from hashlib import sha256

    with contextlib.suppress(VerificationFailed):
        assert trust.authority(data, sha256(AUTHORITY).digest()).root == Prefix("86")


# What is signed, and what signs.


@given(
    st.sampled_from([*PayloadType, "x"]),
    st.binary(max_size=100),
    st.lists(
        st.builds(Signature, st.sampled_from(["", str(KEY.public.key_id), "x"]), st.binary(max_size=64)), max_size=4
    ),
)
@many
def test_no_signature_is_made_up(kind: str, payload: bytes, signatures: list[Signature]) -> None:
    envelope = Envelope(kind, payload, tuple(signatures))
    assert not is_signed_by(envelope, KEY.public)
    now, league = 1_800_000_000, bytes(32)
    for verify in (
        lambda: trust.organization(envelope, pinned=None, now=now),
        lambda: trust.record(envelope, ORGANIZATION, now=now),
        lambda: trust.membership(envelope, b"", wire.decode_authority(AUTHORITY), now=now),
    ):
        with pytest.raises(VerificationFailed):
            verify()
    for check in (trust.caller, trust.renewal):
        with pytest.raises(NotAuthenticated):
            check(envelope, KEY.public, league, now=now)


@given(st.binary(max_size=40))
def test_a_public_key_is_32_bytes_or_wrong_input(raw: bytes) -> None:
    with contextlib.suppress(InvalidInput):
        assert PublicKey.parse(raw).raw == raw
        assert len(raw) == 32


BY_BYTES: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "certificate": (tls.read_certificate, CERTIFICATE),
    "certificate, PEM": (tls.read_pem_certificate, tls.to_pem(CERTIFICATE)),
    "certificate, from PEM": (tls.from_pem, tls.to_pem(CERTIFICATE)),
    "request": (tls.request_key_digest, tls.make_request(TLS_KEY, NORTH)),
}


@pytest.mark.parametrize(("read", "true"), BY_BYTES.values(), ids=BY_BYTES)
@given(data=st.data())
@few
def test_certificates_that_are_none(read: Callable[[bytes], Any], true: bytes, data: st.DataObject) -> None:
    read(true)
    with contextlib.suppress(InvalidInput):
        read(data.draw(st.binary(max_size=200) | damaged(true)))


KEYS: dict[str, tuple[Callable[[bytes], Any], bytes]] = {
    "identity": (SigningKey.from_pem, KEY.to_pem()),
    "identity, with a passphrase": (lambda pem: SigningKey.from_pem(pem, "x"), KEY.to_pem("x")),
    "TLS": (tls.TlsKey.from_pem, TLS_KEY.to_pem()),
}


@pytest.mark.parametrize(("read", "true"), KEYS.values(), ids=KEYS)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_keys_that_are_damaged(read: Callable[[bytes], Any], true: bytes, data: st.DataObject) -> None:
    with contextlib.suppress(HomeUnusable):
        read(data.draw(st.binary(max_size=200) | damaged(true)))


# What comes back from a peer, and what lies on this disk.


@given(st.binary(max_size=100) | damaged(b"\x0a\x05hello"))
@many
def test_any_message_of_a_fetch_is_bytes_or_refused(message: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert len(data_of_response(message)) <= len(message)


@given(st.text() | st.sampled_from(TEXTS))
def test_a_peers_text_is_made_safe(text: str) -> None:
    cleaned = status.clean(text)
    assert cleaned == "" or cleaned.isprintable()
    assert status.clean(cleaned) == cleaned


@given(st.binary(max_size=200) | st.lists(st.integers(0, (1 << 64) - 1), max_size=12).map(
    lambda numbers: bytes(32) + b"".join(each.to_bytes(8, "little") for each in numbers)
))  # fmt: skip
@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_a_journal_with_anything_in_it_claims_a_bounded_amount(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "journal"
    path.write_bytes(data)
    journal = Journal.open(path, bytes(32))
    if journal is not None:
        journal.close()
        assert len(journal.elements) <= limits.ELEMENT_CHUNKS
        assert sum(map(len, journal.chunks.values())) <= limits.ELEMENT_CHUNKS
