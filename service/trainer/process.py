"""The trainer process: reads durable chunks from standard input, learns, and proposes versions on standard output.

Only serving runs it, as `python -m service.trainer.process`; it ends when its input ends. Decisions that depend on a
clock (when to give a verdict, when to save a checkpoint) do not change the weights.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from model.fold.learner import Update
from service.journal.records import Chunk, Label, ModelCreate, ModelDelete, Ticks, Window, decode_chunk
from service.journal.skips import Skips
from service.storage.database import DatabaseBusy, DatabaseCorrupt, DatabaseRefused
from service.storage.disk import NoSpace
from service.trainer.channel import Channel
from service.trainer.checkpoint import (
    CheckpointCorrupt,
    CheckpointInUse,
    Opened,
    machine_kind,
    open_or_set_aside,
)
from service.trainer.due import Pending, SaveSchedule
from service.trainer.hosting import HostedModel, Standing, WeightsGone
from service.trainer.messages import (
    NOT_THE_RECORDS,
    WEIGHTS_GONE,
    Erase,
    LearnChunk,
    ListErrors,
    ListQuarantine,
    ListQuarantinedStreams,
    Message,
    Reached,
    Restart,
    Stop,
    TrainerSettings,
)
from service.trainer.models import Models
from service.trainer.reports import (
    Anchored,
    Drifted,
    Erased,
    ErrorTables,
    Passed,
    Problem,
    Progress,
    QuarantinedStreams,
    QuarantineItems,
    Ready,
    Saved,
    learned,
)
from service.trainer.verdicts import ModelGone, Published, Verdicts

INCOMPLETE = 0  # position of a checkpoint while a restart writes it: after a crash, the restart is repeated
UNSAVED_ITEMS = 256  # quarantined items that are in memory only


class Trainer:
    """Learns one process's models. `run` is the life of the process."""

    def __init__(self, channel: Channel, opened: Opened, settings: TrainerSettings) -> None:
        self.channel, self.checkpoints, self._settings = channel, opened.checkpoints, settings
        self.position = opened.position  # learning continues there after a crash
        self._skips = {number: Skips(ranges) for number, ranges in settings.skips.items()}
        self._deleted: set[int] = set()  # models, since the start
        standing = {number: stored.standing for number, stored in opened.models.items()}
        self.models = Models(opened.checkpoints, settings.gate, standing, settings.memory_bytes, self._left_memory)
        for number in [number for number in standing if self._is_deleted(number)]:
            del self.models[number]
        self._resumed = {number: opened.models[number] for number in self.models}
        self.pending = Pending(settings.publish_labels, settings.publish_s)
        self.published = Published(channel, self.models)
        self.verdicts = Verdicts(channel, self.models, self.published, self.pending)
        self.saves = SaveSchedule(settings.checkpoint_chunks, time.monotonic())
        self.request_verdicts(settings.judged)

    # ---- the loop

    def run(self) -> None:
        """Learn until the input ends, or until `Stop`, which saves a checkpoint first."""
        elsewhere = self.checkpoints.made_elsewhere()
        if elsewhere:
            why = (
                f"trainer.db was written by [{elsewhere}], this is [{machine_kind()}]: weights learned from now on may "
            )
            self.channel.send(Problem(f"{why}differ in their last bits from those learned there"))
        self.channel.send(self.ready())
        for number, stored in self._resumed.items():  # serving needs these also of models without new records
            self.channel.send(Progress(self.position, number, 0.0, stored.totals))
        self._resumed = {}
        while not self.channel.ended:
            message = self.channel.receive(self.patience())
            while message is not None:
                if isinstance(message, Stop):
                    self.save()
                    return
                self.handle(message)
                self.verdicts.give()
                message = self.channel.receive(0)
            self.verdicts.give()

    def ready(self) -> Ready:
        """The message that names the checkpoint and all its models."""
        return Ready(self.position, dict(self.models.standing))

    def patience(self) -> float | None:
        """Seconds until the next verdict is due by time; None if no model is pending."""
        return self.pending.wait(time.monotonic())

    def request_verdicts(self, judged: Mapping[int, int]) -> None:
        """Make a verdict due on each model whose checkpoint contains more entries than verdicts cover, or that has
        asked for a rollback. judged: entries covered, by model; a missing model has none."""
        now = time.monotonic()
        for number, stored in self._resumed.items():
            if stored.returning or stored.heard > judged.get(number, -1):
                self.pending.note(number, now, 1, 0, labels=min(1, stored.totals.counts["learned"]))

    def handle(self, message: Message) -> None:
        """Act on one message. Raises WeightsGone, OutOfOrder, CheckpointCorrupt: the process must end then."""
        match message:
            case LearnChunk():
                self._learn_and_save(message)
            case Reached(position):
                self.position = position
                self.save()
            case Restart():
                self._restart(message)
            case ListQuarantine():
                self._list_quarantine(message)
            case ListQuarantinedStreams():
                self._list_quarantined_streams(message)
            case ListErrors():
                self._list_errors(message)
            case Erase():
                self._erase(message)

    # ---- learning

    def _learn_and_save(self, message: LearnChunk) -> None:
        """Learn a chunk, then save if that is due or memory is full."""
        chunk = decode_chunk(message.payload)
        if isinstance(chunk.records[-1], ModelDelete):
            self._deleted.add(chunk.model)
        try:
            self._learn(chunk, message.position, message.more)
        except ModelGone:
            self._remove(chunk.model)
            self.channel.send(Passed(message.position))
        # Earlier chunks of another model may still be to come: after a crash, learning continues before them.
        self.position = message.resume
        self.saves.chunk_learned()
        full = chunk.model in self.models and self.models[chunk.model].quarantine.unsaved >= UNSAVED_ITEMS
        if full or not self.models.make_room() or self.saves.is_due(time.monotonic()):
            self.save()

    def _learn(self, chunk: Chunk, position: int, more: bool) -> None:
        """Learn a chunk that ends at `position`. more: later chunks of the model are durable.

        Raises ModelGone for a deleted model.
        """
        started = time.perf_counter()
        if self._is_deleted(chunk.model):
            raise ModelGone(f"model {chunk.model} was deleted")
        hosted = self.models.get(chunk.model)
        if hosted is None and isinstance(chunk.records[0], ModelCreate):
            hosted = self.models[chunk.model] = HostedModel.create(chunk.model, chunk.records[0], self._settings.gate)
            self.published.note(hosted)
        if hosted is None:
            raise RuntimeError(f"chunk of model {chunk.model}, which no record created")
        if chunk.end <= hosted.offset:
            self.channel.send(Passed(position))
            return
        hosted.skips = self._skips.setdefault(chunk.model, Skips())
        self.models.changed(chunk.model)
        updates = hosted.apply(chunk, self.published.of)
        seconds = time.perf_counter() - started
        self._report(hosted, chunk, updates, learned(hosted, position, updates, seconds))
        self.pending.mark_end(hosted.number, reached=not more)

    def _report(self, hosted: HostedModel, chunk: Chunk, updates: list[Update], progress: Progress) -> None:
        """Count what is due, and send serving what was learned."""
        entries, fresh = countable(hosted.learner.spec.task, chunk)
        self.pending.note(hosted.number, time.monotonic(), entries, fresh)
        if hosted.discarded is not None:
            self.pending.discard_learned(hosted.number)
            self.published.forget(hosted.number)
        for update in updates[hosted.discarded or 0 :]:
            self.pending.learned(hosted.number, update)
        self.channel.send(progress)
        for version in hosted.anchored:
            self.channel.send(Anchored(hosted.number, version, hosted.offset))
        hosted.anchored.clear()
        reaction = hosted.learner.spec.drift_reaction
        for numbers in (update.drift for update in updates if update.drift):
            self.channel.send(Drifted(hosted.number, hosted.offset, reaction, numbers))

    def _is_deleted(self, model: int) -> bool:
        """Whether the model was deleted before this process began, as its settings tell, or since."""
        settings = self._settings
        return model in self._deleted or (model <= settings.last_model and model not in settings.models)

    def _remove(self, model: int) -> None:
        """Forget a deleted model."""
        self._deleted.add(model)
        if model in self.models:
            del self.models[model]
        self.published.forget(model)
        self.pending.mark_end(model, reached=True)
        self.pending.remove(model)

    def _left_memory(self, model: int) -> None:
        self.published.forget(model)

    def _restart(self, message: Restart) -> None:
        """Continue at `message.position` from the versions in service: the checkpoint cannot be used.

        The quarantine, and the numbers of the windows that have arrived, are kept.
        """
        self.pending.clear()
        self.published.clear()
        for number in set(self.models) - {point.model for point in message.models}:
            del self.models[number]
        for point in message.models:
            number, former = point.model, self.models.get(point.model)
            hosted = HostedModel.create(number, ModelCreate("", "", point.spec), self._settings.gate)
            hosted.skips = self._skips.setdefault(number, Skips())
            if former is not None:
                hosted.quarantine, hosted.sources = former.quarantine, former.sources
                hosted.errors = hosted.learner.errors = former.errors
                hosted.errors.streams.all_changed()
            self.models[number] = hosted
            hosted.start_at(point.version, point.offset, point.paused, self.published.of)
            self.pending.note(number, time.monotonic(), 1, 0)
            if not self.models.make_room():
                self._store(INCOMPLETE)
        self.position = message.position
        self.save()
        self.channel.send(self.ready())

    # ---- questions

    def _list_quarantine(self, question: ListQuarantine) -> None:
        """Answer with items that are on disk."""
        self.save()
        items = self.checkpoints.quarantined(question.model, question.after, question.limit, question.ids)
        self.channel.send(QuarantineItems(question.ask, tuple(items)))

    def _list_quarantined_streams(self, question: ListQuarantinedStreams) -> None:
        """Answer with the streams that have labels in a quarantine."""
        self.position = question.resume
        self.save()
        streams = {number: tuple(self.checkpoints.quarantined_streams(number)) for number in self.models}
        self.channel.send(QuarantinedStreams(question.ask, streams))

    def _list_errors(self, question: ListErrors) -> None:
        """Answer from memory, or from the checkpoint without loading the model."""
        errors = self.models.errors(question.model)
        if errors is None:
            self.channel.send(ErrorTables(question.ask, b"", (), b""))
            return
        errors.flush()
        kept = errors.streams
        streams = kept.worst(question.worst) if question.worst else kept.page(question.after, question.limit)
        rows = kept.of(streams).tobytes()
        self.channel.send(ErrorTables(question.ask, errors.model.tobytes(), tuple(streams), rows))

    def _erase(self, question: Erase) -> None:
        """Drop quarantined labels of deleted streams, save, and leave nothing deleted in the file."""
        self.position = question.resume
        for number, streams in question.gone.items():
            if hosted := self.models.get(number):
                for id in self.checkpoints.quarantined_ids(number, streams):
                    hosted.quarantine.release(id)
                self.models.changed(number)
        position = self.position if self.save() else 0
        try:
            self.checkpoints.compact()
        except (NoSpace, DatabaseBusy) as error:
            self.channel.send(Problem(f"not erased: {error}", full=isinstance(error, NoSpace)))
            position = 0
        self.channel.send(Erased(question.ask, position))

    # ---- the checkpoint

    def save(self) -> bool:
        """Save what has changed and report it; returns whether it is on disk. If the disk is full, the next save writes
        it."""
        started = time.monotonic()
        saved = self._store(self.position)
        self.saves.saved(started, time.monotonic())
        if saved is not None:
            self.channel.send(Saved(self.position, saved))
        return saved is not None

    def _store(self, position: int) -> Mapping[int, Standing] | None:
        try:
            return self.models.save(position)
        except NoSpace as error:  # the journal has it until the next save
            self.channel.send(Problem(f"no checkpoint: the disk is full: {error}", full=True))
            return None


