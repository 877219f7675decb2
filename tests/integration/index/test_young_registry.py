"""docs/decisions/0002-young-registry.md, told as stories."""

import pytest

from pubsub.errors import RegistryUnavailableError, TopicNotFoundError
from pubsub.index import IndexServer
from pubsub.net.link import Link
from tests.integration.index.asking import create, delete, lookup, redis
from tests.integration.index.conftest import Connect, MakeRegistry, StartIndex, StartPeer
from tests.waiting import wait_until


async def test_in_a_fresh_installation_the_first_topic_is_created_at_once(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index)
    assert (await create(await open_link(index), "t")).owner == "alice"


async def test_before_anybody_has_registered_it_is_not_known_that_a_topic_is_missing(
    start_index: StartIndex, open_link: Connect
) -> None:
    index = await start_index(ttl_seconds=0.3)
    link = await open_link(index)
    for request in (lookup(link, "t"), create(link, "t"), delete(link, "t")):
        with pytest.raises(RegistryUnavailableError, match=r"known in 0\.\d s") as caught:
            await request
        assert caught.value.retriable

    await wait_until(lambda: is_missing(link, "t"), 1.0)


async def is_missing(link: Link, topic: str) -> bool:
    try:
        await lookup(link, topic)
    except TopicNotFoundError:
        return True
    except RegistryUnavailableError:
        pass
    return False


async def test_after_a_wipe_a_name_is_not_given_away_before_its_owner_could_announce_it(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, bob = await start_peer("alice", index), await start_peer("bob", index)
    link = await open_link(index)
    topic = await create(link, "t", on="alice")
    await redis(index, "FLUSHALL")
    assert not await bob.beat()
    await bob.register()
    await bob.announce()
    for request in (create(link, "t"), lookup(link, "t"), delete(link, "t")):
        with pytest.raises(RegistryUnavailableError, match="came up empty"):
            await request
    assert not await alice.beat()
    await alice.register()
    await alice.announce()
    assert (await lookup(link, "t")).id == topic.id  # what is announced is there at once


async def test_peers_that_are_older_than_the_registry_mean_that_it_may_have_been_wiped(
    make_registry: MakeRegistry, start_index: StartIndex, start_peer: StartPeer, open_link: Connect
) -> None:
    alice = await start_peer("alice")
    index = await start_index(ttl_seconds=0.6)
    await alice.connect(index)
    await alice.register()
    link = await open_link(index)
    with pytest.raises(RegistryUnavailableError):
        await create(link, "t")

    async def created() -> bool:
        await alice.beat()
        try:
            await create(link, "t")
        except RegistryUnavailableError:
            return False
        return True

    await wait_until(created, 2.0)


async def test_a_data_directory_that_was_used_before_means_so_too(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    await start_peer("alice", index, starts=2)
    with pytest.raises(RegistryUnavailableError):
        await create(await open_link(index), "t")


@pytest.mark.parametrize("make_registry", ["redis"], indirect=True)
async def test_an_index_that_joins_an_old_registry_believes_it_at_once(
    make_registry: MakeRegistry, start_index: StartIndex, start_peer: StartPeer, open_link: Connect
) -> None:
    first = await start_index(make_registry(), ttl_seconds=0.3)
    link = await open_link(first)
    await wait_until(lambda: is_missing(link, "t"), 1.0)
    second = await start_index(make_registry(), ttl_seconds=0.3)
    with pytest.raises(TopicNotFoundError):
        await lookup(await open_link(second), "t")
