"""Records as printed where no terminal is."""

import json

import pytest

from pubsub.cli.output import Record, aligned, flattened, print_done, print_list, print_one
from pubsub.model import PeerInfo, TopicInfo

TOPIC = TopicInfo(topic="a.b", id=5, owner="alice", epoch=1, online=False, in_sync=["alice", "bob"])


def test_a_piped_list_has_a_header_line_and_aligned_columns_that_can_be_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_list([TOPIC], ("topic", "owner", "online", "next_offset", "in_sync"), as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "TOPIC  OWNER  ONLINE  NEXT_OFFSET  IN_SYNC",
        "a.b    alice  no      -            alice,bob",
    ]


def test_a_piped_list_cuts_nothing_off(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 200
    print_list([{"peer": name}], ("peer",), as_json=False)
    assert name in capsys.readouterr().out


def test_a_json_list_has_one_object_with_all_fields_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    peers = [PeerInfo(peer=name, address="h:1", alive=True, topics=2) for name in ("alice", "bob")]
    print_list(peers, ("peer",), as_json=True)
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["peer"] for line in lines] == ["alice", "bob"]
    assert {"peer", "address", "alive", "topics"} <= json.loads(lines[0]).keys()


def test_one_record_is_a_field_per_line_with_inner_fields_by_their_path(
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = {"peer": "alice", "load": {"topics": 2.0, "rate": 0.5}, "empty": {}, "ok": True}
    assert flattened(record) == [
        ("peer", "alice"),
        ("load.topics", 2.0),
        ("load.rate", 0.5),
        ("empty", {}),
        ("ok", True),
    ]
    print_one(record, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "peer         alice",
        "load.topics  2",
        "load.rate    0.5",
        "empty        -",
        "ok           yes",
    ]


def test_no_rows_are_no_lines_but_the_header() -> None:
    assert aligned([["A", "B"]]) == ["A  B"]


def test_what_people_see_of_an_item_may_differ_from_the_json(capsys: pytest.CaptureFixture[str]) -> None:
    def in_words(record: Record) -> Record:
        return {**record, "in_sync": len(record["in_sync"])}

    print_one(TOPIC, as_json=False, for_people=in_words)
    print_list([TOPIC], ("topic", "in_sync"), as_json=False, for_people=in_words)
    assert {"in_sync       2", "a.b    2"} <= set(capsys.readouterr().out.splitlines())
    print_one(TOPIC, as_json=True, for_people=in_words)
    print_list([TOPIC], ("topic", "in_sync"), as_json=True, for_people=in_words)
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["in_sync"] for record in objects] == [["alice", "bob"]] * 2


def test_what_was_done_is_a_line_with_its_note_or_the_object(capsys: pytest.CaptureFixture[str]) -> None:
    print_done({"topic": "t", "deleted": True, "note": "later"}, "deleted topic t", as_json=False)
    print_done({"topic": "t", "deleted": True, "note": ""}, "deleted topic t", as_json=False)
    print_done(TOPIC, "created topic a.b", as_json=False)
    print_done({"topic": "t", "deleted": True, "note": ""}, "deleted topic t", as_json=True)
    assert capsys.readouterr().out.splitlines() == [
        "deleted topic t: later",
        "deleted topic t",
        "created topic a.b",
        '{"topic":"t","deleted":true,"note":""}',
    ]
