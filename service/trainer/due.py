"""Models with records that no verdict covers yet, in the order in which their verdicts are due by time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from model.fold.learner import Update


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


class Pending:
    """A `Due` for each model that has one, the oldest first; every call takes the same time however many there are."""

    def __init__(self, publish_labels: int, publish_s: float) -> None:
        self._labels, self._seconds = publish_labels, publish_s
        self._due: dict[int, Due] = {}  # by `since`: a model goes to the end when its first entry comes
        self._enough: dict[int, None] = {}  # models with so many fresh entries that their records' end suffices
        self._more: set[int] = set()  # models of which later records are durable, and still to come

    def __iter__(self) -> Iterator[int]:
        return iter(self._due)

    def __getitem__(self, model: int) -> Due:
        return self._due[model]

    def note(self, model: int, now: float, entries: int, fresh: int, labels: int = 0) -> None:
        """Entries have come, `fresh` of which may carry labels; none change nothing. labels: learned already."""
        if not entries:
            return
        due = self._due.setdefault(model, Due(since=now))
        due.entries += entries
        due.fresh += fresh
        due.labels += labels
        if due.fresh >= self._labels and model not in self._more:
            self._enough[model] = None

    def end(self, model: int, reached: bool) -> None:
        """Whether all that is durable of a model has come."""
        (self._more.discard if reached else self._more.add)(model)
        due = self._due.get(model)
        if reached and due is not None and due.fresh >= self._labels:
            self._enough[model] = None
        elif not reached:
            self._enough.pop(model, None)

    def learned(self, model: int, update: Update) -> None:
        """An update of a model was made from entries that were noted."""
        self._due[model].add(update)

    def thrown_away(self, model: int) -> None:
        """What was learned so far is in no weights any more: only the entries count."""
        due = self._due.get(model)
        if due is not None:
            self._due[model] = Due(entries=due.entries, fresh=due.fresh, since=due.since)

    def settle(self, model: int) -> None:
        """All of a model is judged, or it is gone."""
        self._due.pop(model, None)
        self._enough.pop(model, None)

    def clear(self) -> None:
        """Nothing is due."""
        self._due.clear()
        self._enough.clear()
        self._more.clear()

    def wait(self, now: float) -> float | None:
        """Seconds until the next verdict is due by time; None: nothing is due."""
        oldest = next(iter(self._due.values()), None)
        return None if oldest is None else max(0.0, oldest.since + self._seconds - now)

    def next(self, now: float, end_reached: bool) -> int | None:
        """A model whose verdict is due now, at the journal's end or before it; None: none is."""
        oldest = next(iter(self._due), None)
        if oldest is not None and now - self._due[oldest].since >= self._seconds:
            return oldest
        return next(iter(self._enough), None) if end_reached else None
