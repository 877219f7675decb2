"""`pubsub demo`: all of it at work on this machine: an index, three peers, two subscribers, real readings."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pubsub.cli.demo_schedule import OVER_SECONDS
from pubsub.cli.options import Json, Verbose
from pubsub.cli.output import print_json
from pubsub.cli.run import note, run
from pubsub.errors import DataDirectoryError, InternalError, reason_of

if TYPE_CHECKING:
    from pubsub.cli.demo_story import Demo
    from pubsub.cli.demo_summary import Summary


PATIENCE_SECONDS = 0.5


def demo(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            show_default=False,
            help="Keep the files here; without it, in a temporary directory that is removed.",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="Leave the index, the peers and the subscribers running at the end."),
    ] = False,
    as_json: Json = False,
    verbose: Verbose = 0,
) -> None:
    """See all of it at work.

    Starts an index, three peers and two subscribers as processes of their own on free ports, and publishes live
    readings of this machine to a topic on each peer, and to one that has a copy on all three. In the middle the
    owner of that one is killed with -9: another peer takes over, and the killed one is brought back. Counts what
    arrived. Takes about 12 seconds. Exit code 0 only if nothing was lost, nothing came twice, and a new owner
    took over.

    \b
    Examples:
      pubsub demo
      pubsub demo --keep          # then look around with redis-cli, sqlite3 and pubsub itself
      pubsub demo --json | jq .lost
    """
    from pubsub.cli.demo_story import Demo
    from pubsub.cli.demo_summary import summary_lines

    directory = data or Path(tempfile.mkdtemp(prefix="pubsub-demo-"))
    removed = data is None and not keep
    try:
        _make(directory)
        story = Demo(directory, keep)
        summary = run(_until_over(story))
    finally:
        if removed:
            shutil.rmtree(directory, ignore_errors=True)
    if as_json:
        print_json(summary)
        for line in story.hints(removed) if keep else ():
            note(line)
    else:
        print("\n".join([*summary_lines(summary), "", *story.hints(removed)]))
    if not summary.flawless:
        raise typer.Exit(1)


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataDirectoryError(f"{directory} is not a directory; give another with --data") from error
    except OSError as error:
        raise DataDirectoryError(f"the directory {directory} cannot be made: {reason_of(error)}") from error


async def _until_over(story: Demo) -> Summary:
    """Tell the story to its end, or until a signal; its processes end in either case, if they are not to be kept."""
    loop = asyncio.get_running_loop()
    telling = asyncio.create_task(story.tell(), name="pubsub: demo")
    came: list[int] = []

    def give_up() -> None:
        if not telling.done():
            telling.cancel()
            # Again for what then still waits for the acknowledgement of a peer that is down.
            loop.call_later(PATIENCE_SECONDS, give_up)

    def stop(number: int) -> None:
        came.append(number)
        give_up()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop, number)
    try:
        _, late = await asyncio.wait((telling,), timeout=OVER_SECONDS)
        if late:
            give_up()
            await asyncio.wait((telling,))
    finally:
        await story.end()
    if came:
        raise typer.Exit(128 + came[0])
    if telling.cancelled():
        raise InternalError(f"the demo cannot go on: it is not over after {OVER_SECONDS:g} s")
    return telling.result()
