"""The onnx package's cases of optimizers and of softmax cross-entropy, through our optimizers and our loss.

What the operators have and ours do not, the test supplies as the caller of ours would: the gradient of an L2 penalty
(ours is decoupled, AdamW), and Adagrad's falling rate (ours is the schedule's). Not applicable, in no case: Momentum
with `beta` after its first step, which scales the gradient but not by the rate. An Adam of T = 0 has no bias
correction; ours at a late step has none either. Reductions over positions belong to our caller.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.answers.losses import LOSSES
from model.answers.tasks import softmax
from model.parameters import Array
from model.spec import ModelSpec
from model.update.adaptive import Adagrad, Adam
from model.update.contract import Optimizer, OptimizerState
from model.update.optimizers import Momentum, Nesterov
from tests.outside.onnx_suite import Case, cases

LATE = 10**6  # a step at which Adam's bias corrections are 1
STEPS = {case.name: case for m, op in (("adagrad", "Adagrad"), ("adam", "Adam"), ("momentum", "Momentum"))
         for case in cases(m, op).values()}  # fmt: skip
ENTROPIES = cases("softmax_cross_entropy_loss", "SoftmaxCrossEntropyLoss")


def test_these_are_all_cases_of_the_suite() -> None:
    assert (len(STEPS), len(ENTROPIES)) == (7, 34)


def optimizer_of(case: Case, rate: float, moments: list[Array]) -> tuple[Optimizer, float, list[Array], list[float]]:
    """Return our optimizer, its rate, its moments before, and what ours are multiplied by to be the operator's."""
    a = case.attributes
    if case.node.op_type == "Adagrad":
        return Adagrad(a["epsilon"]), rate / (1 + float(case.inputs["T"]) * a["decay_factor"]), moments, [1]
    if case.node.op_type == "Adam":
        scales = [1 - a["alpha"], 1 - a["beta"]]
        before = [m / s for m, s in zip(moments, scales, strict=True)]  # ours are sums that a step multiplies
        return Adam(a["alpha"], a["beta"], a["epsilon"]), rate, before, scales
    made = Nesterov(a["alpha"]) if a["mode"] == "nesterov" else Momentum(a["alpha"])
    return made, rate, [-rate * moments[0]], [-1 / rate]  # ours is a velocity


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_the_suite_is_ours(name: str) -> None:
    case = STEPS[name]
    assert float(case.inputs["T"]) == 0 or case.node.op_type == "Adagrad"
    rate, values = float(case.inputs["R"]), list(case.inputs.values())[2:]
    kinds = 4 if case.node.op_type == "Adam" else 3
    tensors = len(values) // kinds
    results = list(case.outputs.values())
    for k in range(tensors):
        x, g, *moments = (values[part * tensors + k].astype(np.float64) for part in range(kinds))
        made, step, before, scales = optimizer_of(case, rate, moments)
        state = OptimizerState(LATE, np.stack(before), np.empty_like(x))
        made.update(x, g + case.attributes["norm_coefficient"] * x, state, step)

        expected = [results[part * tensors + k] for part in range(kinds - 1)]
        for got, wanted in zip(
            [x, *(m * s for m, s in zip(state.moments, scales, strict=True))], expected, strict=True
        ):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-7)


def entropy(case: Case) -> tuple[Array, Array]:
    """Return the loss of each position and its weight, as our caller sees them. Logits have their classes last."""
    logits, labels = case.inputs["x"].astype(np.float64), case.inputs["y"]
    classes = logits.shape[1]
    weights = case.inputs.get("w", np.ones(classes)).astype(np.float64)
    known = labels != case.attributes.get("ignore_index", classes)
    y = np.eye(classes)[np.where(known, labels, 0)] * known[..., None]
    spec = ModelSpec(
        channels=("a",), task="classify", classes=tuple(map(str, range(classes))), class_weights=tuple(weights.tolist())
    )
    each, _ = LOSSES["cross_entropy"](spec)(np.moveaxis(logits, 1, -1), y, np.broadcast_to(known[..., None], y.shape))
    return each.sum(axis=-1), y @ weights


@pytest.mark.parametrize("name", ENTROPIES)
def test_a_cross_entropy_of_the_suite_is_ours(name: str) -> None:
    case = ENTROPIES[name]
    each, weight = entropy(case)
    reduced: dict[str, Any] = {"none": each, "sum": each.sum(), "mean": each.sum() / weight.sum()}
    outputs = list(case.outputs.values())

    np.testing.assert_allclose(reduced[case.attributes.get("reduction", "mean")], outputs[0], rtol=1e-5, atol=1e-6)
    if len(outputs) > 1:
        log_prob = np.log(softmax(np.moveaxis(case.inputs["x"].astype(np.float64), 1, -1)))
        np.testing.assert_allclose(np.moveaxis(log_prob, -1, 1), outputs[1], rtol=1e-5, atol=1e-6)
