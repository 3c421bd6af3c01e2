"""How a node is: who it is, whether the registry answers, what waits to be published, until when things hold.

What it is not: a diagnosis. ``hanse doctor`` says why something does not work and what to do.

    status(Path("north")).outbox.waiting
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hanse import limits, wire
from hanse.client import lies
from hanse.client.identity import MARKER, REMEDY, Identity
from hanse.client.league import League
from hanse.client.log import RegistryLog
from hanse.client.resolve import Resolver
from hanse.client.storage import known
from hanse.client.storage.known import Known, RegistryLie
from hanse.errors import HanseError
from hanse.evidence import peers
from hanse.evidence.evidence import Evidence
from hanse.evidence.peers import Lost
from hanse.evidence.storage import deliveries
from hanse.evidence.storage.peers import Fork
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.identifier import Prefix
from hanse.model.keys import KeyId
from node.catalog import CATALOG
from node.own_policies import FOLDER, read
from node.storage.catalog import CatalogStorage
from node.storage.monitor import FILE as MONITOR
from node.storage.monitor import MonitorStorage, Reported
from node.witness import Witnessed, witnessed


@dataclass(frozen=True, slots=True)
class Refused:
    """``key`` is an object's identifier, or ``organization``; ``why`` is what the registry said."""

    key: str
    why: str


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """``oldest_at`` in Unix seconds, None when nothing waits; ``last_error`` of the oldest that was tried."""

    waiting: int
    oldest_at: int | None
    last_error: str
    refused: tuple[Refused, ...]


@dataclass(frozen=True, slots=True)
class Debt:
    """What a peer was served in ``deliveries`` and did not sign for yet."""

    peer: str
    deliveries: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Lied:
    """Checkpoints of the registry's log that contradict each other, or are not proved to be one log.

    ``proof`` and ``witnesses``: see RegistryLie. ``forked``: it is proved that no log can have both. ``two_faced``: who
    signed two histories then.
    """

    first: str
    second: str
    proof: bytes
    what: str
    noticed_at: int
    witnesses: tuple[str, ...]
    forked: bool
    two_faced: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """Times ``_at`` and ``_until`` in Unix seconds, ages in seconds. ``address``: where others look for the node.

    ``registries``: its addresses and its mirrors', of which ``registry_address`` answered just now, unless
    ``registry_error`` says why not. ``suspended`` is None while that is not known.
    ``own_policies`` is None while ``policies_problem`` says what is wrong: then those taken before are in force.
    ``daemon`` is the process id of ``hanse serve``, None if it does not run. ``log_entries``: in our own log, of which
    ``log_losses`` says who has seen more than there was; ``forks``: checkpoints of peers that contradict each other.
    ``registry_lies``: checkpoints of the registry's log that contradict each other, and nobody has
    accepted it. ``monitored`` entries of the
    registry's log were followed, of ``monitored_of`` that were seen; ``findings``: what was done in our name there that
    this home did not sign off, and was not dismissed.
    ``witness``: what this home cosigned, None if it never was a witness; ``witnesses_required`` of ``witnesses`` must
    have cosigned the registry's log.
    ``receipts_waiting``: signed by us only, for what we fetched; ``owed``: what peers have not signed for.
    """

    prefix: Prefix
    key_id: KeyId
    key_change_pending: bool
    league: str
    league_fingerprint: str
    registries: tuple[Address, ...]
    registry_address: Address | None
    registry_error: str
    registry_answered_at: int | None
    membership_age: int | None
    membership_limit: int
    suspended: bool | None
    certificate_until: int
    address: Address | None
    daemon: int | None
    objects: int
    withdrawn: int
    outbox: OutboxStatus
    own_policies: int | None
    policies_problem: str
    log_entries: int
    log_losses: tuple[Lost, ...]
    forks: tuple[Fork, ...]
    registry_lies: tuple[Lied, ...]
    monitored: int
    monitored_of: int
    findings: tuple[Reported, ...]
    receipts_waiting: int
    owed: tuple[Debt, ...]
    witness: Witnessed | None
    witnesses_required: int
    witnesses: tuple[str, ...]


