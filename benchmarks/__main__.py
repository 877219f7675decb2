"""`python -m benchmarks`: runs scenarios, everybody in turn in each repetition, and reports.

Exit code: 0 when every run was whole, whether or not the targets were met (a shared machine misses them without our
doing); 1 when a run failed, that is lost a message or did not end; 2 for a wrong call.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from benchmarks import docs, report
from benchmarks.kept import Kept
from benchmarks.machine import describe, later
from benchmarks.readings import Line, Repetition, RunFailedError, Scenario, Subject, summarize
from benchmarks.scenarios.all import SCENARIOS
from benchmarks.stage import Stage

REPETITIONS = 3


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What this machine can do, and how much of it a topic reaches: medians, with min and max.",
    )
    parser.add_argument(
        "scenarios",
        metavar="SCENARIO",
        nargs="*",
        help=f"of {', '.join(SCENARIOS)}; without any: those that do not take long",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small inputs, without what takes long: a look in under a minute, not a measurement",
    )
    parser.add_argument(
        "--long",
        action="store_true",
        help="10,000,000 stored messages where it is 1,000,000 otherwise, and what takes long: hours",
    )
    parser.add_argument("--repetitions", type=int, metavar="N", help=f"{REPETITIONS}; with --quick 1")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write JSON lines")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables in Markdown")
    parser.add_argument(
        "--docs",
        action="store_true",
        help="write figures, pictures and tables of these scenarios into docs/ (matplotlib: pip install '.[bench]')",
    )
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="on whose disk to measure; the temporary directory"
    )
    given = parser.parse_args(argv)
    unknown = [name for name in given.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"there is no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    if given.repetitions is not None and given.repetitions < 1:
        parser.error("at least one repetition")
    if given.docs and given.quick:
        parser.error("a quick run is a look, not a measurement: it is not put into docs/")
    if given.docs and find_spec("matplotlib") is None:
        parser.error("pictures take matplotlib: pip install '.[bench]'")
    if given.directory is not None and not given.directory.is_dir():
        parser.error(f"{given.directory} is not a directory")
    return given


async def measure(
    subject: Subject, scenario: Scenario, number: int, given: argparse.Namespace, kept: Kept
) -> Repetition:
    """One subject, once."""
    if missing := subject.missing():
        return Repetition(scenario=scenario.name, subject=subject.name, number=number, skipped=missing)
    try:
        async with Stage(quick=given.quick, long=given.long, parent=given.directory, kept=kept) as stage:
            figures = await subject.measure(stage)  # type: ignore[misc]
        return Repetition(scenario=scenario.name, subject=subject.name, number=number, figures=figures)
    except RunFailedError as error:
        return Repetition(scenario=scenario.name, subject=subject.name, number=number, failed=str(error))


async def run(scenario: Scenario, given: argparse.Namespace, kept: Kept, console: Console) -> list[Line]:
    """One scenario: in each repetition all its subjects in turn."""
    repetitions: list[Repetition] = []
    count = times(given)
    for number in range(1, count + 1):
        for subject in scenario.subjects:
            if given.quick and not subject.quick:
                continue
            with console.status(f"{scenario.name}, repetition {number} of {count}: {subject.name}"):
                repetitions.append(await measure(subject, scenario, number, given, kept))
    return summarize(scenario, repetitions)


def times(given: argparse.Namespace) -> int:
    """How often each scenario is repeated."""
    if given.repetitions is not None:
        return int(given.repetitions)
    return 1 if given.quick else REPETITIONS


def chosen(given: argparse.Namespace) -> list[str]:
    """What is run when nobody says what."""
    return [
        name
        for name, scenario in SCENARIOS.items()
        if (scenario.quick if given.quick else given.long or not scenario.long)
    ]


async def run_all(given: argparse.Namespace, console: Console) -> int:
    async with Kept(given.directory) as kept:
        return await _run_all(given, kept, console)


async def _run_all(given: argparse.Namespace, kept: Kept, console: Console) -> int:
    machine = describe(given.directory or Path(tempfile.gettempdir()))
    console.print(str(machine), style="dim")
    results: list[tuple[Scenario, list[Line]]] = []
    names = given.scenarios or chosen(given)
    for name in names:
        scenario = SCENARIOS[name]
        head = docs.Head(machine=later(machine), repetitions=times(given), quick=given.quick, long=given.long)
        lines = await run(scenario, given, kept, console)
        report.show(console, scenario, lines)
        results.append((scenario, lines))
        if given.docs:
            docs.keep(head, scenario, lines)
            docs.write_page(SCENARIOS.values())
    if given.json:
        given.json.write_bytes(report.json_lines(machine, times(given), given.quick, results))
    if given.markdown:
        given.markdown.write_text(report.markdown(machine, results))
    return int(any(line.failed for _, lines in results for line in lines))


def main() -> int:
    given = arguments(sys.argv[1:])
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        return asyncio.run(run_all(given, console))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
