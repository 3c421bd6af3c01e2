"""Whether the grants of leases were revoked: their owners are asked. What they say counts when it verifies.

An owner who does not answer has not revoked, as far as can be known: the lease goes on until its time.

    ask(resolver, vault)                    # all; the daemon, every few seconds
    ask_briefly(resolver, vault, identifier)
"""

import contextlib
import threading
from collections import defaultdict

from hanse import limits
from hanse.client import standing
from hanse.client.resolve import Resolver
from hanse.errors import HanseError
from hanse.model.identifier import Identifier, Prefix
from hanse.vault.storage.leases import Row
from hanse.vault.vault import Vault

BRIEFLY_SECONDS = 2.0


def ask(resolver: Resolver, vault: Vault, identifier: Identifier | None = None) -> list[Row]:
    """Learns of revocations, as far as owners can be asked, and ends what they concern. Returns what was ended."""
    grants: defaultdict[Prefix, set[bytes]] = defaultdict(set)
    for lease in vault.leases(identifier):
        grants[lease.id.prefix].add(lease.grant)
    for owner, digests in grants.items():
        with contextlib.suppress(HanseError), resolver.peer(owner) as peer:
            asked = sorted(digests)
            for first in range(0, len(asked), limits.BATCH):
                for digest, envelope in peer.standing(asked[first : first + limits.BATCH]):
                    standing.learn(resolver, vault.evidence, digest, envelope)
    return vault.sweep()


def ask_briefly(resolver: Resolver, vault: Vault, identifier: Identifier, seconds: float = BRIEFLY_SECONDS) -> None:
    """The same, for no longer than that: whoever reads while the owner is away does not wait."""

    def work() -> None:
        try:
            ask(resolver, vault, identifier)
        except Exception:  # noqa: BLE001 - it is no more than an attempt; who waited may be gone, and all closed
            return

    thread = threading.Thread(target=work, name="hanse-standing", daemon=True)
    thread.start()
    thread.join(seconds)
