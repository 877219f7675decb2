"""Asking the owner of a topic: one request, repeated while what goes wrong is retriable, until the timeout."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from pubsub.client.routes import Route, Routes
from pubsub.client.stream import REQUEST_SECONDS
from pubsub.config import ClientSettings
from pubsub.errors import (
    InvalidRequestError,
    PubsubError,
    RemoteProtocolError,
    TimeoutExpiredError,
    TopicNotFoundError,
)
from pubsub.model import check_topic_name
from pubsub.net.backoff import Backoff
from pubsub.protocol import messages as m

Reply = TypeVar("Reply")


class Counted:
    """Makes requests and counts them: after a second one, a first that got no answer may have taken effect."""

    def __init__(self, make: Callable[[int, Route], m.Request]) -> None:
        self._make = make
        self.requests = 0

    def __call__(self, request: int, route: Route) -> m.Request:
        self.requests += 1
        return self._make(request, route)

    @property
    def repeated(self) -> bool:
        return self.requests > 1


async def ask_owner(
    routes: Routes,
    settings: ClientSettings,
    topic: str,
    make: Callable[[int, Route], m.Request],
    expected: type[Reply],
    *,
    same_topic: bool = False,
) -> Reply:
    """Send the owner of `topic` a request and return its reply.

    Args:
        make: Makes the request from its id and the route; called again for each attempt.
        same_topic: The request names a topic by its id, so that one created anew under the name will not do.

    Raises:
        PubsubError: the answer; or, when the time is over, the last retriable error.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.timeout_seconds
    backoff = Backoff(settings.backoff_first_seconds, settings.backoff_most_seconds)
    while True:
        try:
            route = await routes.find(topic, deadline - loop.time())
            link = await routes.link(route)
            request = make(link.next_id(), route)
            reply = await link.request(request, max(0.1, min(REQUEST_SECONDS, deadline - loop.time())))
            if isinstance(reply, expected):
                return reply
            raise RemoteProtocolError(f"unexpected reply to {type(request).__name__}: {type(reply).__name__}")
        except PubsubError as error:
            routes.forget(topic)
            # An error with an id is about the topic that we remembered: its name may be another's now.
            moved = isinstance(error, TopicNotFoundError) and "id" in error.data and not same_topic
            retriable = error.retriable or moved or isinstance(error, TimeoutExpiredError)
            pause = backoff.next_seconds()
            if not retriable or loop.time() + pause >= deadline:
                raise
        await asyncio.sleep(pause)


class OwnerVerbs:
    """Base of the verbs of `Client` that go to a topic's owner."""

    _routes: Routes
    _settings: ClientSettings

    def _check_open(self) -> None:
        """Raises ClosedError if nothing can be asked."""
        raise NotImplementedError

    def _check_owner_verb(self, topic: str) -> None:
        """Check what all of these verbs need: an open client that may talk to owners, and a topic's name.

        Raises:
            ClosedError, InvalidNameError, InvalidRequestError: nothing was asked.
        """
        self._check_open()
        check_topic_name(topic)
        if self._routes.relay:
            raise InvalidRequestError(
                "a client that goes through the index (relay) can publish and query only"
            )

    async def _ask_owner(
        self,
        topic: str,
        make: Callable[[int, Route], m.Request],
        expected: type[Reply],
        *,
        same_topic: bool = False,
    ) -> Reply:
        """See `ask_owner`."""
        return await ask_owner(self._routes, self._settings, topic, make, expected, same_topic=same_topic)
