"""Pictures of a run: for each metric that a scenario names, all subjects side by side, with what they promise.

Green is what is on disk before it is acknowledged, orange what is not, grey a limit of the machine. A bar is the
median, the line on it goes from min to max.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.readings import Line, Scenario

DURABLE, LOST, LIMIT = "#2e8b57", "#e08a1e", "#9a9a9a"
MOST_LIMIT = 2.0
"""A limit that is more than so many times the best of the systems would leave no room for them: it is left out."""
LOGARITHMIC = 30.0
"""From this ratio of the largest to the smallest median on, times are drawn on a logarithmic scale; rates never are."""
ROW_INCHES = 0.52


def plot(directory: Path, scenario: Scenario, lines: Sequence[Line]) -> list[str]:
    """Draw a scenario's pictures; returns the names of the files, none if there is nothing to draw.

    Raises:
        ImportError: matplotlib is not installed.
    """
    promises = {line.subject: line.promise for line in lines if line.promise}
    names = []
    for number, metric in enumerate(scenario.plots):
        shown = _shown(metric, lines, promises)
        if len(shown) > 1:
            names.append(f"{scenario.name}{f'-{number + 1}' if number else ''}.svg")
            _draw(directory / names[-1], f"{scenario.title}\n{metric}", shown, promises)
    return names


def _shown(metric: str, lines: Sequence[Line], promises: dict[str, str]) -> list[Line]:
    """The lines of a metric that have a figure and leave room for the others."""
    measured = [line for line in lines if line.metric == metric and line.median and not line.failed]
    best = max((line.median or 0.0 for line in measured if line.subject in promises), default=0.0)
    return [
        line for line in measured if line.subject in promises or (line.median or 0.0) <= MOST_LIMIT * best
    ]


def _draw(path: Path, title: str, lines: Sequence[Line], promises: dict[str, str]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {
        "svg.fonttype": "none",
        "svg.hashsalt": "pubsub",
    }  # small; same figures, same file
    from matplotlib import pyplot

    medians = [line.median or 0.0 for line in lines]
    figure, axes = pyplot.subplots(figsize=(9, 1.1 + ROW_INCHES * len(lines)), layout="constrained")
    axes.barh(
        range(len(lines)),
        medians,
        xerr=[
            [middle - (line.min or 0.0) for middle, line in zip(medians, lines, strict=True)],
            [(line.max or 0.0) - middle for middle, line in zip(medians, lines, strict=True)],
        ],
        color=[_color(promises.get(line.subject, "")) for line in lines],
        ecolor="#444444",
        capsize=2,
        height=0.5,
    )
    axes.set_yticks(range(len(lines)), [_label(line.subject, promises) for line in lines], fontsize=8)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=9, loc="left")
    if lines[0].metric.endswith("ms") and max(medians) > LOGARITHMIC * min(medians):
        axes.set_xscale("log")
        axes.set_xlim(left=min(medians) / 3)
    else:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.margins(x=0.14)
    for place, (middle, line) in enumerate(zip(medians, lines, strict=True)):
        axes.annotate(
            f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}",
            (max(middle, line.max or 0.0), place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.spines[["top", "right"]].set_visible(False)
    metadata: dict[str, Any] = {"Date": None}
    figure.savefig(path, metadata=metadata)
    pyplot.close(figure)


def _label(subject: str, promises: dict[str, str]) -> str:
    """A name, and below it the beginning of what it promises."""
    promise = promises.get(subject)
    if promise is None:
        return subject
    return f"{subject}\n{promise.partition(':')[0].partition(' before')[0]}"


def _color(promise: str) -> str:
    if not promise:
        return LIMIT
    return DURABLE if promise.startswith("on disk") else LOST
