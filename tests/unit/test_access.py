"""The consumer's side against a simulated owner that may lie: what is sent, believed, kept, chosen and passed on."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest

from hanse import limits, wire, wire_papers
from hanse.client import access, passing, standing
from hanse.client.resolve import Resolver
from hanse.errors import (
    BadSignature,
    GrantNeeded,
    HanseError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    NotPermitted,
    Revoked,
    Suspended,
    Unreachable,
    UsedUp,
    WrongContent,
)
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import papers
from hanse.evidence.storage.papers import RequestState
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.papers import AccessRequest, Denial, Grant, Revocation
from hanse.model.purposes import Purpose
from hanse.model.terms import Conditions, Duty, DutyKind, Operation, Party
from hanse.signing import SigningKey, sign
from tests.evidence import Member

TRIAL, OTHER = Identifier.parse("86.north/trial"), Identifier.parse("86.north/other")
HEALTH, DISEASE, MARKETING = Purpose("health-research"), Purpose("disease-specific-research"), Purpose("marketing")
Answering = Callable[[AccessRequest, Envelope], Envelope | None]


@dataclass
class Owner:
    """86.north's node, as far as access asks it; and the league's members. ``answering`` is what it says."""

    member: Member
    others: dict[Prefix, Member]
    answering: Answering | None = None
    asked: list[Envelope] = field(default_factory=list)
    shown: list[tuple[Sequence[Envelope], Sequence[Envelope]]] = field(default_factory=list)
    revoked: list[tuple[bytes, Envelope]] = field(default_factory=list)
    away: bool = False

    # A Resolver.

    def organization(self, prefix: Prefix, *, fresh: bool = False) -> Any:
        if prefix == self.member.prefix:
            return SimpleNamespace(record=self.member.record)
        if prefix not in self.others:
            raise NotFound(f"there is no organization {prefix}")
        return SimpleNamespace(record=self.others[prefix].record)

    def peer(self, prefix: Prefix) -> Self:
        assert prefix == self.member.prefix
        return self

    # A Peer.

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ask(self, request: Envelope) -> Envelope | None:
        self._here()
        self.asked.append(request)
        return self.answering(wire_papers.decode_request(request.payload), request) if self.answering else None

    def present(self, grants: Sequence[Envelope], revocations: Sequence[Envelope] = ()) -> None:
        self._here()
        self.shown.append((grants, revocations))

    def standing(self, digests: Sequence[bytes]) -> list[tuple[bytes, Envelope]]:
        self._here()
        return [each for each in self.revoked if each[0] in digests]

    def _here(self) -> None:
        if self.away:
            raise Unreachable("nobody answers")

    # What it signs.

    def grant(
        self, asked: AccessRequest, request: Envelope, *, key: SigningKey | None = None, **changes: Any
    ) -> Envelope:
        conditions = changes.pop("conditions", Conditions(asked.operations, asked.purposes))
        grant = Grant(
            secrets.token_bytes(16), self.member.prefix, asked.consumer, None, (asked.id,), conditions,
            request.digest, b"", int(time.time()),
        )  # fmt: skip
        return sign(
            PayloadType.GRANT, wire_papers.encode_grant(replace(grant, **changes)), key or self.member.signing_key
        )

    def giving(self, **changes: Any) -> Answering:
        return lambda asked, request: self.grant(asked, request, **changes)

    def revocation(self, digest: bytes, by: Member | None = None, issuer: Member | None = None) -> Envelope:
        signer = by or self.member
        paper = Revocation(digest, (issuer or signer).prefix, "over", int(time.time()))
        return sign(PayloadType.REVOCATION, wire_papers.encode_revocation(paper), signer.signing_key)


@dataclass
class Scene:
    owner: Owner
    evidence: Evidence
    acme: Member

    @property
    def resolver(self) -> Resolver:
        return cast(Resolver, self.owner)

    def request(self, *purposes: Purpose, **more: Any) -> access.Answer:
        return access.request(self.resolver, self.evidence, TRIAL, purposes or (HEALTH,), **more)

    def hold(self, **changes: Any) -> bytes:
        """A grant of the owner's, asked for and kept."""
        self.owner.answering = self.owner.giving(**changes)
        return self.request(message=secrets.token_hex(4)).grant

    def leaves(self, kind: str) -> int:
        with self.evidence.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM leaf WHERE kind = ?", (kind,)).fetchone()[0])

    def best(self, *purposes: Purpose) -> bytes:
        return access.best_grant(self.evidence, TRIAL, int(time.time()), purposes)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    north, acme, third = (Member.of(tmp_path, f"86.{name}") for name in ("north", "acme", "third"))
    owner = Owner(north, {each.prefix: each for each in (acme, third)})
    with acme.evidence() as evidence:
        yield Scene(owner, evidence, acme)


