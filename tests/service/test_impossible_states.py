"""States that no stream can have: refused at each door by place and value; in old files, lost and reported."""

from __future__ import annotations

import numpy as np
import pytest

from freshet.v1 import streams_pb2
from model.fold.contexts import Contexts
from model.fold.learner import Learner
from model.fold.windows import problem
from model.network import Network
from model.spec import ModelSpec
from service.common.errors import Invalid, Reason, Refusal
from service.common.names import Origin
from service.edge import wire
from service.journal.records import StatePut, StreamOpened, Window
from service.learning.labels import RawWindow, Shape, check_window
from service.storage.states import StreamRow
from service.streams.residency import restore
from service.streams.served import ServedModel

SPEC = ModelSpec(channels=("a",), hidden=2)
BAD = {"variance": (2, -1e30), "count": (0, -1.0), "mean": (1, 3e38), "unit": (34, 50.0), "not a number": (1, np.nan)}
every_bad = pytest.mark.parametrize(("at", "value"), BAD.values(), ids=BAD)


def state(at: int, value: float) -> np.ndarray:
    row = np.zeros(Network(SPEC).state_size, np.float32)
    row[at] = value
    return row


@pytest.fixture
def model() -> ServedModel:
    return ServedModel(1, "default", "m", SPEC)


@every_bad
def test_a_state_to_be_put_is_refused_by_place_and_value(model, at, value):
    message = streams_pb2.Stream(model="m", stream="s", state=state(at, value).tobytes())

    with pytest.raises(Invalid, match="put a state that a stream of this model has had") as refused:
        wire.put_state(message, model)
    assert refused.value.field == f"stream.state[{at}]"


@every_bad
def test_a_windows_initial_state_is_refused_at_the_door_and_in_an_old_journal(at, value):
    x, weight = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    raw = RawWindow(1, 1, x.tobytes(), x.tobytes(), weight.tobytes(), state(at, value).tobytes())

    refusal = check_window(Shape.of(Network(SPEC)), raw)

    assert isinstance(refusal, Refusal)
    assert refusal.field == f"window.initial_state[{at}]"
    assert refusal.reason in (Reason.INVALID, Reason.NON_FINITE)
    assert problem(Network(SPEC), Window("source", 1, x, x, weight, state(at, value)))


def test_a_windows_initial_state_may_hold_the_variance_of_large_values():
    x, weight = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    raw = RawWindow(1, 1, x.tobytes(), x.tobytes(), weight.tobytes(), state(2, 1e20).tobytes())

    assert not isinstance(check_window(Shape.of(Network(SPEC)), raw), Refusal)


@every_bad
def test_one_of_an_old_journal_is_lost_and_the_stream_restarts(model, at, value):
    model.apply(StreamOpened(1, "s", 1), 1)
    model.apply(StatePut(1, 5, 1.0, state(at, value)), 2)

    row = model.table.by_id["s"]
    assert not model.table.state[row].any()
    assert model.table.origin[row] == Origin.LOST
    assert model.table.last_seq[row] == 5
    learner = Learner(SPEC)
    learner.put(1, state(at, value))
    assert isinstance(learner.contexts, Contexts)
    _, block = learner.contexts.load([1])
    assert not block.statistics.any()
    assert not block.start.any()


@every_bad
def test_one_of_an_old_states_db_is_lost_and_the_stream_restarts(model, at, value):
    restore(model, StreamRow(1, 1, "s", 1, 5, 1.0, int(Origin.RESUMED), 0, 0, 0, state(at, value).tobytes()))

    row = model.table.by_id["s"]
    assert not model.table.state[row].any()
    assert model.table.origin[row] == Origin.LOST
