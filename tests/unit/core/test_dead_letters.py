"""Dead letters say where they come from; redriven ones no longer do."""

from __future__ import annotations

from pubsub.core.dead_letters import dead_headers, dead_letter_topic, is_dead_letter_topic, redriven_headers

SAID = {
    "topic": "jobs",
    "offset": 7,
    "group": "workers",
    "reason": "nack",
    "attempts": 5,
    "published_at": "2026-01-01T00:00:00.000000Z",
}


def test_a_dead_letter_keeps_its_headers_and_says_from_where_why_and_how_often():
    assert dead_headers({"unit": "C"}, **SAID) == {  # type: ignore[arg-type]
        "unit": "C",
        "pubsub-dead-topic": "jobs",
        "pubsub-dead-offset": "7",
        "pubsub-dead-group": "workers",
        "pubsub-dead-reason": "nack",
        "pubsub-dead-attempts": "5",
        "pubsub-dead-published-at": "2026-01-01T00:00:00.000000Z",
    }


def test_a_message_published_anew_has_its_own_headers_and_names_its_original():
    assert redriven_headers(dead_headers({"unit": "C"}, **SAID)) == {  # type: ignore[arg-type]
        "unit": "C",
        "pubsub-redriven-from": "jobs/7",
    }


def test_a_topic_and_its_dead_letters_know_each_other_by_name():
    assert dead_letter_topic("jobs") == "jobs.dead"
    assert dead_letter_topic("x" * 195) == "x" * 195 + ".dead"
    assert dead_letter_topic("x" * 196) is None
    assert is_dead_letter_topic("jobs.dead")
    assert not is_dead_letter_topic("dead")
    assert not is_dead_letter_topic("jobs.undead")
