"""Every system, and each as a subject of a scenario. Imports no client: those are imported where they are used."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from benchmarks.readings import Figures, Subject
from benchmarks.stage import Stage
from benchmarks.systems import nats_jetstream, ours, rabbitmq_queues, rabbitmq_streams, redis_streams
from benchmarks.systems.names import System

OURS = ours.System()
REDIS_ALWAYS, REDIS_EVERYSEC = redis_streams.ALWAYS, redis_streams.EVERYSEC
REDIS_TWO_PIPELINES = redis_streams.TWO_PIPELINES
NATS_ALWAYS, NATS_BATCHES, NATS_DEFAULT = (
    nats_jetstream.ALWAYS,
    nats_jetstream.BATCHES,
    nats_jetstream.DEFAULT,
)
RABBITMQ_QUEUE, RABBITMQ_STREAM = rabbitmq_queues.System(), rabbitmq_streams.System()

OTHERS: Sequence[System] = (
    REDIS_ALWAYS,
    REDIS_EVERYSEC,
    NATS_ALWAYS,
    NATS_DEFAULT,
    RABBITMQ_QUEUE,
    RABBITMQ_STREAM,
)
"""What each is measured against unless a scenario says otherwise."""

IN_QUICK_RUNS = (REDIS_EVERYSEC, NATS_DEFAULT)
"""The others that start fast and publish fast."""

Measure = Callable[[System, Stage], Awaitable[Figures]]


def subject(system: System, measure: Measure, *, quick: bool | None = None) -> Subject:
    """A system as somebody who is measured. `quick`: also in a quick run."""
    return Subject(
        name=system.name,
        measure=partial(measure, system),
        promise=system.promise,
        missing=system.missing,
        quick=system is OURS or system in IN_QUICK_RUNS if quick is None else quick,
    )


def subjects(
    measure: Measure, others: Sequence[System] = OTHERS, *, quick: bool | None = None
) -> list[Subject]:
    """Ours, and the others. `quick`: whether the others are in a quick run too."""
    return [subject(OURS, measure), *(subject(other, measure, quick=quick) for other in others)]


def portion(stage: Stage, system: System, full: int, quick: int) -> int:
    """How many messages a system is given."""
    return int(stage.size(full, quick) * system.share)
