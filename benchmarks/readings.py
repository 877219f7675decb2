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


def _here() -> str | None:
    return None


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """One who is measured: a system under test, or the machine itself."""

    name: str
    measure: Callable[[Stage], object]
    """An async function that returns `Figures`, or raises RunFailedError. Called once per repetition."""
    promise: str = ""
    """What an acknowledged publish survives, in words; empty for what is no system."""
    missing: Callable[[], str | None] = _here
    """Why it cannot be measured here; None if it can."""
    quick: bool = True
    """Whether it is measured in a quick run too."""


class Ratio(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over another of the same repetition: what is left when the machine's mood is divided out."""

    subject: str
    metric: str
    over: tuple[str | tuple[str, ...], str]
    """Subject and metric of the divisor; of several subjects the one that has most."""
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
    quick: bool = True
    """Whether a quick run that names no scenarios includes it."""
    long: bool = False
    """Whether only a long run includes it, or one that names it."""
    plots: Sequence[str] = ()
    """The metrics that are worth a picture, with all subjects side by side."""


class Repetition(msgspec.Struct, frozen=True, kw_only=True):
    """What one subject yielded once: figures, or why there are none."""

    scenario: str
    subject: str
    number: int
    figures: Figures = {}
    failed: str | None = None
    skipped: str | None = None
    """Why it was not measured at all."""


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
    skipped: str | None = None
    """Why the subject was not measured: then there is this line only."""
    promise: str | None = None
    """In the first line of each system: what an acknowledged publish survives."""


def with_ratios(scenario: Scenario, repetitions: Sequence[Repetition]) -> list[Repetition]:
    """The repetitions, each completed by the ratios of its scenario."""
    figures = {(r.number, r.subject): r.figures for r in repetitions}
    completed = []
    for repetition in repetitions:
        own = dict(repetition.figures)
        for ratio in scenario.ratios:
            subjects, metric = ratio.over
            divisors = [
                figures.get((repetition.number, subject), {}).get(metric, 0.0)
                for subject in ((subjects,) if isinstance(subjects, str) else subjects)
            ]
            if ratio.subject == repetition.subject and ratio.metric in own and max(divisors) > 0:
                own[ratio.name] = own[ratio.metric] / max(divisors)
        completed.append(msgspec.structs.replace(repetition, figures=own))
    return completed


def summarize(scenario: Scenario, repetitions: Sequence[Repetition]) -> list[Line]:
    """One line for each metric of each subject, in the order in which they were measured."""
    completed = with_ratios(scenario, repetitions)
    lines = []
    for subject in scenario.subjects:
        mine = [repetition for repetition in completed if repetition.subject == subject.name]
        if mine:
            lines += _lines(scenario, subject, mine)
    return lines


def _lines(scenario: Scenario, subject: Subject, mine: Sequence[Repetition]) -> list[Line]:
    """The lines of one subject."""
    skipped = next((r.skipped for r in mine if r.skipped is not None), None)
    failed = [f"repetition {r.number}: {r.failed}" for r in mine if r.failed is not None]
    targets = {target.metric: target for target in scenario.targets if target.subject == subject.name}
    metrics = dict.fromkeys(metric for r in mine for metric in r.figures)
    metrics |= dict.fromkeys(targets if failed else ())
    lines: list[Line] = []
    for metric in metrics or ({"": None} if failed or skipped else {}):
        values = [r.figures[metric] for r in mine if metric in r.figures]
        target = targets.get(metric)
        met = target is not None and bool(values) and not failed and target.met_by(median(values))
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
                met=None if target is None else met,
                failed=failed,
                skipped=skipped,
                promise=(subject.promise or None) if not lines else None,
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


def rate(portions: Sequence[Sequence[int]]) -> float:
    """Per second, of (when it was acknowledged in ns, how many): the first only says when the clock started."""
    (began, _), *rest = portions
    return sum(count for _, count in rest) / ((rest[-1][0] - began) / 1e9)
