"""The models as protobuf messages and back. SPEC.md sections 3 to 10 say what each field means.

Messages live between a socket and this module. Whatever does not parse raises InvalidInput; nothing else
escapes. Bytes that were signed come in and go out as they are: only ``encode_*`` makes new ones.
"""

import base64
import binascii
from hashlib import sha256
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from hanse import limits
from hanse.errors import InvalidInput, LimitExceeded
from hanse.model.address import Address
from hanse.model.envelope import Envelope, Signature
from hanse.model.identifier import Identifier, Prefix
from hanse.model.invitation import SCHEME, Invitation
from hanse.model.keys import PublicKey
from hanse.model.manifest import Element, ElementName, Manifest, ManifestPage
from hanse.model.organization import (
    Authority,
    IdentityKey,
    Member,
    Membership,
    NodeEndpoint,
    OrganizationRecord,
    Pass,
    Renewal,
)
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
    check_media_type,
    check_text,
)
from hanse.model.resolution import Change, Resolution, ResolutionState
from hanse.model.search import Query, SearchResult
from hanse.v1 import envelope_pb2, manifest_pb2, organization_pb2, record_pb2, registry_pb2

M = TypeVar("M", bound=Message)
_MOST = (1 << 63) - 1  # what a database's integer holds

_STATUS_OUT = {
    Status.ACTIVE: record_pb2.ObjectRecord.STATUS_ACTIVE,
    Status.WITHDRAWN: record_pb2.ObjectRecord.STATUS_WITHDRAWN,
}
_STATUS_IN = {number: status for status, number in _STATUS_OUT.items()}
_ACCESS_OUT = {
    AccessMode.OPEN: record_pb2.Access.MODE_OPEN,
    AccessMode.ON_REQUEST: record_pb2.Access.MODE_ON_REQUEST,
    AccessMode.COMPUTE_ONLY: record_pb2.Access.MODE_COMPUTE_ONLY,
}
_ACCESS_IN = {number: mode for mode, number in _ACCESS_OUT.items()}


def parse(kind: type[M], data: bytes) -> M:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise InvalidInput(f"the bytes are not a {kind.DESCRIPTOR.name}") from None


def _digest(data: bytes, what: str) -> bytes:
    if len(data) != 32:
        raise InvalidInput(f"{what} has 32 bytes, not {len(data)}")
    return data


def _previous(data: bytes, version: int) -> bytes:
    if not 1 <= version <= _MOST:
        raise InvalidInput("a version is 1 or more, and less than 2^63")
    if version == 1:
        if data:
            raise InvalidInput("version 1 has no version before it")
        return data
    return _digest(data, "the digest of the version before")


def _time(seconds: int, what: str) -> int:
    if not 0 < seconds < 1 << 40:
        raise InvalidInput(f"{what} is not a time")
    return seconds


# Envelopes.


def envelope_to_message(envelope: Envelope) -> envelope_pb2.Envelope:
    return envelope_pb2.Envelope(
        payload_type=envelope.payload_type,
        payload=envelope.payload,
        signatures=[envelope_pb2.Signature(keyid=each.keyid, sig=each.sig) for each in envelope.signatures],
    )


def envelope_from_message(message: envelope_pb2.Envelope) -> Envelope:
    if len(message.payload) > limits.ENVELOPE_BYTES:
        raise LimitExceeded(f"an envelope's payload has at most {limits.ENVELOPE_BYTES} bytes")
    if len(message.signatures) > 4:
        raise LimitExceeded("an envelope has at most 4 signatures")
    if len(message.payload_type) > 128 or any(
        len(each.keyid) > 64 or len(each.sig) > 64 for each in message.signatures
    ):
        # No signature covers a keyid or another signature: whoever relays an envelope could blow it up.
        raise LimitExceeded("an envelope's payload type, key id or signature is too long")
    return Envelope(
        message.payload_type,
        message.payload,
        tuple(Signature(each.keyid, each.sig) for each in message.signatures),
    )


def encode_envelope(envelope: Envelope) -> bytes:
    return envelope_to_message(envelope).SerializeToString()


def decode_envelope(data: bytes) -> Envelope:
    return envelope_from_message(parse(envelope_pb2.Envelope, data))


# Organizations and the league.


