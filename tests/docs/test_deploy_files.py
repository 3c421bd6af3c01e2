"""What is in deploy/ is what linters, schemas and our own programs accept: Dockerfile, compose, units, manifests."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig

from node.cli import main as node
from registry.cli import main as registry

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNITS = sorted((DEPLOY / "systemd").iterdir())
YAML = [DEPLOY / "compose.yaml", DEPLOY / "prometheus" / "alerts.yml", *KUBERNETES]
RULES = YamlLintConfig(
    "extends: default\nrules: {document-start: disable, line-length: {max: 120}, braces: {max-spaces-inside: 1},"
    " comments: {min-spaces-from-content: 2}, indentation: {indent-sequences: consistent}}"
)
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
PROGRAMS: dict[str, click.Command] = {"hanse": node, "hanse-registry": registry}


def parsed(words: list[str]) -> None:
    """What click says of a command line, without running it. Raises click.UsageError."""
    program, rest = PROGRAMS[words[0]], words[1:]
    context = click.Context(program, info_name=words[0])
    while isinstance(program, click.Group):
        assert rest, f"{words}: no command"
        name, command, rest = program.resolve_command(context, rest)
        assert name is not None
        assert command is not None
        program, context = command, click.Context(command, parent=context, info_name=name)
    program.make_context(context.info_name, rest, parent=context.parent)


def typed(text: str) -> list[list[str]]:
    """The command lines of ours in the code blocks of a document, and in backquotes where they are whole."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += [each.replace("\n", " ") for each in re.findall(r"`(hanse(?:-registry)? [^`]*--home [^`]*)`", text)]
    found = []
    for line in lines:
        for part in re.split(r"&&|\|\||;", line.split(" #")[0]):
            match = re.search(r"(?:^|[ /])(hanse(?:-registry)?) ([a-z].*)", part)
            # A program's name is followed by a command; elsewhere, of kubectl and systemd, it names a thing.
            if match and not re.match(r"\s*(useradd|systemctl|kubectl|cp|journalctl|echo|createdb|pip)\b", part):
                found.append([match[1], *shlex.split(match[2])])
    return found


def documents() -> list[dict[str, Any]]:
    return [each for path in KUBERNETES for each in yaml.safe_load_all(path.read_text())]


def named(kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in documents() if each["kind"] == kind}


WORKLOADS = named("Deployment") | named("StatefulSet")


def labels_of(workload: dict[str, Any]) -> dict[str, str]:
    return workload["spec"]["template"]["metadata"]["labels"]


def containers(workload: dict[str, Any]) -> list[dict[str, Any]]:
    pod = workload["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_yaml_has_no_fault_that_yamllint_finds(path: Path) -> None:
    assert [str(each) for each in linter.run(path.read_text(), RULES)] == []


def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([program, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_has_what_the_package_offers_and_compose_builds_it() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = re.findall(r'install [^\n]*"\.\[([a-z,]+)\]"', text)[0].split(",")
    assert set(wanted) == {"metrics", "postgres"} <= offered.keys()
    for folder in re.findall(r"^COPY ([a-z]+) [a-z]+$", text, re.MULTILINE):
        assert (ROOT / folder / "__init__.py").exists()
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE)
    parsed(yaml.safe_load(command))
    build = COMPOSE["services"]["registry"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).exists()


def test_the_compose_file_is_one_by_its_schema() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [program, "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_service_of_compose_runs_a_command_of_ours_pinned_and_hardened() -> None:
    volumes = set(COMPOSE["volumes"])
    for name, service in COMPOSE["services"].items():
        assert re.search(r":[0-9]+\.[0-9]+", service["image"]), name
        assert "no-new-privileges:true" in service["security_opt"]
        for mount in service["volumes"]:
            source = mount.rpartition("/")[0] if "$" in mount else mount.split(":")[0]
            assert source in volumes or mount.endswith(":ro"), mount
        if not service["image"].startswith("hanse:"):
            continue
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        parsed([re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", word) for word in service["command"]])
        if "healthcheck" in service:
            parsed(service["healthcheck"]["test"][1:])
    assert {each.get("profiles", [""])[0] for each in COMPOSE["services"].values()} == {"", "postgres", "mirror"}


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_units_command_is_one_of_ours(path: Path) -> None:
    text = path.read_text()
    settings = dict(re.findall(r"^Environment=(\w+)=(.*)$", text, re.MULTILINE))
    for line in re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE):
        program, *words = re.sub(r"\$\{(\w+)\}", lambda match: settings[match[1]], line).split()
        parsed([Path(program).name, *words])
        assert path.stem != "hanse-registry-mirror" or words[0] == "mirror"
    if path.suffix == ".timer":
        assert path.with_suffix(".service") in UNITS
        return
    for hardening in ("ProtectSystem=strict", "NoNewPrivileges=true", "CapabilityBoundingSet=\n", "UMask=0077",
                      "SystemCallFilter=@system-service", "PrivateTmp=true"):  # fmt: skip
        assert hardening in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_verifies_the_units(tmp_path: Path) -> None:
    programs, units = tmp_path / "bin", tmp_path / "units"  # the program is installed elsewhere than where it will be
    programs.mkdir()
    units.mkdir()
    for name in PROGRAMS:
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    for path in UNITS:
        (units / path.name).write_text(path.read_text().replace("/opt/hanse/bin", str(programs)))
    done = subprocess.run(
        ["systemd-analyze", "verify", *sorted(units.iterdir())], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_every_manifest_is_one_by_the_schema_of_its_kind() -> None:
    assert len(documents()) >= 10
    for each in documents():
        kubernetes_validate.validate(each, kubernetes_validate.latest_version(), strict=True)


def test_selectors_ports_and_volumes_of_the_manifests_name_what_is_there() -> None:
    for name, workload in WORKLOADS.items():
        spec, pod = workload["spec"], workload["spec"]["template"]["spec"]
        assert spec["selector"]["matchLabels"].items() <= labels_of(workload).items()
        claims = [each["metadata"]["name"] for each in spec.get("volumeClaimTemplates", [])]
        volumes = {each["name"] for each in pod.get("volumes", [])} | set(claims)
        mounted = {mount["name"] for each in containers(workload) for mount in each["volumeMounts"]}
        assert mounted == volumes, name
        for each in containers(workload):
            ports = {port["name"] for port in each.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if each in pod["containers"]:
                    assert probe in each, (name, probe)
                    assert each[probe].get("tcpSocket", {}).get("port", next(iter(ports))) in ports
        secrets = {each["name"] for each in pod.get("volumes", []) if "secret" in each}
        for mount in (mount for each in containers(workload) for mount in each["volumeMounts"]):
            assert mount["name"] not in secrets or mount["readOnly"]
    for name, service in named("Service").items():
        wanted = service["spec"]["selector"].items()
        found = [each for each in WORKLOADS.values() if wanted <= labels_of(each).items()]
        assert len(found) == 1, name
        ports = {port["name"]: port["containerPort"] for each in containers(found[0]) for port in each.get("ports", [])}
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    for name, workload in named("StatefulSet").items():
        assert workload["spec"]["serviceName"] in named("Service"), name
    everywhere = [labels_of(each) for each in WORKLOADS.values()]
    for kind, key in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for each in named(kind).values():
            assert any(each["spec"][key]["matchLabels"].items() <= labels.items() for labels in everywhere)
    replicas = WORKLOADS["hanse-registry"]["spec"]["replicas"]
    assert named("PodDisruptionBudget")["hanse-registry"]["spec"]["minAvailable"] < replicas


def test_containers_of_the_manifests_are_pinned_bounded_and_hardened() -> None:
    for name, workload in WORKLOADS.items():
        pod = workload["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        # A home on a volume must not have its modes changed at every mount: keys that a group can read are refused.
        if "volumeClaimTemplates" in workload["spec"]:
            assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch", name
        for each in containers(workload):
            assert re.fullmatch(r"[a-z]+:[0-9]+\.[0-9]+[\w.-]*", each["image"]), each["image"]
            assert each["securityContext"] == {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}
            }  # fmt: skip
            assert "memory" in each["resources"]["limits"]
            assert {"cpu", "memory"} <= each["resources"]["requests"].keys()
    images = {each["image"] for workload in WORKLOADS.values() for each in containers(workload)}
    assert images == {each["image"] for each in COMPOSE["services"].values()}


def test_commands_of_the_manifests_are_ours() -> None:
    seen = set()
    for workload in WORKLOADS.values():
        for each in containers(workload):
            lines = [[*each.get("command", []), *each.get("args", [])]]
            probes = [each.get(probe, {}) for probe in ("startupProbe", "readinessProbe")]
            lines += [probe["exec"]["command"] for probe in probes if "exec" in probe]
            for words in lines:
                if words and words[0] in PROGRAMS:
                    parsed(words)
                    seen.add(" ".join(words[:2]))
                elif words and words[0] == "sh":
                    for program, rest in re.findall(r"\b(hanse(?:-registry)?) ([^;|&]+)", words[-1]):
                        parsed([program, *rest.replace('"', "").replace("$ADVERTISE", "a:1").split()])
                        seen.add(f"{program} {rest.split()[0]}")
    assert seen == {
        "hanse join",
        "hanse serve",
        "hanse-registry serve",
        "hanse-registry probe",
        "hanse-registry mirror",
    }


def test_every_command_line_of_the_readme_parses() -> None:
    lines = typed((DEPLOY / "README.md").read_text())
    assert len(lines) >= 25
    for words in lines:
        try:
            parsed(words)
        except click.UsageError as error:
            pytest.fail(f"{shlex.join(words)}: {error.format_message()}")
    assert {"backup", "restore", "limit", "init", "serve", "check", "probe"} <= {words[1] for words in lines}


def test_the_contents_lead_somewhere() -> None:
    text = (DEPLOY / "README.md").read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert [link for link in re.findall(r"\]\(#([\w-]+)\)", text) if link not in anchors] == []
    assert headings[0] == "Something is wrong"


def test_every_alert_is_in_the_table_of_what_is_wrong() -> None:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    table = (DEPLOY / "README.md").read_text().split("## Something is wrong")[1].split("\n## ")[0]
    assert [rule["alert"] for group in groups for rule in group["rules"] if rule["alert"] not in table] == []
