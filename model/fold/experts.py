"""Learning of the mixture (`Mixture`) as part of the fold: least squares readouts, and the weights of the experts.

Only the newest label vector of a row teaches the mixture. The weights learn from forecasts as they were given at their
origin: recomputing them with the readouts of today would flatter experts that learn fast. For large horizons the
forecasts of some steps stand for all, so that a context stays small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.answers.columns import Regressors
from model.answers.mixture import FORGET_TRUST, LARGEST_FORECAST, Mixture, Rows, follow
from model.answers.own import Look
from model.answers.tasks import TARGET_CLIP
from model.bounds import clip
from model.fold.own import OwnReadouts
from model.network import Network, Tape
from model.parameters import Array, Weights
from model.update.squares import Covariance

if TYPE_CHECKING:
    from model.fold.contexts import Block, NewestLabels

GIVEN_NUMBERS = 4096  # most forecasts of one expert that a context keeps
# Forgetting factor and initial covariance of each readout.
SQUARES = {"squares_hidden": (0.9998, 0.02), "squares": (0.9995, 0.03), "squares_step": (0.9995, 0.1)}
LABEL_CLIP = 16.0  # of labels of least squares, scaled: as far as the level, or readouts bend where tails are heavy
ERROR_CLIP = 5.0  # of errors that least squares learns from, scaled: a label that nothing announced teaches little


def given_steps(mixture: Mixture) -> NDArray[np.intp]:
    """Return the steps, from 0, whose forecasts teach the weights: all, or as many as fit, evenly spaced."""
    H = mixture.horizon
    most = max(1, GIVEN_NUMBERS // (H * mixture.targets))
    if most >= H:
        return np.arange(H)
    return np.unique(np.linspace(0, H - 1, max(2, most)).round().astype(np.intp))


def context_shapes(mixture: Mixture | None, origins: int) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of a context's parts for the mixture, by origin, oldest first.

    Regressors of every step, season changes, places in the season; with a horizon above 1 also gains of each readout,
    and given forecasts.
    """
    if mixture is None:
        return ()
    K, columns = mixture.targets, mixture.columns
    shapes: list[tuple[int, ...]] = [(origins, K, columns.every), (origins, K, len(columns.periods)), (origins,)]
    if mixture.horizon > 1:
        shapes += [(origins, K, base.shape[1] + columns.every) for base in mixture.bases.values()]
        shapes.append((origins, len(given_steps(mixture)), K, len(mixture.learned) + 1))
    return tuple(shapes)


class Origins(NamedTuple):
    """The origin of each step's label, of B rows."""

    position: NDArray[np.intp]  # [B, H], in the window
    phi: Array  # [B, H, E]
    every: Array  # [B, H, K, q]
    step: Array  # [B, H, K, 2·seasons]
    y: Array  # [B, H, K] scaled labels
    known: NDArray[np.bool_]  # [B, H, K]
    sound: NDArray[np.bool_]  # [B, 1, 1], see `NewestLabels`: other rows teach no expert

    def hidden(self, tape: Tape) -> Array:
        """Return the hidden state at each origin, [B, H, hidden], from a window that was run."""
        return tape.H[self.position, np.arange(len(self.position))[:, None]]


def origins(network: Network, block: Block, labels: NewestLabels) -> Origins:
    """Return the origins of the labels that arrive now."""
    assert network.mixture is not None
    B, H, R = len(labels.y), network.spec.horizon, block.x.shape[1]
    at, steps = R - 1 - np.arange(H), np.arange(H)
    if H == 1:  # the profile of one step is that step's
        step = block.every[:, -1:, :, network.mixture.columns.before_seasons :]
    else:
        step = network.mixture.columns.steps(
            block.statistics[:, network.mixed], block.place[:, at], block.x[:, at], block.scale[:, at, steps],
            block.delta[:, at],
        )  # fmt: skip
    phi = block.ring[np.arange(B)[:, None], labels.position]
    return Origins(
        labels.position, phi, block.every[:, at], step, labels.y, labels.weight > 0, labels.sound[:, None, None]
    )


