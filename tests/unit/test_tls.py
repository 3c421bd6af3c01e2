"""Certificates: who they name, what they are for, how long they hold."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hanse import limits
from hanse.errors import HomeUnusable, InvalidInput
from hanse.model.identifier import Prefix
from hanse.rpc import tls

NOW = 1_800_000_000
ROOT, NORTH = Prefix("86"), Prefix("86.north")
CA_KEY, KEY = tls.TlsKey.generate(), tls.TlsKey.generate()
CA = tls.make_authority(CA_KEY, ROOT, NOW)
MEMBER = tls.issue_member(CA_KEY, CA, tls.make_request(KEY, NORTH), ROOT, NORTH, NOW)
NODE = tls.make_node_certificate(KEY, ROOT, NORTH, NOW)
REGISTRY = tls.issue_registry(CA_KEY, CA, KEY, ROOT, NOW)


def test_a_members_certificate_names_it_for_seven_days() -> None:
    read = tls.read_certificate(MEMBER)
    assert read.organization == NORTH
    assert read.spiffe_id == "spiffe://86/org/86.north"
    assert (read.not_before, read.not_after) == (NOW - limits.CERTIFICATE_BACKDATE, NOW + limits.CERTIFICATE_LIFE)


def test_a_node_and_its_members_certificate_have_one_key() -> None:
    assert tls.read_certificate(NODE).key_digest == tls.read_certificate(MEMBER).key_digest
    assert tls.request_key_digest(tls.make_request(KEY, NORTH)) == tls.read_certificate(NODE).key_digest


def usage(der: bytes) -> list[x509.ObjectIdentifier]:
    extensions = x509.load_der_x509_certificate(der).extensions
    return list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_certificates_are_for_one_side_only() -> None:
    assert usage(MEMBER) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert usage(NODE) == usage(REGISTRY) == [ExtendedKeyUsageOID.SERVER_AUTH]


def test_only_the_authority_can_sign_others() -> None:
    for der, ca in [(CA, True), (MEMBER, False), (NODE, False), (REGISTRY, False)]:
        extensions = x509.load_der_x509_certificate(der).extensions
        assert extensions.get_extension_for_class(x509.BasicConstraints).value.ca is ca
        assert extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is ca


def test_the_authority_issued_what_it_issued() -> None:
    authority = x509.load_der_x509_certificate(CA)
    for der in (MEMBER, REGISTRY):
        x509.load_der_x509_certificate(der).verify_directly_issued_by(authority)
    with pytest.raises(ValueError, match=r"[Ii]ssuer"):
        x509.load_der_x509_certificate(NODE).verify_directly_issued_by(authority)


def test_the_registrys_certificate_names_no_member() -> None:
    assert tls.read_certificate(REGISTRY).organization is None
    assert tls.read_certificate(CA).organization is None


def test_what_the_request_says_besides_its_key_is_ignored() -> None:
    issued = tls.issue_member(CA_KEY, CA, tls.make_request(KEY, Prefix("86.south")), ROOT, NORTH, NOW)
    assert tls.read_certificate(issued).organization == NORTH


def self_signed(*names: x509.GeneralName) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    certificate = x509.load_der_x509_certificate(MEMBER)
    builder = builder.serial_number(1).not_valid_before(certificate.not_valid_before_utc)
    builder = builder.not_valid_after(certificate.not_valid_after_utc)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    "uris",
    [
        [],
        ["https://86/org/86.north"],
        ["spiffe://86/86.north"],
        ["spiffe://86/org/"],
        ["spiffe://86/org/86.North"],
        ["spiffe://86/org/86.north/more"],
        ["spiffe://87/org/86.north"],
        ["spiffe://8/org/86.north"],
        ["spiffe://86.north/org/86.north"],
        ["spiffe://86/org/86.north", "spiffe://86/org/86.south"],
    ],
    ids=str,
)
def test_a_certificate_that_names_nobody(uris: list[str]) -> None:
    assert tls.read_certificate(self_signed(*map(x509.UniformResourceIdentifier, uris))).organization is None


@pytest.mark.parametrize(
    "data", [b"", b"x", MEMBER[:-1], MEMBER[:100], tls.to_pem(MEMBER)], ids=["empty", "x", "cut", "cut short", "PEM"]
)
def test_what_is_no_certificate(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="not a certificate"):
        tls.read_certificate(data)


def test_pem_and_der() -> None:
    assert tls.from_pem(tls.to_pem(MEMBER)) == MEMBER
    assert tls.to_pem(MEMBER, CA).count(b"BEGIN CERTIFICATE") == 2
    assert tls.read_pem_certificate(tls.to_pem(MEMBER)) == tls.read_certificate(MEMBER)
    for data in (b"", MEMBER):
        with pytest.raises(InvalidInput):
            tls.from_pem(data)
        with pytest.raises(InvalidInput):
            tls.read_pem_certificate(data)


def altered(request: bytes) -> bytes:
    return request[:-1] + bytes([request[-1] ^ 1])


@pytest.mark.parametrize(
    "request_", [b"", b"x", MEMBER, tls.make_request(KEY, NORTH)[:-5]], ids=["empty", "x", "a certificate", "cut off"]
)
def test_what_is_no_request(request_: bytes) -> None:
    with pytest.raises(InvalidInput, match="not a certificate request"):
        tls.request_key_digest(request_)


def test_a_request_that_does_not_prove_its_key() -> None:
    with pytest.raises(InvalidInput, match="does not prove its key"):
        tls.issue_member(CA_KEY, CA, altered(tls.make_request(KEY, NORTH)), ROOT, NORTH, NOW)


def test_a_request_with_an_rsa_key_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    built = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    request = built.public_bytes(serialization.Encoding.DER)
    with pytest.raises(InvalidInput, match="ECDSA"):
        tls.issue_member(CA_KEY, CA, request, ROOT, NORTH, NOW)


def test_keys_are_kept_and_read_again() -> None:
    again = tls.TlsKey.from_pem(KEY.to_pem())
    assert tls.make_request(again, NORTH)
    assert tls.request_key_digest(tls.make_request(again, NORTH)) == tls.read_certificate(NODE).key_digest
    assert "PRIVATE" not in repr(KEY)
    for damaged in (b"", KEY.to_pem()[:50]):
        with pytest.raises(HomeUnusable, match="damaged"):
            tls.TlsKey.from_pem(damaged)
