"""A step of one row, divided into arithmetic and a smaller graph, has the bits of the whole graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from model.graph.divided import operations, parts
from model.graph.divided.parts import divided
from model.network import Network
from model.scalers import SCALERS
from model.spec import CHOICES, ModelSpec
from service.engine.export import Canary, Export, export
from service.engine.loaded import Engine
from service.engine.session import BadVersion, StepSession
from tests.contracts import registry
from tests.contracts.test_parity import perturbed

Array = NDArray[np.float32]
KINDS: list[dict[str, Any]] = [
    *({"scaler": scaler, "missing": missing, "forecaster": "network"}
      for scaler in sorted(SCALERS) for missing in CHOICES["missing"]),
    *({**kind, "layers": 2} for kind in registry.cells().values()),
    {"interval": 3600.0, "missing": "hold"},
    {"own_readout": True},
    {"intervals": (0.5, 0.9)},
    {"task": "regress", "targets": ("p",)},
    {"horizon": 3, "missing": "hold"},
    {"horizon": 12, "interval": 3600.0},
    {"horizon": 24},
    {"channels": ("a", "b", "c"), "targets": ("c", "a"), "missing": "hold", "own_readout": True},
    {"channels": ("a", "b"), "horizon": 2, "interval": 3600.0},
    {"layers": 2, "residual": True, "layer_norm": True},
]  # fmt: skip
WALK = 400


def made(seed: int = 1, **fields: Any) -> tuple[Network, Export]:
    network = Network(ModelSpec(**{"channels": ("a",), "hidden": 8, **fields}))
    flat = perturbed(network)
    flat += np.random.default_rng(seed).normal(0, 1e-3, flat.size).astype(np.float32)
    return network, export(network, network.weights(flat))


def served(version: Export) -> tuple[StepSession, bool]:
    session = StepSession(version.onnx)
    return session, session.divide(version.onnx, Canary.unpack(version.canary))


def walk(network: Network) -> list[tuple[Array, Array]]:
    """Ticks of one row with pauses, a jump of the level, a change of the unit, and, with hold, missing values."""
    rng, C, ticks = np.random.default_rng(0), len(network.spec.channels), []
    value = np.zeros((1, C))
    for tick in range(WALK):
        unit = 1e-3 if tick > WALK // 2 else 1.0
        value += unit * rng.standard_normal((1, C)) * (rng.random((1, C)) < 0.8) + 1e4 * (tick == WALK // 3)
        missing = network.scaler.hold & (rng.random((1, C)) < 0.2)
        x = np.where(missing, np.nan, value).astype(np.float32)
        u = network.ahead.inputs(np.array([1.4e9 + 3600.0 * tick]), network.covariates.sample(1, tick))
        ticks.append((x, u))
    return ticks


def bits(result: tuple[Array, Array]) -> list[bytes]:
    return [part.tobytes() for part in result]


@pytest.mark.parametrize("fields", KINDS, ids=str)
def test_a_divided_step_has_the_bits_of_the_whole_graph_on_a_long_walk(fields: dict[str, Any]) -> None:
    network, version = made(**fields)
    session, whole = served(version)[0], StepSession(version.onnx)
    state = np.zeros((1, network.state_size), np.float32)
    for tick, (x, u) in enumerate(walk(network)):
        expected = whole.run(x, u, state)
        assert bits(session.run(x, u, state)) == bits(expected), tick
        state = expected[1].copy()


@pytest.mark.parametrize("missing", CHOICES["missing"])
@pytest.mark.parametrize("scaler", sorted(set(SCALERS) - {"none"}))
def test_a_model_of_one_channel_is_divided_and_most_nodes_become_arithmetic(scaler: str, missing: str) -> None:
    _, version = made(scaler=scaler, missing=missing)
    made_of = divided(version.onnx)

    assert served(version)[1]
    assert made_of is not None
    assert (
        len(onnx.load_from_string(made_of.graph).graph.node) < len(onnx.load_from_string(version.onnx).graph.node) / 2
    )


@pytest.mark.parametrize("fields", [{"channels": tuple("abcde")}, {"scaler": "none"}], ids=str)
def test_a_model_with_little_arithmetic_of_single_numbers_stays_whole(fields: dict[str, Any]) -> None:
    _, version = made(**fields)

    assert divided(version.onnx) is None
    assert not served(version)[1]


def test_versions_of_a_model_share_the_arithmetic_and_differ_in_the_graph() -> None:
    first, second = (divided(made(seed)[1].onnx) for seed in (1, 2))

    assert first is not None
    assert second is not None
    assert first.source is second.source
    assert first.graph != second.graph


def test_a_tick_without_a_number_for_an_answer_is_answered_by_the_whole_graph() -> None:
    network, version = made()
    session, divides = served(version)
    state = Canary.unpack(version.canary).state[:1].copy()
    state[:, 2] = -1.0  # a variance, whose root Python refuses
    x, u = walk(network)[0]

    _, after = session.run(x, u, state)

    assert divides
    assert np.isnan(after).any()
    np.testing.assert_array_equal(after, StepSession(version.onnx).run(x, u, state)[1])


@pytest.mark.parametrize(("kind", "statements"), [
    ("Softsign", "r[0] = {0} / (1.0 + abs({0})); {v} = r[0]"),  # one rounding less
    ("Max", "{v} = {1} if {0} > {1} else {0}"),
    ("Add", "{v} = {0} + {1}"),
])  # fmt: skip
def test_arithmetic_with_other_bits_than_the_graph_does_not_serve(
    kind: str, statements: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(operations.STATEMENTS, kind, statements)
    parts._plan.cache_clear()
    _, version = made()
    try:
        session, divides = served(version)
        canary = Canary.unpack(version.canary)
        row = canary.x[:1], canary.u[:1], canary.state[:1]

        assert not divides
        assert bits(session.run(*row)) == bits(StepSession(version.onnx).run(*row))
    finally:
        parts._plan.cache_clear()


def test_no_name_of_a_file_reaches_the_arithmetic() -> None:
    model = onnx.load_from_string(made()[1].onnx)
    for node in model.graph.node:
        node.input[:] = [f"__import__('os').{name}" if name.startswith("v") else name for name in node.input]
        node.output[:] = [f"__import__('os').{name}" if name.startswith("v") else name for name in node.output]
    made_of = divided(model.SerializeToString())
    assert made_of is not None
    assert "os" not in made_of.source

    model.graph.input[0].name = "print(1)"
    assert divided(model.SerializeToString()) is None


def test_a_session_that_serves_is_divided_and_counts_its_second_graph() -> None:
    _, version = made()
    session, _ = Engine().prepare(version.onnx, Canary.unpack(version.canary))
    canary = Canary.unpack(version.canary)

    assert session.nbytes > StepSession(version.onnx).nbytes
    assert session._divided is not None
    many, one = session.run(canary.x, canary.u, canary.state), session.run(canary.x[:1], canary.u[:1], canary.state[:1])
    np.testing.assert_allclose(one[0], many[0][:1], rtol=1e-6)


def test_a_smaller_graph_that_does_not_load_is_a_bad_version(monkeypatch: pytest.MonkeyPatch) -> None:
    _, version = made()
    made_of = divided(version.onnx)
    assert made_of is not None
    monkeypatch.setattr("service.engine.session.divided", lambda _: replace(made_of, graph=made_of.graph[:100]))

    with pytest.raises(BadVersion, match="single rows"):
        Engine().prepare(version.onnx, Canary.unpack(version.canary))
