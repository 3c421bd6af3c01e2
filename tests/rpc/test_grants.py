"""Ask, Present and Standing as a stranger's program would call them: what is answered, refused, and kept."""

import contextlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from hanse import limits, papers, wire, wire_papers
from hanse.errors import (
    Conflict,
    GrantNeeded,
    InvalidInput,
    LimitExceeded,
    NotFound,
    NotPermitted,
    Revoked,
    UsedUp,
    Withdrawn,
)
from hanse.evidence.storage import papers as storage
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.papers import AccessRequest, Deletion, Denial, Grant, Revocation
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Duty, DutyKind, Operation, Party, Permission, Terms
from hanse.signing import sign
from hanse.v1 import node_pb2
from node.grants import Grants
from registry import app as registry_app
from tests.league import Registry, eventually
from tests.nodes import Caller, Node

HEALTH, DISEASE, OTHER = Purpose("health-research"), Purpose("disease-specific-research"), Purpose("marketing")
CONTENT = b"x" * 1000
BOTH = (Operation.DESCRIBE, Operation.FETCH)


def automatic(**conditions: Any) -> Terms:
    return Terms(permissions=(Permission((Party(Prefix("86.acme")),), Conditions(purposes=(HEALTH,), **conditions)),))


@dataclass
class Scene:
    registry: Registry
    north: Node
    acme: Node
    third: Node

    @property
    def grants(self) -> Grants:
        assert self.north.daemon is not None
        return self.north.daemon.grants

    def add(self, suffix: str, terms: Terms = Terms(), **more: Any) -> str:  # noqa: B008
        path = self.north.folder.parent / f"{suffix}.data"
        path.write_bytes(CONTENT)
        return str(self.north.add(path, suffix, terms, **more).id)

    def leaves(self, kind: str) -> int:
        assert self.north.daemon is not None
        with self.north.daemon.evidence.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM leaf WHERE kind = ?", (kind,)).fetchone()[0])

    def row(self, digest: bytes) -> storage.GrantRow:
        assert self.north.daemon is not None
        with self.north.daemon.evidence.reading() as connection:
            found = storage.grant(connection, digest)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """North serves; acme and third ask."""
    tmp = tmp_path_factory.mktemp("scene")
    with Registry.start(tmp / "registry") as registry, Node.start(registry, "86.north", tmp / "north") as north:
        acme, third = (Node.join(registry, f"86.{name}", tmp / name) for name in ("acme", "third"))
        yield Scene(registry, north, acme, third)


@pytest.fixture
def acme(scene: Scene) -> Iterator[Caller]:
    with Caller(scene.acme.identity, scene.north) as caller:
        yield caller


@pytest.fixture
def third(scene: Scene) -> Iterator[Caller]:
    with Caller(scene.third.identity, scene.north) as caller:
        yield caller


def made(node: Node, id: str, *purposes: Purpose, by: Node | None = None, **changes: Any) -> Envelope:
    """A request of that node's organization; ``by`` another one's key."""
    who = node.identity
    request = AccessRequest(
        secrets.token_bytes(16), who.prefix, Identifier.parse(id), BOTH, purposes, "", None, int(time.time())
    )
    key = (by or node).identity.signing_key
    return sign(PayloadType.REQUEST, wire_papers.encode_request(replace(request, **changes)), key)


def ask(caller: Caller, envelope: Envelope) -> Envelope | None:
    request = node_pb2.AskRequest(request=wire.envelope_to_message(envelope)).SerializeToString()
    (message,) = caller.messages("Ask", request)
    response = node_pb2.AskResponse.FromString(message)
    return wire.envelope_from_message(response.answer) if response.HasField("answer") else None


def granted(caller: Caller, envelope: Envelope) -> tuple[bytes, Grant]:
    answer = ask(caller, envelope)
    assert answer is not None
    assert answer.payload_type == PayloadType.GRANT
    return answer.digest, wire_papers.decode_grant(answer.payload)


def present(caller: Caller, *chain: Envelope, revocations: tuple[Envelope, ...] = ()) -> None:
    request = node_pb2.PresentRequest(
        grants=[wire.envelope_to_message(each) for each in chain],
        revocations=[wire.envelope_to_message(each) for each in revocations],
    )
    caller.messages("Present", request.SerializeToString())


