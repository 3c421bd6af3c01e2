"""Follows a registry's log and stores what holds. SPEC.md section 23.2.

The rule it keeps: nothing is committed but entries that were checked and whose root is proved to be under a checkpoint
that the registry signed and that continues every one before. So whatever ends this process, the database has a
beginning of the registry's log and nothing else, and may be served.
When the registry lies, nothing more is taken; it is asked again, since it may tell the truth again.

    Follower(identity, authority, storage, known, state, clock, took).run(stop)
"""

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import structlog

from hanse import limits, merkle
from hanse.client.identity import Identity
from hanse.client.league import League
from hanse.client.log import RegistryLog
from hanse.client.membership import Told, ask, newest
from hanse.client.storage.known import Known
from hanse.errors import (
    BrokenChain,
    HanseError,
    InvalidInput,
    NotPermitted,
    Unreachable,
    VerificationFailed,
    WrongContent,
)
from hanse.evidence.checkpoint import Checkpoint
from hanse.model.address import Address
from hanse.model.identifier import Prefix
from hanse.model.organization import Membership
from hanse.rpc import tls
from hanse.rpc.channel import unverified_certificate
from hanse.transparency import Shown
from hanse.trust import membership as verified_membership
from registry.accept import Stored
from registry.index import Document
from registry.mirroring import home as homes
from registry.mirroring.checking import (
    Certificate,
    Checker,
    Entry,
    Head,
    Organization,
    Record,
    last_position,
    organizations_in,
)
from registry.mirroring.pool import Pool
from registry.storage import base
from registry.storage.base import NewRecord, StoredOrganization, Writing

_log = structlog.get_logger()

GROUP = 8192  # entries in one transaction: the search index likes them large, and a kill costs one
_AHEAD = 64  # messages that are being checked: more than a transaction's time is worth
_POOL_FROM = 4096  # entries that are missing: starting processes takes about a second
_TOGETHER = 0.1  # seconds: what comes in quick succession is one transaction
_AGAIN = 2.0  # seconds until a registry that failed is asked again
_LOOK_AGAIN = 30.0  # seconds between looks at who answers at its address
_PROBE = 5.0  # seconds for such a look

Took = Callable[[Collection[str], bool], None]
"""Told the keys that have new versions, and whether the membership is another one."""


@dataclass
class State:
    """What the follower knows, for those who serve and tell. Each field is replaced as a whole.

    ``told`` is what the registry stated last, and all of it is stored; ``asked_at`` (Unix seconds) is when.
    ``heard_at``: when it last said something that holds. ``verified``: entries, since the start. ``refused``: nothing
    is taken, because the registry lies, is another one, or does not admit this mirror; ``error`` says which.
    """

    told: Told | None = None
    asked_at: float = 0.0
    heard_at: float = 0.0
    seen_size: int = 0
    verified: int = 0
    error: str = ""
    refused: bool = False


