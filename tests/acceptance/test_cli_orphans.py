"""`pubsub topic orphans`, `pubsub publish --acks`, and roles in `pubsub peer topics`, as a shell sees them."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.acceptance.site import Site, open_site
from tests.waiting import wait_until_blocking


def in_sync(site: Site, topic: str) -> list[str]:
    return list(json.loads(site.ok("topic", "show", topic, "--json"))["in_sync"])


def test_orphans_are_listed_and_publishing_says_who_has_it(tmp_path: Path) -> None:
    with open_site(tmp_path, "alice", "bob") as site:
        site.ok("topic", "create", "t", "--on", "alice", "--replicas", "2")
        wait_until_blocking(lambda: len(in_sync(site, "t")) == 2, 20)
        published = json.loads(site.ok("publish", "t", "a", "--acks", "all", "--json"))
        assert (published["topic"], published["offset"], set(published["in_sync"])) == (
            "t",
            0,
            {"alice", "bob"},
        )
        assert json.loads(site.ok("publish", "t", "b", "--acks", "owner", "--json"))["in_sync"][0] == "alice"
        refused = site.run("publish", "t", "c", "--acks", "some")
        assert refused.returncode == 2
        assert b"'some' is neither owner nor all" in refused.stderr
        (held,) = [json.loads(line) for line in site.ok("peer", "topics", "bob", "--json").splitlines()]
        assert (held["role"], held["synced"]) == ("replica", True)
        assert site.ok("topic", "orphans", "t", "--json") == ""
        with closing(sqlite3.connect(tmp_path / "bob" / "peer.db")) as connection:
            connection.execute(
                "INSERT INTO orphaned_messages (topic_id, topic, offset, epoch, published_at, key, payload, cut_at, "
                "owner, owner_epoch) SELECT id, 't', 7, 1, 1, 'k', x'ff', 2, 'alice', 9 FROM topics"
            )
            connection.commit()
        (orphan,) = [json.loads(line) for line in site.ok("topic", "orphans", "t", "--json").splitlines()]
        assert (orphan["peer"], orphan["offset"], orphan["payload_base64"]) == ("bob", 7, "/w==")
        assert "bob" in site.ok("topic", "orphans", "t")
        missing = site.run("topic", "orphans", "t", "--limit", "0")
        assert missing.returncode == 2
