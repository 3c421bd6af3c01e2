"""The vectors are what the code makes today, and what the standards they stand on say they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from hanse import merkle, transparency, trust, wire
from hanse.errors import NotAuthenticated
from hanse.model.keys import PublicKey
from hanse.rpc.tls import registry_name
from hanse.signing import is_signed_by
from hanse.transparency import Inclusion, Shown
from tests.vectors import make

T = make.T0 + 100_000


def vector(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((make.HERE / f"{name}.json").read_text())
    return loaded


@pytest.mark.parametrize("name", make.VECTORS)
def test_the_code_still_makes_the_committed_vectors(name: str) -> None:
    assert (make.HERE / f"{name}.json").read_text() == make.text_of(name), (
        "run tests/vectors/make.py and look at the diff"
    )


def test_no_vector_file_is_without_a_maker() -> None:
    assert {path.stem for path in Path(make.HERE).glob("*.json")} == set(make.VECTORS)


def test_the_encoding_is_that_of_the_dsse_specification() -> None:
    first = vector("encodings")["encodings"][0]
    assert bytes.fromhex(first["encoding"]) == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_the_roots_are_those_of_other_implementations_of_rfc_6962() -> None:
    roots = [tree["root"] for tree in vector("merkle")["trees"]]
    assert roots[0] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert roots[1] == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert roots[8] == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


def test_the_signatures_verify_under_the_listed_keys() -> None:
    keys = {each["key_id"]: PublicKey.parse(bytes.fromhex(each["public_key"])) for each in vector("keys")["keys"]}
    for each in vector("envelopes").values():
        envelope = wire.decode_envelope(bytes.fromhex(each["serialized"]))
        assert envelope.digest.hex() == each["digest"]
        assert all(is_signed_by(envelope, keys[signature.keyid]) for signature in envelope.signatures)


def test_the_chain_and_the_object_are_believed_by_a_newcomer() -> None:
    chain = [wire.decode_envelope(bytes.fromhex(each["serialized"])) for each in vector("organization")["chain"]]
    owner = trust.chain(chain, pinned=None, now=T)
    assert owner is not None
    thing = vector("object")
    record = trust.record(wire.decode_envelope(bytes.fromhex(thing["record"]["serialized"])), owner.record, now=T)
    manifest = trust.manifest(
        wire.decode_envelope(bytes.fromhex(thing["manifest"]["serialized"])),
        bytes.fromhex(thing["salt"]),
        record.record,
        owner.record,
    )
    assert manifest.element_count == len(thing["elements"])
    seen = trust.Seen(record.record.version, record.digest)
    tombstone = wire.decode_envelope(bytes.fromhex(thing["tombstone"]["serialized"]))
    assert trust.record(tombstone, owner.record, now=T, seen=seen).record.reason == "consent ended"


def test_the_pass_is_good_for_its_league_and_its_time_only() -> None:
    envelope = wire.decode_envelope(bytes.fromhex(vector("pass")["pass"]["serialized"]))
    league = bytes.fromhex(vector("invitation")["fingerprint"])
    statement = trust.caller(envelope, make.NEW.public, league, now=make.T0 + 1600)
    assert statement.prefix == make.NORTH
    with pytest.raises(NotAuthenticated):
        trust.caller(envelope, make.NEW.public, bytes(32), now=make.T0 + 1600)
    with pytest.raises(NotAuthenticated):
        trust.caller(envelope, make.NEW.public, league, now=make.T0 + 1500 + 721)


def test_the_registrys_log_of_the_vectors_verifies() -> None:
    log = vector("registry_log")
    authority = wire.decode_authority(bytes.fromhex(log["authority"]))
    assert log["origin"].startswith(f"{registry_name(authority.root)}/log/")
    older, newer = (transparency.verify(note, authority) for note in log["checkpoints"])
    path = tuple(bytes.fromhex(each) for each in log["consistency"])
    assert transparency.follow(older, newer, Shown(newer.note, older.checkpoint.size, path)) == newer
    leaves = [bytes.fromhex(entry["data"]) for entry in log["entries"]]
    assert newer.checkpoint.root == merkle.root(map(merkle.leaf_hash, leaves))
    record = wire.decode_envelope(bytes.fromhex(vector("object")["record"]["serialized"]))
    proof = log["inclusion"]
    inclusion = Inclusion(proof["index"], tuple(bytes.fromhex(each) for each in proof["path"]))
    transparency.included(transparency.leaf_of(record), inclusion, newer.checkpoint, "it")
    assert leaves[1] == transparency.membership_leaf(
        *wire.decode_membership_head(bytes.fromhex(log["membership_head"]))
    )
    assert leaves[2] == transparency.certificate_leaf(bytes.fromhex(log["certificate"]))
