"""Every shell line of docs/inspecting.md runs, against a real index, a real peer and the real tools."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

import pubsub
from tests.ports import choose_free_port
from tests.processes import Command

TTL_SECONDS = 5
"""More than a busy machine stands still for, so that the peer's record does not expire between two heartbeats."""
DOCUMENT = Path(__file__).parents[2] / "docs" / "inspecting.md"
LINES = [
    line
    for block in re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.S)
    for line in block.splitlines()
]


def require(tool: str) -> None:
    if shutil.which(tool) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{tool} is missing")
        pytest.skip(f"{tool} is not installed")


async def run(line: str, cwd: Path, registry_port: int) -> str:
    arguments = shlex.split(line.replace("-p 7479", f"-p {registry_port}"))
    process = await asyncio.create_subprocess_exec(
        *arguments, cwd=cwd, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, (line, err.decode())
    assert not err, (line, err.decode())
    assert "ERR" not in out.decode(), (line, out.decode())
    return out.decode()


async def test_the_documented_lines_show_what_they_promise(tmp_path: Path) -> None:
    require("redis-cli")
    require("sqlite3")
    port = choose_free_port()
    address = f"127.0.0.1:{choose_free_port()}"
    index = Command(
        "index",
        "serve",
        "--listen",
        address,
        "--registry-listen",
        f"127.0.0.1:{port}",
        "--ttl",
        str(TTL_SECONDS),
        cwd=tmp_path,
    )
    peer = Command("peer", "serve", "alice", "--data", "alice", cwd=tmp_path, index=address)
    async with index, peer, pubsub.Client(address) as client, pubsub.Client(address) as reader:
        await client.create_topic("sensors.temp")
        await client.publish("sensors.temp", b"21.5", key="room-1", headers={"unit": "C"})
        await client.publish("sensors.temp", b"9", key="room-2", deliver_at=datetime(2033, 1, 1, tzinfo=UTC))
        async with (
            reader.subscribe("sensors.temp", durable="dash"),
            reader.subscribe("sensors.temp", group="workers") as shared,
        ):
            await anext(shared)
            subscribers = next(line for line in LINES if "subscribers" in line)
            async with asyncio.timeout(30):  # known with the next heartbeat
                while not (await run(subscribers, tmp_path, port)).strip():
                    await asyncio.sleep(0.05)
            shown = {line: await run(line, tmp_path, port) for line in LINES}
    assert [line for line, out in shown.items() if not out.strip() and ".backup" not in line] == []
    text = "\n".join(shown.values())
    for expected in (
        "sensors.temp|0|",
        '|room-1|{"unit":"C"}|21.5',
        '"unit":"C"',
        "generation",
        "incarnation",
        "sensors.temp|dash|1|",
        "1|2033-01-01 00:00:00|room-2|9",
        "sensors.temp|workers|1|",
        "workers|in_flight|1|1",
    ):
        assert expected in text
    assert 0 <= int(shown["redis-cli -p 7479 TTL pubsub:peer:alice"]) <= TTL_SECONDS
    assert (tmp_path / "alice-backup.db").stat().st_size > 0
