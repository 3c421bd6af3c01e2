"""The registry's log, followed from one checkpoint to the next, so that a registry cannot have two histories.

What was seen last is kept in known.db. Whatever does not continue it is refused, and both signed checkpoints are kept
as evidence. SPEC.md section 21.3.

    _, signed = RegistryLog(authority, known, clock).follow(lambda seen: (None, league.get_checkpoint(seen)))
"""

import time
from collections.abc import Callable
from typing import TypeVar

from hanse import cosigning, transparency
from hanse.client import lies
from hanse.client.league import League
from hanse.client.storage.known import Known, RegistryLie
from hanse.cosigning import Policy
from hanse.errors import Conflict, NotWitnessed, RolledBack, StorageFailed, VerificationFailed, WrongContent
from hanse.model.organization import Authority
from hanse.transparency import Shown, Signed

T = TypeVar("T")
PATIENCE = 4.0  # seconds for witnesses to cosign what is new
_PAUSE = 0.25
_NOBODY = Policy()
_ATTEMPTS = 20  # at keeping what was seen, when other processes of this home do the same


class Contradiction(RolledBack):
    """The registry signed less after it had signed more. Anything else that is old may be due to whoever passed it on.

    ``reason`` is that of any rollback.
    """

    @property
    def reason(self) -> str:
        return RolledBack.__name__


class RegistryLog:
    """Safe to share between threads. ``clock`` gives Unix seconds."""

    def __init__(
        self,
        authority: Authority,
        known: Known,
        clock: Callable[[], float],
        witnesses: Policy = _NOBODY,
        league: Callable[[], League] | None = None,
    ) -> None:
        """``league``: who is asked to prove that two checkpoints contradict each other, when they seem to."""
        self._league = league
        self._authority = authority
        self._witnesses = witnesses
        self._known = known
        self._clock = clock

    def seen(self) -> Signed | None:
        """The largest checkpoint that was seen. Raises StorageFailed."""
        return self._verified(self._known.registry_log())

    def follow(
        self, ask: Callable[[int], tuple[T, Shown | None]], *, required: bool = False, patience: float = 0.0
    ) -> tuple[T, Signed | None]:
        """Asks the registry, telling how much was seen; what it answers, and the checkpoint it answers under.

        None only while the registry has never shown a log, and unless it is ``required``, or witnesses are: for those
        it asks again for ``patience`` seconds. Raises what ``ask`` raises, and BadSignature, BrokenChain, NotWitnessed,
        RolledBack, WrongContent.
        """
        until = time.monotonic() + patience
        while True:
            try:
                return self._followed(ask, required=required or self._witnesses.require > 0)
            except NotWitnessed:
                # The newest may be younger than any witness's answer to it.
                if time.monotonic() + _PAUSE > until:
                    raise
                time.sleep(_PAUSE)

    def _followed(self, ask: Callable[[int], tuple[T, Shown | None]], *, required: bool) -> tuple[T, Signed | None]:
        for _ in range(_ATTEMPTS):
            note = self._known.registry_log()
            seen = self._verified(note)
            answer, shown = ask(seen.checkpoint.size if seen else 0)
            if shown is None:
                if seen is None and not required:
                    return answer, None
                raise WrongContent(
                    "the registry shows no checkpoint of its log"
                    + (f", of which {seen.checkpoint.size:,} entries were seen before: it hides it" if seen else "")
                )
            now = int(self._clock())
            newer = transparency.read(shown.note, self._authority, now=now)
            if seen is not None and newer.checkpoint.size < seen.checkpoint.size and newer.at <= seen.at:
                raise RolledBack(
                    f"an older checkpoint of the registry's log was offered, of {newer.checkpoint.size:,} entries, "
                    f"than was seen, of {seen.checkpoint.size:,}: whoever answered is behind"
                )
            try:
                transparency.follow(seen, newer, shown)
            except VerificationFailed as error:
                assert seen is not None  # noqa: S101 - nothing contradicts nothing
                keys = self._witnesses.keys
                found = lies.lie(seen, newer, shown.consistency, str(error), now, keys)
                found = lies.keep(self._known, found, self._league)
                kind = Contradiction if isinstance(error, RolledBack) else type(error)
                raise kind(
                    f"{error}. Both checkpoints, signed by the registry, are kept as evidence: ask other members which "
                    "of them they have seen. If its operator says that it was restored from a backup: "
                    f"`hanse accept-registry`{_accomplices(found)}"
                ) from None
            self._require_witnesses(newer, now)
            if self._known.keep_registry_log(note, newer.checkpoint.size, newer.note, now):
                return answer, newer
        raise Conflict("other hanse commands keep asking the registry at the same time: run it again")

    def _require_witnesses(self, signed: Signed, now: int) -> None:
        """Raises BadSignature, NotWitnessed."""
        missing = cosigning.missing(signed.note, self._witnesses, now)
        if missing:
            raise NotWitnessed(
                f"of the witnesses that this home requires ({self._witnesses.require} of "
                f"{len(self._witnesses.keys)}), these have not cosigned the registry's log of "
                f"{signed.checkpoint.size:,} entries just now: {', '.join(each.name for each in missing)}. They are "
                "down, or they refuse because the registry shows them another log: try again; if it stays so, ask them"
            )

    def _verified(self, note: str | None) -> Signed | None:
        try:
            return None if note is None else transparency.verify(note, self._authority)
        except VerificationFailed:
            raise StorageFailed(
                "the checkpoint of the registry's log that this home has kept is damaged: restore known.db from your "
                "backup"
            ) from None


def _accomplices(lie: RegistryLie) -> str:
    """Which witnesses signed both of two notes that contradict each other, or seem to."""
    if names := lies.two_faced(lie):
        return f". SIGNED TWO HISTORIES, and is no witness any more: {', '.join(names)}"
    if names := lies.cosigned_both(lie):
        return f". Both are cosigned by {', '.join(names)}, which may be right: ask there whether they are one log"
    return ""
