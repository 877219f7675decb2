"""The cluster under torture: redis-server, indexes and peers as real processes, with a gate in front of each server.

Owns their processes, addresses and files. Peers reach indexes, and everybody reaches peers, through the network's
gates; this process's clients ask the indexes directly. What goes wrong is for `faults`.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sqlite3
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Self

import redis

from tests.ports import choose_free_port
from tests.processes import Command
from tests.redis_process import RedisProcess
from tests.torture.history import Copy
from tests.torture.network import Network

NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace")


class Cluster:
    """`async with` starts everything, and ends it."""

    def __init__(self, directory: Path, *, ttl: float, peers: int = 5, indexes: int = 2) -> None:
        self.directory = directory
        self.ttl = ttl
        self.network = Network()
        self.redis = RedisProcess()
        self.peers: dict[str, Command] = dict.fromkeys(NAMES[:peers])  # type: ignore[arg-type]
        self.indexes: dict[str, Command] = dict.fromkeys(f"index-{n}" for n in range(indexes))  # type: ignore[arg-type]
        self.index_addresses: list[str] = []
        self._stack = AsyncExitStack()
        self._snapshot: Path | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        self._stack.callback(self.redis.close)
        await self._stack.enter_async_context(self.network)
        await asyncio.to_thread(self.redis.start)
        gates = []
        for name in self.indexes:
            port = choose_free_port()
            self.index_addresses.append(f"127.0.0.1:{port}")
            options = (
                "--listen",
                self.index_addresses[-1],
                "--redis",
                self.redis.url,
                "--ttl",
                str(self.ttl),
            )
            gates.append(await self._add(self.indexes, name, port, "index", "serve", *options))
        for name in self.peers:
            port = choose_free_port()
            gate = await self.network.open_gate(name, port)
            options = ("-v", "--data", name, "--listen", f"127.0.0.1:{port}", "--advertise", gate)
            self.peers[name] = Command(
                "peer", "serve", name, *options, cwd=self.directory, index=",".join(gates)
            )
            self.network.name(name, lambda name=name: self.peers[name].pid)
        await asyncio.gather(*(self._stack.enter_async_context(peer) for peer in self.peers.values()))

    async def _add(self, commands: dict[str, Command], name: str, port: int, *arguments: str) -> str:
        commands[name] = Command(*arguments, cwd=self.directory)
        self.network.name(name, lambda: commands[name].pid)
        await self._stack.enter_async_context(commands[name])
        return await self.network.open_gate(name, port)

    # Redis

    def flush(self) -> None:
        """Forget all records."""
        with closing(redis.Redis.from_url(self.redis.url)) as connection:
            connection.flushall()

    def take_snapshot(self) -> None:
        """Keep what Redis holds now, for `start_redis`."""
        with closing(redis.Redis.from_url(self.redis.url)) as connection:
            connection.save()
            self._snapshot = Path(os.fsdecode(connection.config_get("dir")["dir"])) / "snapshot"
        shutil.move(self._snapshot.with_name("dump.rdb"), self._snapshot)

    def start_redis(self, *, old: bool) -> None:
        """Start it after a `stop`: with the last snapshot, or empty."""
        if old and self._snapshot is not None:
            shutil.copy(self._snapshot, self._snapshot.with_name("dump.rdb"))
        self.redis.start()
        if self._snapshot is not None:
            self._snapshot.with_name("dump.rdb").unlink(missing_ok=True)

    # What is on the disks

    def database(self, peer: str) -> Path:
        return self.directory / peer / "peer.db"

    def read_copy(self, peer: str, topic: str) -> Copy | None:
        """What a peer's file holds of a topic; None if it holds no copy that counts."""
        uri = f"file:{self.database(peer)}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            found = connection.execute(
                "SELECT id, committed FROM topics WHERE name = ? AND set_aside IS NULL", (topic,)
            ).fetchone()
            if found is None:
                return None
            rows = connection.execute(
                "SELECT offset, published_at, key, headers, payload, batch FROM messages "
                "WHERE topic_id = ? ORDER BY offset",
                found[:1],
            ).fetchall()
        return Copy(
            peer=peer,
            topic=topic,
            committed=found[1],
            offsets=[row[0] for row in rows],
            messages=[message_of(row[4]) for row in rows],
            fingerprints=[hashlib.sha256(repr(row).encode()).hexdigest()[:16] for row in rows],
        )

    def write_logs(self) -> None:
        """What the processes have said, to files beside the data."""
        for name, command in {**self.indexes, **self.peers}.items():
            (self.directory / f"{name}.log").write_text("\n".join(command.said) + "\n")


def message_of(payload: bytes | None) -> str:
    """The name of the message with this payload."""
    return (payload or b"").partition(b" ")[0].decode(errors="replace")
