"""What is read from the command line: positions, headers, formats, addresses."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
import typer

from pubsub.cli.options import Format, check_address, choose_format, parse_headers, parse_start


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("earliest", "earliest"),
        ("latest", "latest"),
        ("0", 0),
        ("12345678901", 12345678901),
        ("2026-01-31T09:30:00Z", datetime(2026, 1, 31, 9, 30, tzinfo=UTC)),
        (
            "2026-01-31T09:30:00.5+02:00",
            datetime(2026, 1, 31, 9, 30, 0, 500_000, timezone(timedelta(hours=2))),
        ),
    ],
)
def test_a_start_is_a_word_an_offset_or_a_time_with_its_zone(text: str, start: object) -> None:
    assert parse_start(text) == start


@pytest.mark.parametrize("text", ["", "first", "-1", "1.5", "2026-13-01T00:00:00Z", "9" * 30])
def test_another_start_is_a_usage_error(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="offset"):
        parse_start(text)


@pytest.mark.parametrize("text", ["2026-01-31", "2026-01-31T09:30:00"])
def test_a_time_without_zone_is_a_usage_error_that_shows_how_to_add_one(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"no zone.*2026-01-31T.*Z") as failure:
        parse_start(text)
    assert isinstance(parse_start(str(failure.value).partition("such as ")[2].split()[0]), datetime)


def test_headers_are_split_at_the_first_equals_sign() -> None:
    assert parse_headers(["unit=C", "sum=a=b", "empty="]) == {"unit": "C", "sum": "a=b", "empty": ""}
    assert parse_headers(None) is None


@pytest.mark.parametrize("text", ["unit", "=C", ""])
def test_a_header_without_name_or_equals_sign_is_a_usage_error_that_names_it(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=f"{text!r} is not NAME=VALUE"):
        parse_headers(["a=b", text])


def test_json_is_short_for_format_json() -> None:
    assert choose_format(None, False) is Format.pretty
    assert choose_format(None, True) is Format.json
    assert choose_format(Format.raw, False) is Format.raw
    assert choose_format(Format.json, True) is Format.json
    with pytest.raises(typer.BadParameter):
        choose_format(Format.raw, True)


def test_a_wrong_address_is_a_usage_error() -> None:
    assert check_address("[::1]:7470") == "[::1]:7470"
    assert check_address(None) is None
    with pytest.raises(typer.BadParameter, match="host:port"):
        check_address("localhost")
