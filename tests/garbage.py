"""What a hostile program sends: messages that parse as protobuf and make no sense, and bytes that do not even parse.

@given(messages(node_pb2.FetchRequest))
def test_...(request): ...
"""

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

M = TypeVar("M", bound=Message)
_F = FieldDescriptor

TEXTS = [
    "", " ", "x", "86.north", "86.north/x", "86.north/trial", "86.north/secret", "86.nobody/x", "hdl:86.north/x", "86",
    "127.0.0.1:1", "[::1]:0", "text/csv", "../../x", "/etc/x", "C:\\x", "a\x00b", "\x1b[2J", "\u202e", "\ufffe", "病历",
    "x" * 300, "x" * 5000, "{}", "{", "open", '"', "a AND b", "*", "NEAR(", "text : x", "\ud7ff", "İ", "\U0010ffff",
]  # fmt: skip
_SIGNED = {_F.TYPE_INT64: 64, _F.TYPE_INT32: 32, _F.TYPE_SINT64: 64, _F.TYPE_SINT32: 32}
_UNSIGNED = {_F.TYPE_UINT64: 64, _F.TYPE_UINT32: 32}


def integers(lowest: int, highest: int) -> st.SearchStrategy[int]:
    """The edges, and what lies near them."""
    edges = [0, 1, 2, 7, 255, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 40, 1 << 62, (1 << 63) - 1, 1 << 63, -1, -(1 << 40)]
    inside = [each for each in (*edges, lowest, highest) if lowest <= each <= highest]
    return st.sampled_from(inside) | st.integers(lowest, highest)


def _values(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.type == _F.TYPE_STRING:
        return st.sampled_from(TEXTS) | st.text(max_size=40)
    if field.type == _F.TYPE_BYTES:
        return st.sampled_from([b"", bytes(32), bytes(16), bytes(64), b"\x0a\x01x", b"x" * 70_000]) | st.binary(
            max_size=80
        )
    if field.type == _F.TYPE_BOOL:
        return st.booleans()
    if field.type == _F.TYPE_ENUM:
        return st.sampled_from([0, 1, 2, 3, 4, 5, 77, -1, (1 << 31) - 1])
    if field.type in _SIGNED:
        bits = _SIGNED[field.type]
        return integers(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    if field.type in _UNSIGNED:
        return integers(0, (1 << _UNSIGNED[field.type]) - 1)
    assert field.type == _F.TYPE_MESSAGE, field.full_name
    return messages(field.message_type._concrete_class, depth - 1)


def messages(kind: type[M], depth: int = 4) -> st.SearchStrategy[M]:
    """Any message of a kind: each field absent, or one of what programs stumble over."""

    @st.composite
    def build(draw: st.DrawFn) -> M:
        made = kind()
        for field in kind.DESCRIPTOR.fields:
            if depth == 0 and field.type == _F.TYPE_MESSAGE:
                continue
            values = _values(field, depth)
            if field.is_repeated:
                for value in draw(st.lists(values, max_size=3)):
                    repeated = getattr(made, field.name)
                    if field.type == _F.TYPE_MESSAGE:
                        repeated.add().CopyFrom(value)
                    else:
                        repeated.append(value)
            elif draw(st.booleans()):
                value = draw(values)
                if field.type == _F.TYPE_MESSAGE:
                    getattr(made, field.name).CopyFrom(value)
                else:
                    setattr(made, field.name, value)
        return made

    return build()


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """Something that was right, with a few bytes changed, cut or put in."""

    @st.composite
    def build(draw: st.DrawFn) -> bytes:
        broken = bytearray(data)
        for _ in range(draw(st.integers(1, 4))):
            at = draw(st.integers(0, max(0, len(broken) - 1)))
            how = draw(st.sampled_from(["change", "cut", "insert", "end"]))
            if how == "change" and broken:
                broken[at] = draw(st.integers(0, 255))
            elif how == "cut":
                del broken[at : at + draw(st.integers(1, 8))]
            elif how == "insert":
                broken[at:at] = draw(st.binary(min_size=1, max_size=8))
            else:
                del broken[at:]
        return bytes(broken)

    return build()
