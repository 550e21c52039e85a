"""Where a caller looks for its model: the order of nodes, rounds of calls, connecting to several at once."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from freshet.search import LONGEST_S, MOST_MOVES, NEXT_S, Search, State, race, rendezvous

NODES = ["10.0.0.1:8300", "10.0.0.2:8300", "10.0.0.3:8300", "[fd00::4]:8300"]


# --- the first guess


def test_every_process_looks_for_a_model_in_the_same_order():
    """The digests are fixed here, as other processes and later versions have them."""
    assert rendezvous("taxi", NODES) == [NODES[3], NODES[1], NODES[0], NODES[2]]
    assert rendezvous("pumps", NODES) == [NODES[1], NODES[2], NODES[0], NODES[3]]


@pytest.mark.parametrize("seed", range(20))
def test_the_order_given_does_not_matter_and_a_lost_node_moves_no_other_model(seed):
    rng = random.Random(seed)
    given = rng.sample(NODES, len(NODES))
    order = rendezvous(f"m{seed}", given)
    assert order == rendezvous(f"m{seed}", [*NODES, *given])

    gone = rng.choice(NODES)
    assert rendezvous(f"m{seed}", set(given) - {gone}) == [one for one in order if one != gone]


def test_models_are_spread_over_the_nodes():
    first = Counter(rendezvous(f"model-{number}", NODES)[0] for number in range(4000))
    assert set(first) == set(NODES)
    assert min(first.values()) > 800  # 1000 expected, standard deviation 27


# --- rounds


@pytest.mark.parametrize("seed", range(200))
def test_a_round_asks_each_node_once_and_ends_whatever_the_nodes_say(seed):
    rng, search = random.Random(seed), Search()
    known = rng.sample(NODES, rng.randint(1, len(NODES)))
    named = [*NODES, *(f"10.1.0.{number}:8300" for number in range(rng.choice([0, 2, 30])))]
    home = rng.choice(["", *named])
    for _ in range(3):  # rounds
        asked: list[str] = []
        while True:
            address = rng.choice(search.candidates(known, home))
            search.reached(address)
            asked.append(address)
            if rng.random() < 0.5:
                search.moved(address, rng.choice(named))
            else:
                search.failed(address, "gone")
            if not search.again(known):
                break
        assert len(asked) == len(set(asked)) <= len(known) + MOST_MOVES + 2
        assert set(known) <= set(asked), "a round asks all that are known"
        assert all(one in search.why for one in asked) or len(asked) == 1


def test_what_a_node_names_is_called_next_and_before_the_rest():
    search = Search()
    assert search.candidates(NODES, home="h:1")[0] == "h:1"
    search.moved("h:1", NODES[2])
    assert search.again(NODES)
    assert search.candidates(NODES, home="h:1") == [NODES[2], NODES[0], NODES[1], NODES[3]]


def test_two_nodes_that_name_each_other_end_the_round_and_are_both_named():
    search = Search()
    for one, other in (NODES[:2], NODES[1::-1]):
        assert search.candidates(NODES[:2])[0] == one
        search.reached(one)
        search.moved(one, other)
        again = search.again(NODES[:2])
    assert not again
    assert search.why == f"{NODES[0]}: it is at {NODES[1]}; {NODES[1]}: it is at {NODES[0]}"


def test_answers_of_a_node_that_is_leaving_do_not_hide_where_the_model_went():
    search = Search()
    search.moved(NODES[0], NODES[1])
    search.succeeded()
    assert search.candidates([NODES[0]])[0] == NODES[1]


def test_one_node_is_called_again_after_a_pause_only():
    search = Search()
    search.failed(NODES[0], "gone")
    assert not search.again(NODES[:1])
    assert (search.why, search.candidates(NODES[:1])) == ("gone", NODES[:1])


# --- connecting


@pytest.mark.parametrize("seed", range(200))
def test_connecting_ends_with_the_best_node_that_is_connected_and_never_waits_for_a_silent_one(seed):
    """Each node connects, fails or stays silent after its own time; `race` says when to look again."""
    rng = random.Random(seed)
    order = rng.sample(NODES, rng.randint(2, len(NODES)))
    takes = {one: rng.choice([0, 100, 500, 9000]) for one in order}  # ms: sums of tenths are not exact
    ends = {one: rng.choice([State.READY, State.FAILED]) for one in order}
    now, begun = 0, {order[0]: 0}
    for _ in range(100):
        states = {one: ends[one] if now - at >= takes[one] else State.WAITING for one, at in begun.items()}
        decision = race(order, states, (now - max(begun.values())) / 1000)
        if decision.over:
            break
        if decision.start is not None:
            begun[decision.start] = now
            continue
        wait = round(decision.wait_s * 1000)
        assert wait > 0, "it would spin"
        now = min([now + wait, *(at + takes[one] for one, at in begun.items() if at + takes[one] > now)])
    assert decision.over
    assert list(begun) == order[: len(begun)]
    ready = [one for one in order if states.get(one) is State.READY]
    assert decision.winner == (ready[0] if ready else None)
    assert now <= 1000 * (NEXT_S * (len(order) - 1) + LONGEST_S)
    quick = [number for number, one in enumerate(order) if ends[one] is State.READY and takes[one] <= 100]
    if quick:
        assert now <= 1000 * NEXT_S * quick[0] + 100, "nobody waits for the nodes before it"
