"""Words, and numbers, for a missing value."""

from __future__ import annotations

from collections.abc import Collection

# In any column. A class with one of these names cannot be distinguished from a missing label.
NOTHING = frozenset(
    {
        "", "na", "n/a", "nan", "null", "none", "nil", "?", "-", "--", "---", "–", "—", ".", "..", "...", "…",
        "n.a.", "n.a", "n/d", "#n/a", "#na", "#n/a n/a", "\\n", "nat", "<na>", "(null)", "-nan", "+nan", "1.#qnan",
        "-1.#ind", "#value!", "#div/0!", "#ref!", "#null!", "#num!", "#name?", "#nv",
    }
)  # fmt: skip
# In columns of numbers too: states of a sensor in words.
NO_NUMBER = NOTHING | {
    "unavailable", "unknown", "missing", "undefined", "not available", "no data", "nodata", "no value",
}  # fmt: skip


def is_missing(cell: str, words: Collection[str] = ()) -> bool:
    """Return whether a cell of numbers or times is empty, a usual word for nothing, or one of `words` (`own_words`)."""
    return cell.lower() in NO_NUMBER or (bool(words) and _is_own(cell, words))


def is_unlabelled(cell: str, words: Collection[str] = ()) -> bool:
    """Return whether a cell of class names is empty or a word for nothing; a class may be called "unknown"."""
    return cell.lower() in NOTHING or (bool(words) and _is_own(cell, words))


def own_words(words: Collection[str]) -> frozenset[str]:
    """Return a user's words as they are compared: in lower case, and numbers also by value."""
    lowered = {word.strip().lower() for word in words}
    return frozenset(lowered | {_by_value(word) for word in lowered})


def _is_own(cell: str, words: Collection[str]) -> bool:
    lowered = cell.lower()
    return lowered in words or _by_value(lowered) in words


def _by_value(word: str) -> str:
    """Return a canonical text of a number, so that -999 and -999.0 are equal; other words are unchanged."""
    try:
        return f"{float(word)!r}" if word and "_" not in word else word
    except ValueError:
        return word
