"""`pubsub subscribe`: messages as they come, until Ctrl-C, a limit, or nobody reads them any more."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from pubsub.cli.copying import copy_while_read
from pubsub.cli.group_options import (
    BackoffSeconds,
    Group,
    LeaseSeconds,
    MaxAttempts,
    MaxInFlight,
    Ordered,
    check_with_group,
)
from pubsub.cli.messages import choose_formatter
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
from pubsub.cli.run import run
from pubsub.config import DEFAULT_INDEX
from pubsub.model import is_pattern

if TYPE_CHECKING:
    pass


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
    group: Group = None,
    max_in_flight: MaxInFlight = None,
    lease_seconds: LeaseSeconds = None,
    max_attempts: MaxAttempts = None,
    backoff_seconds: BackoffSeconds = None,
    ordered: Ordered = False,
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
      pubsub subscribe orders --group billing --ordered --lease-seconds 60 --max-attempts 3
    """
    start = parse_start(where) if where is not None else "latest" if group is None else "earliest"
    format_ = choose_format(chosen, as_json)
    end = parse_until(until)
    if group is not None and (durable, on_lost, until) != (None, None, None):
        raise typer.BadParameter(
            "--durable, --on-lost and --until exclude it: a group keeps its own place", param_hint="--group"
        )
    options = check_with_group(
        group,
        {
            "max_in_flight": max_in_flight,
            "lease_seconds": lease_seconds,
            "max_attempts": max_attempts,
            "backoff_seconds": backoff_seconds,
            "ordered": ordered,
        },
    )
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
                share = client.subscribe(topic, group=group, start=start, **options)
                async with share:
                    await copy_while_read(share, formatter, limit)

    run(main())
