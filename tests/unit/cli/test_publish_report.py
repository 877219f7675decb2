"""What publish says at the end."""

import json

import pytest

from pubsub.cli.publish_report import Report


async def test_consecutive_offsets_are_told_as_a_range(capfd: pytest.CaptureFixture[str]) -> None:
    report = Report("t", as_json=False)
    await report.acknowledged(range(5, 10))
    await report.acknowledged(range(10, 12))
    report.finish(0)
    assert capfd.readouterr().out == "published 7 messages to t, offsets 5..11\n"


async def test_one_message_is_told_by_its_offset(capfd: pytest.CaptureFixture[str]) -> None:
    report = Report("t", as_json=False)
    await report.acknowledged([5])
    report.finish(0)
    assert capfd.readouterr().out == "published 1 message to t, offset 5\n"


async def test_nothing_published_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    Report("t", as_json=False).finish(0)
    assert capfd.readouterr().out == "published 0 messages to t\n"


@pytest.mark.parametrize("portions", [[[1, 2, 5]], [[1, 2], [5]], [[1], [3]]])
async def test_offsets_of_others_in_between_are_mentioned(portions: list[list[int]]) -> None:
    report = Report("t", as_json=False)
    for portion in portions:
        await report.acknowledged(portion)
    assert report.offsets_text() == f"offsets 1..{portions[-1][-1]}, with others' in between"


async def test_an_early_end_tells_what_was_acknowledged_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    report = Report("t", as_json=False)
    report.finish(130)
    await report.acknowledged(range(3))
    report.unsure = 4
    report.finish(130)
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "pubsub: stopped: no message was acknowledged",
        "pubsub: stopped: 3 messages were acknowledged, offsets 0..2; up to 4 more may be stored too",
    ]


async def test_json_is_an_object_for_each_message_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    report = Report("t", as_json=True)
    await report.acknowledged([3, 4])
    report.finish(0)
    lines = capfd.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"topic": "t", "offset": 3}, {"topic": "t", "offset": 4}]
