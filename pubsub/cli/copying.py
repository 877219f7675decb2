"""Messages to stdout, one batch after the other; those of a group are acknowledged once they are printed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pubsub.cli.messages import Formatter
from pubsub.cli.run import note
from pubsub.cli.stdout import StandardOutput
from pubsub.errors import LateAcknowledgementError

if TYPE_CHECKING:
    from pubsub.client.group import GroupSubscription
    from pubsub.client.subscription import Subscription
    from pubsub.model import Message


async def copy_while_read(
    messages: Subscription | GroupSubscription, formatter: Formatter, limit: int | None
) -> None:
    """Print messages until there are `limit`, or the reader of stdout has gone away."""
    output = StandardOutput()
    copying = asyncio.create_task(_copy(messages, formatter, limit, output), name="pubsub: print messages")
    closed = asyncio.create_task(output.closed(), name="pubsub: notice that nobody reads")
    try:
        await asyncio.wait((copying, closed), return_when=asyncio.FIRST_COMPLETED)
        if copying.done():
            copying.result()
    finally:
        copying.cancel()
        closed.cancel()
        await asyncio.gather(copying, closed, return_exceptions=True)


async def _copy(
    messages: Subscription | GroupSubscription,
    formatter: Formatter,
    limit: int | None,
    output: StandardOutput,
) -> None:
    from pubsub.client.group import GroupSubscription

    left = limit
    while left is None or left > 0:
        if isinstance(messages, GroupSubscription):
            count = await _copy_shared(messages, formatter, left, output)
        else:
            count = await _copy_batch(messages, formatter, left, output)
        if not count:
            return
        left = None if left is None else left - count


async def _copy_batch(
    messages: Subscription, formatter: Formatter, most: int | None, output: StandardOutput
) -> int:
    """Print some messages; returns how many, 0 at the end of the subscription."""
    from pubsub.client.durable import DurableSubscription

    try:
        batch: Sequence[Message] = (await messages.next_batch())[:most]
    except StopAsyncIteration:
        return 0
    await output.write(formatter(batch))
    if len(batch) == most and isinstance(messages, DurableSubscription):
        await messages.commit(batch[-1])  # the last: no more will be asked for
    return len(batch)


async def _copy_shared(
    messages: GroupSubscription, formatter: Formatter, most: int | None, output: StandardOutput
) -> int:
    """Print some messages, then acknowledge them; returns how many."""
    batch = await messages.next_batch(most)
    await output.write(formatter(batch))
    late = 0
    for answer in await asyncio.gather(*(message.ack() for message in batch), return_exceptions=True):
        if isinstance(answer, LateAcknowledgementError):
            late += 1
        elif answer is not None:
            raise answer
    if late:
        note(f"{late} of these were acknowledged too late: they go to another member as well")
    return len(batch)
