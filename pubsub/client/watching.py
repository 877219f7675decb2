"""Changes as an index tells them, over connections that break: what may have been missed is said to be so."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

import msgspec

from pubsub.client.directory import Directory
from pubsub.client.stream import REQUEST_SECONDS
from pubsub.config import ClientSettings
from pubsub.errors import PubsubError, TimeoutExpiredError
from pubsub.model import Change
from pubsub.net.backoff import Backoff
from pubsub.net.link import Link
from pubsub.protocol import messages as m

CHANGES_HELD = 1000
"""Changes that a watcher may leave untaken; beyond it they are replaced by one "resync"."""


async def watch_changes(
    directory: Directory, settings: ClientSettings, pattern: str, closed: Callable[[], bool]
) -> AsyncGenerator[Change, None]:
    """See `Client.watch`. Ends once `closed` says so.

    An index goes on to tell until the connection closes: whoever watches for a while only needs a directory, and so a
    connection, of its own.
    """
    backoff = Backoff(settings.backoff_first_seconds, settings.backoff_most_seconds)
    while not closed():
        link: Link | None = None
        try:
            link = await directory.link()
            request = link.next_id()
            changes: deque[dict[str, Any]] = deque()
            news = asyncio.Event()

            def take(
                frame: m.Changes, changes: deque[dict[str, Any]] = changes, news: asyncio.Event = news
            ) -> None:
                if len(changes) > CHANGES_HELD:
                    changes.clear()
                    changes.append({"kind": "resync"})
                changes.extend(frame.changes)
                news.set()

            link.watchers[request] = take
            link.when_lost(news.set)
            try:
                await link.request(m.Watch(request, pattern), REQUEST_SECONDS)
                backoff.reset()
                yield Change(kind="resync")
                while link.open:
                    while changes:
                        yield msgspec.convert(changes.popleft(), Change)
                    news.clear()
                    if link.open:
                        await news.wait()
            finally:
                link.watchers.pop(request, None)
                link.forget_when_lost(news.set)
        except PubsubError as error:
            if closed():
                return
            if isinstance(error, TimeoutExpiredError) and link is not None:
                directory.distrust(link)  # another index may answer
            elif not error.retriable:
                raise
        await asyncio.sleep(backoff.next_seconds())