class Follower:
    """For one thread. ``took`` is called after each commit."""

    def __init__(
        self,
        identity: Identity,
        authority: bytes,
        storage: base.Storage,
        known: Known,
        state: State,
        clock: Callable[[], float],
        took: Took,
        own: tuple[Address, ...],
    ) -> None:
        self._identity, self._authority = identity, authority
        self._storage, self._known, self._state = storage, known, state
        self._clock, self._took, self._own = clock, took, own
        self._seen = self._last_membership()
        self._stranger: tuple[float, Address | None] = (0.0, None)  # when it was looked for, and where it is

    def run(self, stop: threading.Event) -> None:
        """Until told to stop."""
        while not stop.is_set():
            try:
                self.follow(stop)
            except HanseError as error:
                self._failed(error)
            except Exception:  # noqa: BLE001 - what stops silently is worse than what fails loudly
                _log.exception("mirror.broken")
                self._state.error = "an internal error: its log tells more"
            stop.wait(_AGAIN)

    def follow(self, stop: threading.Event, *, once: bool = False) -> None:
        """Until something fails; ``once``: until all is there that the registry showed. Raises HanseError."""
        with League(self._identity, self._clock) as league:
            league.learn(self._registries())
            stretch = _Stretch(league, self._authority, self._storage, self._clock)
            with _watching(self._identity, self._registries(), stretch.position, self._clock) as messages:
                while not stop.is_set():
                    told = self._ask(league)
                    complete = self._reach(stretch, messages, told, league, stop)
                    if complete:
                        self._confirm(told)
                        league.learn(self._registries())
                        if once:
                            return
                    stop.wait(_TOGETHER)
                    if complete and not stretch.ahead:
                        messages.wait(limits.MEMBERSHIP_REFRESH - _TOGETHER)

    def _ask(self, league: League) -> Told:
        now, seen = int(self._clock()), self._seen
        log = RegistryLog(self._identity.authority, self._known, self._clock, league=lambda: league)
        told = newest(league, lambda: ask(league, log, self._known, self._identity.authority, seen, now))
        if told.signed is None:
            raise WrongContent("the registry shows no log: it cannot be mirrored")
        self._seen = told.membership
        self._state.seen_size, self._state.heard_at = told.signed.checkpoint.size, self._clock()
        return told

    def _reach(
        self, stretch: "_Stretch", messages: "_Messages", told: Told, league: League, stop: threading.Event
    ) -> bool:
        """Stores all up to the checkpoint. Whether the membership is that of then: another may have been quicker."""
        assert told.signed is not None  # noqa: S101 - see _ask
        target = told.signed.checkpoint
        if target.size < stretch.position:
            raise Unreachable("whoever answered for the registry has less of its log than this mirror")
        if target.size == stretch.position:
            _compare(self._storage.head(), target)
        for group in stretch.groups(messages, target.size, stop):
            until = group[-1].position
            shown = None if until == target.size else league.get_checkpoint(until, target.size)
            with self._storage.writing() as writing:
                _store(writing, group)
                _prove(writing.head(), target, shown)
            stretch.position = until
            self._state.verified += len(group)
            changed = any(isinstance(each, Organization | Head) for each in group)
            self._took([each.key for each in group if isinstance(each, Record)], changed)
        return stretch.position == target.size and self._put_members(told.membership)

    def _put_members(self, membership: Membership) -> bool:
        """Makes the lines of the members those of the list, if it is of the newest version that is stored."""
        version, stored = self._storage.membership()
        if version != membership.version:
            return False
        before = {each.prefix: each for each in stored}
        changed = [each for prefix, each in membership.members.items() if before.get(prefix) != each]
        if changed:
            with self._storage.writing() as writing:
                for each in changed:
                    record = writing.newest_organization(each.prefix)
                    if record is None or record.version != each.organization_version:
                        raise WrongContent(
                            f"the list of members names a record of {each.prefix} that is not in the log"
                        )
                    writing.put_member(each, int(self._clock()))
            self._took((), True)
        return True

    def _confirm(self, told: Told) -> None:
        if self._state.error:
            _log.info("mirror.follows_again")
        if self._state.told is None:
            _log.info("mirror.whole", position=self._state.seen_size)
        self._state.told, self._state.asked_at, self._state.error = told, self._clock(), ""
        self._state.refused = False

    def _failed(self, error: HanseError) -> None:
        if isinstance(error, Unreachable) and (where := self._where_a_stranger_answers()) is not None:
            error = WrongContent(
                f"what answers at {where}, the registry's address, is not of this league: its certificate is of "
                "another authority. A registry that was made anew is another one, which no member follows: its keys/ "
                "are needed, from a backup"
            )
        self._state.refused = isinstance(error, VerificationFailed | NotPermitted)
        if str(error) == self._state.error:
            return
        self._state.error = str(error)
        if isinstance(error, VerificationFailed):
            _log.error("mirror.refused_the_registry", reason=error.reason, text=str(error))
        elif isinstance(error, NotPermitted):
            _log.error("mirror.not_admitted", reason=error.reason, text=str(error))
        else:
            _log.warning("mirror.cannot_follow", reason=error.reason, text=str(error))

    def _where_a_stranger_answers(self) -> Address | None:
        """Whoever shows no certificate of this league there looks to gRPC like somebody who is away."""
        looked, found = self._stranger
        began = time.monotonic()
        if not looked or began - looked > _LOOK_AGAIN:
            found = next(filter(self._is_stranger, self._own_addresses_of_the_registry()), None)
            ended = time.monotonic()
            # Where nobody listens yet, the next look costs nothing.
            self._stranger = (ended, found) if found is not None or ended - began > _AGAIN else (0.0, None)
        return found

    def _is_stranger(self, address: Address) -> bool:
        try:
            shown = tls.from_pem(unverified_certificate(address, _PROBE))
        except (Unreachable, InvalidInput):
            return False
        return not tls.is_issued_by(self._identity.authority.ca_certificate, shown)

    def _own_addresses_of_the_registry(self) -> list[Address]:
        mirrors = homes.mirrors(self._storage)
        named = self._seen.registries if self._seen is not None else self._identity.registries
        return [each for each in named if each not in self._own and each not in mirrors]

    def _last_membership(self) -> Membership | None:
        kept = self._known.membership()
        if kept is None:
            return None
        now = max(int(self._clock()), kept.checked_at)
        return verified_membership(kept.head, kept.members, self._identity.authority, now=now)

    def _registries(self) -> list[Address]:
        """Where the registry is: its own addresses, then other mirrors'."""
        named = self._seen.registries if self._seen is not None else ()
        return [each for each in (*named, *self._identity.registries) if each not in self._own]


