"""The vectors are what the code makes today, and what the standards they stand on say they are."""

import base64
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hanse import merkle, transparency, trust, verifier, wire
from hanse.errors import BrokenChain, NotAuthenticated, WrongContent
from hanse.model.envelope import PayloadType
from hanse.model.keys import PublicKey
from hanse.model.purposes import Purpose
from hanse.rpc.tls import registry_name
from hanse.signing import is_signed_by
from hanse.transparency import Inclusion, Shown
from hanse.wire_papers import decode_conditions
from tests.vectors import fixed, make

T = fixed.T0 + 100_000


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
    statement = trust.caller(envelope, fixed.NEW.public, league, now=fixed.T0 + 1600)
    assert statement.prefix == fixed.NORTH
    with pytest.raises(NotAuthenticated):
        trust.caller(envelope, fixed.NEW.public, bytes(32), now=fixed.T0 + 1600)
    with pytest.raises(NotAuthenticated):
        trust.caller(envelope, fixed.NEW.public, league, now=fixed.T0 + 1500 + 721)


def test_the_papers_verify_under_the_keys_of_the_organizations_beside_them() -> None:
    """By signatures alone: what the code makes of them is in ``accepted`` and ``rejected``."""
    told = vector("papers")
    keys: dict[str, PublicKey] = {}
    for each in told["organizations"]:
        record = wire.decode_organization(bytes.fromhex(each["payload"]))
        keys |= {str(key.public_key.key_id): key.public_key for key in record.keys}
    shown = [told[name] for name in ("request", "denial", "revocation", "half_receipt", "receipt", "deletion")]
    for each in [*shown, *told["chain"], *told["organizations"]]:
        envelope = wire.decode_envelope(bytes.fromhex(each["serialized"]))
        assert envelope.signatures
        assert all(is_signed_by(envelope, keys[signature.keyid]) for signature in envelope.signatures)


def test_a_half_of_a_receipt_has_the_name_of_the_whole() -> None:
    told = vector("papers")
    assert len(told["half_receipt"]["signatures"]) == 1
    assert len(told["receipt"]["signatures"]) == 2
    assert told["half_receipt"]["digest"] == told["receipt"]["digest"]
    assert told["half_receipt"]["payload"] == told["receipt"]["payload"]


def test_more_papers_are_rejected_than_accepted_and_each_case_is_told_once() -> None:
    told = vector("papers")
    cases = [each["case"] for each in told["accepted"] + told["rejected"]]
    assert len(cases) == len(set(cases))
    assert len(told["rejected"]) > 2 * len(told["accepted"])
    assert {each["error"] for each in told["rejected"]} == {"BadSignature", "WrongContent"}


def test_conditions_are_within_themselves_and_within_one_way_unless_they_are_equal() -> None:
    pairs = vector("terms")["is_within"]
    assert {pair["within"] for pair in pairs} == {True, False}
    for pair in pairs:
        narrow, wide = (decode_conditions(bytes.fromhex(pair[name]["serialized"])) for name in ("conditions", "wider"))
        assert narrow.is_within(wide) is pair["within"], pair["case"]
        assert narrow.is_within(narrow)
        assert wide.is_within(wide)
        if pair["within"] and wide.is_within(narrow):
            assert set(narrow.purposes) == set(wide.purposes)
            assert set(narrow.duties) == set(wide.duties)


def test_the_purposes_are_names_of_the_two_vocabularies() -> None:
    for each in vector("terms")["purposes"]["vocabulary"]:
        assert each["iri"].startswith(("https://w3id.org/dpv#", "http://purl.obolibrary.org/obo/DUO_"))
        assert Purpose.parse(each["iri"]) == Purpose.parse(each["name"])


def test_a_leaf_of_the_log_is_its_kind_and_a_salted_hash() -> None:
    for each in vector("log")["leaves"]:
        salt, payload = bytes.fromhex(each["salt"]), bytes.fromhex(each["payload"])
        data = each["kind"].encode() + b"\x00" + sha256(salt + payload).digest()
        assert each["data"] == data.hex()
        assert each["hash"] == sha256(b"\x00" + data).hexdigest()


def test_the_proofs_of_the_log_prove_what_they_stand_beside_and_nothing_else() -> None:
    told = vector("log")
    leaves = [bytes.fromhex(each["hash"]) for each in told["leaves"]]
    roots = [bytes.fromhex(each) for each in told["roots"]]
    assert len(told["inclusion"]) == 45
    assert len(told["consistency"]) == 55
    for each in told["inclusion"]:
        index, size, proof = each["index"], each["size"], [bytes.fromhex(one) for one in each["proof"]]
        merkle.verify_inclusion(leaves[index], index, size, proof, roots[size])
        with pytest.raises(WrongContent):
            merkle.verify_inclusion(sha256(b"another").digest(), index, size, proof, roots[size])
    for each in told["consistency"]:
        old, new, proof = each["old"], each["new"], [bytes.fromhex(one) for one in each["proof"]]
        merkle.verify_consistency(old, roots[old], new, roots[new], proof)
        with pytest.raises(BrokenChain):
            merkle.verify_consistency(old, roots[old], new, roots[new], [*proof, bytes(32)])


def test_the_checkpoint_is_a_signed_note_as_c2sp_says() -> None:
    """Taken apart by hand: text, blank line, em dash, name, base64 of key hash and signature."""
    told = vector("log")["checkpoint"]
    text, line = told["note"].split("\n\n")
    name, size, root = text.split("\n")
    assert (name, int(size), base64.b64decode(root).hex()) == (told["origin"], told["size"], told["root"])
    dash, signer, blob = line.rstrip("\n").split(" ")
    key = PublicKey.parse(bytes.fromhex(told["keys"][0]))
    assert (dash, signer) == ("\u2014", name)
    assert base64.b64decode(blob)[:4] == sha256(name.encode() + b"\n\x01" + key.raw).digest()[:4]
    assert base64.b64decode(blob)[:4].hex() == told["key_hash"]
    Ed25519PublicKey.from_public_bytes(key.raw).verify(base64.b64decode(blob)[4:], (text + "\n").encode())


