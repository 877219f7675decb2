"""The benchmarks run, verify what they carry, and say so when a run is not whole. No test here looks at a speed."""

import asyncio
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.payloads import payloads, verify
from benchmarks.readings import (
    Ratio,
    Repetition,
    RunFailedError,
    Scenario,
    Subject,
    Target,
    percentile,
    summarize,
)
from benchmarks.report import cells
from benchmarks.scenarios.all import SCENARIOS
from benchmarks.scenarios.live import DELIVERIES, one_to
from benchmarks.stage import Stage
from benchmarks.systems.all import NATS_BATCHES, OTHERS, OURS, REDIS_TWO_PIPELINES
from benchmarks.systems.names import System

CHECKOUT = Path(__file__).resolve().parent.parent.parent


async def run_benchmarks(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks",
        *arguments,
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.parametrize("name", ["throughput", "single", "groups"])
async def test_a_quick_scenario_runs_whole_and_writes_json_lines(name: str, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    code, output = await run_benchmarks("--quick", "--json", str(results), "--directory", str(tmp_path), name)
    assert code == 0, output
    head, *lines = map(msgspec.json.decode, results.read_bytes().splitlines())
    assert head["quick"] is True
    assert head["machine"]["cores"] >= 1
    assert {line["subject"] for line in lines} == {s.name for s in SCENARIOS[name].subjects if s.quick}
    for line in lines:
        assert line["failed"] == []
        if line["skipped"] is not None:
            continue
        assert line["min"] <= line["median"] <= line["max"]
    ratios = {ratio.name for ratio in SCENARIOS[name].ratios}  # some are over systems that are not here
    for target in SCENARIOS[name].targets:
        assert target.metric in ratios or any(
            line["metric"] == target.metric and line["target"] for line in lines
        )
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]  # nothing is left behind


@pytest.mark.parametrize(
    "system", [OURS, *OTHERS, NATS_BATCHES, REDIS_TWO_PIPELINES[0]], ids=lambda system: system.name
)
async def test_every_system_that_is_here_carries_every_message_in_order(system: System) -> None:
    if missing := system.missing():
        pytest.skip(missing)
    async with Stage(quick=True) as stage:
        figures = await one_to(2, system, stage, count=2300, size_bytes=100)
        assert figures[DELIVERIES] > 0
        assert system.promise


async def test_an_unknown_scenario_is_a_usage_error_that_names_those_there_are() -> None:
    code, output = await run_benchmarks("nonsense")
    assert code == 2
    assert "throughput" in output


def test_a_whole_run_is_verified() -> None:
    verify(payloads(0, 5, 100) + payloads(1, 5, 100), {0: 5, 1: 5})


@pytest.mark.parametrize(
    ("received", "why"),
    [
        (payloads(0, 5, 100)[:3] + payloads(0, 5, 100)[4:], "1 of 5 messages lost"),
        (payloads(0, 4, 100), "1 of 5 messages lost"),
        (payloads(0, 5, 100) + payloads(0, 5, 100)[4:], "1 doubled or late"),
        (payloads(0, 5, 100)[1::-1] + payloads(0, 5, 100)[2:], "1 doubled or late"),
        (payloads(0, 6, 100), "1 never published"),
        (payloads(0, 5, 100) + payloads(9, 1, 100), "1 never published"),
    ],
    ids=["gap", "end missing", "twice", "out of order", "too many", "another stream"],
)
def test_a_run_that_is_not_whole_fails_and_says_why(received: list[bytes], why: str) -> None:
    with pytest.raises(RunFailedError, match=why):
        verify(received, {0: 5})


async def _measure(stage: object) -> dict[str, float]:
    return {}


def scenario_with_target() -> Scenario:
    return Scenario(
        name="s",
        title="",
        subjects=(Subject(name="ours", measure=_measure), Subject(name="limit", measure=_measure)),
        ratios=(Ratio(subject="ours", metric="took", over=("limit", "took"), name="times"),),
        targets=(Target(subject="ours", metric="times", at_most=3),),
    )


def repetition(subject: str, number: int, took: float) -> Repetition:
    return Repetition(scenario="s", subject=subject, number=number, figures={"took": took})


def test_a_ratio_is_taken_within_each_repetition_and_its_median_is_held_against_the_target() -> None:
    runs = [
        ("ours", 1, 2.0),
        ("limit", 1, 1.0),
        ("ours", 2, 40.0),
        ("limit", 2, 10.0),
        ("ours", 3, 5.0),
        ("limit", 3, 2.0),
    ]
    lines = summarize(scenario_with_target(), [repetition(*run) for run in runs])
    times = next(line for line in lines if line.metric == "times")
    assert (times.min, times.median, times.max) == (2.0, 2.5, 4.0)
    assert times.met is True


def test_a_failed_repetition_fails_the_target_and_is_shown() -> None:
    failed = Repetition(scenario="s", subject="ours", number=2, failed="1 of 5 messages lost")
    lines = summarize(
        scenario_with_target(), [repetition("ours", 1, 1.0), repetition("limit", 1, 1.0), failed]
    )
    times = next(line for line in lines if line.metric == "times")
    assert times.met is False
    assert times.failed == ["repetition 2: 1 of 5 messages lost"]


def test_a_ratio_over_the_best_of_several_passes_over_those_that_are_not_here() -> None:
    scenario = Scenario(
        name="s",
        title="",
        subjects=tuple(Subject(name=name, measure=_measure) for name in ("ours", "a", "b", "c")),
        ratios=(Ratio(subject="ours", metric="took", over=(("a", "b", "c"), "took"), name="times the best"),),
    )
    skipped = Repetition(scenario="s", subject="c", number=1, skipped="c is not installed")
    runs = [repetition("ours", 1, 12.0), repetition("a", 1, 3.0), repetition("b", 1, 4.0), skipped]
    lines = summarize(scenario, runs)
    assert next(line for line in lines if line.metric == "times the best").median == 3.0


def test_a_system_that_is_not_here_is_one_line_that_says_so() -> None:
    skipped = Repetition(scenario="s", subject="limit", number=1, skipped="limit is not installed")
    lines = summarize(scenario_with_target(), [repetition("ours", 1, 1.0), skipped])
    assert [(line.subject, line.skipped) for line in lines] == [
        ("ours", None),
        ("limit", "limit is not installed"),
    ]
    assert "skipped: limit is not installed" in cells(lines[1])


def test_what_an_acknowledgement_means_is_said_once_for_each_system() -> None:
    scenario = Scenario(
        name="s", title="", subjects=(Subject(name="ours", measure=_measure, promise="on disk"),)
    )
    figures = {"took": 1.0, "rate": 2.0}
    run = Repetition(scenario="s", subject="ours", number=1, figures=figures)
    assert [line.promise for line in summarize(scenario, [run])] == ["on disk", None]


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 50) == 2.0
    assert percentile([float(n) for n in range(1, 101)], 99) == 99.0
    assert percentile([7.0], 99.9) == 7.0
