"""`pubsub bench`: how fast a running index and its peers are, measured from here by processes of its own."""

from __future__ import annotations

import asyncio
import math
import re
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from pubsub.cli.complete import complete_peer, complete_topic
from pubsub.cli.options import LOOKUP_SECONDS, Index, Json, Timeout, Verbose
from pubsub.cli.output import print_json
from pubsub.cli.run import note, run
from pubsub.config import DEFAULT_INDEX, Limits
from pubsub.errors import SettingsError
from pubsub.policy import parse_count, parse_size

if TYPE_CHECKING:
    from pubsub.cli.bench_result import Finding
    from pubsub.cli.bench_run import Bench

LEAST_BYTES = 16
"""What each message carries: its stream and number, and the instant from which its latency counts."""

MOST_PUBLISHERS, MOST_SUBSCRIBERS = 100, 1000
LEAST_SECONDS, MOST_SECONDS = 0.1, 86_400.0
MOST_RATE = 1_000_000


def bench(
    publishers: Annotated[
        int,
        typer.Option(
            "--publishers", metavar="N", min=1, max=MOST_PUBLISHERS, help="How many publish at the same time."
        ),
    ] = 1,
    subscribers: Annotated[
        int,
        typer.Option(
            "--subscribers", metavar="N", min=1, max=MOST_SUBSCRIBERS, help="How many get every message."
        ),
    ] = 1,
    size: Annotated[
        str,
        typer.Option("--size", metavar="SIZE", help="Of a message, such as 100, 1KiB or 64KiB; at least 16."),
    ] = "100",
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="S", help="How long to publish; from 0.1 to 86400.")
    ] = 5.0,
    rate: Annotated[
        str | None,
        typer.Option(
            "--rate",
            metavar="N/s",
            show_default=False,
            help="Publish so many messages a second in all, such as 1000/s, whether or not earlier ones are "
            "acknowledged. Without it: as fast as they are.",
        ),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(
            "--topic",
            metavar="NAME",
            autocompletion=complete_topic,
            show_default=False,
            help="Publish to this topic. One that is there stays there, with what is published; one that is not is "
            "made, and deleted at the end. Without it: a new topic with a random name.",
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="PEER",
            autocompletion=complete_peer,
            show_default=False,
            help="The peer to measure, which shall own the topic. Without it: the least loaded one that is alive.",
        ),
    ] = None,
    keep_topic: Annotated[
        bool, typer.Option("--keep-topic", help="Do not delete the topic at the end.")
    ] = False,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = LOOKUP_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Measure your own index and peers.

    Publishers and subscribers run as processes of their own on this machine. A topic is made for them and deleted
    at the end, also after Ctrl-C, which ends the publishing and shows what was measured so far. What is published
    takes space on the owner's disk until then. Each subscriber checks that every message comes, once, in order.
    Exit code 0 only if all did; 1 if a message was lost, doubled or out of order, or an error ended it.

    What is measured: flat out, each publisher keeps 4 calls of publish_many() waiting, with up to 1,000 messages
    each (fewer if they are large). The latency of every message counts from the beginning of its call: to the
    acknowledgement, which is the end of the call, after the fsync; and to the delivery, when next_batch() hands it
    to a subscriber. So it holds the wait in the publisher's own queue: that is what full speed costs. With --rate
    it counts from the instant at which the message was due, late or not, and calls hold what has become due. For
    the latency of a peer that is not at its limit, give a --rate below it.

    Percentiles are at most 0.8 % too large and never too small; max is exact.

    \b
    Examples:
      pubsub bench
      pubsub bench --publishers 2 --subscribers 8 --size 1KiB --seconds 10
      pubsub bench --rate 1000/s --on alice
      pubsub bench --json | jq .ack_ms.p99
    """
    size_bytes, per_second = parse_message_size(size), None if rate is None else parse_rate(rate)
    check_seconds(seconds)
    from pubsub.cli.bench_result import print_finding
    from pubsub.cli.bench_run import Bench, Terms
    from pubsub.cli.bench_view import View

    terms = Terms(
        index=index,
        topic=topic,
        on=on,
        keep_topic=keep_topic,
        publishers=publishers,
        subscribers=subscribers,
        size_bytes=size_bytes,
        seconds=seconds,
        rate=per_second,
        timeout_seconds=timeout,
        verbose=verbose,
    )

    async def main() -> tuple[Finding, int]:
        measuring = Bench(terms, View())
        found, number = await _until_over(measuring)
        return found, 128 + number if number else int(measuring.unclean)

    finding, code = run(main())
    if as_json:
        print_json(finding.result)
    else:
        print_finding(finding)
    if not finding.result.flawless:
        code = 1
    elif not finding.result.published and not code:
        note("nothing was published")
        code = 1
    if code:
        raise typer.Exit(code)


async def _until_over(measuring: Bench) -> tuple[Finding, int]:
    """Measure to the end, or to that of what has begun when a signal comes. Returns: also that signal, or 0.

    Raises:
        typer.Exit: it came before anything was measured, or once more.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(measuring.run(), name="pubsub: bench")
    came: list[int] = []

    def stop(number: int) -> None:
        came.append(number)
        if not measuring.stop():
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    await asyncio.wait((task,))
    if task.cancelled() and came:
        raise typer.Exit(128 + came[0])
    return task.result(), came[0] if came else 0


def parse_message_size(text: str) -> int:
    """Read what --size may say.

    Raises:
        typer.BadParameter: it says something else.
    """
    most = Limits().message_bytes
    try:
        size_bytes = parse_size(text)
    except SettingsError:
        size_bytes = 0
    if not LEAST_BYTES <= size_bytes <= most:
        raise typer.BadParameter(
            f"{_short(text)} is not a size from {LEAST_BYTES} to {most:,} bytes, such as 100, 1KiB or 64KiB",
            param_hint="--size",
        )
    return size_bytes


def parse_rate(text: str) -> int:
    """Read what --rate may say: messages a second.

    Raises:
        typer.BadParameter: it says something else.
    """
    try:
        rate = parse_count(re.sub(r" ?/ ?s$", "", text))
    except SettingsError:
        rate = 0
    if not 1 <= rate <= MOST_RATE:
        raise typer.BadParameter(
            f"{_short(text)} is not a rate from 1 to {MOST_RATE:,} messages a second, such as 1000/s",
            param_hint="--rate",
        )
    return rate


def check_seconds(seconds: float) -> None:
    """
    Raises:
        typer.BadParameter: it is no time to publish.
    """
    if not (math.isfinite(seconds) and LEAST_SECONDS <= seconds <= MOST_SECONDS):
        raise typer.BadParameter(
            f"{seconds:g} is not from {LEAST_SECONDS:g} to {MOST_SECONDS:g}", param_hint="--seconds"
        )


def _short(text: str) -> str:
    """A wrong value within a message of one line."""
    return repr(text) if len(text) <= 40 else repr(text[:37]) + "…"
