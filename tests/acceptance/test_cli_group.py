"""`pubsub group` and `pubsub subscribe --group` against real processes: what they print, as text and as JSON."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.acceptance.site import Site
from tests.waiting import wait_until_blocking


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def show(site: Site, topic: str, group: str = "g") -> dict[str, Any]:
    return objects(site.ok("group", "show", topic, group, "--json"))[0]


def members_of(site: Site, topic: str) -> int:
    done = site.run("group", "list", topic, "--json")
    return sum(len(record["members"]) for record in objects(done.stdout.decode()))


def make(site: Site, topic: str, *messages: str) -> None:
    site.ok("topic", "create", topic)
    site.ok("publish", topic, *messages)


def test_a_member_prints_and_acknowledges_its_share_and_another_goes_on(shared_site: Site) -> None:
    site = shared_site
    make(site, "work", "a", "b", "c")
    assert site.ok("subscribe", "work", "--group", "g", "--limit", "2", "--format", "raw") == "a\nb\n"
    record = show(site, "work")
    assert (record["ready"], record["in_flight"], record["lag"]) == (1, 0, 1)
    (left,) = objects(site.ok("subscribe", "work", "--group", "g", "--limit", "1", "--json"))
    assert (left["payload"], left["offset"], left["attempt"]) == ("c", 2, 1)
    assert show(site, "work")["lag"] == 0


def test_who_makes_a_group_chooses_its_options(shared_site: Site) -> None:
    site = shared_site
    make(site, "chosen", "a")
    options = ["--lease-seconds", "60", "--max-attempts", "3", "--backoff-seconds", "0.5", "--ordered"]
    site.ok("subscribe", "chosen", "--group", "g", *options, "--limit", "1", "--format", "raw")
    assert show(site, "chosen")["options"] == {
        "lease_seconds": 60.0,
        "max_attempts": 3,
        "backoff_seconds": 0.5,
        "ordered": True,
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["--group", "g", "--lease-seconds", "0"],
        ["--group", "g", "--lease-seconds", "nan"],
        ["--group", "g", "--max-attempts", "0"],
        ["--group", "g", "--max-attempts", "-1"],
        ["--group", "g", "--backoff-seconds", "-1"],
        ["--group", "g", "--backoff-seconds", "nan"],
        ["--group", "g", "--backoff-seconds", "soon"],
        ["--lease-seconds", "60"],
        ["--max-attempts", "3"],
        ["--backoff-seconds", "0"],
        ["--ordered"],
    ],
)
def test_a_wrong_option_of_a_group_is_a_usage_error(shared_site: Site, arguments: list[str]) -> None:
    done = shared_site.run("subscribe", "any", *arguments)
    assert done.returncode == 2
    assert (
        next(word for word in arguments if word.startswith("--") and word != "--group")
        in done.stderr.decode()
    )


def test_members_share_what_is_published(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "shared")
    members = [
        site.start("subscribe", "shared", "--group", "g", "--max-in-flight", "5", "--format", "raw")
        for _ in range(2)
    ]
    wait_until_blocking(lambda: members_of(site, "shared") == 2, 30)
    site.ok("publish", "shared", stdin=b"".join(b"%d\n" % n for n in range(500)))
    wait_until_blocking(lambda: show(site, "shared")["lag"] == 0, 30)
    for member in members:
        member.signal(signal.SIGINT)
        assert member.ended() == 130
        assert member.err == ""
    printed = [[int(line) for line in member.out.splitlines()] for member in members]
    assert sorted(printed[0] + printed[1]) == list(range(500))
    assert min(map(len, printed)) > 0


def test_what_a_reader_that_goes_away_has_not_read_is_given_to_the_next(shared_site: Site) -> None:
    site = shared_site
    make(site, "closed", "a")
    reading, writing = os.pipe()
    member = site.start("subscribe", "closed", "--group", "g", "--format", "raw", stdout=writing)
    os.close(writing)
    assert os.read(reading, 100) == b"a\n"
    wait_until_blocking(lambda: show(site, "closed")["lag"] == 0)
    os.close(reading)
    assert member.ended(10) == 0
    assert member.err == ""
    site.ok("publish", "closed", "b")
    assert site.ok("subscribe", "closed", "--group", "g", "--limit", "1", "--format", "raw") == "b\n"


def test_a_group_is_listed_and_shown(shared_site: Site) -> None:
    site = shared_site
    make(site, "listed", "a", "b")
    assert site.ok("group", "list", "listed", "--json") == ""
    site.ok("subscribe", "listed", "--group", "one", "--limit", "1")
    site.ok("subscribe", "listed", "--group", "two", "--limit", "2")
    lines = [line.split() for line in site.ok("group", "list", "listed").splitlines()]
    assert lines == [
        ["TOPIC", "GROUP", "READY", "IN_FLIGHT", "DELAYED", "DEAD", "LAG", "MEMBERS"],
        ["listed", "one", "1", "0", "0", "0", "1", "0"],
        ["listed", "two", "0", "0", "0", "0", "0", "0"],
    ]
    make(site, "elsewhere", "a")
    site.ok("subscribe", "elsewhere", "--group", "three", "--limit", "1")
    named = [tuple(line.split()[:2]) for line in site.ok("group", "list").splitlines()]
    assert named[0] == ("TOPIC", "GROUP")
    assert named == [named[0], *sorted(named[1:])]
    assert {("elsewhere", "three"), ("listed", "one"), ("listed", "two")} <= set(named)
    assert [record["group"] for record in objects(site.ok("group", "list", "listed", "--json"))] == [
        "one",
        "two",
    ]
    record = show(site, "listed", "one")
    assert record.items() >= {"topic": "listed", "ready": 1, "in_flight": 0, "dead": 0, "members": []}.items()
    assert record["options"].keys() >= {"lease_seconds", "max_attempts", "backoff_seconds", "ordered"}
    member = site.start("subscribe", "listed", "--group", "one")
    wait_until_blocking(lambda: members_of(site, "listed") == 1, 30)
    shown = dict(line.split(maxsplit=1) for line in site.ok("group", "show", "listed", "one").splitlines())
    assert shown["group"] == "one"
    assert "in_flight=0" in shown["members.1"]
    assert shown["options.max_attempts"] == "5"
    member.signal(signal.SIGINT)
    member.ended()


def test_a_group_is_peeked_reset_and_deleted(shared_site: Site) -> None:
    site = shared_site
    make(site, "moved", "a", "b", "c")
    site.ok("subscribe", "moved", "--group", "g", "--limit", "2")
    assert site.ok("group", "peek", "moved", "g", "--format", "raw") == "c\n"
    assert site.ok("group", "reset", "moved", "g", "--to", "earliest").startswith("reset group g of moved")
    assert site.ok("group", "peek", "moved", "g", "--limit", "2", "--format", "raw") == "a\nb\n"
    assert [record["payload"] for record in objects(site.ok("group", "peek", "moved", "g", "--json"))] == [
        *"abc"
    ]
    (reset,) = objects(site.ok("group", "reset", "moved", "g", "--to", "2", "--json"))
    assert reset.items() >= {"topic": "moved", "group": "g", "reset": True}.items()
    assert site.ok("group", "peek", "moved", "g", "--format", "raw") == "c\n"
    (second,) = objects(site.ok("query", "moved", "--from", "1", "--limit", "1", "--json"))
    site.ok("group", "reset", "moved", "g", "--to", second["published_at"])
    assert show(site, "moved")["ready"] in (2, 3)  # b may have been published in the same microsecond as a
    site.ok("group", "reset", "moved", "g", "--to", "latest")
    assert show(site, "moved")["lag"] == 0
    assert site.ok("group", "redrive", "moved", "g").startswith("redriven group g of moved")
    assert site.ok("group", "delete", "moved", "g").startswith("deleted group g of moved")
    done = site.run("group", "show", "moved", "g")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().count("\n") == 1
    assert "no group g" in done.stderr.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("group", "list", "not-there"),
        ("group", "show", "known", "not-there"),
        ("group", "show", "known", "a.b"),
        ("group", "peek", "known", "not-there"),
        ("group", "reset", "known", "not-there", "--to", "earliest"),
        ("group", "redrive", "known", "x" * 65),
        ("group", "delete", "known", "not-there"),
        ("subscribe", "known", "--group", "a.b"),
        ("subscribe", "known", "--group", ""),
        ("subscribe", "known", "--group", "g", "--from", "99"),
        ("subscribe", "not-there", "--group", "g"),
    ],
)
def test_what_is_not_there_or_cannot_be_is_one_line(arguments: tuple[str, ...], shared_site: Site) -> None:
    shared_site.run("topic", "create", "known")
    done = shared_site.run(*arguments, "--timeout", "2")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode().startswith("pubsub: ")
    assert done.stderr.decode().count("\n") == 1


def test_the_shell_completes_groups(shared_site: Site) -> None:
    from tests.acceptance.test_cli_commands import complete

    make(shared_site, "completing", "a")
    shared_site.ok("subscribe", "completing", "--group", "workers", "--limit", "1")
    assert complete("pubsub group show completing wor", shared_site.index) == ["workers"]
