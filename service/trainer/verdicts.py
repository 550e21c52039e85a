"""Verdicts on what models have learned: publish, veto or leave unchanged (DESIGN R11), and the weights they need."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from model.update.gradients import relative_change
from service.common.gate import COOLING_DOWN, LARGEST
from service.engine.export import Canary, export, read_weights
from service.engine.session import PARITY, BadVersion, StepSession, parity
from service.trainer.channel import Channel
from service.trainer.due import Due, Pending
from service.trainer.hosting import HostedModel, WeightsGone
from service.trainer.messages import Message, NoWeights, Stop, Weights
from service.trainer.models import Models
from service.trainer.reports import NeedWeights, Verdict


class ModelGone(WeightsGone):
    """The model is deleted, and its versions with it."""


class Published:
    """Weights of published versions: the last ones of models in memory are kept here, others are asked of serving."""

    def __init__(self, channel: Channel, models: Models) -> None:
        self._channel, self._models = channel, models
        self._last: dict[int, NDArray[np.float32]] = {}  # by model

    def __len__(self) -> int:
        return len(self._last)

    def of(self, model: int, version: int) -> NDArray[np.float32]:
        """The flat parameters of a version, asked of serving; other messages are kept for later meanwhile.

        Raises WeightsGone; SystemExit if serving stops: part of a chunk may be learned, so nothing is saved.
        """
        self._channel.send(NeedWeights(model, version))
        aside: list[Message] = []
        while True:
            message = self._channel.receive(None)
            if message is None or isinstance(message, Stop):
                raise SystemExit(0)
            if isinstance(message, NoWeights):
                self._channel.put_back(aside)
                raise (ModelGone if message.deleted else WeightsGone)(message.why)
            if isinstance(message, Weights) and (message.model, message.version) == (model, version):
                self._channel.put_back(aside)
                return read_weights(self._models[model].learner.network, message.weights)
            aside.append(message)

    def note(self, hosted: HostedModel) -> None:
        """Keep a copy of the model's weights: they are published."""
        self._last[hosted.number] = hosted.learner.weights.flat.copy()

    def forget(self, model: int) -> None:
        """Drop the kept weights of a model: it is not in memory, is deleted, or continues from another version."""
        self._last.pop(model, None)

    def clear(self) -> None:
        """Drop all kept weights."""
        self._last.clear()

    def movement(self, hosted: HostedModel) -> float:
        """‖Δw‖ / ‖w‖ between the weights and those published last; 0 if these are gone.

        Readouts by least squares and half-widths do not count: they move far with their first labels, and what they
        move is bounded by their rule, not by a rate.
        """
        try:
            before = self._last.get(hosted.number)
            if before is None:
                before = self._last[hosted.number] = self.of(hosted.number, hosted.version)
        except WeightsGone:
            return 0.0
        parts = list(hosted.learner.network.layers.values())
        now, then = (np.concatenate([flat[part] for part in parts]) for flat in (hosted.learner.weights.flat, before))
        return relative_change(now, then)


class Verdicts:
    """Gives a verdict on each model when it is due, and sends it."""

    def __init__(self, channel: Channel, models: Models, published: Published, pending: Pending) -> None:
        self._channel, self._models, self._published, self._pending = channel, models, published, pending
        self._began = 0.0  # perf_counter seconds: the verdict that is being made

    def give(self, end_reached: bool = True) -> None:
        """Give the verdicts that are due: on models that have learned enough, and all that is durable of them, and on
        models that have waited long enough."""
        while (number := self._pending.next(time.monotonic(), end_reached)) is not None:
            self._decide(self._models[number], self._pending[number])

    def _decide(self, hosted: HostedModel, due: Due) -> None:
        """Publish, unless one of the checks objects."""
        self._began = time.perf_counter()
        gate = hosted.gate
        numbers = {"evidence": gate.evidence} | due.numbers()
        if gate.worse:
            self._send(hosted, "veto", "worse than the anchor", numbers, rollback=gate.anchor)
        elif hosted.learner.drift.returning:
            self._send(hosted, "veto", "drift", numbers, rollback=gate.anchor)
        elif not due.labels:
            self._send(hosted, "unchanged", "nothing learned", numbers)
        elif gate.cooling:
            self._send(hosted, "veto", COOLING_DOWN, numbers)
        elif not np.isfinite(hosted.learner.weights.flat).all():
            self._send(hosted, "veto", "non-finite weights", numbers, rollback=gate.anchor)
        else:
            numbers["movement"] = self._published.movement(hosted)
            if numbers["movement"] > gate.settings.max_movement:
                self._send(hosted, "veto", "moved too far", numbers, rollback=gate.anchor)
            else:
                self._propose(hosted, numbers)

    def _propose(self, hosted: HostedModel, numbers: dict[str, float]) -> None:
        """Export the weights and send them, unless the ONNX step computes other answers than they do."""
        started = time.perf_counter()
        made = export(hosted.learner.network, hosted.learner.weights)
        try:
            error = parity(StepSession(made.onnx), Canary.unpack(made.canary))
        except BadVersion as bad:
            self._send(hosted, "veto", str(bad), numbers)
            return
        numbers |= {"parity_error": error, "export_s": time.perf_counter() - started}
        if not error <= PARITY:
            self._send(hosted, "veto", f"parity {error:.1e} > {PARITY:.0e}", numbers)
            return
        self._send(hosted, "publish", "due", numbers, files=(made.onnx, made.weights, made.canary))
        self._published.note(hosted)

    def _send(
        self,
        hosted: HostedModel,
        verdict: str,
        reason: str,
        numbers: Mapping[str, float],
        rollback: int = 0,
        files: tuple[bytes, bytes, bytes] = (b"", b"", b""),
    ) -> None:
        """Send a verdict on all entries that were due. rollback: the version to return to, 0 for none; each verdict
        repeats it until its record arrives, and serving ignores one that it has carried out."""
        finite = {name: float(value) if np.isfinite(value) else LARGEST for name, value in numbers.items()}
        seconds = time.perf_counter() - self._began
        self._channel.send(Verdict(hosted.number, hosted.offset, verdict, reason, finite, rollback, seconds, *files))
        self._pending.remove(hosted.number)
