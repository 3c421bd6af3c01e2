"""The registry's log, followed from one checkpoint to the next, so that a registry cannot have two histories.

What was seen last is kept in known.db. Whatever does not continue it is refused, and both signed checkpoints are kept
as evidence. SPEC.md section 21.3.

    _, signed = RegistryLog(authority, known, clock).follow(lambda seen: (None, league.get_checkpoint(seen)))
"""

from collections.abc import Callable
from typing import TypeVar

from hanse import transparency
from hanse.client.storage.known import Known, RegistryLie
from hanse.errors import Conflict, StorageFailed, VerificationFailed, WrongContent
from hanse.model.organization import Authority
from hanse.transparency import Shown, Signed

T = TypeVar("T")
_ATTEMPTS = 5  # at keeping what was seen, when other processes of this home do the same


class RegistryLog:
    """Safe to share between threads. ``clock`` gives Unix seconds."""

    def __init__(self, authority: Authority, known: Known, clock: Callable[[], float]) -> None:
        self._authority = authority
        self._known = known
        self._clock = clock

    def seen(self) -> Signed | None:
        """The largest checkpoint that was seen. Raises StorageFailed."""
        return self._verified(self._known.registry_log())

    def follow(
        self, ask: Callable[[int], tuple[T, Shown | None]], *, required: bool = False
    ) -> tuple[T, Signed | None]:
        """Asks the registry, telling how much was seen; what it answers, and the checkpoint it answers under.

        None only while the registry has never shown a log, and unless it is ``required``. Raises what ``ask`` raises,
        and BadSignature, BrokenChain, RolledBack, WrongContent.
        """
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
            try:
                transparency.follow(seen, newer, shown)
            except VerificationFailed as error:
                assert seen is not None  # noqa: S101 - nothing contradicts nothing
                lie = RegistryLie(seen.note, newer.note, b"".join(shown.consistency), str(error), now)
                self._known.keep_registry_lie(lie)
                raise type(error)(
                    f"{error}. Both checkpoints, signed by the registry, are kept as evidence: ask other members which "
                    "of them they have seen"
                ) from None
            if self._known.keep_registry_log(note, newer.checkpoint.size, newer.note, now):
                return answer, newer
        raise Conflict("other hanse commands keep asking the registry at the same time: run it again")

    def _verified(self, note: str | None) -> Signed | None:
        try:
            return None if note is None else transparency.verify(note, self._authority)
        except VerificationFailed:
            raise StorageFailed(
                "the checkpoint of the registry's log that this home has kept is damaged: restore known.db from your "
                "backup"
            ) from None