def countable(task: str, chunk: Chunk) -> tuple[int, int]:
    """The number of ticks, labels and windows in a chunk, and of those that may carry labels of this task."""
    ticks = sum(len(r.seq) for r in chunk.records if isinstance(r, Ticks))
    outside = sum(isinstance(r, Label | Window) for r in chunk.records)
    return ticks + outside, outside + (ticks if task == "forecast" else 0)


def main() -> None:
    """Run the process. The first message on its input is `TrainerSettings`."""
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # a stray print must not end up between two messages
    channel = Channel(source, sink)
    settings = channel.receive(None)
    if not isinstance(settings, TrainerSettings):
        raise SystemExit("the trainer is started by the server, which sends it its settings")
    os.nice(settings.nice)
    try:
        opened = open_or_set_aside(Path(settings.data) / settings.checkpoint, settings.gate)
    except (NoSpace, DatabaseRefused, CheckpointInUse, OSError, sqlite3.Error) as error:
        print(f"cannot save what is learned: {error}", file=sys.stderr)
        raise SystemExit(NOT_THE_RECORDS) from error
    if opened.problem:
        channel.send(Problem(opened.problem, corrupt=True))
    try:
        Trainer(channel, opened, settings).run()
    except WeightsGone as error:
        print(f"cannot continue learning: {error}", file=sys.stderr)
        raise SystemExit(WEIGHTS_GONE) from error
    except (sqlite3.Error, CheckpointCorrupt, DatabaseCorrupt) as error:
        print(f"cannot save what is learned: {error}", file=sys.stderr)
        raise SystemExit(NOT_THE_RECORDS) from error
    finally:
        opened.checkpoints.close()


if __name__ == "__main__":
    main()
