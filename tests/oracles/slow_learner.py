"""The learner as simply as possible: float64, one row at a time, the whole past kept.

It shares only the calendar with `model`: scaler, cells, backpropagation, clipping and optimizers are written a second
time.
Rules (DESIGN R4, R7, R8): the n-th tick of every stream in a chunk forms round n. At most 32 rows of a round make one
update. The loss is summed over the due outputs of a row and averaged over the rows that have any. Each row runs the T
inputs before the tick from the state kept before them. That state advances one step with the weights before the update.
With rule rtrl its derivatives by all parameters of the cell advance with it, as a full matrix (Williams & Zipser 1989).
"""

from typing import Any

import numpy as np

from model.calendar import inputs as calendar_inputs
from tests.oracles.plain_optimizers import OPTIMIZERS, SCHEDULES
from tests.oracles.slow_cells import layers
from tests.oracles.slow_scaler import SlowScaler


class Stream:
    """The whole past of one stream: nothing is dropped, so nothing can be dropped too early."""

    def __init__(self, spec, state_size):
        self.scaler = SlowScaler(spec.scaler, len(spec.channels), spec.horizon)
        self.values, self.features, self.scales = (
            [],
            [],
            [],
        )  # per tick: x, NaN where missing; φ (the scaler's, mask, calendar); s [H, C]
        self.held = []  # per tick: x, or the value that replaces a missing x
        self.starts = [np.zeros(state_size)]  # starts[n]: the state before tick n, computed after tick n + T − 1
        self.traces = [None]  # with rule rtrl, of each start state: {parameter: [state_size, …]}
        self.served = np.zeros(state_size)  # the state that serving carries
        self.since, self.time = 0, np.nan  # labels do not reach origins before tick `since`


