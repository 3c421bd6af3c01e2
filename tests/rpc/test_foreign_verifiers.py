"""Software that we did not write accepts our log, and ours accepts theirs: PyPI's tlog-scales, Go's x/mod/sumdb."""

import base64
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from hanse import cosigning, merkle, transparency, wire_log
from hanse.cosigning import WitnessKey
from hanse.errors import BadSignature, BrokenChain, VerificationFailed, WrongContent
from hanse.evidence import checkpoint as notes
from hanse.evidence.checkpoint import Checkpoint
from hanse.model.keys import PublicKey
from hanse.model.organization import Authority
from hanse.signing import SigningKey
from hanse.transparency import Inclusion, Shown
from hanse.v1 import registry_pb2
from registry import app
from tests.breaking import missing
from tests.league import Registry
from tests.processes import free_port

scales = pytest.importorskip("tlog_scales.reader", reason="tlog-scales is missing: pip install tlog-scales")
SIZES = (1, 2, 3, 7, 8, 9, 64, 100)
PUBLISHED = 700


@dataclass
class Ours:
    """The log of a real registry: what it showed at several sizes, proofs of some of its records, and its tiles."""

    authority: Authority
    leaves: list[bytes]
    shown: list[Shown]
    proofs: list[tuple[bytes, Inclusion]]
    url: str
    began: int
    """Unix seconds, before it showed anything."""

    @property
    def origin(self) -> str:
        return transparency.origin(self.authority)

    def vkey(self, kind: int = 1) -> str:
        if kind == 1:
            return transparency.verifier_key(self.authority)
        public = bytes((kind,)) + self.authority.registry_key.raw
        digest = merkle.sha256(self.origin.encode() + b"\n" + public).digest()[:4]
        return f"{self.origin}+{digest.hex()}+{base64.b64encode(public).decode()}"

    def checkpoints(self) -> list[Checkpoint]:
        return [transparency.verify(each.note, self.authority).checkpoint for each in self.shown]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    port, began = free_port(), int(time.time())
    settings = f'tiles = "127.0.0.1:{port}"\npublic_entries = true\n'
    with Registry.start(tmp_path_factory.mktemp("league") / "registry", settings=settings) as registry:
        north = registry.join("86.north")
        shown, seen, records = [], 0, []
        for count in (1, 3, 4, 245, 1, 1, 300, PUBLISHED - 555):
            records += [north.record(str(len(records) + number)) for number in range(count)]
            north.publish(*records[-count:])
            request = registry_pb2.GetCheckpointRequest(seen_size=seen)
            answer = north.stub.GetCheckpoint(request, metadata=north.metadata, timeout=60)
            shown.append(wire_log.shown_from_message(answer.log))
            seen = int(shown[-1].note.splitlines()[1])
        proofs = []
        for place in (0, 1, 255, 256, PUBLISHED // 2, PUBLISHED - 1):
            request = registry_pb2.ResolveRequest(ids=[f"86.north/{place}"], prove=True)
            (told,) = north.stub.Resolve(request, metadata=north.metadata, timeout=60).resolutions
            proofs.append((transparency.leaf_of(records[place]), wire_log.inclusion_from_message(told.inclusion)))
        with app.opened(registry.folder) as opened:
            leaves = opened.storage.leaves(0, seen)
            yield Ours(opened.authority, leaves, shown, proofs, f"http://127.0.0.1:{port}", began)


class TestScales:
    """https://pypi.org/project/tlog-scales/"""

    def test_it_accepts_our_checkpoints_and_both_signatures(self, ours):
        from tlog_scales import signing, tlog

        for each in ours.shown:
            theirs = tlog.Checkpoint.from_text(each.note)
            for kind in (1, 4):
                vkey = signing.Vkey.from_string(ours.vkey(kind))
                assert vkey.serialize() == ours.vkey(kind)
                theirs.verify(vkey)
            (dated,) = (sig for sig in theirs.signatures if signing.Vkey.from_string(ours.vkey(4)).match(sig))
            at = signing.Ed25519CosignatureVerifier.get_timestamp(dated.payload)
            assert ours.began <= at <= time.time()

    def test_it_refuses_an_altered_checkpoint(self, ours):
        from cryptography.exceptions import InvalidSignature
        from tlog_scales import signing, tlog

        size = ours.shown[-1].note.splitlines()[1]
        altered = ours.shown[-1].note.replace(f"\n{size}\n", f"\n{int(size) - 1}\n")
        for kind in (1, 4):
            with pytest.raises(InvalidSignature):
                tlog.Checkpoint.from_text(altered).verify(signing.Vkey.from_string(ours.vkey(kind)))

    def test_it_accepts_our_proofs(self, ours):
        from tlog_scales import tlog

        newest = ours.checkpoints()[-1]
        for leaf, proof in ours.proofs:
            theirs = tlog.InclusionProof(proof.index, newest.size, list(proof.path))
            theirs.check(merkle.leaf_hash(leaf), newest.root)
            with pytest.raises(tlog.InclusionProofInvalid):
                theirs.check(merkle.leaf_hash(b"another"), newest.root)
        checkpoints = ours.checkpoints()
        for older, newer, shown in zip(checkpoints, checkpoints[1:], ours.shown[1:], strict=False):
            theirs = tlog.ConsistencyProof(older.size, newer.size, list(shown.consistency))
            theirs.check(older.root, newer.root)

    def test_it_reads_our_tiles_and_makes_the_same_proofs_of_them(self, ours):
        from tlog_scales.backend import HttpBackend

        reader = scales.TilesReader(HttpBackend(ours.url))
        size = reader.get_checkpoint().size
        newest = ours.checkpoints()[-1]
        assert (size, reader.calculate_root_hash()) == (newest.size, newest.root)
        for leaf, proof in ours.proofs:
            assert reader.get_entry(proof.index) == leaf
            assert tuple(reader.get_inclusion_proof(proof.index, size).node_hashes) == proof.path
        checkpoints = ours.checkpoints()
        for older, newer, shown in zip(checkpoints, checkpoints[1:], ours.shown[1:], strict=False):
            theirs = reader.get_consistency_proof(older.size, newer.size)
            assert tuple(theirs.node_hashes) == shown.consistency
        assert [reader.get_entry(place) for place in range(size)] == ours.leaves

    @pytest.mark.parametrize("size", [*SIZES, 300])
    def test_ours_accepts_a_log_of_its_making(self, tmp_path, size):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from tlog_scales import signing
        from tlog_scales.writer import TilesWriter

        private = Ed25519PrivateKey.generate()
        key = PublicKey(private.public_key().public_bytes_raw())
        writer = TilesWriter.create(tmp_path / "log", "example.org/log")
        roots = {}
        for number in range(size):
            writer.add_leaf(str(number).encode())
            if number + 1 in (1, 2, size // 2, size):
                writer.commit([signing.PlainEd25519Signer("example.org/log", private)])
                found = notes.read((tmp_path / "log" / "checkpoint").read_text(), "example.org/log", [key])
                roots[found.size] = found.root
        for number in range(size):
            proof = writer.reader.get_inclusion_proof(number, size)
            leaf = merkle.leaf_hash(str(number).encode())
            merkle.verify_inclusion(leaf, number, size, proof.node_hashes, roots[size])
            with pytest.raises(WrongContent):
                merkle.verify_inclusion(merkle.leaf_hash(b"x"), number, size, proof.node_hashes, roots[size])
        for old, root in roots.items():
            hashes = writer.reader.get_consistency_proof(old, size).node_hashes
            merkle.verify_consistency(old, root, size, roots[size], hashes)

    def test_ours_refuses_its_checkpoint_under_another_key(self, tmp_path):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from tlog_scales import signing, tlog

        signer = signing.PlainEd25519Signer("example.org/log", Ed25519PrivateKey.generate())
        theirs = tlog.Checkpoint.make_signed("example.org/log", 0, merkle.EMPTY_ROOT, [signer])
        other = PublicKey(Ed25519PrivateKey.generate().public_key().public_bytes_raw())
        with pytest.raises(BadSignature):
            notes.read(theirs.serialize(), "example.org/log", [other])


@pytest.fixture(scope="module")
def go(tmp_path_factory):
    """Go's sumdb packages, compiled: takes JSON on stdin, gives JSON or an error."""
    library = Path("/usr/share/gocode/src/golang.org/x/mod/sumdb")
    if shutil.which("go") is None or not library.exists():
        missing("Go's verifier is not here: install Debian's packages golang-go and golang-golang-x-mod-dev")
    folder = tmp_path_factory.mktemp("go")
    source = Path(__file__).parents[1] / "foreign" / "sumdb.go"
    settings = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(folder / "cache"), "GOFLAGS": ""}
    built = subprocess.run(
        ["go", "build", "-o", folder / "sumdb", source], env=os.environ | settings, capture_output=True, text=True,
        timeout=240, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr

    def run(command, given):
        text = json.dumps(given)
        return subprocess.run(
            [folder / "sumdb", command], input=text, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


WITNESSES = {f"witness.example/{number}": SigningKey.generate() for number in range(2)}


def cosigned(ours, *, at: int = 1_800_000_000) -> tuple[str, list[str]]:
    """Our newest checkpoint with the cosignatures of two witnesses, and their keys."""
    note, checkpoint = ours.shown[-1].note, ours.checkpoints()[-1]
    note += "".join(cosigning.sign(checkpoint, name, key, at) for name, key in WITNESSES.items())
    return note, [str(WitnessKey(name, key.public)) for name, key in WITNESSES.items()]


class TestCosignatures:
    """Of c2sp.org/tlog-cosignature: made here and verified there, and the other way round."""

    def test_scales_accepts_ours_and_what_it_accepts_of_a_cosigned_log_stays_the_same(self, ours):
        from cryptography.exceptions import InvalidSignature
        from tlog_scales import signing, tlog

        note, keys = cosigned(ours)
        theirs = tlog.Checkpoint.from_text(note)
        for kind in (1, 4):
            theirs.verify(signing.Vkey.from_string(ours.vkey(kind)))
        for key in keys:
            vkey = signing.Vkey.from_string(key)
            assert vkey.serialize() == key
            theirs.verify(vkey)
            (line,) = (each for each in theirs.signatures if vkey.match(each))
            assert signing.Ed25519CosignatureVerifier.get_timestamp(line.payload) == 1_800_000_000
            size = note.splitlines()[1]
            altered = tlog.Checkpoint.from_text(note.replace(f"\n{size}\n", f"\n{int(size) - 1}\n"))
            with pytest.raises(InvalidSignature):
                altered.verify(vkey)

    def test_go_accepts_ours(self, go, ours):
        note, keys = cosigned(ours)
        claims = {"Vkey": ours.vkey(), "Witnesses": keys, "Note": note}
        done = go("cosigned", claims)
        assert done.returncode == 0, done.stderr
        # One that does not know the witnesses takes the note as it did before.
        assert go("cosigned", claims | {"Witnesses": []}).returncode == 0
        plain = ours.shown[-1].note
        assert go("cosigned", claims | {"Note": plain}).returncode != 0
        other = cosigning.sign(ours.checkpoints()[0], "witness.example/0", WITNESSES["witness.example/0"], 1)
        assert go("cosigned", claims | {"Note": plain + other}).returncode != 0

    def test_ours_accepts_those_that_go_makes(self, go, ours):
        before = int(time.time())
        done = go("cosign", {"Vkey": ours.vkey(), "Witnesses": [], "Note": ours.shown[-1].note})
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        key = WitnessKey.parse(made["Witnesses"][0])
        dates = cosigning.dates(made["Note"], [key])
        assert before <= dates[key] <= time.time()
        lines = "".join(f"{line}\n" for line in made["Note"].splitlines() if "witness.example" in line)
        assert cosigning.read_answer(lines.encode(), ours.checkpoints()[-1], key)[1] == dates[key]
        with pytest.raises(BadSignature):
            cosigning.dates(made["Note"].replace("\n7", "\n8", 1), [key])


class TestGo:
    """https://pkg.go.dev/golang.org/x/mod/sumdb: note and tlog."""

    def claims(self, ours, *, tiles=True):
        checkpoints = ours.checkpoints()
        newest = checkpoints[-1]
        node = merkle.nodes([merkle.leaf_hash(leaf) for leaf in ours.leaves])
        return {
            "Vkey": ours.vkey(),
            "Note": ours.shown[-1].note,
            "Tiles": ours.url if tiles else "",
            "Proofs": [
                {"Index": proof.index, "Data": b64(leaf), "Hashes": [b64(each) for each in proof.path]}
                for leaf, proof in ours.proofs
            ],
            "Steps": [
                {"Old": older.size, "Root": b64(older.root),
                 "Hashes": [b64(each) for each in merkle.consistency_proof(node, older.size, newest.size)]}
                for older in checkpoints
            ],
        }  # fmt: skip

    def test_it_accepts_our_checkpoint_and_proofs_and_makes_the_same_from_our_tiles(self, go, ours):
        done = go("verify", self.claims(ours))
        assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("lie", ["note", "leaf", "place", "step"])
    def test_it_refuses_what_is_not_so(self, go, ours, lie):
        claims = self.claims(ours, tiles=False)
        match lie:
            case "note":
                claims["Note"] = ours.shown[-1].note.replace("\n7", "\n8", 1)
            case "leaf":
                claims["Proofs"][2]["Data"] = b64(b"another")
            case "place":
                claims["Proofs"][2]["Index"] += 1
            case "step":
                claims["Steps"][1]["Root"] = b64(bytes(32))
        assert go("verify", claims).returncode != 0

    def test_ours_accepts_logs_of_its_making_and_refuses_them_altered(self, go):
        done = go("make", {"Name": "example.org/log", "Sizes": SIZES})
        assert done.returncode == 0, done.stderr
        for size, log in zip(SIZES, json.loads(done.stdout), strict=True):
            key = PublicKey(base64.b64decode(log["Vkey"].split("+", 2)[2])[1:])
            found = notes.read(log["Note"], "example.org/log", [key])
            assert found.size == size
            with pytest.raises(VerificationFailed):
                notes.read(log["Note"].replace(f"\n{size}\n", f"\n{size + 1}\n"), "example.org/log", [key])
            for each in log["Proofs"]:
                leaf = merkle.leaf_hash(base64.b64decode(each["Data"]))
                path = [base64.b64decode(one) for one in each["Hashes"] or ()]
                merkle.verify_inclusion(leaf, each["Index"], size, path, found.root)
                with pytest.raises(WrongContent):
                    merkle.verify_inclusion(merkle.leaf_hash(b"x"), each["Index"], size, path, found.root)
            for each in log["Steps"]:
                path = [base64.b64decode(one) for one in each["Hashes"] or ()]
                root = base64.b64decode(each["Root"])
                merkle.verify_consistency(each["Old"], root, size, found.root, path)
                with pytest.raises(BrokenChain):
                    merkle.verify_consistency(each["Old"], bytes(32), size, found.root, path)
