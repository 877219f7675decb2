"""Delays between attempts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pubsub.net.backoff import Backoff


def test_delays_double_up_to_the_limit_and_start_anew_after_a_success():
    backoff = Backoff(0.1, 0.5, chance=lambda: 1.0)
    assert [backoff.next_seconds() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    backoff.reset()
    assert backoff.next_seconds() == 0.1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_every_delay_lies_in_the_upper_half_of_its_step(chances: list[float]):
    draws = iter(chances)
    backoff = Backoff(0.1, 2.0, chance=lambda: next(draws))
    step = 0.1
    for _ in chances:
        assert step / 2 <= backoff.next_seconds() <= step
        step = min(step * 2, 2.0)
