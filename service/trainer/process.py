"""The trainer process: reads durable chunks from standard input, learns, and proposes versions on standard output.

Run as `python -m service.trainer.process` by serving alone; it ends when its input does. Everything it
decides from a clock (when to give a verdict, when to checkpoint) leaves the weights as they are.
"""

from __future__ import annotations

import json
import math
import os
import select
import sqlite3
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.gradients import relative_change
from model.learner import Update
from service.engine import PARITY, BadVersion, StepSession, parity
from service.export import Canary, export, read_weights
from service.gate import COOLING_DOWN, GateSettings
from service.records import Chunk, Label, ModelCreate, ModelDelete, Ticks, Window, decode_chunk
from service.skips import Skips
from service.storage.database import DatabaseBusy
from service.storage.space import NoSpace
from service.trainer.checkpoint import Opened, machine_kind, open_or_set_aside
from service.trainer.hosting import HostedModel, WeightsGone
from service.trainer.messages import NOT_THE_RECORDS, WEIGHTS_GONE, Decoder, Message

READ_BYTES = 1 << 20
SHOWN_LAGS = 512  # a whole window may have thousands, and each is a series of its own
UNSAVED_ITEMS = 256  # of a quarantine, in memory only


class ModelGone(WeightsGone):
    """The model was deleted, and its versions with it."""