def test_the_verifier_that_stands_alone_and_shares_no_code_comes_to_the_same_verdicts() -> None:
    told = vector("terms")
    for pair in told["is_within"]:
        narrow, wide = (
            verifier.read_conditions(verifier.parse(bytes.fromhex(pair[name]["serialized"]), verifier.CONDITIONS))
            for name in ("conditions", "wider")
        )
        assert verifier.is_within(narrow, wide) is pair["within"], pair["case"]
    for each in told["purposes"]["vocabulary"]:
        assert verifier.read_purpose(each["iri"]) == each["name"]
        for other in told["purposes"]["vocabulary"]:
            included = other["name"] in (each["name"], *each["broader"])
            assert verifier.covers([other["name"]], each["name"]) is included, (each["name"], other["name"])
    for each in vector("papers")["accepted"]:
        for serialized in each["envelopes"]:
            envelope = verifier.read_envelope(bytes.fromhex(serialized))
            READERS[envelope.type](envelope.payload)
    log = vector("log")
    for each in log["inclusion"]:
        leaf, proof = bytes.fromhex(log["leaves"][each["index"]]["hash"]), bytes.fromhex("".join(each["proof"]))
        root = verifier.root_from_proof(leaf, each["index"], each["size"], proof)
        assert root == bytes.fromhex(log["roots"][each["size"]])


READERS = {
    PayloadType.REQUEST.value: verifier.read_request,
    PayloadType.GRANT.value: verifier.read_grant,
    PayloadType.DENIAL.value: verifier.read_answer,
    PayloadType.REVOCATION.value: verifier.read_answer,
    PayloadType.RECEIPT.value: verifier.read_receipt,
    PayloadType.DELETION.value: verifier.read_deletion,
}


@pytest.mark.parametrize("verdict", ["accepted", "rejected"])
def test_the_verifier_reads_checkpoints_as_the_vectors_say(verdict: str) -> None:
    told = vector("log")["checkpoint"]
    keys = [
        verifier.Key(raw, verifier.key_id(raw), fixed.T0, until)
        for raw, until in zip(map(bytes.fromhex, told["keys"]), (None, fixed.T0 + 1000), strict=True)
    ]
    owner = verifier.Organization(str(fixed.NORTH), "", tuple(keys), 3, b"", True)
    for each in told[verdict]:
        if verdict == "accepted":
            found = verifier.read_note(each["note"], owner)
            assert (found.size, found.root.hex()) == (each["size"], each["root"]), each["case"]
        elif each["case"] != "no line end":  # of which nothing hangs: the line of the file around it is hashed
            with pytest.raises(verifier.Malformed):
                verifier.read_note(each["note"], owner)


def test_an_evidence_file_is_proved_and_whatever_is_done_to_it_without_a_key_is_found() -> None:
    cases = {each["case"]: each for each in vector("evidence")["cases"]}
    assert cases["as it was exported"]["exit_code"] == 0
    assert cases["as it was exported"]["verdicts"] == ["proved", "half"]
    for case, each in cases.items():
        if case != "as it was exported" and not case.startswith("the exporter left out"):
            assert each["exit_code"] == 6, case
            assert each["problems"], case
        # What its exporter leaves out is not wrong: what rested on it is not proved any more.
        elif case == "the exporter left out its half":
            assert (each["exit_code"], each["verdicts"]) == (0, ["proved"])
        elif case != "as it was exported":
            assert (each["exit_code"], each["verdicts"][0]) == (1, "partly"), case


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


def test_cosignatures_are_those_of_the_specification_and_count_for_whom_they_are_of() -> None:
    told = vector("witness")
    name, _, material = told["keys"][0].split("+", 2)  # the key in base64 may have one too
    key = base64.b64decode(material)
    assert (key[:1], name) == (b"\x04", "86.acme.witness.hanse.internal")
    # c2sp.org/tlog-cosignature, by hand: what is signed, and what stands in the line.
    text = vector("registry_log")["checkpoints"][1].partition("\n\n")[0]
    signed = f"cosignature/v1\ntime {told['now']}\n{text}\n".encode()
    assert bytes.fromhex(told["signed_by_acme"]) == signed
    blob = base64.b64decode(told["line_of_acme"].rstrip("\n").rpartition(" ")[2])
    assert blob[:4] == sha256(name.encode() + b"\n" + key).digest()[:4]
    assert int.from_bytes(blob[4:12], "big") == told["now"]
    Ed25519PublicKey.from_public_bytes(key[1:]).verify(blob[12:], signed)

    verdicts = {each["case"]: each.get("enough_for", "rejected") for each in told["cases"]}
    assert verdicts == {
        "nobody": [],
        "one of two": [1],
        "both": [1, 2],
        "one of them twice: its newest counts": [1],
        "a name and a key that are nobody's": [],
        "acme's name and lab's key": [],
        "north's name and acme's key": [],
        "signed for another checkpoint": "rejected",
        "dated otherwise than it is signed": "rejected",
        "a good and a wrong one": "rejected",
        "long ago": [],
        "in an hour": [],
    }
    assert [each["case"] for each in told["requests"] if "rejected" not in each] == ["as it is asked", "of nothing"]
    assert [each["case"] for each in told["witness_keys"] if "rejected" not in each] == ["as `hanse status` shows it"]
