"""Sources of windows and the last window of each: a fold over Window records, in serving and in the trainer."""

from __future__ import annotations

from collections.abc import Mapping

from service.common.errors import Exhausted, Invalid, Reason, Refusal
from service.common.limits import MAX_SOURCES

# Replayed quarantine items are windows of this source, numbered by item, in any order. The trainer learns each once: it
# must still be in the quarantine.
REPLAY = "replay"


class Sources:
    """The last window_seq of every source of one model, at most MAX_SOURCES of them."""

    def __init__(self, last: Mapping[str, int] | None = None) -> None:
        self._last = dict(last or {})

    def last(self, source: str) -> int:
        """Return the number of its last window; 0 before the first."""
        return self._last.get(source, 0)

    def repeated(self, source: str, window_seq: int) -> bool | Refusal:
        """Return False for the source's next window, True for a former one, and a Refusal otherwise.

        Raises Exhausted for the first window of a source if the model has MAX_SOURCES.
        """
        last = self.last(source)
        if not 1 <= window_seq <= last + 1:
            remedy = f"windows are numbered 1, 2, 3 …; the next one of source {source} is {last + 1}"
            return Refusal(window_seq, Reason.GAP, "window.window_seq", str(window_seq), remedy)
        if not last and len(self._last) >= MAX_SOURCES:
            remedy = f"the model knows {MAX_SOURCES} sources, its limit: send as one of those"
            raise Exhausted("hello.source", source, remedy)
        return window_seq <= last

    def accept(self, source: str, window_seq: int) -> bool:
        """Apply a Window record; False if it was applied before. Always True for a replayed one."""
        if source == REPLAY:
            return True
        if window_seq <= self.last(source):
            return False
        self._last[source] = window_seq
        return True

    def pack(self) -> dict[str, int]:
        """Return the constructor's argument, for JSON."""
        return dict(self._last)


def check_source(source: str) -> None:
    """Raise Invalid for a name that a sender cannot have."""
    if not 1 <= len(source) <= 256 or not source.isprintable():
        raise Invalid("hello.source", source, "give 1 to 256 printable characters that name the sender")
    if source == REPLAY:
        remedy = "the name is reserved for windows replayed from the quarantine; choose another"
        raise Invalid("hello.source", source, remedy)