class _Stretch:
    """The entries between what is stored and a checkpoint, checked."""

    def __init__(self, league: League, authority: bytes, storage: base.Storage, clock: Callable[[], float]) -> None:
        self._league, self._authority, self._clock = league, authority, clock
        self._storage = storage
        self.position = storage.last_position()
        self.ahead: deque[Entry] = deque()  # checked, and beyond the checkpoint of then
        self._checks: deque[Future[list[Entry]]] = deque()
        self._submitted = self.position
        self._checker = Checker(authority, storage.newest_organizations())
        self._pool: Pool | None = None

    def groups(self, messages: "_Messages", until: int, stop: threading.Event) -> Iterator[list[Entry]]:
        """Up to that position."""
        if until - max(self._submitted, self.position) > _POOL_FROM:
            self._pool = Pool(self._authority, self._storage.newest_organizations(), os.cpu_count() or 1, self._clock)
        group: list[Entry] = []
        try:
            for entry in self._entries(messages, until):
                if stop.is_set():
                    raise Unreachable("this mirror is being stopped")
                group.append(entry)
                if len(group) == GROUP or entry.position == until:
                    yield group
                    group = []
        finally:
            if self._pool is not None:
                self._pool.close()
                self._pool = None

    def _entries(self, messages: "_Messages", until: int) -> Iterator[Entry]:
        while True:
            while self.ahead and self.ahead[0].position <= until:
                yield self.ahead.popleft()
            if self.ahead or (self._submitted >= until and not self._checks):
                return
            while len(self._checks) < _AHEAD and self._submitted < until:
                message = messages.next(0 if self._checks else limits.CALL_TIMEOUT)
                if message is None:
                    break
                self._submit(message)
            if not self._checks:
                raise WrongContent(
                    f"the registry signed a log of {until:,} entries, and does not show entry "
                    f"{self._submitted + 1:,}: it holds it back"
                )
            self.ahead.extend(self._checks.popleft().result())

    def _submit(self, message: bytes) -> None:
        if self._pool is not None:
            self._checks.append(self._pool.submit(message, self._submitted))
            self._checker.follow(organizations_in(message))
        else:
            done: Future[list[Entry]] = Future()
            done.set_result(self._checker.check(message, self._submitted, int(self._clock())))
            self._checks.append(done)
        self._submitted = max(self._submitted, last_position(message))


