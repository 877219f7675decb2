"""One message to each of 1,000 topics, again and again, beside the same number of messages to one topic."""

from __future__ import annotations

from benchmarks.readings import Figures, Ratio, Scenario, Subject, Target
from benchmarks.scenarios.live import one_to
from benchmarks.scenarios.machine_limits import RATE, sqlite_insert
from benchmarks.stage import Stage, cpu_figures
from benchmarks.systems.all import NATS_DEFAULT, OURS, REDIS_ALWAYS, REDIS_EVERYSEC, portion, subjects
from benchmarks.systems.names import System, reference
from benchmarks.systems.ours import WINDOW_MESSAGES

SIZE_BYTES = 100
TOPICS = 1000
ONE = "pubsub, one topic"
OVER_ONE = "rate / one topic"
RAW_ONE, RAW_MANY = (
    sqlite_insert(lambda stage: stage.size(200_000, WINDOW_MESSAGES), SIZE_BYTES, WINDOW_MESSAGES, topics)
    for topics in (1, TOPICS)
)
"""What SQLite itself loses when the rows of a commit belong to many topics: their places in its tree lie apart."""


async def measure(system: System, stage: Stage) -> Figures:
    """From the first publish to the last delivery to the one subscriber of all topics."""
    each = max(3, portion(stage, system, 200, 30))
    count = TOPICS * each
    running = await system.start(stage, topics=TOPICS)
    subscriber = await stage.worker(
        "subscribe", running=reference(running), streams=TOPICS, each=each, topics=TOPICS
    )
    publisher = await stage.worker(
        "publish-round-robin", running=reference(running), topics=TOPICS, each=each, size_bytes=SIZE_BYTES
    )
    await subscriber.ready()
    await publisher.ready()
    cpu_before = running.store.cpu_seconds()
    subscriber.go()
    publisher.go()
    sent = await publisher.result()
    got = await subscriber.result()
    return {
        RATE: count / ((got["ended_ns"] - sent["began_ns"]) / 1e9),
        "acknowledged/s": count / ((sent["ended_ns"] - sent["began_ns"]) / 1e9),
    } | cpu_figures(
        count,
        publisher=sent["cpu_seconds"],
        server=running.store.cpu_seconds() - cpu_before,
        subscriber=got["cpu_seconds"],
    )


async def one_topic(stage: Stage) -> Figures:
    return await one_to(1, OURS, stage, count=TOPICS * stage.size(200, 30), size_bytes=SIZE_BYTES)


scenario = Scenario(
    name="topics",
    quick=False,
    title="round robin to 1,000 topics, one subscriber of all of them, 100 B",
    subjects=(
        *subjects(measure, (REDIS_ALWAYS, REDIS_EVERYSEC, NATS_DEFAULT), quick=False),
        Subject(name=ONE, measure=one_topic),
        RAW_MANY,
        RAW_ONE,
    ),
    ratios=(
        Ratio(subject=OURS.name, metric=RATE, over=(ONE, RATE), name=OVER_ONE),
        Ratio(subject=RAW_MANY.name, metric=RATE, over=(RAW_ONE.name, RATE), name=OVER_ONE),
    ),
    targets=(Target(subject=OURS.name, metric=OVER_ONE, at_least=0.7),),
    plots=(RATE,),
)
