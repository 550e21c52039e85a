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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.fold.learner import Update
from model.update.gradients import relative_change
from service.common.gate import COOLING_DOWN, GateSettings
from service.engine.export import Canary, export, read_weights
from service.engine.session import PARITY, BadVersion, StepSession, parity
from service.journal.records import Chunk, Label, ModelCreate, ModelDelete, Ticks, Window, decode_chunk
from service.journal.skips import Skips
from service.storage.database import DatabaseBusy, DatabaseCorrupt, DatabaseRefused
from service.storage.disk import NoSpace
from service.trainer.checkpoint import (
    CheckpointCorrupt,
    CheckpointInUse,
    Opened,
    Stored,
    machine_kind,
    open_or_set_aside,
)
from service.trainer.due import Due, Pending
from service.trainer.hosting import HostedModel, Standing, WeightsGone
from service.trainer.messages import NOT_THE_RECORDS, WEIGHTS_GONE, Decoder, Message
from service.trainer.models import Models

READ_BYTES = 1 << 20
MEMORY_BYTES = 1 << 28  # of models, where serving says nothing
LONG_SAVE_S = 0.25
RESTING = 9  # a tenth of the time for saves that take long
MOST_INTERVALS = 64  # what a crash makes it learn again must stay little
BEGINNING = 0  # position of a checkpoint that is not whole yet: whoever finds it begins again
OBSERVED = ("losses", "persistence", "scores", "norms", "refused", "by_layer", "ratios", "lags")  # of a progress report
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


