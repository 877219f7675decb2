"""One publisher and live subscribers, on any system: what `throughput` and `fan-out` measure, at different sizes."""

from __future__ import annotations

from benchmarks.readings import Figures
from benchmarks.scenarios.machine_limits import RATE
from benchmarks.stage import Stage, cpu_figures
from benchmarks.systems.names import System, reference

RSS = "server RSS afterwards, MB"
ACKNOWLEDGED = "acknowledged/s"
DELIVERIES = "deliveries/s"
PER_DELIVERY = "server CPU, µs/delivery"


async def one_to(
    subscribers: int,
    system: System,
    stage: Stage,
    *,
    count: int,
    size_bytes: int,
    rss: bool = False,
    fresh: bool = False,
) -> Figures:
    """From the first publish to the last delivery to the last subscriber.

    Args:
        rss: Say how large a fresh server is afterwards.
        fresh: Start one in any case.
    """
    running = await system.start(stage, fresh=fresh)
    receiving = [
        await stage.worker("subscribe", running=reference(running), streams=1, each=count)
        for _ in range(subscribers)
    ]
    publisher = await stage.worker(
        "publish-many", running=reference(running), count=count, size_bytes=size_bytes
    )
    for worker in (*receiving, publisher):
        await worker.ready()
    cpu_before = running.store.cpu_seconds()
    for worker in (*receiving, publisher):
        worker.go()
    sent = await publisher.result()
    got = [await subscriber.result() for subscriber in receiving]
    server = running.store.cpu_seconds() - cpu_before
    seconds = (max(each["ended_ns"] for each in got) - sent["began_ns"]) / 1e9
    figures = {RATE: count / seconds, ACKNOWLEDGED: count / ((sent["ended_ns"] - sent["began_ns"]) / 1e9)}
    if subscribers > 1:
        figures |= {DELIVERIES: count * subscribers / seconds}
        figures |= {PER_DELIVERY: server / (count * subscribers) * 1e6}
    if rss and running.fresh:
        figures |= {RSS: running.store.rss_mb()}
    return figures | cpu_figures(
        count, publisher=sent["cpu_seconds"], server=server, subscriber=got[0]["cpu_seconds"]
    )
