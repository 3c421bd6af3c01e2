"""The commands as they were agreed: each exists with exactly these names and options, and says how it ends."""

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from node.cli import main

ROOT = Path(__file__).resolve().parent.parent.parent
COMMON = {"--home", "--json", "--debug", "--help", "-h"}

# The agreed commands: name -> (arguments, options). An argument in [] may be left out.
COMMANDS: dict[str, tuple[list[str], set[str]]] = {
    "join": (["INVITATION"], {"--listen", "--advertise"}),
    "serve": ([], {"--witness"}),
    "add": (
        ["PATH"],
        {
            "--id", "--title", "--description", "--type", "--subject", "--license", "--relation", "--metadata",
            "--open", "--on-request", "--compute-only", "--allow", "--unlisted", "--list-elements",
        },
    ),
    "terms": (
        ["ID"],
        {
            "--open", "--on-request", "--compute-only", "--allow", "--operation", "--purpose", "--from", "--until",
            "--max-fetches", "--max-bytes", "--duty", "--pass-on", "--file", "--odrl",
        },
    ),
    "list": ([], set()),
    "status": ([], set()),
    "check": ([], {"--deep"}),
    "refresh": (["[SUFFIX]"], set()),
    "withdraw": (["SUFFIX"], {"--reason"}),
    "resolve": (["ID"], {"--prove"}),
    "search": (["[TEXT]"], {"--owner", "--type", "--subject", "--limit"}),
    "request": (["ID"], {"--purpose", "--message"}),
    "fetch": (["ID"], {"-o", "--output", "--element", "--version", "--streams", "--purpose", "--wait"}),
    "verify": (["PATH", "ID"], set()),
    "open": (["ID"], {"--element", "-o", "--output"}),
    "leases": ([], {"--delete"}),
    "requests": ([], set()),
    "approve": (["N"], {"--until"}),
    "deny": (["N"], {"--reason"}),
    "grants": ([], set()),
    "revoke": (["GRANT"], set()),
    "narrow": (
        ["GRANT"],
        {"--to", "--object", "--until", "--max-fetches", "--max-bytes", "--purpose", "-o", "--output"},
    ),
    "receipts": ([], {"--object", "--peer", "--since"}),
    "statement": ([], {"--period", "--csv"}),
    "audit": ([], {"--peer", "--object", "--since"}),
    "evidence": ([], set()),
    "evidence export": ([], {"-o", "--output"}),
    "evidence verify": (["FILE"], {"--key", "--witness", "--receipt"}),
    "evidence erase": (["POSITION..."], {"--yes"}),
    "monitor": ([], {"--once"}),
    "witness": ([], set()),
    "witness list": ([], set()),
    "witness add": (["KEY"], set()),
    "witness remove": (["NAME"], set()),
    "witness require": (["N"], set()),
    "accept-registry": ([], {"--size", "--root", "--yes"}),
    "trust": (["PREFIX", "KEYID"], set()),
    "rotate-key": ([], set()),
    "doctor": (["[ID|PREFIX]"], set()),
    "demo": ([], {"--keep"}),
}  # fmt: skip
# What we added to the agreement, and why it had to be.
BEYOND = {
    ("terms", "--manual"),  # a person decides although the terms would cover it
    ("terms", "--add"),  # a second permission, for somebody else or for something else
    ("request", "--until"),  # nobody asks for longer than is needed
    ("requests", "--all"),  # also those that were answered
    ("approve", "--max-fetches"),  # a yes to less than the terms would give
    ("approve", "--max-bytes"),
    ("grants", "--given"),
    ("grants", "--held"),
    ("grants", "--take"),  # how a narrowed grant gets to whom it is for
    ("revoke", "--reason"),  # told to the holder, as that of a denial is
    ("leases", ""),  # what is kept, until when, and an end to it before that
    ("receipts", "--settle"),  # now, not at the next fetch
    ("statement", "--peer"),
    ("evidence export", "--object"),  # an auditor is shown what concerns her, and no more
    ("evidence export", "--peer"),
    ("evidence export", "--since"),
    ("leases", "--reported"),  # the owner wants to see what it was told
    ("open", "--version"),  # two versions may be kept at once
    ("audit", "--limit"),  # a node that has served for years has too many rows to print
    ("requests", "--sent"),  # what became of one's own requests, for machines too
    ("narrow", "--pass-on"),  # whether who gets it may narrow it in turn: not unless it is said
    ("evidence verify", ""),  # whoever exports wants to see what an auditor will, without a word of Python
    ("monitor", "--all"),  # what was dismissed is not gone
    ("monitor", "--dismiss"),  # an alarm that cannot be answered is soon not heard
    ("evidence erase", ""),  # the legal duty for which leaves of the log are salted
}
REPEATABLE = {
    ("add", "--subject"), ("add", "--relation"), ("add", "--allow"), ("fetch", "--element"),
    ("evidence verify", "--key"), ("monitor", "--dismiss"), ("terms", "--allow"), ("terms", "--purpose"),
    ("terms", "--duty"), ("terms", "--operation"),
    ("request", "--purpose"), ("fetch", "--purpose"), ("narrow", "--object"), ("narrow", "--purpose"),
}  # fmt: skip
REGISTRY_COMMANDS = {
    "init", "mirror", "promote", "invite", "serve", "orgs", "suspend", "restore", "status", "check", "backup", "export",
    "verify", "import", "limit", "probe", "migrate-store",
}  # fmt: skip


