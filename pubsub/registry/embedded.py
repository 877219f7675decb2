"""The registry inside the index process, for those who have no Redis at hand.

It is fakeredis: the registry talks to its memory directly, and a small TCP server in threads of its own serves
the same memory to redis-cli. It lives and dies with the process, which is all that soft state needs.
"""

from __future__ import annotations

import asyncio
import logging
import threading

from fakeredis import FakeAsyncRedis, TcpFakeServer

from pubsub.config import DEFAULT_EMBEDDED_REGISTRY, DEFAULT_NAMESPACE
from pubsub.errors import SettingsError, reason_of
from pubsub.model import Address, parse_address
from pubsub.registry.connections import client_options
from pubsub.registry.redis import RedisRegistry

_PIPELINE_COMMANDS = 50
"""A script takes it about 0.2 ms, during which the event loop stands still: so for 10 ms at a time at most."""

_log = logging.getLogger(__name__)


class _QuietServer(TcpFakeServer):
    """Does not print a traceback when a client goes away in the middle of a reply."""

    def handle_error(self, request: object, client_address: object) -> None:
        _log.debug("embedded registry: the connection of %s broke", client_address, exc_info=True)


class EmbeddedRegistry(RedisRegistry):
    """A registry in this process, open to redis-cli.

    Args:
        listen: host:port for redis-cli; port 0 takes a free one.
        namespace: how all keys begin.
    """

    def __init__(
        self, listen: str = DEFAULT_EMBEDDED_REGISTRY, *, namespace: str = DEFAULT_NAMESPACE
    ) -> None:
        self._address = parse_address(listen)
        super().__init__(f"redis://{self._address}", namespace=namespace)
        self._server: TcpFakeServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> Address:
        """Where redis-cli finds it."""
        return self._address

    @property
    def where(self) -> str:
        return f"redis://{self._address} (embedded)"

    async def open(self) -> None:
        try:
            self._server = _QuietServer((self._address.host, self._address.port), server_version=(7, 0))
        except (OSError, OverflowError) as error:
            reason = reason_of(error) if isinstance(error, OSError) else str(error)
            raise SettingsError(
                f"the embedded registry cannot listen on {self._address}: {reason}; "
                "stop what listens there, or use a Redis with --redis URL"
            ) from error
        self._address = Address(self._address.host, self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="embedded-registry"
        )
        self._thread.start()
        client = FakeAsyncRedis(server=self._server.fake_server, **client_options())
        self._closing.push_async_callback(client.aclose)
        self._use(client, _PIPELINE_COMMANDS)

    async def close(self) -> None:
        await super().close()
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(self._stop, server)

    def _stop(self, server: TcpFakeServer) -> None:
        server.shutdown()  # first no new connections,
        server.server_close()  # then wait for the threads of those that are left,
        if self._thread is not None:
            self._thread.join()  # then for the one that accepted them