def standing(caller: Caller, *digests: bytes) -> dict[bytes, Revocation]:
    (message,) = caller.messages("Standing", node_pb2.StandingRequest(grants=digests).SerializeToString())
    response = node_pb2.StandingResponse.FromString(message)
    return {each.grant: wire_papers.decode_revocation(each.revocation.payload) for each in response.revoked}


def fetch(caller: Caller, id: str, grant: bytes, delivery: bytes | None = None) -> bytes:
    request = node_pb2.FetchRequest(
        id=id,
        version=1,
        spans=[node_pb2.Span(element=0, elements=1)],
        grant=grant,
        delivery=secrets.token_bytes(16) if delivery is None else delivery,
    )
    messages = caller.messages("Fetch", request.SerializeToString())
    return b"".join(node_pb2.FetchResponse.FromString(each).data for each in messages)


# Asking.


def test_a_request_waits_and_the_same_one_again_is_the_same_question(scene: Scene, acme: Caller) -> None:
    request, before = made(scene.acme, scene.add("waits"), HEALTH), scene.leaves("request")
    assert ask(acme, request) is None
    assert ask(acme, request) is None
    (row,) = [each for each in scene.grants.requests() if each.digest == request.digest]
    assert (row.peer, row.request.purposes, scene.leaves("request")) == (Prefix("86.acme"), (HEALTH,), before + 1)

    given = scene.grants.approve(row.number)
    assert granted(acme, request)[0] == given.digest
    assert granted(acme, request)[0] == given.digest  # an answer that was lost
    with pytest.raises(Conflict, match="answered already"):
        scene.grants.approve(row.number)
    with pytest.raises(Conflict, match="answered already"):
        scene.grants.deny(row.number, "no")


def test_a_grant_is_its_owners_for_what_was_asked(scene: Scene, acme: Caller) -> None:
    id, until = scene.add("given"), int(time.time()) + 1000
    request = made(scene.acme, id, HEALTH, valid_until=until + 1000)
    ask(acme, request)
    number = next(each.number for each in scene.grants.requests() if each.digest == request.digest)
    scene.grants.approve(number, until=until, max_fetches=2, max_bytes=10_000)
    answer = ask(acme, request)
    assert answer is not None
    owner = scene.north.daemon.resolver.organization(Prefix("86.north")).record  # type: ignore[union-attr]
    grant = papers.verify_grant(answer, owner, now=int(time.time()))
    assert (grant.issuer, grant.to, grant.ids) == (Prefix("86.north"), Prefix("86.acme"), (Identifier.parse(id),))
    assert (grant.request, grant.parent) == (request.digest, b"")
    given = grant.conditions
    assert (given.purposes, given.valid_until, given.max_fetches, given.max_bytes) == ((HEALTH,), until, 2, 10_000)
    assert fetch(acme, id, answer.digest) == CONTENT


def test_a_yes_of_a_person_keeps_the_duties_of_the_terms_and_ends_no_later_than_asked(
    scene: Scene, acme: Caller
) -> None:
    duty = Duty(DutyKind.DELETE_AFTER, 60)
    needs_a_person = Permission((), Conditions(purposes=(HEALTH,), duties=(duty,), max_fetches=7), automatic=False)
    until = int(time.time()) + 1000
    id = scene.add("duties", Terms(permissions=(needs_a_person,)))
    within, beyond = made(scene.acme, id, DISEASE, valid_until=until), made(scene.acme, id, OTHER)
    assert ask(acme, within) is None
    assert ask(acme, beyond) is None
    numbers = {row.digest: row.number for row in scene.grants.requests()}
    given = scene.grants.approve(numbers[within.digest], until=until + 5).grant.conditions
    assert (given.duties, given.max_fetches, given.valid_until, given.purposes) == ((duty,), 7, until, (DISEASE,))
    assert scene.grants.approve(numbers[beyond.digest]).grant.conditions.duties == (duty,)


def test_a_denial_says_why(scene: Scene, acme: Caller) -> None:
    request = made(scene.acme, scene.add("denied"), OTHER)
    ask(acme, request)
    number = next(each.number for each in scene.grants.requests() if each.digest == request.digest)
    scene.grants.deny(number, "not for this")
    answer = ask(acme, request)
    assert answer is not None
    denial: Denial = wire_papers.decode_denial(answer.payload)
    assert (answer.payload_type, denial.reason, denial.request) == (
        PayloadType.DENIAL, "not for this", request.digest,
    )  # fmt: skip


