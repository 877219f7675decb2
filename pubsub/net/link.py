"""The client end of a connection: requests with their replies, and streams that the server pushes.

Requests are pipelined: any number may be under way, each with an id of its own. When the connection is lost,
every request under way fails with ConnectionLostError, and every stream is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from itertools import count

from pubsub.config import Limits
from pubsub.errors import (
    ConnectionLostError,
    PubsubError,
    RemoteProtocolError,
    TimeoutExpiredError,
    error_from_wire,
    reason_of,
)
from pubsub.model import Address
from pubsub.net.connection import Connection
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame
from pubsub.protocol.handshake import check_welcome

ReplyCallback = Callable[[m.Frame | PubsubError], None]
"""Called with each frame of the reply, or once with what went wrong."""


class Link(Connection):
    """A connection that this end opened. Made by `connect`."""

    def __init__(self, address: Address, limits: Limits) -> None:
        super().__init__(limits)
        self.address = address
        self.welcome: m.Welcome | None = None
        self.streams: dict[int, Callable[[m.Deliver | m.Ended], None]] = {}
        """Subscription -> who takes its frames."""
        self.copies: dict[int, Callable[[m.Replicate | m.Beside | m.Ended], None]] = {}
        """Subscription of a copy that follows -> who takes its frames."""
        self.on_marks: Callable[[m.Marks], None] = lambda frame: None
        """Who takes what an owner says of the copies that follow it."""
        self.watchers: dict[int, Callable[[m.Changes], None]] = {}
        """Id of a watch request -> who takes its changes."""
        self._pending: dict[int, ReplyCallback] = {}
        self._ids = count(1)
        self._subscriptions = count(1)
        self._welcomed: asyncio.Future[m.Welcome] = asyncio.get_running_loop().create_future()

    def next_id(self) -> int:
        """A request id not yet used on this connection."""
        return next(self._ids)

    def next_subscription(self) -> int:
        """A subscription number not yet used on this connection."""
        return next(self._subscriptions)

    def call(self, request: int, encoded: bytes, callback: ReplyCallback) -> None:
        """Send an encoded request with the id `request`; `callback` gets the reply, or ConnectionLostError."""
        if not self.open:
            callback(self._loss())
            return
        self._pending[request] = callback
        self.send(encoded)

    async def request(self, frame: m.Request, timeout_seconds: float) -> m.Frame:
        """Send a request and wait for its reply.

        Raises:
            PubsubError: what the server answered.
            ConnectionLostError: the connection broke first; whether the request took effect is unknown.
            TimeoutExpiredError: no reply in time; likewise unknown.
        """
        return (await self.request_all(frame, timeout_seconds))[-1]

    async def request_all(self, frame: m.Request, timeout_seconds: float) -> list[m.Frame]:
        """Like `request`, for a reply that may come in several frames."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        replies: list[m.Frame] = []

        def take(reply: m.Frame | PubsubError) -> None:
            if done.done():
                return
            if isinstance(reply, PubsubError):
                done.set_exception(reply)
                return
            replies.append(reply)
            if not getattr(reply, "more", False):
                done.set_result(None)

        self.call(frame.id, encode_frame(frame), take)
        try:
            async with asyncio.timeout(timeout_seconds):
                await done
        except TimeoutError as error:
            if isinstance(error, PubsubError):
                raise
            raise TimeoutExpiredError(
                f"{self.address} did not answer {type(frame).__name__} within {timeout_seconds:g} s"
            ) from None
        finally:
            self._pending.pop(frame.id, None)
        return replies

    def _loss(self) -> PubsubError:
        return self.error or ConnectionLostError(f"the connection to {self.address} was closed")

    def on_frame(self, frame: m.Frame) -> None:
        if self.welcome is None:
            self._on_first(frame)
        elif type(frame) is m.Published:  # by far the most frequent reply
            if (callback := self._pending.pop(frame.id, None)) is not None:
                callback(frame)
        elif type(frame) is m.Deliver or type(frame) is m.Ended:
            if (stream := self.streams.get(frame.subscription)) is not None:
                stream(frame)
            elif type(frame) is m.Ended and (copy := self.copies.get(frame.subscription)) is not None:
                copy(frame)
        elif type(frame) is m.Replicate or type(frame) is m.Beside:
            if (copy := self.copies.get(frame.subscription)) is not None:
                copy(frame)
        elif type(frame) is m.Marks:
            self.on_marks(frame)
        elif type(frame) is m.Changes:
            if (watcher := self.watchers.get(frame.id)) is not None:
                watcher(frame)
        elif type(frame) is m.Failure:
            self._on_failure(frame)
        else:
            self._on_reply(frame)

    def _on_reply(self, frame: m.Frame) -> None:
        if isinstance(frame, m.Credit) or not hasattr(frame, "id"):
            raise RemoteProtocolError(f"a server must not send {type(frame).__name__}")
        if getattr(frame, "more", False):
            if (waiting := self._pending.get(frame.id)) is not None:
                waiting(frame)
        elif (callback := self._pending.pop(frame.id, None)) is not None:
            callback(frame)

    def _on_failure(self, frame: m.Failure) -> None:
        error = error_from_wire(frame.code, frame.message, frame.data)
        if frame.id == 0:
            self.error = error
            self.close()
        elif (callback := self._pending.pop(frame.id, None)) is not None:
            callback(error)

    def _on_first(self, frame: m.Frame) -> None:
        if isinstance(frame, m.Failure):
            self._welcomed.set_exception(error_from_wire(frame.code, frame.message, frame.data))
        else:
            self.welcome = check_welcome(frame)
            self._welcomed.set_result(self.welcome)

    def on_lost(self) -> None:
        if not self._welcomed.done():
            self._welcomed.set_exception(self._loss())
        pending, self._pending = self._pending, {}
        for callback in pending.values():
            callback(self._loss())

    async def welcomed(self) -> m.Welcome:
        """Wait for the server's welcome.

        Raises:
            UnsupportedVersionError, RemoteProtocolError: the two ends cannot talk.
            ConnectionLostError: the server closed instead.
        """
        return await self._welcomed


async def connect(address: Address, greeting: m.Hello, limits: Limits, timeout_seconds: float = 3.0) -> Link:
    """Connect to a peer or an index and exchange hellos.

    Raises:
        ConnectionLostError: nobody answers there; the message says why.
        UnsupportedVersionError: the other end speaks another major protocol version.
        RemoteProtocolError: what answers there is no pubsub server.
    """
    loop = asyncio.get_running_loop()
    link: Link | None = None
    given_up = True
    try:
        async with asyncio.timeout(timeout_seconds):
            _, link = await loop.create_connection(lambda: Link(address, limits), address.host, address.port)
            link.send_frame(greeting)
            await link.welcomed()
        given_up = False
        return link
    except TimeoutError as error:
        raise ConnectionLostError(f"{address} did not answer within {timeout_seconds:g} s") from error
    except OSError as error:
        raise ConnectionLostError(f"cannot connect to {address}: {reason_of(error)}") from error
    finally:
        if link is not None and given_up:  # perhaps in the moment in which the welcome came
            link.abort()
            with contextlib.suppress(PubsubError, asyncio.CancelledError):
                if link._welcomed.done():
                    link._welcomed.result()
