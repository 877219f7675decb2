"""Puts a run into docs/: its figures as JSON lines, its pictures, and its tables into docs/benchmarks.md.

Each scenario has a file of its own in docs/benchmarks/, so that a run of some scenarios replaces those and leaves the
others. The page is written by people, but for what stands between two marks in it: that is made from all those files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from benchmarks import report
from benchmarks.machine import Machine
from benchmarks.plots import plot
from benchmarks.readings import Line, Scenario

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
MOST_PICTURES = 9
BEGIN, END = "<!-- figures: written by python -m benchmarks --docs -->", "<!-- end of figures -->"


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """First line of a file: on what, how often, and whether on small inputs."""

    machine: Machine
    repetitions: int
    quick: bool
    long: bool = False


def keep(head: Head, scenario: Scenario, lines: Sequence[Line], page: Path = PAGE) -> None:
    """Write the files and the pictures of a scenario."""
    directory = page.with_suffix("")
    directory.mkdir(exist_ok=True)
    for old in _pictures(directory, scenario):
        old.unlink()
    plot(directory, scenario, lines)
    objects: list[object] = [head, *lines]
    (directory / f"{scenario.name}.jsonl").write_bytes(
        b"".join(msgspec.json.encode(item) + b"\n" for item in objects)
    )


def _pictures(directory: Path, scenario: Scenario) -> list[Path]:
    """Those that are there."""
    suffixes = ("", *(f"-{number}" for number in range(2, MOST_PICTURES + 1)))
    paths = (directory / f"{scenario.name}{suffix}.svg" for suffix in suffixes)
    return [path for path in paths if path.exists()]


def write_page(scenarios: Iterable[Scenario], page: Path = PAGE) -> None:
    """Make the part of the page between the marks anew, from the files that are there."""
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the marks {BEGIN} and {END}")
    kept = [found for scenario in scenarios if (found := _read(scenario, page.with_suffix(""))) is not None]
    machines = dict.fromkeys(head.machine.what for head, _, _ in kept)
    parts = [_part(*each, page.with_suffix("")) for each in kept]
    page.write_text("\n".join([before + BEGIN, "", *machines, "", *parts, END + after]))


def _read(scenario: Scenario, directory: Path) -> tuple[Head, Scenario, list[Line]] | None:
    path = directory / f"{scenario.name}.jsonl"
    if not path.exists():
        return None
    first, *others = path.read_bytes().splitlines()
    lines = [msgspec.json.decode(line, type=Line) for line in others]
    return msgspec.json.decode(first, type=Head), scenario, lines


def _part(head: Head, scenario: Scenario, lines: Sequence[Line], directory: Path) -> str:
    """Title, pictures and tables of one scenario."""
    parts = [f"### {scenario.name}: {scenario.title}", ""]
    parts += [f"{head.repetitions} repetitions{', --long' if head.long else ''}; {head.machine.when}", ""]
    for path in _pictures(directory, scenario):
        parts += [f"![{scenario.title}]({directory.name}/{path.name})", ""]
    return "\n".join([*parts, *tables(lines), ""])


def tables(lines: Sequence[Line]) -> list[str]:
    """What several subjects have in common side by side; the rest, and what is held against a target, below it."""
    subjects = list(dict.fromkeys(line.subject for line in lines))
    counts = {metric: sum(line.metric == metric for line in lines) for metric in (x.metric for x in lines)}
    common = [metric for metric in counts if metric and counts[metric] > 2] if len(subjects) > 2 else []
    found = []
    if common:
        found += [f"| subject | {' | '.join(common)} | acknowledged means |"]
        found += [f"|---|{'--:|' * len(common)}---|"]
        found += [_row([line for line in lines if line.subject == subject], common) for subject in subjects]
        found += [""]
    rest = [line for line in lines if (line.metric not in common or line.target) and not line.skipped]
    if rest:
        found += ["| subject | metric | median | min to max | target | met |", "|---|---|--:|--:|---|---|"]
        found += ["| " + " | ".join(report.cells(line)[:-1]) + " |" for line in rest]
    return found


def _row(lines: Sequence[Line], metrics: Sequence[str]) -> str:
    by_metric = {line.metric: line for line in lines}
    promise = next((line.promise for line in lines if line.promise), "") or ""
    why = next((f"skipped: {line.skipped}" for line in lines if line.skipped), None)
    why = why or next((f"FAILED: {'; '.join(line.failed)}" for line in lines if line.failed), None)
    cells = [_cell(by_metric.get(metric)) for metric in metrics]
    return f"| {lines[0].subject} | {' | '.join(cells)} | {why or promise} |"


def _cell(line: Line | None) -> str:
    if line is None or line.median is None:
        return ""
    if line.min == line.max:
        return report.number(line.median)
    return f"{report.number(line.median)} ({report.number(line.min)} to {report.number(line.max)})"
