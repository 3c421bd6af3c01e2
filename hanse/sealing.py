"""Keystreams for data at rest: AES-256 in counter mode, with a key made for each thing. SPEC.md section 19.2.

What it is not: authentication. Whoever opens a byte holds it against the manifest's hashes or a signature; a bit
that was flipped on the disk is found there.

The rule it keeps: no two different plaintexts ever get the same keystream. Two ways to get one, each safe for itself:

- ``content``: derived from the vault key, the manifest's digest and the element's number, applied at the bytes' own
  offset. Only bytes that were verified against that manifest are given to it, and SHA-256 leaves one plaintext for
  each (manifest, element, offset): whatever is written twice, by a resumed fetch for example, is the same bytes.
- ``fresh``: derived from the key and 32 random bytes, and written once from its beginning to its end. For what no
  hash fixes beforehand: descriptions, and temporary files.

Within one keystream, positions are distinct counters: block ``n`` of 16 bytes is AES(key, n), and no element is longer
than 2^44 bytes. Sources: NIST SP 800-38A, 6.5 (CTR), RFC 5869 (HKDF, with SHA-256).

    stream = content(vault_key, manifest_digest, 7)
    stream.apply(1 << 20, b"the second MiB of element 7")   # the same call opens it again
"""

import secrets
from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
NONCE_BYTES = 32
_BLOCK = 16
_CONTENT = b"hanse vault content 1\0"
_LEAVES = b"hanse vault leaves 1\0"
_FRESH = b"hanse vault fresh 1\0"
_NAME = b"hanse vault name 1\0"

Buffer = bytes | bytearray | memoryview


class Keystream:
    """Safe to share between threads; repr() does not show the key."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def apply(self, offset: int, data: Buffer) -> bytes:
        """``data``, which lies at ``offset`` bytes, sealed if it was open and open if it was sealed."""
        return b"".join(self.apply_pieces(offset, [data]))

    def apply_pieces(self, offset: int, pieces: Sequence[Buffer]) -> list[memoryview]:
        """The same for pieces that lie one after another."""
        block, within = divmod(offset, _BLOCK)
        stream = Cipher(AES256(self._key), CTR(block.to_bytes(_BLOCK, "big"))).encryptor()
        stream.update(bytes(within))
        return [memoryview(stream.update(piece)) for piece in pieces]

    def apply_within(self, offset: int, data: memoryview) -> None:
        """The same in place."""
        data[:] = self.apply(offset, data)

    def __repr__(self) -> str:
        return "<Keystream>"


def new_key() -> bytes:
    """A vault key."""
    return secrets.token_bytes(KEY_BYTES)


def content(vault_key: bytes, manifest_digest: bytes, element: int) -> Keystream:
    """For the bytes of an element, by its position in the manifest."""
    return Keystream(_derived(vault_key, _CONTENT + manifest_digest + element.to_bytes(8, "big")))


def leaves(vault_key: bytes, manifest_digest: bytes, element: int) -> Keystream:
    """For the leaf hashes of an element's chunks: what hashes to its Merkle root, and so one plaintext too."""
    return Keystream(_derived(vault_key, _LEAVES + manifest_digest + element.to_bytes(8, "big")))


def fresh(key: bytes, nonce: bytes) -> Keystream:
    """For what is written once. ``nonce``: NONCE_BYTES from ``new_nonce``, kept beside what is sealed."""
    return Keystream(_derived(key, _FRESH + nonce))


def new_nonce() -> bytes:
    """For one thing that is sealed with ``fresh``."""
    return secrets.token_bytes(NONCE_BYTES)


def name(vault_key: bytes, what: bytes) -> bytes:
    """32 bytes by which the holder of the key knows ``what`` again, and nobody else can test a guess of it."""
    return _derived(vault_key, _NAME + what)


def _derived(key: bytes, info: bytes) -> bytes:
    # No salt: the key is uniform already (RFC 5869 section 3.1).
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)
