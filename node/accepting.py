"""Going on with a registry that was restored from a backup. SPEC.md section 25.3.

What was seen of its log is dropped, and what it lost of ours is published again. If it lost the change to the key that
signs our calls, it is shown the records that lead there, to be asked at all; it stores them when a person has accepted.

What it is not: a decision. A registry that rolls back to hide something looks the same; a person compares with what the
operator said on another channel. What contradicted itself stays as evidence.
Works while the daemon runs, which takes the new log at its next look.

    with opened(identity) as accepting:
        there = accepting.compare()         # both checkpoints, for a person
        accepting.accept(there)
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hanse import limits, merkle, transparency, wire
from hanse.client import lies
from hanse.client.identity import Identity
from hanse.client.league import League
from hanse.client.reaching import reach
from hanse.client.resolve import Resolver
from hanse.client.storage.known import FILE as KNOWN
from hanse.client.storage.known import Known
from hanse.errors import BrokenChain, HanseError, NotAuthenticated, Unreachable, VerificationFailed, WrongContent
from hanse.model.envelope import Envelope
from hanse.model.keys import PublicKey
from hanse.transparency import Shown, Signed
from node.catalog import CATALOG
from node.storage.catalog import CatalogStorage
from node.storage.monitor import FILE, MonitorStorage
from node.storage.outbox import ORGANIZATION


@dataclass(frozen=True, slots=True)
class Compared:
    """What this home has seen of the log, and what the registry shows now.

    ``why``: what there is to accept; empty where both are one log and the registry knows this home's key.
    """

    seen: Signed | None
    shown: Signed
    why: str
    older_key: bool = False


@dataclass(frozen=True, slots=True)
class Accepted:
    """``again``: how many records of ours wait to be published once more, because the registry lost them.

    ``contradicted``: identifiers, or ``organization``, of which it has another version than this home made.
    """

    again: int
    contradicted: tuple[str, ...]


class Accepting:
    """For one thread; every method may raise Unreachable, NotPermitted, StorageFailed."""

    def __init__(
        self,
        identity: Identity,
        league: League,
        known: Known,
        catalog: CatalogStorage,
        monitor: MonitorStorage,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identity, self._league, self._known = identity, league, known
        self._catalog, self._monitor, self._clock = catalog, monitor, clock

    def compare(self, size: int | None = None, root: bytes | None = None) -> Compared:
        """Asks the registry. ``size`` and ``root``: how its operator said that its log begins, on another channel.

        Raises WrongContent when it does not begin so.
        """
        authority, now = self._identity.authority, int(self._clock())
        note = self._known.registry_log()
        seen = None if note is None else transparency.verify(note, authority)
        shown, older_key = self._shown(seen.checkpoint.size if seen else 0)
        newer = transparency.read(shown.note, authority, now=now)
        if seen and newer.checkpoint.size < seen.checkpoint.size and newer.at <= seen.at:
            raise Unreachable("a mirror answered that is behind: try again when the registry itself is there")
        if size is not None and root is not None:
            self._begins(size, root, newer)
        try:
            transparency.follow(seen, newer, shown)
        except VerificationFailed as error:
            assert seen is not None  # noqa: S101 - nothing contradicts nothing
            keys = self._identity.witnesses.keys
            found = lies.lie(seen, newer, shown.consistency, str(error), now, keys)
            lies.keep(self._known, found, lambda: self._league)
            return Compared(seen, newer, str(error), older_key)
        why = f"the registry knows {self._identity.prefix} by an older key than this home's" if older_key else ""
        return Compared(seen, newer, why, older_key)

    def _shown(self, seen: int) -> tuple[Shown, bool]:
        """And whether it had to be brought what leads to this home's key. SPEC.md section 9.9."""
        try:
            return self._league.get_checkpoint(seen), False
        except NotAuthenticated:
            leading = leading_to(self._identity.signing_key.public, self._catalog.organizations())
            if len(leading) < 2:
                raise  # the key has always been this one
            self._league.bring(leading[-limits.CONTINUED :])
            return self._league.get_checkpoint(seen), True

    def _begins(self, size: int, root: bytes, shown: Signed) -> None:
        whole = shown.checkpoint
        proof = self._league.get_checkpoint(size, whole.size).consistency if 0 < size < whole.size else ()
        try:
            merkle.verify_consistency(size, root, whole.size, whole.root, proof)
        except BrokenChain:
            raise WrongContent(
                f"the registry's log of {whole.size:,} entries does not begin with the {size:,} entries of root "
                f"{root.hex()} that you were told of: nothing was changed; ask its operator again, on another channel"
            ) from None

    def accept(self, there: Compared) -> Accepted:
        """What was seen is dropped, for what is ``there`` now. Whatever fails, it can be done again."""
        self._league.continue_organization()  # first: while that fails nothing is changed here
        self._monitor.hold(int(self._clock()))  # the daemon's would otherwise compare the one with the other
        self._known.accept_registry_log(there.shown.checkpoint.size, there.shown.note, int(self._clock()))
        self._monitor.begin_anew()
        with contextlib.suppress(HanseError):  # whoever needs it asks again, and says why it cannot be had
            Resolver(self._identity, self._known, self._league, self._clock).membership(max_age=0)
        return self.publish_again()

    def publish_again(self) -> Accepted:
        """What the registry lost of ours is to be published once more: also where its log continues what was seen."""
        lost: list[tuple[str, list[Envelope]]] = []
        contradicted: list[str] = []
        own = self._catalog.organizations()
        theirs = self._their_organizations()
        if [each.digest for each in own[: len(theirs)]] != [each.digest for each in theirs]:
            contradicted.append(ORGANIZATION)
        elif own[len(theirs) :]:
            lost.append((ORGANIZATION, own[len(theirs) :]))
        for key, missing in self._lost():
            if missing is None:
                contradicted.append(key)
            elif missing:
                lost.append((key, missing))
        # What was never acknowledged waits anyway; it is offered anew only behind what is lost before it.
        waiting = {each.envelope.digest for each in self._catalog.outbox.all()}
        again = {key: sum(each.digest not in waiting for each in missing) for key, missing in lost}
        self._catalog.outbox.offer_again([each for each in lost if again[each[0]]], int(self._clock()))
        return Accepted(sum(again.values()), tuple(contradicted))

    def _their_organizations(self) -> list[Envelope]:
        found: list[Envelope] = []
        while more := self._league.get_organization(self._identity.prefix, len(found)):
            found += more
        return found

    def _lost(self) -> Iterator[tuple[str, list[Envelope] | None]]:
        """Of each object what the registry has no longer; None where it has what this home did not make."""
        objects = [each for each in self._catalog.objects() if not each.unlisted]
        for first in range(0, len(objects), limits.BATCH):
            batch = objects[first : first + limits.BATCH]
            answers = self._league.resolve([each.id for each in batch])
            for wrapped, answer in zip(batch, answers, strict=True):
                there = 0
                if answer.record is not None:
                    there = wire.decode_record(answer.record.payload).version
                    ours = self._catalog.version(wrapped.id, there)
                    if ours is None or ours.record.digest != answer.record.digest:
                        yield wrapped.id.key, None
                        continue
                versions = range(there + 1, wrapped.current_version + 1)
                found = [self._catalog.version(wrapped.id, version) for version in versions]
                yield wrapped.id.key, [each.record for each in found if each is not None]


def leading_to(key: PublicKey, organizations: Sequence[Envelope]) -> Sequence[Envelope]:
    """Of an organization's records the first, up to the one that changed to that key; none if none did."""
    keys = [wire.decode_organization(each.payload).current_key for each in organizations]
    return organizations[: keys.index(key) + 1] if key in keys else ()


@contextlib.contextmanager
def opened(identity: Identity, clock: Callable[[], float] = time.time) -> Iterator[Accepting]:
    """All that it needs of a home."""
    with contextlib.ExitStack() as stack:
        league = stack.enter_context(reach(identity, clock))
        known = stack.enter_context(contextlib.closing(Known.open(identity.home / KNOWN)))
        catalog = stack.enter_context(contextlib.closing(CatalogStorage.open(identity.home / CATALOG)))
        monitor = stack.enter_context(contextlib.closing(MonitorStorage.open(identity.home / FILE)))
        yield Accepting(identity, league, known, catalog, monitor, clock)