def test_to_who_may_not_know_of_an_object_it_does_not_exist(scene: Scene, third: Caller) -> None:
    scene.add("hidden", automatic(), unlisted=True)
    told = []
    for id in ("86.north/hidden", "86.north/never-was", "86.south/elsewhere"):
        with pytest.raises(NotFound) as refused:
            ask(third, made(scene.third, id, HEALTH))
        told.append(str(refused.value).replace(id, "ID"))
    assert len(set(told)) == 1
    refusals = [row.decided for row in scene.north.audit() if row.decided.operation == "ask"]
    assert {(each.peer, each.object, each.allowed) for each in refusals} >= {("86.third", "86.north/hidden", False)}
    with pytest.raises(NotFound) as refused:
        third.describe("86.north/hidden")
    assert str(refused.value).replace("86.north/hidden", "ID") == told[0]


def test_an_unlisted_object_can_be_asked_for_by_those_whom_its_terms_name(scene: Scene, acme: Caller) -> None:
    assert granted(acme, made(scene.acme, scene.add("shy", automatic(), unlisted=True), HEALTH))


@pytest.mark.parametrize("case", ["another's name", "another's key", "another's request", "altered", "future", "grant"])
def test_a_request_that_is_not_the_callers_own_is_refused(scene: Scene, acme: Caller, case: str) -> None:
    id = scene.add(f"own-{case.replace(' ', '').replace(chr(39), '')}")
    envelope = {
        "another's name": lambda: made(scene.acme, id, HEALTH, consumer=Prefix("86.third")),
        "another's key": lambda: made(scene.acme, id, HEALTH, by=scene.third),
        "another's request": lambda: made(scene.third, id, HEALTH),
        "altered": lambda: replace(made(scene.acme, id, HEALTH), payload=made(scene.acme, id, OTHER).payload),
        "future": lambda: made(scene.acme, id, HEALTH, issued_at=int(time.time()) + limits.CLOCK_SKEW + 60),
        "grant": lambda: replace(made(scene.acme, id, HEALTH), payload_type=PayloadType.GRANT.value),
    }[case]()
    before = scene.leaves("request")
    with pytest.raises(NotPermitted, match="cannot be believed"):
        ask(acme, envelope)
    assert scene.leaves("request") == before


@pytest.mark.parametrize(("id", "error"), [("86.north/ended", Withdrawn), ("86.north/computed", NotPermitted)])
def test_what_cannot_be_given_cannot_be_asked_for(scene: Scene, acme: Caller, id: str, error: type[Exception]) -> None:
    scene.add(id.partition("/")[2], Terms(AccessMode.COMPUTE_ONLY) if "computed" in id else Terms())
    if "ended" in id:
        with scene.north.catalog() as catalog:
            catalog.withdraw("ended", "")
    with pytest.raises(error):
        ask(acme, made(scene.acme, id, HEALTH))
    if "computed" in id:
        assert ask(acme, made(scene.acme, id, HEALTH, operations=(Operation.DESCRIBE,))) is None


def test_an_owner_needs_no_grant_of_its_own(scene: Scene) -> None:
    with Caller(scene.north.identity, scene.north) as north, pytest.raises(InvalidInput, match="is your own"):
        ask(north, made(scene.north, scene.add("mine"), HEALTH))


