"""The command hanse-registry: what is printed, with which exit code, and the daemon as a real process."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from hanse import wire
from registry.cli import main
from tests.league import Registry


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(main, [str(each) for each in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def home(tmp_path):
    run("init", "--home", tmp_path / "r", "--name", "Test", "--listen", "127.0.0.1:0")
    return tmp_path / "r"


def test_init_tells_where_it_will_be_and_status_agrees(tmp_path):
    told = json.loads(run("init", "--home", tmp_path / "r", "--listen", "127.0.0.1:0", "--json").stdout)
    facts = json.loads(run("status", "--home", tmp_path / "r", "--json").stdout)
    assert facts["registries"] == told["registries"]
    assert facts["league"] == told["league"]
    assert (facts["serving"], facts["members"], facts["objects"]) == (False, 0, 0)
    assert (tmp_path / "r").stat().st_mode & 0o777 == 0o700
    for key in (tmp_path / "r" / "keys").iterdir():
        assert key.stat().st_mode & 0o777 == 0o600


def test_invite_prints_the_invitation_alone(home):
    invitation = wire.invitation_from_text(run("invite", "86.north", "--home", home, "--valid", "7d").stdout)
    assert str(invitation.prefix) == "86.north"
    assert run("orgs", "--home", home).stdout == ""
    assert run("check", "--home", home).stdout == "no problems found\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("invite", "87.north"), 2, "not under this registry's root 86"),
        (("invite", "no prefix"), 2, "is not a prefix"),
        (("invite", "86.x", "--valid", "soon"), 2, "is not a duration"),
        (("invite",), 2, "Missing argument"),
        (("suspend", "86.nobody"), 3, "86.nobody is not a member"),
        (("restore", "86.nobody"), 3, "86.nobody is not a member"),
        (("init",), 7, "already set up"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_what_goes_wrong_is_said_with_its_exit_code(home, arguments, code, said):
    where = () if arguments == ("nonsense",) else ("--home", home)
    assert said in run(*arguments, *where, code=code).stderr


@pytest.mark.parametrize("command", ["invite 86.x", "serve", "orgs", "suspend 86.x", "restore 86.x", "status", "check"])
def test_given_no_home_then_every_command_says_how_to_make_one(tmp_path, command):
    result = run(*command.split(), "--home", tmp_path / "none", code=1)
    assert "hanse-registry init --home" in result.stderr


def test_given_a_key_that_others_can_read_then_it_says_how_to_mend_it(home):
    (home / "keys" / "registry.pem").chmod(0o644)
    assert "chmod 600" in run("invite", "86.x", "--home", home, code=1).stderr
    assert "chmod 600" in run("check", "--home", home, code=6).stderr


def test_given_a_damaged_setting_then_it_says_which(home):
    (home / "registry.toml").write_text("root = 5\n")
    assert "'root' is a text" in run("status", "--home", home, code=1).stderr


def test_members_are_listed_suspended_and_restored(tmp_path):
    with Registry.start(tmp_path / "r") as registry:
        registry.join("86.north")
        home = registry.folder
        assert "86.north" in run("orgs", "--home", home).stdout
        assert run("suspend", "86.north", "--reason", "unpaid", "--home", home).stdout == "86.north is suspended\n"
        assert json.loads(run("suspend", "86.north", "--home", home, "--json").stdout)["changed"] is False
        line = json.loads(run("orgs", "--home", home, "--json").stdout)
        assert (line["prefix"], line["suspended"], line["reason"]) == ("86.north", True, "unpaid")
        assert "good standing" in run("restore", "86.north", "--home", home).stdout
        assert json.loads(run("status", "--home", home, "--json").stdout)["serving"] is True
        assert "is in use by hanse-registry serve" in run("serve", "--home", home, code=7).stderr
        assert run("check", "--home", home).stdout == "no problems found\n"


def serve(home: Path) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "registry.cli", "serve", "--home", str(home)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip


def test_given_a_daemon_then_it_says_when_it_is_ready_and_ends_gracefully(home, tmp_path):
    daemon = serve(home)
    assert daemon.stdout is not None
    try:
        line = daemon.stdout.readline()
        assert line.startswith("listening on 127.0.0.1:")
        other = tmp_path / "other"
        run("init", "--home", other, "--listen", line.split()[-1])
        taken = serve(other)
        out, err = taken.communicate(timeout=60)
        assert (taken.returncode, out) == (7, "")
        assert "the port is taken" in err
        assert "Traceback" not in err
    finally:
        daemon.send_signal(signal.SIGTERM)
        out, err = daemon.communicate(timeout=60)
    assert daemon.returncode == 0
    assert out == ""
    events = [json.loads(each)["event"] for each in err.splitlines()]
    assert events[0] == "serve.started"
    assert events[-1] == "serve.ended"


def test_given_metrics_and_reflection_then_both_are_served(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = f'metrics = "127.0.0.1:{port}"\nreflection = true\n'
    with Registry.start(tmp_path / "r", settings=settings) as registry:
        member = registry.join("86.north")
        member.resolve("86.north/x")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            told = answer.read().decode()
        with registry.dial() as channel:
            names = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(
                iter([b"\x3a\x00"]), timeout=10
            )
            assert b"hanse.v1.Registry" in next(names)
    assert 'hanse_registry_calls_total{method="Resolve",status="OK"} 1.0' in told
    assert "hanse_registry_position 3.0" in told
