"""What commands answer: lists of items, one item, or what was done; as a table, plain text or JSON.

An item is one of the value types of `pubsub.model`, or a record: a mapping with the field names of the JSON.

On a terminal a list is a table; piped, it is aligned columns under a line of field names, without colours and
without anything cut off; with --json one object per line. Empty is "-", so that columns can be counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

PEER_FIELDS = (
    "peer",
    "address",
    "alive",
    "topics",
    "zone",
    "draining",
    "reachable",
    "version",
    "heartbeat_at",
)
TOPIC_FIELDS = ("topic", "owner", "epoch", "online", "next_offset", "replicas", "in_sync", "problem")

Record = Mapping[str, Any]
Item = msgspec.Struct | Record


def on_terminal() -> bool:
    """Whether stdout is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def print_json(item: Item) -> None:
    """Print one object on one line."""
    print(msgspec.json.encode(item).decode())


def print_list(
    items: Iterable[Item],
    fields: Sequence[str],
    as_json: bool,
    for_people: Callable[[Record], Record] = dict,
) -> None:
    """Print items, one per line; people see `fields`, programs all.

    Args:
        for_people: Turns a record into what people shall see of it.
    """
    if as_json:
        for item in items:
            print_json(item)
        return
    records = [for_people(msgspec.to_builtins(item)) for item in items]
    rows = [[_text(record.get(field)) for field in fields] for record in records]
    if on_terminal():
        _print_table(fields, rows)
    else:
        for line in aligned([[field.upper() for field in fields], *rows]):
            print(line)


def print_one(item: Item, as_json: bool, for_people: Callable[[Record], Record] = dict) -> None:
    """Print one item, a field per line.

    Args:
        for_people: Turns its record into what people shall see of it.
    """
    if as_json:
        print_json(item)
        return
    record = for_people(msgspec.to_builtins(item))
    for line in aligned([[name, _text(value)] for name, value in flattened(record)]):
        print(line)


def print_done(item: Item, text: str, as_json: bool) -> None:
    """Print what was done: the item for programs; for people a line, which ends with the item's note if it has one."""
    if as_json:
        print_json(item)
        return
    note = item.get("note") if isinstance(item, Mapping) else None
    print(f"{text}: {note}" if note else text)


def flattened(record: Record, prefix: str = "") -> list[tuple[str, Any]]:
    """Fields of a record; those of a record within it as `outer.inner`."""
    found: list[tuple[str, Any]] = []
    for name, value in record.items():
        if isinstance(value, dict) and value:
            found += flattened(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, value))
    return found


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns two blanks apart, none cut off."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _text(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _print_table(fields: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"yes": "green", "no": "bold red", "-": "dim"}
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for position, field in enumerate(fields):
        table.add_column(field.replace("_", " "), overflow="fold", style="cyan" if position == 0 else None)
    for row in rows:
        table.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in row))
    Console().print(table)
