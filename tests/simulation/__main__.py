"""`make simulate SEEDS=10000`: run seeds, print how many a second, and the story of each that fails.

    python -m tests.simulation [SEEDS] [--first SEED] [--jobs N] [--seed SEED]

`--seed` tells the story of one run, failed or not.
"""

from __future__ import annotations

import argparse
import sys

from tests.simulation.runs import Stopwatch, run_everywhere, tell

STORIES = 3
"""Of so many failures the whole story is printed; of the others the seed."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("seeds", nargs="?", type=int, default=1000, help="how many to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=None, help="processes; default: one per processor")
    parser.add_argument("--seed", type=int, default=None, help="tell the story of this one instead")
    options = parser.parse_args()
    if options.seed is not None:
        story = tell(options.seed)
        print("\n".join(story))
        return int("VIOLATION" in story[-1])
    return run(range(options.first, options.first + options.seeds), options.jobs)


def run(seeds: range, jobs: int | None) -> int:
    watch, done, steps, committed, failed = Stopwatch(), 0, 0, 0, []
    for outcome in run_everywhere(seeds, jobs):
        done, steps, committed = done + 1, steps + outcome.steps, committed + outcome.committed
        if outcome.failure:
            failed.append(outcome.seed)
            print(f"seed {outcome.seed} FAILED: {outcome.failure}", flush=True)
            if len(failed) <= STORIES:
                print("\n".join(tell(outcome.seed)), flush=True)
        if done % 1000 == 0:
            print(f"{done:>8,} of {len(seeds):,} seeds, {watch.rate(done):.1f} a second", flush=True)
    print(
        f"{done:,} seeds, {steps:,} steps, {committed:,} messages committed: {watch.rate(done):.1f} seeds/s, "
        f"{len(failed)} failed{f': {sorted(failed)}' if failed else ''}"
    )
    if failed:
        print(f"once more, with its story: make simulate SEED={min(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
