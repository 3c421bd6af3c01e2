"""Settling: what a consumer says it received is held against what was served, and signed. SPEC.md section 17.

A receipt that this node signs claims nothing that it did not serve in that delivery: not another object, version or
grant, not a byte more. The same half again gives the same receipt. What nobody settles the owner signs alone, which is
its own word only. What it is not: a count of usage; that was made before the bytes went out (node.deliveries).

    settling = Settling(evidence, lambda: resolver, storage, deliveries)
    settling.settle(data, caller)                   # a call of the node's service
    settling.look()                                 # now and then
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from hanse import limits, papers, wire, wire_papers
from hanse.client.keys import Signer
from hanse.client.resolve import Resolver
from hanse.errors import BrokenChain, HanseError, InvalidInput, LimitExceeded, NotFound, VerificationFailed
from hanse.evidence import peers
from hanse.evidence.evidence import Evidence
from hanse.evidence.parts import all_within
from hanse.evidence.storage import deliveries as table
from hanse.evidence.storage import papers as papers_table
from hanse.evidence.storage.deliveries import Row, State
from hanse.evidence.storage.log import Kind
from hanse.evidence.writer import Change
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.papers import Deletion, Receipt
from hanse.signing import sign
from hanse.storage.database import Connection
from hanse.v1 import envelope_pb2, node_pb2
from node.deliveries import Deliveries
from node.policy import Caller
from node.storage.catalog import CatalogStorage
from node.weights import Weights

_AT_ONCE = 500  # deliveries that are signed alone in one transaction
log = structlog.get_logger("hanse.node.settling")


@dataclass(frozen=True, slots=True)
class _Claim:
    """A receipt whose consumer signed it; ``weight`` is what its parts are in bytes, None if there are no such."""

    envelope: Envelope
    receipt: Receipt
    weight: int | None


class Settling:
    """Safe to share between threads."""

    def __init__(
        self,
        evidence: Evidence,
        resolver: Callable[[], Resolver],
        catalog: CatalogStorage,
        deliveries: Deliveries,
        half_after: float = limits.HALF_AFTER,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._evidence, self._resolver, self._weights = evidence, resolver, Weights(catalog)
        self._deliveries, self._half_after, self._clock = deliveries, half_after, clock

    # The call of the node's service.

    def settle(self, data: bytes, caller: Caller) -> bytes:
        """A SettleRequest; a SettleResponse with an answer to each paper, in order. Raises what the caller is told."""
        request = wire.parse(node_pb2.SettleRequest, data)
        if len(request.papers) > limits.SETTLED_AT_ONCE:
            raise LimitExceeded(f"a call settles at most {limits.SETTLED_AT_ONCE} papers")
        signer = Signer(self._resolver(), caller.prefix)
        with self._evidence.reading() as connection:
            believable = [self._believable(each, caller, signer, connection) for each in request.papers]
        answers = self._evidence.change(lambda change: [self._answer(change, each, caller) for each in believable])
        response = node_pb2.SettleResponse()
        for answer in answers:
            if isinstance(answer, Envelope):
                response.settled.add(paper=wire.envelope_to_message(answer))
            else:
                response.settled.add(refusal=answer)
        self._exchange(request, response, caller, signer)
        return response.SerializeToString()

    def _believable(
        self, message: envelope_pb2.Envelope, caller: Caller, signer: Signer, connection: Connection
    ) -> _Claim | tuple[Deletion, Envelope] | str:
        """What can be judged outside of a transaction: who signed it, and how many bytes it speaks of; or why not."""
        try:
            envelope = wire.envelope_from_message(message)
            now = int(self._clock())
            if envelope.payload_type == PayloadType.DELETION:
                return signer.believed(lambda org: papers.verify_deletion(envelope, org, now=now)), envelope
            if len(envelope.signatures) != 1:
                return "a half of a receipt has one signature, its consumer's"
            receipt, _ = signer.believed(lambda org: papers.verify_receipt(envelope, None, org, now=now))
            if len(receipt.delivered) > limits.DELIVERY_PARTS:
                return f"a receipt lists at most {limits.DELIVERY_PARTS} separate parts"
            return _Claim(
                envelope, receipt, self._weigh(receipt) if self._is_due(connection, receipt, caller) else None
            )
        except (VerificationFailed, InvalidInput, NotFound) as error:
            return str(error)

    def _is_due(self, connection: Connection, receipt: Receipt, caller: Caller) -> bool:
        """Whether it is worth to look at its parts: it may be of a delivery that waits for it."""
        if receipt.owner != self._deliveries.owner:
            return False
        row = table.get(connection, receipt.delivery, ours=False, peer=str(caller.prefix))
        return row is not None and row.state is not State.SETTLED and row.object == receipt.id.key

    def _answer(
        self, change: Change, paper: _Claim | tuple[Deletion, Envelope] | str, caller: Caller
    ) -> Envelope | str:
        """The receipt with both signatures, why not, or nothing to say."""
        if isinstance(paper, str):
            return paper
        if isinstance(paper, tuple):
            return self._keep_deletion(change, *paper, caller)
        receipt = paper.receipt
        if receipt.owner != self._deliveries.owner or receipt.consumer != caller.prefix:
            return "the receipt is of other organizations than the two that settle here"
        row = table.get(change.connection, receipt.delivery, ours=False, peer=str(caller.prefix))
        if row is None:
            return "there was no such delivery to you"
        if row.state is State.SETTLED and row.receipt is not None:
            whole = wire.decode_envelope(row.receipt)
            if whole.payload == paper.envelope.payload:
                return whole
            return "another receipt of this delivery was signed already"
        served = wire_papers.decode_receipt(row.delivered)
        why = self._objection(paper, row, served, change.now)
        return why or self._sign(change, row, paper, self._weigh(served) or 0)

    def _objection(self, claim: _Claim, row: Row, served: Receipt, now: int) -> str:
        receipt = claim.receipt
        if (receipt.id.key, receipt.version, receipt.record) != (row.object, row.version, served.record):
            return "the delivery was of another object, version or record than the receipt says"
        if receipt.grant != row.grant:
            return "the delivery was under another grant than the receipt says"
        if receipt.purposes != served.purposes:
            return "the purposes are not those of the grant"
        if not receipt.delivered or not all_within(
            receipt.delivered,
            served.delivered,
            lambda element: self._weights.chunks(receipt.id, receipt.version, element),
        ):
            return "the receipt claims more than was served in this delivery"
        if claim.weight is None or claim.weight != receipt.unique_bytes:
            return "the receipt counts other bytes than the parts that it lists have"
        early, late = row.started_at - limits.CLOCK_SKEW, now + limits.CLOCK_SKEW
        if not early <= receipt.started_at <= receipt.ended_at <= late:
            return "the times are not those of the delivery: is your clock right?"
        return ""

    def _sign(self, change: Change, row: Row, claim: _Claim, served: int) -> Envelope:
        """``served``: bytes."""
        half = claim.envelope
        ours = sign(PayloadType.RECEIPT, half.payload, self._evidence.identity().acknowledged_key)
        whole = Envelope(half.payload_type, half.payload, (*half.signatures, *ours.signatures))
        encoded = wire.encode_envelope(whole)
        row.state, row.receipt, row.receipt_digest = State.SETTLED, encoded, whole.digest
        row.claimed = claim.receipt.unique_bytes
        # A reader that ends a stream leaves what was under way unread: within a window that is nobody's debt.
        short = served - row.claimed
        row.owed = short if short > limits.ACCOUNT_WINDOW_BYTES else 0
        table.signed(change.connection, row)
        change.append(Kind.RECEIPT, encoded)
        return whole

    def _keep_deletion(self, change: Change, deletion: Deletion, envelope: Envelope, caller: Caller) -> str:
        if deletion.owner != self._deliveries.owner or deletion.consumer != caller.prefix:
            return "the deletion is of other organizations than the two that settle here"
        grant = papers_table.grant(change.connection, deletion.grant)
        if grant is None or grant.holder != caller.prefix or deletion.id not in grant.grant.ids:
            return "the deletion is of a grant that you do not hold for this object"
        if not table.has_deletion(change.connection, envelope.digest):
            count = table.count_deletions(change.connection, str(caller.prefix), deletion.grant)
            if count >= grant.fetches + limits.DELETIONS_SPARE:
                return "you deleted more copies than you fetched under this grant"
        encoded = wire.encode_envelope(envelope)
        if table.put_deletion(
            change.connection, envelope.digest, str(caller.prefix), deletion.id.key, deletion.version, deletion.grant,
            encoded, change.now,
        ):  # fmt: skip
            change.append(Kind.DELETION, encoded)
        return ""

    def _exchange(
        self, request: node_pb2.SettleRequest, response: node_pb2.SettleResponse, caller: Caller, signer: Signer
    ) -> None:
        """Checkpoints of both logs. That the peer's log contradicts itself is kept, and does not undo receipts."""
        if not request.checkpoint:
            return
        proof, seen = tuple(request.consistency), request.seen_size
        shown = peers.Shown(request.checkpoint, proof, request.since_size, seen, request.seen_checkpoint)
        try:
            signer.believed(lambda org: peers.accept(self._evidence, caller.prefix, org, shown))
        except BrokenChain as error:
            log.error("log.forked", peer=str(caller.prefix), error=str(error))
        except HanseError as error:
            log.warning("checkpoint.refused", peer=str(caller.prefix), error=str(error))
        ours = peers.offer(self._evidence, caller.prefix, request.seen_size)
        response.checkpoint, response.seen_size, response.seen_checkpoint = ours.note, ours.seen, ours.seen_note
        response.consistency.extend(ours.proof)

    # What nobody settled.

    def look(self) -> None:
        """All that is due now."""
        while self.sign_alone() == _AT_ONCE:
            pass

    def sign_alone(self) -> int:
        """Signs what was served and not settled for a while. Returns how many deliveries that were."""
        before = int(self._clock() - self._half_after)
        with self._evidence.reading() as connection:
            rows = table.unsettled(connection, before, _AT_ONCE)
        due = [(row, self._served_bytes(row)) for row in rows if not self._deliveries.is_open(row)]
        if not due:
            return 0
        return self._evidence.change(lambda change: sum(self._sign_half(change, *each) for each in due))

    def _sign_half(self, change: Change, seen: Row, size: int) -> int:
        row = table.get(change.connection, seen.id, ours=False, peer=seen.peer)
        if row is None or (row.state, row.moved_at, row.delivered) != (seen.state, seen.moved_at, seen.delivered):
            return 0
        served = wire_papers.decode_receipt(row.delivered)
        if not served.delivered:
            row.state = State.EMPTY
        else:
            payload = wire_papers.encode_receipt(replace(served, unique_bytes=size))
            half = sign(PayloadType.RECEIPT, payload, self._evidence.identity().acknowledged_key)
            row.state, row.receipt, row.receipt_digest = State.HALF, wire.encode_envelope(half), half.digest
            change.append(Kind.HALF_RECEIPT, row.receipt)
        table.signed(change.connection, row)
        return 1

    def _served_bytes(self, row: Row) -> int:
        return self._weigh(wire_papers.decode_receipt(row.delivered)) or 0

    def _weigh(self, receipt: Receipt) -> int | None:
        return self._weights.of(receipt.id, receipt.version, receipt.delivered)
