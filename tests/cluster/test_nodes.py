"""Decisions of nodes about shards: plain functions of notes and time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cluster.nodes.notes import MISSED, Alive, Note, note_name, read_notes
from service.cluster.nodes.ownership import heir, owners, plan
from service.cluster.nodes.placing import beside, preferred, shard_of
from service.cluster.store.opening import open_store
from service.common.names import ModelKey, check_model_name

NODES = st.sets(st.sampled_from([f"10.0.0.{n}:8300" for n in range(1, 7)]), min_size=1)


def note(address: str, beat: int = 1, **values: object) -> Note:
    return Note(address, "127.0.0.1:0", 5.0, beat, 2.0, **values)  # type: ignore[arg-type]


def alive(*notes: Note) -> dict[str, Note]:
    return {each.address: each for each in notes}


def test_models_are_spread_over_all_shards_and_tenants_do_not_share_a_place_by_name():
    found = [shard_of(ModelKey("acme", f"m{n}"), 16) for n in range(800)]
    assert all(20 <= found.count(shard) <= 90 for shard in range(16))
    assert any(shard_of(ModelKey("acme", f"m{n}"), 16) != shard_of(ModelKey("other", f"m{n}"), 16) for n in range(9))


@given(NODES, st.integers(0, 255))
def test_a_node_more_takes_shards_only_to_itself_and_a_node_less_gives_up_only_its_own(nodes, shard):
    before, after = preferred(shard, nodes), preferred(shard, nodes | {"new:1"})
    assert after in (before, "new:1")
    assert preferred(shard, nodes - {before}) != before
    for other in nodes - {before}:
        assert preferred(shard, nodes - {other}) == before


def test_without_nodes_no_node_is_preferred():
    assert preferred(3, ()) == ""


@given(st.text("abcz09-_", min_size=1, max_size=63), st.integers(1, 256))
def test_a_shadow_gets_a_name_that_puts_it_beside_its_source(name, shards):
    shadow, source = ModelKey("acme", "s" + name), ModelKey("acme", "flow")
    fitting = beside(shadow, source, shards)
    found = ModelKey("acme", fitting or shadow.name)
    assert shard_of(found, shards) == shard_of(source, shards)
    check_model_name(found.name)
    assert bool(fitting) == (shard_of(shadow, shards) != shard_of(source, shards))


# ---- notes


def test_a_note_comes_back_as_it_was_written(tmp_path):
    store = open_store(f"file://{tmp_path}")
    written = note("Node-1.example:8300", owned={3: 7, 11: 1}, warm=(2, 5), leaving=True)
    store.note(note_name(written.address), written.encode())
    assert read_notes(store) == [written]


def test_what_is_no_note_is_left_out(tmp_path):
    store = open_store(f"file://{tmp_path}")
    store.note("nodes/a", b"{}")
    store.note("nodes/b", b"\xff")
    store.note("nodes/c", b"7" * (1 << 17))
    assert read_notes(store) == []


def test_a_node_is_alive_for_as_long_as_its_note_changes():
    seen = Alive()
    assert set(seen.look([note("a:1", 1)], now=100.0)) == {"a:1"}
    assert set(seen.look([note("a:1", 1)], now=100.0 + 2.0 * MISSED)) == {"a:1"}
    assert not seen.look([note("a:1", 1)], now=100.1 + 2.0 * MISSED)
    assert set(seen.look([note("a:1", 2)], now=110.0)) == {"a:1"}


def test_a_node_that_has_left_is_gone_at_once_and_one_that_is_leaving_is_not():
    assert not Alive().look([note("a:1", leaving=True)], now=1.0)
    assert set(Alive().look([note("a:1", leaving=True, owned={1: 1})], now=1.0)) == {"a:1"}


# ---- plans


@given(NODES, st.integers(1, 32))
def test_the_shards_without_an_owner_are_claimed_by_exactly_one_node_each(nodes, shards):
    notes = alive(*(note(address) for address in nodes))
    claimed = [shard for address in nodes for shard in plan(address, shards, set(), notes).claim]
    assert sorted(claimed) == list(range(shards))


def test_a_shard_of_a_living_node_is_fetched_first_and_handed_over_when_it_is_warm():
    shards = 16
    wanted = [shard for shard in range(shards) if preferred(shard, {"a:1", "b:1"}) == "b:1"]
    everything = dict.fromkeys(range(shards), 1)
    notes = alive(note("a:1", owned=everything), note("b:1"))
    assert plan("b:1", shards, set(), notes) == ((), tuple(wanted), None)
    assert plan("a:1", shards, everything.keys(), notes).hand_over is None
    notes = alive(note("a:1", owned=everything), note("b:1", warm=(wanted[-1],)))
    assert plan("a:1", shards, everything.keys(), notes).hand_over == (wanted[-1], "b:1")


@given(NODES, st.integers(1, 24), st.randoms(use_true_random=False))
def test_hand_overs_end_with_each_shard_at_the_node_that_should_own_it(nodes, shards, rng):
    """Every step moves one shard to where it belongs, and none moves twice."""
    owned: dict[str, dict[int, int]] = {address: {} for address in nodes}
    for shard in range(shards):
        owned[rng.choice(sorted(nodes))][shard] = 1
    for _ in range(shards + 1):
        warm = {a: plan(a, shards, set(owned[a]), _notes(owned, {})).warm for a in nodes}
        moves = [(a, plan(a, shards, set(owned[a]), _notes(owned, warm)).hand_over) for a in sorted(nodes)]
        giver, move = next(((a, move) for a, move in moves if move), ("", None))
        if move is None:
            break
        owned[move[1]][move[0]] = owned[giver].pop(move[0]) + 1
    assert all(preferred(shard, nodes) == address for address, mine in owned.items() for shard in mine)
    assert max((epoch for mine in owned.values() for epoch in mine.values()), default=1) <= 2


def _notes(owned: dict[str, dict[int, int]], warm: dict[str, tuple[int, ...]]) -> dict[str, Note]:
    return alive(*(note(a, owned=mine, warm=warm.get(a, ())) for a, mine in owned.items()))


def test_a_leaving_node_claims_nothing_and_its_shards_go_to_another():
    notes = alive(note("a:1", owned={0: 4, 1: 2}, leaving=True), note("b:1"))
    assert heir("a:1", 0, notes) == "b:1"
    assert heir("a:1", 0, alive(note("a:1"))) == ""
    assert plan("b:1", 2, set(), notes) == ((), (0, 1), None)


def test_of_two_nodes_that_say_they_own_a_shard_the_higher_epoch_counts():
    assert owners(alive(note("a:1", owned={3: 8}), note("b:1", owned={3: 9}))) == {3: "b:1"}


@pytest.mark.parametrize("data", [b"[]", b'{"owned": 3}', b'{"owned": {}, "warm": [], "more": 1}'])
def test_bytes_that_are_no_note_are_refused(data):
    with pytest.raises(ValueError, match="note"):
        Note.decode(data)
