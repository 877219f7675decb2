"""`pubsub subscribe PATTERN`: all topics that it means, on all peers, with real processes."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.acceptance.site import Site, open_site


@pytest.fixture(scope="module")
def two_peers(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with open_site(tmp_path_factory.mktemp("site"), "alice", "bob") as site:
        yield site


def test_topics_of_all_peers_are_printed_also_those_created_later(two_peers: Site) -> None:
    site = two_peers
    site.ok("topic", "create", "s.a", "--on", "alice")
    site.ok("topic", "create", "s.b", "--on", "bob")
    site.ok("publish", "s.a", "a0")
    site.ok("publish", "s.b", "b0")
    reading = site.start("subscribe", "s.>", "--from", "earliest", "--json")
    for payload in ("a0", "b0"):
        reading.wait_for(f'"payload":"{payload}"')
    site.ok("topic", "create", "s.c.d", "--on", "bob")
    site.ok("publish", "s.c.d", "c0", "c1")
    published = time.monotonic()
    reading.wait_for('"payload":"c1"')
    assert time.monotonic() - published < 1.0
    site.ok("topic", "delete", "s.a")
    site.ok("topic", "create", "s.a", "--on", "bob")
    site.ok("publish", "s.a", "another life")
    reading.wait_for("another life")
    reading.signal(signal.SIGINT)
    assert reading.ended() == 130
    assert reading.err == ""
    printed = [(m["topic"], m["offset"], m["payload"]) for m in map(json.loads, reading.out.splitlines())]
    assert sorted(printed) == [
        ("s.a", 0, "a0"),
        ("s.a", 0, "another life"),
        ("s.b", 0, "b0"),
        ("s.c.d", 0, "c0"),
        ("s.c.d", 1, "c1"),
    ]


def test_people_see_of_which_topic_a_message_is(two_peers: Site) -> None:
    site = two_peers
    for name in ("p.one", "p.two"):
        site.ok("topic", "create", name)
        site.ok("publish", name, f"said by {name}")
    lines = site.ok("subscribe", "p.*", "--from", "earliest", "--limit", "2").splitlines()
    assert sorted(line.split(maxsplit=3)[1] for line in lines) == ["p.one", "p.two"]
    assert "p.one" not in site.ok("subscribe", "p.one", "--from", "earliest", "--limit", "1").replace(
        "by p.one", ""
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["s.>.x"], 1, "not a topic pattern"),
        (["s.*x"], 1, "not a topic pattern"),
        (["s.>", "--from", "5"], 1, "start of a pattern"),
        (["s.>", "--durable", "d"], 1, "not to a pattern"),
        (["s.>", "--group", "g"], 1, "not to a pattern"),
        (["s.>", "--until", "5"], 1, "not to a pattern"),
        (["s.>", "--from", "never"], 2, "--from"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_read_is_one_line(two_peers: Site, arguments: list[str], code: int, said: str) -> None:
    done = two_peers.run("subscribe", *arguments)
    assert (done.returncode, done.stdout) == (code, b""), done.stderr
    assert said in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


def test_a_killed_peer_is_read_on_when_it_is_back(tmp_path: Path) -> None:
    with open_site(tmp_path, "alice", ttl=1) as site:
        bob = site.start_peer("bob")
        site.ok("topic", "create", "s.a", "--on", "alice")
        site.ok("topic", "create", "s.b", "--on", "bob")
        reading = site.start("subscribe", "s.*", "--from", "earliest", "--json")
        for number in range(3):
            site.ok("publish", "s.b", f"b{number}")
            reading.wait_for(f'"payload":"b{number}"')
            bob.signal(signal.SIGKILL)
            bob.ended()
            site.ok("publish", "s.a", f"a{number}")
            reading.wait_for(f'"payload":"a{number}"')
            bob = site.start_peer("bob")
        site.ok("publish", "s.b", "last")
        reading.wait_for("last")
        reading.signal(signal.SIGINT)
        reading.ended()
        printed = [(m["topic"], m["payload"]) for m in map(json.loads, reading.out.splitlines())]
    assert [payload for topic, payload in printed if topic == "s.a"] == ["a0", "a1", "a2"]
    assert [payload for topic, payload in printed if topic == "s.b"] == ["b0", "b1", "b2", "last"]
