"""Records of objects, kept because a receipt names them: whoever shows the receipt later has to show them too.

The node's catalog has those of its own objects; this table has those of others. All functions work inside the
caller's transaction.

    keep(change.connection, verified.envelope)
"""

from hanse import wire
from hanse.model.envelope import Envelope
from hanse.storage.database import Connection


def keep(connection: Connection, envelope: Envelope) -> None:
    """The same again does no harm."""
    connection.execute(
        "INSERT OR IGNORE INTO kept_record (digest, envelope) VALUES (?, ?)",
        (envelope.digest, wire.encode_envelope(envelope)),
    )


def find(connection: Connection, digest: bytes) -> Envelope | None:
    """By the digest of its envelope."""
    row = connection.execute("SELECT envelope FROM kept_record WHERE digest = ?", (digest,)).fetchone()
    return wire.decode_envelope(row[0]) if row else None
