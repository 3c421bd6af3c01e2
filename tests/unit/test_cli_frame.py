"""However a command ends: one line that says what happened and what to do, and the agreed exit code."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from hanse import errors
from node.cli import frame
from node.cli.frame import Session, command, main


def _run(monkeypatch: pytest.MonkeyPatch, failure: BaseException | None, *options: str) -> Result:
    @command("probe", short="A probe")
    def probe(session: Session) -> None:
        click.echo(f"home={session.chosen} json={session.json} debug={session.debug}")
        if failure is not None:
            raise failure

    monkeypatch.setitem(main.commands, "probe", probe)
    return CliRunner().invoke(main, list(options))


@pytest.mark.parametrize("kind", sorted(set(errors.BY_REASON.values()), key=lambda kind: kind.__name__))
def test_an_error_of_ours_is_one_line_and_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, kind: type[errors.HanseError]
) -> None:
    result = _run(monkeypatch, kind("it broke: mend it"), "probe")
    assert result.exit_code == kind.exit_code
    assert result.stderr == "Error: it broke: mend it\n"


def test_a_strangers_error_text_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(monkeypatch, errors.NotPermitted("no \x1b[2J\x9b"), "probe")
    assert result.stderr == "Error: no �[2J�\n"


def test_a_bug_is_one_line_without_its_text_and_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(monkeypatch, ValueError("secret detail"), "probe")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: internal error: ValueError: run it again with --debug to see where, and report it\n"
    )


def test_debug_shows_where_a_bug_is(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(monkeypatch, ValueError("detail"), "probe", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "ValueError: detail" in result.stderr


def test_debug_shows_where_an_error_of_ours_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(monkeypatch, errors.NotFound("gone"), "--debug", "probe")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("Error: gone\n")


def test_ctrl_c_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(monkeypatch, KeyboardInterrupt(), "probe")
    assert result.exit_code == frame.INTERRUPTED
    assert "run it again to go on" in result.stderr


def test_wrong_usage_ends_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _run(monkeypatch, None, "probe", "--nonsense")
    assert result.exit_code == 2
    assert "--nonsense" in result.stderr


@pytest.mark.parametrize("options", [["--home", "N", "--json", "probe"], ["probe", "--home", "N", "--json"]])
def test_common_options_stand_before_or_after_the_command(monkeypatch: pytest.MonkeyPatch, options: list[str]) -> None:
    assert _run(monkeypatch, None, *options).output == "home=N json=True debug=False\n"


def test_the_home_after_the_command_is_the_one_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "home=B " in _run(monkeypatch, None, "--home", "A", "probe", "--home", "B").output


def test_without_home_the_environment_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HANSE_HOME", str(tmp_path))
    assert Session().folder == tmp_path
