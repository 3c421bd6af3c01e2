"""Certificates: the league's authority, its members' and the registry's. SPEC.md section 5; RFC 5280.

TLS keys are ECDSA P-256, because BoringSSL offers no Ed25519 certificates. All certificates are DER here,
PEM only where gRPC asks for it. A node has one TLS key and two certificates for it: a long-lived one that it
made itself and that its organization record carries (who dials it trusts nothing else), and a short one from
the league's authority, which it shows when it dials.
"""

import datetime
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hanse import limits
from hanse.errors import HomeUnusable, InvalidInput
from hanse.model.identifier import Prefix

_DECADE = 3650 * limits.DAY
_MIRROR = "/registry/"
# What cryptography raises, at once or at the first look, for bytes that are no certificate that we could use.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)


class TlsKey:
    """An ECDSA P-256 private key. repr() does not show it."""

    def __init__(self, private: ec.EllipticCurvePrivateKey) -> None:
        self.private = private

    @classmethod
    def generate(cls) -> "TlsKey":
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> "TlsKey":
        """Raises HomeUnusable."""
        try:
            private = serialization.load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise HomeUnusable("the TLS key is damaged: restore it from your backup") from None
        if not isinstance(private, ec.EllipticCurvePrivateKey):
            raise HomeUnusable("the TLS key is not an ECDSA key")
        return cls(private)

    def to_pem(self) -> bytes:
        return self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@dataclass(frozen=True, slots=True)
class Certificate:
    """What we read of a certificate: whose it is, SHA-256 of its SubjectPublicKeyInfo, validity in Unix seconds."""

    spiffe_id: str
    key_digest: bytes
    not_before: int
    not_after: int

    @property
    def organization(self) -> Prefix | None:
        """The organization of a member's certificate, None of any other."""
        root, separator, prefix = self.spiffe_id.removeprefix("spiffe://").partition("/org/")
        if not separator or not self.spiffe_id.startswith("spiffe://"):
            return None
        try:
            parsed = Prefix.parse(prefix)
        except InvalidInput:
            return None
        return parsed if str(parsed) == prefix and parsed.text.startswith(root + ".") else None

    @property
    def mirror(self) -> Prefix | None:
        """The organization whose mirror of the registry serves with it, None of any other."""
        root, separator, prefix = self.spiffe_id.removeprefix("spiffe://").partition(_MIRROR)
        return replace(self, spiffe_id=f"spiffe://{root}/org/{prefix}").organization if separator else None


def member_id(root: Prefix, prefix: Prefix) -> str:
    """``spiffe://<root>/org/<prefix>``."""
    return f"spiffe://{root}/org/{prefix}"


def registry_name(root: Prefix) -> str:
    """The DNS name that a registry proves in the handshake, whatever its address."""
    return f"{root}.registry.hanse.internal"


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _builder(
    subject: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: int, life: int, *, ca: bool
) -> x509.CertificateBuilder:
    instant = datetime.datetime.fromtimestamp(now, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(instant - datetime.timedelta(seconds=limits.CERTIFICATE_BACKDATE))
        .not_valid_after(instant + datetime.timedelta(seconds=life))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca, content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip


def _end_entity(
    builder: x509.CertificateBuilder, spiffe_id: str, dns_name: str, usage: x509.ObjectIdentifier
) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id), x509.DNSName(dns_name)]), critical=False
    ).add_extension(x509.ExtendedKeyUsage([usage]), critical=False)


