"""The container files, checked as far as is possible without a container engine.

What is held: the shape of the cluster, that every service has a health check and no service runs as root, and that each
`pubsub` command line in compose.yaml is one that the program accepts.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
INDEXES = [name for name in SERVICES if name.startswith("index-")]
PEERS = [name for name in SERVICES if name.startswith("peer-")]

SERVICE_KEYS = {
    "build",
    "command",
    "depends_on",
    "healthcheck",
    "image",
    "init",
    "ports",
    "restart",
    "stop_grace_period",
    "user",
    "volumes",
}


def dockerfile_instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), continued lines joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0].upper(), line.split(maxsplit=1)[1].strip()) for line in lines]


def final_stage() -> list[tuple[str, str]]:
    instructions = dockerfile_instructions()
    last = max(i for i, (instruction, _) in enumerate(instructions) if instruction == "FROM")
    return instructions[last:]


def pubsub_command_lines() -> list[list[str]]:
    """Every argument list given to the `pubsub` program: the services' commands and their health checks."""
    lines = []
    for name in INDEXES + PEERS:
        lines.append(SERVICES[name]["command"])
        kind, program, *arguments = SERVICES[name]["healthcheck"]["test"]
        assert (kind, program) == ("CMD", "pubsub")
        lines.append(arguments)
    return lines


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def parse(arguments: list[str]) -> dict[str, Any]:
    """Parse as the program would, running nothing; give the options and arguments of the command that was reached."""
    from pubsub.cli.app import app

    command: Any = typer.main.get_command(app)
    context = command.make_context("pubsub", list(arguments))
    while hasattr(command, "commands"):
        name, *rest = [*context._protected_args, *context.args]
        assert name in command.commands, f"{name!r} is not one of {sorted(command.commands)}"
        command = command.commands[name]
        context = command.make_context(name, rest, parent=context)
    assert not context.args
    return dict(context.params)


def test_the_cluster_is_redis_two_indexes_and_three_peers() -> None:
    assert set(SERVICES) == {"redis", *INDEXES, *PEERS}
    assert (len(INDEXES), len(PEERS)) == (2, 3)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_uses_only_known_keys(name: str) -> None:
    assert set(SERVICES[name]) <= SERVICE_KEYS


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_health_check(name: str) -> None:
    check = SERVICES[name]["healthcheck"]
    assert check["test"][0] in {"CMD", "CMD-SHELL"}
    assert check["retries"] >= 3
    assert {"interval", "timeout"} <= set(check)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_the_health_of_what_it_needs(name: str) -> None:
    needed = {"redis"} if name in INDEXES else set(INDEXES) if name in PEERS else set()
    depends_on = SERVICES[name].get("depends_on", {})
    assert set(depends_on) == needed
    assert all(condition == {"condition": "service_healthy"} for condition in depends_on.values())


def test_redis_keeps_its_append_only_file_in_a_named_volume() -> None:
    redis = SERVICES["redis"]
    assert redis["image"] == "redis:7"
    assert option(redis["command"], "--appendonly") == "yes"
    assert redis["volumes"] == ["redis:/data"]


def test_both_indexes_share_one_redis() -> None:
    urls = {option(SERVICES[name]["command"], "--redis") for name in INDEXES}
    assert urls == {"redis://redis:6379/0"}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_knows_every_index_and_advertises_its_own_name(name: str) -> None:
    command = SERVICES[name]["command"]
    assert command[:3] == ["peer", "serve", name]
    assert option(command, "--index").split(",") == [f"{index}:7470" for index in INDEXES]
    assert option(command, "--advertise").split(":")[0] == name
    assert option(command, "--advertise").split(":")[1] == option(command, "--listen").split(":")[1]


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_keeps_its_data_in_a_volume_of_its_own(name: str) -> None:
    volume, path = SERVICES[name]["volumes"][0].split(":")
    assert path == option(SERVICES[name]["command"], "--data") == "/data"
    others = [SERVICES[other].get("volumes", []) for other in SERVICES if other != name]
    assert not any(used.startswith(f"{volume}:") for volumes in others for used in volumes)


def test_every_volume_is_declared_and_used() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert set(COMPOSE["volumes"]) == used


def test_ports_are_published_on_loopback_only_and_once() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_no_service_runs_as_root() -> None:
    assert SERVICES["redis"]["user"] == "redis"
    for name in INDEXES + PEERS:
        assert SERVICES[name].get("user", "image's own") == "image's own"
    users = [arguments for instruction, arguments in final_stage() if instruction == "USER"]
    assert users
    assert users[-1].split(":")[0] not in {"root", "0"}


def test_the_image_is_built_in_stages_and_runs_pubsub() -> None:
    froms = [arguments for instruction, arguments in dockerfile_instructions() if instruction == "FROM"]
    assert froms == ["python:3.12-slim AS build", "python:3.12-slim"]
    final = dict(final_stage())
    assert final["ENTRYPOINT"] == '["pubsub"]'
    assert final["VOLUME"] == "/data"


def test_what_the_image_is_built_from_is_in_the_build_context() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied: set[str] = set()
    for instruction, arguments in dockerfile_instructions():
        if instruction == "COPY":
            copied |= {source for source in arguments.split()[:-1] if not source.startswith("--")}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("arguments", pubsub_command_lines(), ids=" ".join)
def test_the_program_accepts_every_command_line(arguments: list[str]) -> None:
    parameters = parse(arguments)
    if "serve" in arguments:
        assert option(arguments, "--listen") in map(str, parameters.values())
