"""Messages of a stream: their bytes, their sizes, and what each stream may hold."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse import limits
from hanse.errors import NotPermitted, Overloaded, SourceChanged, Unreachable
from hanse.model.identifier import Prefix
from hanse.v1 import node_pb2
from node.sources.fingerprint import Fingerprint
from node.sources.opening import Opener
from node.sources.source import Source
from node.streams import Piece, Streams, Watchdog, frames

ACME, EAST = Prefix("86.acme"), Prefix("86.east")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source")
    for name, size in (("a", 1), ("b", 1000), ("c", 300_000), ("d", 70_000)):
        (path / name).write_bytes(os.urandom(size))
    return path


def piece(folder: Path, name: str, offset: int = 0, length: int | None = None) -> Piece:
    status = (folder / name).stat()
    whole = length is None
    return Piece(name, Fingerprint.of(status), offset, status.st_size if length is None else length, whole)


def decoded(messages: Iterator[tuple[bytes, int]]) -> list[bytes]:
    found = []
    for message, length in messages:
        data = node_pb2.FetchResponse.FromString(message).data
        assert len(data) == length
        found.append(data)
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c", "d"]), st.floats(0, 1), st.floats(0, 1), st.booleans()), max_size=8
    ),
    st.sampled_from([1 << 10, 1 << 16, 1 << 20]),
)
def test_messages_are_the_pieces_one_after_another_and_none_is_larger(
    folder: Path, wanted: list[tuple[str, float, float, bool]], size: int
) -> None:
    pieces, expected = [], b""
    for name, start, end, whole in wanted:
        content = (folder / name).read_bytes()
        low, high = sorted((int(start * len(content)), int(end * len(content))))
        if whole or low == high:
            pieces.append(piece(folder, name))
            expected += content
        else:
            pieces.append(piece(folder, name, low, high - low))
            expected += content[low:high]
    with Opener(Source.of(folder)) as opener:
        messages = decoded(frames(pieces, opener, lambda: size))
    assert b"".join(messages) == expected
    assert all(len(message) == size for message in messages[:-1])


def test_small_elements_are_packed_together(folder: Path) -> None:
    with Opener(Source.of(folder)) as opener:
        assert len(decoded(frames([piece(folder, "b")] * 100, opener, lambda: 1 << 20))) == 1


def test_a_source_that_is_not_what_it_was_gives_nothing_of_the_message(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(200_000))
    changed = piece(tmp_path, "x")
    (tmp_path / "x").write_bytes(bytes(100_000))
    with Opener(Source.of(tmp_path)) as opener, pytest.raises(SourceChanged):
        list(frames([changed], opener, lambda: 1 << 16))


def test_all_streams_together_buffer_no_more_than_is_agreed() -> None:
    streams = Streams()
    assert streams.message_bytes() == limits.STREAM_MESSAGE_BYTES
    held = []
    for number in range(limits.STREAMS):
        held.append(streams.open(ACME if number % 2 else EAST, lambda: None, lambda: None))
        assert len(held) * 2 * streams.message_bytes() <= max(
            limits.STREAM_BUFFER_BYTES, len(held) * 2 * limits.MIN_STREAM_MESSAGE_BYTES
        )
    assert streams.message_bytes() == limits.MIN_STREAM_MESSAGE_BYTES


def test_slots_are_counted_for_each_peer_and_given_back_once() -> None:
    streams = Streams(most=3, most_per_peer=2)
    one, two = (streams.open(ACME, lambda: None, lambda: None) for _ in range(2))
    with pytest.raises(Overloaded, match=r"86\.acme has 2 streams"):
        streams.open(ACME, lambda: None, lambda: None)
    streams.open(EAST, lambda: None, lambda: None)
    with pytest.raises(Overloaded, match="as many streams open as it allows"):
        streams.open(EAST, lambda: None, lambda: None)
    streams.close(one)
    streams.close(one)
    streams.open(ACME, lambda: None, lambda: None)
    with pytest.raises(Overloaded):
        streams.open(ACME, lambda: None, lambda: None)
    streams.close(two)


def test_a_node_that_stops_opens_no_stream() -> None:
    streams = Streams()
    streams.refuse(Unreachable("stopping"))
    with pytest.raises(Unreachable, match="stopping"):
        streams.open(ACME, lambda: None, lambda: None)


def test_messages_grow_while_the_reader_keeps_up_and_shrink_when_it_does_not() -> None:
    stream = Streams().open(ACME, lambda: None, lambda: None)
    sizes = []
    for _ in range(6):
        sizes.append(stream.next_size(limits.STREAM_MESSAGE_BYTES))
        stream.moved(1)
    assert sizes == sorted(sizes)
    assert sizes[-1] == limits.STREAM_MESSAGE_BYTES
    stream.moved_at -= 6
    assert stream.next_size(limits.STREAM_MESSAGE_BYTES) == limits.STREAM_MESSAGE_BYTES // 2
    assert stream.next_size(100_000) == 100_000


def test_the_watchdog_ends_what_may_not_go_on_politely_and_then_for_good() -> None:
    streams, cancelled = Streams(), []
    objection: list[NotPermitted | None] = [None]
    stream = streams.open(ACME, lambda: cancelled.append(1), lambda: objection[0])
    watchdog = Watchdog(streams)
    watchdog.look()
    stream.moved(10)
    objection[0] = NotPermitted("no more")
    watchdog.look()
    with pytest.raises(NotPermitted, match="no more"):
        stream.moved(10)
    assert cancelled == []
    assert stream.ended_at is not None
    stream.ended_at -= Watchdog.GRACE_SECONDS + 1
    watchdog.look()
    assert cancelled == [1]


def test_the_watchdog_cancels_what_does_not_move() -> None:
    streams, cancelled = Streams(), []
    stream = streams.open(ACME, lambda: cancelled.append(1), lambda: None)
    stream.moved_at -= limits.STREAM_STALL + 1
    Watchdog(streams).look()
    assert cancelled == [1]