def _sign(builder: x509.CertificateBuilder, key: TlsKey) -> bytes:
    return builder.sign(key.private, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def make_authority(key: TlsKey, root: Prefix, now: int) -> bytes:
    """The league's own certificate, for ten years."""
    title = f"Hanse {root} authority"
    builder = _builder(title, _name(title), key.private.public_key(), now, _DECADE, ca=True)
    return _sign(builder, key)


def make_node_certificate(key: TlsKey, root: Prefix, prefix: Prefix, now: int) -> bytes:
    """What a node shows to those who dial it; made by itself, for ten years, named by its organization's record."""
    builder = _builder(str(prefix), _name(str(prefix)), key.private.public_key(), now, _DECADE, ca=False)
    return _sign(
        _end_entity(builder, member_id(root, prefix), prefix.server_name, ExtendedKeyUsageOID.SERVER_AUTH), key
    )


def make_request(key: TlsKey, prefix: Prefix) -> bytes:
    """A PKCS #10 request for a member's certificate. All but its key is ignored by the authority."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(str(prefix)))
    return request.sign(key.private, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def request_key_digest(request: bytes) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo of a request whose own signature holds. Raises InvalidInput."""
    return sha256(_spki(_load_request(request).public_key())).digest()


def issue_member(
    authority_key: TlsKey, authority: bytes, request: bytes, root: Prefix, prefix: Prefix, now: int
) -> bytes:
    """A member's client certificate, for CERTIFICATE_LIFE. Raises InvalidInput when the request is none."""
    key = _load_request(request).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidInput("a certificate request has an ECDSA key")
    issuer = x509.load_der_x509_certificate(authority).subject
    builder = _builder(str(prefix), issuer, key, now, limits.CERTIFICATE_LIFE, ca=False)
    return _sign(
        _end_entity(builder, member_id(root, prefix), prefix.server_name, ExtendedKeyUsageOID.CLIENT_AUTH),
        authority_key,
    )


def issue_mirror(
    authority_key: TlsKey, authority: bytes, request: bytes, root: Prefix, prefix: Prefix, now: int
) -> bytes:
    """What a member's mirror serves with under the registry's name, for CERTIFICATE_LIFE. Raises InvalidInput."""
    key = _load_request(request).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidInput("a certificate request has an ECDSA key")
    issuer = x509.load_der_x509_certificate(authority).subject
    name = registry_name(root)
    builder = _builder(name, issuer, key, now, limits.CERTIFICATE_LIFE, ca=False)
    spiffe_id = f"spiffe://{root}{_MIRROR}{prefix}"
    return _sign(_end_entity(builder, spiffe_id, name, ExtendedKeyUsageOID.SERVER_AUTH), authority_key)


def issue_registry(authority_key: TlsKey, authority: bytes, key: TlsKey, root: Prefix, now: int) -> bytes:
    """The registry's own server certificate, for ten years."""
    issuer = x509.load_der_x509_certificate(authority).subject
    name = registry_name(root)
    builder = _builder(name, issuer, key.private.public_key(), now, _DECADE, ca=False)
    return _sign(
        _end_entity(builder, f"spiffe://{root}/registry", name, ExtendedKeyUsageOID.SERVER_AUTH), authority_key
    )


def read_certificate(der: bytes) -> Certificate:
    """Raises InvalidInput."""
    try:
        return _read(x509.load_der_x509_certificate(der))
    except _UNREADABLE:
        raise InvalidInput("this is not a certificate") from None


@lru_cache(maxsize=4096)
def read_pem_certificate(pem: bytes) -> Certificate:
    """Of a peer, as gRPC shows it on every call: hence the cache. Raises InvalidInput."""
    try:
        return _read(x509.load_pem_x509_certificate(pem))
    except _UNREADABLE:
        raise InvalidInput("this is not a certificate") from None


def is_issued_by(authority: bytes, der: bytes) -> bool:
    """Whether the league's authority signed a certificate. Both are DER."""
    try:
        x509.load_der_x509_certificate(der).verify_directly_issued_by(x509.load_der_x509_certificate(authority))
    except (*_UNREADABLE, InvalidSignature):
        return False
    return True


def is_key_of(key: TlsKey, certificate: bytes) -> bool:
    """Whether it is the private key of a certificate (DER). Raises InvalidInput."""
    return sha256(_spki(key.private.public_key())).digest() == read_certificate(certificate).key_digest


def to_pem(*certificates: bytes) -> bytes:
    """For gRPC, which wants PEM. Raises InvalidInput."""
    try:
        return b"".join(
            x509.load_der_x509_certificate(each).public_bytes(serialization.Encoding.PEM) for each in certificates
        )
    except _UNREADABLE:
        raise InvalidInput("this is not a certificate") from None


def from_pem(pem: bytes) -> bytes:
    """Raises InvalidInput."""
    try:
        return x509.load_pem_x509_certificate(pem).public_bytes(serialization.Encoding.DER)
    except _UNREADABLE:
        raise InvalidInput("this is not a certificate") from None


def _load_request(request: bytes) -> x509.CertificateSigningRequest:
    try:
        loaded = x509.load_der_x509_csr(request)
        valid = loaded.is_signature_valid
    except (*_UNREADABLE, InvalidSignature):
        valid = False
    if not valid:
        raise InvalidInput("this is not a certificate request, or it does not prove its key")
    return loaded


def _spki(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidInput("a TLS key is an ECDSA key")
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _read(certificate: x509.Certificate) -> Certificate:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, *_UNREADABLE):
        uris = []
    return Certificate(
        uris[0] if len(uris) == 1 else "",
        sha256(_spki(certificate.public_key())).digest(),
        int(certificate.not_valid_before_utc.timestamp()),
        int(certificate.not_valid_after_utc.timestamp()),
    )
