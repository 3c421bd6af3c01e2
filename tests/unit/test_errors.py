"""Every error has its place: a status that exists, an exit code that is documented, a name that comes back."""

import grpc
import pytest

from hanse import errors
from hanse.errors import BY_REASON, HanseError, VerificationFailed
from hanse.rpc import status

DEFINED = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, HanseError)]
EXIT_CODES = {1, 2, 3, 4, 5, 6, 7}


def test_every_class_is_in_the_table_by_its_name() -> None:
    assert set(BY_REASON.values()) == set(DEFINED)
    assert all(BY_REASON[each.__name__] is each for each in DEFINED)
    assert len(BY_REASON) == len(DEFINED) >= 20


@pytest.mark.parametrize("kind", DEFINED, ids=lambda kind: kind.__name__)
def test_every_class_has_a_status_an_exit_code_and_a_docstring(kind: type[HanseError]) -> None:
    assert kind.status in grpc.StatusCode.__members__
    assert status.code(kind("text")) is grpc.StatusCode[kind.status]
    assert kind.exit_code in EXIT_CODES
    assert kind.__doc__
    assert kind("text").reason == kind.__name__


@pytest.mark.parametrize("kind", DEFINED, ids=lambda kind: kind.__name__)
def test_a_subclass_ends_a_command_as_its_parent_does(kind: type[HanseError]) -> None:
    for parent in kind.__mro__[1:]:
        if parent not in (HanseError, Exception, BaseException, object):
            assert kind.exit_code == parent.exit_code  # type: ignore[attr-defined]


def test_only_what_failed_to_verify_ends_with_6() -> None:
    assert {each for each in DEFINED if each.exit_code == 6} == {
        each for each in DEFINED if issubclass(each, VerificationFailed)
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("a\x1b[31mred\x07", "a [31mred"),
        ("two\nlines", "two lines"),
        ("  around  ", "around"),
        ("数据", "数据"),
        ("\u202egnp.exe", "gnp.exe"),
        ("x" * 10_000, "x" * 600),
    ],
)
def test_a_strangers_text_is_made_safe_to_print(text: str, shown: str) -> None:
    assert status.clean(text) == shown
