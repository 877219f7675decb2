"""What a run yields, and what is made of it: readings, their median with min and max, targets met or missed.

Pure: no process, no clock. A failed repetition is kept and shown; it is never averaged away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from benchmarks.stage import Stage

Figures = dict[str, float]
"""Metric, with its unit where it has one -> value."""


class RunFailedError(Exception):
    """A run that lost, doubled or reordered a message, or did not end. Its figures mean nothing."""


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """One who is measured: a system under test, or the machine itself."""

    name: str
    measure: Callable[[Stage], object]
    """An async function that returns `Figures`, or raises RunFailedError. Called once per repetition."""


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over another of the same repetition: what is left when the machine's mood is divided out."""

    subject: str
    metric: str
    over: tuple[str, str]
    """Subject and metric of the divisor."""
    name: str


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What the median of a metric should be."""

    subject: str
    metric: str
    at_least: float = -math.inf
    at_most: float = math.inf

    def __str__(self) -> str:
        return f"≥ {self.at_least:,g}" if self.at_least > -math.inf else f"≤ {self.at_most:,g}"

    def met_by(self, value: float) -> bool:
        return self.at_least <= value <= self.at_most


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A question, those who are asked, and what the answer should be."""

    name: str
    title: str
    subjects: Sequence[Subject]
    ratios: Sequence[Ratio] = ()
    targets: Sequence[Target] = ()


class Repetition(msgspec.Struct, frozen=True, kw_only=True):
    """What one subject yielded once: figures, or why there are none."""

    scenario: str
    subject: str
    number: int
    figures: Figures = {}
    failed: str | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the report: one metric of one subject over all repetitions."""

    scenario: str
    subject: str
    metric: str
    median: float | None
    min: float | None
    max: float | None
    values: list[float]
    target: str | None = None
    met: bool | None = None
    failed: list[str] = []
    """Why repetitions failed; with any, the target is not met."""


def with_ratios(scenario: Scenario, repetitions: Sequence[Repetition]) -> list[Repetition]:
    """The repetitions, each completed by the ratios of its scenario."""
    figures = {(r.number, r.subject): r.figures for r in repetitions}
    completed = []
    for repetition in repetitions:
        own = dict(repetition.figures)
        for ratio in scenario.ratios:
            divisor = figures.get((repetition.number, ratio.over[0]), {}).get(ratio.over[1])
            if ratio.subject == repetition.subject and ratio.metric in own and divisor:
                own[ratio.name] = own[ratio.metric] / divisor
        completed.append(msgspec.structs.replace(repetition, figures=own))
    return completed


def summarize(scenario: Scenario, repetitions: Sequence[Repetition]) -> list[Line]:
    """One line for each metric of each subject, in the order in which they were measured."""
    completed = with_ratios(scenario, repetitions)
    targets = {(target.subject, target.metric): target for target in scenario.targets}
    lines = []
    for subject in scenario.subjects:
        mine = [repetition for repetition in completed if repetition.subject == subject.name]
        failed = [f"repetition {r.number}: {r.failed}" for r in mine if r.failed is not None]
        metrics = dict.fromkeys(metric for r in mine for metric in r.figures)
        metrics |= dict.fromkeys(t.metric for t in scenario.targets if failed and t.subject == subject.name)
        for metric in metrics or ({"": None} if failed else {}):
            values = [r.figures[metric] for r in mine if metric in r.figures]
            target = targets.get((subject.name, metric))
            lines.append(
                Line(
                    scenario=scenario.name,
                    subject=subject.name,
                    metric=metric,
                    median=median(values) if values else None,
                    min=min(values, default=None),
                    max=max(values, default=None),
                    values=values,
                    target=None if target is None else str(target),
                    met=None
                    if target is None
                    else bool(values) and not failed and target.met_by(median(values)),
                    failed=failed,
                )
            )
    return lines


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of sorted values that `percent` of them do not exceed (nearest rank)."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def latency_figures(what: str, seconds: Iterable[float], percents: Sequence[float] = (50, 99)) -> Figures:
    """Percentiles in milliseconds."""
    ordered = sorted(seconds)
    return {f"{what} p{percent:g}, ms": percentile(ordered, percent) * 1e3 for percent in percents}
