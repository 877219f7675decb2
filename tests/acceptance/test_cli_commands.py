"""Every command against real processes: what it prints, as text and as JSON."""

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from pubsub.version import __version__
from tests.acceptance.site import PUBSUB, Site


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_installed_command_and_the_module_are_the_same() -> None:
    installed = Path(sys.executable).with_name("pubsub")
    for command in ([str(installed)], [*PUBSUB]):
        done = subprocess.run([*command, "--version"], capture_output=True, check=True)
        assert done.stdout.decode() == f"pubsub {__version__}\n"


def test_a_topic_is_created_listed_shown_and_deleted(shared_site: Site) -> None:
    site = shared_site
    assert (
        site.ok("topic", "create", "life.first", "--on", "alice")
        == "created topic life.first, owned by alice\n"
    )
    created = objects(site.ok("topic", "create", "life.second", "--json"))
    assert (
        created[0].items() >= {"topic": "life.second", "owner": "alice", "epoch": 1, "online": True}.items()
    )
    lines = site.ok("topic", "list", "life.*").splitlines()
    assert lines[0].split() == [
        *("TOPIC", "OWNER", "EPOCH", "ONLINE", "NEXT_OFFSET", "REPLICAS", "IN_SYNC", "PROBLEM")
    ]
    assert [line.split()[:5] for line in lines[1:]] == [
        ["life.first", "alice", "1", "yes", "0"],
        ["life.second", "alice", "1", "yes", "0"],
    ]
    listed = objects(site.ok("topic", "list", "life.>", "--json"))
    assert [record["topic"] for record in listed] == ["life.first", "life.second"]
    assert {"topic", "owner", "epoch", "online", "replicas", "in_sync", "next_offset"} <= listed[0].keys()
    assert isinstance(listed[0]["in_sync"], list)
    shown = dict(line.split(maxsplit=1) for line in site.ok("topic", "show", "life.first").splitlines())
    assert shown.items() >= {"topic": "life.first", "owner": "alice", "online": "yes"}.items()
    assert objects(site.ok("topic", "show", "life.first", "--json"))[0]["next_offset"] == 0
    assert site.ok("topic", "delete", "life.first").startswith("deleted topic life.first")
    deleted = objects(site.ok("topic", "delete", "life.second", "--json"))
    assert deleted[0].items() >= {"topic": "life.second", "deleted": True}.items()
    assert len(site.ok("topic", "list", "life.*").splitlines()) == 1


def test_an_index_tells_how_it_is_and_what_it_knows(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "known")
    status = objects(site.ok("index", "status", "--json"))[0]
    expected = {"index": site.index, "ok": True, "role": "index", "registry_ok": True, "peers_alive": 1}
    assert status.items() >= expected.items()
    assert "embedded" in site.ok("index", "status")
    peers = objects(site.ok("index", "peers", "--json"))
    assert [peer["peer"] for peer in peers] == ["alice"]
    assert {"peer", "address", "alive", "topics"} <= peers[0].keys()
    assert site.ok("index", "peers").splitlines()[1].split()[:3] == ["alice", peers[0]["address"], "yes"]
    assert "known" in {topic["topic"] for topic in objects(site.ok("index", "topics", "--json"))}


def test_index_status_covers_each_index_named_and_fails_if_one_is_away(shared_site: Site) -> None:
    done = shared_site.run(
        "index", "status", "--index", f"{shared_site.index},127.0.0.1:1", "--json", "--timeout", "1"
    )
    assert done.returncode == 1
    assert [record["ok"] for record in objects(done.stdout.decode())] == [True, False]


def test_a_peer_tells_how_it_is_and_which_topics_it_has(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "of.alice")
    status = objects(site.ok("peer", "status", "alice", "--json"))[0]
    assert status.items() >= {"peer": "alice", "alive": True, "registered": True}.items()
    assert "alice" in site.ok("peer", "status", "alice")
    assert "of.alice" in {topic["topic"] for topic in objects(site.ok("peer", "topics", "alice", "--json"))}
    assert "of.alice" in site.ok("peer", "topics", "alice")


def test_commands_may_ask_a_peer_in_place_of_an_index(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "by.peer")
    address = objects(site.ok("index", "peers", "--json"))[0]["address"]
    assert (
        site.ok("publish", "by.peer", "x", "--index", address) == "published 1 message to by.peer, offset 0\n"
    )
    assert objects(site.ok("topic", "list", "by.*", "--json", "--index", address))[0]["next_offset"] == 1


