"""`make torture MINUTES=10`: real processes under faults for so long; the verdict on the history.

    python -m tests.torture [MINUTES] [--seed SEED] [--ttl SECONDS] [--only FAULT ...] [--damage] [--keep DIR]
    python -m tests.torture --check DIR/history.jsonl

Each run of a few minutes has a seed and a cluster of its own, until the time is over or one fails. The seed fixes
what goes wrong and when; not what the processes make of it.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.redis_process import redis_server_binary
from tests.torture.checker import check
from tests.torture.history import read_history
from tests.torture.run import Settings, run

RUN_SECONDS = 240.0
"""A run's copies are read whole and compared in memory: rather more runs than longer ones."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture")
    parser.add_argument("minutes", nargs="?", type=float, default=10.0, help="how long")
    parser.add_argument("--seed", type=int, default=None, help="of the first run; the next ones count on")
    parser.add_argument("--ttl", type=float, default=2.0, help="of the index, seconds")
    parser.add_argument("--only", nargs="+", default=[], metavar="FAULT", help="no other faults than these")
    parser.add_argument("--damage", action="store_true", help="also flip bytes in peers' files")
    parser.add_argument(
        "--keep", type=Path, default=None, help="keep histories, data and logs here, also of runs that pass"
    )
    parser.add_argument("--check", type=Path, default=None, help="only check a history that was kept")
    options = parser.parse_args()
    if options.check is not None:
        verdict = check(read_history(options.check))
        print(verdict)
        return int(bool(verdict.violations))
    if redis_server_binary() is None:
        print("redis-server is not installed (Debian: apt-get install redis-server)", file=sys.stderr)
        return 2
    return torture(options)


def torture(options: argparse.Namespace) -> int:
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # so that the cluster's processes end with this one
    first = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    print(
        f"Two indexes on redis-server, 5 peers, 4 topics with 3 copies; 8 publishers and 8 subscribers, whose history\n"
        f"is checked, for {options.minutes:g} min under kills, pauses, partitions, full disks, Redis flushed or set\n"
        f"back, and replicas moved. Seeds from {first} on.",
        flush=True,
    )
    end = time.monotonic() + options.minutes * 60
    seed, faults = first, 0
    while (left := end - time.monotonic()) > 0 and (seed == first or left > 20):
        place = (
            Path(tempfile.mkdtemp(prefix="pubsub-torture-"))
            if options.keep is None
            else options.keep / str(seed)
        )
        place.mkdir(parents=True, exist_ok=True)
        settings = Settings(
            seed=seed,
            seconds=min(left, RUN_SECONDS),
            ttl=options.ttl,
            damage=options.damage,
            kinds=tuple(options.only),
        )
        print(f"seed {seed}", flush=True)
        outcome = asyncio.run(run(place, settings, lambda line: print(line, flush=True)))
        faults += outcome.faults
        print(f"seed {seed}, {outcome.seconds:.0f} s, {outcome.faults} faults: {outcome.verdict}", flush=True)
        if outcome.verdict.violations:
            print(f"The history, the peers' files and what they said are in {place}")
            return 1
        if options.keep is None:
            shutil.rmtree(place)
        seed += 1
    print(f"{seed - first} runs, {faults} faults: nothing lost, doubled, reordered or changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