def label_forecasts(network: Network, weights: Weights, tape: Tape, of: Origins) -> tuple[Array, Rows]:
    """Return the scaled forecasts of all experts for the labels, [B, H, K, experts], from a window that was run, and
    the regressors of each readout."""
    assert network.mixture is not None
    B, H, _ = of.y.shape
    phi = network.covariates.expand(weights.embed, of.phi)
    rows = network.mixture.rows(of.hidden(tape), phi, of.every, of.step)
    W = weights.head["W"]
    p = rows.known @ W.T if H == 1 else np.einsum("bhj,hkj->bhk", rows.known, W.reshape(H, -1, W.shape[1]))
    return network.mixture.of_rows(weights.experts, p.reshape(B, H, -1), rows, of.step), rows


def at_origins(p: Array, first: int, of: Origins, forecasts: Array) -> Array:
    """Return p [t, B, O] of a window from position `first`, new, with `forecasts` [B, H, K] in the places of labels."""
    out, (_, H, K) = p.copy(), of.y.shape
    rows, steps = np.nonzero(of.known.any(axis=2))
    out.reshape(*p.shape[:2], H, K)[of.position[rows, steps] - first, rows, steps] = forecasts[rows, steps]
    return out


class Seen(NamedTuple):
    """What an update needs of the mixture, from before the weights change."""

    block: Block  # the contexts that the labels belong to
    origins: Origins
    rows: Rows  # of the labels
    forecasts: Array  # [B, H, K, experts], with the readouts of now
    answers: Array  # [B, H, K], the mixture's; with own readouts, the streams'
    given: Array  # [B, steps, K, learned experts + 1], of the newest origin; last the mixture's before its trust
    newest: Array  # [B, O] the mixture's forecast of the newest origin
    own: Look | None = None


