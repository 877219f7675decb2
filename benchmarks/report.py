"""What a run is shown as: a table on a terminal, the same in Markdown, and JSON lines for programs."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.machine import Machine
from benchmarks.readings import Line, Scenario

_HEADS = ("subject", "metric", "median", "min to max", "target", "met", "acknowledged means")


def number(value: float | None) -> str:
    """A figure with as many digits as mean anything."""
    if value is None:
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"


def cells(line: Line) -> tuple[str, ...]:
    """A line of the table."""
    met = {None: "", True: "yes", False: "NO"}[line.met]
    if line.failed:
        met = "FAILED: " + "; ".join(line.failed)
    if line.skipped:
        return line.subject, "", "-", "-", "", f"skipped: {line.skipped}", line.promise or ""
    spread = "-" if line.min is None else f"{number(line.min)} to {number(line.max)}"
    return line.subject, line.metric, number(line.median), spread, line.target or "", met, line.promise or ""


def show(console: Console, scenario: Scenario, lines: list[Line]) -> None:
    """Print one scenario."""
    table = Table(
        *_HEADS[:-1], title=f"{scenario.name}: {scenario.title}", title_justify="left", title_style="bold"
    )
    for column in table.columns[2:4]:
        column.justify = "right"
    for line in lines:
        style = (
            "red"
            if line.failed or line.met is False
            else "dim"
            if line.skipped or line.subject.startswith("limit")
            else ""
        )
        table.add_row(*cells(line)[:-1], style=style)
    console.print(table)
    for line in lines:
        if line.promise:
            console.print(
                f"  {line.subject}: acknowledged means {line.promise}", style="dim", highlight=False
            )


def markdown(machine: Machine, results: Iterable[tuple[Scenario, list[Line]]]) -> str:
    """The whole report."""
    parts = [f"Machine: {machine}\n"]
    for scenario, lines in results:
        parts.append(f"### {scenario.name}: {scenario.title}\n")
        parts.append("| " + " | ".join(_HEADS) + " |")
        parts.append("|---|---|--:|--:|---|---|---|")
        parts += ["| " + " | ".join(cells(line)) + " |" for line in lines]
        parts.append("")
    return "\n".join(parts)


def json_lines(
    machine: Machine, repetitions: int, quick: bool, results: Iterable[tuple[Scenario, list[Line]]]
) -> bytes:
    """One object for the machine, then one for each line."""
    head = {"machine": machine, "repetitions": repetitions, "quick": quick}
    objects = [head, *(line for _, lines in results for line in lines)]
    return b"".join(msgspec.json.encode(item) + b"\n" for item in objects)
