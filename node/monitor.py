"""Follows the registry's log and reports what was done in our name that we did not sign off. SPEC.md section 25.

It reads every entry by Watch, computes the tree over all of them, and believes an entry only when the tree that it
stands in is the one, or the beginning of the one, that the registry has signed a checkpoint of. So what it is shown is
what everybody is; what it is not shown, the registry cannot show anybody under that checkpoint.
What it is not: a verifier of others' records. They are hashed, and that is all.

    Monitor(lambda: identity, lambda: league, known, catalog, storage).look().found

Memory: one step of STEP entries and the tree's right edge, however long the log is.
"""

import contextlib
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from hanse import merkle, transparency, wire
from hanse.client import lies
from hanse.client.identity import Identity
from hanse.client.league import League
from hanse.client.log import Contradiction, RegistryLog
from hanse.client.storage.known import Known
from hanse.errors import BrokenChain, InvalidInput, RolledBack, TimedOut, WrongContent
from hanse.merkle import RootBuilder, leaf_hash
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier
from hanse.model.resolution import Change
from hanse.rpc import tls
from hanse.transparency import Signed
from node.own_name import Finding, Kind, Ledger, concerns, judge
from node.storage.catalog import CatalogStorage
from node.storage.monitor import MonitorStorage, State

STEP = 4096  # entries that are read, compared and kept at once
HELD_SECONDS = 60  # after which whoever exchanges what was seen of the log must have been killed
STEP_SECONDS = 20.0  # for one step; what has come by then is taken
_LYING = (
    "show it to the registry's operator and to other members: `hanse evidence export` has what was seen; if the "
    "registry was restored from a backup, `hanse accept-registry`"
)


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found anew. ``size`` of the log's ``of`` entries were followed."""

    found: tuple[Finding, ...]
    size: int
    of: int


@dataclass(frozen=True, slots=True)
class OwnLedger:
    """See node.own_name.Ledger."""

    catalog: CatalogStorage

    def digest_of(self, id: Identifier, version: int) -> bytes | None:
        found = self.catalog.version(id, version)
        return found.record.digest if found else None

    def organizations(self) -> list[Envelope]:
        return self.catalog.organizations()


