"""Peers keep each other's newest checkpoint, so that nobody rewrites a log that another has seen. SPEC.md section 18.

Each message of Settle shows the sender's log and says how much it has seen of the receiver's. A log that does not
continue what was seen of it raises BrokenChain, and both signed notes are kept.

    shown = offer(evidence, north)                              # into a request
    answered = ...                                              # a Shown out of the answer
    accept(evidence, north, organization, answered, asked=shown.seen)

Known hole: a peer that never proves anything (it withholds its checkpoints, or proves from another size) is not
accused; the checkpoint that is held of it merely grows old.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from hanse import limits
from hanse.errors import BrokenChain, VerificationFailed, WrongContent
from hanse.evidence import proofs
from hanse.evidence.checkpoint import MOST_LEAVES, Checkpoint, is_by, origin, parse, read, sign
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import log, peers
from hanse.evidence.storage.peers import Fork, Held
from hanse.evidence.writer import Change
from hanse.merkle import EMPTY_ROOT, verify_consistency
from hanse.model.identifier import Prefix
from hanse.model.keys import PublicKey
from hanse.model.organization import OrganizationRecord
from hanse.storage.database import Connection


@dataclass(frozen=True, slots=True)
class Shown:
    """What one side shows of its log: its newest signed checkpoint and the ``proof`` that it continues ``since``.

    ``seen``: how large the sender has seen the receiver's log, and ``seen_note`` the receiver's own word for it. Sizes
    are numbers of leaves.
    """

    note: str
    proof: tuple[bytes, ...]
    since: int
    seen: int
    seen_note: str = ""


@dataclass(frozen=True, slots=True)
class Lost:
    """A peer has seen ``seen`` leaves of our log, which had fewer or others.

    It showed the checkpoint that we signed, or it merely says so: then it may be wrong, or lie.
    """

    prefix: str
    seen: int


def ours(evidence: Evidence) -> str:
    """Our newest checkpoint, signed with the key that peers know now."""
    identity = evidence.identity()
    name, key = origin(identity.prefix), identity.acknowledged_key
    with evidence.reading() as connection:
        note = log.newest_checkpoint(connection)
    if note is None:
        return sign(Checkpoint(name, 0, EMPTY_ROOT), key)
    # After a change of keys nothing may have been appended yet.
    return note if is_by(note, key.public) else sign(parse(note)[0], key)


def offer(evidence: Evidence, peer: Prefix, since: int | None = None) -> Shown:
    """What to show to ``peer``; in an answer ``since`` is what its request says it has seen."""
    with evidence.reading() as connection:
        held = peers.held(connection, str(peer))
        note = ours(evidence)
        size = parse(note)[0].size
        start = since if since is not None else held.told_size if held else 0
        # Of a log that was larger once, nothing can be proved: the peer will notice, and so shall we.
        proof = proofs.consistency(connection, start, size) if start <= size else ()
    return Shown(note, proof, start, held.size, held.note) if held else Shown(note, proof, start, 0)


def accept(
    evidence: Evidence, peer: Prefix, organization: OrganizationRecord, shown: Shown, asked: int | None = None
) -> None:
    """Keeps what ``peer`` shows. ``asked``: in an answer, the ``seen`` of our request; None in a request.

    Raises BrokenChain after it kept both notes, BadSignature, WrongContent.
    """
    told = _told(evidence, shown.seen_note)
    broken = evidence.change(lambda change: take(change, peer, organization, shown, asked, told))
    if broken is not None:
        raise broken


def take(
    change: Change,
    peer: Prefix,
    organization: OrganizationRecord,
    shown: Shown,
    asked: int | None = None,
    told: Checkpoint | None = None,
) -> BrokenChain | None:
    """``accept`` within a change: what is returned is to be raised after it, or the notes are not kept.

    ``told``: what we signed once, given back. Raises BadSignature, WrongContent.
    """
    if len(shown.proof) > limits.CONSISTENCY_HASHES:
        raise WrongContent("a proof of consistency is longer than any log needs")
    newer = read(shown.note, origin(peer), _keys(organization, change.now))
    connection = change.connection
    held = peers.held(connection, str(peer))
    seen = min(shown.seen, MOST_LEAVES)
    lost = max(held.lost_size if held else 0, _lost(connection, seen, told))
    if held is None:
        peers.hold(connection, str(peer), Held(newer.size, shown.note, change.now, seen, lost))
        return None
    why = _contradiction(held, newer, shown, asked, change.now)
    if why:
        peers.put_fork(connection, Fork(str(peer), held.note, shown.note, change.now), limits.FORKS_PER_PEER)
    if not why and newer.size > held.size and shown.since == held.size:
        peers.hold(connection, str(peer), Held(newer.size, shown.note, change.now, seen, lost))
    elif (seen, lost) != (held.told_size, held.lost_size):
        peers.hold(connection, str(peer), Held(held.size, held.note, held.at, seen, lost))
    if not why:
        return None
    return BrokenChain(f"the log of {peer} {why}: both signed checkpoints are kept, `hanse status` shows them")


def forks(evidence: Evidence) -> tuple[Fork, ...]:
    """Every contradiction that was noticed."""
    with evidence.reading() as connection:
        return tuple(peers.forks(connection))


def losses(evidence: Evidence) -> tuple[Lost, ...]:
    """Who has seen more of our log than there was: it was restored from an old backup, or the peer is wrong."""
    with evidence.reading() as connection:
        size = log.size(connection)
        return tuple(
            Lost(prefix, max(held.lost_size, held.told_size))
            for prefix, held in peers.all_held(connection)
            if held.lost_size or held.told_size > size
        )


def _told(evidence: Evidence, note: str) -> Checkpoint | None:
    """A checkpoint of our own, if it is one: of what others made up, or earlier keys signed, nothing follows."""
    identity = evidence.identity()
    keys = [key.public for key in (identity.signing_key, identity.previous_key) if key is not None]
    try:
        return read(note, origin(identity.prefix), keys)
    except VerificationFailed:
        return None


def _lost(connection: Connection, seen: int, told: Checkpoint | None) -> int:
    """How large our log was once, if it is not that log any more; else 0."""
    size = log.size(connection)
    if told is not None and (told.size > size or proofs.root_at(connection, told.size) != told.root):
        return max(seen, told.size) if seen > size else told.size
    return seen if seen > size else 0


def _contradiction(held: Held, newer: Checkpoint, shown: Shown, asked: int | None, now: int) -> str:
    """Why the two cannot both be true of one log, in words; empty when they can."""
    older, _ = parse(held.note)
    if newer.size == older.size:
        return "" if newer.root == older.root else f"has two different histories of {newer.size:,} entries"
    if newer.size < older.size:
        # An answer is made after the question; a request may have been overtaken by a later one.
        overtaken = now - held.at <= limits.OVERTAKEN if asked is None else newer.size >= asked
        if overtaken:
            return ""
        return f"has {newer.size:,} entries, and had {older.size:,} before: it was rolled back"
    if shown.since != older.size:
        return ""  # it does not know yet how much was seen; it is told, and proves it next time
    try:
        verify_consistency(older.size, older.root, newer.size, newer.root, shown.proof)
    except BrokenChain:
        return f"with {newer.size:,} entries does not continue that with {older.size:,}: it was rewritten"
    return ""


def _keys(organization: OrganizationRecord, now: int) -> Iterator[PublicKey]:
    for key in organization.keys:
        if key.valid_until is None or now <= key.valid_until + limits.KEY_OVERLAP:
            yield key.public_key
