"""Replicas on the command line: what is wrong is said in one line, before anybody is asked."""

import pytest

from pubsub.cli.app import main


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("topic replicas t --add a --remove b", "give one of --add, --remove and --move at a time"),
        ("topic replicas t --add a --move b c", "give one of --add, --remove and --move at a time"),
        ("topic replicas t --move a", "requires 2 arguments"),
        ("topic replicas", "Missing argument"),
        ("topic promote t", "Missing argument"),
        ("peer drain", "Missing argument"),
        ("peer drain alice --within 5", "say the unit"),
        ("peer drain alice --within soon", "a duration such as"),
    ],
)
def test_a_usage_error_is_one_line(arguments: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    group, command, *rest = arguments.split()
    assert main([group, command, "--index", "127.0.0.1:1", *rest]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert why.lower() in err.lower()
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["topic", "replicas", "t", "--add", "no peer"],
        ["topic", "replicas", "no topic"],
        ["topic", "promote", "t", "no peer"],
        ["peer", "drain", "no peer"],
        ["peer", "serve", "alice", "--data", "/nowhere", "--zone", "no zone"],
    ],
)
def test_an_illegal_name_is_an_error_in_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--index", "127.0.0.1:1"]) == 1
    err = capsys.readouterr().err
    assert "name: use" in err
    assert err.count("\n") == 1
