"""The server end: listens, says hello, and hands frames to a service by two tables.

`immediate` handlers run in the order of arrival, in the event loop, without a task: publishes and credit.
`requests` run as tasks, at most `Limits.running_requests` of one connection at once; the frame or frames they
return are the reply, and an error they raise is answered as an error frame.

What somebody who connects can hold on to is bounded: how many connections there are, how long one may take to say
hello, and how long it may leave a frame unfinished. One that is silent between frames may stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from pubsub.config import Limits
from pubsub.errors import (
    ConnectionLostError,
    InternalError,
    PubsubError,
    RemoteProtocolError,
    SettingsError,
    reason_of,
)
from pubsub.model import Address
from pubsub.net.connection import Connection
from pubsub.net.descriptors import room_for_connections
from pubsub.protocol import messages as m
from pubsub.protocol.codec import encode_frame
from pubsub.protocol.handshake import ACCEPTED, check_hello

log = logging.getLogger("pubsub.net")

FAREWELL_SECONDS = 2.0
"""How long a connection that broke the rules is kept for its error frame to be read."""

MOST_REFUSED = 50
"""Connections too many that are told so at once; beyond that, they are just closed."""
WARN_SECONDS = 60.0
"""How often the log says that there are too many."""
MOST_REQUEST_ID = 2**63 - 1

LARGE_REPLIES: frozenset[type] = frozenset({m.Query, m.Cursors, m.Scheduled, m.Groups, m.PeekGroup})
"""Requests whose reply may be megabytes. One connection has one of them under way, and only while it reads what
it was sent: otherwise `running_requests` such replies would pile up for somebody who never reads."""

LASTING: frozenset[type] = frozenset(
    {m.CreateCopy, m.DropCopy, m.CopyEnds, m.HandOver, m.SetPolicy}
    | {m.JoinGroup, m.ChangeGroup, m.ChangeCursor, m.CancelScheduled}
)
"""Requests that change something at a peer: they go on to their end, though whoever asked goes away. Half-way through,
what is on disk and what the peer knows of it would part. (What an index changes lasts by itself, see `index.tasks`.)"""

ImmediateHandler = Callable[["ServerConnection", Any], None]
RequestHandler = Callable[["ServerConnection", Any], Awaitable["m.Frame | list[m.Frame]"]]


class Service(Protocol):
    """What a server serves."""

    @property
    def immediate(self) -> Mapping[type, ImmediateHandler]: ...
    @property
    def requests(self) -> Mapping[type, RequestHandler]: ...

    def welcome(self) -> m.Welcome:
        """The answer to a hello."""
        ...


class ServerConnection(Connection):
    """A connection that somebody opened to us."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.limits)
        self.greeting: m.Hello | None = None
        """What the other end said of itself."""
        self.when_writable: Callable[[], None] = lambda: None
        """Called when the other end reads again; set by whoever pushes frames."""
        self._server = server
        self._backlog: deque[m.Frame] = deque()
        self._running: dict[asyncio.Task[None], type] = {}
        """Requests that are being answered, and what they are."""
        self._large = asyncio.Lock()
        self._hello_timer: asyncio.TimerHandle | None = None
        self._farewell_timer: asyncio.TimerHandle | None = None
        self._frame_timer: asyncio.TimerHandle | None = None
        """Runs while a frame is unfinished."""
        self._progress = 0
        """Changes when a frame has come, and when we read again after a pause."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        others, most = len(self._server.connections), self._server.most_connections
        self._server.connections.add(self)
        if others >= most:
            self._refuse_connection(f"{most} connections are open, which is the most", others - most)
            return
        self._hello_timer = asyncio.get_running_loop().call_later(self.limits.hello_seconds, self._no_hello)

    def _no_hello(self) -> None:
        self.fail(RemoteProtocolError(f"no hello within {self.limits.hello_seconds:g} s"))

    def _refuse_connection(self, why: str, refused: int) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._server.warn_at:
            self._server.warn_at = now + WARN_SECONDS
            log.warning("closing connections: %s", why)
        if refused < MOST_REFUSED:
            self.fail(ConnectionLostError(why))
        else:
            self.abort()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._frame_timer is None and self._reader.incomplete and self.greeting is not None:
            self._await_rest()

    def release_reading(self, reason: str) -> None:
        if reason in self._read_holds:
            self._progress += 1
        super().release_reading(reason)

    def _await_rest(self) -> None:
        """Look in a while whether the frame that has begun is there: few timers, for any rate of frames."""
        self._frame_timer = asyncio.get_running_loop().call_later(
            self.limits.frame_seconds, self._on_frame_timer, self._progress
        )

    def _on_frame_timer(self, progress: int) -> None:
        self._frame_timer = None
        if not self.open or not self._reader.incomplete:
            return
        if self._progress != progress or self._read_holds:  # another frame than then, or we have not read it
            self._await_rest()
            return
        self.fail(RemoteProtocolError(f"a frame was not finished within {self.limits.frame_seconds:g} s"))

    def fail(self, error: PubsubError, request: int = 0) -> None:
        """Say what the other end did wrong, then close.

        At first only our direction is closed, and what still comes is thrown away: closing a socket with bytes
        unread resets the connection, and the error frame might be lost with it.
        """
        if self._transport is None or not self.open:
            return
        super().fail(error, request)
        self._farewell_timer = asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self.abort)

    def _end_after_failure(self) -> None:
        assert self._transport is not None
        self._transport.write_eof()
        if self._read_holds:
            self._transport.resume_reading()

    def on_frame(self, frame: m.Frame) -> None:
        server = self._server
        kind = type(frame)
        self._progress += 1
        if self.greeting is None:
            self.greeting = check_hello(frame)
            if self._hello_timer is not None:
                self._hello_timer.cancel()
            self.send_frame(server.service.welcome())
        elif not 0 < (number := getattr(frame, "id", 1)) <= MOST_REQUEST_ID:  # 0 means the connection itself
            raise RemoteProtocolError(f"{kind.__name__} has the id {number}: ids are 1 to {MOST_REQUEST_ID}")
        elif (immediate := server.service.immediate.get(kind)) is not None:
            immediate(self, frame)
        elif kind in server.service.requests:
            self._backlog.append(frame)
            self._run_backlog()
        elif kind in server.accepted:  # pragma: no cover - a test compares the tables
            raise InternalError(f"{kind.__name__} is accepted but not handled")
        else:
            raise RemoteProtocolError(f"this server does not accept the frame {kind.__name__}")

    def _run_backlog(self) -> None:
        limit = self.limits.running_requests
        while self._backlog and len(self._running) < limit and self.writable and self.open:
            frame = self._backlog.popleft()
            task = asyncio.create_task(
                self._answer(frame), name=f"pubsub: {type(frame).__name__} for {self.remote}"
            )
            self._running[task] = type(frame)
            task.add_done_callback(self._answered)
        if self._backlog:
            self.hold_reading("busy")
        else:
            self.release_reading("busy")

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._run_backlog()

    async def _answer(self, frame: Any) -> None:
        try:
            if type(frame) in LARGE_REPLIES:
                async with self._large:
                    await self.until_writable()
                    await self._handle(frame)
            else:
                await self._handle(frame)
        except PubsubError as error:
            self.refuse(frame.id, error)
        except Exception:
            log.exception("the request %s of %s failed", type(frame).__name__, self.remote)
            self.refuse(
                frame.id, InternalError(f"{type(frame).__name__} failed inside the server; see its log")
            )

    async def _handle(self, frame: Any) -> None:
        reply = await self._server.service.requests[type(frame)](self, frame)
        self.send(*map(encode_frame, reply if isinstance(reply, list) else [reply]))

    def refuse(self, request: int, error: PubsubError) -> None:
        """Answer a request with an error."""
        self.send_frame(m.Failure(request, error.code, error.message, error.data))

    def on_writable(self) -> None:
        self._run_backlog()
        self.when_writable()

    def on_lost(self) -> None:
        self._server.connections.discard(self)
        for timer in (self._hello_timer, self._farewell_timer, self._frame_timer):
            if timer is not None:
                timer.cancel()
        self._backlog.clear()
        for task, kind in self._running.items():
            if kind in LASTING:
                self._server.let_go_on(task)
            else:
                task.cancel()

    async def finish(self) -> None:
        """Let the requests under way end, then close."""
        await asyncio.gather(*self._running, return_exceptions=True)
        self.close()


class Server:
    """Listens on one address and serves one service to all who connect."""

    def __init__(self, service: Service, role: str, limits: Limits) -> None:
        self.service = service
        self.limits = limits
        self.accepted = ACCEPTED[role]
        self.connections: set[ServerConnection] = set()
        self.most_connections = room_for_connections(limits.connections)
        self.warn_at = 0.0
        """When the log may say again that there are more."""
        self.address: Address | None = None
        self._server: asyncio.Server | None = None
        self._lasting: set[asyncio.Task[None]] = set()
        """Requests that go on without their connections."""

    async def listen(self, address: Address) -> Address:
        """Start to listen; returns the address with the real port where port 0 was asked for.

        Raises:
            SettingsError: the address cannot be listened on; the message says why.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: ServerConnection(self), address.host, address.port, backlog=1024
            )
        except OSError as error:
            reason = "it is in use" if error.errno == errno.EADDRINUSE else reason_of(error)
            raise SettingsError(
                f"cannot listen on {address}: {reason}; choose another address with --listen"
            ) from error
        port = self._server.sockets[0].getsockname()[1]
        self.address = Address(address.host, port)
        return self.address

    def stop_accepting(self) -> None:
        """Accept no new connections; those there are go on."""
        if self._server is not None:
            self._server.close()

    def let_go_on(self, task: asyncio.Task[None]) -> None:
        """A request whose connection is lost, and which is to be carried out all the same."""
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)

    async def close(self, drain_seconds: float) -> None:
        """Stop accepting, let requests under way end within the time given, close every connection. Idempotent."""
        self.stop_accepting()
        connections = list(self.connections)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(drain_seconds):
                await asyncio.gather(*self._lasting, return_exceptions=True)
                await asyncio.gather(*(connection.finish() for connection in connections))
                await asyncio.gather(*(connection.closed() for connection in connections))  # all is sent
        while self.connections:  # also one whose accepting was under way when we stopped
            for connection in list(self.connections):
                connection.abort()
            await asyncio.sleep(0)
        for task in self._lasting:
            task.cancel()
        await asyncio.gather(*self._lasting, return_exceptions=True)
        if self._server is not None:
            await self._server.wait_closed()
            self._server = None
