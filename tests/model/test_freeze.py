"""Frozen parts of a model do not learn."""

from __future__ import annotations

import math

import numpy as np
import pytest

from model.fold.learner import REPORT_EVERY, Learner
from model.network import Network
from model.update.optimizers import OPTIMIZERS
from tests.model.worlds import chunks, feed, spec

UPDATES = 200
OTHERS = sorted(OPTIMIZERS.keys() - {"adam"})


@pytest.mark.parametrize("optimizer", ["adam", *(pytest.param(o, marks=pytest.mark.long) for o in OTHERS)])
@pytest.mark.parametrize("freeze", [["cell0"], ["cell1"], ["head"], ["cell0", "head"]], ids="+".join)
def test_frozen_weights_are_bit_identical_after_200_updates_and_all_others_change(
    optimizer: str, freeze: list[str]
) -> None:
    learner = Learner(spec(layers=2, freeze=freeze, optimizer=optimizer, head_init=0.2))
    first, layers = learner.weights.flat.copy(), learner.network.layers
    for chunk in chunks([1] * (UPDATES + 8)):
        feed(learner, chunk)

    assert learner.counts.updates >= UPDATES
    for name, part in layers.items():
        if name in freeze:
            np.testing.assert_array_equal(learner.weights.flat[part], first[part])
        else:
            assert (learner.weights.flat[part] != first[part]).mean() > 0.99


def test_a_report_has_norm_zero_for_frozen_layers_and_its_total_is_of_the_others() -> None:
    learner = Learner(spec(layers=2, freeze=["cell1"], head_init=0.2))
    updates = [update for chunk in chunks([3] * 40, once=True) for update in feed(learner, chunk)]
    reports = [update.report for update in updates if update.report]
    assert len(reports) == math.ceil(len(updates) / REPORT_EVERY) > 2
    for report in reports:
        assert list(report.by_layer) == ["cell0", "cell1", "head"]
        assert report.by_layer["cell1"] == 0 < min(report.by_layer["cell0"], report.by_layer["head"])
        np.testing.assert_allclose(math.hypot(*report.by_layer.values()), report.norm, rtol=1e-5)


def test_learning_and_frozen_parts_cover_the_weight_vector_exactly_once() -> None:
    for freeze in ([], ["cell0"], ["cell1"], ["cell0", "cell1"], ["cell0", "head"]):
        network = Network(spec(layers=2, freeze=freeze))
        seen = np.zeros(network.layout.size, int)
        for part in [*network.learned, *network.frozen]:
            seen[part] += 1
        np.testing.assert_array_equal(seen, 1)
        assert sum(part.stop - part.start for part in network.frozen) == sum(
            part.stop - part.start
            for name, part in network.layout.layers().items()
            if name in freeze or name not in network.layers
        )
    alone = Network(spec(layers=3, forecaster="network"))
    assert alone.learned == [slice(0, alone.layout.size)]