# Asking.


def test_a_request_is_kept_before_it_is_sent_and_is_the_same_when_it_is_sent_again(scene: Scene) -> None:
    scene.owner.away = True
    with pytest.raises(Unreachable):
        scene.request()
    assert scene.leaves("request") == 1
    scene.owner.away = False
    first = scene.request()
    again = access.poll(scene.resolver, scene.evidence, first.request)
    assert (first.state, again.state) == (RequestState.WAITING, RequestState.WAITING)
    assert {each.digest for each in scene.owner.asked} == {first.request}
    assert scene.leaves("request") == 1
    assert scene.request(MARKETING).request != first.request


def test_an_answer_is_kept_once_and_nobody_is_asked_again(scene: Scene) -> None:
    scene.owner.answering = scene.owner.giving()
    answer = scene.request()
    assert access.poll(scene.resolver, scene.evidence, answer.request) == answer
    assert (answer.state, len(scene.owner.asked), scene.leaves("grant")) == (RequestState.GRANTED, 1, 1)
    assert scene.best() == answer.grant


def test_a_denial_is_kept_with_its_reason(scene: Scene) -> None:
    def deny(_: AccessRequest, request: Envelope) -> Envelope:
        denial = Denial(request.digest, scene.owner.member.prefix, "not yet", int(time.time()))
        return sign(PayloadType.DENIAL, wire_papers.encode_denial(denial), scene.owner.member.signing_key)

    scene.owner.answering = deny
    answer = scene.request()
    assert (answer.state, answer.reason, scene.leaves("denial")) == (RequestState.DENIED, "not yet", 1)
    with pytest.raises(NotPermitted, match="not yet"):
        access.obtain(scene.resolver, scene.evidence, TRIAL, (HEALTH,))


def test_what_the_owner_does_not_take_is_not_asked_again(scene: Scene) -> None:
    def refuse(*_: object) -> Envelope:
        raise NotFound("no such object, or none for you")

    scene.owner.answering = refuse
    with pytest.raises(NotFound):
        scene.request()
    assert standing.refresh(scene.resolver, scene.evidence) == {}
    assert len(scene.owner.asked) == 1


def test_a_suspension_ends_no_request_that_waits(scene: Scene) -> None:
    first = scene.request()
    usual = scene.owner.answering

    def refuse(*_: object) -> Envelope:
        raise Suspended("86.acme is suspended")

    scene.owner.answering = refuse
    with pytest.raises(Suspended):
        access.poll(scene.resolver, scene.evidence, first.request)
    scene.owner.answering = usual
    assert access.poll(scene.resolver, scene.evidence, first.request).state is RequestState.WAITING


OTHERS_KEY = SigningKey.generate()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"to": Prefix("86.third")}, WrongContent),  # re-addressed
        ({"ids": (OTHER,)}, WrongContent),
        ({"parent": bytes(32)}, WrongContent),
        ({"to_key": OTHERS_KEY.public.key_id}, WrongContent),
        ({"key": OTHERS_KEY}, BadSignature),
        ({"issuer": Prefix("86.third")}, WrongContent),
        ({"issued_at": int(time.time()) + limits.DAY}, WrongContent),
        ({"conditions": Conditions(purposes=(MARKETING,))}, WrongContent),
        ({"conditions": Conditions(purposes=(HEALTH, MARKETING))}, WrongContent),
        ({"conditions": Conditions()}, WrongContent),  # any purpose
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_not_kept(
    scene: Scene, changes: dict[str, Any], error: type[HanseError]
) -> None:
    scene.owner.answering = scene.owner.giving(**changes)
    with pytest.raises(error):
        scene.request()
    assert (scene.leaves("grant"), scene.best()) == (0, b"")