class _Messages:
    """What the registry's Watch sends, or the error that ended it."""

    def __init__(self) -> None:
        self._came: queue.Queue[bytes | HanseError] = queue.Queue(_AHEAD)
        self._first: bytes | HanseError | None = None

    def put(self, message: bytes | HanseError, stop: threading.Event) -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                self._came.put(message, timeout=0.2)
                return

    def wait(self, seconds: float) -> None:
        """For the next message, so long at most."""
        if self._first is None:
            with contextlib.suppress(queue.Empty):
                self._first = self._came.get(timeout=seconds)

    def next(self, seconds: float) -> bytes | None:
        """None when there is none in time. Raises what ended it."""
        found, self._first = self._first, None
        if found is None:
            try:
                found = self._came.get(timeout=seconds) if seconds else self._came.get_nowait()
            except queue.Empty:
                return None
        if isinstance(found, HanseError):
            self._first = found
            raise found
        return found


@contextlib.contextmanager
def _watching(
    identity: Identity, registries: Sequence[Address], after: int, clock: Callable[[], float]
) -> Iterator[_Messages]:
    messages, ended = _Messages(), threading.Event()
    with League(identity, clock) as league:  # of its own: what is closed ends its stream
        league.learn(registries)

        def watch() -> None:
            try:
                for message in league.watch_messages(after):
                    messages.put(message, ended)
                    if ended.is_set():
                        return
                messages.put(Unreachable("the registry ended the stream of its changes"), ended)
            except HanseError as error:
                messages.put(error, ended)
            except Exception:  # noqa: BLE001 - the channel was closed under it
                messages.put(Unreachable("the stream of changes broke"), ended)

        thread = threading.Thread(target=watch, name="watching", daemon=True)
        thread.start()
        try:
            yield messages
        finally:
            ended.set()
            league.close()
            thread.join(5)


def _store(writing: Writing, group: Sequence[Entry]) -> None:
    """In their order, as the registry did. Raises BrokenChain, WrongContent."""
    records: list[Record] = []
    for entry in group:
        if isinstance(entry, Record):
            records.append(entry)
            continue
        _store_records(writing, records)
        records = []
        match entry:
            case Organization():
                stored = StoredOrganization(entry.version, entry.digest, entry.envelope)
                writing.put_organization(Prefix(entry.prefix), stored)
            case Head():
                version = writing.next_membership_version()
                if version != entry.version:
                    raise BrokenChain(
                        f"entry {entry.position:,} of the registry's log states version {entry.version} of the "
                        f"membership after version {version - 1}"
                    )
                writing.put_membership(entry.envelope, entry.leaf)
            case Certificate():
                writing.put_certificate(base.Certificate(Prefix(entry.prefix), entry.issued_at, entry.der))
    _store_records(writing, records)


def _store_records(writing: Writing, records: Sequence[Record]) -> None:
    if not records:
        return
    known = writing.stored(list({each.key for each in records}))
    new = []
    for each in records:
        before = known.get(each.key)
        if (
            each.version != (before.version if before else 0) + 1
            or each.previous != (before.digest if before else b"")
            or (before is not None and before.withdrawn)
        ):
            raise BrokenChain(
                f"entry {each.position:,} of the registry's log, version {each.version} of {each.key}, does not "
                "continue what is before it"
            )
        document = None if each.document is None else Document(*each.document)
        known[each.key] = Stored(each.version, each.digest, document is None)
        new.append(NewRecord(each.key, each.version, each.digest, each.issued_at, each.envelope, document))
    writing.put_records(new)


def _prove(head: base.Head, target: Checkpoint, shown: Shown | None) -> None:
    """That what was put is the beginning of the log that the registry signed. Raises BrokenChain, WrongContent."""
    if shown is None:
        _compare(head, target)
        return
    if (shown.since, shown.until) != (head.size, target.size):
        raise WrongContent(
            f"the registry does not prove that its log of {target.size:,} entries begins with the {head.size:,} "
            "that it shows"
        )
    try:
        merkle.verify_consistency(head.size, head.root, target.size, target.root, shown.consistency)
    except BrokenChain:
        raise BrokenChain(_another(head, target)) from None


def _compare(head: base.Head, target: Checkpoint) -> None:
    if head.size == target.size and head.root != target.root:
        raise BrokenChain(_another(head, target))


def _another(head: base.Head, target: Checkpoint) -> str:
    return (
        f"the registry signed a log of {target.size:,} entries that does not begin with the {head.size:,} that it "
        "shows: entries were altered, removed or re-ordered"
    )
