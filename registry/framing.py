"""Protobuf's wire form by hand, where decoding and encoding again would cost more than all else in a call.

Envelopes are stored as they came; an answer is spliced from them. A test decodes every answer with the
generated code. Source: https://protobuf.dev/programming-guides/encoding/
"""

_ACTIVE, _WITHDRAWN = b"\x08\x01\x12", b"\x08\x02\x12"  # Resolution.state and the tag of Resolution.record


def varint(number: int) -> bytes:
    """Base 128, low group first."""
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def resolution(envelope: bytes, withdrawn: bool, inclusion: bytes = b"") -> bytes:
    """``ResolveResponse.resolutions`` with a record in it, and the proof of it if there is one."""
    if inclusion:
        return field(1, (_WITHDRAWN if withdrawn else _ACTIVE)[:2] + field(2, envelope) + field(4, inclusion))
    size = varint(len(envelope))
    return b"".join(
        (b"\x0a", varint(3 + len(size) + len(envelope)), _WITHDRAWN if withdrawn else _ACTIVE, size, envelope)
    )


def change(position: int, content: bytes, is_certificate: bool = False) -> bytes:
    """``WatchResponse.changes``."""
    return field(1, b"\x08" + varint(position) + field(3 if is_certificate else 2, content))
