"""The calls of ``hanse.v1.Registry``: bytes in, bytes out. SPEC.md section 9.

What it is not: gRPC. registry.calls decides who may call and turns errors into statuses.
The rule it keeps: nothing here waits on the event loop for a disk write or for another process. Resolve and
Watch read from the operating system's cache; everything longer runs in a thread. When the storage is distant, all
reading is done by one thread of its own, in the order of the calls (``Log.read``), but for what is remembered.
Whom nobody knows costs such a reading too, shared by all who are unknown at the time.
"""

import array
import asyncio
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import lru_cache, partial

from hanse import limits, wire
from hanse.errors import Conflict, InvalidInput, LimitExceeded, NotFound, Overloaded
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.trust import VerifiedOrganization
from hanse.v1 import envelope_pb2, registry_pb2
from registry import framing, index, members
from registry.accept import Code, Outcome
from registry.answers import Answers
from registry.config import Config
from registry.figures import Durations
from registry.joining import Membership
from registry.log import Log
from registry.members import League, Statements
from registry.passes import Caller, Passes, refuse_suspended
from registry.storage.base import Storage
from registry.writer import Writer

_UNKNOWN = b"\x0a\x02\x08\x03"  # ResolveResponse.resolutions {state: STATE_UNKNOWN}
_INVALID = b"\x0a\x02\x08\x05"
_WATCH_CHANGES, _WATCH_BYTES = 256, 512 * limits.KIB
_WATCH_LOOK = 30.0  # seconds after which a watcher looks by itself
_PUBLISH_AHEAD = 4  # messages of one stream that wait to be stored
_PUBLISH_STREAMS, _PUBLISH_STREAMS_PER_MEMBER = 64, 4
_PUBLISH_BYTES = 128 * limits.MIB  # of all streams that wait to be stored, and one message more of each sender
_RANKINGS = 64  # searches whose order is remembered for their next pages
_ANSWER_BYTES = limits.MESSAGE_BYTES - 4 * limits.ENVELOPE_BYTES  # a record and its owner's still fit after that
_SEARCH_BYTES = limits.MESSAGE_BYTES - limits.KIB
_RELOADS = 5  # until membership and log are of one moment
_MOST = (1 << 63) - 1  # what the database's integers hold
_IDENTIFIER_TEXT = limits.IDENTIFIER_BYTES + 16  # with a scheme in front


def _key(text: str) -> str | None:
    """None for what is no identifier."""
    return _short_key(text) if len(text) <= _IDENTIFIER_TEXT else None  # what is remembered is bounded in bytes too


@lru_cache(maxsize=65_536)
def _short_key(text: str) -> str | None:
    try:
        return Identifier.parse(text).key
    except InvalidInput:
        return None