class Monitor:
    """For one thread. Several processes of one home may look at once: each entry is judged and kept once.

    ``clock`` gives Unix seconds. Every method may raise StorageFailed and NoSpace.
    """

    def __init__(
        self,
        identity: Callable[[], Identity],
        league: Callable[[], League],
        known: Known,
        catalog: CatalogStorage,
        storage: MonitorStorage,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``identity`` and ``league`` may be others at each call: keys change while a daemon runs."""
        self._authority, self._own = identity().authority, identity().prefix
        self._league, self._known, self._storage, self._clock = league, known, storage, clock
        self._ledger: Ledger = OwnLedger(catalog)
        self._witnesses = identity().witnesses.keys
        self._log = RegistryLog(self._authority, known, clock, identity().witnesses, league)

    def look(self, *, ask: bool = True, rest: Callable[[float], bool] = lambda _: False) -> Look:
        """Goes on to the registry's newest checkpoint; without ``ask`` to the newest that this home has seen.

        After each step ``rest`` is told how many seconds it took, and says whether to stop there. Raises Unreachable,
        NotPermitted, and VerificationFailed where the registry shows no log, or one that does not continue what was
        seen.
        """
        first = self._storage.state()  # before what was seen is read: what is exchanged meanwhile shows in its epoch
        if first.held_at is not None:
            if 0 <= self._now - first.held_at < HELD_SECONDS:
                return Look((), first.size, first.size)
            self._storage.begin_anew()  # whoever held it was killed
            first = self._storage.state()
        signed = self._log.seen()
        if signed is None or ask or first.size > signed.checkpoint.size:
            signed = self._ask()
        found: list[Finding] = []
        state, size = first, signed.checkpoint.size
        while state.epoch == first.epoch and state.size < size:
            began = time.monotonic()
            step = self._step(state, signed)
            if step is not None:  # else another process was quicker
                found += step.found
                if step.stopped or rest(time.monotonic() - began):
                    return Look(tuple(found), state.size, size)
            state = self._storage.state()
        if state.epoch == first.epoch:
            found += self._at_the_end(state, signed)
        return Look(tuple(found), state.size, size)

    def _ask(self) -> Signed:
        """A mirror may be behind: then the next address is asked."""
        league = self._league()
        with league.searching():
            while True:
                try:
                    _, signed = self._log.follow(lambda seen: (None, league.get_checkpoint(seen)), required=True)
                except RolledBack as error:
                    if isinstance(error, Contradiction) or not league.pass_over():
                        raise
                else:
                    assert signed is not None  # noqa: S101 - it was required
                    return signed

    def _step(self, state: State, signed: Signed) -> "_Step | None":
        wanted = min(STEP, signed.checkpoint.size - state.size)
        changes = self._read(state.size, wanted)
        whole = list(itertools.takewhile(lambda each: each[0] == each[1].position, enumerate(changes, state.size + 1)))
        if not whole:
            return self._reported(state, _withheld(state.size, changes, signed))
        del changes[len(whole) :]
        leaves = [leaf_hash(_leaf(each)) for each in changes]
        tree = RootBuilder.resumed(state.size, state.edge)
        for leaf in leaves:
            tree.add(leaf)
        begins, proof = self._prove(tree.size, tree.root(), signed)
        if not begins:
            return self._reported(state, self._first_false(state, changes, leaves, signed))
        found = []
        node = merkle.nodes_after(state.size, state.edge, leaves)
        for each in changes:
            if concerns(each, self._own) and (finding := judge(each, self._own, self._ledger)) is not None:
                path = merkle.inclusion_proof(node, each.position - 1, tree.size)
                found.append(finding.proved(tree.size, path, signed.note, proof))
        note = signed.note if tree.size == signed.checkpoint.size else ""
        new = self._storage.advance(state, tree.size, tree.edge, note, found, self._now)
        return None if new is None else _Step(tuple(new), stopped=False)

    def _read(self, after: int, wanted: int) -> list[Change]:
        """At least one, unless the registry gives none although it answers otherwise."""
        found: list[Change] = []
        for attempt in range(2):
            watching = self._league().watch(after, certificates=True, timeout=STEP_SECONDS)
            with contextlib.closing(watching), contextlib.suppress(TimedOut):
                for change in itertools.islice(watching, wanted):
                    found.append(change)  # noqa: PERF402 - what came before it timed out is kept
            if found or attempt:
                break
            self._ask()  # raises if it is merely away
        return found

    def _prove(self, size: int, root: bytes, signed: Signed) -> tuple[bool, tuple[bytes, ...]]:
        """Whether the tree that we computed begins the signed one, or is it; and the registry's proof."""
        whole = signed.checkpoint
        if size == whole.size:
            return root == whole.root, ()
        shown = self._league().get_checkpoint(size, whole.size)
        if (shown.since, shown.until) != (size, whole.size):
            raise WrongContent(f"the registry does not prove what the first {size:,} entries of its log are")
        try:
            merkle.verify_consistency(size, root, whole.size, whole.root, shown.consistency)
        except BrokenChain:
            return False, shown.consistency
        return True, shown.consistency

    def _first_false(self, state: State, changes: list[Change], leaves: list[bytes], signed: Signed) -> Finding:
        """Which entry is not the one that was signed: only the trees before it are beginnings of the registry's."""
        node = merkle.nodes_after(state.size, state.edge, leaves)
        low, high = state.size, state.size + len(leaves)
        if low and not self._prove(low, merkle.root_at(node, low), signed)[0]:
            return self._begins_otherwise(state, signed)
        while high - low > 1:
            middle = (low + high) // 2
            if self._prove(middle, merkle.root_at(node, middle), signed)[0]:
                low = middle
            else:
                high = middle
        change = changes[high - 1 - state.size]
        return _log_finding(
            high,
            f"entry {high:,} that the registry shows ({_told(change)}) is not what its signed checkpoint of "
            f"{signed.checkpoint.size:,} entries has there: entries were altered, re-ordered, put in or left out",
            signed,
            change,
        )

    def _at_the_end(self, state: State, signed: Signed) -> tuple[Finding, ...]:
        """That what was followed is what is signed: it is, unless the log or this home's files were put back."""
        tree = RootBuilder.resumed(state.size, state.edge)
        if state.size > signed.checkpoint.size:  # another process has seen more meanwhile
            signed = self._ask()
        if state.size < signed.checkpoint.size or tree.root() == signed.checkpoint.root:
            return ()
        return self._reported(state, self._begins_otherwise(state, signed)).found

    def _begins_otherwise(self, state: State, signed: Signed) -> Finding:
        what = (
            f"the registry's log of {signed.checkpoint.size:,} entries does not begin with the {state.size:,} that it "
            "showed before: it was rolled back, forked or rewritten"
        )
        return _log_finding(state.size, what, signed)

    def _reported(self, state: State, finding: Finding) -> "_Step":
        # A registry that shows another log by now has been caught already, and says nothing of this one.
        self._ask()
        if not self._storage.report(state, finding, self._now):
            return _Step((), stopped=True)
        if state.note and not finding.content and finding.position == state.size:
            seen, newer = (transparency.verify(note, self._authority) for note in (state.note, finding.note))
            found = lies.lie(seen, newer, (), finding.what, self._now, self._witnesses)
            lies.keep(self._known, found, self._league)
        return _Step((finding,), stopped=True)

    @property
    def _now(self) -> int:
        return int(self._clock())


@dataclass(frozen=True, slots=True)
class _Step:
    """What was not known yet; ``stopped``: the log is not what was signed, and is not followed further."""

    found: tuple[Finding, ...]
    stopped: bool


def _leaf(change: Change) -> bytes:
    try:
        return transparency.leaf_of_change(change)
    except InvalidInput:
        raise WrongContent(
            f"entry {change.position:,} of the registry's log is of a kind that this version does not know: "
            "upgrade hanse, until then the log is not followed further"
        ) from None


def _withheld(size: int, changes: list[Change], signed: Signed) -> Finding:
    given = f"gives entry {changes[0].position:,} instead" if changes else "gives nothing"
    what = (
        f"entry {size + 1:,} is withheld: the registry's signed checkpoint has {signed.checkpoint.size:,} entries, and "
        f"whoever asks for what comes after {size:,} it {given}"
    )
    return _log_finding(size + 1, what, signed, changes[0] if changes else None)


def _log_finding(position: int, what: str, signed: Signed, change: Change | None = None) -> Finding:
    content = b""
    if change is not None:
        content = change.certificate if change.envelope is None else wire.encode_envelope(change.envelope)
    name = b"log " + sha256(position.to_bytes(8, "big") + content).digest()
    return Finding(Kind.LOG, name, position, what, _LYING, content, note=signed.note)


def _told(change: Change) -> str:
    """What it says to be."""
    envelope = change.envelope
    try:
        if envelope is None:
            return f"a certificate for {tls.read_certificate(change.certificate).organization or 'nobody'}"
        match envelope.payload_type:
            case PayloadType.RECORD:
                record = wire.decode_record(envelope.payload)
                return f"version {record.version} of {record.id}"
            case PayloadType.ORGANIZATION:
                organization = wire.decode_organization(envelope.payload)
                return f"version {organization.version} of the record of {organization.prefix}"
    except InvalidInput:
        return "what does not parse"
    return "a change of the membership"
