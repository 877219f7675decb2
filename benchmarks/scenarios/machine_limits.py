"""The physical limits as subjects that any scenario can put beside the systems."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.readings import Figures, Subject, latency_figures
from benchmarks.stage import Stage

RATE = "messages/s"
CPU = "CPU, µs/row"


def sqlite_insert(
    count: Callable[[Stage], int], size_bytes: int, rows_per_commit: int = 1000, topics: int = 1
) -> Subject:
    """Rows stored with sqlite3 itself; with many topics, as many of each in a commit."""

    async def measure(stage: Stage) -> Figures:
        messages = count(stage)
        worker = await stage.worker(
            "sqlite-insert",
            directory=str(stage.directory),
            count=messages,
            size_bytes=size_bytes,
            rows_per_commit=rows_per_commit,
            topics=topics,
        )
        found = await worker.run()
        return {RATE: messages / found["seconds"], CPU: found["cpu_seconds"] / messages * 1e6}

    rows = "1 row" if rows_per_commit == 1 else f"{rows_per_commit:,} rows"
    where = f", to {topics:,} topics" if topics > 1 else ""
    return Subject(name=f"limit: sqlite3.executemany, {rows} a commit{where}", measure=measure)


def sqlite_read(count: Callable[[Stage], int], size_bytes: int) -> Subject:
    """Rows read with sqlite3 itself."""

    async def measure(stage: Stage) -> Figures:
        messages = count(stage)
        worker = await stage.worker(
            "sqlite-read",
            directory=str(stage.directory),
            count=messages,
            size_bytes=size_bytes,
            rows_per_read=1000,
        )
        found = await worker.run()
        return {RATE: messages / found["seconds"], CPU: found["cpu_seconds"] / messages * 1e6}

    return Subject(name="limit: sqlite3 range reads of 1,000 rows", measure=measure)


def loopback(count: Callable[[Stage], int], size_bytes: int) -> Subject:
    """The bytes of the messages through one loopback connection, uncut."""

    async def measure(stage: Stage) -> Figures:
        messages = count(stage)
        sink = await stage.worker("loopback-sink", size_bytes=messages * size_bytes)
        port = (await sink.ready())["port"]
        source = await stage.worker("loopback-source", port=port, size_bytes=messages * size_bytes)
        await source.ready()
        sink.go()
        source.go()
        seconds = ((await sink.result())["ended_ns"] - (await source.result())["began_ns"]) / 1e9
        return {RATE: messages / seconds}

    return Subject(name="limit: loopback stream of the same bytes", measure=measure)


def write_and_sync() -> Subject:
    """What one durable write of one page costs."""

    async def measure(stage: Stage) -> Figures:
        worker = await stage.worker(
            "write-and-sync", directory=str(stage.directory), count=stage.size(2000, 300)
        )
        found = await worker.run()
        return latency_figures("growing file", found["growing"]) | latency_figures(
            "in place", found["within"]
        )

    return Subject(name="limit: write 4 KiB + fdatasync", measure=measure)
