"""`pubsub topic verify`, and what a peer with a damaged file says, as a shell sees them."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
from pathlib import Path

from tests.acceptance.site import Site, open_site
from tests.waiting import wait_until_blocking

MESSAGES = 300


def in_sync(site: Site, topic: str) -> list[str]:
    return list(json.loads(site.ok("topic", "show", topic, "--json"))["in_sync"])


def status(site: Site, peer: str) -> dict[str, object]:
    return dict(json.loads(site.ok("peer", "status", peer, "--json")))


def test_flipped_bytes_in_the_file_of_a_killed_peer_are_found_said_and_mended(tmp_path: Path) -> None:
    with open_site(tmp_path, "alice", "carol", ttl=2) as site:
        bob = site.start_peer("bob")
        site.ok("topic", "create", "t", "--on", "alice", "--replicas", "3")
        wait_until_blocking(lambda: len(in_sync(site, "t")) == 3, 20)
        lines = b"".join(b"%05d%s\n" % (n, b"x" * 500) for n in range(MESSAGES))
        site.ok("publish", "t", "--acks", "all", stdin=lines)
        found = [json.loads(line) for line in site.ok("topic", "verify", "t", "--json").splitlines()]
        assert [(part["peer"], part["stop"], part["equal"]) for part in found] == [
            (peer, MESSAGES, True) for peer in ("alice", "bob", "carol")
        ]
        assert "yes" in site.ok("topic", "verify", "t")
        bob.signal(signal.SIGKILL)
        bob.ended()
        away = site.run("topic", "verify", "t")
        assert away.returncode == 1
        path = tmp_path / "bob" / "peer.db"
        wal = path.with_name("peer.db-wal")
        where = next(file for file in (wal, path) if file.exists() and b"00150xxx" in file.read_bytes())
        data = bytearray(where.read_bytes())
        data[data.index(b"00150xxx") + 2] ^= 0xFF
        where.write_bytes(data)
        site.start_peer("bob")
        wait_until_blocking(lambda: set(in_sync(site, "t")) == {"alice", "bob", "carol"}, 20)
        wait_until_blocking(lambda: status(site, "bob")["unsound"] == [], 20)
        wait_until_blocking(lambda: site.run("topic", "verify", "t").returncode == 0, 20)
        missing = site.run("topic", "verify", "nothing")
        assert (missing.returncode, missing.stdout) == (1, b"")
        assert b"no topic nothing" in missing.stderr


def test_a_copy_that_cannot_be_mended_in_its_file_is_filled_anew_in_another(tmp_path: Path) -> None:
    with open_site(tmp_path, "alice", "carol", ttl=2) as site:
        bob = site.start_peer("bob")
        for topic, owner in (("t", "alice"), ("own", "bob")):
            site.ok("topic", "create", topic, "--on", owner, "--replicas", "3")
            wait_until_blocking(lambda topic=topic: len(in_sync(site, topic)) == 3, 20)
            site.ok("publish", topic, "--acks", "all", stdin=b"".join(b"%d\n" % n for n in range(MESSAGES)))
        with contextlib.closing(sqlite3.connect(tmp_path / "bob" / "peer.db")) as file:
            file.execute(
                "INSERT INTO messages (topic_id, offset, published_at, payload) "
                "SELECT id, next_offset + 1, 1, x'00' FROM topics WHERE name = 't'"
            )
            file.commit()
        for number in range(5):
            site.ok("publish", "t", f"more {number}")
        bob.wait_for("starts again, without it")
        wait_until_blocking(lambda: "bob" in in_sync(site, "t") and "bob" in in_sync(site, "own"), 30)
        (kept,) = status(site, "bob")["files_aside"]  # type: ignore[misc]
        assert (tmp_path / "bob" / kept).exists()
        for topic, messages in (("t", MESSAGES + 5), ("own", MESSAGES)):
            found = [json.loads(line) for line in site.ok("topic", "verify", topic, "--json").splitlines()]
            assert [(part["peer"], part["stop"], part["equal"]) for part in found] == [
                (peer, messages, True) for peer in ("alice", "bob", "carol")
            ]
        bob.signal(signal.SIGTERM)
        assert bob.ended() == 0


def test_a_file_that_is_refused_names_the_way_out_and_the_peer_then_says_what_happened(
    tmp_path: Path,
) -> None:
    with open_site(tmp_path) as site:
        alice = site.start_peer("alice")
        site.ok("topic", "create", "t", "--on", "alice")
        site.ok("publish", "t", "hello")
        alice.signal(signal.SIGTERM)
        assert alice.ended() == 0
        path = tmp_path / "alice" / "peer.db"
        path.write_bytes(b"garbage!" * 8 + path.read_bytes()[64:])
        refused = site.run("peer", "serve", "alice", "--data", "alice")
        assert refused.returncode == 1
        assert b"--set-damaged-aside" in refused.stderr
        site.start_peer("alice", "--set-damaged-aside")
        (kept,) = status(site, "alice")["files_aside"]  # type: ignore[misc]
        assert (tmp_path / "alice" / kept).read_bytes().startswith(b"garbage!")
