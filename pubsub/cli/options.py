"""Options that several commands share, and how their text is read. A mistake in one is a usage error.

Values that the rest of pubsub checks (names of topics, say) are left to it.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated

import typer

from pubsub.cli.complete import complete_peer, complete_topic
from pubsub.cli.logs import set_up_logging
from pubsub.errors import SettingsError
from pubsub.model import parse_address, parse_addresses

LOOKUP_SECONDS = 5.0
"""How long a command that asks something tries, before it says that nobody answers."""

STREAM_SECONDS = 30.0
"""The same for publish and subscribe, which an owner's restart should not disturb."""


class Format(enum.StrEnum):
    """How messages are printed."""

    pretty = "pretty"
    raw = "raw"
    json = "json"


def checked(check: Callable[[str], object]) -> Callable[[str | None], str | None]:
    """An option callback that leaves the text as it is, and turns what `check` raises into a usage error."""

    def callback(text: str | None) -> str | None:
        if text is not None:
            try:
                check(text)
            except SettingsError as error:
                raise typer.BadParameter(error.message) from error
        return text

    return callback


def _count_verbose(count: int) -> int:
    set_up_logging(count)
    return count


def a_number(value: float | None) -> float | None:
    """An option callback that refuses nan, which is below no least and above no most value."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is no number")
    return value


check_address = checked(parse_address)

Index = Annotated[
    str,
    typer.Option(
        "--index",
        envvar="PUBSUB_INDEX",
        metavar="HOST:PORT",
        callback=checked(parse_addresses),
        help="An index or any peer; or several, separated by commas: when one does not answer, the next is asked.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]
Relay = Annotated[
    bool, typer.Option("--relay", help="Go through the index, where the peers cannot be reached. Slower.")
]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.1,
        callback=a_number,
        help="How long to try when somebody does not answer.",
    ),
]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        metavar="",
        show_default=False,
        callback=_count_verbose,
        help="Log to stderr what happens; -vv: everything.",
    ),
]
Topic = Annotated[
    str, typer.Argument(metavar="TOPIC", autocompletion=complete_topic, show_default=False, help="Its name.")
]
PeerName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", autocompletion=complete_peer, show_default=False, help="Name of the peer."
    ),
]
From = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="WHERE",
        help="earliest, latest, an offset, or a time with its zone such as 2026-01-31T09:30:00Z.",
    ),
]
To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="WHERE",
        show_default=False,
        help="earliest, latest, an offset, or a time with its zone such as 2026-01-31T09:30:00Z.",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="WHERE",
        show_default=False,
        help="End before this offset, or before this time with its zone such as 2026-01-31T09:30:00Z.",
    ),
]
FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        show_default=False,
        help="pretty (the default): for people. raw: the payload and a newline. json: one object per line.",
    ),
]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, show_default=False, help="End after N messages.")
]


def parse_start(text: str, option: str = "--from") -> str | int | datetime:
    """Read what --from, or another such option, may say.

    Raises:
        typer.BadParameter: it says something else, or a time without its zone.
    """
    if text in ("earliest", "latest"):
        return text
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not earliest, latest, an offset from 0 on, or a time such as 2026-01-31T09:30:00Z",
            param_hint=option,
        ) from None
    if instant.tzinfo is None:
        raise typer.BadParameter(
            f"the time {text} has no zone; add one, such as {instant.isoformat()}Z for UTC "
            f"or {instant.astimezone().isoformat()} for here",
            param_hint=option,
        )
    return instant


def parse_until(text: str | None) -> int | datetime | None:
    """Read what --until may say.

    Raises:
        typer.BadParameter: it says something else, or a time without its zone.
    """
    if text is None:
        return None
    if text in ("earliest", "latest"):
        raise typer.BadParameter(
            f"{text!r} is no end: give an offset, or a time such as 2026-01-31T09:30:00Z",
            param_hint="--until",
        )
    until = parse_start(text, "--until")
    return None if isinstance(until, str) else until


def parse_headers(texts: Sequence[str] | None) -> dict[str, str] | None:
    """Read K=V texts.

    Raises:
        typer.BadParameter: one has no = or no name.
    """
    headers: dict[str, str] = {}
    for text in texts or ():
        name, separator, value = text.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE, such as unit=C", param_hint="--header")
        headers[name] = value
    return headers or None


def choose_format(chosen: Format | None, as_json: bool) -> Format:
    """--json is short for --format json.

    Raises:
        typer.BadParameter: both are given, and differ.
    """
    if as_json and chosen not in (None, Format.json):
        raise typer.BadParameter("--json and another --format exclude each other", param_hint="--format")
    return Format.json if as_json else chosen or Format.pretty