class Channel:
    """The two pipes to serving."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._decoder = Decoder()
        self._waiting: deque[Message] = deque()
        self.ended = False

    def receive(self, timeout_s: float | None) -> Message | None:
        """The next message; None if none came in time, or the other side is gone (then `ended`)."""
        while not self._waiting and not self.ended:
            if not select.select([self._source], [], [], timeout_s)[0]:
                return None
            data = os.read(self._source, READ_BYTES)
            self.ended = not data
            self._waiting.extend(self._decoder.feed(data))
        return self._waiting.popleft() if self._waiting else None

    def put_back(self, messages: list[Message]) -> None:
        """Messages to receive before all others."""
        self._waiting.extendleft(reversed(messages))

    def send(self, kind: str, head: dict[str, Any], *blobs: bytes) -> None:
        """Write a message; waits while the pipe is full."""
        data = memoryview(Message(kind, head, blobs).encode())
        try:
            while data:
                data = data[os.write(self._sink, data) :]
        except BrokenPipeError:  # serving was killed: what is not saved is learned again from the journal
            raise SystemExit(0) from None


@dataclass(slots=True)
class Due:
    """What of a model is not judged yet."""

    entries: int = 0
    fresh: int = 0  # of them, what may carry labels: ticks where they are read off the stream; labels, windows
    labels: int = 0
    since: float = 0.0  # monotonic seconds at the first of them
    learned: int = 0  # `labels` of which the loss is known
    loss: float = 0.0  # sum of the candidate's clipped scaled losses, 0..1, over them
    scored: int = 0  # of them, labels that the anchor was scored on too
    score: float = 0.0  # the candidate's sum over those
    anchor_score: float = 0.0  # the anchor's

    def add(self, update: Update) -> None:
        """Count an update in. A loss of the candidate that is not finite counts as 1, as it does for the gate."""
        n, score = update.labels, update.score if math.isfinite(update.score) else 1.0
        self.labels += n
        self.learned += n
        self.loss += n * score
        if math.isfinite(update.anchor_score):
            self.scored += n
            self.score += n * score
            self.anchor_score += n * update.anchor_score

    def numbers(self) -> dict[str, float]:
        """What a verdict says of it: labels, and means per label where there are any."""
        numbers = {"labels": float(self.labels)}
        if self.learned:
            numbers["loss"] = self.loss / self.learned
        if self.scored:
            numbers |= {"score": self.score / self.scored, "anchor_score": self.anchor_score / self.scored}
        return numbers


class Trainer:
    """Models, checkpoint and channel. `run` is the process's life."""

    def __init__(self, channel: Channel, opened: Opened, settings: dict[str, Any]) -> None:
        self.channel, self.checkpoints, self.settings = channel, opened.checkpoints, settings
        self.gate_settings = GateSettings(**settings["gate"])
        self.position = opened.position
        self.skips = {int(number): Skips(ranges) for number, ranges in settings["skips"].items()}
        self._deleted: set[int] = set()  # models, since the start
        self.models = {number: hosted for number, hosted in opened.models.items() if not self._is_gone(number)}
        for hosted in self.models.values():
            hosted.skips = self._skips_of(hosted.number)
        now = time.monotonic()
        # Whatever the checkpoint holds, nobody knows what of it was judged or published: it is judged again.
        self.due = {n: Due(1, labels=min(1, m.learner.counts.learned), since=now) for n, m in self.models.items()}
        # Weights last published, by model; where another process published them, serving is asked.
        self.published: dict[int, NDArray[np.float32]] = {}
        self._unsaved = 0

    def run(self) -> None:
        """Learn until the input ends, or until `stop` comes, which leaves a checkpoint."""
        elsewhere = self.checkpoints.made_elsewhere()
        if elsewhere:
            why = f"trainer.db was written by [{elsewhere}], this is [{machine_kind()}]: what is learned from here on "
            self.channel.send("problem", {"why": why + "need not be bit for bit what it would have been there"})
        self.channel.send("ready", self._checkpointed())
        for hosted in self.models.values():  # where nothing comes any more, serving must know it all the same
            self.channel.send("progress", progress(hosted, self.position, []))
        while not self.channel.ended:
            message = self.channel.receive(self._patience())
            while message is not None:
                if message.kind == "stop":
                    self._save()
                    return
                self._take(message)
                self._give_verdicts(end_reached=False)
                message = self.channel.receive(0)
            self._give_verdicts(end_reached=True)

    def _patience(self) -> float | None:
        """Seconds until the next verdict is due by time."""
        waits = [d.since + self.settings["publish_s"] - time.monotonic() for d in self.due.values() if d.entries]
        return max(0.0, min(waits)) if waits else None

    def _take(self, message: Message) -> None:
        if message.kind == "list_quarantine":
            self._list_quarantine(**message.head)
        if message.kind == "list_quarantined":
            self._list_quarantined(**message.head)
        if message.kind == "erase":
            self._erase(**message.head)
        if message.kind == "begin":
            self._begin(**message.head)
        if message.kind != "chunk":
            return
        chunk, position = decode_chunk(message.blobs[0]), message.head["position"]
        if isinstance(chunk.records[-1], ModelDelete):
            self._deleted.add(chunk.model)
        try:
            self._learn(chunk, position)
        except ModelGone:
            self._deleted.add(chunk.model)
            for known in (self.models, self.due, self.published):
                known.pop(chunk.model, None)
            self.position = position
            self.channel.send("passed", {"position": position})
        self._unsaved += 1
        hosted = self.models.get(chunk.model)
        full = hosted is not None and hosted.quarantine.unsaved >= UNSAVED_ITEMS
        if full or self._unsaved >= self.settings["checkpoint_chunks"]:
            self._save()

    def _begin(self, position: int, models: list[dict[str, Any]]) -> None:
        """Nothing can be learned from the checkpoint on: go on at `position`, from the weights that serve.

        What the quarantine holds, and which windows have come, stays known.
        """
        self.position = position
        former, self.models, self.due, self.published = self.models, {}, {}, {}
        for facts in models:
            number = facts["model"]
            hosted = HostedModel.create(number, ModelCreate("", "", json.dumps(facts["spec"])), self.gate_settings)
            hosted.skips = self._skips_of(number)
            if number in former:
                hosted.quarantine, hosted.sources = former[number].quarantine, former[number].sources
            self.models[number], self.due[number] = hosted, Due(1, since=time.monotonic())
            hosted.begin(facts["version"], facts["offset"], facts["paused"], self._weights_of)
        self._save()
        self.channel.send("ready", self._checkpointed())

    def _is_gone(self, model: int) -> bool:
        """Whether the model was deleted: before this process began, which the settings say, or since."""
        listed, last = self.settings["models"], self.settings["last_model"]
        return model in self._deleted or (model <= last and model not in listed)

    def _skips_of(self, model: int) -> Skips:
        return self.skips.setdefault(model, Skips())

    def _learn(self, chunk: Chunk, position: int) -> None:
        """Take one chunk in. Raises ModelGone: nothing of that model is to be learned any more."""
        if self._is_gone(chunk.model):
            raise ModelGone(f"model {chunk.model} was deleted")
        hosted = self.models.get(chunk.model)
        if hosted is None and isinstance(chunk.records[0], ModelCreate):
            hosted = HostedModel.create(chunk.model, chunk.records[0], self.gate_settings)
            hosted.skips = self._skips_of(chunk.model)
            self.models[chunk.model], self.due[chunk.model] = hosted, Due()
            self.published[chunk.model] = hosted.learner.weights.flat.copy()
        if hosted is None:
            raise RuntimeError(f"chunk of model {chunk.model}, which no record created")
        updates = hosted.apply(chunk, self._weights_of)
        self.position = position
        self._note(hosted, chunk, updates)

    def _note(self, hosted: HostedModel, chunk: Chunk, updates: list[Update]) -> None:
        """Count what is due, and tell serving what was learned."""
        due = self.due[hosted.number]
        entries, fresh = countable(hosted.learner.spec.task, chunk)
        if entries and not due.entries:
            due.since = time.monotonic()
        due.entries += entries
        due.fresh += fresh
        if hosted.thrown_away is not None:  # what was learned before is in no weights any more
            due = self.due[hosted.number] = Due(entries=due.entries, fresh=due.fresh, since=due.since)
            self.published.pop(hosted.number, None)
        for update in updates[hosted.thrown_away or 0 :]:
            due.add(update)
        self.channel.send("progress", progress(hosted, self.position, updates))
        for version in hosted.anchored:
            self.channel.send("anchored", {"model": hosted.number, "version": version, "offset": hosted.offset})
        hosted.anchored.clear()
        for numbers in (update.drift for update in updates if update.drift):
            head = {"offset": hosted.offset, "reaction": hosted.learner.spec.drift_reaction, "numbers": numbers}
            self.channel.send("drifted", {"model": hosted.number, **head})

    def _give_verdicts(self, end_reached: bool) -> None:
        now = time.monotonic()
        for number, due in self.due.items():
            enough = end_reached and due.fresh >= self.settings["publish_labels"]
            late = due.entries > 0 and now - due.since >= self.settings["publish_s"]
            if enough or late:
                self._judge(self.models[number], due)

    def _judge(self, hosted: HostedModel, due: Due) -> None:
        """Publish, unless something speaks against it (DESIGN R11)."""
        gate = hosted.gate
        numbers = {"evidence": gate.evidence} | due.numbers()
        if gate.worse:
            self._verdict(hosted, due, "veto", "worse than the anchor", numbers, rollback=gate.anchor)
        elif hosted.learner.drift.returning:
            self._verdict(hosted, due, "veto", "drift", numbers, rollback=gate.anchor)
        elif not due.labels:
            self._verdict(hosted, due, "unchanged", "nothing learned", numbers)
        elif gate.cooling:
            self._verdict(hosted, due, "veto", COOLING_DOWN, numbers)
        elif not np.isfinite(hosted.learner.weights.flat).all():
            self._verdict(hosted, due, "veto", "non-finite weights", numbers, rollback=gate.anchor)
        else:
            numbers["movement"] = self._movement(hosted)
            if numbers["movement"] > gate.settings.max_movement:
                self._verdict(hosted, due, "veto", "moved too far", numbers, rollback=gate.anchor)
            else:
                self._propose(hosted, due, numbers)

    def _movement(self, hosted: HostedModel) -> float:
        """How far the weights are from those published last, relative to these; 0 where nobody has them any more."""
        try:
            before = self.published.get(hosted.number)
            if before is None:
                before = self.published[hosted.number] = self._weights_of(hosted.number, hosted.version)
        except WeightsGone:
            return 0.0
        return relative_change(hosted.learner.weights.flat, before)

    def _propose(self, hosted: HostedModel, due: Due, numbers: dict[str, float]) -> None:
        started = time.perf_counter()
        made = export(hosted.learner.network, hosted.learner.weights)
        try:
            error = parity(StepSession(made.onnx), Canary.unpack(made.canary))
        except BadVersion as bad:
            self._verdict(hosted, due, "veto", str(bad), numbers)
            return
        numbers |= {"parity_error": error, "export_s": time.perf_counter() - started}
        if not error <= PARITY:
            self._verdict(hosted, due, "veto", f"parity {error:.1e} > {PARITY:.0e}", numbers)
            return
        blobs = (made.onnx, made.weights, made.canary)
        self._verdict(hosted, due, "publish", "due", numbers, blobs=blobs, digest=made.digest.hex())
        self.published[hosted.number] = hosted.learner.weights.flat.copy()

    def _verdict(
        self,
        hosted: HostedModel,
        due: Due,
        verdict: str,
        reason: str,
        numbers: dict[str, float],
        *,
        rollback: int = 0,
        blobs: tuple[bytes, ...] = (),
        digest: str = "",
    ) -> None:
        """Tell serving; what was due is judged with it. rollback: the version to return to, 0 for none. It is asked for
        with every verdict until its record comes by: serving passes over a wish that it made true already."""
        head = {
            "model": hosted.number,
            "offset": hosted.offset,
            "verdict": verdict,
            "reason": reason,
            "numbers": {k: float(v) if np.isfinite(v) else 1e300 for k, v in numbers.items()},
            "rollback": rollback,
            "digest": digest,
        }
        self.channel.send("verdict", head, *blobs)
        self.due[hosted.number] = Due()

    def _weights_of(self, model: int, version: int) -> NDArray[np.float32]:
        """The weights of a published version, asked of serving; other messages wait meanwhile. Raises WeightsGone."""
        self.channel.send("need_weights", {"model": model, "version": version})
        aside: list[Message] = []
        while True:
            message = self.channel.receive(None)
            if message is None or message.kind == "stop":  # half of a chunk is in: the last checkpoint stands
                raise SystemExit(0)
            if message.kind == "no_weights":
                self.channel.put_back(aside)
                raise (ModelGone if message.head["deleted"] else WeightsGone)(message.head["why"])
            if message.kind == "weights" and (message.head["model"], message.head["version"]) == (model, version):
                self.channel.put_back(aside)
                return read_weights(self.models[model].learner.network, message.blobs[0])
            aside.append(message)

    def _list_quarantine(self, ask: int, model: int, after: int, limit: int, ids: list[int]) -> None:
        """Answer serving's question; what is told is on disk."""
        self._save()
        items = self.checkpoints.quarantined(model, after, limit, ids)
        heads = [{**item._asdict(), "y": None} for item in items]
        self.channel.send("quarantine", {"ask": ask, "items": heads}, *(item.y for item in items))

    def _list_quarantined(self, ask: int) -> None:
        """Answer which streams have labels in a quarantine."""
        self._save()
        streams = {number: self.checkpoints.quarantined_streams(number) for number in self.models}
        self.channel.send("quarantined", {"ask": ask, "streams": streams})

    def _erase(self, ask: int, gone: dict[str, list[int]]) -> None:
        """Forget what was quarantined of streams that are gone, save, and leave nothing in the file of the deleted."""
        for number, streams in gone.items():
            if hosted := self.models.get(int(number)):
                for id in self.checkpoints.quarantined_ids(hosted.number, streams):
                    hosted.quarantine.release(id)
        position = self.position if self._save() else 0
        try:
            self.checkpoints.compact()
        except (NoSpace, DatabaseBusy) as error:
            self.channel.send("problem", {"why": f"not erased: {error}", "full": isinstance(error, NoSpace)})
            position = 0
        self.channel.send("erased", {"ask": ask, "position": position})

    def _save(self) -> bool:
        """Save what was learned; whether it is on disk."""
        self._unsaved = 0
        try:
            self.checkpoints.save(self.position, self.models.values())
        except NoSpace as error:  # the next one takes it along; until then the journal has it
            self.channel.send("problem", {"why": f"no checkpoint: the disk is full: {error}", "full": True})
            return False
        self.channel.send("saved", self._checkpointed())
        return True

    def _checkpointed(self) -> dict[str, Any]:
        """What serving must know of the checkpoint: its position, and the versions needed to go on from it."""
        models = [
            {"model": n, "version": m.version, "anchor": m.gate.anchor, "contender": m.gate.contender}
            for n, m in self.models.items()
        ]
        return {"position": self.position, "models": models}


