"""Policies by the command line, against real processes."""

import json
from typing import Any

from tests.acceptance.site import Site
from tests.waiting import wait_until_blocking


def shown(site: Site, topic: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(site.ok("topic", "show", topic, "--json"))
    return found


def test_a_policy_is_given_shown_changed_and_carried_out(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "logs", "--max-age", "7d", "--max-messages", "1_000", "--dedupe", "1h")
    assert shown(site, "logs")["policy"] == {
        "max_age_seconds": 604_800,
        "max_messages": 1000,
        "dedupe_seconds": 3600,
    }
    site.ok("publish", "logs", *map(str, range(50)))
    assert (
        shown(site, "logs").items()
        >= {"first_offset": 0, "next_offset": 50, "messages": 50, "bytes": 90}.items()
    )
    assert (
        site.ok("topic", "set", "logs", "--max-messages", "5", "--max-age", "off", "--max-bytes", "10GiB")
        == "topic logs: max_messages 5, max_bytes 10GiB, dedupe 1h\n"
    )
    wait_until_blocking(lambda: shown(site, "logs")["messages"] == 5)
    assert shown(site, "logs").items() >= {"first_offset": 45, "next_offset": 50, "bytes": 10}.items()
    assert site.ok("query", "logs", "--format", "raw").split() == ["45", "46", "47", "48", "49"]
    lines = dict(line.split(maxsplit=1) for line in site.ok("topic", "show", "logs").splitlines())
    assert (
        lines.items()
        >= {"policy.max_messages": "5", "policy.max_bytes": "10GiB", "policy.dedupe": "1h"}.items()
    )
    changed = site.ok(
        "topic", "set", "logs", "--max-messages", "off", "--max-bytes", "off", "--dedupe", "2m", "--json"
    )
    assert json.loads(changed)["policy"] == {}
    assert site.ok("topic", "set", "logs", "--no-compact") == "topic logs: keeps everything\n"


def test_keys_are_removed_and_compacted(shared_site: Site) -> None:
    site = shared_site
    site.ok("topic", "create", "settings", "--compact")
    for value in ("1", "2"):
        site.ok("publish", "settings", value, "--key", "a")
        site.ok("publish", "settings", value, "--key", "b")
    assert (
        site.ok("publish", "settings", "--key", "a", "--remove")
        == "published 1 message to settings, offset 4\n"
    )
    wait_until_blocking(lambda: shown(site, "settings")["messages"] == 2)
    records = [json.loads(line) for line in site.ok("query", "settings", "--json").splitlines()]
    assert [(r["offset"], r["key"], r["payload"]) for r in records] == [(3, "b", "2"), (4, "a", None)]
    assert site.ok("query", "settings").splitlines()[1].endswith("key=a  (removed)")