def _every(group: click.Group = main, before: str = "") -> dict[str, click.Command]:
    """All commands by the words that a user types, families of commands too."""
    found: dict[str, click.Command] = {}
    for name, each in group.commands.items():
        found[before + name] = each
        if isinstance(each, click.Group):
            found |= _every(each, f"{before}{name} ")
    return found


EVERY = _every()


def test_there_is_every_agreed_command_and_no_other() -> None:
    assert list(EVERY) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_the_agreed_arguments_and_options(name: str) -> None:
    command, (arguments, options) = EVERY[name], COMMANDS[name]
    found = [each for each in command.params if isinstance(each, click.Argument)]
    shown = [each.make_metavar(click.Context(command)) for each in found]
    assert shown == arguments
    names = {name for each in command.params if isinstance(each, click.Option) for name in each.opts}
    beyond = {option for command_name, option in BEYOND if command_name == name}
    assert names | {"-h", "--help"} == options | COMMON | beyond - {""}


@pytest.mark.parametrize(("name", "option"), sorted(REPEATABLE))
def test_an_option_that_may_be_repeated_can_be(name: str, option: str) -> None:
    found = next(each for each in EVERY[name].params if option in each.opts)
    assert isinstance(found, click.Option)
    assert found.multiple


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_the_options_and_the_exit_codes(name: str) -> None:
    result = CliRunner().invoke(main, [*name.split(), "--help"])
    assert result.exit_code == 0
    assert "Exit codes:" in result.output
    assert "6 verification failed" in result.output
    for option in COMMANDS[name][1]:
        assert option in result.output


def test_help_of_the_whole_lists_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert all(re.search(rf"^  {name} +[A-Z]", result.output, re.MULTILINE) for name in main.commands)
    assert "_HANSE_COMPLETE" in result.output


def test_the_command_starts_without_what_is_slow_to_load() -> None:
    slow = (
        "grpc",
        "cryptography",
        "sqlite3",
        "sqlite_utils",
        "google.protobuf",
        "rich",
        "structlog",
        "asyncio",
        "cedarpy",
    )
    program = f"import sys, node.cli; print([each for each in {slow!r} if each in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert loaded.stdout.strip() == "[]"


def test_version_names_the_program() -> None:
    from hanse import __version__

    assert CliRunner().invoke(main, ["--version"]).output == f"hanse {__version__}\n"


def test_the_registrys_command_has_the_agreed_commands() -> None:
    registry = pytest.importorskip("registry.cli")
    assert set(registry.main.commands) == REGISTRY_COMMANDS


def _typed(text: str) -> list[tuple[str, str, list[str]]]:
    """Commands in code blocks and in backquotes of a document: program, command, options."""
    blocks = re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(r"`(hanse[^`\n]*)`", text)
    found = []
    for line in lines:
        match = re.match(r"\s*(?:\S*[$#] )?(hanse|hanse-registry)\s+([a-z][a-z-]*)\b(.*)", line.split(" #")[0])
        if match:
            family, word = match[2], (match[3].split() or [""])[0]
            name = f"{family} {word}" if f"{family} {word}" in COMMANDS else family
            found.append((match[1], name, re.findall(r"(?<=\s)(--?[a-z][a-z-]*)", match[3])))
    return found


@pytest.mark.parametrize(
    "document", ["README.md", "deploy/README.md", "proto/SPEC.md", "proto/THREATS.md", "CHANGELOG.md"]
)
def test_what_a_document_types_exists(document: str) -> None:
    for program, name, options in _typed((ROOT / document).read_text()):
        if program == "hanse":
            assert name in COMMANDS, f"{document}: hanse {name}"
            for option in options:
                beyond = {each for command_name, each in BEYOND if command_name == name}
                assert option in COMMANDS[name][1] | COMMON | beyond, f"{document}: hanse {name} {option}"
        else:
            assert name in REGISTRY_COMMANDS, f"{document}: hanse-registry {name}"
