import asyncio
from typing import Any

import pytest

from pubsub.errors import InvalidNameError, InvalidRequestError
from pubsub.index import IndexServer
from pubsub.net.link import Link
from pubsub.protocol import messages as m
from tests.integration.index.asking import ask, create, delete, lookup, redis
from tests.integration.index.conftest import Connect, MakeRegistry, StartIndex, StartPeer
from tests.integration.index.fake_peer import a_copy
from tests.waiting import wait_until

SOON_SECONDS = 1.0
"""Within which a watcher must know."""


class Watch:
    """What a watcher has been told."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.changes: list[dict[str, Any]] = []

    async def start(self, pattern: str = ">") -> "Watch":
        request = self.link.next_id()
        self.link.watchers[request] = lambda frame: self.changes.extend(frame.changes)
        await self.link.request(m.Watch(request, pattern), 5.0)
        return self

    def latest(self, kind: str, name: str = "") -> dict[str, Any] | None:
        found = [change for change in self.changes if (change["kind"], change["name"]) == (kind, name)]
        return found[-1] if found else None

    async def told(self, kind: str, name: str = "", **fields: Any) -> dict[str, Any]:
        """Wait for a change whose topic has these fields."""

        def is_told() -> dict[str, Any] | None:
            change = self.latest(kind, name)
            if change is None or (fields and change["topic"] is None):
                return None
            return change if all(change["topic"][field] == fields[field] for field in fields) else None

        return await wait_until(is_told, SOON_SECONDS, f"told of {kind} {name} {fields}")  # type: ignore[return-value]


async def test_a_new_topic_and_its_deletion_are_told_within_a_second(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    watch = await Watch(await open_link(index)).start()
    created = await create(link, "t")
    change = await watch.told("topic", "t", id=created.id, owner="alice", online=True)
    assert change["topic"]["address"] == str(alice.address)
    await delete(link, "t")
    await wait_until(lambda: (watch.latest("topic", "t") or {}).get("topic", 1) is None, SOON_SECONDS)


async def test_only_topics_that_match_the_pattern_are_told(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index)
    link, watching = await open_link(index), await open_link(index)
    some, every = await Watch(watching).start("a.*"), await Watch(watching).start()
    for name in ("b", "a.b.c", "a.b"):
        await create(link, name)
    await every.told("topic", "a.b")
    await some.told("topic", "a.b")
    assert {change["name"] for change in some.changes if change["kind"] == "topic"} == {"a.b"}


async def test_a_new_owner_is_told_within_a_second(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("bob", index)
    alice, link = await start_peer("alice", index), await open_link(index)
    created = await create(link, "t", on="bob")
    watch = await Watch(await open_link(index)).start()
    await alice.announce([a_copy("t", created.id, epoch=2)])
    await watch.told("topic", "t", owner="alice", epoch=2)


async def test_a_goodbye_takes_the_topics_of_the_peer_offline_and_its_return_brings_them_back(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    await create(link, "t")
    watch = await Watch(await open_link(index)).start()
    await alice.leave()
    await watch.told("topic", "t", online=False, address=None)
    assert watch.latest("peer", "alice")
    await alice.register()
    await watch.told("topic", "t", online=True, address=str(alice.address))


async def test_a_peer_that_moves_is_told_with_its_topics(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    before, link = await start_peer("alice", index), await open_link(index)
    await create(link, "t")
    watch = await Watch(await open_link(index)).start()
    moved = await start_peer("alice", index, node=before.node, starts=2)
    await watch.told("topic", "t", online=True, address=str(moved.address))


async def test_a_death_is_told_within_a_second_of_the_deadline(
    start_index: StartIndex, start_peer: StartPeer, open_link: Connect
) -> None:
    index = await start_index(ttl_seconds=0.6)
    alice, link = await start_peer("alice", index), await open_link(index)
    await create(link, "t")
    watch = await Watch(await open_link(index)).start()
    await alice.register()

    async def dead() -> bool:
        return not (await lookup(link, "t")).online

    await wait_until(dead)
    await watch.told("topic", "t", online=False)
    assert watch.latest("peer", "alice")


async def test_a_wiped_registry_is_told_as_resync_and_not_as_deletions(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    await create(link, "t")
    watch = await Watch(await open_link(index)).start()
    await redis(index, "FLUSHALL")
    await watch.told("resync")
    assert not await alice.beat()
    await alice.register()
    await alice.announce()
    await watch.told("topic", "t", online=True)
    assert all(change["topic"] for change in watch.changes if change["kind"] == "topic")


async def test_a_watcher_that_does_not_read_is_told_to_resync_and_costs_no_memory_meanwhile(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index)
    link = await open_link(index)
    slow, quick = await Watch(await open_link(index)).start(), await Watch(await open_link(index)).start()
    (connection,) = [
        c
        for c in index._server.connections
        if c in index._watching._watchers and c.remote == _local(slow.link)
    ]
    connection.pause_writing()  # what the transport calls when the other end does not read
    for number in range(20):
        await create(link, f"t{number}")
    await quick.told("topic", "t19")
    assert slow.changes == []
    connection.resume_writing()
    await slow.told("resync")
    assert [change["kind"] for change in slow.changes] == ["resync"]
    await create(link, "later")
    await slow.told("topic", "later")


def _local(link: Link) -> str:
    assert link._transport is not None
    host, port = link._transport.get_extra_info("sockname")
    return f"{host}:{port}"


@pytest.mark.parametrize("make_registry", ["redis"], indirect=True)
async def test_what_one_index_does_the_watchers_of_another_are_told(
    make_registry: MakeRegistry, start_index: StartIndex, start_peer: StartPeer, open_link: Connect
) -> None:
    here, there = await start_index(make_registry()), await start_index(make_registry())
    alice = await start_peer("alice", here)
    watch = await Watch(await open_link(there)).start()
    created = await create(await open_link(here), "t")
    await watch.told("topic", "t", id=created.id, address=str(alice.address))


async def test_a_connection_may_not_watch_without_bound(index: IndexServer, open_link: Connect) -> None:
    link = await open_link(index)
    for _ in range(100):
        await Watch(link).start()
    with pytest.raises(InvalidRequestError, match="100 watches"):
        await Watch(link).start()
    with pytest.raises(InvalidNameError):
        await ask(link, m.Watch, pattern="..")


async def test_nothing_is_kept_of_watchers_that_have_gone(index: IndexServer, open_link: Connect) -> None:
    links = [await open_link(index) for _ in range(3)]
    await asyncio.gather(*(Watch(link).start() for link in links))
    for link in links:
        link.close()
    await wait_until(lambda: not index._watching._watchers)
    assert index._watching._told is None
