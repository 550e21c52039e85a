"""Errors of what served, of a ghost, and of two baselines on the last labels of one stream, all prequential."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.offline.least_squares import RecursiveLeastSquares
from service.viewing.ghost import Ghost
from service.viewing.ticks import KEPT_TICKS, Track

Floats = NDArray[np.float64]

LABELS = 256  # the last ones, over which errors are means
MAX_LEAST_SQUARES_STEP = 64  # ahead: its work grows with the step
UNLEARNED = 32  # first forecasts of least squares that are not scored


class LeastSquares:
    """Recursive least squares on the lags of a track's target: what a forecast without a network is worth.

    Learns a bounded number of ticks at a time, so that its scores begin a few looks after a view has opened.
    """

    def __init__(self, step: int) -> None:
        self._step = step
        self._clear(0)

    def _clear(self, seq: int) -> None:
        self._seq, self._begun, self._last = seq, seq + 1, np.nan
        self._made: Floats = np.zeros(0)  # forecasts made at the last ticks up to _seq
        self._model = RecursiveLeastSquares(1, self._step)

    def is_behind(self, track: Track) -> bool:
        """Whether it has ticks of the track still to learn."""
        return self._step <= MAX_LEAST_SQUARES_STEP and self._seq != track.last_seq

    def follow(self, track: Track, most: int, between: Callable[[], None] = lambda: None) -> None:
        """Learn the next ticks of the track, at most `most`. Begins again where they do not follow.

        between: called after each tick.
        """
        if not len(track) or self._step > MAX_LEAST_SQUARES_STEP:
            return
        first = int(track.seq[0])
        if not first <= self._seq + 1 <= track.last_seq + 1:
            self._clear(first - 1)
        at = self._seq + 1 - first
        made = []
        for value in track.truth[at : at + most].tolist():
            self._last = self._last if np.isnan(value) else value
            known = not np.isnan(self._last)
            made.append(float(self._model.step(np.array([self._last]))[-1, 0]) if known else np.nan)
            between()
        self._seq += len(made)
        self._made = np.concatenate([self._made, made])[-KEPT_TICKS:]

    def forecasts(self, seqs: NDArray[np.int64]) -> Floats:
        """Return what it forecast at these ticks; NaN where it had learned too little, or nothing yet."""
        at = seqs - (self._seq - len(self._made) + 1)
        usable = (at >= 0) & (at < len(self._made)) & (seqs >= self._begun + UNLEARNED)
        out = np.full(len(seqs), np.nan)
        out[usable] = self._made[at[usable]]
        return out


def scores(track: Track, stream: str, baseline: LeastSquares, ghost: Ghost | None) -> dict[str, Any] | None:
    """Return the part of SCORES of one stream; None while it has no label.

    Mean squared errors over the last LABELS labels, in units of `scale`: the mean square of the one-step differences
    over as many ticks, so that streams compare. `ghost_served` is what served on the labels of `ghost`.
    """
    lens, truth = track.lens, track.truth
    if not lens.step or not len(track):
        return None
    held = _held(truth)
    scale = _mean(np.diff(held)[-LABELS:] ** 2)
    steps = {}
    for column, step in enumerate(lens.steps):
        errors = _last(track.answers(column, step) - truth)
        before = track.origins(step)
        still = np.where(before >= 0, held[np.maximum(before, 0)], np.nan) - truth
        steps[step] = errors, still
    errors, still = steps[lens.step]
    if not np.isfinite(errors).any():
        return None
    origins = track.seq.astype(np.int64) - lens.step
    least = baseline.forecasts(origins) - truth
    out = {
        "stream": stream, "labels": int(np.isfinite(errors).sum()), "scale": scale, "served": _scaled(errors, scale),
        "persistence": _scaled(_beside(still, errors), scale), "least_squares": _scaled(_beside(least, errors), scale),
        "ghost": None, "ghost_served": None, "ghost_labels": 0,
        "steps": {
            str(step): {"served": _scaled(served, scale), "persistence": _scaled(_beside(still, served), scale)}
            for step, (served, still) in steps.items()
        },
        "coverage": _coverage(track, errors),
    }  # fmt: skip
    if ghost is not None:
        its = ghost.forecasts(np.maximum(origins, 0).astype(np.uint64), lens.y[lens.shown]) - truth
        its[origins < ghost.scored_from] = np.nan
        its = _beside(its, errors)
        served = np.where(np.isfinite(its), errors, np.nan)
        out |= {"ghost": _scaled(its, scale), "ghost_served": _scaled(served, scale)}
        out["ghost_labels"] = int(np.isfinite(its).sum())
    return out


def _coverage(track: Track, errors: Floats) -> dict[str, float | None]:
    """Return by level the share of the scored labels that lie inside their interval."""
    lens, out = track.lens, {}
    for at, level in enumerate(lens.levels):
        low, high = (track.answers(lens.bound(at, upper), lens.step) for upper in (False, True))
        known = np.isfinite(errors) & np.isfinite(low) & np.isfinite(high)
        inside = (track.truth >= low) & (track.truth <= high)
        out[f"{level:g}"] = float(inside[known].mean()) if known.any() else None
    return out


def _held(values: Floats) -> Floats:
    """Return values with each missing one replaced by the last before it."""
    at = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
    return values[at]


def _last(errors: Floats) -> Floats:
    """Return errors with NaN before the last LABELS that are finite."""
    known = np.flatnonzero(np.isfinite(errors))
    if len(known) > LABELS:
        errors = errors.copy()
        errors[: known[-LABELS]] = np.nan
    return errors


def _beside(errors: Floats, others: Floats) -> Floats:
    """Return errors where the others are known too."""
    return np.where(np.isfinite(others), errors, np.nan)


def _mean(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _scaled(errors: Floats, scale: float) -> float | None:
    """Return the mean square in units of the scale; None where there is no error, or no scale."""
    mean = _mean(errors**2)
    return mean / scale if np.isfinite(mean) and scale > 0 else None
