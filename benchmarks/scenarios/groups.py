"""A group works off a backlog: four members in two processes, each message acknowledged by itself."""

from __future__ import annotations

from typing import Any

from benchmarks.readings import Figures, RunFailedError, Scenario, Subject, Target
from benchmarks.stage import Stage, cpu_figures
from benchmarks.systems.names import reference
from benchmarks.systems.ours import System

SIZE_BYTES = 100
PROCESSES = 2
MEMBERS = 4
MAX_IN_FLIGHT = {"pubsub": 100, "pubsub, max_in_flight=1000": 1000}
"""Who is measured -> what a member takes at once; 100 is the default."""
RATE = "acknowledged/s"


def _subject(name: str, max_in_flight: int) -> Subject:
    async def measure(stage: Stage) -> Figures:
        """From joining to the last acknowledgement."""
        count = stage.size(300_000, 30_000)
        running = await System().start(stage)
        publisher = await stage.worker(
            "publish-many", running=reference(running), count=count, size_bytes=SIZE_BYTES
        )
        await publisher.run()
        task = {"members": MEMBERS // PROCESSES, "max_in_flight": max_in_flight}
        workers = [await stage.worker("share", running=reference(running), **task) for _ in range(PROCESSES)]
        for worker in workers:
            await worker.ready()
        cpu_before = running.store.cpu_seconds()
        for worker in workers:
            worker.go()
        found = [await worker.result() for worker in workers]
        return _figures(found, count, running.store.cpu_seconds() - cpu_before)

    return Subject(name=name, measure=measure)


def _figures(found: list[dict[str, Any]], count: int, peer_cpu: float) -> Figures:
    """Of what each process processed, once it is certain that all was processed, once."""
    numbers = [number for part in found for number in part["numbers"]]
    if sorted(numbers) != list(range(count)):
        raise RunFailedError(f"{len(numbers)} messages were processed, {len(set(numbers))} of {count} once")
    began, ended = min(part["began_ns"] for part in found), max(part["ended_ns"] for part in found)
    return {
        RATE: count / ((ended - began) / 1e9),
        "least by one process, %": 100 * min(len(part["numbers"]) for part in found) / count,
    } | cpu_figures(count, peer=peer_cpu, members=sum(part["cpu_seconds"] for part in found))


scenario = Scenario(
    name="groups",
    long=True,
    title="a group of 4 members in 2 processes acknowledges stored messages of 100 B one by one",
    subjects=tuple(_subject(*subject) for subject in MAX_IN_FLIGHT.items()),
    targets=tuple(Target(subject=name, metric=RATE, at_least=30_000) for name in MAX_IN_FLIGHT),
)
