"""The owner's own policies: what is taken, what is refused and where, and what stays in force meanwhile."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hanse.errors import HomeUnusable, InvalidInput, LimitExceeded
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.terms import Operation, Terms
from node import own_policies
from node.cedar import CedarPolicy
from node.own_policies import OwnPolicies, parse, split
from node.policy import Asked, Caller, Policies

NORTH, ACME, EAST = Prefix("86.north"), Prefix("86.acme"), Prefix("86.east")
KEY = KeyId("0" * 32)
TRIAL = Identifier.of(NORTH, "Trial 7")
MONDAY_NOON = 1_795_435_200  # 2026-11-23T12:00:00Z
AGAINST_ACME = 'forbid (principal == Hanse::Organization::"86.acme", action, resource);'


def allowed(policies: Policies, caller: Prefix = ACME, now: int = MONDAY_NOON, unlisted: bool = False) -> bool:
    asked = Asked(Caller(caller, KEY), Operation.FETCH, TRIAL, now)
    return policies.decide(asked, Terms.opened(), owner=NORTH, unlisted=unlisted).allowed


def test_a_policy_of_the_owner_forbids_what_the_terms_permit_and_is_named() -> None:
    policies = Policies(parse("// not them\n\n" + AGAINST_ACME, "policies/partners.cedar"))
    asked = Asked(Caller(ACME, KEY), Operation.FETCH, TRIAL, MONDAY_NOON)
    decision = policies.decide(asked, Terms.opened(), owner=NORTH, unlisted=False)
    assert (decision.allowed, decision.visible) == (False, True)
    assert decision.policy == "policies/partners.cedar:3"
    assert decision.why == "forbidden by policies/partners.cedar:3"
    assert allowed(policies, EAST)


def test_whom_a_policy_forbids_an_unlisted_object_does_not_learn_of_it() -> None:
    asked = Asked(Caller(ACME, KEY), Operation.FETCH, TRIAL, MONDAY_NOON)
    named = Terms.allowing(["86.acme"])
    assert Policies().decide(asked, named, owner=NORTH, unlisted=True).visible
    assert not Policies(parse(AGAINST_ACME, "f")).decide(asked, named, owner=NORTH, unlisted=True).visible


def test_the_owner_itself_is_not_bound() -> None:
    assert allowed(Policies(parse("forbid (principal, action, resource);", "f")), NORTH)


def test_a_policy_can_keep_office_hours() -> None:
    text = """forbid (principal, action == Hanse::Action::"fetch", resource)
    unless { context.weekday <= 5 && context.second >= 28800 && context.second < 64800 };"""
    policies = Policies(parse(text, "f"))
    assert allowed(policies, now=MONDAY_NOON)
    assert not allowed(policies, now=MONDAY_NOON + 10 * 3600)
    assert not allowed(policies, now=MONDAY_NOON - 86_400)  # a Sunday


def test_a_policy_for_one_object_is_found_however_its_letters_are_written() -> None:
    policies = Policies(parse('forbid (principal, action, resource == Hanse::Object::"86.north/trial 7");', "f"))
    assert not allowed(policies)


def test_a_policy_that_fails_when_it_is_evaluated_denies_and_is_reported() -> None:
    told: list[str] = []
    text = "forbid (principal, action, resource) when { context.now * 9223372036854775807 > 3 };"
    policies = Policies(parse(text, "f"), told.append)
    asked = Asked(Caller(ACME, KEY), Operation.FETCH, TRIAL, MONDAY_NOON)
    decision = policies.decide(asked, Terms.opened(), owner=NORTH, unlisted=False)
    assert not decision.allowed
    assert decision.why == "the policies could not be evaluated"
    assert len(told) == 1
    assert "overflow" in told[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\nforbid (principal, action\n, resource when;", r"f:3: .* cannot be read: unexpected token `when`"),
        ("forbid (principal, action, resource)", r"f:1: .* cannot be read: unexpected end of input"),
        (f"{AGAINST_ACME}\n\npermit (principal, action, resource);", r"f:3: own policies forbid"),
        ("forbid (principal == ?principal, action, resource);", r"f:1: .* templates"),
        (
            "forbid (principal, action, resource) when { context.price > 3 };",
            r"f:1: .* schema is: attribute `price` in context",
        ),
        (
            "forbid (principal, action, resource) when { context.grant.fetches > 3 };",
            r"optional attribute `grant`",
        ),
        ('forbid (principal, action, resource) when { resource.owner like "x" };', r"expected String"),
        ('forbid (principal == Hanse::Object::"86.north/x", action, resource);', r"f:1: .* scope"),
        ('forbid (principal == Hanse::Organization::"86.ACME", action, resource);', r"write .*'86\.acme'"),
        ('forbid (principal == Hanse::Organization::"acme inc", action, resource);', r"f:1: .* is not a prefix"),
        ('forbid (principal, action, resource == Hanse::Object::"86.north/Trial 7");', r"write .*'86\.north/trial 7'"),
        (
            "forbid (principal, action, resource)\n"
            'when { [Hanse::Object::"86.north/a", Hanse::Object::"86.north/B"].contains(resource) };',
            r"write .*'86\.north/b'",
        ),
        ('forbid (principal == Organization::"86.acme", action, resource);', "Organization"),
        ('forbid (principal, action == Hanse::Action::"read", resource);', "f:1: .*read"),
    ],
)
def test_what_is_no_policy_of_the_schema_is_refused_with_file_and_line(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(text, "f")


BEGUN = "forbid (principal, action, resource) when { "


@pytest.mark.parametrize(
    "text",
    [
        BEGUN + "(" * 5000 + "true" + ")" * 5000 + " };",
        BEGUN + "(" * 20_000,
        BEGUN + "[" * 3000 + "]" * 3000 + " == 1 };",
        BEGUN + "{a:" * 2000 + "1" + "}" * 2000 + " == 1 };",
        BEGUN + "||".join(["true"] * 1300) + " };",
        BEGUN + "||".join(["true"] * 20_000) + " };",
        BEGUN + "+".join(["1"] * 4000) + " == 1 };",
        BEGUN + "context" + ".a" * 4000 + " == 1 };",
        BEGUN + "!" * 4000 + "true };",
        "forbid (principal, action, resource)" + " when { true }" * 20_000 + ";",
    ],
    ids=lambda text: text[44:56],
)
def test_what_would_use_up_the_stack_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"f:1|f, line 1"):
        parse(text, "f")


def test_what_is_long_but_sound_is_taken() -> None:
    named = ", ".join(f'Hanse::Organization::"86.member-{number}"' for number in range(150))
    assert len(parse(BEGUN + f"[{named}].contains(principal) }};", "f")) == 1


def test_policies_are_told_apart_whatever_stands_in_strings_and_comments() -> None:
    text = """// a; b "
    @id("one; \\" two") forbid (principal, action, resource); forbid // ;
      (principal, action, resource)
      when { context.key == "//;" };
    // the end;"""
    pieces = list(split(text))
    assert [line for line, _ in pieces] == [2, 2]
    assert [each.name for each in parse(text, "f")] == ["f:2", "f:2"]
    assert "".join(piece for _, piece in pieces).count("forbid") == 2


@pytest.mark.parametrize("text", ["", " \n ", "// nothing", "// nothing;\n"])
def test_a_file_may_hold_none(text: str) -> None:
    assert parse(text, "f") == []


# In a home.


class Home:
    def __init__(self, folder: Path) -> None:
        self.folder = folder / own_policies.FOLDER
        self.folder.mkdir()
        self.now = 4e9  # long after anything was written
        self.own = OwnPolicies(self.folder, lambda: self.now)
        self.taken: list[tuple[CedarPolicy, ...]] = []

    def look(self) -> list[str]:
        self.own.look(lambda policies: self.taken.append(tuple(policies)))
        return [each.name for each in self.taken[-1]] if self.taken else []


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_files_are_taken_by_name_and_anew_when_they_change(home: Home) -> None:
    (home.folder / "b.cedar").write_text(AGAINST_ACME)
    assert [each.name for each in home.own.start()] == ["policies/b.cedar:1"]
    home.look()
    assert home.taken == []  # nothing changed
    (home.folder / "a.cedar").write_text("\n" + AGAINST_ACME)
    (home.folder / "c.txt").write_text("no policy")
    assert home.look() == ["policies/a.cedar:2", "policies/b.cedar:1"]
    (home.folder / "b.cedar").unlink()
    assert home.look() == ["policies/a.cedar:2"]


def test_a_home_without_the_folder_has_none(tmp_path: Path) -> None:
    assert OwnPolicies(tmp_path / "policies").start() == ()


def test_while_a_file_is_wrong_those_before_stay_in_force(home: Home) -> None:
    (home.folder / "a.cedar").write_text(AGAINST_ACME)
    policies = Policies(home.own.start())
    (home.folder / "a.cedar").write_text("forbid (principal")
    home.own.look(policies.take)
    assert "policies/a.cedar:1" in home.own.problem
    assert not allowed(policies)
    (home.folder / "a.cedar").write_text("// for nobody")
    home.own.look(policies.take)
    assert home.own.problem == ""
    assert allowed(policies)


def test_a_node_does_not_start_without_what_its_owner_forbids(home: Home) -> None:
    (home.folder / "a.cedar").write_text("forbid (principal")
    with pytest.raises(HomeUnusable, match=r"policies/a\.cedar:1"):
        home.own.start()


@contextlib.contextmanager
def forbidden(folder: Path) -> Iterator[None]:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    folder.chmod(0)
    yield
    folder.chmod(0o700)


@contextlib.contextmanager
def leading_to_itself(folder: Path) -> Iterator[None]:
    aside = folder.rename(folder.with_name("aside"))
    folder.symlink_to(folder)
    yield
    folder.unlink()
    aside.rename(folder)


@contextlib.contextmanager
def a_file(folder: Path) -> Iterator[None]:
    aside = folder.rename(folder.with_name("aside"))
    folder.write_text("")
    yield
    folder.unlink()
    aside.rename(folder)


@pytest.mark.parametrize("unreadable", [forbidden, leading_to_itself, a_file])
def test_a_folder_that_cannot_be_read_is_not_an_empty_one(
    home: Home, unreadable: Callable[[Path], contextlib.AbstractContextManager[None]]
) -> None:
    (home.folder / "a.cedar").write_text(AGAINST_ACME)
    home.own.start()
    with unreadable(home.folder):
        assert home.look() == []
        assert home.own.problem
    assert home.look() == ["policies/a.cedar:1"]


def test_a_file_that_vanishes_while_it_is_read_changes_nothing_yet(home: Home) -> None:
    (home.folder / "a.cedar").write_text(AGAINST_ACME)
    home.own.start()
    (home.folder / "b.cedar").symlink_to(home.folder / "nowhere")
    assert home.look() == []
    assert "b.cedar" in home.own.problem or "policies" in home.own.problem
    (home.folder / "b.cedar").unlink()
    assert home.look() == ["policies/a.cedar:1"]
    assert home.own.problem == ""


def test_a_file_written_twice_at_once_is_not_missed(home: Home) -> None:
    home.now = 0.0  # by this clock, everything was written just now
    (home.folder / "a.cedar").write_text(AGAINST_ACME)
    home.own.start()
    assert home.look() == home.look() == ["policies/a.cedar:1"]
    assert len(home.taken) == 2


def test_too_much_is_refused(home: Home) -> None:
    (home.folder / "a.cedar").write_text("// " + "x" * (1 << 20))
    with pytest.raises(LimitExceeded, match="own policies have at most"):
        own_policies.read(home.folder)
