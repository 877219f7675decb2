"""`pubsub publish` on conditions and for later, and what is said about bad ones: one line and an exit code."""

from __future__ import annotations

import json
import signal
import subprocess
from datetime import UTC, datetime, timedelta

import psutil
import pytest

from tests.acceptance.site import Site
from tests.waiting import wait_until_blocking


def payloads(site: Site, topic: str) -> list[str]:
    lines = site.ok("query", topic, "--limit", "100000", "--json").splitlines()
    return [json.loads(line)["payload"] for line in lines]


def records(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


def test_messages_for_later_are_counted_listed_cancelled_and_come(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "later")
    said = site.ok(
        "publish", "later", "one", "two", "three", "--key", "k", "--header", "h=1", "--delay", "1h30m"
    )
    assert said == "scheduled 3 messages to later, schedule ids 1..3\n"
    at = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    assert records(site.ok("publish", "later", "tomorrow", "--at", at, "--json")) == [
        {"topic": "later", "schedule_id": 4}
    ]
    assert json.loads(site.ok("topic", "show", "later", "--json"))["scheduled"] == 4
    assert "scheduled" in site.ok("topic", "show", "later")
    listed = records(site.ok("topic", "scheduled", "later", "--json"))
    assert [(m["schedule_id"], m["payload"]) for m in listed] == [
        (1, "one"),
        (2, "two"),
        (3, "three"),
        (4, "tomorrow"),
    ]
    assert listed[0] | {"deliver_at": ""} == {
        "topic": "later",
        "schedule_id": 1,
        "deliver_at": "",
        "key": "k",
        "headers": {"h": "1"},
        "payload": "one",
    }
    assert datetime.fromisoformat(str(listed[3]["deliver_at"])) == datetime.fromisoformat(at)
    assert site.ok("topic", "scheduled", "later", "--limit", "1").splitlines()[1].split()[0] == "1"
    assert site.ok("topic", "cancel", "later", "2") == "cancelled message 2 of topic later\n"
    assert records(site.ok("topic", "cancel", "later", "4", "1", "--json")) == [
        {"topic": "later", "schedule_id": 4, "cancelled": True},
        {"topic": "later", "schedule_id": 1, "cancelled": True},
    ]
    gone = site.run("topic", "cancel", "later", "2", "3")
    assert (gone.returncode, gone.stdout) == (1, b"")
    assert gone.stderr.decode().count("\n") == 1
    assert "no message under schedule id 2" in gone.stderr.decode()
    assert json.loads(site.ok("topic", "show", "later", "--json"))["scheduled"] == 0
    site.ok("publish", "later", "soon", "--delay", "10ms")
    wait_until_blocking(lambda: payloads(site, "later") == ["soon"])


def test_lines_of_stdin_may_be_for_later_and_bytes_that_are_no_text_are_shown_as_such(
    shared_site: Site,
) -> None:
    site = shared_site
    site.ok("topic", "create", "lines")
    assert site.ok("publish", "lines", "--delay", "1h", stdin=b"a\n\xff\n").startswith("scheduled 2 messages")
    listed = records(site.ok("topic", "scheduled", "lines", "--json"))
    assert [m.get("payload", m.get("payload_base64")) for m in listed] == ["a", "/w=="]
    assert "(1 bytes) ff" in site.ok("topic", "scheduled", "lines")


def test_a_message_id_is_stored_once(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "once")
    for _ in range(3):
        assert (
            site.ok("publish", "once", "x", "--message-id", "order-7")
            == "published 1 message to once, offset 0\n"
        )
    site.ok("topic", "create", "twice", "--dedupe", "off")
    for offset in range(2):
        assert f"offset {offset}\n" in site.ok("publish", "twice", "x", "--message-id", "order-7")


def test_an_expected_offset_is_met_or_nothing_is_published(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "account")
    site.ok("publish", "account", "opened", "--expect-offset", "0")
    refused = site.run("publish", "account", "opened", "--expect-offset", "0")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert "the log is at offset 1" in refused.stderr.decode()
    assert refused.stderr.count(b"\n") == 1
    site.ok("publish", "account", "deposited", "withdrawn", "--atomic", "--expect-offset", "1")
    assert payloads(site, "account") == ["opened", "deposited", "withdrawn"]


def test_an_atomic_stdin_is_published_at_its_end_or_not_at_all(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "whole")
    lines = b"".join(b"%d\n" % n for n in range(10_000))
    assert "published 10000 messages" in site.ok("publish", "whole", "--atomic", stdin=lines)
    too_many = site.run("publish", "whole", "--atomic", stdin=lines + b"one more\n")
    assert (too_many.returncode, too_many.stdout) == (1, b"")
    assert "at most 10000 messages; nothing" in too_many.stderr.decode()
    assert too_many.stderr.count(b"\n") == 1
    assert json.loads(site.ok("topic", "show", "whole", "--json"))["next_offset"] == 10_000
    reading = site.start("publish", "whole", "--atomic", "--timeout", "5", stdin=subprocess.PIPE)
    reading.write(b"half\n")
    reading.write(b"of it\n")
    # It reads its input by a thread of its own, and hears Ctrl-C before that runs.
    wait_until_blocking(lambda: psutil.Process(reading.pid).num_threads() > 1)
    reading.signal(signal.SIGINT)
    assert reading.ended() == 130
    assert "no message was acknowledged" in reading.err
    assert json.loads(site.ok("topic", "show", "whole", "--json"))["next_offset"] == 10_000


USAGE = [
    (["--delay", "0s"], "--delay"),
    (["--delay", "-5s"], "--delay"),
    (["--delay", "10"], "say the unit"),
    (["--delay", "10 parsecs"], "--delay"),
    (["--delay", ""], "--delay"),
    (["--at", "tomorrow"], "not a time"),
    (["--at", "7"], "not a time"),
    (["--at", "earliest"], "not a time"),
    (["--at", "2030-01-01T00:00:00"], "has no zone"),
    (["--at", "20300101"], "has no zone"),
    (["--at", "2020-01-01T00:00:00Z"], "has passed"),
    (["--delay", "1s", "--at", "2030-01-01T00:00:00Z"], "not both"),
    (["--delay", "1s", "--message-id", "x"], "--message-id"),
    (["--delay", "1s", "--expect-offset", "0"], "--expect-offset"),
    (["--expect-offset", "-1"], "--expect-offset"),
    (["--expect-offset", "x"], "--expect-offset"),
    (["--expect-offset", str(2**63)], "--expect-offset"),
    (["another", "--expect-offset", "0"], "--atomic"),
    (["another", "--message-id", "x"], "one MESSAGE"),
]


@pytest.mark.parametrize(("options", "said"), USAGE, ids=lambda value: " ".join(value))
def test_a_mistake_on_the_command_line_is_one_line_and_exit_code_2(
    shared_site: Site, options: list[str], said: str
) -> None:
    done = shared_site.run("publish", "no.such.topic", "message", *options)
    assert (done.returncode, done.stdout) == (2, b""), done.stderr
    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["publish", "errors", "x", "--message-id", ""], "1 to 200 characters"),
        (["publish", "errors", "x", "--message-id", "x" * 201], "1 to 200 characters"),
        (["publish", "errors", "x", "--delay", "4000d"], "at most 3660 days"),
        (["publish", "errors", "x", "--at", "2130-01-01T00:00:00Z"], "too far ahead"),
        (["topic", "cancel", "errors", "99"], "no message under schedule id 99"),
        (["topic", "cancel", "no.such", "1"], "no topic no.such"),
        (["topic", "scheduled", "no.such"], "no topic no.such"),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_1(
    shared_site: Site, arguments: list[str], said: str
) -> None:
    shared_site.run("topic", "create", "errors")
    done = shared_site.run(*arguments)
    assert (done.returncode, done.stdout) == (1, b""), done.stderr
    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        *(["cancel", "t"], ["cancel", "t", "0"], ["cancel", "t", "-1"], ["cancel", "t", "x"]),
        *(["cancel", "t", str(2**63)], ["scheduled", "t", "--limit", "0"], ["scheduled"]),
    ],
    ids=" ".join,
)
def test_schedule_commands_refuse_what_is_no_id_or_limit(shared_site: Site, arguments: list[str]) -> None:
    done = shared_site.run("topic", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
