import asyncio
import re
import socket
from collections.abc import Sequence

import pytest

from pubsub.errors import (
    InvalidNameError,
    InvalidRequestError,
    PeerNameTakenError,
    PubsubError,
    SettingsError,
)
from pubsub.index import IndexServer
from pubsub.index.clock import now_us
from pubsub.registry import EmbeddedRegistry, Heartbeat, HeartbeatOutcome
from tests.integration.index.asking import create, lookup, peers, redis, registry_of
from tests.integration.index.conftest import Connect, StartIndex, StartPeer
from tests.integration.index.fake_peer import FakePeer
from tests.ports import choose_free_port
from tests.waiting import wait_until


async def test_a_registered_peer_is_listed_with_what_it_said(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice = await start_peer("alice", index)
    registered = await alice.register()
    assert (registered.ttl_seconds, registered.reachable, registered.warning) == (6.0, True, "")
    await alice.beat({"messages_per_second": 2.5})
    link = await open_link(index)
    seen = (await peers(link))["alice"]
    assert (seen.alive, seen.address, seen.incarnation) == (True, str(alice.address), alice.incarnation)
    assert (seen.version, seen.reachable) == ("0.0.1", True)
    for instant in (seen.started_at, seen.heartbeat_at):
        assert instant is not None
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", instant)
    assert 5000 < await redis(index, "PTTL", "pubsub:peer:alice") <= 6000


async def test_a_name_held_by_another_live_data_directory_is_refused_saying_who_holds_it(
    index: IndexServer, start_peer: StartPeer
) -> None:
    alice = await start_peer("alice", index)
    thief = await start_peer("alice")
    await thief.connect(index)
    with pytest.raises(PeerNameTakenError, match=str(alice.address)) as caught:
        await thief.register()
    assert caught.value.data == {"holder": alice.incarnation, "address": str(alice.address)}
    assert await alice.beat()


async def test_the_same_data_directory_is_welcome_again_and_its_earlier_start_must_stop(
    index: IndexServer, start_peer: StartPeer
) -> None:
    before = await start_peer("alice", index)
    again = await start_peer("alice", index, node=before.node, starts=2)
    with pytest.raises(PeerNameTakenError, match=r"started again since \(start 2\)"):
        await before.beat()
    with pytest.raises(PeerNameTakenError, match="must stop"):
        await before.register()
    with pytest.raises(PeerNameTakenError, match="must stop"):
        await before.announce()
    assert await again.beat()


async def test_a_new_data_directory_at_the_address_of_the_holder_takes_its_name(
    index: IndexServer, start_peer: StartPeer
) -> None:
    alice = await start_peer("alice", index)
    alice.node = "replaced"
    assert (await alice.register()).reachable
    assert await alice.beat()


async def test_an_address_at_which_nobody_answers_is_flagged(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice = await start_peer("alice")
    await alice.connect(index)
    nowhere = f"127.0.0.1:{choose_free_port()}"
    registered = await alice.register(address=nowhere)
    assert not registered.reachable
    assert f"index {index.address} cannot reach this peer at {nowhere}: " in registered.warning
    assert "refused" in registered.warning.lower()
    assert "set --advertise HOST:PORT" in registered.warning
    seen = (await peers(await open_link(index)))["alice"]
    assert (seen.alive, seen.reachable) == (True, False)


async def test_an_address_that_does_not_answer_in_time_is_flagged(
    start_index: StartIndex, start_peer: StartPeer
) -> None:
    index = await start_index(dial_seconds=0.1)
    alice = await start_peer("alice")
    await alice.connect(index)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the system accepts, nobody says hello
        registered = await alice.register(address=f"127.0.0.1:{silent.getsockname()[1]}")
    assert "did not answer within 0.1 s" in registered.warning


async def test_an_address_at_which_somebody_else_answers_is_flagged(
    index: IndexServer, start_peer: StartPeer
) -> None:
    alice, bob = await start_peer("alice", index), await start_peer("bob", index)
    assert "there answers the peer bob" in (await alice.register(address=str(bob.address))).warning
    assert "there answers the index" in (await alice.register(address=str(index.address))).warning
    alice.starts += 1
    assert "another start of alice" in (await alice.register(incarnation=f"{alice.node}.7")).warning


@pytest.mark.parametrize("address", ["0.0.0.0:7000", "[::]:7000", "127.0.0.1:0"])
async def test_an_address_that_nobody_can_dial_is_flagged(
    index: IndexServer, start_peer: StartPeer, address: str
) -> None:
    alice = await start_peer("alice")
    await alice.connect(index)
    assert not (await alice.register(address=address)).reachable


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"name": "a.b"}, InvalidNameError),
        ({"name": ""}, InvalidNameError),
        ({"name": "x" * 65}, InvalidNameError),
        ({"address": "nowhere"}, SettingsError),
        ({"address": "127.0.0.1:99999"}, SettingsError),
        ({"incarnation": "none"}, InvalidRequestError),
        ({"incarnation": ""}, InvalidRequestError),
        ({"started_us": -1}, InvalidRequestError),
        ({"started_us": 2**62}, InvalidRequestError),
    ],
)
async def test_a_registration_that_makes_no_sense_is_refused_and_leaves_no_trace(
    index: IndexServer, start_peer: StartPeer, changes: dict[str, object], error: type[PubsubError]
) -> None:
    alice = await start_peer("alice")
    await alice.connect(index)
    with pytest.raises(error):
        await alice.register(**changes)
    assert await redis(index, "KEYS", "pubsub:peer*") == []
    await alice.register()  # the connection goes on


