"""Known and static inputs as users give them, and as the wire has them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from freshet.errors import InvalidArgument, TickRefused
from freshet.known import ahead, of_ticks, rows_ahead, static_values
from freshet.results import ModelSpec
from freshet.ticks import Layout, Tick, check, ticks
from freshet.windows import WindowLayout, window_message

NAMES = ("price", "day")
GIVEN: dict[str, Any] = {
    "by name": {"day": [1, 2], "price": [10.0, 20.0]},
    "array": [[10, 1], [20, 2]],
    "flat": [10, 1, 20, 2],
}


@pytest.mark.parametrize("known", GIVEN.values(), ids=GIVEN)
def test_step_1_comes_first_and_names_are_put_in_order(known: Any) -> None:
    layout = Layout(("x",), 0.0, known=NAMES, horizon=2)
    assert check(Tick(1.0, None, known), 1, layout, None).u == [10, 1, 20, 2]


@pytest.mark.parametrize(("known", "words"), [
    (None, "known = none; send price, day with every tick"), ({"price": 1}, "no column 'day'"), ([1, 2, 3], "2 × 2"),
    ({"price": [1, np.inf], "day": [0, 0]}, r"u\[2\] = inf; send a finite number up to 1e15 for price at step 2"),
    ({"price": "a", "day": 0}, "known"),
])  # fmt: skip
def test_what_the_server_would_refuse_is_refused_before_it_is_sent(known: Any, words: str) -> None:
    with pytest.raises(TickRefused, match=words):
        check(Tick(1.0, None, known), 1, Layout(("x",), 0.0, known=NAMES, horizon=2), None)


def test_a_model_without_known_inputs_sends_none_and_refuses_them() -> None:
    assert check(Tick(1.0), 1, Layout(("x",), 0.0), None).u == []
    with pytest.raises(TickRefused, match="the model has none"):
        check(Tick(1.0, None, [1]), 1, Layout(("x",), 0.0), None)


def test_rows_send_the_values_of_the_next_rows_and_hold_the_last_one() -> None:
    values = np.array([[0.0], [1], [2], [3]])
    np.testing.assert_array_equal(ahead(values, 2), [[1, 2], [2, 3], [3, 3], [3, 3]])
    np.testing.assert_array_equal(rows_ahead({"k": [0, 1, 2, 3]}, ("k",), 2, 4), ahead(values, 2))
    with pytest.raises(InvalidArgument, match=r"known has shape \(3, 1\); give \[4, 1\]"):
        rows_ahead([0, 1, 2], ("k",), 2, 4)


def test_a_frame_is_split_into_channels_and_known_inputs() -> None:
    frame = {"a": [1.0, 2, 3], "k": [7.0, 8, 9]}
    made = list(ticks(frame, None, lambda: ("a",), inputs=lambda: (("k",), 1)))  # type: ignore[arg-type]
    assert [(float(tick.x[0]), tick.known.tolist()) for tick in made] == [(1, [8]), (2, [9]), (3, [9])]


def test_packed_ticks_take_an_array_or_columns_by_name() -> None:
    by_name = of_ticks({"price": [[1, 2], [3, 4]], "day": [[0, 1], [1, 0]]}, NAMES, 2, 2)
    np.testing.assert_array_equal(by_name, of_ticks([[[1, 0], [2, 1]], [[3, 1], [4, 0]]], NAMES, 2, 2))


def test_a_window_has_columns_for_what_was_sent_with_its_ticks() -> None:
    spec = ModelSpec(channels=("a",), targets=("a",), horizon=2, task="forecast", known=("k",), static=("s",))
    layout = WindowLayout.of(spec, [100.0])
    rows = {"s": [3.0, 3.0], "k+2": [8, 9], "a": [101.0, 102.0], "k+1": [7, 8]}
    message = window_message(layout, rows, [103.0, 104.0], None, None)
    np.testing.assert_array_equal(np.frombuffer(message.x, "<f4").reshape(2, 4), [[1, 7, 8, 3], [2, 8, 9, 3]])


@pytest.mark.parametrize("static", [3, [1.0], {1: 2.0}, {"a": "b"}])
def test_static_inputs_are_a_mapping_of_names_to_numbers(static: Any) -> None:
    with pytest.raises(InvalidArgument, match="static"):
        static_values(static)
    assert static_values({"a": 1}) == {"a": 1.0}
