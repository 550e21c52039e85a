"""The contract of every registered task: answers compared with plain Python and ONNX, targets, scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.answers.tasks import TARGET_CLIP, TASKS
from model.cells.contract import Params
from model.graph.step import export_step
from model.graph.tasks import TASK_TWINS
from model.network import Network
from model.parameters import Array
from model.spec import ModelSpec
from tests.contracts.registry import proven
from tests.graphs import session
from tests.oracles import plain_tasks

SPECS: dict[str, dict[str, Any]] = {
    "forecast": {"horizon": 3, "targets": ("b", "a")},
    "regress": {"targets": ("t", "v", "w")},
    "classify": {"classes": ("n", "p", "q"), "class_weights": (0.5, 1.0, 4.0)},
}


def build(name: str, **fields: Any) -> Network:
    values: dict[str, Any] = {"channels": ("a", "b"), "hidden": 6, "interval": 900.0, "task": name, **SPECS[name]}
    return Network(ModelSpec(**values | fields))


def twins() -> dict[str, Any]:
    return {name: TASK_TWINS[type(build(name).task)] for name in SPECS if type(build(name).task) in TASK_TWINS}


every_task = pytest.mark.parametrize("name", proven(TASKS, spec=SPECS, plain_form=plain_tasks.TASKS, onnx_twin=twins()))


def draw_target(network: Network, seed: int = 0) -> Params:
    """Return the task's own parameters as they are after labels of different sizes."""
    rng = np.random.default_rng(seed)
    return {k: (rng.uniform(0.5, 3, shape) * [1e-3, 1, 1e3]) for k, shape in network.task.shapes().items()}


def draw(network: Network, T: int = 4, B: int = 3, seed: int = 0) -> tuple[Array, Array, Array, Array, Array]:
    """Return p, targets y and weights [T, B, O]; last [T, B, K]; scale [T, B, H, K]."""
    spec, rng = network.spec, np.random.default_rng(seed)
    shape, K = (T, B, spec.outputs), len(network.targets)
    y = rng.dirichlet(np.ones(shape[2]), shape[:2]) if spec.classes else rng.normal(0, 1, shape)
    last, scale = rng.normal(0, 50, (T, B, K)), rng.uniform(0.1, 9, (T, B, spec.horizon, K))
    return rng.normal(0, 1, shape), y, rng.random(shape), last, scale


@every_task
def test_an_answer_equals_its_plain_form(name: str) -> None:
    network = build(name)
    target, (p, _, _, last, scale) = draw_target(network), draw(network)
    plain, _, _ = plain_tasks.TASKS[name]

    got = network.task.answer(target, p[0], last[0], scale[0])

    for b in range(p.shape[1]):
        expected = plain(network.spec, target, p[0, b].tolist(), last[0, b].tolist(), scale[0, b].tolist())
        np.testing.assert_allclose(got[b], expected, rtol=1e-12)


@every_task
def test_the_answer_at_the_target_of_a_label_is_the_label(name: str) -> None:
    network = build(name)
    task, target, (p, _, weight, last, scale) = network.task, draw_target(network), draw(network)
    y = np.stack([task.answer(target, p[t], last[t], scale[t]) for t in range(len(p))])

    got, kept = task.targets(target, y, weight, last, scale)

    np.testing.assert_array_equal(kept, weight)
    if name == "classify":  # logits are determined up to a shift: compare probabilities
        np.testing.assert_allclose(got, y, rtol=1e-6)
    else:
        np.testing.assert_allclose(got, p, rtol=1e-4, atol=1e-5)  # targets are float32; y − mean costs two digits


@every_task
def test_a_target_is_bounded_for_any_label_and_finite_without_one(name: str) -> None:
    network = build(name)
    target, (_, y, weight, last, scale) = draw_target(network), draw(network)
    weight[0], y[0] = 0, np.nan
    if name != "classify":
        y[1] = 1e30

    got, _ = network.task.targets(target, y, weight, last, scale)

    assert (np.abs(got) <= TARGET_CLIP).all()


@every_task
def test_the_score_of_a_row_is_the_weighted_mean_of_its_plain_form(name: str) -> None:
    network = build(name)
    p, y, weight, _, _ = draw(network)
    p[0, 1] *= 1e6
    weight[1, 1] = weight[:, 2] = 0
    _, plain, _ = plain_tasks.TASKS[name]

    got = network.task.score(np.clip(p, -700, 700) if name == "classify" else p, y, weight)

    for b in range(2):
        at = range(len(p))
        parts = [plain(network.spec, np.clip(p[t, b], -700, 700).tolist() if name == "classify" else p[t, b].tolist(),
                       y[t, b].tolist(), weight[t, b].tolist()) for t in at]  # fmt: skip
        total, size = np.sum(parts, axis=0)
        np.testing.assert_allclose(got[b], total / size, rtol=1e-9)
    assert got[2] == 0  # a row without labels
    assert (got >= 0).all()
    assert (got <= 1).all()


