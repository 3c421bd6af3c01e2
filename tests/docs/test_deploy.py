"""What deploy/README.md tells an operator to back up is what the programs keep."""

import re
from pathlib import Path

from hanse.client.identity import MARKER, MEMBER_CERTIFICATE, NODE_CERTIFICATE
from hanse.client.storage import known
from hanse.evidence import evidence
from hanse.vault import vault
from node import config as node_config
from node import own_policies
from node.catalog import CATALOG
from registry import app, backup, config, store

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
README = (DEPLOY / "README.md").read_text()


def test_every_file_of_a_home_is_in_the_table_of_backups() -> None:
    kept = [
        MARKER, MEMBER_CERTIFICATE, NODE_CERTIFICATE, node_config.FILE, CATALOG, known.FILE,
        evidence.FILE, f"{own_policies.FOLDER}/", f"{vault.FOLDER}/",
        app.AUTHORITY, app.CA_CERTIFICATE, app.DATABASE, config.MARKER,
    ]  # fmt: skip
    assert [name for name in kept if f"`{name}`" not in README] == []


def test_every_file_that_the_readme_names_is_there() -> None:
    named = re.findall(r"`((?:systemd|kubernetes|prometheus)/[\w.-]+|Dockerfile|compose\.yaml)`", README)
    assert [name for name in named if not (DEPLOY / name).exists()] == []
    there = {str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file()} - {"README.md"}
    assert there == set(named)


def test_the_ports_are_those_of_the_files() -> None:
    port = str(config.DEFAULT_LISTEN.port)
    for path in (DEPLOY / "README.md", DEPLOY / "compose.yaml", DEPLOY / "Dockerfile"):
        assert port in path.read_text()
        assert "7100" in path.read_text()


def test_what_an_operator_does_with_a_registrys_storage_is_told_with_its_files() -> None:
    for words in ("backup", "restore", "check", "export", "verify", "import", "migrate-store"):
        assert f"hanse-registry {words} " in README, words
    for name in (backup.FILE, store.DATABASE):
        assert f"`{name}`" in README, name
