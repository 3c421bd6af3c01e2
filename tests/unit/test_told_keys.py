"""A key told by telephone must hold even against whoever invents the organization's whole history."""

import pytest

from hanse import trust, wire
from hanse.errors import BrokenChain, LimitExceeded
from hanse.model.envelope import Envelope, PayloadType, Signature
from hanse.model.identifier import Prefix
from hanse.model.manifest import ElementName
from hanse.model.organization import IdentityKey, OrganizationRecord
from hanse.signing import SigningKey, is_signed_by, sign

NORTH = Prefix.parse("86.north")
NOW = 2000


def organization(version: int, previous: bytes, keys: list[IdentityKey], *signers: SigningKey) -> Envelope:
    record = OrganizationRecord(NORTH, version, previous, "North", "", tuple(keys), (), 1000)
    return sign(PayloadType.ORGANIZATION, wire.encode_organization(record), *signers)


def test_an_impostor_that_lists_the_told_key_as_its_previous_one_is_refused() -> None:
    told, impostor = SigningKey.generate(), SigningKey.generate()
    invented = organization(1, b"", [IdentityKey(impostor.public, 900), IdentityKey(told.public, 1, 899)], impostor)
    with pytest.raises(BrokenChain, match="names keys from before it"):
        trust.chain([invented], pinned=None, now=NOW, told_key=told.public.key_id)


def test_an_impostor_that_slips_the_told_key_into_its_history_later_is_refused() -> None:
    told, impostor = SigningKey.generate(), SigningKey.generate()
    first = organization(1, b"", [IdentityKey(impostor.public, 900)], impostor)
    keys = [IdentityKey(impostor.public, 900), IdentityKey(told.public, 1, 899)]
    second = organization(2, first.digest, keys, impostor)
    with pytest.raises(BrokenChain, match="alters the history"):
        trust.chain([first, second], pinned=None, now=NOW, told_key=told.public.key_id)


def test_an_impostor_that_slips_the_told_key_into_a_rotation_is_refused() -> None:
    told, impostor, other = SigningKey.generate(), SigningKey.generate(), SigningKey.generate()
    first = organization(1, b"", [IdentityKey(impostor.public, 900)], impostor)
    keys = [IdentityKey(other.public, 950), IdentityKey(impostor.public, 900, 950), IdentityKey(told.public, 1, 899)]
    second = organization(2, first.digest, keys, other, impostor)
    with pytest.raises(BrokenChain, match="alters the history"):
        trust.chain([first, second], pinned=None, now=NOW, told_key=told.public.key_id)


def test_a_told_key_that_was_rotated_away_honestly_still_vouches() -> None:
    told, newer = SigningKey.generate(), SigningKey.generate()
    first = organization(1, b"", [IdentityKey(told.public, 900)], told)
    keys = [IdentityKey(newer.public, 950), IdentityKey(told.public, 900, 950)]
    second = organization(2, first.digest, keys, newer, told)
    found = trust.chain([first, second], pinned=None, now=NOW, told_key=told.public.key_id)
    assert found is not None
    assert found.record.current_key == newer.public


def test_a_bad_signature_in_front_does_not_hide_a_good_one() -> None:
    key = SigningKey.generate()
    good = sign(PayloadType.RECORD, b"x", key)
    keyid = str(key.public.key_id)
    assert is_signed_by(Envelope(good.payload_type, b"x", (Signature(keyid, bytes(64)), *good.signatures)), key.public)
    assert not is_signed_by(Envelope(good.payload_type, b"x", (Signature(keyid, bytes(64)),)), key.public)


@pytest.mark.parametrize(
    ("kind", "keyid", "sig"), [("t" * 129, "k", b"s"), ("t", "k" * 65, b"s"), ("t", "k", b"s" * 65)]
)
def test_an_envelope_that_somebody_blew_up_on_the_way_is_refused(kind: str, keyid: str, sig: bytes) -> None:
    blown_up = Envelope(kind, b"", (Signature(keyid, sig),))
    with pytest.raises(LimitExceeded, match="too long"):
        wire.decode_envelope(wire.encode_envelope(blown_up))


def test_names_that_differ_only_in_case_fold_alike_even_where_folding_decomposes() -> None:
    assert ElementName.parse("\u0390").fold == ElementName.parse("\u03aa\u0301").fold
