"""Run of a training: progress, early ends, and baselines on the same rows."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from model.network import Network
from model.offline.recorded import Recorded, Span, prepare, side_by_side
from model.offline.references import references
from model.offline.training import Best, Diverged, Epoch, OfflineTraining, loss_of
from model.parameters import Array
from service.console.progress import Progress, progress
from service.engine.export import read_weights
from service.programs.backtest import core
from service.programs.offline import experts
from service.programs.offline.experts import Taught
from service.programs.offline.plan import OfflinePlan
from service.programs.offline.shown import shown_epochs

INTERRUPTED, PATIENCE_SPENT, ALL_EPOCHS = "interrupted", "patience", "epochs"


@dataclass(slots=True)
class Trained:
    """The result of a training."""

    plan: OfflinePlan
    baselines: dict[str, float]  # held-out loss by name; NaN without held-out rows
    voided: int  # labels after gaps longer than max_gap
    best: Best
    epochs: list[Epoch] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each epoch, epoch 0 included
    stopped: str = ALL_EPOCHS  # why it ended: one of the constants above, or an error
    taught: Taught | None = None  # the last pass; None if none is needed, or if it was interrupted

    @property
    def flat(self) -> Array:
        """[n] the weights to write."""
        return self.best.flat if self.taught is None else self.taught.flat

    @property
    def held_out(self) -> dict[str, float]:
        """Held-out losses by name, freshet's first; of a mixture also those of the network alone."""
        if self.taught is None or not self.taught.mixture:
            return {"freshet": self.best.loss, **self.baselines}
        return {"freshet": self.taught.loss, "network": self.best.loss, **self.baselines}

    @property
    def diverged(self) -> bool:
        """Whether it ended with a loss that is not finite."""
        return self.stopped not in (INTERRUPTED, PATIENCE_SPENT, ALL_EPOCHS)

    def to_mapping(self) -> dict[str, Any]:
        """Return settings and results of the run for JSON; null where there is no finite number."""
        plan, settings = self.plan, self.plan.settings
        epochs = [
            {"epoch": e.number, "train": e.train, "held_out": e.held_out, "best": e.best, "updates": e.updates,
             "clipped": e.clipped, "seconds": round(s, 3)}
            for e, s in zip(self.epochs, self.seconds, strict=True)
        ]  # fmt: skip
        run = {
            "file": plan.file.name, "sha256": plan.digest, "rows": plan.rows, "train_rows": plan.train_ticks,
            "held_out_rows": plan.held_out, "seed": plan.spec.seed, "mode": plan.mode,
            "learning_rate": plan.learning_rate, "segments": settings.segments, "side_by_side": settings.rows,
            "chunk": settings.chunk or None, "voided_labels": self.voided, "stopped": self.stopped,
            "best_epoch": self.best.epoch, "held_out": self.held_out, "epochs": epochs,
        }  # fmt: skip
        if self.taught is not None and self.taught.mixture:
            run["mixture"] = self.taught.mixture
        finite: dict[str, Any] = _finite(run)
        return finite


def train(plan: OfflinePlan) -> Trained:
    """Train and show each epoch. Ctrl-C or a loss that is not finite ends the training with the best weights so far.

    Then the experts and intervals learn (`experts.teach`); Ctrl-C there leaves them unlearned.
    Raises KeyboardInterrupt or Diverged before the first epoch is complete.
    """
    network = plan.network()
    recorded, spans = side_by_side(each_recorded(plan, network), plan.cuts)
    given = plan.plan.weights
    first = None if given is None else read_weights(network, given)
    training = OfflineTraining(network, recorded, plan.train_ticks, plan.settings, spans, first)
    baselines = baseline_losses(plan, network, training.recorded, spans)
    trained = Trained(plan, baselines, recorded.voided, training.best)
    started = time.perf_counter()
    # An overflow ends the training with its own message.
    with shown_epochs(plan.settings.epochs, baselines) as show, np.errstate(over="ignore", invalid="ignore"):
        try:
            for epoch in training.epochs():
                now = time.perf_counter()
                trained.epochs.append(epoch)
                trained.seconds.append(now - started)
                show(epoch, now - started)
                started = now
        except (KeyboardInterrupt, Diverged) as end:
            if len(trained.epochs) < 2:  # epoch 0 is the initial weights: nothing was learned
                raise
            trained.stopped = INTERRUPTED if isinstance(end, KeyboardInterrupt) else str(end)
        else:
            if trained.epochs[-1].number < plan.settings.epochs:
                trained.stopped = PATIENCE_SPENT
    trained.best = training.best
    if experts.is_needed(plan):
        try:
            trained.taught = experts.teach(plan, trained.best.flat, training.recorded, spans)
        except KeyboardInterrupt:  # the experts are as before the first label: the network answers alone
            trained.stopped = INTERRUPTED
    return trained


def each_recorded(plan: OfflinePlan, network: Network) -> list[Recorded]:
    """Return every series as the network reads it."""
    labels = plan.labels or [None] * len(plan.plan.entities)
    alone = (plan.plan.alone(series) for series in plan.plan.entities)
    return [prepare(network, p.series.rows, p.times, own) for p, own in zip(alone, labels, strict=True)]


def baseline_losses(plan: OfflinePlan, network: Network, recorded: Recorded, spans: Sequence[Span]) -> dict[str, float]:
    """Return the baselines' held-out losses by name, in the network's units. recorded: with scaled labels."""

    def loss(p: Array) -> float:
        return loss_of(network, recorded, p, plan.train_ticks, plan.rows)

    if plan.labels is not None:
        return {name: loss(p) for name, p in references(network, recorded, plan.train_ticks).items()}
    names = list(core.baselines(plan.plan))
    if not plan.held_out:
        return dict.fromkeys(names, math.nan)
    with progress("baselines", plan.rows * len(names)) as shown:
        return {name: loss(_replayed(plan, name, recorded, spans, shown)) for name in names}


def _replayed(plan: OfflinePlan, name: str, recorded: Recorded, spans: Sequence[Span], shown: Progress) -> Array:
    """Return scaled forecasts of the held-out rows by a baseline of the backtest, which learns from these rows too."""
    made = np.zeros((plan.held_out, plan.spec.outputs), np.float32)
    for series, span in zip(plan.plan.entities, spans, strict=True):
        alone, cut = plan.plan.alone(series), span.cut - span.begin
        for row, forecast in enumerate(core.baseline_forecasts(core.baselines(alone)[name], alone)):
            if row >= cut:
                place = span.held + row - cut
                made[place - plan.train_ticks] = experts.scaled(forecast, alone.added, recorded, place)
            shown.advance()
    return made


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
