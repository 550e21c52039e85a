"""Which labels and windows may be learned from: decided from what they hold, each refusal with field, value, remedy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.bounds import Bound, Bounds
from model.network import Network
from model.spec import ModelSpec
from service.common.errors import Exhausted, Invalid, Reason, Refusal
from service.common.limits import MAX_SOURCES, window_steps
from service.journal.sources import REPLAY, Sources, check_source
from service.learning.labels import CheckedWindow, RawWindow, Shape, Unacknowledged, check_label, check_window

BOUNDS = Bounds([Bound("a unit", 5, -1e6, 1e6)])
REGRESS = Shape("regress", True, "refuse", 3, 2, state=5, steps=100, label_horizon=10, problem=BOUNDS.outside)
CLASSIFY = REGRESS._replace(task="classify")
FORECAST = REGRESS._replace(task="forecast", label_horizon=0)
OK = np.array([1.0, -2.0], np.float32)
SURE = np.array([0.0, 1.0], np.float32)


def refusal(found: object) -> Refusal:
    assert isinstance(found, Refusal), found
    return found


# ---- labels


@given(last=st.integers(0, 10**6), seq=st.integers(0, 10**6), horizon=st.integers(1, 10**5))
def test_a_label_is_taken_for_the_last_ticks_of_its_stream_and_for_no_other(last, seq, horizon):
    found = check_label(REGRESS._replace(label_horizon=horizon), seq, OK, last)

    if max(0, last - horizon) < seq <= last:
        assert found is None
    else:
        assert (refusal(found).reason, refusal(found).field) == (Reason.UNKNOWN_TICK, "label.seq")
        assert refusal(found).value == str(seq)
        assert str(last) in refusal(found).remedy


REFUSED_LABELS: dict[str, tuple[Shape, int, Any, Reason, str, str, str]] = {
    "a tick not seen": (REGRESS, 8, OK, Reason.UNKNOWN_TICK, "label.seq", "8", "label ticks 1 to 7"),
    "tick 0": (REGRESS, 0, OK, Reason.UNKNOWN_TICK, "label.seq", "0", "label ticks 1 to 7"),
    "too few values": (REGRESS, 7, OK[:1], Reason.SHAPE, "label.y", "1 values", "2 values, one per target"),
    "no value": (REGRESS, 7, OK[:0], Reason.SHAPE, "label.y", "0 values", "2 values"),
    "too many values": (CLASSIFY, 7, np.zeros(10**6, np.float32), Reason.SHAPE, "label.y", "1000000", "one per class"),
    "NaN": (REGRESS, 7, [math.nan, 1.0], Reason.NON_FINITE, "label.y[0]", "nan", "finite"),
    "infinite": (REGRESS, 7, [1.0, -math.inf], Reason.NON_FINITE, "label.y[1]", "-inf", "finite"),
    "too large": (REGRESS, 7, [1.0, 2e15], Reason.TOO_LARGE, "label.y[1]", "2e+15", "1e+15"),
    "no probabilities": (CLASSIFY, 7, OK, Reason.INVALID, "label.y", "sum -1, smallest -2", "sum 1"),
    "sum 1.1": (CLASSIFY, 7, [0.5, 0.6], Reason.INVALID, "label.y", "sum 1.1", "sum 1"),
    "sum 1, but negative": (CLASSIFY, 7, [1.5, -0.5], Reason.INVALID, "label.y", "smallest -0.5", "0 or above"),
    "a model that forecasts": (FORECAST, 7, OK, Reason.UNSUPPORTED, "label", "tick 7", "Training.Learn"),
    "a model that never learns": (REGRESS._replace(learn=False), 7, OK, Reason.UNSUPPORTED, "label", "7", "learn"),
}


@pytest.mark.parametrize("case", REFUSED_LABELS)
def test_a_label_that_cannot_be_taken_is_refused_by_name(case):
    shape, seq, y, reason, field, value, remedy = REFUSED_LABELS[case]

    found = refusal(check_label(shape, seq, np.asarray(y, np.float32), 7))

    assert (found.seq, found.reason, found.field) == (seq, reason, field)
    assert value in found.value
    assert remedy in found.remedy


def test_a_label_for_a_stream_without_ticks_is_told_so():
    assert "send ticks first" in refusal(check_label(REGRESS, 1, OK, 0)).remedy


@pytest.mark.parametrize("y", [[0, 1], [0.3, 0.7], [0.3337, 0.6667], [1 / 3, 2 / 3]])
def test_probabilities_may_be_rounded(y):
    assert check_label(CLASSIFY, 7, np.array(y, np.float32), 7) is None


# ---- windows


def window(T: int = 4, shape: Shape = REGRESS, **parts: Any) -> RawWindow:
    arrays = {
        "x": np.arange(T * shape.channels),
        "y": np.ones((T, shape.outputs)) / shape.outputs,
        "weight": np.ones((T, shape.outputs)),
        "initial_state": np.arange(shape.state),
    } | parts
    steps = parts.get("steps", T)
    return RawWindow(3, steps, **{k: np.asarray(v, "<f4").tobytes() for k, v in arrays.items() if k != "steps"})


def test_a_window_comes_out_as_the_rows_that_were_sent():
    rng = np.random.default_rng(0)
    x, y, weight, state = rng.normal(size=(4, 3)), rng.normal(size=(4, 2)), rng.random((4, 2)), rng.normal(size=5)

    checked = check_window(REGRESS, window(x=x, y=y, weight=weight, initial_state=state))

    assert isinstance(checked, CheckedWindow)
    for got, sent in zip(checked, (x, y, weight, state), strict=True):
        np.testing.assert_array_equal(got, sent.astype(np.float32))


def test_weights_and_state_may_be_left_out():
    checked = check_window(REGRESS, window(weight=[], initial_state=[]))

    assert isinstance(checked, CheckedWindow)
    assert checked.initial_state is None
    np.testing.assert_array_equal(checked.weight, np.ones((4, 2)))


def at(T: int, width: int, place: tuple[int, int], value: float, fill: float = 0.5) -> Any:
    rows = np.full((T, width), fill)
    rows[place] = value
    return rows


REFUSED_WINDOWS: dict[str, tuple[RawWindow, Reason, str, str, str]] = {
    "no steps": (window(steps=0), Reason.SHAPE, "window.steps", "0", "1 to 100"),
    "too many steps": (window(101), Reason.SHAPE, "window.steps", "101", "1 to 100"),
    "x of other steps": (window(steps=5), Reason.SHAPE, "window.x", "48 bytes", "60 bytes: 5 × 3 channels"),
    "half a number": (window()._replace(x=b"abc"), Reason.SHAPE, "window.x", "3 bytes", "48 bytes"),
    "no x": (window(x=[]), Reason.SHAPE, "window.x", "0 bytes", "48 bytes"),
    "no y": (window(y=[]), Reason.SHAPE, "window.y", "0 bytes", "32 bytes: 4 × 2 outputs"),
    "y of other width": (window(y=np.ones((4, 3))), Reason.SHAPE, "window.y", "48 bytes", "32 bytes"),
    "short weights": (window(weight=[1.0]), Reason.SHAPE, "window.weight", "4 bytes", "32 bytes"),
    "state of other layout": (
        window(initial_state=np.ones(6)), Reason.SHAPE, "window.initial_state", "24 bytes", "20 bytes"),
    "NaN in x": (window(x=at(4, 3, (2, 1), math.nan)), Reason.NON_FINITE, "window.x[2, 1]", "nan", "finite"),
    "inf in y": (window(y=at(4, 2, (0, 1), math.inf)), Reason.NON_FINITE, "window.y[0, 1]", "inf", "finite"),
    "NaN in weight": (
        window(weight=at(4, 2, (3, 0), math.nan)), Reason.NON_FINITE, "window.weight[3, 0]", "nan", "finite"),
    "NaN in state": (
        window(initial_state=[0, 0, math.nan, 0, 0]), Reason.NON_FINITE, "window.initial_state[2]", "nan", "finite"),
    "huge x": (window(x=at(4, 3, (1, 0), 1e20)), Reason.TOO_LARGE, "window.x[1, 0]", "1e+20", "1e+15"),
    "negative weight": (window(weight=at(4, 2, (1, 1), -1)), Reason.INVALID, "window.weight[1, 1]", "-1", "0"),
    "no label at all": (window(weight=np.zeros((4, 2))), Reason.INVALID, "window.weight", "all 0", "above 0"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_WINDOWS)
def test_a_window_that_cannot_be_taken_is_refused_by_name(case):
    raw, reason, field, value, remedy = REFUSED_WINDOWS[case]

    found = refusal(check_window(REGRESS, raw))

    assert (found.seq, found.reason, found.field) == (3, reason, field)
    assert value in found.value
    assert remedy in found.remedy


def test_a_window_of_a_model_that_never_learns_is_refused():
    assert refusal(check_window(REGRESS._replace(learn=False), window())).reason is Reason.UNSUPPORTED


def test_where_missing_values_are_held_a_window_may_miss_some_and_none_is_infinite():
    shape = REGRESS._replace(missing="hold")

    assert isinstance(check_window(shape, window(x=at(4, 3, (2, 1), math.nan))), CheckedWindow)
    assert refusal(check_window(shape, window(x=at(4, 3, (2, 1), math.inf)))).reason is Reason.NON_FINITE
    assert refusal(check_window(shape, window(y=at(4, 2, (2, 1), math.nan)))).reason is Reason.NON_FINITE


def test_only_rows_with_a_label_need_be_probabilities():
    y, weight = np.zeros((4, 2)), np.zeros((4, 2))
    y[3], weight[3] = (0.2, 0.8), 1

    assert isinstance(check_window(CLASSIFY, window(y=y, weight=weight)), CheckedWindow)
    weight[1] = 1
    found = refusal(check_window(CLASSIFY, window(y=y, weight=weight)))
    assert (found.reason, found.field) == (Reason.INVALID, "window.y[1]")


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_any_bytes_are_a_window_or_a_refusal(x, y, weight, steps):
    assert isinstance(check_window(REGRESS, RawWindow(1, steps, x, y, weight, b"")), CheckedWindow | Refusal)


def test_a_window_may_be_as_long_as_the_models_own_and_never_so_long_that_an_update_takes_gigabytes():
    small = Network(ModelSpec(channels=("a",), hidden=8))
    wide = Network(ModelSpec(channels=tuple(f"c{i}" for i in range(400)), horizon=20, window=64))

    assert window_steps(small) == 4096
    assert window_steps(wide) == (1 << 21) // wide.spec.outputs


# ---- order of windows


def test_windows_of_a_source_are_taken_once_in_order_and_a_gap_names_both_numbers():
    sources = Sources()
    assert sources.repeated("a", 1) is False
    assert sources.accept("a", 1)
    assert sources.accept("a", 2)

    assert sources.repeated("a", 1) is True
    assert sources.repeated("a", 2) is True
    assert sources.repeated("a", 3) is False
    assert sources.repeated("b", 1) is False
    assert not sources.accept("a", 2)
    for number in (0, 4, 2**64 - 1):
        gap = refusal(sources.repeated("a", number))
        assert (gap.reason, gap.field, gap.value) == (Reason.GAP, "window.window_seq", str(number))
        assert "the next one of source a is 3" in gap.remedy


def test_what_is_packed_goes_on_where_it_was():
    sources = Sources()
    sources.accept("a", 1)
    sources.accept("b", 1)
    sources.accept("a", 2)

    again = Sources(sources.pack())

    assert (again.last("a"), again.last("b"), again.last("c")) == (2, 1, 0)


def test_sources_are_bounded_and_those_that_are_known_go_on():
    sources = Sources({f"s{i}": 1 for i in range(MAX_SOURCES)})

    with pytest.raises(Exhausted, match=rf"hello.source = new: the model knows {MAX_SOURCES} sources"):
        sources.repeated("new", 1)

    assert sources.repeated("s0", 2) is False


def test_replayed_windows_leave_no_trace_among_the_sources():
    sources = Sources()

    assert sources.accept(REPLAY, 7)
    assert sources.accept(REPLAY, 3)

    assert sources.pack() == {}


@pytest.mark.parametrize("source", ["", "x" * 257, "a\nb", REPLAY])
def test_a_source_has_a_name_of_its_own(source):
    with pytest.raises(Invalid, match=r"hello\.source"):
        check_source(source)


# ---- acknowledgements


def test_items_are_acknowledged_in_order_as_the_journal_reaches_their_goal():
    items = Unacknowledged()
    items.add(10, 8)
    items.add(11, 400, window_seq=5)
    items.add(11, 400, window_seq=4)  # repeated: on disk at the latest when all before it is
    items.add(12, 8)
    assert (len(items), items.bytes) == (4, 816)

    assert not items.reached(9)
    assert items.reached(11)

    assert (items.labels, items.windows, items.window_seq) == (1, 2, 5)
    assert (len(items), items.bytes) == (1, 8)
    assert items.reached(100)
    assert (items.labels, len(items), items.bytes) == (2, 0, 0)
