"""With learning off, the service answers what the core computes: graph, wire, sessions and batches add nothing."""

from __future__ import annotations

from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from model.fold.learner import Learner
from service.console.remote import Remote
from service.programs.backtest import core, through_service
from service.programs.backtest.child import ServerChild
from service.programs.backtest.plan import Plan, make_plan

# z-units of the first fifth of the rows. Float32: the counts reach 4e4, where one rounding is 2e-3, or 3e-7 in z-units;
# scale times readout, 2,000 steps of state, and another order of sums in onnxruntime add some of them.
TOLERANCE = 1e-5


def plan(rows: int, **model: object) -> Plan:
    """The shipped taxi series for a model that does not learn and does not just repeat the last value."""
    with resources.as_file(resources.files("service.cli") / "data" / "nyc_taxi.csv") as file:
        made = make_plan(Path(file), model={"learn": False, "head_init": 0.5, **model}, rows=rows)
    if made.spec.missing == "hold":
        gaps = np.random.default_rng(0).random((rows, 1)) < 0.2
        series = replace(made.series, x=np.where(gaps, np.float32(np.nan), made.series.x))
        made = replace(made, series=series)
    return made


def difference(a: np.ndarray, b: np.ndarray, plan: Plan) -> float:
    """Largest, in z-units of the train rows."""
    return float(np.nanmax(np.abs(a.astype(np.float64) - b)) / np.nanstd(plan.series.x[: plan.rows // 5]))


async def through_the_service(server: ServerChild, name: str, plan: Plan) -> np.ndarray:
    answers = np.full((plan.rows, plan.spec.horizon, len(plan.spec.targets)), np.nan, np.float32)

    def take(row: int, y: np.ndarray) -> None:
        answers[row] = y

    await through_service.replay(Remote(server.grpc), name, "taxi", plan, 32, take)
    assert np.isfinite(answers).all(), "every row was answered"
    return answers


def through_the_core(plan: Plan) -> np.ndarray:
    return np.stack(list(core.forecasts(Learner(plan.spec), plan)))


MODELS = {
    "lstm": {},
    "two layers of gru": {"cell": "gru", "layers": 2, "horizon": 3},
    "a local calendar with holidays": {"zone": "America/New_York", "holidays": "US"},
    "gaps": {"scaler": "standard", "missing": "hold"},
    "exact gradients": {"cell": "lru", "rule": "rtrl", "horizon": 2},
    "other weights, loss and steps": {
        "cell": "rnn", "init": "orthogonal", "init_gain": 0.9, "layers": 2, "freeze": ["cell1"], "loss": "huber",
        "huber_delta": 0.5, "optimizer": "adamw", "schedule": "cosine", "warmup": 50,
    },
}  # fmt: skip


@pytest.mark.parametrize("rows", [400, pytest.param(2000, marks=pytest.mark.long)])
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
async def test_core_and_service_give_the_same_forecasts(server, name, model, rows):
    replayed = plan(rows, **model)

    ours = await through_the_service(server, name, replayed)

    expected = through_the_core(replayed)
    last = replayed.series.x[:rows, None]
    assert difference(expected, np.broadcast_to(last, expected.shape), replayed) > 0.1, "the forecasts are not trivial"
    assert difference(ours, expected, replayed) <= TOLERANCE


async def test_another_seed_would_be_noticed(server, name):
    ours = await through_the_service(server, name, plan(400, seed=1))

    assert difference(ours, through_the_core(plan(400, seed=2)), plan(400)) > 100 * TOLERANCE
