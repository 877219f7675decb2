"""The verbs of a client, and the commands, that change replicas, against an index."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator

import pytest

import pubsub
from pubsub.errors import InvalidRequestError, PeerNotFoundError
from pubsub.index import IndexServer
from tests.integration.index.conftest import Connect, StartIndex
from tests.integration.index.crowd import TTL, Crowd, record_of
from tests.waiting import wait_until


@pytest.fixture
async def index(start_index: StartIndex) -> IndexServer:
    return await start_index(ttl_seconds=TTL)


@pytest.fixture
async def client(index: IndexServer) -> AsyncIterator[pubsub.Client]:
    async with pubsub.Client(str(index.address)) as client:
        yield client


async def command(index: IndexServer, *arguments: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pubsub", *arguments, "--index", str(index.address)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_a_topic_is_created_with_so_many_copies(
    index: IndexServer, crowd: Crowd, client: pubsub.Client
) -> None:
    await crowd.start(index, "alice", "bob")
    assert len((await client.create_topic("two", replicas=2)).replicas) == 2
    created = await client.create_topic("more", replicas=2, policy={"max_age": "7d", "replicas": 1})
    assert created.policy["replicas"] == 2
    for wrong in (0, -1, 10**30, "two", 1.5):
        with pytest.raises(pubsub.SettingsError, match="replicas"):
            await client.create_topic("wrong", replicas=wrong)  # type: ignore[arg-type]


async def test_a_client_changes_replicas_promotes_and_drains(
    index: IndexServer, crowd: Crowd, client: pubsub.Client
) -> None:
    await crowd.start(index, "alice", "bob", "carol")
    created = await client.create_topic("t", on="alice", policy={"replicas": 2})
    assert created.owner == "alice"
    assert len(created.replicas) == 2
    (third,) = crowd.peers.keys() - set(created.replicas)
    changed = await client.change_replicas("t", add=third)
    assert set(changed.replicas) == {"alice", "bob", "carol"}
    assert changed.policy == {"replicas": 3}
    with pytest.raises(InvalidRequestError, match="peer bob is not in sync"):
        await client.promote("t", "bob")
    record = await record_of(index, "t")
    await crowd["alice"].propose("t", ["alice", "bob", "carol"], version=record.version)
    assert "nothing is lost" in await client.promote("t", "bob")
    assert (await client.topic("t")).owner == "bob"
    left = await client.drain("carol")
    assert (left["topics"], left["waiting"]) == (1, {"t": "no other peer can take a copy"})
    assert {peer.peer for peer in await client.peers() if peer.draining} == {"carol"}
    assert not (await client.drain("carol", cancel=True))["draining"]
    with pytest.raises(PeerNotFoundError):
        await client.drain("dave")


@pytest.mark.parametrize("make_registry", ["embedded"], indirect=True)
async def test_the_commands_show_change_and_promote(
    index: IndexServer, crowd: Crowd, open_link: Connect
) -> None:
    await crowd.start(index, "alice", zone="north")
    await crowd.start(index, "bob", zone="south")
    code, out, err = await command(index, "topic", "create", "t", "--on", "alice", "--replicas", "3")
    assert (code, err) == (0, "")
    assert out == (
        "created topic t, owned by alice, with replicas on bob; 1 more will be made once there are peers for them\n"
    )
    code, out, _ = await command(index, "topic", "replicas", "t")
    assert [line.split() for line in out.splitlines()] == [
        ["PEER", "ROLE", "IN_SYNC", "ALIVE", "LEAVING", "ZONE"],
        ["alice", "owner", "yes", "yes", "no", "north"],
        ["bob", "replica", "no", "yes", "no", "south"],
    ]
    code, out, _ = await command(index, "topic", "list")
    assert "1 of its copies are in sync, 2 must be" in out
    record = await record_of(index, "t")
    await crowd["alice"].propose("t", ["alice", "bob"], version=record.version)
    code, out, _ = await command(index, "topic", "promote", "t", "bob", "--json")
    assert json.loads(out) == {"topic": "t", "owner": "bob", "note": "peer bob owns it now; nothing is lost"}
    code, out, err = await command(index, "topic", "replicas", "t", "--remove", "carol")
    assert (code, out) == (1, "")
    assert "peer carol holds no copy of topic t" in err
    await crowd.start(index, "carol")
    code, out, _ = await command(index, "topic", "replicas", "t", "--move", "alice", "carol")
    assert code == 0
    assert "alice (leaves once the others are in sync)" in out
    assert "carol (not in sync yet)" in out


@pytest.mark.parametrize("make_registry", ["embedded"], indirect=True)
async def test_draining_waits_tells_how_far_it_is_and_goes_on_without_the_command(
    index: IndexServer, crowd: Crowd, client: pubsub.Client
) -> None:
    await crowd.start(index, "alice", "bob")
    created = await client.create_topic("t", on="alice")
    code, out, err = await command(index, "peer", "drain", "alice", "--within", "1s")
    assert (code, out) == (1, "")
    assert "peer alice: 0 of 1 topic moved (t: the copy on bob is not in sync yet)" in err
    assert "the draining goes on" in err
    waiting = asyncio.create_task(command(index, "peer", "drain", "alice"))
    await crowd["bob"].until_held(created.id)
    record = await record_of(index, "t")
    assert (await crowd["alice"].propose("t", ["alice", "bob"], version=record.version)).applied
    code, out, err = await waiting
    assert (code, out[:23]) == (0, "peer alice is drained: ")
    assert (await record_of(index, "t")).owner == "bob"
    await wait_until(lambda: not crowd["alice"].copies)
    code, out, _ = await command(index, "peer", "drain", "alice", "--cancel")
    assert (code, out) == (0, "peer alice is not drained any more; it holds 0 topics\n")
