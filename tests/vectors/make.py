"""Writes the test vectors: the agreement in bytes, for whoever implements it in another language.

Deterministic: keys come from fixed seeds, times are fixed, and Ed25519 signatures have no randomness. The two
certificates are constants, because ECDSA signatures do. Run it after a change of the agreement and look at what
git says has changed; tests/docs/test_vectors.py regenerates and compares.

    python tests/vectors/make.py
"""

import json
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hanse import limits, merkle, transparency, trust, wire
from hanse.errors import InvalidInput
from hanse.evidence.checkpoint import Checkpoint
from hanse.model.address import Address
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier
from hanse.model.invitation import Invitation
from hanse.model.keys import KeyId, PublicKey
from hanse.model.manifest import Element, ElementName, Manifest, ManifestPage
from hanse.model.organization import IdentityKey, Member, NodeEndpoint, OrganizationRecord, Pass
from hanse.model.record import (
    Access,
    AccessMode,
    Metadata,
    ObjectRecord,
    Relation,
    Status,
    Summary,
)
from hanse.signing import SigningKey, sign
from tests.vectors.fixed import (
    ACME,
    ACME_KEY,
    CA,
    LAB,
    LAB_KEY,
    NEW,
    NODE,
    NORTH,
    OLD,
    REGISTRY,
    ROOT,
    T0,
    certificate,
    envelope_parts,
    seed,
)
from tests.vectors.make_evidence import evidence
from tests.vectors.make_log import the_log
from tests.vectors.make_papers import organization_record, papers
from tests.vectors.make_terms import terms
from tests.vectors.make_witness import witness

HERE = Path(__file__).parent


def _verdicts(parse: Callable[[str], object], accepted: list[str], rejected: list[str]) -> dict[str, Any]:
    refusals = []
    for text in rejected:
        try:
            parse(text)
        except InvalidInput as error:
            refusals.append({"input": text, "message": str(error)})
        else:
            raise AssertionError(f"{text!r} was accepted")
    return {"accepted": [_accepted(parse(text), text) for text in accepted], "rejected": refusals}


def _accepted(parsed: object, text: str) -> dict[str, str]:
    if isinstance(parsed, Identifier):
        return {
            "input": text,
            "canonical": str(parsed),
            "prefix": str(parsed.prefix),
            "suffix": parsed.suffix,
            "key": parsed.key,
        }
    if isinstance(parsed, ElementName):
        return {"input": text, "fold": parsed.fold}
    return {"input": text, "canonical": str(parsed)}


