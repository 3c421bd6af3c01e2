from pathlib import Path

import pytest

from tests.docs.readme_session import README, play, session, settle


@pytest.mark.federation
def test_the_readme_s_session_prints_what_the_readme_shows(tmp_path: Path) -> None:
    told = session(README.read_text())
    assert len(told) > 10
    printed = play([command for command, _ in told], tmp_path)
    for (command, shown), (_, output) in zip(told, printed, strict=True):
        assert settle(output) == settle(shown), f"$ {command}"
