"""Keystreams: positions, known answers, and never the same one for two plaintexts."""

import secrets
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse import sealing

KEY = bytes(range(32))
DIGEST = b"m" * 32


def test_the_stream_is_that_of_the_standard() -> None:
    # NIST SP 800-38A, F.5.5: CTR-AES256.Encrypt has an initial counter of its own; block n of ours is AES(key, n).
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = int("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", 16)
    plain = bytes.fromhex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51")
    sealed = bytes.fromhex("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5")
    assert sealing.Keystream(key).apply(16 * counter, plain) == sealed


@given(st.binary(max_size=200), st.integers(0, 1 << 44), st.data())
def test_cut_anywhere_it_is_the_same_stream(data: bytes, offset: int, draw: st.DataObject) -> None:
    stream = sealing.content(KEY, DIGEST, 3)
    whole = stream.apply(offset, data)
    at = draw.draw(st.integers(0, len(data)))
    assert stream.apply(offset, data[:at]) + stream.apply(offset + at, data[at:]) == whole
    assert b"".join(stream.apply_pieces(offset, [data[:at], memoryview(data)[at:]])) == whole
    inside = bytearray(whole)
    stream.apply_within(offset, memoryview(inside))
    assert bytes(inside) == data


def test_no_two_things_have_a_keystream_in_common() -> None:
    zeros = bytes(4096)
    other, nonces = secrets.token_bytes(32), [sealing.new_nonce() for _ in range(3)]
    streams = [
        *(sealing.content(KEY, DIGEST, number) for number in (0, 1, 2, 1 << 40)),
        sealing.content(KEY, b"n" * 32, 0),
        sealing.content(other, DIGEST, 0),
        *(sealing.leaves(KEY, DIGEST, number) for number in (0, 1)),
        *(sealing.fresh(KEY, nonce) for nonce in nonces),
        sealing.fresh(other, nonces[0]),
    ]
    blocks = [{each.apply(0, zeros)[at : at + 16] for at in range(0, len(zeros), 16)} for each in streams]
    assert all(len(each) == 256 for each in blocks)
    assert all(not first & second for first, second in combinations(blocks, 2))


def test_a_name_is_known_again_by_the_holder_of_the_key_alone() -> None:
    assert sealing.name(KEY, b"x") == sealing.name(KEY, b"x")
    assert len({sealing.name(KEY, b"x"), sealing.name(KEY, b"y"), sealing.name(bytes(32), b"x")}) == 3


def test_nothing_shows_the_key() -> None:
    stream = sealing.content(KEY, DIGEST, 0)
    assert repr(stream) == "<Keystream>"
    with pytest.raises(AttributeError):
        _ = stream.__dict__