def test_messages_are_published_and_queried(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "pq")
    assert site.ok("publish", "pq", "a", "b", "--key", "k", "--header", "u=C", "--header", "v=1=2") == (
        "published 2 messages to pq, offsets 0..1\n"
    )
    assert objects(site.ok("publish", "pq", "--json", "c")) == [{"topic": "pq", "offset": 2}]
    assert site.ok("query", "pq", "--format", "raw") == "a\nb\nc\n"
    first, _, third = objects(site.ok("query", "pq", "--json"))
    published_at = datetime.fromisoformat(first.pop("published_at"))
    assert published_at.tzinfo is not None
    assert first == {
        "topic": "pq",
        "offset": 0,
        "key": "k",
        "headers": {"u": "C", "v": "1=2"},
        "payload": "a",
    }
    assert (third["key"], third["headers"], third["payload"]) == (None, {}, "c")
    assert site.ok("query", "pq", "--from", "1", "--limit", "1", "--format", "raw") == "b\n"
    assert site.ok("query", "pq", "--from", "3") == ""
    assert site.ok("query", "pq", "--from", "latest") == ""
    assert site.ok("query", "pq", "--from", "2000-01-01T00:00:00Z", "--format", "raw") == "a\nb\nc\n"
    assert site.ok("query", "pq", "--from", third["published_at"], "--format", "raw") == "c\n"
    pretty = site.ok("query", "pq").splitlines()
    assert pretty[0].split()[1:] == ["0", "key=k", "u=C", "v=1=2", "a"]
    assert "\x1b" not in pretty[0]


def test_bytes_of_arguments_and_lines_are_stored_as_they_are(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "bytes")
    site.ok("publish", "bytes", os.fsdecode(b"\xff\xfe"))
    site.ok("publish", "bytes", stdin=b"\x00\xff\r\n\nlast")
    records = objects(site.ok("query", "bytes", "--json"))
    assert [record.get("payload_base64") for record in records] == ["//4=", "AP8N", None, None]
    assert [record.get("payload") for record in records] == [None, None, "", "last"]


def test_publish_and_query_go_through_the_index_with_relay(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "relayed")
    assert site.ok("publish", "relayed", "x", "--relay") == "published 1 message to relayed, offset 0\n"
    assert site.ok("query", "relayed", "--relay", "--format", "raw") == "x\n"


def test_subscribe_prints_what_is_there_and_ends_at_the_limit(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "sub")
    site.ok("publish", "sub", "a", "b", "c")
    assert site.ok("subscribe", "sub", "--from", "earliest", "--limit", "2", "--format", "raw") == "a\nb\n"
    records = objects(site.ok("subscribe", "sub", "--from", "1", "--limit", "2", "--json"))
    assert [record["offset"] for record in records] == [1, 2]


def test_subscribe_starts_with_what_is_published_next(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "next")
    site.ok("publish", "next", "old")
    subscriber = site.start("-vv", "subscribe", "next", "--limit", "1", "--format", "raw")
    # Which of them it sees first depends on when it is ready; the old one it must never see.
    while subscriber.process.poll() is None:
        site.ok("publish", "next", "new")
    assert subscriber.ended() == 0
    assert subscriber.out == "new\n"


def test_the_registry_is_open_to_redis_cli(shared_site: Site) -> None:
    if shutil.which("redis-cli") is None:
        pytest.skip("redis-cli is not installed (Debian: apt-get install redis-tools)")
    port = shared_site.registry.rpartition(":")[2]
    shared_site.ok("topic", "create", "seen")
    command = ["redis-cli", "-p", port, "hget", "pubsub:topic:seen", "owner"]
    assert subprocess.run(command, capture_output=True, check=True).stdout == b"alice\n"


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("pubsub publish completed.", ["completed.one", "completed.two"]),
        ("pubsub topic show completed.t", ["completed.two"]),
        ("pubsub peer status al", ["alice"]),
        ("pubsub topic create x --on al", ["alice"]),
        ("pubsub pub", ["publish"]),
    ],
)
def test_the_shell_completes_commands_topics_and_peers(
    words: str, completed: list[str], shared_site: Site
) -> None:
    for name in ("completed.one", "completed.two"):
        shared_site.run("topic", "create", name)
    assert complete(words, shared_site.index) == completed


def test_without_an_index_the_shell_completes_nothing_and_says_nothing() -> None:
    assert complete("pubsub publish x", "127.0.0.1:1") == []


def complete(words: str, index: str) -> list[str]:
    done = subprocess.run(
        [*PUBSUB],
        env={
            **os.environ,
            "PUBSUB_INDEX": index,
            "_PUBSUB_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
        capture_output=True,
        check=True,
        timeout=20,
    )
    assert done.stderr == b""
    return done.stdout.decode().split()
