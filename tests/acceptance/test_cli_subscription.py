"""Durable subscriptions, ends and searches from the command line, with real processes."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import count

import pytest

from tests.acceptance.site import Site
from tests.waiting import wait_until_blocking

_names = count(1)


@pytest.fixture
def topic(shared_site: Site) -> Iterator[str]:
    name = f"sub.t{next(_names)}"
    shared_site.ok("topic", "create", name)
    shared_site.ok("publish", name, *(f"m{n}" for n in range(10)))
    return name


def listed(site: Site, *arguments: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in site.ok("subscription", "list", *arguments, "--json").splitlines()]


def test_subscribe_goes_on_where_it_stopped(shared_site: Site, topic: str) -> None:
    first = shared_site.ok(
        *("subscribe", topic, "--durable", "dash", "--from", "earliest", "--limit", "4", "--format", "raw")
    )
    assert first.split() == ["m0", "m1", "m2", "m3"]
    second = shared_site.ok("subscribe", topic, "--durable", "dash", "--limit", "3", "--format", "raw")
    assert second.split() == ["m4", "m5", "m6"]
    (info,) = listed(shared_site, topic)
    assert {name: info[name] for name in ("topic", "subscription", "position", "lag", "kept_at")} == {
        "topic": topic,
        "subscription": "dash",
        "position": 7,
        "lag": 3,
        "kept_at": "alice",
    }


def test_what_was_printed_before_ctrl_c_does_not_come_again(shared_site: Site, topic: str) -> None:
    running = shared_site.start("subscribe", topic, "--durable", "dash", "--from", "earliest")
    running.wait_for("m9")
    running.signal(signal.SIGINT)
    assert running.ended() == 130
    shared_site.ok("publish", topic, "new")
    assert shared_site.ok(
        "subscribe", topic, "--durable", "dash", "--limit", "1", "--format", "raw"
    ).split() == ["new"]


def test_after_kill_9_it_goes_on_no_later_than_where_it_was(shared_site: Site, topic: str) -> None:
    running = shared_site.start("subscribe", topic, "--durable", "dash", "--from", "earliest")
    running.wait_for("m9")
    wait_until_blocking(lambda: listed(shared_site, topic)[0]["position"] == 10)
    running.signal(signal.SIGKILL)
    running.ended()
    shared_site.ok("publish", topic, "new")
    assert shared_site.ok(
        "subscribe", topic, "--durable", "dash", "--limit", "1", "--format", "raw"
    ).split() == ["new"]


def test_a_second_subscriber_takes_over_and_the_first_ends_with_one_line(
    shared_site: Site, topic: str
) -> None:
    first = shared_site.start("subscribe", topic, "--durable", "dash")
    wait_until_blocking(lambda: any(info["connected"] for info in listed(shared_site, topic)))
    shared_site.ok("subscribe", topic, "--durable", "dash", "--until", "10")
    assert first.ended() == 1
    assert first.err.count("\n") == 1
    assert "taken up by another subscriber" in first.err


def test_list_show_reset_delete(shared_site: Site, topic: str) -> None:
    for name in ("one", "two"):
        shared_site.ok("subscribe", topic, "--durable", name, "--from", "5", "--until", "7")
    table = shared_site.ok("subscription", "list", topic)
    assert table.splitlines()[0].split()[:4] == ["TOPIC", "SUBSCRIPTION", "POSITION", "LAG"]
    assert [line.split()[:4] for line in table.splitlines()[1:]] == [
        [topic, "one", "7", "3"],
        [topic, "two", "7", "3"],
    ]
    everywhere = [(i["topic"], i["subscription"]) for i in listed(shared_site)]
    assert [(topic, "one"), (topic, "two")] == [pair for pair in everywhere if pair[0] == topic]

    shown = json.loads(shared_site.ok("subscription", "show", topic, "one", "--json"))
    assert (shown["position"], shown["connected"]) == (7, False)
    assert "position" in shared_site.ok("subscription", "show", topic, "one")

    assert shared_site.ok("subscription", "reset", topic, "one", "--to", "earliest").strip() == (
        f"reset subscription one of {topic}"
    )
    assert listed(shared_site, topic)[0]["position"] == 0
    shared_site.ok("subscription", "reset", topic, "one", "--to", "latest")
    assert listed(shared_site, topic)[0]["position"] == 10
    shared_site.ok("subscription", "reset", topic, "one", "--to", "3")
    assert listed(shared_site, topic)[0]["position"] == 3
    time = json.loads(shared_site.ok("query", topic, "--from", "8", "--limit", "1", "--json"))["published_at"]
    shared_site.ok("subscription", "reset", topic, "one", "--to", time)
    assert int(str(listed(shared_site, topic)[0]["position"])) <= 8

    deleted = json.loads(shared_site.ok("subscription", "delete", topic, "one", "--json"))
    assert deleted == {"topic": topic, "subscription": "one", "deleted": True, "note": ""}
    assert [info["subscription"] for info in listed(shared_site, topic)] == ["two"]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("subscription", "show", "T", "none"), 1, "no durable subscription none"),
        (("subscription", "reset", "T", "none", "--to", "0"), 1, "no durable subscription none"),
        (("subscription", "delete", "T", "none"), 1, "no durable subscription none"),
        (("subscription", "delete", "T", "none@nobody"), 1, "no durable subscription none@nobody"),
        (("subscription", "list", "no.such"), 1, "no topic no.such"),
        (("subscription", "show", "no.such", "dash"), 1, "no topic no.such"),
        (("subscription", "show", "T", "a b"), 1, "subscription name"),
        (("subscription", "reset", "T", "dash"), 2, "--to"),
        (("subscription", "reset", "T", "dash", "--to", "newest"), 2, "newest"),
        (("subscription", "reset", "T", "dash", "--to", "-1"), 2, "offset"),
        (("subscription", "reset", "T", "dash", "--to", "2026-01-31"), 2, "no zone"),
        (("subscribe", "T", "--durable", "a b"), 1, "subscription name"),
        (("subscribe", "T", "--durable", ""), 1, "subscription name"),
        (("subscribe", "T", "--durable", "a@alice"), 1, "subscription name"),
        (("subscribe", "T", "--on-lost", "ignore"), 2, "--on-lost"),
        (("subscribe", "T", "--until", "latest"), 2, "is no end"),
        (("subscribe", "T", "--until", "-5"), 2, "offset"),
        (("subscribe", "T", "--until", "2026-01-31T00:00:00"), 2, "no zone"),
        (("subscribe", "T", "--group", "g", "--durable", "dash"), 2, "--durable"),
        (("subscribe", "T", "--group", "g", "--until", "5"), 2, "--until"),
        (("subscribe", "T", "--group", "g", "--on-lost", "skip"), 2, "--on-lost"),
        (("query", "T", "--until", "earliest"), 2, "is no end"),
        (("query", "T", "--header", "unit"), 2, "NAME=VALUE"),
        (("query", "T", "--limit", "0"), 2, "--limit"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    shared_site: Site, topic: str, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = shared_site.run(*(topic if word == "T" else word for word in arguments))
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), said
    assert said.count("\n") == 1
    assert says in said


def test_until_ends_a_subscription_and_a_query(shared_site: Site, topic: str) -> None:
    assert shared_site.ok("subscribe", topic, "--from", "2", "--until", "5", "--format", "raw").split() == [
        "m2",
        "m3",
        "m4",
    ]
    assert shared_site.ok("query", topic, "--until", "3", "--format", "raw").split() == ["m0", "m1", "m2"]
    time = json.loads(shared_site.ok("query", topic, "--limit", "1", "--json"))["published_at"]
    assert shared_site.ok("subscribe", topic, "--from", "earliest", "--until", time) == ""
    assert shared_site.ok("query", topic, "--until", time) == ""


def test_query_finds_by_key_and_headers(shared_site: Site, topic: str) -> None:
    shared_site.ok("publish", topic, "hot", "--key", "room-1", "--header", "unit=C", "--header", "site=1")
    shared_site.ok("publish", topic, "hotter", "--key", "room-1", "--header", "unit=F")
    assert shared_site.ok("query", topic, "--key", "room-1", "--format", "raw").split() == ["hot", "hotter"]
    found = shared_site.ok("query", topic, "--header", "unit=C", "--header", "site=1", "--format", "raw")
    assert found.split() == ["hot"]
    assert shared_site.ok("query", topic, "--key", "room-1", "--header", "unit=K") == ""
    relayed = shared_site.ok("query", topic, "--key", "room-1", "--until", "11", "--relay", "--format", "raw")
    assert relayed.split() == ["hot"]


def test_what_retention_took_is_an_error_or_skipped_with_a_line_on_stderr(site: Site) -> None:
    site.ok("topic", "create", "kept")
    site.ok("publish", "kept", *(f"m{n}" for n in range(10)))
    site.ok("subscribe", "kept", "--durable", "dash", "--from", "2", "--until", "3")
    alice = site._all[-1] if site._all[-1].arguments[:2] == ("peer", "serve") else site._all[1]
    alice.signal(signal.SIGTERM)
    assert alice.ended() == 0
    with closing(sqlite3.connect(site.directory / "alice" / "peer.db")) as connection:
        connection.execute("DELETE FROM messages WHERE offset < 6")
        connection.execute("UPDATE topics SET first_offset = 6")
        connection.commit()
    site.start_peer("alice")
    failed = site.run("subscribe", "kept", "--durable", "dash", "--until", "10")
    assert failed.returncode == 1
    assert b"keeps 6 to 9" in failed.stderr
    skipped = site.run(
        *("subscribe", "kept", "--durable", "dash", "--on-lost", "skip", "--until", "10", "--format", "raw")
    )
    assert (skipped.returncode, skipped.stdout.split()) == (0, [b"m6", b"m7", b"m8", b"m9"])
    assert b"retention took 3 messages of topic kept away" in skipped.stderr
    assert skipped.stderr.count(b"\n") == 1