async def test_a_peer_that_says_goodbye_leaves_at_once_and_its_topics_are_offline(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    alice, link = await start_peer("alice", index), await open_link(index)
    await create(link, "t")
    await alice.leave()
    assert await peers(link) == {}
    seen = await lookup(link, "t")
    assert (seen.online, seen.address, seen.owner) == (False, None, "alice")
    assert "somebody else" not in (await alice.leave()).note


async def test_a_peer_that_dies_leaves_after_its_ttl_and_its_return_brings_its_topics_back(
    start_index: StartIndex, start_peer: StartPeer, open_link: Connect
) -> None:
    index = await start_index(ttl_seconds=0.6)
    alice, link = await start_peer("alice", index), await open_link(index)
    created = await create(link, "t")
    began_at = now_us()
    async with alice.living(0.6):
        await wait_until(lambda: now_us() - began_at > 900_000, description="more than a ttl passes")
        assert (await lookup(link, "t")).online
    died_at = now_us()

    async def offline() -> bool:
        return not (await lookup(link, "t")).online

    await wait_until(offline, 2.0)
    assert now_us() - died_at < 1_000_000
    assert not (await peers(link))["alice"].alive
    alice.starts += 1
    await alice.register()
    await alice.announce()
    back = await lookup(link, "t")
    assert (back.online, back.id, back.address) == (True, created.id, str(alice.address))


class GatedRegistry(EmbeddedRegistry):
    """Counts pipelines of heartbeats, and holds them up."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1:0")
        self.calls: list[int] = []
        self.gate = asyncio.Event()

    async def heartbeat(
        self, beats: Sequence[Heartbeat], ttl_seconds: float, now: int
    ) -> list[HeartbeatOutcome]:
        self.calls.append(len(beats))
        await self.gate.wait()
        return await super().heartbeat(beats, ttl_seconds, now)


@pytest.mark.parametrize("make_registry", ["embedded"], indirect=True)
async def test_heartbeats_that_arrive_while_a_pipeline_is_under_way_share_the_next_one(
    start_index: StartIndex, start_peer: StartPeer
) -> None:
    registry = GatedRegistry()
    index = await start_index(registry)
    alice = await start_peer("alice", index)
    first = asyncio.create_task(alice.beat())
    await wait_until(lambda: registry.calls == [1])
    others = [asyncio.create_task(alice.beat()) for _ in range(40)]
    await wait_until(lambda: len(index._registration.beats._waiting) == 40)
    registry.gate.set()
    assert await asyncio.gather(first, *others) == [True] * 41
    assert registry.calls == [1, 40]


async def test_heartbeats_report_the_subscriptions_that_a_peer_serves(
    index: IndexServer, start_peer: StartPeer
) -> None:
    alice, bob = await start_peer("alice", index), await start_peer("bob", index)
    await asyncio.gather(
        alice.beat(subscribers={"t": {"s1": 5}, "u": {"s2": 6}}), bob.beat(subscribers={"t": {"s3": 7}})
    )
    found = await registry_of(index).subscribers("t", now_us())
    assert {name: (entry.peer, entry.since) for name, entry in found.items()} == {
        "s1": ("alice", 5),
        "s3": ("bob", 7),
    }
    await alice.beat(subscribers={"t": {}})
    assert set(await registry_of(index).subscribers("t", now_us())) == {"s3"}


@pytest.mark.parametrize(
    "fields",
    [
        {"load": {"x y": 1.0}},
        {"load": {f"f{n}": 1.0 for n in range(65)}},
        {"subscribers": {"not a topic": {"s": 1}}},
    ],
)
async def test_a_heartbeat_that_makes_no_sense_is_refused(
    index: IndexServer, start_peer: StartPeer, fields: dict[str, dict[str, float]]
) -> None:
    alice = await start_peer("alice", index)
    with pytest.raises((InvalidRequestError, InvalidNameError)):
        await alice.beat(**fields)
    assert await alice.beat()


async def test_200_peers_that_register_at_once_are_all_in_within_10_seconds(
    index: IndexServer, start_peer: StartPeer, open_link: Connect
) -> None:
    crowd: list[FakePeer] = [await start_peer(f"p{n}") for n in range(200)]
    await asyncio.gather(*(peer.connect(index) for peer in crowd))

    async def enter(peer: FakePeer) -> bool:
        registered = await peer.register()
        await peer.announce()
        return registered.reachable

    async with asyncio.timeout(10):
        assert all(await asyncio.gather(*map(enter, crowd)))
        seen = await peers(await open_link(index))
    assert len(seen) == 200
    assert all(peer.alive for peer in seen.values())
