"""Papers <-> hanse.v1: encode_x and decode_x for each; decoding parses at the door and raises InvalidInput."""

from hanse.errors import InvalidInput, LimitExceeded
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.papers import (
    NONCE_BYTES,
    AccessRequest,
    Deletion,
    Delivered,
    Denial,
    Grant,
    Receipt,
    Revocation,
    joined,
)
from hanse.model.purposes import Purpose
from hanse.model.record import check_text
from hanse.model.terms import MOST_PURPOSES, Conditions, Duty, DutyKind, Operation
from hanse.v1 import papers_pb2
from hanse.wire import parse

_MOST = (1 << 63) - 1
_TEXT_BYTES = 4096
MOST_IDS = 1000
_DUTY_OUT = {
    DutyKind.DELETE_AFTER: papers_pb2.Duty.KIND_DELETE_AFTER,
    DutyKind.ATTRIBUTE: papers_pb2.Duty.KIND_ATTRIBUTE,
    DutyKind.DO_NOT_PASS_ON: papers_pb2.Duty.KIND_DO_NOT_PASS_ON,
    DutyKind.OTHER: papers_pb2.Duty.KIND_OTHER,
}
_DUTY_IN = {number: kind for kind, number in _DUTY_OUT.items()}


def _nonce(data: bytes) -> bytes:
    if len(data) != NONCE_BYTES:
        raise InvalidInput(f"a nonce has {NONCE_BYTES} bytes")
    return data


def _digest(data: bytes, *, optional: bool = False) -> bytes:
    if len(data) != 32 and not (optional and not data):
        raise InvalidInput("a digest has 32 bytes")
    return data


def _time(seconds: int) -> int:
    if not 0 < seconds < 1 << 40:
        raise InvalidInput("a paper has a date that is not a time")
    return seconds


def _text(text: str) -> str:
    if len(text.encode(errors="replace")) > _TEXT_BYTES:
        raise LimitExceeded(f"a text in a paper has at most {_TEXT_BYTES} bytes")
    check_text(text)
    return text


def _number(value: int) -> int | None:
    if not 0 <= value <= _MOST:
        raise InvalidInput("a limit in a paper is less than 2^63")
    return value or None


def _operations(names: list[str]) -> tuple[Operation, ...]:
    try:
        return tuple(Operation(name) for name in names)
    except ValueError:
        raise InvalidInput("a paper names an operation that there is not") from None


def _purposes(names: list[str]) -> tuple[Purpose, ...]:
    if len(names) > MOST_PURPOSES:
        raise LimitExceeded(f"a paper names at most {MOST_PURPOSES} purposes")
    return tuple(Purpose.parse(name) for name in names)


def purpose_out(purpose: Purpose) -> str:
    """An IRI of the vocabulary, else words."""
    return purpose.iri or purpose.name


def conditions_to_message(conditions: Conditions) -> papers_pb2.Conditions:
    return papers_pb2.Conditions(
        operations=[each.value for each in conditions.operations],
        purposes=[purpose_out(each) for each in conditions.purposes],
        valid_from=conditions.valid_from or 0,
        valid_until=conditions.valid_until or 0,
        max_fetches=conditions.max_fetches or 0,
        max_bytes=conditions.max_bytes or 0,
        duties=[
            papers_pb2.Duty(kind=_DUTY_OUT[each.kind], seconds=each.seconds, text=each.text)
            for each in conditions.duties
        ],
        pass_on=conditions.pass_on,
    )


def conditions_from_message(message: papers_pb2.Conditions) -> Conditions:
    duties = []
    for duty in message.duties:
        if duty.kind not in _DUTY_IN:
            raise InvalidInput("a paper has a duty of an unknown kind: ask for a newer hanse")
        duties.append(Duty(_DUTY_IN[duty.kind], duty.seconds, _text(duty.text)))
    return Conditions(
        operations=_operations(list(message.operations)),
        purposes=_purposes(list(message.purposes)),
        valid_from=_number(message.valid_from),
        valid_until=_number(message.valid_until),
        max_fetches=_number(message.max_fetches),
        max_bytes=_number(message.max_bytes),
        duties=tuple(duties),
        pass_on=message.pass_on,
    )


def encode_conditions(conditions: Conditions) -> bytes:
    return conditions_to_message(conditions).SerializeToString(deterministic=True)


def decode_conditions(data: bytes) -> Conditions:
    return conditions_from_message(parse(papers_pb2.Conditions, data))


def encode_request(request: AccessRequest) -> bytes:
    return papers_pb2.AccessRequest(
        nonce=request.nonce,
        id=str(request.id),
        operations=[each.value for each in request.operations],
        purposes=[purpose_out(each) for each in request.purposes],
        message=request.message,
        valid_until=request.valid_until or 0,
        issued_at=request.issued_at,
        consumer=str(request.consumer),
    ).SerializeToString()


def decode_request(data: bytes) -> AccessRequest:
    message = parse(papers_pb2.AccessRequest, data)
    return AccessRequest(
        nonce=_nonce(message.nonce),
        consumer=Prefix.parse(message.consumer),
        id=Identifier.parse(message.id),
        operations=_operations(list(message.operations)),
        purposes=_purposes(list(message.purposes)),
        message=_text(message.message),
        valid_until=_number(message.valid_until),
        issued_at=_time(message.issued_at),
    )