def encode_organization(record: OrganizationRecord) -> bytes:
    return organization_pb2.OrganizationRecord(
        prefix=str(record.prefix),
        version=record.version,
        previous=record.previous,
        display_name=record.display_name,
        contact=record.contact,
        keys=[
            organization_pb2.IdentityKey(
                public_key=key.public_key.raw, valid_from=key.valid_from, valid_until=key.valid_until or 0
            )
            for key in record.keys
        ],
        nodes=[
            organization_pb2.NodeEndpoint(
                address=str(node.address) if node.address else "", tls_certificate=node.tls_certificate
            )
            for node in record.nodes
        ],
        issued_at=record.issued_at,
    ).SerializeToString()


def decode_organization(data: bytes) -> OrganizationRecord:
    message = parse(organization_pb2.OrganizationRecord, data)
    if not message.keys:
        raise InvalidInput("an organization has at least one key")
    if any(key.valid_until for key in message.keys[:1]) or not all(key.valid_until for key in message.keys[1:]):
        raise InvalidInput("the first key of an organization is current, those after it are not")
    for text in (message.display_name, message.contact):
        check_text(text)
    return OrganizationRecord(
        prefix=Prefix.parse(message.prefix),
        version=message.version,
        previous=_previous(message.previous, message.version),
        display_name=message.display_name,
        contact=message.contact,
        keys=tuple(
            IdentityKey(PublicKey.parse(key.public_key), _time(key.valid_from, "valid_from"), key.valid_until or None)
            for key in message.keys
        ),
        nodes=tuple(
            NodeEndpoint(Address.parse(node.address) if node.address else None, node.tls_certificate)
            for node in message.nodes
        ),
        issued_at=_time(message.issued_at, "issued_at"),
    )


def encode_authority(root: Prefix, display_name: str, ca_certificate: bytes, registry_key: PublicKey) -> bytes:
    return organization_pb2.Authority(
        root=str(root), display_name=display_name, ca_certificate=ca_certificate, registry_key=registry_key.raw
    ).SerializeToString()


def decode_authority(data: bytes) -> Authority:
    message = parse(organization_pb2.Authority, data)
    check_text(message.display_name)
    return Authority(
        Prefix.parse(message.root),
        message.display_name,
        message.ca_certificate,
        PublicKey.parse(message.registry_key),
        sha256(data).digest(),
    )


def invitation_to_text(invitation: Invitation) -> str:
    payload = organization_pb2.Invitation(
        registries=[str(address) for address in invitation.registries],
        prefix=str(invitation.prefix),
        secret=invitation.secret,
        league=invitation.league,
        expires_at=invitation.expires_at,
        display_name=invitation.display_name,
    ).SerializeToString()
    return SCHEME + base64.urlsafe_b64encode(payload + sha256(payload).digest()[:4]).decode().rstrip("=")


def invitation_from_text(text: str) -> Invitation:
    bare = "".join(text.split())
    if not bare.startswith(SCHEME):
        raise InvalidInput(f"this is not an invitation: one begins with {SCHEME}")
    encoded = bare[len(SCHEME) :]
    try:
        data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        data = b""
    payload, check = data[:-4], data[-4:]
    if len(data) < 5 or sha256(payload).digest()[:4] != check:
        raise InvalidInput("the invitation is incomplete or was altered on its way: paste the whole string again")
    message = parse(organization_pb2.Invitation, payload)
    check_text(message.display_name)
    if len(message.secret) != 16 or not message.registries:
        raise InvalidInput("the invitation lacks its secret or the registry's address")
    return Invitation(
        tuple(Address.parse(address) for address in message.registries),
        Prefix.parse(message.prefix),
        message.secret,
        _digest(message.league, "the league's fingerprint"),
        _time(message.expires_at, "expires_at"),
        message.display_name,
    )


def encode_members(members: list[Member], registries: list[Address]) -> bytes:
    return organization_pb2.MemberList(
        members=[
            organization_pb2.Member(
                prefix=str(member.prefix),
                display_name=member.display_name,
                organization_version=member.organization_version,
                suspended=member.suspended_at is not None,
                suspended_at=member.suspended_at or 0,
                reason=member.reason,
                mirror=member.mirror,
            )
            for member in members
        ],
        registries=[str(address) for address in registries],
    ).SerializeToString()


def encode_membership_head(version: int, issued_at: int, members_sha256: bytes, league: bytes) -> bytes:
    return organization_pb2.MembershipHead(
        version=version, issued_at=issued_at, members_sha256=members_sha256, league=league
    ).SerializeToString()


def decode_membership_head(head: bytes) -> tuple[int, bytes]:
    """The version and the SHA-256 of the list."""
    message = parse(organization_pb2.MembershipHead, head)
    if not 0 < message.version <= _MOST or len(message.members_sha256) != 32:
        raise InvalidInput("a membership head has a version and names a list")
    return message.version, message.members_sha256


