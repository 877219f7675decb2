"""Many seeds, one after the other or on all processors, and the story of one that failed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import NamedTuple

from tests.simulation.world import World

CHUNK = 50


class Outcome(NamedTuple):
    """Of one seed; `failure` is empty if everything held."""

    seed: int
    failure: str
    steps: int
    committed: int


def run_seed(seed: int) -> Outcome:
    """One run; an error in the simulation itself is a failure, too."""
    world = World(seed)
    failure = ""
    try:
        world.run()
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    return Outcome(seed, failure, world.scheduler.steps, len(world.ledger.log))


def run_seeds(seeds: Iterable[int]) -> list[Outcome]:
    return [run_seed(seed) for seed in seeds]


def run_everywhere(seeds: range, jobs: int | None = None) -> Iterator[Outcome]:
    """On all processors, as they come."""
    chunks = [seeds[first : first + CHUNK] for first in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:
        for future in as_completed([pool.submit(run_seeds, chunk) for chunk in chunks]):
            yield from future.result()


def tell(seed: int) -> list[str]:
    """The same run once more, step by step."""
    world = World(seed, narrate=True)
    try:
        world.run()
    except Exception as error:
        world.scheduler.say("", "VIOLATION {}: {}", type(error).__name__, str(error))
    return world.scheduler.narration


class Stopwatch:
    """Seeds per second."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def rate(self, seeds: int) -> float:
        return seeds / max(1e-9, time.perf_counter() - self._began)
