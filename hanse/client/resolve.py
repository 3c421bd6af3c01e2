"""Identifiers and prefixes become verified records: from what this home knows, else from the registry or the owner.

The rules it keeps: nothing older than what was seen is accepted; every record is verified each time, whether it
comes from the registry, the owner's node or this home's own cache; when the registry does not answer, what is
known is given, and it says so. SPEC.md section 7.5.

    resolved = Resolver(identity, known, league).record(Identifier.parse("86.north/trial-7"))
    resolved.record.record.metadata.title, resolved.checked_at, resolved.registry_down
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

from hanse import limits, transparency, trust, wire
from hanse.client.connections import Connections
from hanse.client.identity import Identity
from hanse.client.league import League, Proved
from hanse.client.log import PATIENCE, RegistryLog
from hanse.client.membership import ask, newest
from hanse.client.peer import Peer
from hanse.client.renewal import renewed_if_due
from hanse.client.storage.known import Cached, Known, Origin
from hanse.errors import (
    BadSignature,
    BrokenChain,
    HanseError,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    RolledBack,
    Unreachable,
    VerificationFailed,
    Withdrawn,
    WrongContent,
)
from hanse.model.envelope import Envelope
from hanse.model.identifier import Identifier, Prefix
from hanse.model.organization import Membership
from hanse.model.record import Status
from hanse.model.resolution import Resolution, ResolutionState
from hanse.model.search import Query, SearchResult
from hanse.transparency import Shown
from hanse.trust import VerifiedOrganization, VerifiedRecord

T = TypeVar("T")
_ADDRESSES_AGE = 300  # seconds
_ANSWERS_OF_A_CHAIN = 100  # an honest registry fills its messages: that is thousands of changes of one organization


@dataclass(frozen=True, slots=True)
class LogProof:
    """The record is entry ``index`` (from 0) of the registry's log, which had ``size`` entries at ``at``, Unix seconds.

    Its owner's record was proved to be there too.
    """

    index: int
    size: int
    at: int


@dataclass(frozen=True, slots=True)
class Resolved:
    """A verified record and who signed it. ``checked_at`` (Unix seconds) is when it was last known to be the newest."""

    record: VerifiedRecord
    owner: VerifiedOrganization
    checked_at: int
    from_cache: bool = False
    registry_down: bool = False
    unlisted: bool = False
    proof: LogProof | None = None


@dataclass(frozen=True, slots=True)
class SearchPage:
    """Verified records, best first; ``refused`` says of each that did not verify what is wrong with it."""

    records: tuple[VerifiedRecord, ...]
    refused: tuple[str, ...]
    next_page_token: str
    total: int


class Resolver:
    """Safe to share between threads. ``clock`` gives Unix seconds."""

    def __init__(
        self,
        identity: Identity,
        known: Known,
        league: League,
        clock: Callable[[], float] = time.time,
        connections: Connections | None = None,
    ) -> None:
        """``connections``: where those to owners' nodes are kept; None makes each anew.

        ``unconfirmed`` says why the membership that was given last is the one that was known before.
        """
        self.identity = identity
        self._known = known
        self._league = league
        self._clock, self._connections = clock, connections
        self._membership: tuple[Membership, int] | None = None
        self._log = RegistryLog(identity.authority, known, clock, identity.witnesses, lambda: league)
        self._heard_at = 0
        self.unconfirmed = ""
        kept = known.membership()
        if kept is not None:
            with contextlib.suppress(InvalidInput):  # whoever reads the members will say so
                league.learn(wire.decode_registries(kept.members))

    @property
    def _now(self) -> int:
        return int(self._clock())

    def organization(self, prefix: Prefix, *, fresh: bool = False) -> VerifiedOrganization:
        """The pinned record of an organization; with ``fresh``, or without a pin, followed to the registry's newest.

        Raises NotFound, Unreachable, VerificationFailed.
        """
        pinned, told = self._known.pin(prefix)
        if pinned is not None and not fresh:
            return (
                pinned
                if told is None
                else trust.organization(pinned.envelope, pinned=None, now=self._now, told_key=told)
            )
        return self._follow(prefix, pinned, None)

    def record(self, identifier: Identifier, *, max_age: int | None = None, prove: bool = False) -> Resolved:
        """The newest record of an object. ``max_age`` (seconds) instead of the record's own time to live; 0 asks.

        ``prove``: ask the registry in any case, and believe only what it proves to be in its log.
        Raises Withdrawn, NotFound, Unreachable, VerificationFailed, InvalidInput.
        """
        cached = self._known.record(identifier)
        if prove:
            proved = self._newest(lambda: self._proved(identifier, cached))
            self._hear_of_addresses()
            return _active(proved)
        if cached is not None:
            known = self._from_cache(identifier, cached)
            told = min(known.record.record.time_to_live, limits.RECORD_TIME_TO_LIVE_MOST)
            life = told if max_age is None else max_age
            if 0 <= self._now - cached.checked_at < life:
                return _active(known)
        try:
            found = self._newest(lambda: self._listed(identifier, cached))
        except Unreachable as error:
            if cached is not None:
                return _active(self._from_cache(identifier, cached, registry_down=True))
            raise self._unreachable(identifier, error) from error
        self._hear_of_addresses()
        return _active(found or self._from_owner(identifier, cached))

    def _listed(self, identifier: Identifier, cached: Cached | None) -> Resolved | None:
        """What the registry has; None if the object may be unlisted."""
        answer = self._league.resolve([identifier], with_organization=True)[0]
        try:
            if answer.record is not None and answer.state is not ResolutionState.INVALID:
                return self._from_registry(identifier, answer, cached)
            self._no_record(identifier, answer, cached)
        except RolledBack as error:
            return self._asked_again(identifier, cached, error)
        return None

    def _asked_again(self, identifier: Identifier, cached: Cached | None, error: RolledBack) -> Resolved:
        """A registry of several processes may tell for a moment what it knew before; what it proves is never older."""
        try:
            return self._proved(identifier, cached)
        except (RolledBack, BrokenChain):
            raise  # perhaps its log says so too
        except (VerificationFailed, NotFound):
            raise error from None

    def _newest(self, question: Callable[[], T]) -> T:
        return newest(self._league, question)

    def _no_record(self, identifier: Identifier, answer: Resolution, cached: Cached | None) -> None:
        """Returns if the object may be unlisted; raises what else it means."""
        if answer.state is ResolutionState.INVALID:
            raise InvalidInput(f"the registry does not take {identifier} for an identifier")
        if answer.state not in (ResolutionState.UNKNOWN, ResolutionState.ELSEWHERE):
            raise WrongContent(
                f"the registry says that {identifier} is {answer.state.value}, but gives no record of it"
            )
        if cached is not None and cached.origin is Origin.REGISTRY:
            raise RolledBack(
                f"the registry says that there is no {identifier}, but it gave version {cached.seen.version} before: "
                "it holds records back, or was restored from an old backup"
            )
        if answer.state is ResolutionState.ELSEWHERE and cached is None:
            raise NotFound(
                f"{identifier} belongs to another league than this home's ({self.identity.authority.root}): "
                "a home that joined that league can resolve it"
            )

    def _proved(self, identifier: Identifier, cached: Cached | None) -> Resolved:
        def ask(seen_size: int) -> tuple[Proved, Shown | None]:
            answer = self._league.prove(identifier, seen_size)
            return answer, answer.shown

        answer, signed = self._log.follow(ask, required=True, patience=PATIENCE)
        found = answer.resolution
        if found.record is None or found.state is ResolutionState.INVALID:
            self._no_record(identifier, found, cached)
            raise NotFound(
                f"the registry's log has no {identifier} that could be proved: it does not exist, is unlisted, or is "
                "held back; its owner can tell"
            )
        assert signed is not None  # noqa: S101 - it was required
        if found.organization is None or answer.record is None or answer.organization is None:
            raise WrongContent(f"the registry gives no proof that {identifier} and its owner are in its log")
        try:
            leaf, owner = transparency.leaf_of(found.record), transparency.leaf_of(found.organization)
        except InvalidInput as error:
            raise WrongContent(f"the registry's answer does not parse: {error}") from None
        transparency.included(leaf, answer.record, signed.checkpoint, f"the record of {identifier}")
        transparency.included(owner, answer.organization, signed.checkpoint, f"the record of {identifier.prefix}")
        resolved = self._from_registry(identifier, found, cached)
        if resolved.record.digest != found.record.digest:
            raise NotFound(
                f"version {resolved.record.record.version} of {identifier}, which its owner's node gave, is not in the "
                "registry's log yet: try again"
            )
        return replace(resolved, proof=LogProof(answer.record.index, signed.checkpoint.size, signed.at))

    def accept(
        self, identifier: Identifier, envelope: Envelope, *, version: int = 0
    ) -> tuple[VerifiedRecord, VerifiedOrganization]:
        """A record that the owner's node gave: no older than any seen, unless that ``version`` was asked for.

        Raises RolledBack, BadSignature, BrokenChain, WrongContent.
        """
        cached = self._known.record(identifier)
        seen = cached.seen if cached else None
        if version and seen is not None and version < seen.version:
            seen = None
        verified, owner = self._verify(identifier, envelope, seen, None)
        if version and verified.record.version != version:
            raise WrongContent(f"version {verified.record.version} of {identifier} was offered, not {version}")
        if not version and (cached is None or verified.record.version > cached.seen.version):
            self._known.keep_record(verified, self._now, Origin.OWNER)
        return verified, owner

    def search(self, query: Query) -> SearchPage:
        """One page of what the registry finds; only records that verify are given, and kept."""
        with self._league.searching():
            while True:
                result = self._league.search(query)
                page, behind = self._searched(result)
                if not behind or query.page_token or not self._league.pass_over():
                    self._hear_of_addresses()
                    return page

    def _searched(self, result: SearchResult) -> tuple[SearchPage, bool]:
        """A page, and whether something older stands in it than was seen."""
        behind = False
        records: list[VerifiedRecord] = []
        refused: list[str] = []
        for envelope in result.records:
            try:
                claimed = wire.decode_record(envelope.payload)
                cached = self._known.record(claimed.id)
                seen = cached.seen if cached is not None else None
                if cached is not None and cached.origin is Origin.OWNER and claimed.version < cached.seen.version:
                    seen = None  # the owner's newer record has yet to reach the registry
                try:
                    found = self._verify(claimed.id, envelope, seen, None)[0]
                except RolledBack as error:
                    found = self._asked_again(claimed.id, cached, error).record
                if found.record.status is Status.ACTIVE:
                    records.append(found)
            except InvalidInput as error:
                refused.append(f"a record does not parse: {error}")
            except (VerificationFailed, NotFound, Unreachable) as error:
                behind = behind or isinstance(error, RolledBack)
                refused.append(str(error))
        self._known.keep_records(records, self._now)
        return SearchPage(tuple(records), tuple(refused), result.next_page_token, result.total), behind

    def membership(self, *, max_age: int = limits.MEMBERSHIP_REFRESH) -> Membership:
        """Who belongs to the league, no older than ``max_age`` seconds while the registry answers.

        While it does not, what is known serves for limits.MEMBERSHIP_LIFE. Raises Unreachable, VerificationFailed.
        """
        kept = self._known.membership()
        seen, checked_at = self._membership or (None, 0)
        if seen is not None and (
            kept is None or wire.decode_membership_head(kept.head.payload)[0] < seen.version
        ):  # another process accepted that the registry was restored
            seen, checked_at = None, 0
        if seen is None and kept is not None:
            seen = trust.membership(
                kept.head, kept.members, self.identity.authority, now=max(self._now, kept.checked_at)
            )
            checked_at = kept.checked_at
        if seen is not None and 0 <= self._now - checked_at < max_age:
            self._membership = (seen, checked_at)
            return seen

        self.unconfirmed = ""
        try:
            told = self._newest(
                lambda: ask(self._league, self._log, self._known, self.identity.authority, seen, self._now)
            )
        except Unreachable as error:
            self.unconfirmed = str(error)
            if seen is None:
                raise
            if self._now - max(checked_at, seen.issued_at) > limits.MEMBERSHIP_LIFE:
                raise Unreachable(
                    f"{error}. It has not for {limits.MEMBERSHIP_LIFE // limits.HOUR} h: who belongs to the league "
                    "is not known any more"
                ) from None
            return seen
        self._membership = (told.membership, self._now)
        self._league.learn(told.membership.registries)
        return told.membership

    def _hear_of_addresses(self) -> None:
        """By the way, while the registry answers: where only commands run, nothing else asks where its mirrors are."""
        if 0 <= self._now - self._heard_at < _ADDRESSES_AGE:
            return
        self._heard_at = self._now
        with contextlib.suppress(HanseError):  # a lie about its log is kept, and told to whoever asks for that
            self.membership(max_age=_ADDRESSES_AGE)

    def peer(self, prefix: Prefix) -> Peer:
        """A connection to an organization's node, to be closed by the caller."""
        self.identity = renewed_if_due(self.identity, self._league, self._now)
        if self._connections is not None:
            return self._connections.peer(self.identity, prefix, self.organization)
        return Peer(self.identity, prefix, self.organization)

    def _follow(
        self, prefix: Prefix, pinned: VerifiedOrganization | None, newest: Envelope | None
    ) -> VerifiedOrganization:
        """Goes on from the pin to the newest record. ``newest`` is the registry's, if it came with an answer."""
        told = self._known.told_key(prefix)
        if newest is not None and pinned is not None:
            claimed = wire.decode_organization(newest.payload).version
            if claimed <= pinned.record.version:
                return trust.organization(newest, pinned=pinned, now=self._now, told_key=told)
        found, agrees = self._chain(prefix, pinned, newest)
        # Only of a whole chain can it be said whether a key has been its organization's.
        found = trust.chain((), pinned=found, now=self._now, told_key=told)
        if found is None:
            raise NotFound(f"there is no organization {prefix} in this league: `hanse search` finds what is published")
        if found.record.prefix != prefix:
            raise WrongContent(f"a record of {found.record.prefix} was offered for {prefix}")
        if newest is not None and not agrees:
            latest = wire.decode_organization(newest.payload)
            if latest.prefix != prefix or latest.version <= found.record.version:
                raise BrokenChain(
                    f"the registry gives {prefix} two different records of version {latest.version}: "
                    "its history and its answer do not agree"
                )
        if found is not pinned:
            self._known.keep_organization(found)
        return found

    def _chain(
        self, prefix: Prefix, pinned: VerifiedOrganization | None, newest: Envelope | None
    ) -> tuple[VerifiedOrganization | None, bool]:
        """All that the registry has after the pin, and whether ``newest`` is in it: it may have grown since.

        A long history comes in several answers.
        """
        found, agrees = pinned, False
        for _ in range(_ANSWERS_OF_A_CHAIN):
            before = found
            envelopes = self._league.get_organization(prefix, found.record.version if found else 0)
            found = trust.chain(envelopes, pinned=found, now=self._now)
            agrees = agrees or (newest is not None and any(each.digest == newest.digest for each in envelopes))
            if found is before or agrees:
                return found, agrees
        raise WrongContent(f"the history of {prefix} that the registry gives does not end")

    def _owner(self, prefix: Prefix, newest: Envelope | None) -> VerifiedOrganization:
        if newest is None:
            return self.organization(prefix)
        return self._follow(prefix, self._known.organization(prefix), newest)

    def _verify(
        self, identifier: Identifier, envelope: Envelope, seen: trust.Seen | None, newest: Envelope | None
    ) -> tuple[VerifiedRecord, VerifiedOrganization]:
        """Against the pinned key, and once more against the registry's newest: the owner may have changed it."""
        owner = self._owner(identifier.prefix, newest)
        try:
            return trust.record(envelope, owner.record, now=self._now, expected=identifier, seen=seen), owner
        except BadSignature:
            try:
                fresh = self.organization(identifier.prefix, fresh=True)
            except Unreachable:
                fresh = owner
            if fresh.digest == owner.digest:
                raise
            return trust.record(envelope, fresh.record, now=self._now, expected=identifier, seen=seen), fresh

    def _from_cache(self, identifier: Identifier, cached: Cached, *, registry_down: bool = False) -> Resolved:
        now = max(self._now, cached.checked_at)
        owner = self.organization(identifier.prefix)
        found = trust.record(cached.envelope, owner.record, now=now, expected=identifier)
        unlisted = cached.origin is Origin.OWNER
        return Resolved(found, owner, cached.checked_at, True, registry_down, unlisted)

    def _from_registry(self, identifier: Identifier, answer: Resolution, cached: Cached | None) -> Resolved:
        assert answer.record is not None  # noqa: S101 - the caller looked
        seen = cached.seen if cached is not None and cached.origin is Origin.REGISTRY else None
        found, owner = self._verify(identifier, answer.record, seen, answer.organization)
        if cached is not None and cached.origin is Origin.OWNER:
            if found.record.version < cached.seen.version:  # the owner's newer record has yet to reach the registry
                return Resolved(self._from_cache(identifier, cached).record, owner, self._now)
            found, owner = self._verify(identifier, answer.record, cached.seen, None)
        self._known.keep_record(found, self._now)
        return Resolved(found, owner, self._now)

    def _from_owner(self, identifier: Identifier, cached: Cached | None) -> Resolved:
        """An object that the registry does not know: its owner's node may, if it is for this caller."""
        missing = (
            f"no object {identifier} is known to you: it does not exist, or is not for you. "
            "`hanse search` finds what is published"
        )
        self.organization(identifier.prefix)  # a prefix that nobody has is told apart: prefixes are public
        try:
            with self.peer(identifier.prefix) as peer:
                described = peer.describe(identifier, no_pages=True)
                described.close()
        except (NotPermitted, NotFound) as error:
            if isinstance(error, NotAuthenticated):
                raise
            raise NotFound(missing) from None
        except Unreachable as error:
            if cached is not None:
                return self._from_cache(identifier, cached)
            raise Unreachable(
                f"the registry knows no {identifier}, and the node that would know if it is unlisted cannot be asked: "
                f"{error}"
            ) from None
        found, owner = self.accept(identifier, described.record)
        self._known.keep_record(found, self._now, Origin.OWNER)
        return Resolved(found, owner, self._now, unlisted=True)

    def _unreachable(self, identifier: Identifier, error: HanseError) -> HanseError:
        return Unreachable(
            f"{error}. Nothing is known of {identifier} from before: try again when the registry is back; "
            "`hanse doctor` looks for the reason"
        )


def _active(resolved: Resolved) -> Resolved:
    found = resolved.record.record
    if found.status is Status.WITHDRAWN:
        day = datetime.fromtimestamp(found.issued_at, UTC).date()
        raise Withdrawn(
            f"{found.id} was withdrawn by {found.id.prefix} on {day}: {found.reason or 'no reason is given'} "
            f"(signed with its key {resolved.record.signed_by})"
        )
    return resolved