def decode_membership_statement(head: bytes) -> tuple[int, int, bytes, bytes]:
    """Version, time, SHA-256 of the list, and the fingerprint of the league that it is meant for."""
    version, members_sha256 = decode_membership_head(head)
    message = parse(organization_pb2.MembershipHead, head)
    return version, _time(message.issued_at, "issued_at"), members_sha256, message.league


def decode_membership(head: bytes, members: bytes) -> tuple[Membership, bytes]:
    """The membership and the fingerprint of the league that it is meant for."""
    message = parse(organization_pb2.MembershipHead, head)
    if sha256(members).digest() != message.members_sha256:
        raise InvalidInput("the list of members is not the one that the registry signed")
    listed = parse(organization_pb2.MemberList, members)
    for member in listed.members:
        check_text(member.display_name)
        check_text(member.reason)
    return (
        Membership(
            version=message.version,
            issued_at=_time(message.issued_at, "issued_at"),
            members={
                (prefix := Prefix.parse(member.prefix)): Member(
                    prefix,
                    member.display_name,
                    member.organization_version,
                    member.suspended_at if member.suspended else None,
                    member.reason,
                    member.mirror,
                )
                for member in listed.members
            },
            registries=tuple(Address.parse(address) for address in listed.registries),
            members_sha256=message.members_sha256,
        ),
        message.league,
    )


def decode_registries(members: bytes) -> tuple[Address, ...]:
    """The registry's addresses, of a serialized MemberList: the first are those to prefer."""
    return tuple(Address.parse(address) for address in parse(organization_pb2.MemberList, members).registries)


def encode_pass(statement: Pass) -> bytes:
    return organization_pb2.Pass(
        prefix=str(statement.prefix),
        league=statement.league,
        issued_at=statement.issued_at,
        expires_at=statement.expires_at,
    ).SerializeToString()


def decode_pass(data: bytes) -> Pass:
    message = parse(organization_pb2.Pass, data)
    return Pass(
        Prefix.parse(message.prefix),
        _digest(message.league, "the league's fingerprint"),
        _time(message.issued_at, "issued_at"),
        _time(message.expires_at, "expires_at"),
    )


def encode_renewal(renewal: Renewal) -> bytes:
    return organization_pb2.Renewal(
        prefix=str(renewal.prefix),
        league=renewal.league,
        issued_at=renewal.issued_at,
        csr=renewal.csr,
        server=renewal.server,
    ).SerializeToString()


def decode_renewal(data: bytes) -> Renewal:
    message = parse(organization_pb2.Renewal, data)
    return Renewal(
        Prefix.parse(message.prefix),
        _digest(message.league, "the league's fingerprint"),
        _time(message.issued_at, "issued_at"),
        message.csr,
        message.server,
    )


# Records.


def encode_record(record: ObjectRecord) -> bytes:
    metadata, summary = record.metadata, record.summary
    return record_pb2.ObjectRecord(
        id=str(record.id),
        version=record.version,
        previous=record.previous,
        type=record.type,
        status=_STATUS_OUT[record.status],
        metadata=record_pb2.Metadata(
            title=metadata.title,
            description=metadata.description,
            creators=metadata.creators,
            publisher=metadata.publisher,
            publication_year=metadata.publication_year,
            resource_type=metadata.resource_type,
            subjects=metadata.subjects,
            language=metadata.language,
            license=metadata.license,
            dates=[record_pb2.Date(type=date.type, value=date.value) for date in metadata.dates],
            version_label=metadata.version_label,
            relations=[record_pb2.Relation(type=each.type, id=each.id) for each in metadata.relations],
            attributes_json=metadata.attributes_json,
        ),
        summary=record_pb2.Summary(
            element_count=summary.element_count,
            total_bytes=summary.total_bytes,
            media_types=summary.media_types,
            elements=[
                record_pb2.ListedElement(name=each.name, media_type=each.media_type, length=each.length)
                for each in summary.elements
            ],
        ),
        access=record_pb2.Access(
            mode=_ACCESS_OUT[record.access.mode], purposes=record.access.purposes, duties=record.access.duties
        ),
        operations=record.operations,
        commitment=record.commitment,
        issued_at=record.issued_at,
        time_to_live=record.time_to_live,
        reason=record.reason,
    ).SerializeToString()