class Trainer:
    """Models, checkpoint and channel. `run` is the process's life."""

    def __init__(self, channel: Channel, opened: Opened, settings: dict[str, Any]) -> None:
        self.channel, self.checkpoints, self.settings = channel, opened.checkpoints, settings
        self.gate_settings = GateSettings(**settings["gate"])
        self.position = opened.position
        self.skips = {int(number): Skips(ranges) for number, ranges in settings["skips"].items()}
        self._deleted: set[int] = set()  # models, since the start
        # Weights last published, by model; where another process published them, serving is asked.
        self.published: dict[int, NDArray[np.float32]] = {}
        standing = {number: stored.standing for number, stored in opened.models.items()}
        memory = settings.get("trainer_memory_bytes", MEMORY_BYTES)
        self.models = Models(opened.checkpoints, self.gate_settings, standing, memory, self._left_memory)
        for number in [number for number in standing if self._is_gone(number)]:
            del self.models[number]
        self._resumed = {number: opened.models[number] for number in self.models}
        self.due = Pending(settings["publish_labels"], settings["publish_s"])
        self._judge_again(settings.get("judged", {}))
        self._unsaved = 0  # chunks
        self._judging = 0.0  # perf_counter seconds when the verdict under way began
        self._saved_at, self._save_s = time.monotonic(), 0.0  # when the last save ended, and how long it took

    def run(self) -> None:
        """Learn until the input ends, or until `stop` comes, which leaves a checkpoint."""
        elsewhere = self.checkpoints.made_elsewhere()
        if elsewhere:
            why = f"trainer.db was written by [{elsewhere}], this is [{machine_kind()}]: what is learned from here on "
            self.channel.send("problem", {"why": why + "need not be bit for bit what it would have been there"})
        self.channel.send("ready", self._checkpointed(self.models.standing))
        for number, stored in self._resumed.items():  # where nothing comes any more, serving must know it all the same
            self.channel.send("progress", resumed(number, stored, self.position))
        self._resumed = {}
        while not self.channel.ended:
            message = self.channel.receive(self._patience())
            while message is not None:
                if message.kind == "stop":
                    self._save()
                    return
                self._take(message)
                self._give_verdicts()
                message = self.channel.receive(0)
            self._give_verdicts()

    def _patience(self) -> float | None:
        """Seconds until the next verdict is due by time."""
        return self.due.wait(time.monotonic())

    def _judge_again(self, judged: Mapping[Any, int]) -> None:
        """Whatever the checkpoint holds beyond what serving knows as judged is judged again, and so is a model that
        has asked for a rollback. judged: by model, entries; a model that is not named is judged again."""
        known, now = {int(number): offset for number, offset in judged.items()}, time.monotonic()
        for number, stored in self._resumed.items():
            if stored.returning or stored.heard > known.get(number, -1):
                self.due.note(number, now, 1, 0, labels=min(1, stored.totals["learned"]))

    def _left_memory(self, number: int) -> None:
        self.published.pop(number, None)

    def _take(self, message: Message) -> None:
        if message.kind == "list_quarantine":
            self._list_quarantine(**message.head)
        if message.kind == "list_quarantined":
            self._list_quarantined(**message.head)
        if message.kind == "erase":
            self._erase(**message.head)
        if message.kind == "begin":
            self._begin(**message.head)
        if message.kind == "reached":  # nothing of it was for this process
            self.position = message.head["position"]
            self._save()
        if message.kind != "chunk":
            return
        chunk, position = decode_chunk(message.blobs[0]), message.head["position"]
        if isinstance(chunk.records[-1], ModelDelete):
            self._deleted.add(chunk.model)
        try:
            self._learn(chunk, position, more=message.head.get("more", False))
        except ModelGone:
            self._deleted.add(chunk.model)
            if chunk.model in self.models:
                del self.models[chunk.model]
            self.published.pop(chunk.model, None)
            self.due.end(chunk.model, reached=True)
            self.due.settle(chunk.model)
            self.channel.send("passed", {"position": position})
        # Chunks of another model that lie before this one may be to come: learning goes on from the first of them.
        self.position = message.head.get("resume", position)
        self._unsaved += 1
        full = chunk.model in self.models and self.models[chunk.model].quarantine.unsaved >= UNSAVED_ITEMS
        if full or not self.models.make_room() or self._is_save_due():
            self._save()

    def _is_save_due(self) -> bool:
        """Whether to save now: every `checkpoint_chunks`, but where many or large models have changed, and a save takes
        long, only once learning has had RESTING times as long, at the latest after MOST_INTERVALS times as many chunks.
        """
        chunks = self.settings["checkpoint_chunks"]
        if self._unsaved < chunks:
            return False
        took = self._save_s if self._save_s > LONG_SAVE_S else 0.0
        return time.monotonic() - self._saved_at >= RESTING * took or self._unsaved >= MOST_INTERVALS * chunks

    def _begin(self, position: int, models: list[dict[str, Any]]) -> None:
        """Nothing can be learned from the checkpoint on: go on at `position`, from the weights that serve.

        What the quarantine holds, and which windows have come, stays known.
        """
        self.due.clear()
        self.published.clear()
        for number in set(self.models) - {facts["model"] for facts in models}:
            del self.models[number]
        for facts in models:
            number, former = facts["model"], self.models.get(facts["model"])
            hosted = HostedModel.create(number, ModelCreate("", "", json.dumps(facts["spec"])), self.gate_settings)
            hosted.skips = self._skips_of(number)
            if former is not None:
                hosted.quarantine, hosted.sources = former.quarantine, former.sources
            self.models[number] = hosted
            hosted.begin(facts["version"], facts["offset"], facts["paused"], self._weights_of)
            self.due.note(number, time.monotonic(), 1, 0)
            if not self.models.make_room():
                self._store(BEGINNING)
        self.position = position
        self._save()
        self.channel.send("ready", self._checkpointed(self.models.standing))

    def _is_gone(self, model: int) -> bool:
        """Whether the model was deleted: before this process began, which the settings say, or since."""
        listed, last = self.settings["models"], self.settings["last_model"]
        return model in self._deleted or (model <= last and model not in listed)

    def _skips_of(self, model: int) -> Skips:
        return self.skips.setdefault(model, Skips())

    def _learn(self, chunk: Chunk, position: int, more: bool) -> None:
        """Take one chunk in, which ends at `position`. more: later ones of the model are durable already.

        Raises ModelGone: nothing of that model is to be learned any more.
        """
        started = time.perf_counter()
        if self._is_gone(chunk.model):
            raise ModelGone(f"model {chunk.model} was deleted")
        hosted = self.models.get(chunk.model)
        if hosted is None and isinstance(chunk.records[0], ModelCreate):
            hosted = self.models[chunk.model] = HostedModel.create(chunk.model, chunk.records[0], self.gate_settings)
            self.published[chunk.model] = hosted.learner.weights.flat.copy()
        if hosted is None:
            raise RuntimeError(f"chunk of model {chunk.model}, which no record created")
        if chunk.end <= hosted.offset:
            self.channel.send("passed", {"position": position})
            return
        hosted.skips = self._skips_of(chunk.model)
        self.models.changed(chunk.model)
        updates = hosted.apply(chunk, self._weights_of)
        seconds = time.perf_counter() - started
        self._note(hosted, chunk, updates, progress(hosted, position, updates, seconds))
        self.due.end(hosted.number, reached=not more)

    def _note(self, hosted: HostedModel, chunk: Chunk, updates: list[Update], told: dict[str, Any]) -> None:
        """Count what is due, and tell serving what was learned."""
        entries, fresh = countable(hosted.learner.spec.task, chunk)
        self.due.note(hosted.number, time.monotonic(), entries, fresh)
        if hosted.thrown_away is not None:  # what was learned before is in no weights any more
            self.due.thrown_away(hosted.number)
            self.published.pop(hosted.number, None)
        for update in updates[hosted.thrown_away or 0 :]:
            self.due.learned(hosted.number, update)
        self.channel.send("progress", told)
        for version in hosted.anchored:
            self.channel.send("anchored", {"model": hosted.number, "version": version, "offset": hosted.offset})
        hosted.anchored.clear()
        for numbers in (update.drift for update in updates if update.drift):
            head = {"offset": hosted.offset, "reaction": hosted.learner.spec.drift_reaction, "numbers": numbers}
            self.channel.send("drifted", {"model": hosted.number, **head})

    def _give_verdicts(self, end_reached: bool = True) -> None:
        """On each model that has learned enough and all that was durable of it, or that has waited long enough."""
        while (number := self.due.next(time.monotonic(), end_reached)) is not None:
            self._judge(self.models[number], self.due[number])

    def _judge(self, hosted: HostedModel, due: Due) -> None:
        """Publish, unless something speaks against it (DESIGN R11)."""
        self._judging = time.perf_counter()
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
            "seconds": time.perf_counter() - self._judging,
        }
        self.channel.send("verdict", head, *blobs)
        self.due.settle(hosted.number)

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

    def _list_quarantined(self, ask: int, resume: int) -> None:
        """Answer which streams have labels in a quarantine. resume: all before it was sent."""
        self.position = resume
        self._save()
        streams = {number: self.checkpoints.quarantined_streams(number) for number in self.models}
        self.channel.send("quarantined", {"ask": ask, "streams": streams})

    def _erase(self, ask: int, resume: int, gone: dict[str, list[int]]) -> None:
        """Forget what was quarantined of streams that are gone, save, and leave nothing in the file of the deleted."""
        self.position = resume
        for number, streams in gone.items():
            if hosted := self.models.get(int(number)):
                for id in self.checkpoints.quarantined_ids(hosted.number, streams):
                    hosted.quarantine.release(id)
                self.models.changed(hosted.number)
        position = self.position if self._save() else 0
        try:
            self.checkpoints.compact()
        except (NoSpace, DatabaseBusy) as error:
            self.channel.send("problem", {"why": f"not erased: {error}", "full": isinstance(error, NoSpace)})
            position = 0
        self.channel.send("erased", {"ask": ask, "position": position})

    def _save(self) -> bool:
        """Save what has changed, and tell serving; where the disk is full, the next save writes it. Whether it is on
        disk."""
        self._unsaved, started = 0, time.monotonic()
        saved = self._store(self.position)
        self._saved_at = time.monotonic()
        self._save_s = self._saved_at - started
        if saved is not None:
            self.channel.send("saved", self._checkpointed(saved))
        return saved is not None

    def _store(self, position: int) -> Mapping[int, Standing] | None:
        try:
            return self.models.save(position)
        except NoSpace as error:  # the next one takes it along; until then the journal has it
            self.channel.send("problem", {"why": f"no checkpoint: the disk is full: {error}", "full": True})
            return None

    def _checkpointed(self, models: Mapping[int, Standing]) -> dict[str, Any]:
        """What serving must know of the checkpoint: the position that learning goes on from, and of each of these
        models how many entries are in it, which lie partly behind that, and the versions needed to go on."""
        return {"position": self.position, "models": [{"model": n, **s._asdict()} for n, s in models.items()]}


