"""The daemon's part in leases: ends them in time, asks whether their grants were revoked, tells owners of deletions.

leases = Leases(vault, lambda: resolver)
leases.look()           # every second
"""

import threading
import time
from collections.abc import Callable

import structlog

from hanse.client.resolve import Resolver
from hanse.client.settling import settle_all
from hanse.errors import HanseError
from hanse.vault.revocations import ask
from hanse.vault.storage.leases import Row
from hanse.vault.vault import Vault, owners_waiting

ASKING_SECONDS = 10.0  # between two questions to the owners of what is leased
_SOON, _LATE = 2.0, 300.0  # seconds to the next attempt to tell an owner: doubled each time
log = structlog.get_logger("hanse.node")


class Leases:
    """``look`` never waits for another node: that is done in a thread of its own. To be called by one thread."""

    def __init__(self, vault: Vault, resolver: Callable[[], Resolver]) -> None:
        self._vault, self._resolver = vault, resolver
        self._asked_at = self._told_at = 0.0
        self._wait = _SOON
        self._talking: threading.Thread | None = None

    def look(self) -> None:
        """Destroys what is due; begins to talk to owners when that is due."""
        ended = self._vault.sweep()
        for row in ended:
            _report(row)
        if ended:
            self._told_at, self._wait = 0.0, _SOON
        if self._talking is not None and self._talking.is_alive():
            return
        self._talking = None
        if self._is_due():
            self._talking = threading.Thread(target=self._talk, name="leases-talk", daemon=True)
            self._talking.start()

    def _is_due(self) -> bool:
        now = time.monotonic()
        asking = now >= self._asked_at and self._vault.folder.exists()
        telling = now >= self._told_at and bool(owners_waiting(self._vault.evidence))
        return asking or telling

    def _talk(self) -> None:
        try:
            if time.monotonic() >= self._asked_at:
                self._asked_at = time.monotonic() + ASKING_SECONDS
                for row in ask(self._resolver(), self._vault):
                    _report(row)
            if time.monotonic() >= self._told_at:
                for owner in owners_waiting(self._vault.evidence):
                    report = settle_all(self._resolver(), self._vault.evidence, owner).get(owner)
                    if report is not None and not report.problem:
                        log.info("deletion.delivered", owner=str(owner))
                self._wait = min(2 * self._wait, _LATE)
                self._told_at = time.monotonic() + self._wait
        except HanseError as error:
            log.warning("leases.talk_failed", error=str(error))
        except Exception as error:  # noqa: BLE001 - the daemon may be ending; the next look begins anew
            log.warning("leases.talk_failed", kind=type(error).__name__)


def _report(row: Row) -> None:
    log.info("lease.ended", object=str(row.id), version=row.version, reason=row.reason)
