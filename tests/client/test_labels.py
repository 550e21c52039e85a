"""Labels and windows as users give them; and which labels are sent, sent again, and done."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest

from freshet.errors import LabelRefused, Reason, WindowRefused
from freshet.labels import Answers, Label, LabelBox, label_refused, label_values
from freshet.v1 import types_pb2
from freshet.windows import WindowLayout, window_message

REGRESS = Answers("regress", ("q", "t"))
CLASSIFY = Answers("classify", ("calm", "storm", "fog"))
FORECAST = Answers("forecast", ("a",))

LABELS: dict[str, tuple[Answers, Any, list[float]]] = {
    "one per target": (REGRESS, [1, 2.5], [1.0, 2.5]),
    "an array": (REGRESS, np.array([1, 2], np.float32), [1.0, 2.0]),
    "a number where there is one target": (Answers("regress", ("q",)), 3, [3.0]),
    "a class by name": (CLASSIFY, "storm", [0.0, 1.0, 0.0]),
    "a class by index": (CLASSIFY, 2, [0.0, 0.0, 1.0]),
    "a class by NumPy's index": (CLASSIFY, np.int64(0), [1.0, 0.0, 0.0]),
    "probabilities": (CLASSIFY, [0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),
}


@pytest.mark.parametrize("case", LABELS)
def test_a_label_may_be_given_as(case):
    answers, y, values = LABELS[case]

    assert label_values(answers, y, 1) == values


BAD_LABELS: dict[str, tuple[Answers, Any, Reason, str, str]] = {
    "too few": (REGRESS, 1.0, Reason.SHAPE, "label.y", "2 values: q, t"),
    "a matrix": (REGRESS, [[1, 2]], Reason.SHAPE, "label.y", "2 values"),
    "text": (REGRESS, ["a", "b"], Reason.NON_FINITE, "label.y", "a number"),
    "NaN": (REGRESS, [1, math.nan], Reason.NON_FINITE, "label.y[1]", "finite"),
    "huge": (REGRESS, [1e16, 1], Reason.TOO_LARGE, "label.y[0]", "1e15"),
    "an unknown class": (CLASSIFY, "hail", Reason.INVALID, "label.y", "calm, storm, fog"),
    "a class beyond the last": (CLASSIFY, 3, Reason.INVALID, "label.y", "0 to 2"),
    "a class below the first": (CLASSIFY, -1, Reason.INVALID, "label.y", "0 to 2"),
    "true": (CLASSIFY, True, Reason.INVALID, "label.y", "0 to 2"),
    "no probabilities": (CLASSIFY, [1, 1, 1], Reason.INVALID, "label.y", "sum 1"),
    "a negative probability": (CLASSIFY, [1.5, -0.5, 0], Reason.INVALID, "label.y", "sum 1"),
    "for a model that forecasts": (FORECAST, 1.0, Reason.UNSUPPORTED, "label", "off the stream"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_a_label_that_the_server_would_refuse_is_refused_at_once(case):
    answers, y, reason, field, remedy = BAD_LABELS[case]

    with pytest.raises(LabelRefused) as caught:
        label_values(answers, y, 7, "pump")

    error = caught.value
    assert (error.seq, error.stream, error.reason, error.field) == (7, "pump", reason, field)
    assert remedy in error.remedy
    assert "label for tick 7 of 'pump' refused" in str(error)


# ---- which are sent, and when they are done


class Labels:
    """A box, and the labels given to it by their number."""

    def __init__(self, *seqs: int) -> None:
        self.box = LabelBox()
        self.labels = [Label(seq, [float(seq)], asyncio.get_running_loop().create_future()) for seq in seqs]
        for label in self.labels:
            self.box.append(label)

    def sent(self, before: int = 100) -> list[int]:
        out = []
        while (label := self.box.next_to_send(before)) is not None:
            out.append(label.seq)
        return out

    def done(self) -> list[int]:
        return [n for n, label in enumerate(self.labels) if label.done.done() and not label.done.exception()]


async def test_a_label_waits_until_its_tick_is_the_servers():
    labels = Labels(3, 1, 7)

    assert labels.sent(before=3) == []
    assert labels.sent(before=4) == [3, 1]
    assert labels.sent(before=8) == [7]


async def test_labels_are_done_as_the_server_counts_them_refused_ones_left_out():
    labels = Labels(1, 2, 3, 4)
    labels.sent()
    refused = LabelRefused(2, "label.seq", "2", "too old", Reason.UNKNOWN_TICK)

    assert not labels.box.refused(2, refused)
    labels.box.durable(2)

    assert labels.done() == [0, 2]
    assert labels.labels[1].done.exception() is refused
    labels.box.durable(3)
    assert labels.done() == [0, 2, 3]
    assert len(labels.box) == 0


async def test_what_is_not_known_to_be_on_disk_is_sent_again_in_order():
    labels = Labels(1, 2, 3)
    assert labels.sent(before=3) == [1, 2]
    labels.box.durable(1)

    labels.box.disconnected()

    assert labels.sent() == [2, 3]
    labels.box.durable(2)
    assert labels.done() == [0, 1, 2]


async def test_an_overloaded_server_gets_the_label_again_when_others_have_reached_the_disk():
    labels = Labels(1, 2, 3)
    assert [labels.box.next_to_send(9), labels.box.next_to_send(9)]
    overloaded = LabelRefused(2, "label.seq", "2", "wait", Reason.OVERLOADED)

    assert labels.box.refused(2, overloaded)

    assert labels.sent() == []
    labels.box.durable(0)
    assert labels.sent() == []
    labels.box.durable(1)
    assert labels.sent() == [2, 3]
    assert not labels.labels[1].done.done()


async def test_a_call_that_ends_well_has_everything_on_disk_and_a_stream_that_fails_says_so_to_everyone():
    labels = Labels(1, 2, 9)
    labels.sent(before=5)

    labels.box.all_durable()
    labels.box.fail(error := RuntimeError("over"))

    assert labels.done() == [0, 1]
    assert labels.labels[2].done.exception() is error


def test_the_words_of_the_server_reach_the_user():
    said = types_pb2.Refused(
        seq=3, field="label.seq", value="3", remedy="too old", reason=types_pb2.Refused.UNKNOWN_TICK
    )

    error = label_refused(said, "pump")

    assert (error.seq, error.field, error.value, error.remedy, error.reason, error.stream) == (
        3, "label.seq", "3", "too old", Reason.UNKNOWN_TICK, "pump",
    )  # fmt: skip


# ---- windows

TWO = WindowLayout(("a", "b"), 2, "refuse", REGRESS)
ONE = WindowLayout(("a",), 1, "refuse", Answers("regress", ("q",)))
SKY = WindowLayout(("a", "b"), 3, "refuse", CLASSIFY)
AHEAD = WindowLayout(("a", "b"), 4, "refuse", Answers("forecast", ("a", "b")))


def rows(data: bytes, width: int) -> list[list[float]]:
    return np.frombuffer(data, "<f4").reshape(-1, width).tolist()


def test_a_window_with_a_label_per_tick():
    message = window_message(TWO, [[1, 2], [3, 4]], [[5, 6], [7, 8]], None, None)

    assert (message.steps, rows(message.x, 2), rows(message.y, 2)) == (2, [[1, 2], [3, 4]], [[5, 6], [7, 8]])
    assert (message.weight, message.initial_state) == (b"", b"")


def test_a_window_with_one_label_labels_its_last_tick():
    for layout, y, last in ((TWO, [5, 6], [5, 6]), (SKY, "fog", [0, 0, 1]), (SKY, 1, [0, 1, 0]), (ONE, 7.0, [7])):
        x = np.ones((3, len(layout.channels)))

        message = window_message(layout, x, y, None, None)

        n = layout.outputs
        assert rows(message.y, n) == [[0] * n, [0] * n, last]
        assert rows(message.weight, n) == [[0] * n, [0] * n, [1] * n]


def test_a_window_of_a_forecast_is_labelled_with_what_follows():
    message = window_message(AHEAD, np.ones((2, 2)), [1, 2, 3, 4], None, None)

    assert rows(message.y, 4) == [[0] * 4, [1, 2, 3, 4]]


def test_one_channel_and_one_output_may_be_plain_lists():
    message = window_message(ONE, [1, 2, 3], [4, 5, 6], [1, 0, 1], [9, 8])

    assert rows(message.x, 1) == [[1], [2], [3]]
    assert rows(message.y, 1) == [[4], [5], [6]]
    assert rows(message.weight, 1) == [[1], [0], [1]]
    assert rows(message.initial_state, 1) == [[9], [8]]


def test_a_weight_per_tick_counts_for_all_outputs():
    message = window_message(TWO, np.ones((2, 2)), np.ones((2, 2)), [0, 0.5], None)

    assert rows(message.weight, 2) == [[0, 0], [0.5, 0.5]]


X, Y = np.ones((3, 2)), np.ones((3, 2))
BAD_WINDOWS: dict[str, tuple[Any, Any, Any, Any, Reason, str]] = {
    "x of another width": (np.ones((3, 3)), Y, None, None, Reason.SHAPE, "window.x"),
    "no ticks": (np.ones((0, 2)), Y, None, None, Reason.SHAPE, "window.x"),
    "text": ("abc", Y, None, None, Reason.SHAPE, "window.x"),
    "NaN": (np.full((3, 2), math.nan), Y, None, None, Reason.NON_FINITE, "window.x[0, 0]"),
    "beyond float32": (np.full((3, 2), 1e300), Y, None, None, Reason.NON_FINITE, "window.x[0, 0]"),
    "huge": (np.full((3, 2), 1e16), Y, None, None, Reason.TOO_LARGE, "window.x[0, 0]"),
    "y of other length": (X, np.ones((4, 2)), None, None, Reason.SHAPE, "window.y"),
    "a label of other width": (X, [1, 2, 3], None, None, Reason.SHAPE, "window.y"),
    "weights of other length": (X, Y, [1, 1], None, Reason.SHAPE, "window.weight"),
    "a negative weight": (X, Y, [1, 1, -1], None, Reason.INVALID, "window.weight"),
    "no label": (X, Y, [0, 0, 0], None, Reason.INVALID, "window.weight"),
    "a state that is no row": (X, Y, None, np.ones((2, 2)), Reason.SHAPE, "window.initial_state"),
}


@pytest.mark.parametrize("case", BAD_WINDOWS)
def test_a_window_that_the_server_would_refuse_is_refused_at_once(case):
    *window, reason, field = BAD_WINDOWS[case]

    with pytest.raises(WindowRefused) as caught:
        window_message(TWO, *window)

    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert caught.value.remedy


def test_where_missing_values_are_held_a_window_may_miss_some():
    layout = TWO._replace(missing="hold")

    assert rows(window_message(layout, [[1, math.nan]], [[1, 2]], None, None).x, 2)[0][0] == 1
    with pytest.raises(WindowRefused):
        window_message(layout, [[1, math.inf]], [[1, 2]], None, None)