class Experts:
    """Inverse covariances of the least squares readouts of one model. The readouts themselves are parameters."""

    def __init__(self, network: Network) -> None:
        assert network.mixture is not None
        self.network, self.mixture = network, network.mixture
        K, H, columns = self.mixture.targets, self.mixture.horizon, self.mixture.columns
        self.steps = given_steps(self.mixture)
        self.covariances = {
            name: Covariance(K, base.shape[1] + columns.every, *SQUARES[name])
            for name, base in self.mixture.bases.items()
        }
        if self.mixture.step_base is not None:
            n = columns.step + self.mixture.step_base.shape[1]
            self.covariances["squares_step"] = Covariance(H * K, n, *SQUARES["squares_step"])
        self.own = OwnReadouts(network.own) if network.own else None

    def reset(self, weights: Weights) -> None:
        """Return to the initial covariances, for the readouts of other weights."""
        for covariance in self.covariances.values():
            covariance.reset()
        if self.own is not None:
            self.own.reset(weights.experts)

    @property
    def nbytes(self) -> int:
        """Bytes of the covariances."""
        own = self.own.nbytes if self.own else 0
        return own + sum(covariance.nbytes for covariance in self.covariances.values())

    def look(self, weights: Weights, block: Block, tape: Tape, of: Origins) -> Seen:
        """Compute what an update needs, from the window that it has run and the weights before it."""
        forecasts, rows = label_forecasts(self.network, weights, tape, of)
        shares = self.mixture.shares(weights.experts)
        trusted = self.mixture.trusted(weights.experts, shares)
        newest, answer = forecasts, forecasts @ trusted
        answers = answer
        if self.mixture.horizon > 1:
            h, phi = of.hidden(tape)[:, 0], self.network.covariates.expand(weights.embed, of.phi[:, 0])
            p = self.network.head.forward(weights.head, h, phi)
            made = Regressors(of.every[:, 0], self._ahead(block), block.delta[:, -1])
            newest, _ = self.mixture.forecasts(weights.experts, p, h, phi, made)
            answer = newest @ trusted
        mixed = newest[:, self.steps] @ shares
        given = np.concatenate([newest[:, self.steps, :, : len(self.mixture.learned)], mixed[..., None]], axis=-1)
        seen = Seen(block, of, rows, forecasts, answers, given, answer.reshape(len(answer), -1))
        if self.own is None:
            return seen
        z = rows.every[self.own.own.source][:, 0]
        own = self.own.own.look(weights.experts, block.statistics[:, self.network.owned], z, answer[:, 0])
        return seen._replace(answers=own.answer[:, None], newest=own.answer, own=own)

    def answer(self, experts: dict[str, Array], forecasts: Array, seen: Seen) -> Array:
        """Return the answers [B, H, K] to forecasts of all experts [B, H, K, experts] by other parameters.

        The streams' own readouts are not theirs, so they count as they are.
        """
        model = self.mixture.mix(experts, forecasts)
        if self.own is None or seen.own is None:
            return model
        rows = seen.block.statistics[:, self.network.owned]
        return self.own.own.mix(rows, model[:, 0], seen.own.given[:, 1])[:, None]

    def _ahead(self, block: Block) -> Array:
        """Return the newest origin's regressors of each step, [B, H, K, 2·seasons], as they were at that tick."""
        rows = block.statistics[:, self.network.mixed]
        return self.mixture.columns.steps(
            rows, block.place[:, -1:], block.x[:, -1:], block.scale[:, -1], block.delta[:, -1:]
        )

    def learn(self, weights: Weights, seen: Seen) -> None:
        """Learn from the labels; readouts and weights in `weights`, gains and given forecasts in the block change."""
        block, of, params = seen.block, seen.origins, weights.experts
        B, H, R = len(of.y), self.mixture.horizon, block.x.shape[1]
        known = of.known & of.sound
        rows: NDArray[np.bool_] = np.asarray(known.reshape(B, -1).any(axis=1))
        errors = np.where(known[..., None], clip(of.y[..., None] - seen.forecasts, -ERROR_CLIP, ERROR_CLIP), 0)
        self._mix(params, seen, known)
        for number, name in enumerate(self.mixture.bases):
            z = seen.rows.every[number][:, 0]
            gains = self.covariances[name].gains(z if rows.all() else z * rows[:, None, None])[:, None]
            if H > 1:
                block.gains[number][:, -1] = gains[:, 0]
                gains = block.gains[number][:, R - 1 - np.arange(H)]
            error = errors[..., 1 + number]
            if B == H == 1:
                params[name][..., 0] += gains[0, 0] * error[0, 0, :, None]
            else:
                params[name] += np.einsum("bhkn,bhk->knh", gains, error)
        if self.mixture.step_base is not None:
            z = seen.rows.step * known[..., None]
            gains = self.covariances["squares_step"].gains(z.reshape(B, -1, z.shape[-1])).reshape(z.shape)
            params["squares_step"] += np.einsum("bhkn,bhk->hkn", gains, errors[..., len(self.mixture.learned) - 1])
        if self.own is not None and seen.own is not None:
            mine, z = block.statistics[:, self.network.owned], seen.rows.every[self.own.own.source][:, 0]
            y = clip(of.y[:, 0], -TARGET_CLIP, TARGET_CLIP)
            self.own.learn(params, mine, seen.own, block.scale[:, -1, 0], z, y, of.known[:, 0])

    def _mix(self, params: dict[str, Array], seen: Seen, known: NDArray[np.bool_]) -> None:
        """Update the weights of the experts with the labels of `steps`. known: [B, H, K], labels that teach."""
        block, of, given = seen.block, seen.origins, seen.given
        if self.mixture.horizon > 1:
            block.given[:, -1] = given
            at = block.x.shape[1] - 1 - self.steps
            given = block.given[:, at, np.arange(len(self.steps))]
        fixed = self.mixture.fixed(of.step[:, self.steps])
        forecasts = np.concatenate([given[..., :-1], fixed], axis=-1)
        known = known[:, self.steps] & ~np.isnan(given).any(axis=-1)
        experts = forecasts.shape[-1]
        limited = clip(forecasts, -LARGEST_FORECAST, LARGEST_FORECAST).reshape(-1, experts)
        mixed = clip(given[..., -1], -LARGEST_FORECAST, LARGEST_FORECAST).reshape(-1)
        y = clip(of.y[:, self.steps], -TARGET_CLIP, TARGET_CLIP).reshape(-1)
        forget = FORGET_TRUST[self.mixture.horizon == 1]
        follow(params["mixing"], params["trust"], forget, limited, mixed, y, known.reshape(-1))

    def pack(self) -> bytes:
        """Return the state as bytes."""
        own = b"" if self.own is None else self.own.pack()
        return b"".join(covariance.pack() for covariance in self.covariances.values()) + own

    def unpack(self, data: bytes) -> None:
        """The inverse of `pack`. Raises ValueError for another length."""
        start = 0
        for covariance in self.covariances.values():
            end = start + covariance.nbytes
            covariance.unpack(data[start:end])
            start = end
        if self.own is not None:
            self.own.unpack(data[start:])
        elif start != len(data):
            raise ValueError(f"covariances of {len(data)} bytes, expected {start}")