@every_task
def test_a_nan_answer_has_the_worst_score(name: str) -> None:
    network = build(name)
    p, y, weight, _, _ = draw(network)
    p[:, 0] = np.nan
    got = network.task.score(p, y, weight)
    assert got[0] == pytest.approx(1)
    assert (got[1:] < 1).all()


@every_task
def test_the_answer_of_other_weights_is_unchanged_by_conversion_to_our_units(name: str) -> None:
    network = build(name)
    task, (p, _, _, last, scale) = network.task, draw(network)
    theirs, ours = draw_target(network, seed=1), draw_target(network, seed=2)

    translated = task.translate(p, theirs, ours)

    expected, got = task.answer(theirs, p[0], last[0], scale[0]), task.answer(ours, translated[0], last[0], scale[0])
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@every_task
def test_units_are_the_derivative_of_an_answer_by_p(name: str) -> None:
    network = build(name)
    task, target, (p, _, _, last, scale) = network.task, draw_target(network), draw(network)
    scale[0, :, 0] = 0
    units = task.units(target, scale[0])
    assert units.shape == p[0].shape
    assert (units > 0).all()
    moved = task.answer(target, p[0] + 1, last[0], scale[0]) - task.answer(target, p[0], last[0], scale[0])
    if name != "classify":
        np.testing.assert_allclose(np.where(moved == 0, 1, moved), units, rtol=1e-9)


@every_task
def test_arguments_are_only_read(name: str) -> None:
    network = build(name)
    target, arguments = draw_target(network), draw(network)
    p, y, weight, last, scale = arguments
    kept = [a.copy() for a in (*arguments, *target.values())]
    network.task.answer(target, p[0], last[0], scale[0])
    network.task.targets(target, y, weight, last, scale)
    network.task.score(p, y, weight)
    network.task.translate(p, target, target)
    for before, after in zip(kept, (*arguments, *target.values()), strict=True):
        np.testing.assert_array_equal(before, after)


@every_task
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_the_exported_step_equals_numpy(name: str, cell: str, offset: float) -> None:
    network = build(name, cell=cell)
    rng = np.random.default_rng(1)
    flat = rng.normal(0, 0.3, network.layout.size).astype(np.float32)
    weights = network.weights(flat)
    for k, value in draw_target(network).items():
        weights.target[k][...] = value + (offset if k == "mean" else 0)
    graph = session(export_step(network, weights))
    state = other = np.zeros((3, network.state_size), np.float32)
    x, seen = np.zeros((3, 2)), []
    for step in range(100):
        x = 0.9 * x + rng.normal(0, 1, (3, 2))
        u = network.ahead.inputs(1.4e9 + 900.0 * step + np.arange(3, dtype=np.float64))
        raw = (x * (1e-2, 30) + (0, 300)).astype(np.float32)
        _, scale, _ = network.observe(state[:, : network.scaler.size].copy(), raw, u)
        y, state = network.step(weights, raw, u, state)
        got, other = graph.run(None, {"x": raw, "u": u, "state": other})
        unit = network.task.units(weights.target, scale)
        # float32 rounds the answer by 2⁻²³ of its size.
        assert (np.abs(got - y) / unit <= 1e-5 + np.abs(y) * 2.0**-23 / unit).all()
        seen.append(y / unit)
    assert np.std(seen, axis=0).max() > 0.05  # the readout has an effect


@every_task
def test_residuals_equal_their_plain_form_where_there_is_a_label(name: str) -> None:
    network = build(name)
    p, y, weight, _, _ = draw(network)
    weight[1, 1] = 0
    _, _, plain = plain_tasks.TASKS[name]

    own, naive = network.task.residuals(p, y, np.nonzero(weight))

    labelled = [(t, b) for t, b, _ in np.argwhere(weight)[:: p.shape[2]]]
    expected = [plain(p[at].tolist(), y[at].tolist()) for at in labelled]
    of_zero = [plain([0.0] * p.shape[2], y[at].tolist()) for at in labelled]
    np.testing.assert_allclose(own, np.ravel(expected), rtol=1e-12)
    np.testing.assert_allclose(naive, np.ravel(of_zero), rtol=1e-6)
