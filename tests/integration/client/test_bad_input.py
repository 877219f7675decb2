"""Bad input for every option of every verb: an error of one line that names it, and nothing else happens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest

import pubsub
from pubsub.errors import InternalError, ProtocolError

HUGE = 10**400
NAN, INFINITE = float("nan"), float("inf")
NO_NUMBER: list[Any] = ["x", "", b"1", [], {}, True, object()]
NO_COUNT = [0, -1, -HUGE, 1.5, NAN, INFINITE, *NO_NUMBER]
NO_SECONDS = [-1, -INFINITE, INFINITE, NAN, HUGE, -HUGE, *NO_NUMBER]
NO_NAME: list[Any] = ["", "a b", "a\nb", "\ud800", "ä", "x" * 65, 5, b"a", [], object()]
NO_POSITION: list[Any] = [-1, HUGE, -HUGE, 2**63, 1.5, NAN, "x", "", b"1", [], True, datetime(2026, 1, 1)]
NO_SWITCH: list[Any] = [1, "yes", "off", [], object()]

SUBSCRIBE: dict[str, list[Any]] = {
    "start": [*NO_POSITION, None, 1000],
    "until": NO_POSITION,
    "durable": NO_NAME,
    "on_lost": ["x", "", 1, None, True],
    "reconnect_seconds": [0, *NO_SECONDS],
    "group": NO_NAME,
}
IN_A_GROUP: dict[str, list[Any]] = {
    "max_in_flight": [*NO_COUNT, 10_001, HUGE],
    "lease_seconds": [0, 0.01, 86_401, *NO_SECONDS],
    "max_attempts": [*NO_COUNT, 1_000_001, HUGE],
    "backoff_seconds": [86_401, *NO_SECONDS],
    "ordered": NO_SWITCH,
    "start": [*NO_POSITION, None],
    "until": [3],
    "durable": ["d"],
    "auto_commit": [False],
    "on_lost": ["skip"],
}
PUBLISH: dict[str, list[Any]] = {
    "key": [5, b"k", "\ud800", "x" * 2**21],
    "headers": [0, "", [], False, 5, "x", {1: "a"}, {"a": 1}, {"a": None}, {"a": "\ud800"}, [("a", "b")]],
    "message_id": ["", 5, b"x", "\ud800", "x" * 201],
    "expect_offset": [-1, 2**63, 10**30, 1.5, NAN, *NO_NUMBER, 99],
    "delay_seconds": [0, 3661 * 86_400, *NO_SECONDS],
    "deliver_at": [5, NAN, "2027-01-01T00:00:00Z", datetime(2027, 1, 1), datetime.max.astimezone()],
}
POLICY: dict[str, list[Any]] = {
    "max_age": [0, "0s", "7", "7x", "-7d", "d", 36_501 * 86_400, *NO_SECONDS],
    "max_messages": [*NO_COUNT, HUGE, 2**53, "1e3", "-5"],
    "max_bytes": [0, -1, 1.5, NAN, HUGE, 2**53, "1XB", "10gib", "-1MB", "x", "", b"1", [], True],
    "dedupe": ["31d", "0s", *NO_SECONDS],
    "until_acknowledged": [1, "yes", [], 0],
    "compact": [1, "yes", [], 0],
    "max_weight": [1],
}
VERBS: dict[str, list[tuple[Any, ...]]] = {
    "query": [("a.b", {"limit": limit}) for limit in NO_COUNT]
    + [("a.b", {"start": start}) for start in [*NO_POSITION, 1000]]
    + [("a.b", {"until": until}) for until in [*NO_POSITION, "latest"]]
    + [("a.b", {"key": key}) for key in (5, b"k", "\ud800")]
    + [("a.b", {"headers": headers}) for headers in (0, "", 5, {1: "a"}, {"a": 1}, {"a": "\ud800"})],
    "scheduled": [("a.b", {"limit": limit}) for limit in NO_COUNT],
    "cancel_scheduled": [("a.b",), ("a.b", 2**63), *(("a.b", number) for number in NO_COUNT)],
    "groups": [(name,) for name in ("", "a..b", "*", 5, [])],
    "group": [("a.b", name) for name in [*NO_NAME, "unknown"]],
    "peek_group": [("a.b", "g", {"limit": limit}) for limit in [*NO_COUNT, 1001, HUGE]],
    "reset_group": [("a.b", "g", to) for to in [*NO_POSITION, 1000, None]],
    "redrive_group": [("a.b", name) for name in [*NO_NAME, "unknown"]],
    "delete_group": [("a.b", name) for name in [*NO_NAME, "unknown"]],
    "subscription": [("a.b", name) for name in [*NO_NAME, "unknown"]],
    "subscriptions": [(name,) for name in ("", "a..b", "*", 5, [])],
    "reset_subscription": [("a.b", "d", to) for to in [*NO_POSITION, 1000, None]],
    "delete_subscription": [("a.b", name) for name in [*NO_NAME, "unknown"]],
    "publish": [("a.b", payload) for payload in (5, 1.5, True, [], {}, "\ud800", b"x" * 2**21)],
    "publish_json": [("a.b", value) for value in (NAN, INFINITE, object(), b"x", {1, 2}, "\ud800")],
    "publish_many": [("a.b", what) for what in (5, None, NAN, True, b"x", "x", [5], [None, 5])]
    + [("a.b", [b"x"], {"atomic": what}) for what in NO_SWITCH]
    + [("a.b", [b"x"], {"expect_offset": 0}), ("a.b", [b"x"], {"atomic": True, "expect_offset": 99})],
    "create_topic": [
        (name,) for name in ("", "a..b", "*", "a.>", "x" * 201, "a.dead", "dead", 5, None, b"a", "\ud800")
    ],
}


@pytest.fixture
async def client(peer: pubsub.Peer) -> Any:
    await peer.publish_many("a.b", [b"0", b"1"])
    async with pubsub.Client(peer.address, timeout_seconds=5) as client:
        async with client.subscribe("a.b", group="g"), client.subscribe("a.b", durable="d"):
            pass
        yield client


@asynccontextmanager
async def refused(what: str) -> Any:
    with pytest.raises(pubsub.PubsubError) as caught:
        async with asyncio.timeout(8):
            yield
    error = caught.value
    assert not isinstance(error, ProtocolError | InternalError), f"{what}: {error!r}"
    assert "\n" not in error.message, f"{what}: {error!r}"
    assert len(error.message) < 300, f"{what}: {error!r}"


@pytest.mark.parametrize("name", sorted(SUBSCRIBE))
async def test_a_subscription(client: pubsub.Client, name: str) -> None:
    for value in SUBSCRIBE[name]:
        async with refused(f"{name}={value!r}"), client.subscribe("a.b", **{name: value}):
            pass
    assert len(await client.groups("a.b")) == 1
    assert len(await client.subscriptions("a.b")) == 1


@pytest.mark.parametrize("name", sorted(IN_A_GROUP))
async def test_a_member_of_a_group(client: pubsub.Client, name: str) -> None:
    for value in IN_A_GROUP[name]:
        async with refused(f"{name}={value!r}"), client.subscribe("a.b", group="new", **{name: value}):
            pass
    assert [info.group for info in await client.groups("a.b")] == ["g"]


@pytest.mark.parametrize("name", sorted(PUBLISH))
async def test_a_publish(client: pubsub.Client, name: str) -> None:
    for value in PUBLISH[name]:
        async with refused(f"{name}={value!r}"):
            await client.publish("a.b", b"x", **{name: value})
    assert await client.publish("a.b", b"x") == 2
    assert await client.scheduled("a.b") == []


@pytest.mark.parametrize("name", sorted(POLICY))
async def test_a_policy(client: pubsub.Client, name: str) -> None:
    for value in POLICY[name]:
        async with refused(f"{name}={value!r}"):
            await client.set_policy("a.b", **{name: value})
    assert (await client.topic("a.b")).policy == {}


@pytest.mark.parametrize("verb", sorted(VERBS))
async def test_another_verb(client: pubsub.Client, verb: str) -> None:
    call: Callable[..., Awaitable[object]] = getattr(client, verb)
    for arguments in VERBS[verb]:
        options = (
            arguments[-1] if arguments and isinstance(arguments[-1], dict) and len(arguments) > 1 else {}
        )
        if not (verb == "publish" and options == {}):
            arguments = arguments[:-1] if options else arguments
        async with refused(f"{verb}{arguments!r} {options!r}"):
            await call(*arguments, **options)
    assert len(await client.query("a.b")) == 2
    assert len(await client.groups("a.b")) == 1


async def test_what_a_member_does(client: pubsub.Client) -> None:
    async with client.subscribe("a.b", group="g") as messages:
        message = await anext(messages)
        for delay in [365 * 86_400 + 1, *NO_SECONDS]:
            async with refused(f"nack({delay!r})"):
                await message.nack(delay)
        for most in NO_COUNT:
            async with refused(f"next_batch({most!r})"):
                await messages.next_batch(most)
        for handler in (5, "x", []):
            async with refused(f"run({handler!r})"):
                await messages.run(handler)  # type: ignore[arg-type]
        for concurrency in [*NO_COUNT, 101, HUGE, None]:
            async with refused(f"concurrency={concurrency!r}"):
                await messages.run(_nothing, concurrency=concurrency)
        assert not message.settled
        await message.ack()


async def test_a_handler_that_is_no_async_function(client: pubsub.Client) -> None:
    async with client.subscribe("a.b", group="g") as messages, refused("a handler that returns None"):
        await messages.run(lambda message: None)  # type: ignore[arg-type, return-value]
    assert (await client.group("a.b", "g")).dead == 0


async def test_what_a_durable_subscriber_commits(client: pubsub.Client, peer: pubsub.Peer) -> None:
    async with client.subscribe("a.b", durable="new", start="earliest", auto_commit=False) as messages:
        await anext(messages)
        for through in (0, -1, HUGE, "x", True, object(), (await client.query("a.b"))[1]):
            async with refused(f"commit({through!r})"):
                await messages.commit(through)  # type: ignore[arg-type]
        assert messages.committed == 0


async def _nothing(message: pubsub.GroupMessage) -> None:
    pass
