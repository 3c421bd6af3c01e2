"""Joining a league: from a pasted invitation to a home that is complete. SPEC.md section 5.1 and 5.2.

The rule it keeps is that of hanse.client.joining: it may be run again after any interruption.

    join("hanse-invite:1:...", Path("north"), listen=Address.parse("127.0.0.1:0"))
"""

import time
from collections.abc import Callable
from pathlib import Path

from hanse.client.identity import MARKER, Identity
from hanse.client.joining import complete, enter, read_invitation
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.envelope import Envelope
from hanse.model.record import check_text
from node import config
from node.config import Config
from node.storage.catalog import CatalogStorage


def join(
    invitation_text: str,
    folder: Path,
    *,
    listen: Address | None = None,
    advertise: Address | None = None,
    name: str | None = None,
    contact: str = "",
    clock: Callable[[], float] = time.time,
    passphrase: str | None = None,
) -> Identity:
    """Spends the invitation and leaves a complete home.

    Raises InvalidInput (the invitation), HomeInUse (already joined), VerificationFailed (not the league that
    invited), NotPermitted (spent or revoked), Unreachable (run it again), HomeUnusable, NoSpace.
    """
    now = int(clock())
    invitation = read_invitation(invitation_text, now)
    check_text(contact)
    check_text(name or "")
    settings = Config(listen=listen or Config().listen, advertise=advertise).check()
    home = Home.create(folder, MARKER)
    with home.lock("hanse join"):
        entered = enter(
            home,
            invitation,
            address=settings.fixed_address,
            now=now,
            name=name,
            contact=contact,
            passphrase=passphrase,
        )
        settings.save(home / config.FILE)
        _keep_organization(home, entered.organization, now)
        complete(entered)
    return entered.identity


def _keep_organization(home: Home, organization: Envelope, now: int) -> None:
    storage = CatalogStorage.open(home / "catalog.db")
    try:
        # The registry has it already: it came with the invitation.
        storage.put_organization(organization, now, enqueued=False)
    finally:
        storage.close()
