"""`pubsub publish`: messages from the command line, or lines of standard input."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pubsub.cli.lines import Lines
from pubsub.cli.options import STREAM_SECONDS, Index, Json, Relay, Timeout, Topic, Verbose, parse_headers
from pubsub.cli.publish_options import Acks, At, Atomic, Delay, ExpectOffset, MessageId, Terms, parse_terms
from pubsub.cli.publish_report import Report
from pubsub.cli.run import on_stop_signal, run
from pubsub.config import DEFAULT_INDEX, Limits
from pubsub.errors import MessageTooLargeError, PubsubError, reason_of

if TYPE_CHECKING:
    from pubsub.client.client import Client
    from pubsub.client.outgoing import Outgoing

FINISH_SECONDS = 3.0
"""How long Ctrl-C waits for the acknowledgement of what has been sent, so that it can say how much is stored."""

NOBODY_READS = 141
"""Exit code when stdout is closed before all was published, as a shell reports it: 128 + SIGPIPE."""


def publish(
    topic: Topic,
    messages: Annotated[
        list[str] | None,
        typer.Argument(metavar="MESSAGE", show_default=False, help="A message; none: one per line of stdin."),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="K", show_default=False, help="Key of each message.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option(
            "--header", metavar="K=V", show_default=False, help="A header of each message. Repeatable."
        ),
    ] = None,
    remove: Annotated[
        bool,
        typer.Option("--remove", help="Publish that the key of --key is removed, in place of a message."),
    ] = False,
    delay: Delay = None,
    at: At = None,
    message_id: MessageId = None,
    expect_offset: ExpectOffset = None,
    atomic: Atomic = False,
    acks: Acks = None,
    index: Index = DEFAULT_INDEX,
    relay: Relay = False,
    as_json: Json = False,
    timeout: Timeout = STREAM_SECONDS,
    verbose: Verbose = 0,
) -> None:
    """Publish messages to a topic.

    When this ends with exit code 0, all of them are on the owner's disk, each once. Each MESSAGE is one message.
    Without any, each line of standard input is one, as soon as it is there: bytes as they are, without the
    newline. Ctrl-C ends it and says how many were acknowledged.

    \b
    Examples:
      pubsub publish sensors.temp 21.5
      pubsub publish sensors.temp 21.5 21.7 --key room-1 --header unit=C
      pubsub publish settings --key room-1 --remove
      pubsub publish reminders 'call back' --delay 1h30m
      pubsub publish orders '{"order":7}' --message-id order-7
      pubsub publish account-7 opened deposited --atomic --expect-offset 0
      pubsub publish logs < app.log
      tail -f app.log | pubsub publish logs --json
    """
    headers = parse_headers(header)
    if remove and (messages or key is None):
        raise typer.BadParameter(
            "it takes the key by --key, and no message" if key is None else "it takes no message",
            param_hint="--remove",
        )
    if not messages and not remove and sys.stdin is None:
        raise typer.BadParameter("give messages, or a standard input to read them from", param_hint="MESSAGE")
    terms = parse_terms(
        1 if remove else len(messages) if messages else None,
        delay,
        at,
        message_id,
        expect_offset,
        atomic,
        acks,
    )
    from pubsub.client.client import Client

    async def main() -> int:
        report = Report(topic, as_json, terms.later)
        async with Client(index, relay=relay, timeout_seconds=timeout) as client:
            publisher = Publisher(client, topic, key, headers, terms, report)
            if remove:
                code = await publisher.publish_removal()
            elif messages:
                # Arguments are bytes to us, in whatever encoding the shell has sent them.
                code = await publisher.publish_arguments([os.fsencode(message) for message in messages])
            else:
                with report.progress():
                    code = await publisher.publish_lines()
        report.finish(code)
        return code

    code = run(main(), nobody_reads=NOBODY_READS)
    if code:
        raise typer.Exit(code)


class Publisher:
    """Publishes to one topic, and reports what was acknowledged whatever happens."""

    def __init__(
        self,
        client: Client,
        topic: str,
        key: str | None,
        headers: Mapping[str, str] | None,
        terms: Terms,
        report: Report,
    ) -> None:
        self._client = client
        self._topic = topic
        self._key = key
        self._headers = headers
        self._terms = terms
        self._report = report

    async def publish_removal(self) -> int:
        """Publish that the key is removed. Returns: the exit code."""
        await self._publish([None], "message")
        return 0

    async def publish_arguments(self, payloads: Sequence[bytes]) -> int:
        """Publish them all. Returns: the exit code."""
        await self._publish(payloads, "message")
        return 0

    async def publish_lines(self) -> int:
        """Publish lines of standard input until it ends, or somebody says stop. Returns: the exit code."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        patience: list[asyncio.TimerHandle] = []

        def stop() -> None:
            lines.stop()
            patience.append(loop.call_later(FINISH_SECONDS, task.cancel))

        stopped_by = on_stop_signal(stop)  # before a byte is read: who has written some may say stop
        lines = Lines(sys.stdin.fileno(), Limits().message_bytes)
        unsure = 0
        try:
            if self._terms.atomic:
                await self._publish(_whole(lines), "line")
            while chunk := await self._take(lines):
                unsure = len(chunk)
                await self._publish(lines.until_stopped(chunk), "line")
                unsure = 0
        except _StoppedEarly:
            pass
        except asyncio.CancelledError:
            if not stopped_by():
                raise
            task.uncancel()
        finally:
            for timer in patience:
                timer.cancel()
        self._report.unsure = unsure
        signal = stopped_by()
        return 128 + signal if signal else 0

    async def _take(self, lines: Lines) -> list[bytes]:
        try:
            return await lines.take()
        except OSError as error:
            raise PubsubError(f"{_unreadable(error)}; {self._report.acknowledged_text()}") from error

    async def _publish(self, payloads: Iterable[bytes | None] | AsyncIterable[bytes], word: str) -> None:
        before = self._report.count
        try:
            offsets = await self._client.publish_many(
                self._topic,
                self._with_id(payloads),
                key=self._key,
                headers=self._headers,
                **self._terms.options,
            )
        except PubsubError as error:
            await self._report.acknowledged(error.acknowledged)
            if isinstance(error, MessageTooLargeError) and "index" in error.data:
                number, limit_bytes = before + error.data["index"] + 1, error.data["limit_bytes"]
                error.message = (
                    f"{word} {number} is too large: at most {limit_bytes} bytes, with key and headers"
                )
            if word == "line" or self._report.count:
                error.message += f"; {self._report.acknowledged_text()}"
            raise
        await self._report.acknowledged(offsets)

    def _with_id(
        self, payloads: Iterable[bytes | None] | AsyncIterable[bytes]
    ) -> Iterable[Outgoing] | AsyncIterable[Outgoing]:
        """The messages; the one that has an id with it."""
        if self._terms.message_id is None or isinstance(payloads, AsyncIterable):
            return payloads
        from pubsub.model import NewMessage

        return [NewMessage(payload, message_id=self._terms.message_id) for payload in payloads]


class _StoppedEarly(Exception):
    """Somebody said stop before the end of what goes as a whole: nothing of it is published."""


async def _whole(lines: Lines) -> AsyncIterator[bytes]:
    try:
        while chunk := await lines.take():
            for line in chunk:
                yield line
    except OSError as error:
        raise PubsubError(_unreadable(error)) from error
    if lines.stopped:
        raise _StoppedEarly


def _unreadable(error: OSError) -> str:
    return f"standard input cannot be read: {reason_of(error)}"
