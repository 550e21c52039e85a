"""The mixture of one stream as simply as possible: float64, one channel and step at a time, the whole past kept.

It gets the network's hidden states and forecasts from outside and recomputes everything else: recent changes, values of
seasons by event time, least squares by the textbook, and the weights of the experts from forecasts as they were given.
"""

from __future__ import annotations

import math

import numpy as np

LAGS, CLIP, LEVEL_CLIP, LABEL_CLIP, TARGET_CLIP, ERROR_CLIP, LARGEST = 23, 8.0, 16.0, 16.0, 8.0, 5.0, 16.0


def clip(value, limit=CLIP):
    return float(np.clip(value, -limit, limit))


class Squares:
    """Recursive least squares with forgetting; the trace of P never exceeds its start."""

    def __init__(self, n, forgetting, start):
        self.W, self.P, self.forgetting, self.limit = np.zeros(n), start * np.eye(n), forgetting, start * n

    def gain(self, z):
        Pz = self.P @ z
        gain = Pz / (self.forgetting + z @ Pz)
        self.P = (self.P - np.outer(gain, Pz)) / self.forgetting
        self.P *= min(1.0, self.limit / np.trace(self.P))
        return gain


class SlowMixture:
    """One stream. periods: of the seasons, seconds; own: for each target, its positions in φ."""

    def __init__(self, targets, horizon, interval, periods, own, every_phi):
        self.K, self.H, self.interval, self.periods = targets, horizon, interval, periods
        self.own, self.every_phi = own, every_phi
        self.x, self.times, self.scale, self.h, self.phi, self.levels = [], [], [], [], [], []
        self.given, self.gains = [], []  # per origin: {(h, k): forecasts, answer}; {(name, k): gain}
        self.squares = {}
        self.names = ["network", "squares_hidden", "squares"] + (["squares_step"] if horizon > 1 and periods else [])
        experts = len(self.names) + 1 + len(periods)
        self.regret, self.squared, self.largest = np.zeros(experts), np.zeros(experts), 0.0
        self.products, self.squares_of_mixed = 0.0, 0.0

    @property
    def weights(self):
        trust = min(max((self.products + self.H) / (self.squares_of_mixed + self.H), 0.0), 1.0)
        persistence = np.eye(len(self.regret))[len(self.names)]
        return trust * self.shares + (1 - trust) * persistence

    @property
    def shares(self):
        share = np.maximum(self.regret, 0) / (self.largest + self.squared + 1e-12)
        if share.sum() > 0:
            return share / share.sum()
        if self.largest:
            return np.full(len(share), 1 / len(share))
        return np.eye(1, len(share))[0]

    # ---- regressors

    def at(self, t, when, k):
        """The newest value of target k in the slot of time `when`, as known at tick t; None if there is none."""
        longest = max(self.periods)
        slots = round(longest / self.interval)

        def slot(time):
            return math.floor((time % longest) / longest * slots + 0.5) % slots

        for i in range(t, -1, -1):
            if slot(self.times[i]) == slot(when):
                return self.x[i][k]
        return None

    def season(self, t, step, k, period, known=None):
        """(value a season before the step − present)/s, and (present − value a season ago)/s. known: the slots are as
        after that tick, t by default; where two ticks share a slot, it matters."""
        ahead, s = step * self.interval, max(self.scale[t][step - 1][k], 1e-20)
        back = math.ceil(ahead / period - 1e-9) * period
        known = t if known is None else known
        value, past = self.at(known, self.times[t] + ahead - back, k), self.at(t - 1, self.times[t] - period, k)
        off = 0.0 if value is None else value - self.x[t][k]
        return clip(off / s), clip((0.0 if past is None else self.x[t][k] - past) / s)

    def every(self, t, k):
        s = max(self.scale[t][0][k], 1e-20)
        changes = [self.x[t - i][k] - self.x[t - i - 1][k] if t - i >= 1 else 0.0 for i in range(LAGS)]
        out = [*(clip(d / s) for d in changes), clip(self.levels[t][k], LEVEL_CLIP)]
        steps = sorted({max(0, self.H * i // 4 - 1) for i in range(5)}) if self.H > 1 else [0]
        for period in self.periods:
            out += [self.season(t, step + 1, k, period)[0] for step in steps]
            out.append(self.season(t, self.H, k, period)[1])
        return np.array(out)

    def regressor(self, name, t, k, step, known=None):
        phi, one = self.phi[t], [1.0]
        mine = phi[self.own[k]]
        if name == "squares_hidden":
            return np.concatenate([self.h[t], phi if self.every_phi else mine, one, self.every(t, k)])
        if name == "squares":
            return np.concatenate([mine, one, self.every(t, k)])
        of_step = [v for period in self.periods for v in self.season(t, step, k, period, known)]
        return np.concatenate([of_step, mine[1:], one])

    def readout(self, name, k, step, n):
        """(P by target or output, W by output)"""
        settings = {"squares_hidden": (0.9998, 0.02), "squares": (0.9995, 0.03), "squares_step": (0.9995, 0.1)}[name]
        shared = (name, k) if name != "squares_step" else (name, k, step)
        if shared not in self.squares:
            self.squares[shared] = Squares(n, *settings)
        if ("W", name, k, step) not in self.squares:
            self.squares["W", name, k, step] = np.zeros(n)
        return self.squares[shared]

    def experts(self, t, k, step, network, known=None):
        out = [network]
        for name in self.names[1:]:
            z = self.regressor(name, t, k, step, known)
            self.readout(name, k, step, len(z))
            out.append(float(self.squares["W", name, k, step] @ z))
        return np.array(out + [0.0] + [self.season(t, step, k, period, known)[0] for period in self.periods])

    # ---- one tick

    def label(self, x, h, phi, network):
        """Learn from the tick that arrives. h, phi: by origin of each step, newest first, as the learner's window has
        them now; network: p of its readout at those origins, [H][H][K]."""
        t = len(self.x) - 1
        for back in range(min(self.H, t + 1)):
            self.h[t - back], self.phi[t - back] = h[back], phi[back]
        labels = {
            (step, k): clip((x[k] - self.x[t + 1 - step][k]) / self.scale[t + 1 - step][step - 1][k], LABEL_CLIP)
            for step in range(1, min(self.H, t + 1) + 1)
            for k in range(self.K)
            if self.scale[t + 1 - step][step - 1][k] > 0
        }
        if not labels:
            return
        now = {(step, k): self.experts(t + 1 - step, k, step, network[step - 1][step - 1][k], t) for step, k in labels}
        w = self.shares
        self.given[t] = {}
        for step in range(1, self.H + 1):
            for k in range(self.K):
                each = self.experts(t, k, step, network[0][step - 1][k])
                self.given[t][step, k] = each, float(w @ each)
        self._mix(t, labels, now)
        for k in range(self.K):
            for name in ("squares_hidden", "squares"):
                z = self.regressor(name, t, k, 1)
                self.gains[t][name, k] = self.readout(name, k, 1, len(z)).gain(z)
        for (step, k), y in labels.items():
            for number, name in enumerate(self.names[1:], 1):
                origin = t + 1 - step
                if name == "squares_step":
                    gain = self.readout(name, k, step, 0).gain(self.regressor(name, origin, k, step, t))
                else:
                    gain = self.gains[origin].get((name, k), 0.0)
                self.squares["W", name, k, step] = self.squares["W", name, k, step] + gain * clip(
                    y - now[step, k][number], ERROR_CLIP
                )

    def _mix(self, t, labels, now):
        gained, products, squares = [], [], []
        for (step, k), y in labels.items():
            if (step, k) not in self.given[t + 1 - step]:
                continue
            each, answer = self.given[t + 1 - step][step, k]
            y = clip(y, TARGET_CLIP)
            each = np.concatenate([each[: len(self.names)], now[step, k][len(self.names) :]])
            answer, each = clip(answer, LARGEST), np.clip(each, -LARGEST, LARGEST)
            gained.append(2 * (answer - y) * (answer - each))
            products.append(answer * y)
            squares.append(answer**2)
        if gained:
            r = np.mean(gained, axis=0)
            self.regret, self.squared = 0.9995 * self.regret + r, 0.9995 * self.squared + r * r
            self.largest = max(0.9995 * self.largest, float((r * r).max()))
            forget = 0.999 if self.H == 1 else 0.9998
            self.products = forget * self.products + float(np.mean(products))
            self.squares_of_mixed = forget * self.squares_of_mixed + float(np.mean(squares))

    def tick(self, x, time, scale, h, phi, network, levels):
        """Add a tick and return its forecast in scales, [H][K]. h, phi, network: as served; levels: distances of the
        targets from their running means, in running deviations, not limited."""
        for kept, value in zip(
            (self.x, self.times, self.scale, self.h, self.phi, self.given, self.gains, self.levels),
            (x, time, scale, h, phi, {}, {}, levels),
            strict=True,
        ):
            kept.append(value)
        t = len(self.x) - 1
        return [
            [float(self.weights @ self.experts(t, k, step, network[step - 1][k])) for k in range(self.K)]
            for step in range(1, self.H + 1)
        ]
