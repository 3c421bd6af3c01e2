"""Who calls: passes, verified once and remembered, and how often a member may call. SPEC.md section 5.4.

A pass is remembered until it runs out or the membership changes. Both memories are bounded.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from hanse import limits, trust, wire
from hanse.errors import InvalidInput, NotAuthenticated, NotPermitted, Overloaded, Suspended
from hanse.model.envelope import Envelope
from hanse.model.identifier import Prefix
from hanse.model.organization import Member, Pass
from registry.members import League, Standing

METADATA_KEY = "hanse-pass-bin"
_REMEMBERED = 8192  # passes: several a member, and strangers cannot get in
_PASS_BYTES = 2 * limits.KIB


class Bucket:
    """A token bucket: ``burst`` calls at once, ``rate`` a second sustained."""

    __slots__ = ("_burst", "_filled_at", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self._tokens, self._filled_at = burst, now

    def take(self, now: float) -> bool:
        """Whether one more call is allowed now."""
        tokens = self._tokens
        # A clock that was set back gives nothing and takes nothing.
        if now > self._filled_at:
            tokens = min(self._burst, tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if tokens < 1.0:
            self._tokens = tokens
            return False
        self._tokens = tokens - 1.0
        return True


@dataclass(slots=True)
class Caller:
    """A member whose pass was verified. ``until`` is Unix seconds."""

    prefix: Prefix
    until: float
    bucket: Bucket


class Passes:
    """Turns a call's metadata into a Caller."""

    def __init__(self, fingerprint: bytes, clock: Callable[[], float], rate: float, burst: int) -> None:
        self._fingerprint = fingerprint
        self._clock = clock
        self._rate, self._burst = rate, burst
        self._league = League()
        self._known: dict[bytes, Caller] = {}
        self._buckets: dict[Prefix, Bucket] = {}

    def replace_league(self, league: League) -> None:
        """Forgets every pass: keys and standing may be others now."""
        self._league = league
        self._known = {}
        self._buckets = {prefix: bucket for prefix, bucket in self._buckets.items() if prefix in league.standings}

    def check(self, metadata: Iterable[tuple[str, Any]] | None, look: Callable[[], bool] = lambda: False) -> Caller:
        """``look`` has the members replaced if there are others by now, and says so.

        Raises NotAuthenticated, Suspended, Overloaded.
        """
        now = self._clock()
        for key, value in metadata or ():
            if key == METADATA_KEY:
                caller = self._known.get(value)
                if caller is None or now > caller.until:
                    try:
                        caller = self._verify(value, now)
                    except NotPermitted:
                        # Another process may have let it in, or taken its new key, just now.
                        if not look():
                            raise
                        caller = self._verify(value, now)
                return self._take(caller, now)
        raise NotAuthenticated("the call came without a pass: only members of the league may ask")

    def successor(self, envelope: Envelope, organizations: Sequence[Envelope]) -> Caller:
        """Of a pass by a key that is not known here, to which these records of the member lead. Not remembered.

        Raises InvalidInput, NotAuthenticated, Suspended, Overloaded.
        """
        now = self._clock()
        standing = self._league.standing(wire.decode_pass(envelope.payload).prefix)
        statement = trust.successor(envelope, organizations, standing.organization, self._fingerprint, now=int(now))
        refuse_suspended(standing.member)
        return self._take(self._caller(statement, now), now)

    def standing(self, caller: Caller) -> Standing:
        """The caller's standing now, during a long stream. Raises NotAuthenticated, Suspended."""
        standing = self._league.standing(caller.prefix)
        refuse_suspended(standing.member)
        return standing

    def _verify(self, value: bytes, now: float) -> Caller:
        if not isinstance(value, bytes) or len(value) > _PASS_BYTES:
            raise NotAuthenticated("the pass does not parse")
        try:
            envelope = wire.decode_envelope(value)
            standing = self._league.standing(wire.decode_pass(envelope.payload).prefix)
            key = standing.organization.record.current_key
            statement = trust.caller(envelope, key, self._fingerprint, now=int(now))
        except InvalidInput:
            raise NotAuthenticated("the pass does not parse") from None
        refuse_suspended(standing.member)
        caller = self._caller(statement, now)
        while len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[value] = caller
        return caller

    def _caller(self, statement: Pass, now: float) -> Caller:
        prefix = statement.prefix
        bucket = self._buckets.get(prefix)
        if bucket is None:
            bucket = self._buckets[prefix] = Bucket(self._rate, self._burst, now)
        until = min(statement.expires_at, statement.issued_at + limits.PASS_LIFE) + limits.CLOCK_SKEW
        return Caller(prefix, until, bucket)

    def _take(self, caller: Caller, now: float) -> Caller:
        if not caller.bucket.take(now):
            raise Overloaded(
                f"{caller.prefix} calls more than {self._rate:g} times a second: slow down, ask in batches"
            )
        return caller


def refuse_suspended(member: Member) -> None:
    """Raises Suspended."""
    if member.suspended_at is not None:
        reason = f": {member.reason}" if member.reason else ""
        raise Suspended(f"{member.prefix} is suspended{reason}. Ask the registry's operator")
