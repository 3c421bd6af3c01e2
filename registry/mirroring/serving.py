"""What a mirror answers: the registry's calls, from what was verified; statements only as the registry signed them.

The rule it keeps: a mirror signs nothing, and gives nothing that could pass for newer than it is. What it cannot answer
is Unreachable, so that whoever asked goes on to the next address. SPEC.md section 23.3.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from typing import Any, cast

from hanse import limits, wire
from hanse.client.membership import Told
from hanse.errors import Unreachable
from hanse.model.address import Address
from hanse.model.organization import Authority
from hanse.signing import SigningKey
from hanse.v1 import registry_pb2
from registry import framing, members
from registry.config import Config
from registry.joining import Membership
from registry.log import Log
from registry.members import Statements
from registry.mirroring.following import State
from registry.passes import Caller, Passes
from registry.service import Service
from registry.storage.base import Storage


def fresh(state: State, now: float) -> Told:
    """What the registry stated, while it is young enough to be believed. Raises Unreachable."""
    told = state.told
    if told is None or told.signed is None:
        raise Unreachable("this mirror has not reached the registry since it was started: ask the registry, or later")
    age = int(now) - min(told.signed.at, told.membership.issued_at)
    if age > limits.CHECKPOINT_AGE:
        raise Unreachable(
            f"this mirror has not reached the registry for {age:,} s, and cannot say who belongs to the league now, or "
            "prove what is in its log: ask the registry"
        )
    return told


class MirroredLog(Log):
    """The registry's log, proved from the mirror's own tree under the registry's checkpoint."""

    def __init__(self, storage: Storage, authority: Authority, clock: Callable[[], float], state: State) -> None:
        super().__init__(storage, SigningKey.generate(), authority, clock)  # it signs nothing
        self._state = state

    @property
    def newest(self) -> tuple[int, float] | None:
        """The size of the newest checkpoint of the registry, and when it signed it."""
        signed = self._state.told.signed if self._state.told is not None else None
        return None if signed is None else (signed.checkpoint.size, float(signed.at))

    def checkpoint(self, least: int = 0) -> tuple[int, str]:
        """Raises Unreachable for one who knows more than the mirror, or when it has nothing fresh."""
        told = fresh(self._state, self._clock())
        assert told.signed is not None  # noqa: S101 - see fresh
        size = told.signed.checkpoint.size
        if size < least:
            raise Unreachable(
                f"this mirror is behind: it has {size:,} entries of the registry's log, and there are {least:,}"
            )
        return size, told.signed.note


class MirrorPasses(Passes):
    """Refuses everybody when it is too long since the registry said who belongs to the league."""

    def __init__(self, config: Config, fingerprint: bytes, clock: Callable[[], float], state: State) -> None:
        super().__init__(fingerprint, clock, config.calls_per_second, config.calls_burst)
        self._clock, self._state = clock, state

    def check(self, metadata: Iterable[tuple[str, Any]] | None, look: Callable[[], bool] = lambda: False) -> Caller:
        """Raises Unreachable too."""
        if self._clock() - self._state.asked_at > limits.MEMBERSHIP_LIFE:
            raise Unreachable(
                f"this mirror has not reached the registry for {limits.MEMBERSHIP_LIFE // limits.HOUR} h: who belongs "
                "to the league is not known any more"
            )
        return super().check(metadata, look)


class MirrorService(Service):
    """A registry's calls, read-only."""

    def __init__(
        self,
        config: Config,
        authority: bytes,
        storage: Storage,
        passes: Passes,
        clock: Callable[[], float],
        page_secret: bytes,
        log: Log,
        state: State,
        registry: Callable[[], Iterable[Address]],
    ) -> None:
        """``registry``: where to go for what a mirror does not do."""
        self._state, self._time, self._where = state, clock, registry
        nobody = cast(Membership, None)  # nothing here changes the membership, or states it
        super().__init__(config, authority, storage, nobody, cast(Statements, None), passes, clock, page_secret, log)

    def reload(self) -> None:
        found = members.load(self._storage, (), self.league)
        told = self._state.told
        # The list is given as the registry made it: ours could lack what a later version of it says.
        listed = (told.members, told.membership.members_sha256) if told is not None else (b"", b"")
        self.league = replace(
            found, members=listed[0], members_sha256=listed[1], position=self._storage.located_membership()
        )
        self._passes.replace_league(self.league)

    def get_membership(self, request: bytes) -> bytes:
        message = wire.parse(registry_pb2.GetMembershipRequest, request)
        told, league = fresh(self._state, self._time()), self.league
        if told.membership.version != league.version or league.position is None:
            raise Unreachable("this mirror is taking over another membership: ask again in a moment")
        answer = framing.field(1, wire.encode_envelope(told.head))
        if message.known_members_sha256 != told.membership.members_sha256:
            answer += framing.field(2, told.members)
        if not message.with_checkpoint:
            return answer
        size, log = self.log.shown(message.seen_size, league.position)
        return answer + framing.field(3, log) + framing.field(4, self.log.inclusion(league.position, size))

    async def join(self, request: bytes) -> bytes:  # noqa: ARG002
        raise self._elsewhere("join")

    async def renew(self, request: bytes) -> bytes:  # noqa: ARG002
        raise self._elsewhere("renew a certificate")

    async def continue_organization(self, request: bytes) -> bytes:  # noqa: ARG002
        raise self._elsewhere("go on with a newer key")

    async def publish(self, requests: AsyncIterator[bytes], caller: Caller) -> AsyncIterator[bytes]:  # noqa: ARG002
        raise self._elsewhere("publish")
        yield b""  # it is a generator all the same

    def _elsewhere(self, what: str) -> Unreachable:
        where = ", ".join(map(str, self._where()))
        return Unreachable(f"this is a mirror, which takes nothing: to {what}, reach the registry at {where}")