def countable(task: str, chunk: Chunk) -> tuple[int, int]:
    """Ticks, labels and windows of a chunk; and those of them that may carry labels of such a task."""
    ticks = sum(len(r.seq) for r in chunk.records if isinstance(r, Ticks))
    outside = sum(isinstance(r, Label | Window) for r in chunk.records)
    return ticks + outside, outside + (ticks if task == "forecast" else 0)


def progress(hosted: HostedModel, position: int, updates: list[Update], seconds: float = 0.0) -> dict[str, Any]:
    """What the metrics need of one chunk's learning, which took so many seconds, as a JSON-able head."""
    reports = [u.report for u in updates if u.report]
    return {
        "position": position,
        "seconds": seconds,
        "model": hosted.number,
        **hosted.totals(),
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


def resumed(number: int, stored: Stored, position: int) -> dict[str, Any]:
    """`progress` of a model that is as it was saved."""
    nothing: dict[str, list[float]] = {name: [] for name in OBSERVED}
    return {"position": position, "model": number, **stored.totals, **nothing, "saturated": None}


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
    try:
        opened = open_or_set_aside(Path(settings["data"]) / settings["checkpoint"], GateSettings(**settings["gate"]))
    except (NoSpace, DatabaseRefused, CheckpointInUse, OSError, sqlite3.Error) as error:
        print(f"cannot keep what is learned: {error}", file=sys.stderr)
        raise SystemExit(NOT_THE_RECORDS) from error
    if opened.problem:
        channel.send("problem", {"why": opened.problem, "corrupt": True})
    try:
        Trainer(channel, opened, settings).run()
    except WeightsGone as error:
        print(f"cannot learn on: {error}", file=sys.stderr)
        raise SystemExit(WEIGHTS_GONE) from error
    except (sqlite3.Error, CheckpointCorrupt, DatabaseCorrupt) as error:
        print(f"cannot keep what is learned: {error}", file=sys.stderr)
        raise SystemExit(NOT_THE_RECORDS) from error
    finally:
        opened.checkpoints.close()


if __name__ == "__main__":
    main()
