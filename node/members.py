"""Who calls, and is it in good standing? The CA's word, the membership and the caller's own record must agree.

The membership is refreshed every MEMBERSHIP_REFRESH seconds while the registry answers; while it does not, the node
goes on with what was last known, for MEMBERSHIP_LIFE at most, and ``hanse status`` says so. SPEC.md section 6.

    caller = members.caller(prefix, key_digest)     # NotAuthenticated, Suspended
    members.check(caller.prefix)                    # cheap: for streams that run
"""

import threading
import time
from collections.abc import Callable, Iterable

from hanse import limits, trust
from hanse.client.resolve import Resolver
from hanse.client.storage.known import Known
from hanse.errors import (
    HanseError,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    Suspended,
    Unreachable,
    VerificationFailed,
)
from hanse.model.identifier import Prefix
from hanse.model.keys import KeyId
from hanse.model.organization import Member, Membership
from hanse.model.papers import Grant
from hanse.rpc.tls import read_certificate
from hanse.trust import VerifiedOrganization
from node.policy import Caller

_CACHED_CALLERS = 65_536
_EXTRA_REFRESH_SECONDS = 1.0  # how often an unknown name may make us ask the registry at once


class Members:
    """Safe to share between threads. ``refresh`` is called by a thread of the daemon."""

    def __init__(self, resolver: Callable[[], Resolver], known: Known, clock: Callable[[], float] = time.time) -> None:
        self._resolver = resolver
        self._known = known
        self._clock = clock
        self._lock = threading.Lock()
        self._membership: Membership | None = None
        self._confirmed_at = 0
        self._callers: dict[tuple[Prefix, bytes, int, KeyId | None], Caller] = {}
        self._asking = threading.Lock()
        self._answered_at = -_EXTRA_REFRESH_SECONDS
        self._succeeded = False

    def refresh(self) -> None:
        """Asks the registry, or takes what was last known. Raises Unreachable, VerificationFailed."""
        self._keep(self._resolver().membership(max_age=limits.MEMBERSHIP_REFRESH // 2))

    def _keep(self, membership: Membership) -> None:
        kept = self._known.membership()
        with self._lock:
            self._membership = membership
            self._confirmed_at = max(membership.issued_at, kept.checked_at if kept else 0)

    def age(self) -> int | None:
        """Seconds since the registry last confirmed the membership; None if it never did."""
        return None if self._membership is None else max(0, int(self._clock()) - self._confirmed_at)

    def is_stale(self) -> bool:
        """Whether the registry has been away for so long that nobody can be let in."""
        age = self.age()
        return age is None or age > limits.MEMBERSHIP_LIFE

    def check(self, prefix: Prefix) -> Member:
        """That a member is in good standing, as far as is known. Raises NotAuthenticated, Suspended, Unreachable."""
        membership = self._membership
        if membership is None or self.is_stale():
            raise Unreachable(
                "this node does not know who is in good standing, because it has not reached the registry for too "
                "long: try again later"
            )
        member = membership.members.get(prefix)
        if member is None:
            raise NotAuthenticated(f"{prefix} is not a member of the league")
        if member.suspended_at is not None:
            raise Suspended(f"{prefix} is suspended; the registry's operator can restore it")
        return member

    def check_holders(self, grants: Iterable[Grant]) -> None:
        """That those who narrowed these grants for others could still use them. Raises NotPermitted, Unreachable."""
        for grant in grants:
            try:
                member = self.check(grant.to)
                current = grant.to_key is None or grant.to_key == self._current_key(grant.to, member)
            except (NotAuthenticated, Suspended, NotFound, VerificationFailed):
                raise NotPermitted(
                    f"{grant.to}, who narrowed the grant for you, is not a member in good standing"
                ) from None
            if not current:
                raise NotPermitted(f"the grant was narrowed from one that is bound to an earlier key of {grant.to}")

    def _current_key(self, prefix: Prefix, member: Member) -> KeyId:
        organization = self._resolver().organization(prefix)
        if organization.record.version < member.organization_version:
            organization = self._resolver().organization(prefix, fresh=True)
        return organization.record.current_key.key_id

    def caller(self, prefix: Prefix, key_digest: bytes) -> Caller:
        """The member whose own record names the TLS key. Raises NotAuthenticated, Suspended, Unreachable."""
        try:
            member = self.check(prefix)
        except (NotAuthenticated, Unreachable):
            if not self._refresh_now():
                raise
            member = self.check(prefix)
        # `hanse trust` may have said something else of its key while this daemon runs.
        key = (prefix, key_digest, member.organization_version, self._known.told_key(prefix))
        known = self._callers.get(key)
        if known is not None:
            return known
        organization = self._organization(prefix, key_digest, member.organization_version)
        caller = Caller(prefix, organization.record.current_key.key_id)
        if organization.record.version >= member.organization_version:
            with self._lock:
                if len(self._callers) >= _CACHED_CALLERS:
                    self._callers.clear()
                self._callers[key] = caller
        return caller

    def _organization(self, prefix: Prefix, key_digest: bytes, version: int) -> VerifiedOrganization:
        resolver = self._resolver()
        try:
            organization = resolver.organization(prefix)
            if organization.record.version < version:
                organization = resolver.organization(prefix, fresh=True)
            elif key_digest not in tls_keys(organization) and self._refresh_now():
                # It may have changed its key since the membership was made.
                organization = resolver.organization(prefix, fresh=True)
        except (VerificationFailed, NotFound) as error:
            raise NotAuthenticated(f"the record of {prefix} cannot be believed: {error}") from None
        trust.key_holder(prefix, tls_keys(organization), key_digest)
        return organization

    def _refresh_now(self) -> bool:
        """At once, because somebody is not known yet; rate limited, for anybody can have an unknown name."""
        came = time.monotonic()
        with self._asking:
            if self._answered_at < came:  # else somebody asked while this caller waited
                if came - self._answered_at < _EXTRA_REFRESH_SECONDS:
                    return False
                try:
                    self._keep(self._resolver().membership(max_age=0))
                    self._succeeded = True
                except HanseError:
                    self._succeeded = False
                self._answered_at = time.monotonic()
            return self._succeeded


def tls_keys(organization: VerifiedOrganization) -> set[bytes]:
    """SHA-256 of the TLS keys that the record names. A certificate in it that does not parse names none."""
    digests = set()
    for node in organization.record.nodes:
        try:
            digests.add(read_certificate(node.tls_certificate).key_digest)
        except InvalidInput:
            continue
    return digests
