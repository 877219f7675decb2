"""`pubsub bench`: what is read from the command line, and what is shown; without processes."""

import json

import msgspec
import pytest
import typer

from pubsub.cli.app import main
from pubsub.cli.bench import parse_message_size, parse_rate
from pubsub.cli.bench_histogram import Histogram
from pubsub.cli.bench_publisher import portion_messages
from pubsub.cli.bench_result import (
    Finding,
    Latency,
    Result,
    bar,
    histogram_rows,
    latency_lines,
    print_finding,
    summary_lines,
)
from pubsub.cli.bench_view import Rates


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("100", 100),
        ("16", 16),
        ("16B", 16),
        ("1KiB", 1024),
        ("1kB", 1000),
        ("1.5 KiB", 1536),
        ("1MiB", 2**20),
    ],
)
def test_a_size_is_read_as_people_write_it(text: str, size_bytes: int) -> None:
    assert parse_message_size(text) == size_bytes


@pytest.mark.parametrize(("text", "rate"), [("1000", 1000), ("1000/s", 1000), ("1_000 / s", 1000), ("1", 1)])
def test_a_rate_is_read_as_people_write_it(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "15", "1.5", "1048577", "2MiB", "1kb", "nonsense", "10GiB", "9" * 400]
)
def test_another_size_is_a_usage_error_that_says_which_there_are(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="16 to 1,048,576 bytes, such as"):
        parse_message_size(text)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "1000/m", "1_000_001", "fast", "/s"])
def test_another_rate_is_a_usage_error_that_says_which_there_are(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="1 to 1,000,000 messages a second"):
        parse_rate(text)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--publishers", "0"], "--publishers"),
        (["--publishers", "-1"], "--publishers"),
        (["--publishers", "101"], "--publishers"),
        (["--subscribers", "0"], "--subscribers"),
        (["--subscribers", "1001"], "--subscribers"),
        (["--subscribers", "many"], "--subscribers"),
        (["--seconds", "0"], "--seconds"),
        (["--seconds", "-1"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--seconds", "1e9"], "--seconds"),
        (["--size", "x" * 5000], "--size"),
        (["--rate", "1000/h"], "--rate"),
        (["--index", "nowhere"], "host:port"),
        (["topic"], "topic"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_short_line_and_exit_code_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert len(said.err) < 300
    assert named in said.err


def test_help_says_what_is_measured_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in ("pubsub bench --rate", "publish_many", "next_batch()", "due", "0.8 %", "1,000", "Exit code"):
        assert part in text
    assert portion_messages(100) == 1000


@pytest.mark.parametrize(("size_bytes", "portion"), [(100, 1000), (1024, 1000), (65536, 16), (2**20, 1)])
def test_a_call_holds_no_more_than_two_batches_of_the_client(size_bytes: int, portion: int) -> None:
    assert portion_messages(size_bytes) == portion


# What is shown


def make_histogram(*values_ms: float) -> Histogram:
    histogram = Histogram()
    for value in values_ms:
        histogram.record(round(value * 1_000_000))
    return histogram


def make_finding(**changes: object) -> Finding:
    acks, deliveries = make_histogram(1, 1, 1, 3), make_histogram(*[7.0] * 8)
    result = Result(
        topic="bench-x",
        owner="alice",
        publishers=1,
        subscribers=2,
        size_bytes=100,
        rate=None,
        seconds=2.0,
        published=4000,
        delivered=8000,
        published_per_second=2000,
        delivered_per_second=4000,
        ack_ms=Latency.of(acks),
        delivery_ms=Latency.of(deliveries),
        lost=0,
        doubled=0,
        out_of_order=0,
        undelivered=0,
        interrupted=False,
    )
    return Finding(msgspec.structs.replace(result, **changes), acks, deliveries)


def test_only_a_run_without_fault_is_flawless() -> None:
    assert make_finding().result.flawless
    assert make_finding(undelivered=5, interrupted=True).result.flawless
    for field in ("lost", "doubled", "out_of_order"):
        assert not make_finding(**{field: 1}).result.flawless


def test_the_summary_tells_all_counts() -> None:
    text = "\n".join(summary_lines(make_finding(rate=2500, lost=3).result))
    for part in (
        "bench-x on alice: 1 publisher, 2 subscribers, 100 B a message",
        "4,000 in 2.0 s",
        "2,000/s of the 2,500 asked for, 0.2 MB/s",
        "8,000: 4,000/s",
        "lost          3",
    ):
        assert part in text
    assert "undelivered" not in text
    assert "undelivered   5" in "\n".join(summary_lines(make_finding(undelivered=5).result))


def test_percentiles_stand_in_columns() -> None:
    heads, acks, deliveries = latency_lines(make_finding().result)
    assert heads.split() == ["latency,", "ms", "p50", "p90", "p99", "p99.9", "max"]
    assert acks.split()[-5:] == ["1.00", "3.00", "3.00", "3.00", "3.00"]
    assert deliveries.split()[-5:] == ["7.00"] * 5
    assert len({len(line) for line in (heads, acks, deliveries)}) == 1


def test_nothing_measured_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    assert Latency.of(Histogram()) == Latency(p50=None, p90=None, p99=None, p99_9=None, max=None)
    nothing = make_finding(ack_ms=Latency.of(Histogram()), delivery_ms=Latency.of(Histogram())).result
    assert latency_lines(nothing)[1].split()[-5:] == ["-"] * 5
    print_finding(Finding(nothing, Histogram(), Histogram()))
    assert "up to ms" not in capsys.readouterr().out


def test_the_histogram_has_round_bands_in_common_and_bars_by_share() -> None:
    _, acks, deliveries = make_finding()
    assert histogram_rows((acks, deliveries)) == [
        ("2", 0.75, "75.0%", 0.0, ""),
        ("5", 0.25, "25.0%", 0.0, ""),
        ("10", 0.0, "", 1.0, "100.0%"),
    ]


def test_a_bar_shows_also_what_is_little() -> None:
    assert [bar(length, width=10) for length in (0.0, 0.001, 0.5, 1.0)] == ["", "#", "#####", "##########"]


def test_piped_it_is_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_finding(make_finding())
    said = capsys.readouterr().out
    assert said.isascii()
    assert "\x1b" not in said
    assert "up to ms" in said
    assert "#" * 24 in said


def test_json_carries_all_fields_and_the_words_of_the_design() -> None:
    record = json.loads(msgspec.json.encode(make_finding().result))
    assert set(record["ack_ms"]) == set(record["delivery_ms"]) == {"p50", "p90", "p99", "p99_9", "max"}
    assert record.items() >= {"topic": "bench-x", "owner": "alice", "published": 4000, "lost": 0}.items()


def test_live_rates_are_those_of_the_last_second() -> None:
    rates = Rates()
    assert rates.of(0.0, 0, 0) == [0, 0]
    assert rates.of(0.5, 100, 50) == [200, 100]
    for tenth in range(6, 31):
        shown = rates.of(tenth / 10, 100 + (tenth - 5) * 10, 50)
    assert shown == [100, 0]