def status(folder: Path, clock: Callable[[], float] = time.time) -> Status:
    """Asks the registry once. Raises HomeUnusable, StorageFailed; never because the registry is away."""
    home = Home.open(folder, MARKER, REMEDY)
    identity = Identity.load(home)
    now = int(clock())
    with contextlib.ExitStack() as opened:
        storage = CatalogStorage.open(home / CATALOG)
        opened.callback(storage.close)
        seen = opened.enter_context(contextlib.closing(Known.open(home / known.FILE)))
        league = opened.enter_context(League(identity, clock))
        outbox = _outbox(storage)  # first: what does not wait any more, the log that is seen below has
        membership, error, resolver = None, "", Resolver(identity, seen, league, clock)
        try:
            membership = resolver.membership(max_age=0)
        except HanseError as failure:
            error = str(failure)
        kept = seen.membership()
        answered_at = kept.checked_at if kept else None
        if not error and resolver.unconfirmed:
            error = resolver.unconfirmed
        elif not error and (answered_at is None or answered_at < now):
            error = "the registry does not answer: what was last known of the members still serves"
        member = membership.members.get(identity.prefix) if membership else None
        own = storage.organization()
        objects = storage.objects()
        record = wire.decode_organization(own.payload) if own else None
        own_policies, policies_problem = _own_policies(home)
        evidence = opened.enter_context(Evidence.open(identity, clock))
        monitor = opened.enter_context(contextlib.closing(MonitorStorage.open(home / MONITOR)))
        log = RegistryLog(identity.authority, seen, clock).seen()
        return Status(
            prefix=identity.prefix,
            key_id=identity.signing_key.public.key_id,
            key_change_pending=identity.previous_key is not None,
            league=identity.authority.display_name or str(identity.authority.root),
            league_fingerprint=identity.authority.fingerprint.hex(),
            registries=league.addresses,
            registry_address=league.answered,
            registry_error=error,
            registry_answered_at=answered_at,
            membership_age=None if answered_at is None else max(0, now - answered_at),
            membership_limit=limits.MEMBERSHIP_LIFE,
            suspended=None if member is None else member.suspended_at is not None,
            certificate_until=identity.certificate.not_after,
            address=next((node.address for node in record.nodes if node.address), None) if record else None,
            daemon=home.holder(),
            objects=sum(not each.withdrawn for each in objects),
            withdrawn=sum(each.withdrawn for each in objects),
            outbox=outbox,
            own_policies=own_policies,
            policies_problem=policies_problem,
            log_entries=evidence.size(),
            log_losses=peers.losses(evidence),
            forks=peers.forks(evidence),
            registry_lies=tuple(_lied(each) for each in seen.registry_lies() if each.accepted_at is None),
            monitored=monitor.state().size,
            monitored_of=log.checkpoint.size if log else 0,
            findings=tuple(monitor.findings()),
            receipts_waiting=_receipts_waiting(evidence),
            owed=_owed(evidence),
            witness=witnessed(home, identity),
            witnesses_required=identity.witnesses.require,
            witnesses=tuple(each.name for each in identity.witnesses.keys),
        )


def _lied(lie: RegistryLie) -> Lied:
    told = (lie.first, lie.second, lie.proof, lie.what, lie.noticed_at, lie.witnesses)
    try:
        return Lied(*told, lies.is_fork(lie), lies.two_faced(lie))
    except HanseError as error:
        what = f"{lie.what}. What known.db keeps of it is damaged ({error}): your backup of known.db may have it whole"
        return Lied(*told[:3], what, *told[4:], forked=False, two_faced=())


def _receipts_waiting(evidence: Evidence) -> int:
    with evidence.reading() as connection:
        return deliveries.count_waiting(connection)


def _owed(evidence: Evidence) -> tuple[Debt, ...]:
    with evidence.reading() as connection:
        return tuple(Debt(*each) for each in deliveries.debts(connection))


def _own_policies(home: Home) -> tuple[int | None, str]:
    """How many the files hold, None and why if they cannot be taken."""
    try:
        return len(read(home / FOLDER)), ""
    except HanseError as error:
        return None, str(error)


def _outbox(storage: CatalogStorage) -> OutboxStatus:
    rows = storage.outbox.all()
    waiting = [row for row in rows if not row.refused]
    return OutboxStatus(
        len(waiting),
        min((row.created_at for row in waiting), default=None),
        next((row.last_error for row in waiting if row.last_error), ""),
        tuple(Refused(row.key, row.last_error) for row in rows if row.refused),
    )
