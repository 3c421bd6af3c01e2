"""Buffers that are filled in place."""

import pytest

from hanse.rpc.allocation import keep_large_buffers, room


@pytest.mark.parametrize("length", [0, 1, 4096, (4 << 20) + 5, 70 << 20])
def test_what_is_written_to_a_room_is_what_it_gives(length: int) -> None:
    keep_large_buffers()
    made = room(length)
    with made.getbuffer() as view:
        assert len(view) == length
        view[length // 2 :] = b"x" * (length - length // 2)
    content = made.getvalue()
    assert content == bytes(length // 2) + b"x" * (length - length // 2)
    assert made.getvalue() is content or length == 0, "it was copied"
