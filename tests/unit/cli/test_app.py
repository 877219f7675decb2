"""The tree of commands: errors, exit codes, and help that teaches."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from pubsub.cli import app as module
from pubsub.cli.app import app, main
from pubsub.errors import TopicNotFoundError
from pubsub.version import __version__

GROUPS = {"index", "peer", "topic"}
COMMANDS = {
    "index serve",
    "index status",
    "index peers",
    "index topics",
    "peer serve",
    "peer status",
    "peer topics",
    "topic create",
    "topic list",
    "topic show",
    "topic set",
    "topic delete",
    "publish",
    "subscribe",
    "query",
    "demo",
    "bench",
}


def leaves(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, f"{path}{name} ")
        else:
            yield path + name, command


def test_the_commands_are_those_of_the_design() -> None:
    assert {name for name, _ in leaves(typer.main.get_command(app))} >= COMMANDS


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_each_command_has_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert f"pubsub {name}" in text.partition("Examples:")[2]


def test_each_example_is_a_command_line_that_is_understood() -> None:
    root = typer.main.get_command(app)
    examples = [
        line.strip()
        for _, command in [("", root), *leaves(root)]
        for line in (command.help or "").replace("\\\n", " ").partition("Examples")[2].splitlines()
        if "pubsub " in line
    ]
    assert len(examples) > 25
    for example in examples:
        words = shlex.split(
            example.partition("pubsub ")[2].partition("|")[0].partition("<")[0], comments=True
        )
        command: Any = root
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context(example, words)  # raises what a mistake would


def test_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pubsub {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["-v"]])
def test_no_command_shows_help_and_is_a_usage_error(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["index"], "pubsub index --help"),
        (["publish"], "TOPIC"),
        (["publish", "t", "x", "--nope"], "--nope"),
        (["publish", "t", "x", "--header", "unit"], "'unit' is not NAME=VALUE"),
        (["publish", "t", "x", "--index", "localhost"], "host:port"),
        (["publish", "t", "x", "--timeout", "0"], "--timeout"),
        (["publish", "t", "x", "--timeout", "nan"], "--timeout"),
        (["query", "t", "--from", "2026-01-31T09:30:00"], "no zone"),
        (["query", "t", "--from", "-1"], "offset from 0 on"),
        (["query", "t", "--limit", "0"], "--limit"),
        (["query", "t", "--format", "xml"], "xml"),
        (["subscribe", "t", "--json", "--format", "raw"], "exclude"),
        (["subscribe", "t", "--max-in-flight", "5"], "option of --group"),
        (["subscribe", "t", "--group", "g", "--max-in-flight", "0"], "--max-in-flight"),
        (["subscribe", "t", "--group", "g", "--max-in-flight", "10001"], "--max-in-flight"),
        (["group", "show", "t"], "GROUP"),
        (["group", "reset", "t", "g"], "--to"),
        (["group", "reset", "t", "g", "--to", "now"], "offset from 0 on"),
        (["group", "peek", "t", "g", "--limit", "1001"], "--limit"),
        (["index", "serve", "--listen", "7470"], "host:port"),
        (["index", "serve", "--redis", "localhost:6379"], "redis://"),
        (["index", "serve", "--redis", "redis://:secret@host:x"], "malformed"),
        (["index", "serve", "--ttl", "0"], "--ttl"),
        (["index", "serve", "--namespace", "a b"], "'a b' is not a namespace"),
        (["peer", "serve", "alice"], "--data"),
        (["peer", "serve", "alice", "--data", "x", "--advertise", "nowhere"], "host:port"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("pubsub: ")
    assert said.err.count("\n") == 1
    assert named in said.err
    assert "secret" not in said.err


def test_an_index_from_the_environment_is_checked_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PUBSUB_INDEX", "nowhere")
    assert main(["topic", "list"]) == 2
    assert "PUBSUB_INDEX" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (TopicNotFoundError("no topic t\nat all"), 1, "pubsub: no topic t at all\n"),
        (PermissionError(13, "Permission denied", "x"), 1, "pubsub: x: Permission denied\n"),
        (OSError(28, "No space left on device"), 1, "pubsub: No space left on device\n"),
        (OSError(28, "a library's words"), 1, "pubsub: No space left on device\n"),
        (OSError("only words"), 1, "pubsub: only words\n"),
        (
            ZeroDivisionError("oops"),
            1,
            "pubsub: a fault in pubsub: ZeroDivisionError('oops'); -vv shows where\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_failure_is_one_line_and_never_a_traceback(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(module.typer.main, "get_command", lambda _app: fail)
    assert main(["topic", "list"]) == code
    assert capsys.readouterr().err == line
