"""Graphs of every edition are made with the same bytes for ever, and answer alike."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from model.graph.step import EDITIONS, export_step
from model.network import Network
from model.spec import ModelSpec
from tests.contracts.test_parity import perturbed
from tests.graphs import session
from tests.model.editions import FOLDER, MIXTURES, record, specs

RECORDED = {edition: json.loads((FOLDER / f"graphs-{edition}.json").read_text()) for edition in EDITIONS}


@pytest.mark.parametrize("edition", EDITIONS)
def test_an_edition_is_made_as_it_was_recorded(edition: int) -> None:
    found = {name: record(spec, edition=edition) for name, spec in specs() if name in RECORDED[edition]}

    assert found == RECORDED[edition], (
        "graphs that were stored could not be made again: keep this edition as it was, and add another with its record "
        "(tests.model.editions); one that was never released may be recorded again"
    )


def test_the_record_notices_a_constant_and_an_attribute_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    name, spec = next((name, spec) for name, spec in specs() if name.startswith("residual-hold"))
    for module, constant in (("robust", "LEVEL_CAP"), ("robust", "JOLT_TO"), ("contract", "MAX_COUNT")):
        with monkeypatch.context() as changed:
            changed.setattr(f"model.graph.{'first' if module == 'robust' else 'scalers'}."
                            f"{f'robust.{constant}' if module == 'robust' else constant}", 7.0)  # fmt: skip
            assert record(spec, edition=1) != RECORDED[1][name]


@pytest.mark.parametrize("missing", ["refuse", "hold"])
@pytest.mark.parametrize("fields", [{"scaler": "standard"}, {"horizon": 3}, *MIXTURES.values()], ids=str)
def test_the_editions_of_a_graph_answer_alike(fields: dict[str, Any], missing: str) -> None:
    """A stream moves between versions of two editions whenever a server is updated: each reads the other's state."""
    network = Network(ModelSpec(**{"channels": ("a", "b"), "hidden": 4, "missing": missing, **fields}))
    weights = network.weights(perturbed(network))
    graphs = [session(export_step(network, weights, edition)) for edition in EDITIONS]
    rng, value, state = np.random.default_rng(3), np.zeros((5, 2)), np.zeros((5, network.state_size), np.float32)
    for tick in range(200):
        value = value + rng.standard_normal((5, 2)) * (rng.random((5, 2)) < 0.8)
        x = np.where(rng.random((5, 2)) < 0.2, np.nan, value) if network.scaler.hold else value
        feed = {"x": x.astype(np.float32), "u": network.ahead.inputs(np.full(5, 3600.0 * tick)), "state": state}
        first, *others = [graph.run(None, feed) for graph in graphs]
        for other in others:
            for expected, found in zip(first, other, strict=True):
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        state = (first, *others)[tick % len(EDITIONS)][1]
