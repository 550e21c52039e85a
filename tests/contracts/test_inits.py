"""The contract of every initialisation, in every cell."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from model.cells.init import INITS, orthogonal
from model.network import Network
from model.parameters import Array
from model.spec import CELL_FIELDS, CHOICES, ModelSpec, SpecError
from tests.contracts.registry import cells, chosen, proven

H, CHANNELS = 48, 60
KINDS = {name: fields for name, fields in cells().items() if fields["cell"] in CELL_FIELDS["init"]}

# A cell's recurrent weights [gates·H, H], input weights [gates·H, I], and biases; which biases begin at 1.
PARTS: dict[str, Any] = {
    "lstm": lambda p: (p["W"][:, :H], p["W"][:, H:-1], p["W"][:, -1], slice(2 * H, 3 * H)),
    "gru": lambda p: (p["U"][:, :H], p["W"], np.r_[p["U"][:, -1], p["b"]], slice(0)),
    "gru-before": lambda p: (p["U"], p["W"][:, :-1], p["W"][:, -1], slice(0)),
    "rnn": lambda p: (p["W"][:, :H], p["W"][:, H:-1], p["W"][:, -1], slice(0)),
}
PARTS["rnn-relu"] = PARTS["rnn"]
proven(KINDS, parts=PARTS)


def accepted(kind: str, init: str) -> bool:
    try:
        ModelSpec(channels=("a",), init=init, **KINDS[kind])
    except SpecError:
        return False
    return True


every_init = pytest.mark.parametrize(
    ("kind", "init"), [(k, i) for k in KINDS for i in proven(chosen(INITS, "init")) if accepted(k, i)]
)


def first_weights(kind: str, init: str, gain: float = 1.0, seed: int = 0) -> list[dict[str, Array]]:
    """Return the first parameters of two layers by name."""
    names = tuple(f"c{i}" for i in range(CHANNELS))
    network = Network(
        ModelSpec(channels=names, hidden=H, layers=2, init=init, init_gain=gain, seed=seed, **KINDS[kind])
    )
    return network.weights(network.init_params()).cells


def parts(kind: str, params: dict[str, Array]) -> Any:
    return PARTS[kind](params)


def test_at_least_one_cell_accepts_each_init() -> None:
    assert {i for i in CHOICES["init"] if any(accepted(kind, i) for kind in KINDS)} == set(INITS)


@every_init
def test_input_weights_are_normal_with_deviation_one_over_the_root_of_the_inputs(kind: str, init: str) -> None:
    for layer in first_weights(kind, init):
        _, W, _, _ = parts(kind, layer)
        scaled = W * np.sqrt(W.shape[1])
        # The mean of n normal draws is within 5/√n of 0, their deviation within 5/√(2n) of 1.
        assert abs(scaled.mean()) < 5 / np.sqrt(W.size)
        assert abs(scaled.std() - 1) < 5 / np.sqrt(2 * W.size)
        assert (np.abs(scaled) > 2).mean() == pytest.approx(0.0455, abs=5 * np.sqrt(0.0455 / W.size))


@every_init
def test_biases_are_zero_and_those_of_a_forget_gate_are_one(kind: str, init: str) -> None:
    for layer in first_weights(kind, init):
        _, _, b, ones = parts(kind, layer)
        expected = np.zeros_like(b)
        expected[ones] = 1
        np.testing.assert_array_equal(b, expected)


@every_init
def test_the_gain_multiplies_the_recurrent_weights_and_nothing_else(kind: str, init: str) -> None:
    for one, half in zip(first_weights(kind, init), first_weights(kind, init, gain=0.5), strict=True):
        (U, *same), (U_half, *others) = parts(kind, one), parts(kind, half)
        np.testing.assert_array_equal(U_half, 0.5 * U)
        for a, b in zip(same[:2], others[:2], strict=True):
            np.testing.assert_array_equal(a, b)


@every_init
def test_first_weights_follow_the_seed_alone(kind: str, init: str) -> None:
    one, again, other = (first_weights(kind, init, seed=s) for s in (1, 1, 2))
    for a, b, c in zip(one, again, other, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
        assert any((a[name] != c[name]).any() for name in a)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gain", [0.5, 1.0, 1.7])
def test_the_orthogonal_block_of_every_gate_scales_lengths_by_the_gain(kind: str, gain: float) -> None:
    for layer in first_weights(kind, "orthogonal", gain):
        U, _, _, _ = parts(kind, layer)
        for block in (U.astype(np.float64) / gain).reshape(-1, H, H):
            np.testing.assert_allclose(block @ block.T, np.eye(H), rtol=0, atol=1e-6)
        assert len({block.tobytes() for block in U.reshape(-1, H, H)}) == len(U) // H  # blocks differ


@pytest.mark.parametrize("kind", KINDS)
def test_normal_recurrent_weights_have_deviation_one_over_the_root_of_the_units(kind: str) -> None:
    for layer in first_weights(kind, "normal"):
        U, _, _, _ = parts(kind, layer)
        assert abs(U.std() * np.sqrt(H) - 1) < 5 / np.sqrt(2 * U.size)


def test_identity_init_gives_the_identity_matrix() -> None:
    for layer in first_weights("rnn-relu", "identity", gain=0.75):
        np.testing.assert_array_equal(parts("rnn-relu", layer)[0], 0.75 * np.eye(H, dtype=np.float32))


def test_orthogonal_matrices_are_drawn_uniformly() -> None:
    """Without the sign correction the first entry is -0.64 on average: LAPACK fixes the signs of R."""
    rng = np.random.default_rng(0)
    drawn = np.stack([orthogonal(1, 2, rng) for _ in range(4000)])
    assert np.abs(drawn.mean(axis=0)).max() < 5 * np.sqrt(0.5 / 4000)
    assert np.mean(np.linalg.det(drawn) > 0) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(4000))


def test_the_default_draws_are_those_of_the_quality_measurements() -> None:
    """The generator of the seed draws recurrent weights, then input weights, layer by layer."""
    rng, inputs = np.random.default_rng(0), 2 * CHANNELS
    for layer in first_weights("lstm", "normal"):
        U = rng.standard_normal((4 * H, H)) / np.sqrt(H)
        W = rng.standard_normal((4 * H, inputs)) / np.sqrt(inputs)
        np.testing.assert_array_equal(layer["W"][:, :-1], np.concatenate([U, W], axis=1).astype(np.float32))
        inputs = H
