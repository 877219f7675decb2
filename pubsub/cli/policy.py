"""The options that say what becomes of a topic's messages: for `topic create` and `topic set`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from pubsub.cli.options import checked
from pubsub.errors import SettingsError
from pubsub.policy import check_parts, parse_changes


def _option(name: str, flag: str, metavar: str, text: str) -> Any:
    return typer.Option(
        flag,
        metavar=metavar,
        show_default=False,
        callback=checked(lambda value: check_parts(parse_changes({name: value}))),
        help=text,
    )


MaxAge = Annotated[
    str | None,
    _option("max_age", "--max-age", "TIME", "Remove messages that are older, such as 7d or 12h; off: never."),
]
MaxMessages = Annotated[
    str | None,
    _option("max_messages", "--max-messages", "N", "Keep the newest N, such as 1_000_000; off: all."),
]
MaxBytes = Annotated[
    str | None,
    _option("max_bytes", "--max-bytes", "SIZE", "Keep the newest that fit, such as 10GiB; off: all."),
]
UntilAcknowledged = Annotated[
    bool | None,
    typer.Option(
        "--until-acknowledged/--no-until-acknowledged",
        show_default=False,
        help="Remove messages once all groups and durable subscriptions are past them; at the latest when a limit "
        "above says so.",
    ),
]
Compact = Annotated[
    bool | None,
    typer.Option(
        "--compact/--no-compact", show_default=False, help="Of each key keep the latest message only."
    ),
]
Dedupe = Annotated[
    str | None,
    _option(
        "dedupe", "--dedupe", "TIME", "How long message ids are remembered; 2m unless given; off: not at all."
    ),
]


Replicas = Annotated[
    str | None,
    _option("replicas", "--replicas", "N", "On how many peers it lives; all but one of them may vanish."),
]
MinInSync = Annotated[
    str | None,
    _option(
        "min_in_sync",
        "--min-in-sync",
        "N",
        "How many copies must have a message; unless given, a majority from three on, else 1.",
    ),
]
ReplicaLag = Annotated[
    str | None,
    _option(
        "replica_lag", "--replica-lag", "TIME", "A copy that is behind for longer is not waited for; 10s."
    ),
]
ReplaceAfter = Annotated[
    str | None,
    _option("replace_after", "--replace-after", "TIME", "A copy that is away for longer is replaced; 5m."),
]


def policy_changes(
    max_age: str | None,
    max_messages: str | None,
    max_bytes: str | None,
    until_acknowledged: bool | None,
    compact: bool | None,
    dedupe: str | None,
    replicas: str | None = None,
    min_in_sync: str | None = None,
    replica_lag: str | None = None,
    replace_after: str | None = None,
) -> dict[str, Any]:
    """What was given of them, as `Client.set_policy` takes it.

    Raises:
        typer.BadParameter: two exclude each other.
    """
    given = {
        "max_age": max_age,
        "max_messages": max_messages,
        "max_bytes": max_bytes,
        "until_acknowledged": until_acknowledged,
        "compact": compact,
        "dedupe": dedupe,
        "replicas": replicas,
        "min_in_sync": min_in_sync,
        "replica_lag": replica_lag,
        "replace_after": replace_after,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    try:
        check_parts(parse_changes(changes))  # what excludes each other is a usage error too
    except SettingsError as error:
        raise typer.BadParameter(error.message) from error
    return changes
