"""Follows the events channel of a Redis, whatever happens to the connection.

Redis tells a subscriber only what happens while it is connected. So each time a subscription has begun,
this says "resync". A connection on which nothing is heard, not even the answer to a ping, is given up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from redis.asyncio import RedisCluster

from pubsub.registry.cancellation import keep_cancellation
from pubsub.registry.commands import REDIS_ERRORS
from pubsub.registry.connections import RedisClient
from pubsub.registry.interface import Event
from pubsub.registry.records import decode_event

_SILENCE_SECONDS = 2.0
"""After so long without a message a ping is sent; after twice as long the connection is given up."""
_BACKOFF_FIRST_SECONDS = 0.05
_BACKOFF_MOST_SECONDS = 1.0
_BATCH_EVENTS = 1000
"""Most events given at once; more wait in the socket, and then in Redis, which bounds them."""


async def watch_events(client: RedisClient, channel: str) -> AsyncGenerator[list[Event], None]:
    """Give events in batches, for ever."""
    pause_seconds = _BACKOFF_FIRST_SECONDS
    while True:
        try:
            async with aclosing(_follow(client, channel)) as batches:
                async for events in batches:
                    pause_seconds = _BACKOFF_FIRST_SECONDS
                    yield events
        except REDIS_ERRORS:
            if isinstance(client, RedisCluster):
                with (
                    keep_cancellation()
                ):  # forgets which node serves what; the next subscription finds out anew
                    await client.aclose()
            await asyncio.sleep(pause_seconds * random.uniform(0.5, 1.0))
            pause_seconds = min(2 * pause_seconds, _BACKOFF_MOST_SECONDS)


async def _follow(client: RedisClient, channel: str) -> AsyncGenerator[list[Event], None]:
    """Give events as long as one subscription lasts; raises what the library raises when it ends."""
    if isinstance(
        client, RedisCluster
    ):  # its subscriptions, other than its commands, do not see to that themselves
        with keep_cancellation():
            await client.initialize()
    pubsub: Any = client.pubsub()
    try:
        with keep_cancellation():
            await pubsub.subscribe(channel)
        while True:
            with keep_cancellation():
                events = await _next_events(pubsub)
            if events:
                yield list(dict.fromkeys(events))  # the same change told twice is one change
    finally:
        with keep_cancellation():
            await pubsub.aclose()


async def _next_events(pubsub: Any) -> list[Event]:
    """What has come, as soon as something has."""
    message = await pubsub.get_message(timeout=_SILENCE_SECONDS)
    if message is None:
        await pubsub.ping()
        message = await pubsub.get_message(timeout=_SILENCE_SECONDS)
        if message is None:
            raise TimeoutError("the subscription is silent")
    events: list[Event] = []
    while message is not None:
        events += _events_of(message)
        message = await pubsub.get_message(timeout=0) if len(events) < _BATCH_EVENTS else None
    return events


def _events_of(message: dict[str, Any]) -> list[Event]:
    if message["type"] == "subscribe":  # also when the library has reconnected by itself
        return [Event(kind="resync")]
    return [decode_event(message["data"])] if message["type"] == "message" else []
