"""A new identity key, signed by the old and the new, so that whoever knew the old one goes on. SPEC.md section 4.4.

Crash-safe at every point. The catalog's newest organization record says which key is current; the files follow it:

    identity.next.pem       made; not in any record yet
    (the record is written to the catalog and its outbox, what waits is signed anew: one transaction)
    identity.previous.pem   the old key, kept until the registry has acknowledged the record: passes need it
    identity.pem            the new key

``settle`` finishes what was interrupted; it is called whenever a home is opened for work.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import replace

from hanse import limits, wire
from hanse.client.identity import IDENTITY_KEY, PREVIOUS_KEY, Identity, passphrase
from hanse.errors import Conflict, HanseError, HomeUnusable
from hanse.files import alone, storage_errors, sync_folder
from hanse.home import Home
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.organization import IdentityKey, OrganizationRecord
from hanse.signing import SigningKey, sign
from node.storage.catalog import CatalogStorage
from node.storage.outbox import ORGANIZATION

NEXT_KEY = "keys/identity.next.pem"
_LOCK = "keys.lock"


def rotate(identity: Identity, storage: CatalogStorage, clock: Callable[[], float] = time.time) -> Identity:
    """`hanse rotate-key`, whether the daemon runs or not: makes the change, and publishes it if the registry answers.

    If it does not, the daemon goes on trying: ``previous_key`` of what is returned says that it has yet to be done.
    Raises Conflict, HomeUnusable, NoSpace, StorageFailed.
    """
    # Only here: every command that opens the home imports this module, and few of them need gRPC.
    from hanse.client.reaching import reach
    from node.publish import Publisher

    after = change_key(identity, storage, clock)
    # A daemon that runs publishes it as well; twice does no harm.
    with reach(after, clock) as league, contextlib.suppress(HanseError):
        Publisher(storage, lambda: league, lambda: after, clock=clock).drain()
    settle(identity.home, storage)
    return Identity.load(identity.home)


def change_key(identity: Identity, storage: CatalogStorage, clock: Callable[[], float] = time.time) -> Identity:
    """The change in this home alone; the registry learns of it through the outbox. Raises Conflict, HomeUnusable."""
    home = identity.home
    if identity.previous_key is not None:
        raise Conflict(
            "the change of keys before this one has not been acknowledged by the registry yet: see `hanse status`, "
            "and run `hanse serve` while the registry can be reached"
        )
    now = int(clock())
    key = _next_key(home)
    before = current_organization(storage)
    record = replace(
        wire.decode_organization(before.payload),
        previous=before.digest,
        issued_at=now,
    )
    old = record.keys[0]
    if old.public_key != identity.signing_key.public:
        raise HomeUnusable("keys/identity.pem is not the key that the organization's own record names: restore both")
    record = replace(
        record,
        version=record.version + 1,
        # What is being signed just now by another command still counts.
        keys=(
            IdentityKey(key.public, now),
            replace(old, valid_until=now + limits.KEY_OVERLAP),
            *record.keys[1:],
        ),
    )
    envelope = sign(PayloadType.ORGANIZATION, wire.encode_organization(record), key, identity.signing_key)
    storage.put_organization(
        envelope, now, lambda waiting: sign(PayloadType(waiting.payload_type), waiting.payload, key)
    )
    settle(home, storage)
    return Identity.load(home)


def settle(home: Home, storage: CatalogStorage) -> bool:
    """Brings the key files in line with the organization's own record. Returns whether anything was changed."""
    if not (home / NEXT_KEY).exists() and not (home / PREVIOUS_KEY).exists():
        return False
    with alone(home / _LOCK):  # the daemon does the same when the registry has acknowledged it
        changed = _take_next(home, storage)
        return _drop_previous(home, storage) or changed


def readdress(identity: Identity, storage: CatalogStorage, record: OrganizationRecord, now: int) -> Envelope:
    """The next version of the organization's record, with what ``record`` says anew. In the catalog and its outbox."""
    before = current_organization(storage)
    known = wire.decode_organization(before.payload)
    following = replace(record, version=known.version + 1, previous=before.digest, keys=known.keys, issued_at=now)
    envelope = sign(PayloadType.ORGANIZATION, wire.encode_organization(following), identity.signing_key)
    storage.put_organization(envelope, now)
    return envelope


def current_organization(storage: CatalogStorage) -> Envelope:
    """Raises HomeUnusable."""
    envelope = storage.organization()
    if envelope is None:
        raise HomeUnusable("catalog.db lacks the organization's own record: restore it from your backup")
    return envelope


def _next_key(home: Home) -> SigningKey:
    if (home / NEXT_KEY).exists():
        return SigningKey.from_pem(home.read_secret(NEXT_KEY), passphrase())
    key = SigningKey.generate()
    home.write_secret(NEXT_KEY, key.to_pem(passphrase()))
    return key


def _take_next(home: Home, storage: CatalogStorage) -> bool:
    if not (home / NEXT_KEY).exists():
        return False
    key = SigningKey.from_pem(home.read_secret(NEXT_KEY), passphrase())
    if wire.decode_organization(current_organization(storage).payload).current_key != key.public:
        return False  # made by an attempt that ended before its record was written; the next one takes it
    with storage_errors(str(home / "keys")):
        if not (home / PREVIOUS_KEY).exists():
            os.link(home / IDENTITY_KEY, home / PREVIOUS_KEY)
            sync_folder(home / "keys")
        (home / NEXT_KEY).replace(home / IDENTITY_KEY)
        sync_folder(home / "keys")
    return True


def _drop_previous(home: Home, storage: CatalogStorage) -> bool:
    if not (home / PREVIOUS_KEY).exists():
        return False
    if any(each.key == ORGANIZATION for each in storage.outbox.all()):
        return False
    with storage_errors(str(home / "keys")):
        (home / PREVIOUS_KEY).unlink(missing_ok=True)
        sync_folder(home / "keys")
    return True