def decode_record(data: bytes) -> ObjectRecord:
    message = parse(record_pb2.ObjectRecord, data)
    metadata, summary = message.metadata, message.summary
    if message.status not in _STATUS_IN or message.access.mode not in _ACCESS_IN:
        raise InvalidInput("a record says whether it is active and who may have access")
    access = message.access
    for text in (message.reason, message.type, *message.operations, *access.purposes, *access.duties):
        check_text(text)
    for element in summary.elements:
        ElementName.parse(element.name)
        check_text(element.media_type)
    return ObjectRecord(
        id=Identifier.parse(message.id),
        version=message.version,
        previous=_previous(message.previous, message.version),
        type=message.type,
        status=_STATUS_IN[message.status],
        metadata=Metadata(
            title=metadata.title,
            description=metadata.description,
            creators=tuple(metadata.creators),
            publisher=metadata.publisher,
            publication_year=metadata.publication_year,
            resource_type=metadata.resource_type,
            subjects=tuple(metadata.subjects),
            language=metadata.language,
            license=metadata.license,
            dates=tuple(Date(date.type, date.value) for date in metadata.dates),
            version_label=metadata.version_label,
            relations=tuple(Relation(each.type, each.id) for each in metadata.relations),
            attributes_json=metadata.attributes_json,
        ),
        summary=Summary(
            summary.element_count if summary.HasField("element_count") else None,
            summary.total_bytes if summary.HasField("total_bytes") else None,
            tuple(check_media_type(each) for each in summary.media_types),
            tuple(ListedElement(each.name, each.media_type, each.length) for each in summary.elements),
        ),
        access=Access(_ACCESS_IN[message.access.mode], tuple(message.access.purposes), tuple(message.access.duties)),
        operations=tuple(message.operations),
        commitment=_digest(message.commitment, "the commitment to the manifest"),
        issued_at=_time(message.issued_at, "issued_at"),
        time_to_live=message.time_to_live,
        reason=message.reason,
    )


# Manifests.


def encode_manifest(manifest: Manifest) -> bytes:
    return manifest_pb2.Manifest(
        id=str(manifest.id),
        version=manifest.version,
        element_count=manifest.element_count,
        total_bytes=manifest.total_bytes,
        page_count=manifest.page_count,
        pages_root=manifest.pages_root,
        issued_at=manifest.issued_at,
        single_file=manifest.single_file,
    ).SerializeToString()


def decode_manifest(data: bytes) -> Manifest:
    message = parse(manifest_pb2.Manifest, data)
    if message.single_file and message.element_count != 1:
        raise InvalidInput("a single file is one element")
    if max(message.version, message.element_count, message.total_bytes, message.page_count) > _MOST:
        raise InvalidInput("a count of a manifest is out of bounds")
    return Manifest(
        Identifier.parse(message.id),
        message.version,
        message.element_count,
        message.total_bytes,
        message.page_count,
        _digest(message.pages_root, "the root of the pages"),
        _time(message.issued_at, "issued_at"),
        message.single_file,
    )


def encode_page(page: ManifestPage) -> bytes:
    return manifest_pb2.ManifestPage(
        first_element=page.first_element,
        elements=[
            manifest_pb2.Element(
                name=element.name.text,
                media_type=element.media_type,
                length=element.length,
                chunk_size=element.chunk_size,
                merkle_root=element.merkle_root,
                sha256=element.sha256,
                modified_ns=element.modified_ns,
                executable=element.executable,
            )
            for element in page.elements
        ],
    ).SerializeToString()


def decode_page(data: bytes) -> ManifestPage:
    if len(data) > limits.MANIFEST_PAGE_BYTES:
        raise LimitExceeded(f"a page of a manifest has at most {limits.MANIFEST_PAGE_BYTES} bytes")
    message = parse(manifest_pb2.ManifestPage, data)
    return ManifestPage(message.first_element, tuple(_element(each) for each in message.elements))


def _element(message: manifest_pb2.Element) -> Element:
    if not limits.MIN_CHUNK_BYTES <= message.chunk_size <= limits.MAX_CHUNK_BYTES:
        raise InvalidInput("an element's chunk size is out of bounds")
    if message.length >= 1 << 63:
        raise InvalidInput("an element's length is out of bounds")
    return Element(
        ElementName.parse(message.name),
        check_media_type(message.media_type),
        message.length,
        message.chunk_size,
        _digest(message.merkle_root, "an element's Merkle root"),
        _digest(message.sha256, "an element's SHA-256"),
        message.modified_ns,
        message.executable,
    )


# Searches.


def query_to_message(query: Query) -> registry_pb2.SearchRequest:
    return registry_pb2.SearchRequest(
        text=query.text,
        owner=str(query.owner) if query.owner else "",
        type=query.type,
        subject=query.subject,
        media_type=query.media_type,
        access=query.access or "",
        issued_from=query.issued_from or 0,
        issued_until=query.issued_until or 0,
        page_size=query.page_size,
        page_token=query.page_token,
    )


