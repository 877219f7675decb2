"""The servers as processes: ready lines, signals, bad starts; nothing printed that a person need not read."""

import json
import os
import signal
import socket
import sqlite3
from pathlib import Path

import psutil
import pytest

from tests.acceptance.site import Site, open_site
from tests.ports import choose_free_port
from tests.redis_process import RedisProcess
from tests.waiting import wait_until_blocking

STRICT = ("-W", "always")
"""Python options that print whatever a clean end would leave behind."""


def refused(site: Site, *arguments: str, code: int = 1) -> str:
    """Run a server that must not start; returns the one line that it says."""
    done = site.run(*arguments, seconds=20)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), said
    lines = said.splitlines()
    assert len(lines) == 1, said
    assert lines[0].startswith("pubsub: ")
    return lines[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_peer_and_an_index_end_in_good_order_and_without_a_word(
    number: signal.Signals, tmp_path: Path
) -> None:
    with open_site(tmp_path, "alice") as site:
        site.ok("topic", "create", "kept")
        site.ok("publish", "kept", "x")
        subscriber = site.start("subscribe", "kept", "--from", "earliest")
        subscriber.wait_for("x")
        other = site.start_peer("bob", python=STRICT)
        index = site.start(
            *("index", "serve", "--listen", "127.0.0.1:0", "--registry-listen", "127.0.0.1:0"), python=STRICT
        )
        index.wait_for("index serves")
        for running in (other, index):
            running.signal(number)
            assert running.ended() == 0
            assert running.err == ""
        peers = [json.loads(line) for line in site.ok("index", "peers", "--json").splitlines()]
        assert [peer["peer"] for peer in peers if peer["alive"]] == ["alice"]  # bob has said goodbye


def test_a_second_signal_ends_a_peer_at_once(site: Site) -> None:
    index = site._all[0]
    peer = site.start_peer("bob")
    address = peer.out.split()[3].rstrip(",")
    index.signal(signal.SIGSTOP)  # so that bob's goodbye is not answered
    peer.signal(signal.SIGTERM)
    wait_until_blocking(lambda: not _answers(address), description="bob has begun to close")
    peer.signal(signal.SIGTERM)
    assert peer.ended(5) == -signal.SIGTERM
    index.signal(signal.SIGCONT)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_peer_killed_and_started_again_has_its_messages_and_its_next_offset(site: Site) -> None:
    site.ok("topic", "create", "back")
    site.ok("publish", "back", "a", "b")
    alice = site._all[1]
    alice.process.kill()
    alice.ended()

    def online() -> bool:
        return bool(json.loads(site.ok("index", "topics", "--json"))["online"])

    wait_until_blocking(lambda: not online(), description="offline within the ttl")
    assert site.ok("topic", "list").splitlines()[1].split()[3:5] == ["no", "-"]
    site.start_peer("alice")
    wait_until_blocking(online, description="online again")
    assert site.ok("publish", "back", "c") == "published 1 message to back, offset 2\n"
    assert site.ok("query", "back", "--format", "raw") == "a\nb\nc\n"


def test_a_peer_serves_without_an_index_and_says_so(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.index = f"127.0.0.1:{choose_free_port()}"
    try:
        peer = site.start_peer("alice")
        assert "pubsub: WARNING: " in peer.err
        assert peer.err.count("\n") == 1
        assert f"no index answers (cannot connect to {site.index}" in peer.err
        address = peer.out.split()[3].rstrip(",")
        done = site.run("index", "status", "--index", address)
        assert done.returncode == 0
    finally:
        site.close()


def test_a_peer_that_cannot_be_reached_where_it_says_is_warned(shared_site: Site) -> None:
    unreachable = f"127.0.0.1:{choose_free_port()}"
    peer = shared_site.start_peer("carol", "--advertise", unreachable)
    assert unreachable in peer.wait_for("pubsub: WARNING")
    assert peer.out.startswith(f"peer carol serves {unreachable}, data in carol")


def test_an_idle_peer_needs_at_most_60_mb(shared_site: Site) -> None:
    peer = shared_site.start_peer("idle")
    assert psutil.Process(peer.pid).memory_info().rss < 60e6


def test_the_file_of_a_live_peer_can_be_read(shared_site: Site) -> None:
    shared_site.ok("topic", "create", "open.file")
    shared_site.ok("publish", "open.file", "x")
    with sqlite3.connect(f"file:{shared_site.directory}/alice/peer.db?mode=ro", uri=True) as database:
        rows = database.execute(
            "select offset, payload from topic_messages where topic = 'open.file'"
        ).fetchall()
    database.close()
    assert rows == [(0, "x")]


# Bad starts


def test_a_data_directory_in_use_is_refused(shared_site: Site) -> None:
    assert "in use by process" in refused(shared_site, "peer", "serve", "alice", "--data", "alice")


def test_a_peer_name_in_use_is_refused_and_its_holder_named(shared_site: Site) -> None:
    line = refused(shared_site, "peer", "serve", "alice", "--data", "another")
    assert "the peer name alice is taken" in line
    assert "127.0.0.1:" in line


def test_a_data_directory_that_is_a_file_is_refused(shared_site: Site) -> None:
    (shared_site.directory / "plain").write_text("mine")
    assert "plain" in refused(shared_site, "peer", "serve", "bob", "--data", "plain")
    assert (shared_site.directory / "plain").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_that_is_not_writable_is_refused(shared_site: Site) -> None:
    (shared_site.directory / "fixed").mkdir(mode=0o500)
    assert "fixed" in refused(shared_site, "peer", "serve", "bob", "--data", "fixed")


def test_a_damaged_file_is_refused_named_and_left_as_it_is(shared_site: Site) -> None:
    directory = shared_site.directory / "damaged"
    directory.mkdir()
    (directory / "peer.db").write_bytes(b"this is not a database, but somebody's text" * 100)
    before = (directory / "peer.db").read_bytes()
    assert "peer.db" in refused(shared_site, "peer", "serve", "bob", "--data", "damaged")
    assert (directory / "peer.db").read_bytes() == before


def test_an_illegal_peer_name_is_refused(shared_site: Site) -> None:
    assert "'a b' is not a peer name" in refused(shared_site, "peer", "serve", "a b", "--data", "x")
    assert not (shared_site.directory / "x").exists()


def test_a_port_in_use_is_refused_by_peer_index_and_registry(shared_site: Site) -> None:
    site = shared_site
    taken, free = site.index, "127.0.0.1:0"
    assert f"cannot listen on {taken}" in refused(
        site, "peer", "serve", "bob", "--data", "bob", "--listen", taken
    )
    assert f"cannot listen on {taken}" in refused(
        site, "index", "serve", "--listen", taken, "--registry-listen", free
    )
    assert f"cannot listen on {site.registry}" in refused(
        site, "index", "serve", "--listen", free, "--registry-listen", site.registry
    )


def test_an_index_on_redis_shows_its_url_without_password(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    url = redis_process.url.replace("redis://", "redis://user:secret@")
    index = site.start("index", "serve", "--listen", "127.0.0.1:0", "--redis", redis_process.url)
    refused_by_redis = site.start("index", "serve", "--listen", "127.0.0.1:0", "--redis", url)
    try:
        assert f"registry: redis://127.0.0.1:{redis_process.port}" in index.wait_for("index serves")
        refused_by_redis.wait_for("pubsub: WARNING")
        assert "secret" not in refused_by_redis.out + refused_by_redis.err
    finally:
        site.close()


def test_an_index_starts_before_its_redis_and_serves_once_it_is_there(
    redis_process: RedisProcess, tmp_path: Path
) -> None:
    redis_process.stop()
    site = Site(tmp_path)
    try:
        index = site.start("index", "serve", "--listen", "127.0.0.1:0", "--redis", redis_process.url)
        site.index = index.wait_for("index serves").split()[2].rstrip(",")
        assert "is unavailable" in index.wait_for("pubsub: WARNING")
        status = site.run("index", "status", "--json")
        assert (status.returncode, json.loads(status.stdout)["registry_ok"]) == (1, False)
        redis_process.start()
        site.start_peer("alice")
        wait_until_blocking(
            lambda: site.run("topic", "create", "late").returncode == 0, 20, "a topic can be created"
        )
    finally:
        site.close()


# What they load


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--version"], ["rich", "sqlalchemy", "redis", "fakeredis", "alembic"]),
        (["topic", "list"], ["rich", "sqlalchemy", "redis", "fakeredis", "alembic"]),
        (["publish", "light", "x"], ["rich", "sqlalchemy", "redis", "fakeredis", "alembic"]),
    ],
)
def test_a_command_loads_only_what_it_needs(
    arguments: list[str], unwanted: list[str], shared_site: Site
) -> None:
    shared_site.run("topic", "create", "light")
    script = (
        "import atexit, sys; from pubsub.cli.app import main\n"
        "atexit.register(lambda: print('loaded', *sorted(m for m in sys.modules if '.' not in m), flush=True))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    running = shared_site.start(*arguments, python=("-c", script), module=False)
    assert running.ended() == 0, running.err
    loaded = next(line for line in running.out.splitlines() if line.startswith("loaded ")).split()
    assert "pubsub" in loaded
    assert not set(unwanted) & set(loaded)


def test_the_process_of_a_peer_loads_neither_the_command_line_nor_the_registry(shared_site: Site) -> None:
    script = (
        "import sys, msgspec; from pubsub.cli.peer_process import PeerOptions, main\n"
        "code = main(msgspec.json.decode(sys.argv[1], type=PeerOptions))\n"
        "print('loaded', *sorted(m for m in sys.modules if '.' not in m), flush=True)\n"
        "sys.exit(code)"
    )
    options = {"name": "light", "data": "light", "listen": "127.0.0.1:0", "advertise": None, "zone": ""}
    options |= {"index": shared_site.index, "verbose": 0}
    running = shared_site.start(json.dumps(options), python=("-c", script), module=False)
    running.wait_for("serves")
    running.signal(signal.SIGTERM)
    assert running.ended() == 0, running.err
    loaded = next(line for line in running.out.splitlines() if line.startswith("loaded ")).split()
    assert "sqlalchemy" in loaded
    assert not {"typer", "pydantic", "rich", "redis", "fakeredis", "alembic"} & set(loaded)


def test_errors_of_clients_are_one_line_and_exit_code_1(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "there")
    site.ok("publish", "there", "x")
    nowhere = ("--index", "127.0.0.1:1", "--timeout", "0.5")
    for arguments, named in [
        (("topic", "create", "there"), "topic there exists already"),
        (("topic", "create", "not legal"), "'not legal' is not a topic name"),
        (("topic", "create", "x" * 201), "at most 200"),
        (("topic", "create", "new", "--on", "nobody"), "no peer nobody"),
        (("topic", "list", "a..b"), "not a topic pattern"),
        (("peer", "status", "nobody"), "no peer nobody"),
        (("peer", "topics", "nobody"), "no peer nobody"),
        (("query", "there", "--from", "5"), "no offset 5"),
        (("subscribe", "there", "--from", "5"), "no offset 5"),
        (("topic", "list", *nowhere), "no index answers"),
        (("publish", "there", "x", *nowhere), "no index answers"),
    ]:
        assert named in refused(site, *arguments)


@pytest.mark.parametrize("command", ["show", "delete"])
def test_a_missing_topic_is_named_with_the_way_to_create_it(command: str, shared_site: Site) -> None:
    assert "topic missing" in refused(shared_site, "topic", command, "missing")


@pytest.mark.parametrize(
    "arguments", [("publish", "missing", "x"), ("query", "missing"), ("subscribe", "missing")]
)
def test_no_client_command_creates_a_topic(arguments: tuple[str, ...], shared_site: Site) -> None:
    assert "pubsub topic create missing" in refused(shared_site, *arguments)


def test_a_dead_peer_gets_no_new_topic(site: Site) -> None:
    bob = site.start_peer("bob")
    bob.process.kill()
    bob.ended()
    wait_until_blocking(
        lambda: '"alive":false' in site.ok("index", "peers", "--json"), description="bob is known to be dead"
    )
    assert "bob" in refused(site, "topic", "create", "new", "--on", "bob")
