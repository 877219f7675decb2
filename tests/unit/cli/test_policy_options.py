"""Policies on the command line: what is wrong with one is said in one line, before anybody is asked."""

import pytest

from pubsub.cli.app import main
from pubsub.cli.policy import policy_changes


@pytest.mark.parametrize("command", ["create", "set"])
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--max-age 7", "max_age is a duration such as 7d, 12h or 1h30m, not '7'; say the unit"),
        ("--max-age 7fortnights", "'fortnights' is no unit of time"),
        ("--max-age -1d", "max_age must be more than 0"),
        ("--max-age 0s", "max_age must be more than 0"),
        ("--max-age 999999d", "max_age may be 36,500 days at most"),
        ("--max-messages 0", "max_messages must be more than 0"),
        ("--max-messages -5", "max_messages must be more than 0"),
        ("--max-messages ten", "max_messages is a number such as 1_000_000"),
        ("--max-messages 99999999999999999999", "max_messages may be 9,007,199,254,740,991 at most"),
        ("--max-bytes 0", "max_bytes must be more than 0"),
        ("--max-bytes 10gigs", "'gigs' is no unit of size; there are B, kB, MB"),
        ("--max-bytes 9999999PiB", "max_bytes may be"),
        ("--dedupe 0s", "dedupe must be more than 0"),
        ("--dedupe 1y", "'y' is no unit of time"),
        ("--dedupe 31d", "dedupe may be 30 days at most"),
        ("--compact --until-acknowledged", "exclude each other"),
        ("--replicas 0", "replicas must be more than 0"),
        ("--replicas -1", "replicas must be more than 0"),
        ("--replicas three", "replicas is a number such as"),
        ("--replicas 33", "replicas may be 32 at most"),
        ("--min-in-sync 0", "min_in_sync must be more than 0"),
        ("--replicas 2 --min-in-sync 3", "min_in_sync (3) is more than there are copies (replicas is 2)"),
        ("--replica-lag 5", "say the unit"),
        ("--replace-after 0s", "replace_after must be more than 0"),
        ("--compact yes", "unexpected extra argument"),
    ],
)
def test_a_wrong_policy_is_a_usage_error_in_one_line(
    command: str, options: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["topic", command, "t", "--index", "127.0.0.1:1", *options.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert why in err
    assert err.count("\n") == 1
    assert f"pubsub topic {command} --help" in err


def test_set_wants_to_know_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topic", "set", "t", "--index", "127.0.0.1:1"]) == 2
    assert "say what to change, such as --max-age 7d" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["dead", "orders.dead"])
def test_a_reserved_name_is_an_error_in_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topic", "create", name, "--index", "127.0.0.1:1", "--timeout", "0.1"]) == 1
    err = capsys.readouterr().err
    assert f"the topic name {name} is reserved" in err
    assert err.count("\n") == 1


def test_what_was_not_given_is_no_change() -> None:
    assert policy_changes(None, None, None, None, None, None) == {}
    assert policy_changes("7d", None, "off", False, None, None) == {
        "max_age": "7d",
        "max_bytes": "off",
        "until_acknowledged": False,
    }


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--remove"], "it takes the key by --key, and no message"),
        (["x", "--remove", "--key", "k"], "it takes no message"),
        (["x", "--remove"], "it takes the key by --key"),
    ],
)
def test_removing_a_key_takes_a_key_and_no_message(
    options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["publish", "t", "--index", "127.0.0.1:1", *options]) == 2
    err = capsys.readouterr().err
    assert why in err
    assert err.count("\n") == 1