def query_from_message(message: registry_pb2.SearchRequest) -> Query:
    if len(message.text.encode()) > limits.SEARCH_TEXT_BYTES:
        raise LimitExceeded(f"a search text has at most {limits.SEARCH_TEXT_BYTES} bytes")
    if message.page_size > limits.SEARCH_PAGE:
        raise LimitExceeded(f"a page of search results has at most {limits.SEARCH_PAGE} records")
    access = message.access
    if access and access not in list(AccessMode):
        raise InvalidInput(f"{access!r} is not a kind of access: {', '.join(AccessMode)}")
    return Query(
        text=message.text,
        owner=Prefix.parse(message.owner) if message.owner else None,
        type=message.type,
        subject=message.subject,
        media_type=message.media_type,
        access=AccessMode(access) if access else None,
        issued_from=message.issued_from or None,
        issued_until=message.issued_until or None,
        page_size=message.page_size or 20,
        page_token=message.page_token,
    )


def search_result_from_message(message: registry_pb2.SearchResponse) -> SearchResult:
    return SearchResult(
        tuple(envelope_from_message(each) for each in message.records), message.next_page_token, message.total
    )


# What the registry answers.

_STATE_OUT = {
    ResolutionState.ACTIVE: registry_pb2.Resolution.STATE_ACTIVE,
    ResolutionState.WITHDRAWN: registry_pb2.Resolution.STATE_WITHDRAWN,
    ResolutionState.UNKNOWN: registry_pb2.Resolution.STATE_UNKNOWN,
    ResolutionState.ELSEWHERE: registry_pb2.Resolution.STATE_ELSEWHERE,
    ResolutionState.INVALID: registry_pb2.Resolution.STATE_INVALID,
}
_STATE_IN = {number: state for state, number in _STATE_OUT.items()}
_OUTCOME_OUT = {
    OutcomeCode.ACCEPTED: registry_pb2.PublishOutcome.CODE_ACCEPTED,
    OutcomeCode.REFUSED: registry_pb2.PublishOutcome.CODE_REFUSED,
    OutcomeCode.CONFLICT: registry_pb2.PublishOutcome.CODE_CONFLICT,
    OutcomeCode.TRY_AGAIN: registry_pb2.PublishOutcome.CODE_TRY_AGAIN,
}
_OUTCOME_IN = {number: code for code, number in _OUTCOME_OUT.items()}


def resolutions_from_message(message: registry_pb2.ResolveResponse) -> list[Resolution]:
    owners = {}
    for each in message.organizations:
        envelope = envelope_from_message(each)
        owners[decode_organization(envelope.payload).prefix] = envelope
    resolutions = []
    for found in message.resolutions:
        if found.state not in _STATE_IN:
            raise InvalidInput("a resolution says whether there is such an object")
        record = envelope_from_message(found.record) if found.HasField("record") else None
        owner = owners.get(decode_record(record.payload).id.prefix) if record and owners else None
        resolutions.append(
            Resolution(_STATE_IN[found.state], record, owner, tuple(Address.parse(each) for each in found.referral))
        )
    return resolutions


def resolution_to_message(resolution: Resolution) -> registry_pb2.Resolution:
    """Without the organization, which stands beside the resolutions, each once."""
    return registry_pb2.Resolution(
        state=_STATE_OUT[resolution.state],
        record=envelope_to_message(resolution.record) if resolution.record else None,
        referral=[str(address) for address in resolution.referral],
    )


def outcome_from_message(message: registry_pb2.PublishOutcome) -> PublishOutcome:
    # A code of a later version of the agreement: nothing is lost by sending the envelope again.
    code = _OUTCOME_IN.get(message.code, OutcomeCode.TRY_AGAIN)
    return PublishOutcome(message.digest, code, message.message, message.wait_seconds, message.pause)


def outcome_to_message(outcome: PublishOutcome) -> registry_pb2.PublishOutcome:
    return registry_pb2.PublishOutcome(
        digest=outcome.digest,
        code=_OUTCOME_OUT[outcome.code],
        message=outcome.message,
        wait_seconds=outcome.wait,
        pause=outcome.pause,
    )


def change_from_message(message: registry_pb2.Change) -> Change:
    if message.HasField("envelope") == bool(message.certificate):
        raise InvalidInput("a change is an envelope or a certificate")
    if message.certificate:
        return Change(message.position, None, message.certificate)
    return Change(message.position, envelope_from_message(message.envelope))
