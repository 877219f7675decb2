from hypothesis import given
from hypothesis import strategies as st

from pubsub.core.topic_ids import MOST_ID, attempt_ids


@given(st.integers(1, MOST_ID), st.integers(1, 64))
def test_attempts_have_ids_of_their_own_that_follow_from_the_first(topic_id: int, attempts: int) -> None:
    ids = attempt_ids(topic_id, attempts)
    assert ids[0] == topic_id
    assert len(ids) == len(set(ids)) == attempts
    assert all(0 < one <= MOST_ID for one in ids)
    assert attempt_ids(topic_id, 64)[:attempts] == ids