def test_another_request_s_denial_is_no_answer(scene: Scene) -> None:
    denial = Denial(bytes(32), scene.owner.member.prefix, "no", int(time.time()))
    envelope = sign(PayloadType.DENIAL, wire_papers.encode_denial(denial), scene.owner.member.signing_key)
    scene.owner.answering = lambda *_: envelope
    with pytest.raises(WrongContent, match="denial of another"):
        scene.request()


def test_a_narrower_purpose_or_less_than_was_asked_is_an_answer(scene: Scene) -> None:
    given = Conditions((Operation.FETCH,), (DISEASE,), valid_until=int(time.time()) + 60, max_fetches=1)
    assert scene.hold(conditions=given)


@pytest.mark.parametrize(
    ("purposes", "more", "error"),
    [
        ((), {}, InvalidInput),
        ((HEALTH,), {"until": 1}, InvalidInput),
        ((HEALTH,), {"message": "\x00"}, InvalidInput),
    ],
)
def test_a_request_that_makes_no_sense_is_not_made(
    scene: Scene, purposes: tuple[Purpose, ...], more: dict[str, Any], error: type[HanseError]
) -> None:
    with pytest.raises(error):
        access.request(scene.resolver, scene.evidence, TRIAL, purposes, **more)
    with pytest.raises(InvalidInput, match="your own"):
        access.request(scene.resolver, scene.evidence, Identifier.parse("86.acme/mine"), (HEALTH,))
    assert scene.leaves("request") == 0


# Choosing.


def test_the_most_specific_grant_is_chosen_then_the_one_that_lasts(scene: Scene) -> None:
    now = int(time.time())
    both = scene.hold(ids=(TRIAL, OTHER))
    assert scene.best() == both
    short = scene.hold(conditions=Conditions(purposes=(HEALTH,), valid_until=now + 100))
    assert scene.best() == short
    long = scene.hold(conditions=Conditions(purposes=(HEALTH,), valid_until=now + 200))
    assert scene.best() == long
    assert scene.best(DISEASE) == long
    assert scene.best(MARKETING) == b""
    for_ever = scene.hold()
    assert scene.best() == for_ever


def test_what_is_over_revoked_or_used_up_is_not_chosen(scene: Scene) -> None:
    now = int(time.time())
    scene.hold(conditions=Conditions(purposes=(HEALTH,), valid_until=now - 1))
    assert scene.best() == b""
    counted = scene.hold(conditions=Conditions(purposes=(HEALTH,), max_fetches=2))
    assert scene.best() == counted
    standing.ended(scene.resolver, scene.evidence, counted, UsedUp("nothing is left"))
    assert scene.best() == b""
    ended = scene.hold()
    scene.owner.revoked.append((ended, scene.owner.revocation(ended)))
    standing.ended(scene.resolver, scene.evidence, ended, Revoked("revoked"))
    assert scene.best() == b""
    assert scene.leaves("revocation") == 1


def test_a_grant_for_another_key_of_ours_is_not_chosen(scene: Scene) -> None:
    scene.hold(to_key=scene.acme.signing_key.public.key_id)
    assert scene.best()
    scene.acme.previous_key, scene.acme.signing_key = scene.acme.signing_key, SigningKey.generate()
    assert scene.best() == b""


def test_waiting_goes_on_when_the_owner_says_yes_also_when_it_was_away(scene: Scene) -> None:
    told: list[access.Answer] = []
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        scene.owner.away = len(slept) == 2
        if len(slept) == 4:
            scene.owner.answering = scene.owner.giving()

    digest = access.obtain(
        scene.resolver, scene.evidence, TRIAL, (HEALTH,), wait=True, waiting=told.append, sleep=sleep
    )
    assert digest == scene.best()
    assert (len(told), slept) == (1, [access.POLL_SECONDS] * 4)


