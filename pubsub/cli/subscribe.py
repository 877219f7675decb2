"""`pubsub subscribe`: messages as they come, until Ctrl-C, a limit, or nobody reads them any more."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pubsub.cli.messages import Formatter, choose_formatter
from pubsub.cli.options import (
    STREAM_SECONDS,
    FormatOption,
    Index,
    Json,
    Limit,
    Timeout,
    Topic,
    Until,
    Verbose,
    choose_format,
    parse_start,
    parse_until,
)
from pubsub.cli.output import on_terminal
from pubsub.cli.run import note, run
from pubsub.cli.stdout import StandardOutput
from pubsub.config import DEFAULT_INDEX
from pubsub.core.group_options import MOST_IN_FLIGHT
from pubsub.errors import LateAcknowledgementError
from pubsub.model import is_pattern

if TYPE_CHECKING:
    from pubsub.client.group import GroupSubscription
    from pubsub.client.subscription import Subscription
    from pubsub.model import Message


class OnLost(enum.StrEnum):
    """What to do where retention has taken messages away that were not read."""

    error = "error"
    skip = "skip"


def subscribe(
    topic: Topic,
    where: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="WHERE",
            show_default=False,
            help="latest (the default), earliest (the default of a new group), an offset, or a time with its "
            "zone such as 2026-01-31T09:30:00Z.",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group",
            metavar="GROUP",
            show_default=False,
            help="Share the messages with the group's other members, and acknowledge each after it was printed.",
        ),
    ] = None,
    max_in_flight: Annotated[
        int | None,
        typer.Option(
            "--max-in-flight",
            metavar="N",
            min=1,
            max=MOST_IN_FLIGHT,
            show_default=False,
            help="With --group: take at most N messages at once; 100 unless told otherwise.",
        ),
    ] = None,
    durable: Annotated[
        str | None,
        typer.Option(
            "--durable",
            metavar="NAME",
            show_default=False,
            help="Go on where the subscription of this name stopped; --from says where it begins the first time.",
        ),
    ] = None,
    on_lost: Annotated[
        OnLost | None,
        typer.Option(
            "--on-lost",
            show_default=False,
            help="If retention has taken away what comes next. error (the default): end. skip: go on at the first "
            "message kept, and say how many were lost.",
        ),
    ] = None,
    until: Until = None,
    limit: Limit = None,
    chosen: FormatOption = None,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = STREAM_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Print messages as they are published.

    They come in order; with --from also older ones. It goes on after a restart of the owner or of the index, at
    the next offset: nothing is left out, nothing comes twice. Ctrl-C ends it, and so does the end of the pipe
    that it writes to.

    TOPIC may be a pattern, with * for one part of a name and > at the end for the rest: then those of all topics
    that it means are printed, also of those that are created later; in order by topic.

    \b
    Examples:
      pubsub subscribe sensors.temp
      pubsub subscribe sensors.temp --from earliest --limit 10
      pubsub subscribe sensors.temp --from 2026-01-31T09:30:00+01:00 --json | jq .payload
      pubsub subscribe logs --from 1200 --format raw | grep ERROR
      pubsub subscribe sensors.temp --durable dashboard --on-lost skip
      pubsub subscribe sensors.temp --from 2026-01-31T09:00:00Z --until 2026-01-31T10:00:00Z
      pubsub subscribe 'sensors.>' --from earliest
      pubsub subscribe jobs --group workers --max-in-flight 10
    """
    start = parse_start(where) if where is not None else "latest" if group is None else "earliest"
    format_ = choose_format(chosen, as_json)
    end = parse_until(until)
    if group is not None and (durable, on_lost, until) != (None, None, None):
        raise typer.BadParameter(
            "--durable, --on-lost and --until exclude it: a group keeps its own place", param_hint="--group"
        )
    if group is None and max_in_flight is not None:
        raise typer.BadParameter("it is an option of --group", param_hint="--max-in-flight")
    from pubsub.client.client import Client

    async def main() -> None:
        async with Client(index, timeout_seconds=timeout) as client:
            formatter = choose_formatter(format_, on_terminal(), is_pattern(topic))
            if group is None:
                async with client.subscribe(
                    topic, start=start, until=end, durable=durable, on_lost=on_lost or OnLost.error
                ) as messages:
                    await copy_while_read(messages, formatter, limit)
            else:
                share = client.subscribe(topic, group=group, start=start, max_in_flight=max_in_flight)
                async with share:
                    await copy_while_read(share, formatter, limit)

    run(main())


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
