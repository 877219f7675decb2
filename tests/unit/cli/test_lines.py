"""Lines of a descriptor: bytes as they are, at once, in bounded memory."""

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pubsub.cli import lines as module
from pubsub.cli.lines import Lines
from tests.waiting import wait_until

LIMIT = 1000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe()
    yield reading, writing
    for descriptor in (reading, writing):
        with contextlib.suppress(OSError):  # the test has closed it
            os.close(descriptor)


async def everything(lines: Lines) -> list[bytes]:
    found: list[bytes] = []
    while chunk := await lines.take():
        found += chunk
    return found


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"", []),
        (b"\n", [b""]),
        (b"a\nb\n", [b"a", b"b"]),
        (b"a\n\n\nb", [b"a", b"", b"", b"b"]),
        (b"\x00\xff\r\n\xfe", [b"\x00\xff\r", b"\xfe"]),
    ],
)
async def test_each_line_is_one_and_only_the_newline_goes(
    written: bytes, expected: list[bytes], pipe: tuple[int, int]
) -> None:
    os.write(pipe[1], written)
    os.close(pipe[1])
    assert await everything(Lines(pipe[0], LIMIT)) == expected


async def test_a_line_is_there_at_once_while_the_pipe_stays_open(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[0], LIMIT)
    for number in range(3):
        os.write(pipe[1], b"line %d\n" % number)
        assert await lines.take() == [b"line %d" % number]
    os.close(pipe[1])
    assert await lines.take() == []


async def test_a_line_that_comes_in_pieces_is_one(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[0], LIMIT)
    os.write(pipe[1], b"half ")
    await wait_until(lambda: lines.read_bytes == 5)
    os.write(pipe[1], b"and half\n")
    assert await lines.take() == [b"half and half"]
    os.close(pipe[1])


async def test_reading_waits_while_too_much_is_untaken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_BYTES", 100)
    monkeypatch.setattr(module, "CHUNK_BYTES", 1000)
    content = b"0123456789\n" * 1000
    (tmp_path / "file").write_bytes(content)
    with (tmp_path / "file").open("rb") as file:
        lines = Lines(file.fileno(), LIMIT)
        chunk = await lines.take()
        await wait_until(lambda: lines._waiting_bytes >= 1000)
        assert lines.read_bytes < 2500
        rest = await everything(lines)
    assert b"\n".join([*chunk, *rest]) + b"\n" == content


async def test_a_line_without_end_is_given_out_once_it_is_too_long(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[0], LIMIT)
    os.write(pipe[1], b"good\n" + b"x" * (LIMIT + 1))
    assert await lines.take() == [b"good", b"x" * (LIMIT + 1)]
    assert await lines.take() == []


async def test_stopping_gives_out_no_more_and_wakes_who_waits(pipe: tuple[int, int]) -> None:
    lines = Lines(pipe[0], LIMIT)
    taking = asyncio.create_task(lines.take())
    await asyncio.sleep(0)
    lines.stop()
    assert await taking == []
    assert list(lines.until_stopped([b"a"])) == []


async def test_an_error_comes_after_the_lines_before_it(pipe: tuple[int, int]) -> None:
    with pytest.raises(OSError, match="directory"):
        await Lines(os.open("/", os.O_RDONLY), LIMIT).take()