def encode_grant(grant: Grant) -> bytes:
    return papers_pb2.Grant(
        nonce=grant.nonce,
        to=str(grant.to),
        to_key=str(grant.to_key or ""),
        ids=[str(each) for each in grant.ids],
        conditions=conditions_to_message(grant.conditions),
        request=grant.request,
        parent=grant.parent,
        issued_at=grant.issued_at,
        issuer=str(grant.issuer),
    ).SerializeToString()


def decode_grant(data: bytes) -> Grant:
    message = parse(papers_pb2.Grant, data)
    if len(message.ids) > MOST_IDS:
        raise LimitExceeded(f"a grant names at most {MOST_IDS} objects")
    return Grant(
        nonce=_nonce(message.nonce),
        issuer=Prefix.parse(message.issuer),
        to=Prefix.parse(message.to),
        to_key=KeyId.parse(message.to_key) if message.to_key else None,
        ids=tuple(Identifier.parse(each) for each in message.ids),
        conditions=conditions_from_message(message.conditions),
        request=_digest(message.request, optional=True),
        parent=_digest(message.parent, optional=True),
        issued_at=_time(message.issued_at),
    )


def encode_denial(denial: Denial) -> bytes:
    return papers_pb2.Denial(
        request=denial.request,
        reason=denial.reason,
        issued_at=denial.issued_at,
        issuer=str(denial.issuer),
    ).SerializeToString()


def decode_denial(data: bytes) -> Denial:
    message = parse(papers_pb2.Denial, data)
    return Denial(
        _digest(message.request),
        Prefix.parse(message.issuer),
        _text(message.reason),
        _time(message.issued_at),
    )


def encode_revocation(revocation: Revocation) -> bytes:
    return papers_pb2.Revocation(
        grant=revocation.grant,
        reason=revocation.reason,
        issued_at=revocation.issued_at,
        issuer=str(revocation.issuer),
    ).SerializeToString()


def decode_revocation(data: bytes) -> Revocation:
    message = parse(papers_pb2.Revocation, data)
    return Revocation(
        _digest(message.grant),
        Prefix.parse(message.issuer),
        _text(message.reason),
        _time(message.issued_at),
    )


def encode_receipt(receipt: Receipt) -> bytes:
    return papers_pb2.Receipt(
        delivery=receipt.delivery,
        owner=str(receipt.owner),
        consumer=str(receipt.consumer),
        id=str(receipt.id),
        version=receipt.version,
        record=receipt.record,
        grant=receipt.grant,
        purposes=[purpose_out(each) for each in receipt.purposes],
        delivered=[
            papers_pb2.Delivered(
                element=each.element, elements=each.elements, first_chunk=each.first_chunk, chunks=each.chunks
            )
            for each in receipt.delivered
        ],
        unique_bytes=receipt.unique_bytes,
        started_at=receipt.started_at,
        ended_at=receipt.ended_at,
    ).SerializeToString()


def decode_receipt(data: bytes) -> Receipt:
    message = parse(papers_pb2.Receipt, data)
    if not 1 <= message.version <= _MOST or message.unique_bytes > _MOST:
        raise InvalidInput("a receipt has a number that is out of range")
    delivered = tuple(
        Delivered(each.element, each.elements, each.first_chunk, each.chunks) for each in message.delivered
    )
    if any(
        max(each.element, each.elements, each.first_chunk, each.chunks) > _MOST >> 1 for each in delivered
    ) or delivered != joined(delivered):
        raise InvalidInput("a receipt lists what was delivered in order, each part once, neighbours joined")
    started_at, ended_at = _time(message.started_at), _time(message.ended_at)
    if started_at > ended_at:
        raise InvalidInput("a receipt ends before it begins")
    return Receipt(
        delivery=_nonce(message.delivery),
        owner=Prefix.parse(message.owner),
        consumer=Prefix.parse(message.consumer),
        id=Identifier.parse(message.id),
        version=message.version,
        record=_digest(message.record),
        grant=_digest(message.grant, optional=True),
        purposes=_purposes(list(message.purposes)),
        delivered=delivered,
        unique_bytes=message.unique_bytes,
        started_at=started_at,
        ended_at=ended_at,
    )


def encode_deletion(deletion: Deletion) -> bytes:
    return papers_pb2.Deletion(
        owner=str(deletion.owner),
        consumer=str(deletion.consumer),
        id=str(deletion.id),
        version=deletion.version,
        grant=deletion.grant,
        reason=deletion.reason,
        deleted_at=deletion.deleted_at,
    ).SerializeToString()


def decode_deletion(data: bytes) -> Deletion:
    message = parse(papers_pb2.Deletion, data)
    if not 1 <= message.version <= _MOST:
        raise InvalidInput("a deletion has a version that is out of range")
    return Deletion(
        owner=Prefix.parse(message.owner),
        consumer=Prefix.parse(message.consumer),
        id=Identifier.parse(message.id),
        version=message.version,
        grant=_digest(message.grant, optional=True),
        reason=_text(message.reason),
        deleted_at=_time(message.deleted_at),
    )
