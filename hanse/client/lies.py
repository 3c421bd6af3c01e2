"""What is kept of two checkpoints of the registry's log that contradict each other. SPEC.md sections 21.3 and 24.3.

Of one size the two notes say all. Of two sizes they may be one log, and a proof that is missing or false shows nothing;
so whoever has the larger log is asked for the root of its first leaves. Where that is not the smaller's, both notes and
this proof convict the registry, and every witness that cosigned both.
What it is not: a verdict on who is restored from a backup, or merely behind: a person judges that.

    kept = keep(known, lie(seen, newer, shown.consistency, str(error), now, policy.keys), lambda: league)
    two_faced(kept)                     # ("86.north.witness.hanse.internal",)
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace

from hanse import cosigning, limits, merkle, transparency
from hanse.client.league import League
from hanse.client.storage.known import Known, RegistryLie
from hanse.cosigning import WitnessKey
from hanse.errors import HanseError
from hanse.evidence import checkpoint as notes
from hanse.evidence.checkpoint import Checkpoint
from hanse.merkle import HASH_BYTES
from hanse.transparency import Signed


def lie(
    seen: Signed, newer: Signed, proof: Sequence[bytes], what: str, now: int, witnesses: Sequence[WitnessKey]
) -> RegistryLie:
    """Of what was seen and what contradicts it, or is not proved to continue it; ``proof`` came with the newer one.

    ``witnesses`` are those that this home names now; kept is which of them cosigned both.
    """
    both = cosigning.both(seen.note, newer.note, witnesses)
    keys = tuple(str(each) for each in witnesses if each.name in both)
    return RegistryLie(seen.note, newer.note, b"".join(proof), what, now, witnesses=keys)


def keep(known: Known, found: RegistryLie, league: Callable[[], League] | None) -> RegistryLie:
    """At once; then, unless it is proved, whoever has the larger log is asked for a proof. What is kept in the end."""
    kept = _keep(known, found)
    one, other = _roots(kept)
    if league is not None and one.size != other.size and not is_fork(kept):
        proof = _asked(league(), *sorted((one, other), key=lambda each: each.size))
        if proof:
            kept = _keep(known, replace(kept, proof=b"".join(proof)))
    return kept


def _keep(known: Known, found: RegistryLie) -> RegistryLie:
    """Of one contradiction, which the registry dates and signs anew every few seconds, once: what proves most."""
    kept = known.registry_lies()
    before = next((each for each in kept if _roots(each) == _roots(found) and not _over(each, found)), None)
    if before is not None:
        shown = found if set(found.witnesses) > set(before.witnesses) else before
        found = replace(
            before,
            first=shown.first,
            second=shown.second,
            witnesses=shown.witnesses,
            proof=before.proof if is_fork(before) else found.proof,
        )
        if found == before:
            return found
    elif len(kept) >= limits.FORKS_PER_PEER and is_fork(found):
        before = next((each for each in reversed(kept) if not is_fork(each)), None)
    known.keep_registry_lie(found, before)
    return found


def _over(before: RegistryLie, found: RegistryLie) -> bool:
    """Whether a person has accepted the one, and the registry contradicted itself once more."""
    return before.accepted_at is not None and before.first != found.first


def _roots(kept: RegistryLie) -> tuple[Checkpoint, Checkpoint]:
    return notes.parse(kept.first)[0], notes.parse(kept.second)[0]


def two_faced(kept: RegistryLie) -> tuple[str, ...]:
    """The witnesses that signed two histories. Raises WrongContent, InvalidInput when what is kept was altered."""
    return cosigning.signed_both(
        kept.first, kept.second, map(WitnessKey.parse, kept.witnesses), inconsistent=is_fork(kept)
    )


def cosigned_both(kept: RegistryLie) -> tuple[str, ...]:
    """Those that cosigned both: no reproach, unless they are ``two_faced``."""
    return cosigning.both(kept.first, kept.second, map(WitnessKey.parse, kept.witnesses))


def is_fork(kept: RegistryLie) -> bool:
    """Whether it is proved that no log can have both. Raises WrongContent."""
    hashes = [kept.proof[at : at + HASH_BYTES] for at in range(0, len(kept.proof), HASH_BYTES)]
    return transparency.forked(*_roots(kept), hashes)


def _asked(league: League, small: Checkpoint, large: Checkpoint) -> tuple[bytes, ...]:
    """A proof that the larger begins otherwise; () if no address of the registry or a mirror gives one."""
    # A proof from a power of two on does not have its root; the one from a leaf before does.
    since = small.size if small.size & (small.size - 1) else small.size - 1
    with league.searching():
        while True:
            with contextlib.suppress(HanseError):
                shown = league.get_checkpoint(since, large.size)
                proof = shown.consistency
                if since < small.size:
                    proof = merkle.with_first_root(small.size, proof)
                if transparency.forked(small, large, proof):
                    return proof
            if not league.pass_over():
                return ()
