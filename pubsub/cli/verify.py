"""`pubsub topic verify`: whether the copies of a topic are as they were stored, and the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec
import typer

from pubsub.cli.ask import ask
from pubsub.cli.options import Index, Json, Timeout, Topic, Verbose
from pubsub.cli.output import print_list
from pubsub.config import DEFAULT_INDEX

if TYPE_CHECKING:
    from pubsub.model import CopyRange

VERIFY_SECONDS = 30.0
FIELDS = ("peer", "role", "start", "stop", "messages", "digest", "equal", "problem")


def verify(
    topic: Topic,
    index: Index = DEFAULT_INDEX,
    as_json: Json = False,
    timeout: Timeout = VERIFY_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Check all copies of a topic against their checksums, and compare them.

    Every peer that holds a copy reads all of it; ranges of 1,000 offsets are compared by their digests. With --json
    there is one object for each range of each copy; for people, ranges without a finding are put together. The exit
    code is 1 if a copy is damaged, differs from the others, is not in sync, or cannot be asked. What is damaged is
    also mended: see docs/replication.md.

    \b
    Examples:
      pubsub topic verify orders
      pubsub topic verify orders --json | jq 'select(.equal == false)'
    """
    found = ask(index, timeout, lambda client: client.verify(topic))
    print_list(found if as_json else _together(found), FIELDS, as_json)
    if not all(part.sound for part in found):
        raise typer.Exit(1)


def _together(found: Iterable[CopyRange]) -> list[CopyRange]:
    """Consecutive ranges of a copy that have the same to be said of them, as one; by copy."""
    merged: list[CopyRange] = []
    for part in sorted(found, key=lambda part: (part.peer, part.start)):
        last = merged[-1] if merged else None
        if (
            last is not None
            and (last.peer, last.stop, last.equal) == (part.peer, part.start, part.equal)
            and last.sound
            and part.sound
            and last.messages is not None
            and part.messages is not None
        ):
            merged[-1] = msgspec.structs.replace(
                last, stop=part.stop, messages=last.messages + part.messages, digest=None
            )
        else:
            merged.append(part)
    return merged
