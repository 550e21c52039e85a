"""The trainer's models: all of them in trainer.db, those in use in memory too, each saved when it has changed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, MutableMapping

from model.fold.errors import Errors
from service.common.gate import GateSettings
from service.trainer.checkpoint import Checkpoints
from service.trainer.hosting import HostedModel, Standing

KEPT = 4  # models in memory, however large, so that models that learn in turn are not loaded for every chunk


class Models(MutableMapping[int, HostedModel]):
    """All models by number. One that is not in memory is loaded when it is accessed, as it was saved.

    While models in memory exceed `limit_bytes`, the least recently used saved ones are evicted. Which models are in
    memory changes neither what is learned nor what is saved.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        settings: GateSettings,
        stored: Mapping[int, Standing],
        limit_bytes: int,
        left: Callable[[int], None] = lambda number: None,
    ) -> None:
        """stored: the models in the file. left: called with the number of each model that is evicted or removed."""
        self._checkpoints, self._settings, self._limit, self._left = checkpoints, settings, limit_bytes, left
        self._standing = dict(stored)  # all models, as last saved
        self._here: OrderedDict[int, HostedModel] = OrderedDict()  # least recently used first
        self._sizes: dict[int, int] = {}  # bytes of the models in memory, as last measured
        self._size = 0
        self._changed: dict[int, None] = {}
        self._whole: set[int] = set()  # changed models that replace the stored ones of their numbers
        self._gone: set[int] = set()  # removed, and still in the file
        self._read: tuple[int, Errors] | None = None  # of the model asked for last that is not in memory

    def __getitem__(self, number: int) -> HostedModel:
        """Return the model, loaded if needed. Raises KeyError, CheckpointCorrupt."""
        hosted = self._here.get(number)
        if hosted is None:
            if number not in self._standing:
                raise KeyError(number)
            hosted = self._checkpoints.load_model(number, self._settings)
            self._here[number], self._read = hosted, None
            self._measure(number)
        self._here.move_to_end(number)
        return hosted

    def __setitem__(self, number: int, hosted: HostedModel) -> None:
        """Add a model, or replace the one of that number; the next `save` saves it."""
        if number in self._standing:
            self._whole.add(number)
            self._checkpoints.replaced(number)
        self._standing[number] = hosted.standing
        self._gone.discard(number)
        self._here[number], self._read = hosted, None
        self._measure(number)
        self.changed(number)

    def __delitem__(self, number: int) -> None:
        """Remove a model; the next `save` removes it from the file. Raises KeyError."""
        del self._standing[number]
        self._changed.pop(number, None)
        self._whole.discard(number)
        self._gone.add(number)
        self._read = None
        self._leave(number)

    def __contains__(self, number: object) -> bool:
        return number in self._standing

    def __iter__(self) -> Iterator[int]:
        return iter(self._standing)

    def __len__(self) -> int:
        return len(self._standing)

    @property
    def in_memory(self) -> list[int]:
        """Numbers of the models in memory, least recently used first."""
        return list(self._here)

    @property
    def standing(self) -> Mapping[int, Standing]:
        """How far each model is, as last saved."""
        return self._standing

    def changed(self, number: int) -> None:
        """Note that a model in memory has changed since it was saved."""
        self._changed[number] = None

    def errors(self, number: int) -> Errors | None:
        """Return the errors of a model, None without such a model; of one that is not in memory they are only read."""
        if number in self._here:
            return self._here[number].errors
        if number not in self._standing:
            return None
        if self._read is None or self._read[0] != number:
            self._read = number, self._checkpoints.load_errors(number)
        return self._read[1]

    def make_room(self) -> bool:
        """Evict saved models while memory exceeds the limit; False if changed ones must be saved first."""
        if self._size <= self._limit:
            return True
        spare = [number for number in self._here if number not in self._changed]
        for number in spare[: max(0, len(self._here) - KEPT)]:
            if self._size <= self._limit * 7 // 8:  # else each model that is loaded would evict another
                break
            self._leave(number)
        return self._size <= self._limit or len(self._here) <= KEPT

    def save(self, position: int) -> dict[int, Standing]:
        """Save the changed models as they are after the journal's `position`; return how far each of them is.

        Raises NoSpace: nothing is saved then, and the models stay changed.
        """
        changed = [self._here[number] for number in self._changed]
        self._checkpoints.save(position, changed, self._gone, self._whole)
        saved = {hosted.number: hosted.standing for hosted in changed}
        self._standing |= saved
        self._changed.clear()
        self._whole.clear()
        self._gone.clear()
        for number in saved:
            self._measure(number)
        self.make_room()
        return saved

    def _measure(self, number: int) -> None:
        size = self._here[number].nbytes
        self._size += size - self._sizes.get(number, 0)
        self._sizes[number] = size

    def _leave(self, number: int) -> None:
        if self._here.pop(number, None) is not None:
            self._size -= self._sizes.pop(number, 0)
            self._checkpoints.forget(number)
            self._left(number)