def test_who_does_not_wait_is_told_what_to_type(scene: Scene) -> None:
    with pytest.raises(GrantNeeded, match="--wait"):
        access.obtain(scene.resolver, scene.evidence, TRIAL, (HEALTH,))
    assert access.obtain(scene.resolver, scene.evidence, TRIAL) == b""  # it may be open all the same
    assert access.obtain(scene.resolver, scene.evidence, Identifier.parse("86.acme/mine"), (HEALTH,)) == b""


# Passing on.

DELETE = Duty(DutyKind.DELETE_AFTER, 100)
PASSABLE = Conditions(
    purposes=(HEALTH,),
    valid_until=int(time.time()) + limits.DAY,  # it is read when the tests are collected, long before they run
    max_fetches=5,
    max_bytes=100,
    duties=(DELETE,),
    pass_on=True,
)


def narrow(scene: Scene, digest: bytes, **changes: Any) -> tuple[papers.GrantRow, str]:
    return passing.narrow(scene.evidence, digest, Party.parse("86.third"), **changes)


def taken(scene: Scene, text: str, prefix: str = "86.third") -> papers.GrantRow:
    """As the other organization takes it."""
    with scene.owner.others[Prefix(prefix)].evidence() as evidence:
        return passing.take(scene.resolver, evidence, text)


def test_a_narrowed_grant_keeps_what_is_not_said_and_is_not_passed_on(scene: Scene) -> None:
    own = scene.hold(conditions=PASSABLE, ids=(TRIAL, OTHER))
    row, text = narrow(scene, own, ids=[TRIAL], max_fetches=1, purposes=[DISEASE])
    given = row.grant.conditions
    assert given == replace(PASSABLE, purposes=(DISEASE,), max_fetches=1, pass_on=False)
    assert (row.grant.ids, row.parent, scene.leaves("grant")) == ((TRIAL,), own, 2)
    found = taken(scene, text)
    assert (found.digest, found.root, found.holder) == (row.digest, own, Prefix("86.third"))
    assert taken(scene, text).digest == row.digest
    with scene.owner.others[Prefix("86.third")].evidence() as evidence:
        digest = access.obtain(scene.resolver, evidence, TRIAL)
        assert [each.digest for each in scene.owner.shown[-1][0]] == [own, row.digest]
        with pytest.raises(NotPermitted, match="did not allow you to pass"):
            passing.narrow(evidence, digest, Party.parse("86.acme"))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"until": PASSABLE.valid_until and PASSABLE.valid_until + 1}, "--until"),
        ({"max_fetches": 6}, "--max-fetches"),
        ({"max_bytes": 101}, "--max-bytes"),
        ({"purposes": [MARKETING]}, "--purpose"),
        ({"max_fetches": 6, "max_bytes": 101}, "--max-fetches, --max-bytes"),
        ({"ids": [OTHER]}, "objects of your own one"),
    ],
)
def test_a_narrowed_grant_never_widens(scene: Scene, changes: dict[str, Any], named: str) -> None:
    own = scene.hold(conditions=PASSABLE)
    with pytest.raises(InvalidInput, match=named):
        narrow(scene, own, **changes)
    assert scene.leaves("grant") == 1


def test_only_a_grant_that_holds_and_may_be_passed_on_is_narrowed(scene: Scene) -> None:
    with pytest.raises(NotFound):
        narrow(scene, bytes(32))
    with pytest.raises(NotPermitted, match="did not allow"):
        narrow(scene, scene.hold())
    with pytest.raises(NotPermitted, match="is over"):
        narrow(scene, scene.hold(conditions=replace(PASSABLE, valid_until=int(time.time()) - 1)))
    own = scene.hold(conditions=PASSABLE)
    standing.learn(scene.resolver, scene.evidence, own, scene.owner.revocation(own))
    with pytest.raises(Revoked):
        narrow(scene, own)