def identifiers() -> dict[str, Any]:
    suffix_room = limits.IDENTIFIER_BYTES - len("86.acme/")
    return _verdicts(
        Identifier.parse,
        [
            "86.north-hospital/trial-7",
            "86.North-Hospital/Trial-7",
            "86.north-hospital/TRIAL-7",
            "hdl:86.acme/x",
            "HDL:86.acme/x",
            "info:hdl/86.acme/x",
            "hanse:86.acme/x",
            "hanse://86.acme/x",
            "86.acme/a/b/c",
            "86.acme/with space",
            "86.acme/病历数据",
            "86.acme/caf\u00e9",
            "86.acme/hdl:1/2",
            "86.acme/../x",
            "10.5281/zenodo.1",
            "a/b",
            "86.acme/" + "x" * suffix_room,
        ],
        [
            "",
            "86.acme",
            "86.acme/",
            "/x",
            "86.acme/ x",
            "86.acme/x ",
            "86.acme/x\n",
            "86.acme/a\tb",
            "86.acme/a\u0000b",
            "86.acme/cafe\u0301",
            "86.acme/zero\u200bwidth",
            "86.acme/a\u00a0b",
            "86.acme/\u202etxt",
            "86..acme/x",
            ".86/x",
            "86./x",
            "-86.acme/x",
            "86.acme-/x",
            "86.ac_me/x",
            "86.ac me/x",
            "86.\u0430cme/x",
            "86.\u212aelvin/x",
            "doi:10.1/x",
            "hdl:hdl:86.acme/x",
            "a" * 64 + "/x",
            ".".join(["a" * 50] * 4) + "/x",
            "86.acme/" + "x" * (suffix_room + 1),
            "86.acme/" + "病" * (suffix_room // 3 + 1),
        ],
    )


def keys() -> dict[str, Any]:
    named = {"registry": REGISTRY, "north 1": OLD, "north 2": NEW, "acme": ACME_KEY, "lab": LAB_KEY}
    return {
        "keys": [
            {
                "seed": seed(name).hex(),
                "public_key": key.public.raw.hex(),
                "spki": (bytes.fromhex("302a300506032b6570032100") + key.public.raw).hex(),
                "key_id": str(key.public.key_id),
            }
            for name, key in named.items()
        ],
        "key_ids": _verdicts(
            KeyId.parse,
            [str(OLD.public.key_id), str(OLD.public.key_id).upper(), ":".join(["ab"] * 16), "abcd ef01 " * 4],
            ["", "ab", "g" * 32, "a" * 31, "a" * 33, "0x" + "a" * 30],
        ),
    }


def encodings() -> dict[str, Any]:
    # The first is the example of the DSSE specification.
    cases = [
        ("http://example.com/HelloWorld", b"hello world"),
        (PayloadType.RECORD.value, b""),
        (PayloadType.RECORD.value, b"\x00\xff 1 \n"),
        ("", b"x"),
    ]
    return {
        "encodings": [
            {
                "payload_type": kind,
                "payload": payload.hex(),
                "encoding": Envelope(kind, payload, ()).pre_authentication_encoding.hex(),
                "digest": Envelope(kind, payload, ()).digest.hex(),
            }
            for kind, payload in cases
        ]
    }


def envelopes() -> dict[str, Any]:
    return {
        "one_signature": envelope_parts(sign(PayloadType.RECORD, b"payload", OLD)),
        "two_signatures": envelope_parts(sign(PayloadType.ORGANIZATION, b"payload", NEW, OLD)),
    }


def merkle_roots() -> dict[str, Any]:
    def case(chunks: list[bytes]) -> dict[str, Any]:
        leaves = [merkle.leaf_hash(chunk) for chunk in chunks]
        return {
            "chunks": [chunk.hex() for chunk in chunks],
            "leaves": [leaf.hex() for leaf in leaves],
            "root": merkle.root(leaves).hex(),
        }

    # The leaves of the eight are those that RFC 6962 implementations share as test data.
    shared = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    chunks = [bytes.fromhex(each) for each in shared]
    return {"trees": [case(chunks[:count]) for count in range(len(chunks) + 1)]}


def element_names() -> dict[str, Any]:
    return _verdicts(
        ElementName.parse,
        [
            "visits.csv",
            "a/b/c.txt",
            "病历/一月.csv",
            "with space",
            " ",
            ".hidden",
            "...",
            "a..b",
            "-rf",
            "dir/C:x",
            "CON",
            "trailing.",
            "caf\u00e9",
            "cafe\u0301",
            "Stra\u00dfe",
            "STRASSE",
            "\u03aa\u0301",
            "\u0390",
            "x" * limits.ELEMENT_PART_BYTES,
            "/".join(["x" * 255] * 16),
        ],
        [
            "",
            "/etc/passwd",
            "/",
            "../x",
            "a/../b",
            "a/..",
            "..",
            ".",
            "./a",
            "a/./b",
            "a//b",
            "a/",
            "C:\\x",
            "C:x",
            "c:/x",
            "a\\b",
            "\\\\server\\share",
            "a\nb",
            "a\u0000b",
            "a\u007fb",
            "a\u0085b",
            "x" * (limits.ELEMENT_PART_BYTES + 1),
            "病" * 86,
            "a/" * 2048 + "a",
        ],
    )


def _element(name: str, content: bytes, chunk_size: int, media_type: str) -> Element:
    chunks = [content[at : at + chunk_size] for at in range(0, len(content), chunk_size)]
    return Element(
        ElementName.parse(name),
        media_type,
        len(content),
        chunk_size,
        merkle.root(merkle.leaf_hash(chunk) for chunk in chunks),
        sha256(content).digest(),
        T0 * 10**9,
    )


def digital_object() -> dict[str, Any]:
    """A folder of three elements: empty, of one chunk, of three chunks."""
    identifier = Identifier.of(NORTH, "trial-7")
    contents = {
        "empty.txt": (b"", limits.CHUNK_BYTES, "text/plain"),
        "notes/病历.txt": ("病历\n".encode(), limits.CHUNK_BYTES, "text/plain"),
        # Byte number i is i modulo 251, so that no two chunks are alike.
        "visits.bin": (bytes(i % 251 for i in range(40_000)), limits.MIN_CHUNK_BYTES, "application/octet-stream"),
    }
    elements = tuple(_element(name, *rest) for name, rest in contents.items())
    page = wire.encode_page(ManifestPage(0, elements))
    total = sum(element.length for element in elements)
    manifest = sign(
        PayloadType.MANIFEST,
        wire.encode_manifest(
            Manifest(identifier, 1, len(elements), total, 1, merkle.root([merkle.leaf_hash(page)]), T0 + 60, False)
        ),
        OLD,
    )
    salt = sha256(b"hanse test salt").digest()
    record = sign(
        PayloadType.RECORD,
        wire.encode_record(
            ObjectRecord(
                identifier,
                1,
                b"",
                "Dataset",
                Status.ACTIVE,
                Metadata(
                    title="Trial 7: visits",
                    description="Visits of trial 7 (试验七).",
                    creators=("North Hospital",),
                    publication_year=2026,
                    subjects=("oncology",),
                    license="CC-BY-4.0",
                    relations=(Relation("IsDerivedFrom", "10.5281/zenodo.1"),),
                    attributes_json='{"cohort":7}',
                ),
                Summary(element_count=len(elements), total_bytes=total, media_types=("text/plain",)),
                Access(AccessMode.ON_REQUEST, ("research",), ("cite",)),
                ("describe", "fetch"),
                trust.commitment(salt, manifest),
                T0 + 60,
                limits.RECORD_TIME_TO_LIVE,
            )
        ),
        OLD,
    )
    tombstone = sign(
        PayloadType.RECORD,
        wire.encode_record(
            ObjectRecord(
                identifier,
                2,
                record.digest,
                "Dataset",
                Status.WITHDRAWN,
                Metadata(title="Trial 7: visits"),
                Summary(),
                Access(AccessMode.ON_REQUEST),
                (),
                bytes(32),
                T0 + 120,
                limits.RECORD_TIME_TO_LIVE,
                "consent ended",
            )
        ),
        OLD,
    )
    return {
        "owner_key": OLD.public.raw.hex(),
        "elements": [
            {
                "name": element.name.text,
                "length": element.length,
                "chunk_size": element.chunk_size,
                "chunks": element.chunk_count,
                "merkle_root": element.merkle_root.hex(),
                "sha256": element.sha256.hex(),
            }
            for element in elements
        ],
        "page": page.hex(),
        "manifest": envelope_parts(manifest),
        "salt": salt.hex(),
        "commitment": trust.commitment(salt, manifest).hex(),
        "record": envelope_parts(record),
        "tombstone": envelope_parts(tombstone),
    }


def _authority() -> bytes:
    return wire.encode_authority(ROOT, "Test league", certificate(CA), REGISTRY.public)


def invitations() -> dict[str, Any]:
    invitation = Invitation(
        (Address.parse("registry.example:4600"),),
        NORTH,
        bytes(range(16)),
        sha256(_authority()).digest(),
        T0 + limits.INVITATION_LIFE,
        "North Hospital",
    )
    text = wire.invitation_to_text(invitation)
    return {
        "authority": _authority().hex(),
        "fingerprint": invitation.league.hex(),
        "secret": invitation.secret.hex(),
        "text": text,
        "texts": _verdicts(
            lambda each: wire.invitation_to_text(wire.invitation_from_text(each)),
            [text, f"  {text}\n", text[:40] + "\n" + text[40:]],
            ["", "hello", text[:-1], text[:60], text.replace("hanse-invite:1:", "hanse-invite:2:"), text + "AAAA"],
        ),
    }


def organization_chain() -> dict[str, Any]:
    """Three versions: joined, a key rotated, an address changed."""

    def version(
        number: int,
        previous: bytes,
        listed: tuple[IdentityKey, ...],
        address: str,
        issued_at: int,
        *signers: SigningKey,
    ) -> Envelope:
        node = NodeEndpoint(Address.parse(address), certificate(NODE))
        record = OrganizationRecord(
            NORTH, number, previous, "North Hospital", "data@north.example", listed, (node,), issued_at
        )
        return sign(PayloadType.ORGANIZATION, wire.encode_organization(record), *signers)

    rotated = (IdentityKey(NEW.public, T0 + 1000), IdentityKey(OLD.public, T0, T0 + 1000))
    first = version(1, b"", (IdentityKey(OLD.public, T0),), "north.example:4610", T0, OLD)
    second = version(2, first.digest, rotated, "north.example:4610", T0 + 1000, NEW, OLD)
    third = version(3, second.digest, rotated, "data.north.example:4610", T0 + 2000, NEW)
    return {
        "chain": [envelope_parts(each) for each in (first, second, third)],
        "key_ids": [_key_id(OLD.public), _key_id(NEW.public)],
    }


def _key_id(key: PublicKey) -> str:
    return str(key.key_id)


def passes() -> dict[str, Any]:
    league = sha256(_authority()).digest()
    statement = Pass(NORTH, league, T0 + 1500, T0 + 1500 + limits.PASS_LIFE)
    return {"league": league.hex(), "pass": envelope_parts(sign(PayloadType.PASS, wire.encode_pass(statement), NEW))}


def evidence_file() -> dict[str, Any]:
    """Of the object of object.json and the organization of organization.json."""
    record = wire.decode_envelope(bytes.fromhex(digital_object()["record"]["serialized"]))
    chain = [wire.decode_envelope(bytes.fromhex(each["serialized"])) for each in organization_chain()["chain"]]
    return evidence(record, [*(organization_record(prefix) for prefix in (ACME, LAB)), *chain])


def registry_log() -> dict[str, Any]:
    """Five entries, two checkpoints, and what proves that they are one log."""
    authority = wire.decode_authority(_authority())
    members = wire.encode_members([Member(NORTH, "North Hospital", 1)], [Address.parse("registry.example:4600")])
    head = wire.encode_membership_head(1, T0, sha256(members).digest(), authority.fingerprint)
    organizations = [Envelope(PayloadType.ORGANIZATION, bytes.fromhex(each["payload"]), ()) for each in
                     organization_chain()["chain"][:2]]  # fmt: skip
    record = Envelope(PayloadType.RECORD, bytes.fromhex(digital_object()["record"]["payload"]), ())
    entries = [
        {"of": "organization", "data": transparency.leaf_of(organizations[0])},
        {"of": "membership", "data": transparency.leaf_of(Envelope(PayloadType.MEMBERSHIP, head, ()))},
        {"of": "certificate", "data": transparency.certificate_leaf(certificate(NODE))},
        {"of": "record", "data": transparency.leaf_of(record)},
        {"of": "organization", "data": transparency.leaf_of(organizations[1])},
    ]
    leaves = [merkle.leaf_hash(bytes(each["data"])) for each in entries]  # type: ignore[call-overload]
    node, name = merkle.nodes(leaves), transparency.origin(authority)

    def note(size: int) -> str:
        return transparency.sign(Checkpoint(name, size, merkle.root(leaves[:size])), REGISTRY, T0 + 60 * size)

    return {
        "authority": _authority().hex(),
        "origin": name,
        "verifier_key": transparency.verifier_key(authority),
        "membership_head": head.hex(),
        "certificate": certificate(NODE).hex(),
        "entries": [each | {"data": bytes(each["data"]).hex()} for each in entries],  # type: ignore[call-overload]
        "checkpoints": [note(3), note(5)],
        "consistency": [each.hex() for each in merkle.consistency_proof(node, 3, 5)],
        "inclusion": {"index": 3, "path": [each.hex() for each in merkle.inclusion_proof(node, 3, 5)]},
    }


def witnesses() -> dict[str, Any]:
    """Of the second checkpoint of registry_log.json, an hour after it."""
    log = registry_log()
    older, newer = log["checkpoints"]
    return witness(older, newer, [bytes.fromhex(each) for each in log["consistency"]], T0 + 3_900)


VECTORS: dict[str, Callable[[], dict[str, Any]]] = {
    "identifiers": identifiers,
    "keys": keys,
    "encodings": encodings,
    "envelopes": envelopes,
    "merkle": merkle_roots,
    "element_names": element_names,
    "object": digital_object,
    "invitation": invitations,
    "organization": organization_chain,
    "pass": passes,
    "terms": terms,
    "papers": papers,
    "log": the_log,
    "evidence": evidence_file,
    "registry_log": registry_log,
    "witness": witnesses,
}


def text_of(name: str) -> str:
    """What stands in the file of that name."""
    return json.dumps(VECTORS[name](), indent=1, ensure_ascii=True) + "\n"


if __name__ == "__main__":
    for each in VECTORS:
        (HERE / f"{each}.json").write_text(text_of(each))
