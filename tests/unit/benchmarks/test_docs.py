"""What a run leaves in docs/: one file a scenario, and a page of which only the part between the marks is made."""

from pathlib import Path

import pytest

from benchmarks.docs import BEGIN, END, Head, keep, tables, write_page
from benchmarks.machine import describe
from benchmarks.readings import Line, Repetition, Scenario, Subject, Target, summarize


async def _measure(stage: object) -> dict[str, float]:
    return {}


SUBJECTS = (
    Subject(name="ours", measure=_measure, promise="on disk"),
    Subject(name="other", measure=_measure, promise="in memory: a crash loses it"),
    Subject(name="absent", measure=_measure, promise="somewhere"),
    Subject(name="limit", measure=_measure),
)


def scenario(name: str) -> Scenario:
    return Scenario(
        name=name,
        title=f"what {name} is about",
        subjects=SUBJECTS,
        targets=(Target(subject="ours", metric="messages/s", at_least=5),),
        plots=("messages/s",),
    )


def lines(scenario: Scenario) -> list[Line]:
    figures = {"ours": 10.0, "other": 4.0, "limit": 20.0}
    runs = [
        Repetition(
            scenario=scenario.name, subject=subject, number=number, figures={"messages/s": rate + number}
        )
        for number in (1, 2, 3)
        for subject, rate in figures.items()
    ]
    absent = Repetition(scenario=scenario.name, subject="absent", number=1, skipped="absent is not installed")
    return summarize(scenario, [*runs, absent])


def page(directory: Path) -> Path:
    path = directory / "benchmarks.md"
    path.write_text(f"# Written by people\n\n{BEGIN}\nold\n{END}\n\nby people too\n")
    return path


def head(directory: Path) -> Head:
    return Head(machine=describe(directory), repetitions=3, quick=False)


def test_only_what_stands_between_the_marks_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one = scenario("one")
    path = page(tmp_path)
    keep(head(tmp_path), one, lines(one), path)
    write_page([one], path)
    text = path.read_text()
    assert text.startswith("# Written by people\n")
    assert text.endswith("by people too\n")
    assert "old" not in text
    assert "### one: what one is about" in text
    assert "![what one is about](benchmarks/one.svg)" in text
    assert (tmp_path / "benchmarks" / "one.svg").exists()


def test_a_run_of_some_scenarios_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one, two, three = scenario("one"), scenario("two"), scenario("three")
    path = page(tmp_path)
    keep(head(tmp_path), one, lines(one), path)
    keep(head(tmp_path), two, lines(two), path)
    before = (tmp_path / "benchmarks" / "one.jsonl").read_bytes()
    keep(head(tmp_path), two, lines(two), path)
    write_page([one, two, three], path)
    assert (tmp_path / "benchmarks" / "one.jsonl").read_bytes() == before
    assert [line for line in path.read_text().splitlines() if line.startswith("### ")] == [
        "### one: what one is about",
        "### two: what two is about",
    ]


def test_a_page_without_marks_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    path.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the marks"):
        write_page([], path)
    assert path.read_text() == "no marks"


def test_systems_stand_side_by_side_with_what_they_promise_and_targets_below() -> None:
    found = tables(lines(scenario("one")))
    assert found[0] == "| subject | messages/s | acknowledged means |"
    assert "| ours | 12 (11 to 13) | on disk |" in found
    assert "| absent |  | skipped: absent is not installed |" in found
    assert "| ours | messages/s | 12 | 11 to 13 | ≥ 5 | yes |" in found
