"""Covariates: inputs that are not channels. Known ones are sent for the steps being forecast, static ones once.

The network gets exactly what was sent with a tick, in serving and in learning. A tick's row is its channels, then
`sent` columns: the known inputs of step 1, of step 2 … H, then the stream's static inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from model.bounds import MAX_SQUARE, MAX_VALUE, Bound, clip
from model.scalers.contract import MAX_COUNT, TINY, count, rate
from model.spec import ModelSpec

Array = NDArray[np.float32]

CLIP = 8.0  # standard deviations of a known input; of a static input, its own units
WIDEST = 8  # columns of a table; with up to as many categories, each can have a level of its own in a linear readout


class Covariates:
    """Layout and arithmetic. Holds no values: statistics and tables are arguments of every method.

    Known real inputs become running z-scores of their step-1 values, clipped to ±8, so that one absurd value has a
    bounded influence. Static real inputs are taken as they are, clipped to ±8. Categories become rows of a table.

    Statistics [B, size]: count of ticks [1, or K with missing = hold], with hold the last step-1 values [K], mean and
    variance [reals each], the static values [S].
    Raw features [..., raw] are real inputs and category ids; `expand` turns ids into columns. Cells read the `seen`
    leading columns of the result: step 1 and the static inputs. The head reads all.
    """

    def __init__(self, spec: ModelSpec) -> None:
        counts = spec.category_counts
        self.horizon, self.hold = spec.horizon, spec.missing == "hold"
        self.known, self.static, self.sent = len(spec.known), len(spec.static), spec.sent
        self.ahead = self.horizon * self.known  # leading columns of `sent`
        self.names = (*spec.known, *spec.static)
        self.reals = _positions(spec.known, lambda name: name not in counts)
        self.ids = _positions(spec.known, lambda name: name in counts)
        self.static_reals = _positions(spec.static, lambda name: name not in counts)
        self.static_ids = _positions(spec.static, lambda name: name in counts)
        self.shapes = {name: (count, min(WIDEST, count)) for name, count in counts.items()}
        # Names of the tables of the id columns: of step 1 and static, then of the steps after it.
        self.tables = [spec.known[i] for i in self.ids] + [spec.static[i] for i in self.static_ids]
        self.later_tables = [spec.known[i] for i in self.ids] if self.horizon > 1 else []
        self.real_seen = len(self.reals) + len(self.static_reals)
        self.real_later = (self.horizon - 1) * len(self.reals)
        self.raw = self.real_seen + len(self.tables) + self.real_later + (self.horizon - 1) * len(self.later_tables)
        self.seen = self.real_seen + sum(self.shapes[name][1] for name in self.tables)
        later = sum(self.shapes[name][1] for name in self.later_tables)
        self.features = self.seen + self.real_later + (self.horizon - 1) * later
        self.count_of = np.array([counts.get(name, 0) for name in self.names], np.float32)  # 0: real
        # Number of categories of each column of what is sent; 0 for a real one.
        self.columns = np.concatenate([np.tile(self.count_of[: self.known], self.horizon), self.count_of[self.known :]])

    @property
    def parts(self) -> tuple[int, ...]:
        """Sizes of the statistics' parts: count, last, mean, variance, static."""
        counters = (self.known if self.hold else 1) if self.known else 0
        return counters, self.known if self.hold else 0, len(self.reals), len(self.reals), self.static

    @property
    def size(self) -> int:
        """Length of the statistics."""
        return sum(self.parts)

    @property
    def bounds(self) -> tuple[Bound, ...]:
        """Range of the statistics after any ticks."""
        counters, last, mean, variance, _ = self.parts
        limits = [(0.0, float(n) - 1) if n else (-MAX_VALUE, MAX_VALUE) for n in self.count_of]
        held, static = limits[: self.known], limits[self.known :]
        return (
            Bound("the count of known inputs", counters, 0, MAX_COUNT),
            *(Bound("a last known input", 1, *limit) for limit in held[:last]),
            Bound("the mean of a known input", mean, -MAX_VALUE, MAX_VALUE),
            Bound("the variance of a known input", variance, 0, MAX_SQUARE),
            *(Bound("a static input", 1, *limit) for limit in static),
        )

    def update(self, row: Array, sent: Array) -> Array:
        """Update the statistics with one tick and return raw features [B, raw], new.

        row: (B, size), modified in place; sent: (B, sent), only read; NaN is a missing known value, with hold: the
        last step-1 value replaces it.
        """
        B, H = len(sent), self.horizon
        seen, last, mean, variance, static = np.split(row, np.cumsum(self.parts)[:-1], axis=1)
        v = sent[:, : self.ahead].reshape(B, H, self.known)
        observed: Array | None = None
        if self.hold and self.known:
            missing = np.isnan(v)
            v = np.where(missing, last[:, None], v)
            observed = (~missing[:, 0]).astype(np.float32)
            last[...] = v[:, 0]
        reals = v[:, :, self.reals]
        if self.known:
            seen[...] = count(seen, observed)
        if len(self.reals):
            reals = self._standardized(seen, mean, variance, reals, observed)
        static[...] = sent[:, self.ahead :]
        own = clip(static[:, self.static_reals], -np.float32(CLIP), np.float32(CLIP))
        ids = v[:, :, self.ids].transpose(0, 2, 1)  # [B, ids, H]
        parts = [reals[:, 0], own, ids[:, :, 0], static[:, self.static_ids]]
        if H > 1:
            parts += [reals[:, 1:].reshape(B, -1), ids[:, :, 1:].reshape(B, -1)]
        return np.concatenate(parts, axis=1, dtype=np.float32)

    def _standardized(self, seen: Array, mean: Array, variance: Array, v: Array, observed: Array | None) -> Array:
        """Follow step 1 of v [B, H, reals]; return its z-scores [B, H, reals].

        A deviation counts with at most CLIP standard deviations, except the first one.
        """
        t = seen
        if observed is not None:
            t, observed = seen[:, self.reals], observed[:, self.reals]
        a = rate(t, observed)
        begun = clip(t - 1, 0, 1)
        off = v[:, 0] - mean
        bound = np.float32(CLIP) * np.sqrt(variance)
        off = np.where(variance > 0, clip(off, -bound, bound), off)
        moved = a * off
        variance[...] = begun * ((1 - a) * (variance + moved * off))
        mean += moved
        z: Array = (v - mean[:, None]) / (np.sqrt(variance) + np.float32(TINY))[:, None]
        return clip(z, -np.float32(CLIP), np.float32(CLIP))

    def _segments(self, start: int) -> list[tuple[str, int, int]]:
        """Return name ("" real), first column and width of the raw columns from `start` on, in order."""
        later = [(name, self.horizon - 1) for name in self.later_tables]
        found, at = [], start
        for name, width in [("", self.real_seen), *((n, 1) for n in self.tables), ("", self.real_later), *later]:
            found.append((name, at, width))
            at += width
        return found

    def expand(self, tables: dict[str, Array], X: Array) -> Array:
        """Return feature rows X [..., E] with each id at the end replaced by its row of a table; X itself without ids.

        The last `raw` columns of X are raw features.
        """
        if not tables:
            return X
        start = X.shape[-1] - self.raw
        parts = [X[..., :start]]
        for name, at, width in self._segments(start):
            columns = X[..., at : at + width]
            if name:
                columns = tables[name][_rows(columns, len(tables[name]))].reshape(*X.shape[:-1], -1)
            parts.append(columns)
        return np.concatenate(parts, axis=-1)

    def backward(self, X: Array, dF: Array, grad: dict[str, Array]) -> None:
        """Add the gradient of the tables to `grad`. X: [N, E] raw rows; dF: [N, E'], gradient by the expanded ones."""
        start = X.shape[-1] - self.raw
        out = start
        for name, at, width in self._segments(start):
            if not name:
                out += width
                continue
            count, d = grad[name].shape
            ids = _rows(X[:, at : at + width], count)
            np.add.at(grad[name], ids.reshape(-1), dF[:, out : out + width * d].reshape(-1, d))
            out += width * d

    def sample(self, rows: int, tick: int) -> Array:
        """Return some values [rows, sent] as a client may send with a tick, the static ones the same for all ticks."""
        columns = np.arange(self.sent)
        at = np.arange(rows)[:, None] + np.where(columns < self.ahead, tick, 0)
        counts = self.columns
        wave = np.sin(at * (1 + 0.1 * columns))
        values: Array = np.where(counts > 0, at % np.maximum(counts, 1), wave).astype(np.float32)
        return values

    def outside(self, sent: Array) -> tuple[int, str] | None:
        """Return column and remedy of the first id of a row `sent` [sent] that is no category; None if all are.

        NaN, a missing value, is not outside.
        """
        bad = ~self._allowed(sent)
        if not bad.any():
            return None
        at = int(bad.argmax())
        name = self.names[at % self.known if at < self.ahead else self.known + at - self.ahead]
        return at, f"{name} is a category: send a whole number from 0 to {int(self.columns[at]) - 1}"

    def sound(self, sent: Array) -> NDArray[np.bool_]:
        """Return which rows of sent [n, sent] hold only ids of categories where ids are due, (n,)."""
        sound: NDArray[np.bool_] = np.asarray(self._allowed(sent).all(axis=1))
        return sound

    def _allowed(self, sent: Array) -> NDArray[np.bool_]:
        """Return which values of sent [.., sent] are real inputs, missing, or ids of categories."""
        counts = self.columns
        allowed: NDArray[np.bool_] = (
            (counts == 0) | np.isnan(sent) | ((sent == np.floor(sent)) & (sent >= 0) & (sent < counts))
        )
        return allowed


def _positions(names: tuple[str, ...], is_one: Callable[[str], bool]) -> NDArray[np.intp]:
    return np.array([i for i, name in enumerate(names) if is_one(name)], np.intp)


def _rows(ids: Array, count: int) -> NDArray[np.intp]:
    return clip(ids, 0, count - 1).astype(np.intp)