def test_a_member_has_so_many_requests_waiting_and_no_more(
    scene: Scene, third: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = scene.add("many")
    monkeypatch.setattr(limits, "REQUESTS_WAITING", 3)
    waiting = [made(scene.third, id, HEALTH) for _ in range(3)]
    for each in waiting:
        assert ask(third, each) is None
    with pytest.raises(LimitExceeded, match="3 requests waiting"):
        ask(third, made(scene.third, id, HEALTH))
    assert ask(third, waiting[0]) is None  # that it waits can still be asked
    for row in scene.grants.requests():
        if row.peer == Prefix("86.third"):
            scene.grants.deny(row.number, "")
    assert ask(third, made(scene.third, id, HEALTH)) is None


@pytest.mark.parametrize("data", [b"", b"\xff\xff", b"\x0a\x02\x08\x01"])
@pytest.mark.parametrize("method", ["Ask", "Present", "Standing"])
def test_bytes_that_are_no_question_get_an_error_or_an_empty_answer(acme: Caller, method: str, data: bytes) -> None:
    with contextlib.suppress(InvalidInput, NotPermitted):
        assert acme.messages(method, data) == [b""]


# Automatic answers.


def test_what_the_terms_decide_is_granted_at_once_and_each_paper_is_in_the_log(scene: Scene, acme: Caller) -> None:
    id = scene.add("automatic", automatic(max_fetches=5))
    before = scene.leaves("request"), scene.leaves("grant")
    digest, grant = granted(acme, made(scene.acme, id, DISEASE))
    assert (scene.leaves("request"), scene.leaves("grant")) == (before[0] + 1, before[1] + 1)
    assert (grant.conditions.purposes, grant.conditions.max_fetches) == ((DISEASE,), 5)
    assert fetch(acme, id, digest) == CONTENT
    assert ask(acme, made(scene.acme, id, OTHER)) is None  # a person decides


def test_asking_again_does_not_begin_a_count_again(scene: Scene, acme: Caller) -> None:
    id = scene.add("counted", automatic(max_fetches=1))
    first, _ = granted(acme, made(scene.acme, id, HEALTH))
    assert granted(acme, made(scene.acme, id, HEALTH))[0] == first
    assert ask(acme, made(scene.acme, id, DISEASE)) is None  # nor for another purpose
    assert fetch(acme, id, first) == CONTENT
    with pytest.raises(UsedUp):
        fetch(acme, id, first)
    assert ask(acme, made(scene.acme, id, HEALTH)) is None


def test_so_many_grants_a_day_are_automatic_and_then_a_person_decides(
    scene: Scene, acme: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GRANTS_A_DAY", 3)
    id = scene.add("often", automatic())
    answers = [ask(acme, made(scene.acme, id, HEALTH)) for _ in range(5)]
    assert [answer is not None for answer in answers] == [True] * 3 + [False] * 2


def test_after_a_revocation_nothing_is_automatic_any_more(scene: Scene, acme: Caller) -> None:
    id = scene.add("ended-once", automatic())
    digest, _ = granted(acme, made(scene.acme, id, HEALTH))
    scene.grants.revoke(digest)
    assert ask(acme, made(scene.acme, id, HEALTH)) is None


def test_terms_that_name_a_key_give_a_grant_that_is_bound_to_it(scene: Scene, acme: Caller) -> None:
    key = scene.acme.identity.signing_key.public.key_id
    parties = (Party(Prefix("86.acme"), key),)
    id = scene.add("keyed", Terms(permissions=(Permission(parties, Conditions(purposes=(HEALTH,))),)))
    assert granted(acme, made(scene.acme, id, HEALTH))[1].to_key == key


# Holding and ending.


def test_a_grant_serves_its_holder_for_its_objects_and_nobody_else(scene: Scene, acme: Caller, third: Caller) -> None:
    id, another = scene.add("held", automatic()), scene.add("not-held", automatic())
    digest, _ = granted(acme, made(scene.acme, id, HEALTH))
    with pytest.raises(GrantNeeded):
        fetch(acme, id, b"")
    with pytest.raises(NotPermitted):
        fetch(acme, another, digest)
    with pytest.raises(NotPermitted):
        fetch(third, id, digest)
    with pytest.raises(NotPermitted):
        fetch(acme, id, bytes(32))


def test_a_revocation_ends_a_grant_at_the_next_call(scene: Scene, acme: Caller) -> None:
    id = scene.add("revoked", automatic())
    digest, _ = granted(acme, made(scene.acme, id, HEALTH))
    before = scene.leaves("revocation")
    revocation = scene.grants.revoke(digest, "the trial is over")
    with pytest.raises(Revoked):
        acme.describe(id, grant=digest)
    with pytest.raises(Revoked):
        fetch(acme, id, digest)
    assert scene.grants.revoke(digest, "again").digest == revocation.digest
    assert scene.leaves("revocation") == before + 1


def test_a_revoked_grant_tells_nothing_of_objects_that_it_was_not_for(scene: Scene, acme: Caller) -> None:
    digest, _ = granted(acme, made(scene.acme, scene.add("ended-for-acme", automatic()), HEALTH))
    scene.grants.revoke(digest)
    hidden = scene.add("not-for-acme", Terms(), unlisted=True)
    told = []
    for id in (hidden, "86.north/not-there-at-all"):
        with pytest.raises(NotFound) as refused:
            acme.describe(id, grant=digest)
        told.append(str(refused.value).replace(id, "ID"))
    assert told[0] == told[1]


def test_only_who_made_a_grant_can_revoke_it(scene: Scene) -> None:
    with pytest.raises(NotFound):
        scene.grants.revoke(bytes(32))


def test_standing_is_told_to_who_holds_a_grant_or_made_it(scene: Scene, acme: Caller, third: Caller) -> None:
    id = scene.add("standing", automatic(pass_on=True))
    digest, parent = granted(acme, made(scene.acme, id, HEALTH))
    root = scene.row(digest).envelope
    link = narrowed(scene.acme, scene.third, root, parent)
    present(third, root, link)
    assert standing(acme, digest, bytes(32)) == {}
    scene.grants.revoke(digest, "over")
    assert standing(acme, digest, link.digest).keys() == {digest, link.digest}
    assert standing(third, digest, link.digest).keys() == {link.digest}
    assert standing(third, link.digest)[link.digest].grant == digest
    with Caller(scene.north.identity, scene.north) as north:
        assert standing(north, digest).keys() == {digest}


def test_an_answer_about_many_revoked_grants_is_no_larger_than_a_message(scene: Scene, acme: Caller) -> None:
    id = scene.add("large-answer", automatic())
    digest, _ = granted(acme, made(scene.acme, id, HEALTH))
    scene.grants.revoke(digest, "over " * 800)
    assert standing(acme, *[digest] * limits.BATCH).keys() == {digest}
    request = node_pb2.StandingRequest(grants=[digest] * limits.BATCH).SerializeToString()
    (message,) = acme.messages("Standing", request)
    assert len(node_pb2.StandingResponse.FromString(message).revoked) == 1


# Narrowed grants.


def narrowed(
    issuer: Node, to: Node, parent: Envelope, above: Grant, *, by: Node | None = None, **changes: Any
) -> Envelope:
    """A grant of ``above``; ``by`` another one's key."""
    conditions = replace(above.conditions, pass_on=False)
    grant = Grant(
        secrets.token_bytes(16), issuer.identity.prefix, to.identity.prefix, None, above.ids, conditions, b"",
        parent.digest, int(time.time()),
    )  # fmt: skip
    key = (by or issuer).identity.signing_key
    return sign(PayloadType.GRANT, wire_papers.encode_grant(replace(grant, **changes)), key)


@pytest.fixture
def passable(scene: Scene, acme: Caller) -> tuple[str, Envelope, Grant]:
    """An object, and acme's grant for it, which it may pass on: at most 2 fetches."""
    id = scene.add(f"passable-{secrets.token_hex(4)}", automatic(pass_on=True, max_fetches=2))
    digest, grant = granted(acme, made(scene.acme, id, HEALTH))
    return id, scene.row(digest).envelope, grant


def test_a_narrowed_grant_counts_up_the_chain_and_ends_with_what_is_above(
    scene: Scene, acme: Caller, third: Caller, passable: tuple[str, Envelope, Grant]
) -> None:
    id, root, grant = passable
    link = narrowed(scene.acme, scene.third, root, grant)
    with pytest.raises(NotPermitted):
        fetch(third, id, link.digest)  # not shown yet
    present(third, root, link)
    present(third, root, link)  # twice does no harm
    assert fetch(third, id, link.digest) == CONTENT
    assert (scene.row(root.digest).fetches, scene.row(link.digest).fetches) == (1, 1)
    assert fetch(acme, id, root.digest) == CONTENT
    with pytest.raises(UsedUp):
        fetch(third, id, link.digest)  # its own count is 1 of 2, but nothing is left above
    scene.grants.revoke(root.digest)
    with pytest.raises(Revoked):
        fetch(third, id, link.digest)
    with pytest.raises(Revoked):
        present(third, root, link)


def test_what_a_suspended_member_narrowed_serves_nobody_while_it_is_suspended(
    scene: Scene, third: Caller, passable: tuple[str, Envelope, Grant]
) -> None:
    id, root, grant = passable
    link = narrowed(scene.acme, scene.third, root, grant)
    present(third, root, link)
    assert third.describe(id, grant=link.digest)
    registry_app.suspend(scene.registry.folder, Prefix("86.acme"), "")
    try:
        eventually(lambda: isinstance(refusal(third, id, link.digest), NotPermitted))
        assert "86.acme" in str(refusal(third, id, link.digest))
    finally:
        registry_app.restore(scene.registry.folder, Prefix("86.acme"))
    eventually(lambda: refusal(third, id, link.digest) is None)


def refusal(caller: Caller, id: str, grant: bytes) -> NotPermitted | None:
    try:
        caller.describe(id, grant=grant, no_pages=True)
    except NotPermitted as error:
        return error
    return None


def test_what_was_narrowed_from_a_grant_that_is_bound_to_a_key_ends_with_that_key(
    scene: Scene, acme: Caller, third: Caller
) -> None:
    own = scene.acme.identity.signing_key.public.key_id
    terms = Terms(
        permissions=(Permission((Party(Prefix("86.acme"), own),), Conditions(purposes=(HEALTH,), pass_on=True)),)
    )
    id = scene.add("bound-above", terms)
    digest, grant = granted(acme, made(scene.acme, id, HEALTH))
    root = scene.row(digest).envelope
    link = narrowed(scene.acme, scene.third, root, grant)
    present(third, root, link)
    assert refusal(third, id, link.digest) is None
    assert scene.north.daemon is not None
    members = scene.north.daemon.members
    members.check_holders([grant])
    with pytest.raises(NotPermitted, match="earlier key"):
        members.check_holders([replace(grant, to_key=scene.third.identity.signing_key.public.key_id)])


def test_a_chain_that_does_not_hold_is_not_taken(
    scene: Scene, acme: Caller, third: Caller, passable: tuple[str, Envelope, Grant]
) -> None:
    _, root, grant = passable
    link = narrowed(scene.acme, scene.third, root, grant)
    other_digest, other = granted(acme, made(scene.acme, scene.add("spliced", automatic(pass_on=True)), HEALTH))
    other_root = scene.row(other_digest).envelope
    wider = narrowed(scene.acme, scene.third, root, grant, conditions=replace(grant.conditions, max_fetches=3))
    forged = narrowed(scene.acme, scene.third, root, grant, by=scene.third)
    cases = {
        "to somebody else": (third, (root,)),
        "another's root": (third, (other_root, link)),
        "without its root": (third, (link,)),
        "wider": (third, (root, wider)),
        "signed by its holder": (third, (root, forged)),
        "an object more": (third, (root, narrowed(scene.acme, scene.third, root, grant, ids=(*grant.ids, *other.ids)))),
        "altered": (third, (root, replace(link, payload=wider.payload))),
        "of a root that was never made": (third, (made_up_root(scene, grant), link)),
    }
    before = scene.leaves("grant")
    taken = []
    for name, (caller, envelopes) in cases.items():
        with contextlib.suppress(NotPermitted):
            present(caller, *envelopes)
            taken.append(name)
    assert taken == []
    assert scene.leaves("grant") == before
    with pytest.raises(LimitExceeded):
        present(third, *[root] * 9)


def made_up_root(scene: Scene, grant: Grant) -> Envelope:
    return sign(PayloadType.GRANT, wire_papers.encode_grant(grant), scene.acme.identity.signing_key)


def test_so_many_grants_are_narrowed_from_one_and_no_more(
    scene: Scene, third: Caller, passable: tuple[str, Envelope, Grant], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, root, grant = passable
    monkeypatch.setattr(limits, "GRANTS_NARROWED", 1)
    present(third, root, narrowed(scene.acme, scene.third, root, grant))
    with pytest.raises(LimitExceeded, match="at most 1"):
        present(third, root, narrowed(scene.acme, scene.third, root, grant))


def test_who_narrowed_a_grant_ends_it_and_nobody_else_but_the_owner_can(
    scene: Scene, acme: Caller, third: Caller, passable: tuple[str, Envelope, Grant]
) -> None:
    id, root, grant = passable
    link = narrowed(scene.acme, scene.third, root, grant)
    present(third, root, link)

    def revocation(by: Node, issuer: Node, digest: bytes) -> Envelope:
        paper = Revocation(digest, issuer.identity.prefix, "enough", int(time.time()))
        return sign(PayloadType.REVOCATION, wire_papers.encode_revocation(paper), by.identity.signing_key)

    for caller, paper in (
        (third, revocation(scene.third, scene.third, link.digest)),
        (third, revocation(scene.third, scene.acme, link.digest)),
        (third, revocation(scene.acme, scene.acme, link.digest)),  # a true one, but not shown by who made it
        (acme, revocation(scene.acme, scene.acme, root.digest)),
    ):
        with pytest.raises(NotPermitted):
            present(caller, revocations=(paper,))
    assert fetch(third, id, link.digest) == CONTENT
    present(acme, revocations=(revocation(scene.acme, scene.acme, link.digest),))
    with pytest.raises(Revoked):
        fetch(third, id, link.digest)
    assert fetch(acme, id, root.digest) == CONTENT
    assert standing(acme, link.digest)[link.digest].reason == "enough"


def test_a_grant_that_was_ended_before_it_was_shown_cannot_be_shown_afterwards(
    scene: Scene, acme: Caller, third: Caller, passable: tuple[str, Envelope, Grant]
) -> None:
    id, root, grant = passable
    link = narrowed(scene.acme, scene.third, root, grant)
    paper = Revocation(link.digest, Prefix("86.acme"), "a mistake", int(time.time()))
    ended = sign(PayloadType.REVOCATION, wire_papers.encode_revocation(paper), scene.acme.identity.signing_key)
    with pytest.raises(NotPermitted, match="show it first"):
        present(acme, revocations=(ended,))
    for _ in range(2):  # an answer that was lost
        present(acme, root, link, revocations=(ended,))
    with pytest.raises(Revoked):
        present(third, root, link)
    with pytest.raises(Revoked):
        fetch(third, id, link.digest)
    assert fetch(acme, id, root.digest) == CONTENT


def deleted(scene: Scene, id: str, grant: bytes, **changes: Any) -> Envelope:
    deletion = Deletion(
        Prefix("86.north"), Prefix("86.acme"), Identifier.parse(id), 1, grant, "expired", int(time.time())
    )
    payload = wire_papers.encode_deletion(replace(deletion, **changes))
    return sign(PayloadType.DELETION, payload, scene.acme.identity.signing_key)


def settle(caller: Caller, *envelopes: Envelope) -> list[str]:
    request = node_pb2.SettleRequest(papers=[wire.envelope_to_message(each) for each in envelopes])
    (message,) = caller.messages("Settle", request.SerializeToString())
    return [each.refusal for each in node_pb2.SettleResponse.FromString(message).settled]


def test_deletions_are_of_grants_that_the_caller_holds_and_not_many_more_than_was_fetched(
    scene: Scene, acme: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DELETIONS_SPARE", 2)
    id = scene.add("deleted", automatic())
    digest, _ = granted(acme, made(scene.acme, id, HEALTH))
    assert fetch(acme, id, digest) == CONTENT
    before, now = scene.leaves("deletion"), int(time.time())
    assert (
        settle(acme, deleted(scene, id, bytes(32)), deleted(scene, "86.north/elsewhere", digest))
        == ["the deletion is of a grant that you do not hold for this object"] * 2
    )
    assert "out of range" in settle(acme, deleted(scene, id, digest, version=(1 << 64) - 1))[0]
    many = [deleted(scene, id, digest, deleted_at=now - number) for number in range(5)]
    told = settle(acme, *many)
    assert told[:3] == [""] * 3
    assert all("more copies" in each for each in told[3:])
    assert settle(acme, many[0]) == [""]  # again does no harm
    assert scene.leaves("deletion") == before + 3


def test_spans_of_one_delivery_count_as_one_fetch(scene: Scene, acme: Caller) -> None:
    id, delivery = scene.add("streams", automatic(max_fetches=1)), secrets.token_bytes(16)
    digest, _ = granted(acme, made(scene.acme, id, HEALTH))
    assert fetch(acme, id, digest, delivery) == CONTENT
    assert fetch(acme, id, digest, delivery) == CONTENT
    assert scene.row(digest).fetches == 1
