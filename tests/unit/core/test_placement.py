import itertools

from hypothesis import given
from hypothesis import strategies as st

from pubsub.core.placement import Candidate, choose_peer


def a_candidate(peer: str, topics: int = 0, messages_per_second: float = 0.0) -> Candidate:
    return Candidate(peer=peer, topics=topics, messages_per_second=messages_per_second)


def test_the_peer_with_the_fewest_topics_is_chosen() -> None:
    assert choose_peer([a_candidate("a", 3), a_candidate("b", 1), a_candidate("c", 2)]) == "b"


def test_fewer_topics_count_more_than_less_traffic() -> None:
    assert choose_peer([a_candidate("a", 2, 0.0), a_candidate("b", 1, 1e6)]) == "b"


def test_among_equally_many_topics_the_least_traffic_counts() -> None:
    assert choose_peer([a_candidate("a", 1, 9.0), a_candidate("b", 1, 2.5)]) == "b"


def test_among_equals_the_first_by_name_is_chosen() -> None:
    assert choose_peer([a_candidate("b"), a_candidate("a"), a_candidate("c")]) == "a"


def test_the_excluded_are_not_chosen() -> None:
    assert choose_peer([a_candidate("a"), a_candidate("b", 5)], {"a"}) == "b"


def test_without_candidates_there_is_no_choice() -> None:
    assert choose_peer([]) is None
    assert choose_peer([a_candidate("a")], {"a"}) is None


def test_topics_placed_one_after_the_other_spread_evenly() -> None:
    topics = {"a": 0, "b": 0, "c": 0}
    for _ in range(31):
        chosen = choose_peer([a_candidate(peer, count) for peer, count in topics.items()])
        assert chosen is not None
        topics[chosen] += 1
    assert sorted(topics.values()) == [10, 10, 11]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.0, 1.0])), min_size=1, max_size=4))
def test_the_choice_does_not_depend_on_the_order_of_the_candidates(loads: list[tuple[int, float]]) -> None:
    candidates = [a_candidate(f"p{n}", topics, rate) for n, (topics, rate) in enumerate(loads)]
    assert len({choose_peer(order) for order in itertools.permutations(candidates)}) == 1