def test_a_grant_is_taken_by_whom_it_is_for_and_only_whole(scene: Scene) -> None:
    own = scene.hold(conditions=PASSABLE)
    row, text = narrow(scene, own)
    told = json.loads(text)

    def altered(grants: list[str]) -> str:
        return json.dumps(told | {"grants": grants})

    root, link = passing.from_text(text)
    with pytest.raises(NotPermitted, match=r"is for 86\.third, not for you"):
        taken(scene, text, "86.acme")
    whole: list[str] = told["grants"]
    for grants in (whole[1:], whole[::-1], whole[:1] * 2, []):
        with pytest.raises((WrongContent, NotPermitted)):
            taken(scene, altered(grants))
    forged = sign(PayloadType.GRANT, link.payload, OTHERS_KEY)
    with pytest.raises(BadSignature):
        taken(scene, passing.to_text([root, forged]))
    assert taken(scene, text).digest == row.digest


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "[" * 100_000, '{"kind": "hanse grant 1", "grants": [1]}', "\x00"]
)
def test_what_is_no_grant_is_not_taken(scene: Scene, text: str) -> None:
    with pytest.raises(InvalidInput, match="no grant to take"):
        passing.take(scene.resolver, scene.evidence, text)
    with pytest.raises(LimitExceeded):
        passing.take(scene.resolver, scene.evidence, " " * (limits.GRANT_FILE_BYTES + 1))


# How grants stand.


def test_a_revocation_is_learned_of_when_its_signer_may_end_the_grant(scene: Scene) -> None:
    own = scene.hold(conditions=PASSABLE)
    third = scene.owner.others[Prefix("86.third")]
    for wrong in (
        scene.owner.revocation(bytes(32)),
        scene.owner.revocation(own, by=third),
        scene.owner.revocation(own, by=third, issuer=scene.owner.member),
        replace(scene.owner.revocation(own), payload_type=PayloadType.DENIAL.value),
    ):
        with pytest.raises((BadSignature, WrongContent)):
            standing.learn(scene.resolver, scene.evidence, own, wrong)
    assert scene.best() == own
    scene.owner.revoked.append((own, scene.owner.revocation(own)))
    assert standing.refresh(scene.resolver, scene.evidence) == {}
    assert scene.best() == b""
    ((row, ended),) = standing.all_grants(scene.evidence)
    assert ended is not None
    assert ended.ended is not None
    assert (row.digest, ended.ended.reason) == (own, "over")


def test_an_owner_that_lies_or_is_away_is_named(scene: Scene) -> None:
    own = scene.hold()
    third = scene.owner.others[Prefix("86.third")]
    scene.owner.revoked.append((own, scene.owner.revocation(own, by=third, issuer=scene.owner.member)))
    assert "not signed by 86.north" in standing.refresh(scene.resolver, scene.evidence)[Prefix("86.north")]
    scene.owner.away = True
    assert standing.refresh(scene.resolver, scene.evidence) == {Prefix("86.north"): "nobody answers"}
    assert scene.best() == own


def test_what_was_narrowed_and_ended_is_told_to_the_owner_until_it_answered(scene: Scene) -> None:
    own = scene.hold(conditions=PASSABLE)
    row, _ = narrow(scene, own)
    paper = scene.owner.revocation(row.digest, by=scene.acme)
    scene.evidence.change(lambda change: papers.revoke(change.connection, row.digest, paper, change.now))
    scene.owner.away = True
    with pytest.raises(Unreachable):
        standing.tell(scene.resolver, scene.evidence, row.digest)
    scene.owner.away = False
    standing.refresh(scene.resolver, scene.evidence)
    shown, ended = scene.owner.shown[-1]
    assert [each.digest for each in shown] == [own, row.digest]
    assert [wire.encode_envelope(each) for each in ended] == [wire.encode_envelope(paper)]
    assert scene.best() == own


def test_a_grant_is_named_by_any_unique_beginning(scene: Scene) -> None:
    own = scene.hold()
    for digits in (own.hex(), own.hex()[:6], own.hex()[:7].upper()):
        assert standing.named(scene.evidence, digits).digest == own
    for wrong in ("", own.hex()[:5], "zzzzzz", own.hex() + "00", "../../"):
        with pytest.raises(InvalidInput):
            standing.named(scene.evidence, wrong)
    missing = ("0" if own.hex()[0] != "0" else "1") + own.hex()[1:]
    with pytest.raises(NotFound):
        standing.named(scene.evidence, missing)