class Service:
    """One registry's calls, and the state they share."""

    def __init__(
        self,
        config: Config,
        authority: bytes,
        storage: Storage,
        membership: Membership,
        statements: Statements,
        passes: Passes,
        clock: Callable[[], float],
        page_secret: bytes,
        log: Log,
    ) -> None:
        self.config = config
        self._authority = authority
        self._storage = storage
        self._membership = membership
        self._statements = statements
        self._passes = passes
        self._page_secret = page_secret
        self.log = log
        self._root = f"{config.root}."
        self._referrals = {
            str(root): framing.field(
                1, b"\x08\x04" + b"".join(framing.field(3, str(address).encode()) for address in addresses)
            )
            for root, addresses in config.referrals.items()
        }
        self._rankings: OrderedDict[tuple[bytes, int], array.array[int]] = OrderedDict()
        self._answers = Answers()
        self._publishing: Counter[Prefix] = Counter()
        self._submitted: Counter[Prefix] = Counter()  # bytes
        self._messages = 0
        self.outcomes: Counter[Code] = Counter()
        self.publishes = Durations()  # of a message, from when it was read to its outcomes
        self._keeping = threading.Lock()
        self._forgotten = 0  # times
        self._news = asyncio.Event()
        self._this_look: asyncio.Future[None] | None = None
        self._next_look: asyncio.Future[None] | None = None
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self.league = League()
        self.reload()
        self.writer = Writer(storage, membership, self, config.allowed, clock, threads=os.cpu_count() or 1)
        self._stamp = storage.stamp()

    # The state.

    def reload(self) -> None:
        """Takes over the membership that is stored."""
        for _ in range(_RELOADS):
            self.league = members.load(self._storage, self._statements.registries(), self.league)
            if self.league.position is not None or not self.league.version:
                break
            # Another process was quicker; or the registry has other addresses since it was started.
            self._statements.catch_up(self._storage)
        self._passes.replace_league(self.league)

    def owner(self, sender: Prefix) -> VerifiedOrganization:
        """Raises NotAuthenticated, Suspended. Called from the writer's threads."""
        standing = self.league.standing(sender)
        refuse_suspended(standing.member)
        return standing.organization

    def changed(self, keys: Collection[str], *, members: bool) -> None:
        """Something was committed here. Called from the writer's thread, before anybody is answered."""
        if members:
            self.reload()
        # The loop runs this before it hears of any answer: nobody who got one is told an older version.
        self._loop.call_soon_threadsafe(self._forget, keys)

    def _forget(self, keys: Collection[str]) -> None:
        with self._keeping:
            self._forgotten += 1
            self._answers.forget(keys)
        self._tell()

    async def look(self) -> None:
        """Notices what other processes committed: those that serve beside this one, and the operator's commands."""
        if await asyncio.to_thread(self._changed_elsewhere):
            with self._keeping:
                self._forgotten += 1
                self._answers.forget_all()
            self._tell()

    def _changed_elsewhere(self) -> bool:
        stamp = self._storage.stamp()
        if stamp == self._stamp:
            return False
        self.look_at_members()
        self._stamp = stamp  # last: who looks meanwhile, or after this has failed, must not think that it was done
        return True

    def look_at_members(self) -> bool:
        """Whether they are others than were known here. One small question to the database."""
        if self._storage.membership_version() == self.league.version:
            return False
        self.reload()
        return True

    async def look_again(self) -> bool:
        """Whether the members are others than when this was called. Whoever waits shares the next look."""
        before = self.league
        if self._next_look is None:
            self._next_look = asyncio.ensure_future(self._look_after(self._this_look))
        await asyncio.shield(self._next_look)
        return self.league is not before

    async def _look_after(self, last: "asyncio.Future[None] | None") -> None:
        # One that began before the call may have missed what the call is about.
        if last is not None:
            await asyncio.wait([last])
        self._this_look, self._next_look = self._next_look, None
        await self.log.read(self.look_at_members)

    def _tell(self) -> None:
        self.log.tell()
        self._news.set()
        self._news = asyncio.Event()

    async def drain(self) -> None:
        """Ends the watching streams; what runs goes on to its end."""
        self._ended = True
        self._tell()

    async def close(self) -> None:
        """Stores what was submitted. After that nothing may be called."""
        await asyncio.to_thread(self.writer.close)
        self.log.close()

    @property
    def distant(self) -> bool:
        """Whether reading waits for a network."""
        return self._storage.distant

    def kept(self, request: bytes) -> bytes | None:
        """What ``resolve`` answers, if all of it is remembered."""
        message = wire.parse(registry_pb2.ResolveRequest, request)
        if message.prove or not 0 < len(message.ids) <= limits.BATCH:
            return None
        keys = [_key(text) for text in message.ids]
        answers = [_INVALID if key is None else self._answers.get(key) for key in keys]
        if None in answers or sum(map(len, answers)) > _ANSWER_BYTES:  # type: ignore[arg-type]
            return None
        return b"".join(answers) + (self._owners(keys) if message.with_organization else b"")  # type: ignore[arg-type]

    # Anybody's.

    def get_authority(self, request: bytes) -> bytes:
        wire.parse(registry_pb2.GetAuthorityRequest, request)
        return framing.field(1, self._authority)

    async def join(self, request: bytes) -> bytes:
        message = wire.parse(registry_pb2.JoinRequest, request)
        organization = wire.envelope_from_message(message.organization)
        certificate = await asyncio.to_thread(self._membership.join, message.secret, organization, message.csr)
        await self.look()
        return framing.field(1, certificate)

    async def renew(self, request: bytes) -> bytes:
        renewal = wire.envelope_from_message(wire.parse(registry_pb2.RenewRequest, request).renewal)
        await self.look()  # by the newest key
        certificate = await asyncio.to_thread(self._membership.renew, renewal, self.league)
        await self.look()
        return framing.field(1, certificate)

    async def continue_organization(self, request: bytes) -> bytes:
        message = wire.parse(registry_pb2.ContinueRequest, request)
        if len(message.organizations) > limits.CONTINUED:
            raise LimitExceeded(f"one call has at most {limits.CONTINUED} organization records")
        signed = wire.envelope_from_message(message.caller)
        organizations = [wire.envelope_from_message(each) for each in message.organizations]
        if any(each.payload_type != PayloadType.ORGANIZATION for each in organizations):
            raise InvalidInput("only organization records are taken here: publish the others")
        await self.look()  # by the newest key
        caller = await asyncio.to_thread(self._passes.successor, signed, organizations)
        if message.store:
            for outcome in await self._submit(caller.prefix, len(request), lambda: list(organizations)):
                _accepted(outcome)
        log = await self.log.read(lambda: self.log.shown(message.seen_size, until=message.until_size)[1])
        return framing.field(1, log)

    # Members'.

    def get_membership(self, request: bytes) -> bytes:
        message = wire.parse(registry_pb2.GetMembershipRequest, request)
        self.look_at_members()  # another process may have told the caller of a newer version
        league = self.league
        answer = framing.field(1, wire.encode_envelope(self._statements.current(league)))
        if message.known_members_sha256 != league.members_sha256:
            answer += framing.field(2, league.members)
        if not message.with_checkpoint:
            return answer
        size, log = self.log.shown(message.seen_size, league.position or 0)
        answer += framing.field(3, log)
        if league.position is not None:
            answer += framing.field(4, self.log.inclusion(league.position, size))
        return answer

    def get_checkpoint(self, request: bytes) -> bytes:
        message = wire.parse(registry_pb2.GetCheckpointRequest, request)
        return framing.field(1, self.log.shown(message.seen_size, until=message.until_size)[1])

    def get_organization(self, request: bytes) -> bytes:
        message = wire.parse(registry_pb2.GetOrganizationRequest, request)
        prefix = Prefix.parse(message.prefix)
        if prefix not in self.league.standings and not (self.look_at_members() and prefix in self.league.standings):
            raise NotFound(f"{prefix} is not a member of this league")
        answer: list[bytes] = []
        size = 0
        for each in self._storage.organizations(prefix, min(message.after_version, _MOST)):
            size += len(each.envelope)
            if size > limits.MESSAGE_BYTES - limits.KIB and answer:
                break  # the caller asks again, after the last of these
            answer.append(framing.field(1, each.envelope))
        return b"".join(answer)

    def resolve(self, request: bytes) -> bytes:
        message = wire.parse(registry_pb2.ResolveRequest, request)
        ids = message.ids
        count = len(ids)
        if message.prove:
            return self._proved(ids, message.with_organization, message.seen_size)
        if count == 1:
            key = _key(ids[0])
            kept = _INVALID if key is None else self._answers.get(key)
            answer = kept or self._look_up((key or "",)).get(key or "") or self._absent(key or "")
            return answer + self._owners((key,)) if message.with_organization else answer
        if count > limits.BATCH:
            raise LimitExceeded(f"one call resolves at most {limits.BATCH} identifiers")
        keys = [_key(text) for text in ids]
        get = self._answers.get
        answers: list[bytes | None] = [_INVALID if key is None else get(key) for key in keys]
        missing = [key for key, answer in zip(keys, answers, strict=True) if answer is None and key is not None]
        if missing:
            found = self._look_up(missing)
            for place, key in enumerate(keys):
                if answers[place] is None and key is not None:
                    answers[place] = found.get(key) or self._absent(key)
        if message.with_organization:
            answers.append(self._owners(keys))
        if sum(map(len, answers)) > _ANSWER_BYTES:  # type: ignore[arg-type]  # none is missing now
            answers = self._beginning(keys, answers, message.with_organization)
        return b"".join(answers)  # type: ignore[arg-type]

    def _proved(self, ids: Sequence[str], with_organization: bool, seen: int) -> bytes:
        """The same, with the way from each to one checkpoint. What is answered is in it: it is made afterwards."""
        if len(ids) > limits.PROOFS:
            raise LimitExceeded(f"one call proves at most {limits.PROOFS} identifiers")
        keys = [_key(text) for text in ids]
        found = self._storage.located([key for key in keys if key is not None])
        prefixes = dict.fromkeys(key.partition("/")[0] for key in keys if key is not None and with_organization)
        owners = {prefix: self._storage.located_organization(Prefix(prefix)) for prefix in prefixes}
        places = [each[-1] for each in (*found.values(), *owners.values()) if each is not None]
        size, log = self.log.shown(seen, max(places, default=0))
        answer, length = [framing.field(3, log)], 0
        answered = set[str]()
        for key in keys:
            if key is None or key not in found:
                part = _INVALID if key is None else self._absent(key)
            else:
                withdrawn, envelope, position = found[key]
                part = framing.resolution(envelope, withdrawn, self.log.inclusion(position, size))
            prefix = "" if key is None else key.partition("/")[0]
            owner = None if prefix in answered else owners.get(prefix)
            if owner is not None:
                part += framing.field(2, owner[0]) + framing.field(4, self.log.inclusion(owner[1], size))
                answered.add(prefix)
            length += len(part)
            if length > _ANSWER_BYTES and len(answer) > 1:
                break  # the caller asks again for the rest
            answer.append(part)
        return b"".join(answer)

    def _beginning(
        self, keys: Sequence[str | None], answers: Sequence[bytes | None], with_organization: bool
    ) -> list[bytes | None]:
        """As many of the answers as fit a message, with their owners: the caller asks again for the rest."""
        size, owners = 0, dict[str, bytes]()
        for count, key in enumerate(keys):
            prefix = "" if key is None else key.partition("/")[0]
            if with_organization and prefix not in owners:
                owners[prefix] = self._owners((key,))
                size += len(owners[prefix])
            size += len(answers[count] or b"")
            if size > _ANSWER_BYTES:
                return [*answers[: count + 1], *owners.values()]
        return [*answers[: len(keys)], *owners.values()]

    def _look_up(self, keys: Sequence[str]) -> dict[str, bytes]:
        forgotten = self._forgotten
        found = {
            key: framing.resolution(envelope, withdrawn)
            for key, (withdrawn, envelope) in self._storage.resolve(keys).items()
        }
        with self._keeping:
            if forgotten == self._forgotten:  # else it may be older than what was acknowledged meanwhile
                for key, answer in found.items():
                    self._answers.keep(key, answer)
        return found

    def _absent(self, key: str) -> bytes:
        if key.startswith(self._root):
            return _UNKNOWN
        labels = key.partition("/")[0].split(".")
        for count in range(len(labels), 0, -1):
            referral = self._referrals.get(".".join(labels[:count]))
            if referral is not None:
                return referral
        return b"\x0a\x02\x08\x04"

    def _owners(self, keys: "tuple[str | None, ...] | list[str | None]") -> bytes:
        prefixes = dict.fromkeys(key.partition("/")[0] for key in keys if key is not None)
        standings = self.league.standings
        found = (standings.get(Prefix(prefix)) for prefix in prefixes)
        return b"".join(framing.field(2, standing.framed) for standing in found if standing is not None)

    async def search(self, request: bytes) -> bytes:
        query = wire.query_from_message(wire.parse(registry_pb2.SearchRequest, request))
        question = index.ask(query)
        if query.page_token:
            page = index.read_page_token(query.page_token, question, self._page_secret)
        else:
            page = index.Page(await self.log.read(self._storage.last_position), 0)
        return await asyncio.to_thread(self._search, question, page, query.page_size)

    def _search(self, question: index.Question, page: index.Page, size: int) -> bytes:
        # The order is settled with the first page and kept for the others: the ranks of all texts shift a little
        # with every record that is added. After a restart it is found again, among the records of then.
        name = (question.fingerprint, page.as_of)
        ranking = self._rankings.get(name)
        if ranking is None:
            ranking = array.array("q", self._storage.find(question, page.as_of, limits.SEARCH_COUNT))
            self._rankings[name] = ranking
            while len(self._rankings) > _RANKINGS:
                self._rankings.popitem(last=False)
        end = page.offset
        answer: list[bytes] = []
        total = 0
        # A page is as long as asked for unless it would not fit in a message.
        while end < len(ranking) and len(answer) < size and total <= _SEARCH_BYTES:
            some = ranking[end : end + size - len(answer)]  # one question, unless some were withdrawn since
            envelopes = self._storage.records_at(some)
            for position in some:
                envelope = envelopes.get(position)
                if envelope is not None:
                    total += len(envelope) + 8
                    if total > _SEARCH_BYTES:
                        break
                    answer.append(framing.field(1, envelope))
                end += 1
        if end < len(ranking):
            token = index.page_token(index.Page(page.as_of, end), question, self._page_secret)
            answer.append(framing.field(2, token.encode()))
        if len(ranking):
            answer.append(b"\x18" + framing.varint(len(ranking)))
        return b"".join(answer)

    async def publish(self, requests: AsyncIterator[bytes], caller: Caller) -> AsyncIterator[bytes]:
        if self._publishing[caller.prefix] >= _PUBLISH_STREAMS_PER_MEMBER:
            raise Overloaded(
                f"{caller.prefix} publishes in {_PUBLISH_STREAMS_PER_MEMBER} streams at once already: end one first"
            )
        if self._publishing.total() >= _PUBLISH_STREAMS:
            raise Overloaded("too many organizations publish at once: try again later")
        self._publishing[caller.prefix] += 1
        waiting: asyncio.Queue[asyncio.Future[list[Outcome]] | Exception | None] = asyncio.Queue(_PUBLISH_AHEAD)

        async def read() -> None:
            try:
                async for request in requests:
                    self._passes.standing(caller)
                    # One of whom nothing waits is let in, however much others have sent.
                    while self._submitted.total() > _PUBLISH_BYTES and self._submitted[caller.prefix]:
                        await asyncio.sleep(0.01)  # the sender is not read meanwhile, and so has to wait
                    answer = self._submit(caller.prefix, len(request), partial(_envelopes, request))
                    await waiting.put(answer)
            except Exception as error:  # noqa: BLE001 — raised again by whoever answers
                await waiting.put(error)
            else:
                await waiting.put(None)

        reader = asyncio.ensure_future(read())
        try:
            while (each := await waiting.get()) is not None:
                if isinstance(each, Exception):
                    raise each
                yield _outcomes(await each)
            await reader
        finally:
            self._publishing[caller.prefix] -= 1
            if not self._publishing[caller.prefix]:
                del self._publishing[caller.prefix]
            reader.cancel()

    def _submit(
        self, sender: Prefix, size: int, envelopes: Callable[[], list[Envelope | Outcome]]
    ) -> asyncio.Future[list[Outcome]]:
        """Of a message of that size."""
        answer = asyncio.wrap_future(self.writer.submit(sender, envelopes))
        began = time.perf_counter()
        self._submitted[sender] += size
        self._messages += 1

        def answered(future: asyncio.Future[list[Outcome]]) -> None:
            self.publishes.add(time.perf_counter() - began)
            if not (future.cancelled() or future.exception()):
                self.outcomes.update(each.code for each in future.result())
            self._messages -= 1
            self._submitted[sender] -= size
            if not self._submitted[sender]:
                del self._submitted[sender]

        answer.add_done_callback(answered)
        return answer

    @property
    def waiting(self) -> tuple[int, int]:
        """Messages and bytes that were read and are not answered yet."""
        return self._messages, self._submitted.total()

    async def watch(self, request: bytes, caller: Caller) -> AsyncIterator[bytes]:
        message = wire.parse(registry_pb2.WatchRequest, request)
        after, certificates = min(message.after, _MOST), message.with_certificates
        while not self._ended:
            self._passes.standing(caller)
            news = self._news
            changes = await self.log.read(
                lambda after=after: self._storage.changes(
                    after, _WATCH_CHANGES, _WATCH_BYTES, certificates=certificates
                )
            )
            if changes:
                after = changes[-1].position
                yield b"".join(framing.change(each.position, each.content, each.is_certificate) for each in changes)
            else:
                try:
                    await asyncio.wait_for(news.wait(), _WATCH_LOOK)
                except TimeoutError:
                    continue


def _accepted(outcome: Outcome) -> None:
    """Raises what says that it was not."""
    match outcome.code:
        case Code.ACCEPTED:
            return
        case Code.REFUSED:
            raise InvalidInput(outcome.message)
        case Code.CONFLICT:
            raise Conflict(outcome.message)
        case Code.TRY_AGAIN:
            raise Overloaded(outcome.message)


def _envelopes(request: bytes) -> list[Envelope | Outcome]:
    return [_envelope(each) for each in wire.parse(registry_pb2.PublishRequest, request).envelopes]


def _envelope(message: envelope_pb2.Envelope) -> Envelope | Outcome:
    """One that is none does not sink its batch."""
    try:
        return wire.envelope_from_message(message)
    except InvalidInput as error:
        return Outcome(Envelope(message.payload_type, message.payload, ()).digest, Code.REFUSED, str(error))


def _outcomes(outcomes: list[Outcome]) -> bytes:
    return registry_pb2.PublishResponse(
        outcomes=[
            registry_pb2.PublishOutcome(
                digest=each.digest,
                code=each.code.value,  # type: ignore[arg-type]
                message=each.message,
                wait_seconds=each.wait,
                pause=each.pause,
            )
            for each in outcomes
        ]
    ).SerializeToString()
