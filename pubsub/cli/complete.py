"""Shell completion of names that an index knows. Best effort: in a second, or nothing; never a word on stderr."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import typer

from pubsub.config import DEFAULT_INDEX

if TYPE_CHECKING:
    from pubsub.client.client import Client

ENOUGH_SECONDS = 1.0


def complete_topic(context: typer.Context, incomplete: str) -> list[str]:
    """Topics whose name begins with what has been typed."""
    return _complete(context, incomplete, _topics)


def complete_peer(context: typer.Context, incomplete: str) -> list[str]:
    """Peers whose name begins with what has been typed."""
    return _complete(context, incomplete, _peers)


def complete_group(context: typer.Context, incomplete: str) -> list[str]:
    """Groups, of the topic that has been typed, whose name begins with what has been typed."""
    topic = context.params.get("topic")
    if not topic:
        return []

    async def groups(client: Client) -> list[str]:
        return [group.group for group in await client.groups(topic)]

    return _complete(context, incomplete, groups)


def complete_subscription(context: typer.Context, incomplete: str) -> list[str]:
    """Durable subscriptions, of the topic that has been typed, whose name begins with what has been typed."""
    topic = context.params.get("topic")
    if not topic:
        return []

    async def subscriptions(client: Client) -> list[str]:
        return [info.subscription for info in await client.subscriptions(topic)]

    return _complete(context, incomplete, subscriptions)


async def _topics(client: Client) -> list[str]:
    return [topic.topic for topic in await client.topics()]


async def _peers(client: Client) -> list[str]:
    return [peer.peer for peer in await client.peers()]


def _complete(
    context: typer.Context, incomplete: str, names: Callable[[Client], Coroutine[Any, Any, list[str]]]
) -> list[str]:
    from pubsub.client.client import Client

    async def ask() -> list[str]:
        async with asyncio.timeout(ENOUGH_SECONDS):
            index = context.params.get("index") or DEFAULT_INDEX
            async with Client(index, timeout_seconds=ENOUGH_SECONDS) as client:
                return await names(client)

    logging.disable()
    try:
        return [name for name in asyncio.run(ask()) if name.startswith(incomplete)]
    except Exception:  # no index, or none that answers: then there is nothing to offer
        return []