class SlowLearner:
    """Learns as `model.learner.Learner` does. params: {"cell0.W": …, "head.W": …}, copied to float64."""

    def __init__(self, spec, params):
        self.spec, self.params = spec, {k: np.array(v, np.float64) for k, v in params.items()}
        self.layers = layers(spec)
        self.state_size = sum(layer.size for layer in self.layers)
        self.unseen = Stream(spec, 0).scaler.unseen
        self.channels = [spec.channels.index(name) for name in spec.targets if spec.task == "forecast"]
        learned = [k for k in self.params if k.split(".")[0] not in (*spec.freeze, "target")]
        self.optimizers = {k: OPTIMIZERS[spec.optimizer](spec, self.params[k].shape) for k in learned}
        self.streams, self.losses, self.voided = {}, [], 0
        self.learned, self.thinned = 0, 0  # ticks whose values a head learned from, or would have, unthinned

    def ticks(self, streams, seq, time, x, learn_every=1):
        """Learn one chunk. Returns each tick's forecast after the update of its group: [n, H, targets], raw units."""
        seen: dict[int, int] = {}
        rounds: dict[int, list[int]] = {}
        forecasts: dict[int, np.ndarray] = {}
        for i, s in enumerate(streams):
            seen[s] = seen.get(s, 0) + 1
            rounds.setdefault(seen[s], []).append(i)
        for r in sorted(rounds):
            for group in [rounds[r][k : k + 32] for k in range(0, len(rounds[r]), 32)]:
                rows = [self.streams.setdefault(streams[i], Stream(self.spec, self.state_size)) for i in group]
                due = [
                    self.due(row, int(seq[i]), time[i], x[i], learn_every) for row, i in zip(rows, group, strict=True)
                ]
                self.update(rows, due)
                forecasts |= {i: self.take_in(row, time[i], x[i]) for row, i in zip(rows, group, strict=True)}
        return np.array([forecasts[i] for i in range(len(streams))])

    def due(self, stream, seq, time, x, learn_every):
        """Return {origin tick: [(head, y, usable)]}: the labels that tick n and the k1 − 1 ticks before it carry.

        A block of k1 ticks is learned as a whole, or skipped if learn_every does not divide its number.
        """
        spec, n, known = self.spec, len(stream.values), [*stream.values, x]
        labels: dict[int, list[Any]] = {}
        if spec.max_gap and time - stream.time > spec.max_gap:
            self.voided += min(n - stream.since, spec.horizon + spec.learn_every - 1)
            stream.since = n
        if not spec.learn or seq % spec.learn_every:
            return {}
        carriers = set()
        for t in range(n, n - spec.learn_every, -1):
            for origin in range(t - 1, max(t - spec.horizon, stream.since) - 1, -1):
                s = stream.scales[origin][t - origin - 1][self.channels]
                y = (known[t] - stream.held[origin])[self.channels] / np.where(s > 0, s, 1)
                usable = (s > 0) & ~np.isnan(y)  # a missing value is no label
                if usable.any():
                    carriers.add(t)
                    labels.setdefault(origin, []).append((t - origin - 1, np.clip(y, -8, 8), usable))
        if seq // spec.learn_every % learn_every:
            self.thinned += len(carriers)
            return {}
        self.learned += len(carriers)
        return labels

    def update(self, rows, due):
        """Learn one group: run the window of each row forward and backward; `grad` sums over the rows."""
        grad, labelled, loss = {k: np.zeros_like(v) for k, v in self.params.items()}, sum(map(bool, due)), 0.0
        for stream, labels in zip(rows, due, strict=True):
            first = max(0, len(stream.values) - self.spec.window)
            states, tapes = [stream.starts[first]], []
            for feature in stream.features[first:]:
                state, *tape = self.network_step(states[-1], feature)
                states.append(state)
                tapes.append(tape)
            dstate = np.zeros(self.state_size)
            for t in range(len(stream.values) - 1, first - 1, -1):
                cells, z, p = tapes[t - first]
                dp, delta = np.zeros_like(p), self.spec.huber_delta if self.spec.loss == "huber" else np.inf
                for h, y, usable in labels.get(t, []):
                    error = np.where(usable, p[h] - y, 0)
                    dp[h] = np.clip(error, -delta, delta)
                    loss += np.sum(dp[h] * (error - dp[h] / 2))
                dstate = self.network_back(cells, z, dp.ravel(), dstate, grad)
            if self.spec.rule == "rtrl" and stream.traces[first] is not None:
                for name, trace in stream.traces[first].items():
                    grad[f"cell0.{name}"] += np.tensordot(dstate, trace, 1)
            if len(stream.values) >= self.spec.window:
                stream.starts.append(states[1])
                stream.traces.append(self.advanced(stream.traces[first], tapes[0][0][0]))
        self.descend(grad, loss, labelled)

    def advanced(self, trace, tape):
        """Return the derivatives of the state after a step of the only layer; trace: before it, None: zeros."""
        if self.spec.rule != "rtrl":
            return None
        (layer,), params = self.layers, self.layer(0, self.params)
        rows, after = [], {k: np.zeros((layer.size, *v.shape)) for k, v in params.items()}
        for i, unit in enumerate(np.eye(layer.size)):  # row by row, going back from each number of the state
            before, _ = layer.back(params, tape, np.zeros(self.spec.hidden), unit, {k: v[i] for k, v in after.items()})
            rows.append(before)
        for k in after:
            after[k] += np.tensordot(np.array(rows), trace[k], 1) if trace else 0
        return after

    def descend(self, grad, loss, labelled):
        """Clip the gradient and update. grad and loss are sums over rows, `labelled` of which have labels."""
        if labelled:
            grad = {k: grad[k] / labelled for k in self.optimizers}
            norm = np.sqrt(sum(np.sum(g**2) for g in grad.values()))
            self.losses.append(loss / labelled)
            rate = SCHEDULES[self.spec.schedule](self.spec, len(self.losses))
            for k, g in grad.items():
                self.optimizers[k].update(self.params[k], g * min(1, self.spec.clip / max(norm, 1e-300)), rate)

    def layer(self, k, of):
        return {name.split(".")[1]: v for name, v in of.items() if name.startswith(f"cell{k}.")}

    def parts(self, state):
        return np.split(state, np.cumsum([layer.size for layer in self.layers])[:-1])

    def network_step(self, state, feature):
        """Run one tick. Returns next state, tapes of the cells, input of the readout, forecasts p [H, targets]."""
        x, parts, tapes = feature[self.unseen :], self.parts(state), []
        for k, layer in enumerate(self.layers):
            x, parts[k], tape = layer.step(self.layer(k, self.params), parts[k], x)
            tapes.append(tape)
        z = np.concatenate([x, feature, [1]])
        return np.concatenate(parts), tapes, z, (self.params["head.W"] @ z).reshape(self.spec.horizon, -1)

    def network_back(self, tapes, z, dp, dstate, grad):
        """The reverse of `network_step`: adds to grad and returns the gradient by the previous state."""
        grad["head.W"] += np.outer(dp, z)
        dh, parts = (self.params["head.W"].T @ dp)[: self.spec.hidden], self.parts(dstate)
        for k, layer in reversed(list(enumerate(self.layers))):
            parts[k], dh = layer.back(self.layer(k, self.params), tapes[k], dh, parts[k], self.layer(k, grad))
        return np.concatenate(parts)

    def take_in(self, stream, time, x):
        """Store the tick as input and origin, and forecast from the state that serving carries."""
        feature, scale = stream.scaler.update(x)
        ahead = calendar_inputs(np.array([time]), self.spec.interval, self.spec.zone, self.spec.holidays)[0]
        mask = 1.0 - np.isnan(x) if self.spec.missing == "hold" else []
        stream.features.append(np.concatenate([feature, mask, ahead]))
        stream.values.append(x)
        stream.held.append(stream.scaler.held)
        stream.scales.append(scale)
        stream.time = stream.time if np.isnan(time) else time
        stream.served, _, _, p = self.network_step(stream.served, stream.features[-1])
        return self.answer(p, stream.held[-1], scale)

    def answer(self, p, x, scale):
        return x[self.channels] + scale[:, self.channels] * p
