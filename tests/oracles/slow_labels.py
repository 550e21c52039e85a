"""Learning from external labels, as simply as possible. The network is that of `slow_learner`.

Rules (DESIGN R7, R13): a label for tick s is learned over the ticks from the last but one multiple of T before or at s,
counted from the first tick of the history, starting from the state that serving carried there. 32 labels make one
update. The first label of a tick wins. Task regress: the statistics of the labels are weighted sums over all labels so
far. The readout is rescaled so that its answers stay, except for the mean during the first 500 labels.
"""

import numpy as np

from tests.oracles.slow_learner import SlowLearner, Stream
from tests.oracles.slow_scaler import running_weights


class SlowStatistics:
    """Label statistics of one output. From the 51st on, a label is clipped to 5 deviations of earlier groups."""

    def __init__(self):
        self.values, self.mean, self.scale = [], 0.0, 1.0

    def follow(self, labels):
        mean, scale = self.mean, self.scale
        for y in labels:
            if len(self.values) >= 50 and scale > 0:
                y = np.clip(y, mean - 5 * scale, mean + 5 * scale)
            self.values.append(y)
        weights = running_weights(len(self.values))
        self.mean = weights @ self.values
        self.scale = np.sqrt(weights @ (np.array(self.values) - self.mean) ** 2)


class SlowLabelLearner(SlowLearner):
    """A learner with `ticks`, `labels` and `windows` as in `model.fold.learner.Learner`, for every task."""

    def __init__(self, spec, params):
        super().__init__(spec, params)
        self.statistics = [SlowStatistics() for _ in range(spec.outputs)]
        self.duplicates = 0

    def due(self, stream, seq, time, x, learn_every):
        """Return no labels: ticks carry none. The history restarts at a missing tick and after a gap."""
        if not hasattr(stream, "seqs"):
            stream.seqs, stream.begin, stream.before, stream.labels = [], 0, [], {}
        gap = self.spec.max_gap and time - stream.time > self.spec.max_gap
        if stream.seqs and (gap or seq != stream.seqs[-1] + 1):
            stream.begin, stream.labels = len(stream.seqs), {}
        stream.seqs.append(seq)
        stream.before.append(stream.served)
        return {}

    def update(self, rows, due):
        """Learn nothing: ticks carry no labels."""

    def labels(self, streams, seq, y):
        """Learn labels. Returns {index: reason} of those that are rejected."""
        rejected, rows = {}, []
        for i, (s, number, label) in enumerate(zip(streams, map(int, seq), y, strict=True)):
            stream = self.streams.get(s, Stream(self.spec, self.state_size))
            history = stream.seqs[stream.begin :] if hasattr(stream, "seqs") else []
            if history and number > history[-1]:
                rejected[i] = "unknown"
            elif number not in history[-self.spec.label_horizon :]:
                rejected[i] = "late"
            elif number in stream.labels:
                if tuple(label) == stream.labels[number]:
                    self.duplicates += 1
                else:
                    rejected[i] = "conflict"
            else:
                stream.labels[number] = tuple(label)
                tick = history.index(number)
                first = self.first(tick)
                at = slice(stream.begin + first, stream.begin + tick + 1)
                targets = [None] * (tick - first) + [(label, np.ones_like(label), None, None)]
                rows.append((self.start(stream, at.start), stream.features[at], targets))
        for k in range(0, len(rows), 32):
            self.learn(rows[k : k + 32])
        return rejected

    def first(self, tick):
        """Return the first tick of the window over which the label of a tick is learned."""
        return max(0, tick // self.spec.window - 1) * self.spec.window

    def start(self, stream, tick):
        """Return the state before a tick, computed with the weights of that time."""
        return stream.before[tick]

    def windows(self, windows):
        """Learn at most 32 windows of one length in one update, each from an empty state."""
        rows = []
        for w in windows:
            stream = Stream(self.spec, self.state_size)
            for x in w.x.astype(np.float64):
                self.take_in(stream, np.nan, x)
            features = stream.features
            if self.spec.interval:
                for feature in features:
                    feature[-4:] = 0  # windows have no time
            count = (w.weight > 0).any(axis=1).sum()
            rows.append((np.zeros(self.state_size), features, [
                (y, weight / count, x[self.channels], scale[:, self.channels])
                for y, weight, x, scale in zip(w.y, w.weight, stream.values, stream.scales, strict=True)
            ]))  # fmt: skip
        self.learn(rows)

    def learn(self, rows):
        """Make one update. rows: (start state, features, per tick None or (y, weights, last values, scales)) each."""
        labels = [t for _, _, targets in rows for t in targets if t is not None]
        if self.spec.task == "regress":
            self.follow(labels)
        grad, loss, labelled = {k: np.zeros_like(v) for k, v in self.params.items()}, 0.0, 0
        for start, features, targets in rows:
            state, tapes = start, []
            for feature in features:
                state, *tape = self.network_step(state, feature)
                tapes.append(tape)
            dstate, any_label = np.zeros(self.state_size), False
            for (cells, z, p), target in reversed(list(zip(tapes, targets, strict=True))):
                cost, dp = (0.0, np.zeros(p.size)) if target is None else self.loss(p.ravel(), *target)
                loss, any_label = loss + cost, any_label or (target is not None and target[1].any())
                dstate = self.network_back(cells, z, dp, dstate, grad)
            labelled += any_label
        self.descend(grad, loss, labelled)

    def loss(self, p, y, weight, last, scale):
        """Return the loss of one position and its derivative by p. Targets are clipped to 8 units."""
        if self.spec.task == "classify":
            q = np.exp(p) / np.exp(p).sum()
            size = weight.max() * (y @ self.spec.class_weights)
            return -size * (y @ np.log(q)), size * (q - y)
        if self.spec.task == "regress":
            base, unit = np.array([(s.mean, s.scale) for s in self.statistics]).T
        else:
            base, unit = np.tile(last, self.spec.horizon), scale.ravel()
            weight = np.where(unit > 0, weight, 0)
        error = p - np.clip((y - base) / np.where(unit > 0, unit, 1), -8, 8)
        return 0.5 * weight @ error**2, weight * error

    def follow(self, labels):
        """Add the labels to the statistics and rescale the readout so that scale·W z + mean stays for every z."""
        W = self.params["head.W"]
        for k, s in enumerate(self.statistics):
            values = [y[k] for y, weight, *_ in labels if weight[k] > 0]
            n, mean, scale = len(s.values), s.mean, s.scale
            s.follow(values)
            if n and scale > 0 and s.scale > 0:
                W[k] *= scale / s.scale
                if n >= 500:
                    W[k, -1] += (mean - s.mean) / s.scale

    def answer(self, p, x, scale):
        if self.spec.task == "classify":
            return np.exp(p) / np.exp(p).sum()
        if self.spec.task == "regress":
            return np.array([s.mean + s.scale * v for s, v in zip(self.statistics, p[0], strict=True)])
        return super().answer(p, x, scale)
