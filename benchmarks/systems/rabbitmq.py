"""RabbitMQ where it is installed: one node with its own epmd, on free loopback ports and a directory of its own. It
serves a whole run, for it takes many seconds to start; each measurement has names of its own there.

The node is started from the installation's own scripts, as whoever measures, not as the service that a package
may have installed.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from pathlib import Path
from typing import Any

from benchmarks.kept import Started
from benchmarks.readings import RunFailedError
from benchmarks.stage import READY_SECONDS, Child, Stage, free_port

SCRIPTS = ("/usr/lib/rabbitmq/bin/rabbitmq-server", "/opt/rabbitmq/sbin/rabbitmq-server")
POLL_SECONDS = 0.1


def script() -> str | None:
    """What starts a node: not the package's wrapper, which becomes another user and writes to /var."""
    return next((path for path in SCRIPTS if Path(path).exists()), None)


def missing() -> str | None:
    """Why no node can be started here; None if one can."""
    if script() is None:
        return "rabbitmq-server is not installed"
    return None if shutil.which("epmd") else "epmd, Erlang's port mapper, is not installed"


def new_name() -> str:
    """A name that nothing on a node has: others have measured there before."""
    return f"bench-{uuid.uuid4().hex}"


async def node(stage: Stage, *, fresh: bool) -> Started:
    """A node, with its ports; that of the whole run if it need not be a new one."""
    if fresh or stage.kept is None:
        return await _start(stage)
    child, ports = await stage.kept.resume("rabbitmq", _start)
    await _until_ready(child, ports)
    return child, ports


async def _start(stage: Stage) -> Started:
    home = stage.directory / "rabbitmq"
    home.mkdir()
    amqp, streams, distribution, mapper = (free_port() for _ in range(4))
    (home / "plugins").write_text("[rabbitmq_stream].\n")
    (home / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{amqp}\n"
        f"stream.listeners.tcp.1 = 127.0.0.1:{streams}\n"
        f"stream.advertised_host = 127.0.0.1\nstream.advertised_port = {streams}\n"
        "log.console = true\nlog.console.level = error\nlog.file = false\n"
        "disk_free_limit.absolute = 100MB\n"
    )
    environment = {
        "HOME": str(home),
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"bench-{amqp}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(home),
        "RABBITMQ_LOG_BASE": str(home),
        "RABBITMQ_PID_FILE": str(home / "pid"),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(home / "none"),
    }
    await stage.command("epmd", "epmd", "-port", str(mapper), "-address", "127.0.0.1")
    child = await stage.command("rabbitmq-server", str(script()), environment=environment, starts_others=True)
    ports = {"amqp_port": amqp, "stream_port": streams}
    await _until_ready(child, ports)
    return child, ports


async def _until_ready(child: Child, ports: dict[str, Any]) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS):
            for name, greeting in (("amqp_port", b"AMQP\x00\x00\x09\x01"), ("stream_port", b"")):
                while not await _answers(ports[name], greeting):
                    if child.process.returncode is not None:
                        raise RunFailedError(f"rabbitmq-server ended: {child.said()}")
                    await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise RunFailedError(
            f"rabbitmq-server was not ready in {READY_SECONDS:g} s: {child.said()}"
        ) from None


async def _answers(port: int, greeting: bytes) -> bool:
    """The node listens before it serves: wait for the first word of AMQP."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        if greeting:
            writer.write(greeting)
            async with asyncio.timeout(5):
                return bool(await reader.read(1))
        return True
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()
