"""Checkpoints: what the C2SP specifications allow is read, everything else is refused with its reason."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from tlog_scales import tlog
from tlog_scales.signing import PlainEd25519Signer, Vkey

from hanse.errors import BadSignature, VerificationFailed, WrongContent
from hanse.evidence.checkpoint import Checkpoint, is_by, key_hash, origin, parse, read, sign
from hanse.merkle import EMPTY_ROOT, leaf_hash
from hanse.model.identifier import Prefix
from hanse.model.keys import PublicKey
from hanse.signing import SigningKey

PEM = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY, OTHER = SigningKey(PEM), SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
NAME = "86.north.node.hanse.internal/log"
ROOT = base64.b64encode(leaf_hash(b"root")).decode()
CHECKPOINT = Checkpoint(NAME, 7, leaf_hash(b"root"))
NOTE = sign(CHECKPOINT, KEY)
TEXT, LINE = NOTE.split("\n\n")
DASH = "\u2014"


def signed(text: str, key: SigningKey = KEY, name: str = NAME) -> str:
    """Any text as a note: whoever has the key can sign nonsense."""
    blob = base64.b64encode(key_hash(name, key.public) + key.sign(text.encode())).decode()
    return f"{text}\n{DASH} {name} {blob}\n"


def line(name: str = NAME, blob: bytes = b"abcd" + bytes(64)) -> str:
    return f"{DASH} {name} {base64.b64encode(blob).decode()}\n"


def test_a_note_has_exactly_the_bytes_of_the_specification() -> None:
    signature = base64.b64encode(key_hash(NAME, KEY.public) + PEM.sign(f"{NAME}\n7\n{ROOT}\n".encode())).decode()
    assert f"{NAME}\n7\n{ROOT}\n\n{DASH} {NAME} {signature}\n" == NOTE
    assert origin(Prefix.parse("86.north")) == NAME


def test_the_example_of_the_signed_note_specification_parses() -> None:
    """As a note it is right; its text is no checkpoint."""
    example = (
        "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
        f"{DASH} quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9o"
        "JKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
    )
    with pytest.raises(WrongContent, match="not a signed note of at least three lines"):
        parse(example)


def test_the_example_of_the_checkpoint_specification_parses() -> None:
    found, signatures = parse(
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        f"{DASH} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhc"
        "yv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    )
    assert (found.origin, found.size, found.extensions) == ("example.com/behind-the-sofa", 20852163, ())
    assert [(name, len(blob)) for name, blob in signatures] == [("example.com/behind-the-sofa", 68)]


def test_theirs_reads_ours() -> None:
    found = tlog.Checkpoint.from_text(NOTE)
    found.verify(Vkey(NAME, None, 1, KEY.public.raw))
    assert (found.origin, found.size, found.root_hash) == (NAME, 7, leaf_hash(b"root"))
    with pytest.raises(RuntimeError):
        found.verify(Vkey(NAME, None, 1, OTHER.public.raw))


def test_ours_reads_theirs() -> None:
    note = tlog.Checkpoint.make_signed(NAME, 7, leaf_hash(b"root"), [PlainEd25519Signer(NAME, PEM)]).serialize()
    assert note == NOTE
    assert read(note, NAME, [KEY.public]) == CHECKPOINT


ACCEPTED = {
    "ours": NOTE,
    "of an empty log": sign(Checkpoint(NAME, 0, EMPTY_ROOT), KEY),
    "of the largest log": sign(Checkpoint(NAME, (1 << 63) - 1, leaf_hash(b"")), KEY),
    "with extension lines": signed(f"{TEXT}\nan extension\n病历 +\n"),
    "with a witness's line after ours": NOTE + line("witness.example/w"),
    "with a witness's line before ours": f"{TEXT}\n\n{line('witness.example/w')}{LINE}",
    "with another key of our name": f"{TEXT}\n\n{line()}{LINE}",
    "with our key hash under another name": f"{TEXT}\n\n{line('other', key_hash(NAME, KEY.public) + bytes(64))}{LINE}",
    "with a short signature of somebody else": NOTE + line("witness.example/w", b"12345"),
    "with a long signature of somebody else": NOTE + line("witness.example/w", bytes(4900)),
    "with sixteen of those": NOTE + 15 * line("witness.example/w", bytes(4900)),
    "signed twice": f"{TEXT}\n\n{LINE}{LINE}",
    "signed by a new key too": NOTE + signed(f"{TEXT}\n", OTHER).split("\n\n")[1],
}


@pytest.mark.parametrize("note", ACCEPTED.values(), ids=ACCEPTED)
def test_it_is_read(note: str) -> None:
    found = read(note, NAME, [OTHER.public, KEY.public])
    assert found.origin == NAME
    assert note.startswith(found.text + "\n")


A_NOTE = "not a signed note of at least three lines"
NUMBER, BASE64, SIGNATURE = "size is not a number", "what is not base64", "a line that is no signature"
REJECTED = {
    "nothing": ("", A_NOTE),
    "no signature": (f"{TEXT}\n", A_NOTE),
    "no signature after the empty line": (f"{TEXT}\n\n", A_NOTE),
    "no last newline": (NOTE[:-1], A_NOTE),
    "two last newlines": (NOTE + "\n", A_NOTE),
    "no empty line": (f"{TEXT}\n{LINE}", A_NOTE),
    "no root": (f"{NAME}\n7\n\n{LINE}", A_NOTE),
    "no size": (f"{NAME}\n{ROOT}\n\n{LINE}", A_NOTE),
    "no origin": (f"\n7\n{ROOT}\n\n{LINE}", A_NOTE),
    "an empty line before": ("\n" + NOTE, A_NOTE),
    "an empty extension": (signed(f"{TEXT}\n\nmore\n"), A_NOTE),
    "two empty lines": (f"{TEXT}\n\n\n{LINE}", A_NOTE),
    "carriage returns": (NOTE.replace("\n", "\r\n"), "control character"),
    "a tab": (signed(f"{TEXT}\na\tb\n"), "control character"),
    "a null": (NOTE + line("a\0b"), "control character"),
    "an escape in the origin": (signed(f"\x1b[2J\n7\n{ROOT}\n"), "control character"),
    "half a surrogate": (NOTE + line("x").replace("x", "\ud800"), "not valid UTF-8"),
    "a size with a sign": (signed(f"{NAME}\n+7\n{ROOT}\n"), NUMBER),
    "a negative size": (signed(f"{NAME}\n-7\n{ROOT}\n"), NUMBER),
    "a size with a zero before": (signed(f"{NAME}\n07\n{ROOT}\n"), NUMBER),
    "a size of zeros": (signed(f"{NAME}\n00\n{ROOT}\n"), NUMBER),
    "a size with a space": (signed(f"{NAME}\n7 \n{ROOT}\n"), NUMBER),
    "a size with an underscore": (signed(f"{NAME}\n1_0\n{ROOT}\n"), NUMBER),
    "a size in words": (signed(f"{NAME}\nseven\n{ROOT}\n"), NUMBER),
    "a hexadecimal size": (signed(f"{NAME}\n0x7\n{ROOT}\n"), NUMBER),
    "a size in other digits": (signed(f"{NAME}\n\u0667\n{ROOT}\n"), NUMBER),
    "a raised size": (signed(f"{NAME}\n\u00b2\n{ROOT}\n"), NUMBER),
    "a size above the largest": (signed(f"{NAME}\n{1 << 63}\n{ROOT}\n"), "larger than any log's"),
    "a size of many digits": (signed(f"{NAME}\n{'9' * 5000}\n{ROOT}\n"), "larger than any log's"),
    "a root without padding": (signed(f"{NAME}\n7\n{ROOT[:-1]}\n"), BASE64),
    "a root with a space": (signed(f"{NAME}\n7\n{ROOT} \n"), BASE64),
    "a root in the other alphabet": (signed(f"{NAME}\n7\n{'-_' * 21}8=\n"), BASE64),
    "a root with bits to spare": (signed(f"{NAME}\n7\n{'A' * 42}B=\n"), BASE64),
    "a root in hexadecimal": (signed(f"{NAME}\n7\n{leaf_hash(b'').hex()}\n"), "root is not 32 bytes"),
    "a short root": (signed(f"{NAME}\n7\n{base64.b64encode(bytes(31)).decode()}\n"), "root is not 32 bytes"),
    "a long root": (signed(f"{NAME}\n7\n{base64.b64encode(bytes(33)).decode()}\n"), "root is not 32 bytes"),
    "leaves in an empty log": (signed(f"{NAME}\n0\n{ROOT}\n"), "another root than an empty log"),
    "a hyphen for the dash": (f"{TEXT}\n\n{LINE.replace(DASH, '-')}", SIGNATURE),
    "a shorter dash": (f"{TEXT}\n\n{LINE.replace(DASH, chr(0x2013))}", SIGNATURE),
    "two spaces": (f"{TEXT}\n\n{LINE.replace(' ', '  ', 1)}", SIGNATURE),
    "no space": (f"{TEXT}\n\n{LINE.replace(' ', '', 1)}", SIGNATURE),
    "a space at the end": (f"{TEXT}\n\n{LINE[:-1]} \n", SIGNATURE),
    "a signature without a name": (f"{TEXT}\n\n{DASH} {LINE.split(' ')[2]}", SIGNATURE),
    "an empty name": (f"{TEXT}\n\n{DASH}  {LINE.split(' ')[2]}", SIGNATURE),
    "a name with a plus": (NOTE + line("a+b"), SIGNATURE),
    "a name with a no-break space": (NOTE + line("a\u00a0b"), SIGNATURE),
    "a name with an ideographic space": (NOTE + line("a\u3000b"), SIGNATURE),
    "a line that is something else": (NOTE + "hello\n", SIGNATURE),
    "no key hash": (NOTE + line("w", b"123"), SIGNATURE),
    "a key hash alone": (NOTE + line("w", b"1234"), SIGNATURE),
    "a signature that is not base64": (f"{TEXT}\n\n{DASH} {NAME} !!!!\n", BASE64),
    "a signature without padding": (NOTE + f"{DASH} w AAAAAAA\n", BASE64),
    "a signature with bits to spare": (NOTE + f"{DASH} w AAAAAAB=\n", BASE64),
    "too long": (NOTE + 18 * line("w", bytes(6000)), "longer than 131,072 bytes"),
    "another log": (sign(Checkpoint("86.south.node.hanse.internal/log", 7, leaf_hash(b"")), KEY), "of another log"),
    "another log with our key's name": (signed(f"86.south\n7\n{ROOT}\n"), "of another log"),
}


@pytest.mark.parametrize(("note", "why"), REJECTED.values(), ids=REJECTED)
def test_it_is_refused(note: str, why: str) -> None:
    with pytest.raises(WrongContent, match=why):
        read(note, NAME, [KEY.public])


HASH = key_hash(NAME, KEY.public)
UNSIGNED = {
    "another key": sign(CHECKPOINT, OTHER),
    "another key under our key's hash": NOTE.replace(LINE, line(NAME, HASH + OTHER.sign(CHECKPOINT.text.encode()))),
    "another name": signed(f"{TEXT}\n", KEY, "86.south.node.hanse.internal/log"),
    "another text": f"{TEXT.replace('7', '8', 1)}\n\n{LINE}",
    "an extension put in": f"{TEXT}\nmore\n\n{LINE}",
    "a right signature and a wrong one of ours": NOTE + line(NAME, HASH + bytes(64)),
    "a wrong signature of ours and a right one": f"{TEXT}\n\n{line(NAME, HASH + bytes(64))}{LINE}",
    "a short signature": f"{TEXT}\n\n{line(NAME, HASH + KEY.sign(CHECKPOINT.text.encode())[:63])}",
    "a long signature": f"{TEXT}\n\n{line(NAME, HASH + KEY.sign(CHECKPOINT.text.encode()) + b'x')}",
    "a witness alone": f"{TEXT}\n\n{line('witness.example/w')}",
}


@pytest.mark.parametrize("note", UNSIGNED.values(), ids=UNSIGNED)
def test_it_is_not_signed(note: str) -> None:
    parse(note)
    with pytest.raises(BadSignature, match=f"a checkpoint of {NAME} "):
        read(note, NAME, [KEY.public])


def test_without_keys_nothing_is_signed() -> None:
    with pytest.raises(BadSignature):
        read(NOTE, NAME, [])


def test_every_bit_of_a_note_counts() -> None:
    data = NOTE.encode()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VerificationFailed):
            read(changed.decode(errors="surrogateescape"), NAME, [KEY.public])


def test_which_key_signed_is_told() -> None:
    assert is_by(NOTE, KEY.public)
    assert not is_by(NOTE, OTHER.public)
    assert not is_by(signed(f"{TEXT}\n", KEY, "other"), KEY.public)


pieces = st.sampled_from([
    NAME, "7", "0", ROOT, "\n", "\n\n", f"{DASH} ", " ", LINE, TEXT, "=", "\r", "+", "\u3000", "\ud800",
    base64.b64encode(bytes(68)).decode(),
])  # fmt: skip


@given(st.lists(pieces | st.text(max_size=5), max_size=14).map("".join))
def test_garbage_is_refused_or_means_what_it_says(note: str) -> None:
    try:
        found, signatures = parse(note)
    except WrongContent:
        return
    lines = "".join(f"{DASH} {name} {base64.b64encode(blob).decode()}\n" for name, blob in signatures)
    assert f"{found.text}\n{lines}" == note
    assert signatures


@given(
    st.integers(0, (1 << 63) - 1),
    st.binary(min_size=32, max_size=32),
    st.lists(st.text("ab 病+=", min_size=1), max_size=3),
)
def test_what_is_signed_is_read_back(size: int, tree: bytes, extensions: list[str]) -> None:
    checkpoint = Checkpoint(NAME, size, tree if size else EMPTY_ROOT, tuple(extensions))
    assert read(sign(checkpoint, KEY), NAME, [PublicKey(KEY.public.raw)]) == checkpoint
