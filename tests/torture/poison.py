"""One stream of twenty sends absurd values, which are also labels: the cost for the others with and without guards.

In one process without a clock: the learner alone; each stream is forecast with the weights of the time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from model.fold import contexts
from model.fold.learner import Learner
from model.spec import ModelSpec
from model.update import gradients
from tests.torture.report import Part

STREAMS = 20
BRIEF = 400  # ticks, within which the harm without the guards shows
ABSURD_SHARE = 0.3  # fraction of the ticks of stream 0
HONEST = 100  # ticks before the first absurd one: the scale is known by then
ABSURD = 1e6  # other values are about 1
CONTAINED, HARMFUL = (
    1.05,
    1.2,
)  # error of the others over that without the poisoner: upper bound, and lower bound without guards
SPEC = ModelSpec(channels=("x",), hidden=8, learning_rate=3e-3, label_range=(-5.0, 5.0))


@contextlib.contextmanager
def unguarded() -> Iterator[None]:
    """Make the learner a mutant without range, without clipping of targets and gradient."""

    def norm_only(grad: NDArray[np.float32], max_norm: float) -> float:
        return float(np.linalg.norm(grad))

    def in_range(spec: ModelSpec, values: NDArray[np.float32]) -> NDArray[np.bool_]:
        return np.zeros(values.shape[:-1], np.bool_)

    with (
        mock.patch.object(contexts, "out_of_range", in_range),
        mock.patch.object(contexts, "TARGET_CLIP", 1e30),
        mock.patch.object(gradients, "clip_by_global_norm", norm_only),
    ):
        yield


def series(seed: int, ticks: int) -> NDArray[np.float32]:
    """Return [ticks, streams]: noisy sines, with absurd values in stream 0."""
    rng = np.random.default_rng(seed)
    phase, period = rng.uniform(0, 2 * np.pi, STREAMS), rng.uniform(4, 7, STREAMS)
    time = np.arange(ticks)[:, None]
    x = np.sin(2 * np.pi * time / period + phase) + 0.1 * rng.normal(0, 1, (ticks, STREAMS))
    absurd = (rng.random(ticks) < ABSURD_SHARE) & (np.arange(ticks) >= HONEST)
    x[absurd, 0] = ABSURD * rng.choice([-1, 1], int(absurd.sum()))
    return x.astype(np.float32)


def others_errors(x: NDArray[np.float32], poisoner: bool, spec: ModelSpec = SPEC) -> NDArray[np.float64]:
    """Return the mean squared error of all streams but the first after each tick, learned with or without the first."""
    learning = Learner(spec)
    ids = np.arange(0 if poisoner else 1, STREAMS, dtype=np.uint32)
    state = np.zeros((len(ids), learning.network.state_size), np.float32)
    no_calendar = np.zeros((len(ids), learning.network.ahead.size), np.float32)
    others = slice(1 if poisoner else 0, None)
    errors, forecast = [], None
    for seq, row in enumerate(x[:, ids], 1):
        if forecast is not None:
            errors.append(np.square(forecast[others, 0] - row[others]).mean(dtype=np.float64))
        forecast, state = learning.network.step(learning.weights, row[:, None], no_calendar, state)
        learning.ticks(ids, np.full(len(ids), seq, np.uint64), np.full(len(ids), np.nan), row[:, None])
    return np.array(errors)


def run(quick: bool, without_range: bool = False) -> dict[str, Any]:
    """Return the error of the others over that without the poisoner, worst seed: guarded, unguarded, and, if asked,
    without range, on which nothing is promised."""
    seeds, ticks = (1, BRIEF) if quick else (3, 1000)
    ratios: dict[str, list[float]] = {"guarded": [], "without_range": [], "unguarded": []}
    unlimited = ModelSpec.from_mapping(SPEC.to_mapping() | {"label_range": []})
    for seed in range(seeds):
        x = series(seed, ticks)
        alone = others_errors(x, poisoner=False)
        ratios["guarded"].append(others_errors(x, poisoner=True).mean() / alone.mean())
        if without_range:
            ratios["without_range"].append(others_errors(x, poisoner=True, spec=unlimited).mean() / alone.mean())
        with unguarded():
            ratios["unguarded"].append(others_errors(x[:BRIEF], poisoner=True).mean() / alone[: BRIEF - 1].mean())
    found: dict[str, Any] = {name: float(max(values)) for name, values in ratios.items() if values}
    return found | {"unguarded": float(min(ratios["unguarded"])), "seeds": seeds, "ticks": ticks}


def part(folder: Path, quick: bool) -> Part:
    """Run as a part of the report."""
    numbers = run(quick, without_range=not quick)
    contained, harmful = numbers["guarded"] <= CONTAINED, numbers["unguarded"] >= HARMFUL
    caught = {True: ["no guards against poison"], False: []}
    summary = f"others' error {numbers['guarded']:.3f}× with the guards, {numbers['unguarded']:.1f}× without"
    return Part(
        rounds=numbers["seeds"],
        hits=numbers["seeds"],
        mutants_caught=caught[harmful],
        mutants_survived=caught[not harmful],
        wrong=[] if contained else [f"more than {CONTAINED}×: {summary}"],
        numbers=numbers,
        summary=summary,
    )