def countable(task: str, chunk: Chunk) -> tuple[int, int]:
    """Ticks, labels and windows of a chunk; and those of them that may carry labels of such a task."""
    ticks = sum(len(r.seq) for r in chunk.records if isinstance(r, Ticks))
    outside = sum(isinstance(r, Label | Window) for r in chunk.records)
    return ticks + outside, outside + (ticks if task == "forecast" else 0)


def progress(hosted: HostedModel, position: int, updates: list[Update]) -> dict[str, Any]:
    """What the metrics need of one chunk's learning, as a JSON-able head."""
    counts = hosted.learner.counts
    reports = [u.report for u in updates if u.report]
    return {
        "position": position,
        "model": hosted.number,
        "offset": hosted.offset,
        "updates": counts.updates,
        "learned": counts.learned,
        "thinned": counts.thinned,
        "voided": counts.voided,
        "clipped": counts.clipped,
        "drifts": counts.drifts,
        "evicted": hosted.learner.contexts.evicted,
        "windows": counts.windows,
        "unlearned": counts.unlearned,
        "duplicates": counts.duplicates,
        "quarantined": hosted.quarantine.totals,
        "in_quarantine": len(hosted.quarantine),
        "quarantine_dropped": hosted.quarantine.dropped,
        "losses": [u.loss for u in updates if math.isfinite(u.loss)],
        "persistence": [u.persistence for u in updates if math.isfinite(u.loss)],
        "scores": [(u.score, u.anchor_score) for u in updates if math.isfinite(u.anchor_score)],
        "norms": [u.norm for u in updates if math.isfinite(u.norm)],
        "refused": [u.refused for u in updates if u.refused],
        "by_layer": [r.by_layer for r in reports],
        "ratios": [r.update_ratio for r in reports],
        "lags": list(reports[-1].lag_norms[:SHOWN_LAGS]) if reports else [],
        "saturated": reports[-1].saturated if reports else None,
    }


def main() -> None:
    """Entry of the process; the first message on its input is the settings."""
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # a stray print must not end up between two messages
    channel = Channel(source, sink)
    first = channel.receive(None)
    if first is None or first.kind != "settings":
        raise SystemExit("the trainer is started by the server, which sends it its settings")
    settings = dict(first.head)
    os.nice(settings["nice"])
    opened = open_or_set_aside(Path(settings["data"]) / "trainer.db", GateSettings(**settings["gate"]))
    if opened.problem:
        channel.send("problem", {"why": opened.problem, "corrupt": True})
    try:
        Trainer(channel, opened, settings).run()
    except WeightsGone as error:
        print(f"cannot learn on: {error}", file=sys.stderr)
        raise SystemExit(WEIGHTS_GONE) from error
    except sqlite3.Error as error:
        print(f"cannot keep what is learned: {error}", file=sys.stderr)
        raise SystemExit(NOT_THE_RECORDS) from error
    finally:
        opened.checkpoints.close()


if __name__ == "__main__":
    main()
