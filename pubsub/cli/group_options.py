"""Options of `pubsub subscribe` that belong to `--group`: what the member takes, and how a new group is made."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pubsub.cli.options import a_number
from pubsub.core.group_options import LEASE_SECONDS, MOST_ATTEMPTS, MOST_BACKOFF_SECONDS, MOST_IN_FLIGHT

Group = Annotated[
    str | None,
    typer.Option(
        "--group",
        metavar="GROUP",
        show_default=False,
        help="Share the messages with the group's other members, and acknowledge each after it was printed.",
    ),
]
MaxInFlight = Annotated[
    int | None,
    typer.Option(
        "--max-in-flight",
        metavar="N",
        min=1,
        max=MOST_IN_FLIGHT,
        show_default=False,
        help="With --group: take at most N messages at once; 100 unless told otherwise.",
    ),
]
LeaseSeconds = Annotated[
    float | None,
    typer.Option(
        "--lease-seconds",
        metavar="SECONDS",
        min=LEASE_SECONDS[0],
        max=LEASE_SECONDS[1],
        callback=a_number,
        show_default=False,
        help="With --group, for a new one: give a message to another member after so long without a word; 30.",
    ),
]
MaxAttempts = Annotated[
    int | None,
    typer.Option(
        "--max-attempts",
        metavar="N",
        min=1,
        max=MOST_ATTEMPTS,
        show_default=False,
        help="With --group, for a new one: give a message out so often, then it is a dead letter; 5.",
    ),
]
BackoffSeconds = Annotated[
    float | None,
    typer.Option(
        "--backoff-seconds",
        metavar="SECONDS",
        min=0,
        max=MOST_BACKOFF_SECONDS,
        callback=a_number,
        show_default=False,
        help="With --group, for a new one: wait so long after a failed attempt, twice as long after each more; 1.",
    ),
]
Ordered = Annotated[
    bool,
    typer.Option(
        "--ordered",
        help="With --group: never have two messages of one key in flight. A group that is there must be ordered.",
    ),
]


def check_with_group(group: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Those of the options of a group that are given.

    Raises:
        typer.BadParameter: there are some, and no group.
    """
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    if group is None and given:
        flag = "--" + next(iter(given)).replace("_", "-")
        raise typer.BadParameter("it is an option of --group", param_hint=flag)
    return given
