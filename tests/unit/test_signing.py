"""Identity keys and what they sign."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import HomeUnusable
from hanse.model.envelope import Envelope, PayloadType, Signature
from hanse.model.keys import PublicKey
from hanse.rpc.tls import TlsKey
from hanse.signing import SigningKey, is_signed_by, sign

KEY, OTHER = SigningKey.generate(), SigningKey.generate()


def test_a_signature_verifies_under_its_key_only() -> None:
    envelope = sign(PayloadType.RECORD, b"payload", KEY)
    assert is_signed_by(envelope, KEY.public)
    assert not is_signed_by(envelope, OTHER.public)


def test_two_keys_may_sign() -> None:
    envelope = sign(PayloadType.ORGANIZATION, b"payload", KEY, OTHER)
    assert is_signed_by(envelope, KEY.public)
    assert is_signed_by(envelope, OTHER.public)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_signature_is_for_its_payload_only(payload: bytes, other: bytes) -> None:
    envelope = sign(PayloadType.RECORD, payload, KEY)
    assert is_signed_by(replace(envelope, payload=other), KEY.public) == (payload == other)


@pytest.mark.parametrize("kind", [each for each in PayloadType if each is not PayloadType.RECORD])
def test_a_signature_is_for_its_kind_only(kind: PayloadType) -> None:
    envelope = sign(PayloadType.RECORD, b"payload", KEY)
    assert not is_signed_by(replace(envelope, payload_type=kind.value), KEY.public)


def test_type_and_payload_cannot_be_shifted_into_each_other() -> None:
    assert Envelope("ab", b"c", ()).pre_authentication_encoding != Envelope("a", b"bc", ()).pre_authentication_encoding
    assert Envelope("数", b"", ()).pre_authentication_encoding == b"DSSEv1 3 \xe6\x95\xb0 0 "


def test_the_digest_does_not_depend_on_who_signed() -> None:
    assert sign(PayloadType.RECORD, b"x", KEY).digest == sign(PayloadType.RECORD, b"x", OTHER).digest


@pytest.mark.parametrize(
    "signatures",
    [
        (),
        (Signature(str(KEY.public.key_id), b""),),
        (Signature(str(KEY.public.key_id), bytes(64)),),
        (Signature(str(KEY.public.key_id), bytes(1000)),),
        (Signature("", sign(PayloadType.RECORD, b"payload", KEY).signatures[0].sig),),
        (Signature(str(KEY.public.key_id), sign(PayloadType.RECORD, b"payload", OTHER).signatures[0].sig),),
    ],
    ids=["none", "empty", "zeros", "long", "no key id", "another's"],
)
def test_what_is_no_signature(signatures: tuple[Signature, ...]) -> None:
    assert not is_signed_by(Envelope(PayloadType.RECORD, b"payload", signatures), KEY.public)


def test_a_public_key_of_zeros_signs_nothing() -> None:
    """A point of small order: some libraries accept a signature of zeros under it."""
    weak = PublicKey(bytes(32))
    for signature in (bytes(64), b"\x01" + bytes(63)):
        envelope = Envelope(PayloadType.RECORD, b"payload", (Signature(str(weak.key_id), signature),))
        assert not is_signed_by(envelope, weak)


@pytest.mark.parametrize("passphrase", [None, "correct horse"])
def test_a_key_is_kept_and_read_again(passphrase: str | None) -> None:
    pem = KEY.to_pem(passphrase)
    assert SigningKey.from_pem(pem, passphrase).public == KEY.public
    assert (b"ENCRYPTED" in pem) == (passphrase is not None)


@pytest.mark.parametrize(
    ("pem", "passphrase", "why"),
    [
        (KEY.to_pem("right"), None, "set HANSE_PASSPHRASE"),
        (KEY.to_pem("right"), "wrong", "wrong passphrase, or a damaged file"),
        (KEY.to_pem(), "needless", "unset HANSE_PASSPHRASE"),
        (b"", None, "damaged file"),
        (KEY.to_pem()[:60], None, "damaged file"),
        (TlsKey.generate().to_pem(), None, "not an Ed25519 key"),
    ],
    ids=["protected", "wrong", "needless", "empty", "cut off", "another kind"],
)
def test_a_key_that_does_not_open_says_why(pem: bytes, passphrase: str | None, why: str) -> None:
    with pytest.raises(HomeUnusable, match=why):
        SigningKey.from_pem(pem, passphrase)


def test_a_key_does_not_show_itself() -> None:
    secret = KEY.to_pem().decode().splitlines()[1]
    assert secret not in repr(KEY)
    assert str(KEY.public.key_id) in repr(KEY)
