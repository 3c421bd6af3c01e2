"""The membership as a registry tells it: verified, in its log, and no older than what was seen. SPEC.md section 6.

told = newest(league, lambda: ask(league, log, known, authority, seen, now))
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from hanse import limits, transparency, trust
from hanse.client.league import League, ProvedMembership
from hanse.client.log import PATIENCE, Contradiction, RegistryLog
from hanse.client.storage.known import Known
from hanse.errors import RolledBack, WrongContent
from hanse.model.envelope import Envelope
from hanse.model.organization import Authority, Membership
from hanse.transparency import Shown, Signed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Told:
    """A membership, the head and the list as they came, and the checkpoint under which it is.

    ``signed`` is None of a registry that has never shown a log.
    """

    membership: Membership
    head: Envelope
    members: bytes
    signed: Signed | None


def newest(league: League, ask: Callable[[], T]) -> T:
    """What one address after the other is asked for, until it is no older than what was seen.

    A mirror may be behind: that is a rollback only if nobody has anything newer. SPEC.md section 23.4.
    """
    with league.searching():
        while True:
            try:
                return ask()
            except RolledBack as error:
                if isinstance(error, Contradiction) or not league.pass_over():
                    raise


def ask(
    league: League, log: RegistryLog, known: Known, authority: Authority, seen: Membership | None, now: int
) -> Told:
    """Asks one address, believes what holds, and keeps it. Raises Unreachable, VerificationFailed."""

    def question(seen_size: int) -> tuple[ProvedMembership, Shown | None]:
        answer = league.prove_membership(seen.members_sha256 if seen else b"", seen_size)
        return answer, answer.shown

    # A registry that has two histories, or hides one, is not believed in who belongs to the league either.
    answer, signed = log.follow(question, patience=0.0 if seen else PATIENCE)  # a daemon asks again by itself
    members = answer.members
    if not members and (kept := known.membership()) is not None:
        members = kept.members
    found = trust.membership(answer.head, members, authority, now=now, seen=seen)
    if signed is not None:
        if answer.inclusion is None:
            raise WrongContent("the registry gives no proof that the membership is in its log")
        leaf = transparency.membership_leaf(found.version, found.members_sha256)
        transparency.included(leaf, answer.inclusion, signed.checkpoint, "the membership")
        if found.issued_at < now - limits.CLOCK_SKEW - limits.CHECKPOINT_AGE:
            # It is in the log, as every membership is: the date alone says that it is the newest.
            raise RolledBack(
                f"a membership was offered that the registry stated {now - found.issued_at:,} s ago: a later "
                "one may be held back, or this machine's clock is wrong"
            )
    known.keep_membership(answer.head, members, now)
    return Told(found, answer.head, members, signed)
