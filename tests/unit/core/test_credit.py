"""A window is never overdrawn, but for one message larger than all of it; and a stream never stands still for good."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pubsub.core.credit import Window

sizes_of_messages = st.lists(st.integers(0, 30), max_size=40)


class Subscriber:
    """Receives through a window, and keeps its own account of what is outstanding."""

    def __init__(self, messages: int, size_bytes: int) -> None:
        self.window = Window(messages, size_bytes)
        self.most = (messages, size_bytes)
        self.outstanding: list[int] = []
        self.received: list[int] = []

    def send(self, waiting: list[int]) -> int:
        """Send what the window allows of the messages that wait; returns how many that is."""
        count = self.window.fitting(waiting)
        sent = waiting[:count]
        del waiting[:count]
        self.window.spend(count, sum(sent))
        self.outstanding += sent
        self.received += sent
        self.check()
        return count

    def give_back(self, count: int) -> None:
        taken, self.outstanding = self.outstanding[:count], self.outstanding[count:]
        self.window.grant(len(taken), sum(taken))
        self.check()

    def check(self) -> None:
        messages, size_bytes = self.most
        assert len(self.outstanding) <= messages
        assert sum(self.outstanding) <= size_bytes or len(self.outstanding) == 1
        assert self.window.messages == messages - len(self.outstanding)
        assert self.window.bytes == size_bytes - sum(self.outstanding)
        assert self.window.idle == (not self.outstanding)


@given(sizes_of_messages, st.integers(0, 8), st.integers(0, 40), st.lists(st.integers(0, 5), max_size=40))
def test_never_more_is_outstanding_than_the_window_but_for_one_large_message(
    waiting: list[int], messages: int, size_bytes: int, credits: list[int]
):
    subscriber = Subscriber(messages, size_bytes)
    subscriber.send(waiting)
    for count in credits:
        subscriber.give_back(count)
        subscriber.send(waiting)


@given(sizes_of_messages, st.integers(1, 8), st.integers(0, 40), st.data())
def test_a_subscriber_that_gives_everything_back_gets_everything_in_order(
    sizes: list[int], messages: int, size_bytes: int, data: st.DataObject
):
    subscriber = Subscriber(messages, size_bytes)
    waiting = list(sizes)
    while waiting:
        sent = subscriber.send(waiting)
        assert sent or subscriber.outstanding, "nothing is outstanding, and still nothing is sent"
        subscriber.give_back(data.draw(st.integers(1, len(subscriber.outstanding))))
    assert subscriber.received == sizes


def test_as_many_are_sent_as_fit_in_both_measures():
    assert Window(3, 100).fitting([10] * 9) == 3
    assert Window(9, 35).fitting([10] * 9) == 3
    assert Window(9, 30).fitting([10] * 9) == 3
    assert Window(9, 100).fitting([10] * 2) == 2
    assert Window(9, 100).fitting([]) == 0


def test_a_message_larger_than_the_window_goes_alone_when_nothing_is_outstanding():
    window = Window(10, 5)
    assert window.fitting([50, 1, 1]) == 1
    window.spend(1, 50)
    assert window.bytes == -45
    assert window.fitting([0]) == 0
    window.grant(1, 50)
    assert window.fitting([1, 1, 50]) == 2


def test_a_large_message_waits_while_anything_is_outstanding():
    window = Window(10, 5)
    window.spend(1, 1)
    assert window.fitting([50]) == 0
    window.grant(1, 1)
    assert window.fitting([50]) == 1


def test_a_window_of_no_messages_lets_nothing_through_until_it_is_widened():
    window = Window(0, 100)
    assert window.fitting([0]) == 0
    window.grant(2, 0)
    assert window.fitting([1, 1, 1]) == 2


def test_a_widened_window_counts_as_idle_only_when_all_of_it_is_back():
    window = Window(2, 10)
    window.grant(3, 10)
    assert window.idle
    window.spend(1, 1)
    assert not window.idle
    window.grant(1, 1)
    assert window.idle
