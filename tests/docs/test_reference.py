"""Every command, option, setting and error code stands in docs/reference.md, and nothing else does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer.main

from pubsub import config
from pubsub.cli.app import app
from pubsub.errors import ERRORS_BY_CODE

TEXT = (Path(__file__).parents[2] / "docs" / "reference.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def commands(command: Any, path: str = "pubsub") -> Iterator[tuple[str, Any]]:
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, f"{path} {name}")
    if not getattr(command, "commands", {}):
        yield path, command


COMMANDS = dict(commands(typer.main.get_command(app)))
SETTINGS = {
    f"{name}.{field}"
    for name, cls in vars(config).items()
    if isinstance(cls, type) and issubclass(cls, msgspec.Struct)
    for field in cls.__struct_fields__
}


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_a_command_and_its_options_are_documented(path: str) -> None:
    lines = [line for line in SECTIONS["Commands"].splitlines() if line.startswith(f"| `{path}")]
    assert lines, f"{path} is not in docs/reference.md"
    options = {name for p in COMMANDS[path].params for name in p.opts if name.startswith("--")}
    missing = sorted(o for o in options - {"--help"} if f"{o}`" not in lines[0] and f"{o} " not in lines[0])
    assert not missing, f"{path}: {missing} missing"


def test_no_command_is_documented_that_does_not_exist() -> None:
    documented = set(re.findall(r"^\| `(pubsub [a-z ]+?)(?= [A-Z\[]|`)", SECTIONS["Commands"], re.M))
    assert documented == set(COMMANDS)


def test_settings_are_documented() -> None:
    assert set(re.findall(r"^\| `(\w+\.\w+)`", SECTIONS["Settings"], re.M)) == SETTINGS


def test_error_codes_are_documented_with_whether_they_are_retriable() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| \S+ \| (yes|no) \|", SECTIONS["Errors"], re.M))
    assert rows == {code: "yes" if cls.retriable else "no" for code, cls in ERRORS_BY_CODE.items()}
