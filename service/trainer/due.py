"""When a verdict, and when a checkpoint, is due."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from model.fold.learner import Update

LONG_SAVE_S = 0.25
LEARNING_PER_SAVE = 9  # a tenth of the time for saves that take long
MOST_INTERVALS = 64  # bounds the chunks that are learned again after a crash


@dataclass(slots=True)
class Due:
    """Entries and labels of one model since its last verdict."""

    entries: int = 0
    fresh: int = (
        0  # of them, those that may carry labels: ticks if the task reads labels off the stream; labels, windows
    )
    labels: int = 0
    since: float = 0.0  # monotonic seconds at the first of them
    learned: int = 0  # `labels` with a known loss
    loss: float = 0.0  # sum of the candidate's clipped scaled losses, 0..1, over them
    scored: int = 0  # of them, labels that the anchor was scored on too
    score: float = 0.0  # the candidate's sum over those
    anchor_score: float = 0.0  # the anchor's

    def add(self, update: Update) -> None:
        """Count an update. A loss of the candidate that is not finite counts as 1, as in the gate."""
        n, score = update.labels, update.score if math.isfinite(update.score) else 1.0
        self.labels += n
        self.learned += n
        self.loss += n * score
        if math.isfinite(update.anchor_score):
            self.scored += n
            self.score += n * score
            self.anchor_score += n * update.anchor_score

    def numbers(self) -> dict[str, float]:
        """The numbers of a verdict: labels, and means per label if there are any."""
        numbers = {"labels": float(self.labels)}
        if self.learned:
            numbers["loss"] = self.loss / self.learned
        if self.scored:
            numbers |= {"score": self.score / self.scored, "anchor_score": self.anchor_score / self.scored}
        return numbers


class Pending:
    """A `Due` for each model that has one, the oldest first. The cost of a call does not grow with their number."""

    def __init__(self, publish_labels: int, publish_s: float) -> None:
        """A verdict is due after `publish_labels` fresh entries, and at the latest `publish_s` seconds after the first
        entry."""
        self._labels, self._seconds = publish_labels, publish_s
        self._due: dict[int, Due] = {}  # ordered by `since`: a model is appended at its first entry
        self._enough: dict[int, None] = {}  # models with enough fresh entries, and no later records durable
        self._more: set[int] = set()  # models with later records that are durable and will be sent

    def __iter__(self) -> Iterator[int]:
        return iter(self._due)

    def __getitem__(self, model: int) -> Due:
        return self._due[model]

    def note(self, model: int, now: float, entries: int, fresh: int, labels: int = 0) -> None:
        """Count entries, `fresh` of which may carry labels, and labels learned before. Without entries, do nothing."""
        if not entries:
            return
        due = self._due.setdefault(model, Due(since=now))
        due.entries += entries
        due.fresh += fresh
        due.labels += labels
        if due.fresh >= self._labels and model not in self._more:
            self._enough[model] = None

    def mark_end(self, model: int, reached: bool) -> None:
        """Note whether all durable records of a model have arrived."""
        (self._more.discard if reached else self._more.add)(model)
        due = self._due.get(model)
        if reached and due is not None and due.fresh >= self._labels:
            self._enough[model] = None
        elif not reached:
            self._enough.pop(model, None)

    def learned(self, model: int, update: Update) -> None:
        """Count an update that was made from entries counted before."""
        self._due[model].add(update)

    def discard_learned(self, model: int) -> None:
        """Forget what was learned, which the weights no longer contain; the entries still count."""
        due = self._due.get(model)
        if due is not None:
            self._due[model] = Due(entries=due.entries, fresh=due.fresh, since=due.since)

    def remove(self, model: int) -> None:
        """Forget a model: it has its verdict, or is deleted."""
        self._due.pop(model, None)
        self._enough.pop(model, None)

    def clear(self) -> None:
        """Forget all models."""
        self._due.clear()
        self._enough.clear()
        self._more.clear()

    def wait(self, now: float) -> float | None:
        """Seconds until the next verdict is due by time; None if no model is pending."""
        oldest = next(iter(self._due.values()), None)
        return None if oldest is None else max(0.0, oldest.since + self._seconds - now)

    def next(self, now: float, end_reached: bool) -> int | None:
        """A model whose verdict is due; None if there is none. end_reached: no message waits to be received."""
        oldest = next(iter(self._due), None)
        if oldest is not None and now - self._due[oldest].since >= self._seconds:
            return oldest
        return next(iter(self._enough), None) if end_reached else None


class SaveSchedule:
    """A checkpoint is due every `chunks` chunks.

    If saving takes long, because many or large models change, it is due only after learning has had
    LEARNING_PER_SAVE times as long, and at the latest after MOST_INTERVALS times as many chunks.
    """

    def __init__(self, chunks: int, now: float) -> None:
        self._chunks = chunks
        self._unsaved = 0  # chunks
        self.took_s = 0.0  # by the last save
        self._saved_at = now

    def chunk_learned(self) -> None:
        """Count a chunk."""
        self._unsaved += 1

    def is_due(self, now: float) -> bool:
        """Whether to save now."""
        if self._unsaved < self._chunks:
            return False
        took = self.took_s if self.took_s > LONG_SAVE_S else 0.0
        return now - self._saved_at >= LEARNING_PER_SAVE * took or self._unsaved >= MOST_INTERVALS * self._chunks

    def saved(self, started: float, now: float) -> None:
        """Note a save, successful or not, that began at `started`."""
        self._unsaved = 0
        self._saved_at, self.took_s = now, now - started
