"""The options that say when, where and how often `pubsub publish` stores what it is given."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple

import typer

from pubsub.cli.options import checked, parse_start
from pubsub.errors import SettingsError, shown
from pubsub.policy import parse_duration


def _check_acks(text: str) -> str:
    """Raises SettingsError: it is none of the words."""
    if text not in ("owner", "all"):
        raise SettingsError(f"{shown(text)} is neither owner nor all")
    return text


Delay = Annotated[
    str | None,
    typer.Option(
        "--delay",
        metavar="TIME",
        show_default=False,
        callback=checked(lambda text: parse_duration(text, "--delay")),
        help="Hold each message for so long, such as 10s or 1h30m. `pubsub topic scheduled` lists what is held.",
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        metavar="TIME",
        show_default=False,
        help="Hold each message until then, a time with its zone such as 2026-01-31T09:30:00Z.",
    ),
]
MessageId = Annotated[
    str | None,
    typer.Option(
        "--message-id",
        metavar="ID",
        show_default=False,
        help="Published again under this id within the topic's window (2m unless set), it is not stored again.",
    ),
]
ExpectOffset = Annotated[
    int | None,
    typer.Option(
        "--expect-offset",
        metavar="N",
        min=0,
        max=2**63 - 1,
        show_default=False,
        help="Publish only if the message, or the first with --atomic, gets this offset.",
    ),
]
Atomic = Annotated[
    bool,
    typer.Option(
        "--atomic", help="Publish all messages or none, at once; of stdin: after its end. At most 10,000."
    ),
]


Acks = Annotated[
    str | None,
    typer.Option(
        "--acks",
        metavar="owner|all",
        show_default=False,
        callback=checked(_check_acks),
        help="Of a replicated topic: wait for its owner's disk, or for all copies that are in sync (the default).",
    ),
]


class Terms(NamedTuple):
    """How to publish; `options` are those of `Client.publish_many`."""

    options: dict[str, Any]
    message_id: str | None

    @property
    def atomic(self) -> bool:
        """Whether all messages go as one."""
        return bool(self.options["atomic"])

    @property
    def later(self) -> bool:
        """Whether messages are held."""
        return bool(self.options["delay_seconds"] or self.options["deliver_at"])


def parse_terms(
    count: int | None,
    delay: str | None,
    at: str | None,
    message_id: str | None,
    expect_offset: int | None,
    atomic: bool,
    acks: str | None = None,
) -> Terms:
    """Put the options together.

    Args:
        count: How many messages were given as arguments; None: they come from stdin.

    Raises:
        typer.BadParameter: one cannot be, or two exclude each other.
    """
    if delay is not None and at is not None:
        raise typer.BadParameter("give --delay or --at, not both", param_hint="--at")
    later = "--delay" if delay is not None else "--at" if at is not None else None
    if message_id is not None:
        if count != 1:
            raise typer.BadParameter(
                "it is the id of one message: give one MESSAGE", param_hint="--message-id"
            )
        if later:
            raise typer.BadParameter(f"{later} takes no --message-id", param_hint="--message-id")
    if expect_offset is not None:
        if later:
            raise typer.BadParameter(f"{later} takes no --expect-offset", param_hint="--expect-offset")
        if count != 1 and not atomic:
            raise typer.BadParameter("for several messages it needs --atomic", param_hint="--expect-offset")
    options = {
        "delay_seconds": None if delay is None else parse_duration(delay, "--delay"),
        "deliver_at": None if at is None else _parse_at(at),
        "expect_offset": expect_offset,
        "atomic": atomic or expect_offset is not None,
        "acks": acks,
    }
    return Terms(options, message_id)


def _parse_at(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a time such as 2026-01-31T09:30:00Z", param_hint="--at"
        ) from None
    if instant.tzinfo is None:
        parse_start(instant.isoformat(), "--at")  # which says what is missing
    if instant < datetime.now(UTC):
        raise typer.BadParameter(f"{text} has passed; to publish now, leave it out", param_hint="--at")
    return instant
