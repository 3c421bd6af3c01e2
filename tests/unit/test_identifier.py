"""Prefixes, identifiers, addresses, key ids: what is accepted, and what is refused with which words."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse import limits
from hanse.errors import InvalidInput
from hanse.model.address import Address
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("86.north-hospital/trial-7", "86.north-hospital/trial-7"),
        ("86.North-Hospital/Trial-7", "86.north-hospital/Trial-7"),
        ("hdl:86.a/x", "86.a/x"),
        ("HDL:86.a/x", "86.a/x"),
        ("info:hdl/86.a/x", "86.a/x"),
        ("hanse:86.a/x", "86.a/x"),
        ("hanse://86.a/x", "86.a/x"),
        ("86.a/x/y/z", "86.a/x/y/z"),
        ("86.a//", "86.a//"),
        ("86.a/数据 集", "86.a/数据 集"),
        ("86.a/..", "86.a/.."),
        ("0/0", "0/0"),
        ("a" * 63 + "/x", "a" * 63 + "/x"),
        ("86.a/" + "x" * 507, "86.a/" + "x" * 507),
    ],
)
def test_accepted(text: str, canonical: str) -> None:
    assert str(Identifier.parse(text)) == canonical
    assert Identifier.parse(canonical) == Identifier.parse(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has the form PREFIX/SUFFIX"),
        ("86.a", "has the form PREFIX/SUFFIX"),
        ("86.a/", "the suffix is empty"),
        ("/x", "is not a prefix"),
        ("86..a/x", "is not a prefix"),
        (".86/x", "is not a prefix"),
        ("86./x", "is not a prefix"),
        ("-a/x", "is not a prefix"),
        ("a-/x", "is not a prefix"),
        ("a_b/x", "is not a prefix"),
        ("a b/x", "is not a prefix"),
        (" 86.a/x", "is not a prefix"),
        ("数/x", "is not a prefix"),
        ("\u212a/x", "is not a prefix"),  # KELVIN SIGN: only ASCII letters are folded
        ("a" * 64 + "/x", "is not a prefix"),
        (".".join(["a" * 50] * 4) + "/x", "at most 200 bytes"),
        ("86.a/ x", "spaces around it"),
        ("86.a/x ", "spaces around it"),
        ("86.a/x\u3000", "spaces around it"),
        ("86.a/a\nb", "cannot be printed"),
        ("86.a/a\x00b", "cannot be printed"),
        ("86.a/a\x7fb", "cannot be printed"),
        ("86.a/a\u202eb", "cannot be printed"),
        ("86.a/a\u200bb", "cannot be printed"),
        ("86.a/\ud800", "valid UTF-8"),
        ("86.a/e\u0301", "form NFC"),
        ("86.a/" + "x" * 508, "at most 512 bytes"),
        ("86.a/" + "数" * 170, "at most 512 bytes"),
        ("https://86.a/x", "is not a prefix"),
    ],
)
def test_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        Identifier.parse(text)


def test_case_does_not_make_another_object() -> None:
    assert Identifier.parse("86.a/Data") == Identifier.parse("86.A/dATA")
    assert len({Identifier.parse("86.a/Data"), Identifier.parse("86.a/data")}) == 1
    assert Identifier.parse("86.a/É") != Identifier.parse("86.a/é")


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused(suffix: str) -> None:
    text = f"86.a/{suffix}"
    try:
        parsed = Identifier.parse(text)
    except InvalidInput:
        return
    assert str(parsed) == text
    assert Identifier.parse(str(parsed)) == parsed
    assert unicodedata.is_normalized("NFC", parsed.suffix)
    assert len(str(parsed).encode()) <= limits.IDENTIFIER_BYTES


@given(st.text(max_size=300))
def test_any_prefix_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = Prefix.parse(text)
    except InvalidInput:
        return
    assert Prefix.parse(str(parsed)) == parsed
    assert len(parsed.server_name) <= 253


def test_roots() -> None:
    assert Prefix.parse("86.a").is_under(Prefix.parse("86"))
    assert not Prefix.parse("861.a").is_under(Prefix.parse("86"))
    assert not Prefix.parse("86").is_under(Prefix.parse("86"))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost:1", "localhost", 1),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("[::1]:65535", "::1", 65535),
        (" a.example:80 ", "a.example", 80),
    ],
)
def test_addresses_accepted(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)
    assert Address.parse(str(Address(host, port))) == Address(host, port)


@pytest.mark.parametrize(
    "text",
    ["", "a", ":1", "a:", "a:x", "a:-1", "a:65536", "a:1:2", "::1:1", "[a]:1", "[]:1", "a b:1", "a/b:1", "u@h:1",
     "a:１", "é:1", "a\n:1", "dns:///a:1", "a,b:1", "x" * 254 + ":1", "a:000001", "fe80::1%eth0:1"],
)  # fmt: skip
def test_addresses_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not an address"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["ab" * 16, "AB" * 16, "ab:" * 16, "abab abab " * 4])
def test_key_ids_accepted(text: str) -> None:
    assert str(KeyId.parse(text)) == "ab" * 16


@pytest.mark.parametrize("text", ["", "ab" * 15, "ab" * 17, "zz" * 16, "ab" * 15 + "a", "０" * 32])
def test_key_ids_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="32 hexadecimal digits"):
        KeyId.parse(text)
