"""A view as lines for programs: words in fixed columns, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from service.console.tables import shown
from service.programs.top.screen import clock
from service.programs.top.view import ModelView, ServerView, View, behind

PLACE = ("shard", "node", "epoch")  # only in a cluster
WORDS = [f.name for f in fields(ModelView) if f.name not in ("reason", *PLACE)]  # a reason is a sentence: only in JSON
SERVER = [f.name for f in fields(ServerView)]


def words(view: View) -> list[str]:
    """Return the names of a model's facts that are shown, in order."""
    return [*WORDS, *(PLACE if view.in_cluster else ())]


def header(shown_words: Sequence[str] = WORDS) -> str:
    """Return the names of a model's columns."""
    return " ".join(["time", *shown_words])


def plain(view: View, shown_words: Sequence[str] = WORDS) -> list[str]:
    """Return a line for each model, under `header`, and lines of the server, which start with #. `-`: unknown."""
    at = clock(view.time)
    if view.away is not None:
        return [f"# {at} away since {clock(view.away)}: {shown('; '.join(view.troubles))}"]
    names = [name for name in SERVER if view.in_cluster or name != "shards"]
    facts = [f"{name}={_word(getattr(view.server, name))}" for name in names]
    lines = [f"# {at} {' '.join(facts)}", *(f"# {at} {shown(trouble)}" for trouble in view.troubles)]
    lines += [f"# {at} behind: {shown(m.model)} waits {m.waiting_s:.0f}s" for m in behind(view)]
    lines += [f"# {at} worst: {shown(w.model)} {shown(w.stream)} ratio={_word(w.ratio)}" for w in view.worst]
    return lines + [" ".join([at, *(_word(getattr(m, word)) for word in shown_words)]) for m in view.models]


def mapping(view: View) -> dict[str, Any]:
    """Return the view as JSON values; names contain units. Without a cluster, shards and nodes are left out."""
    found = asdict(view)
    if not view.in_cluster:
        del found["server"]["shards"]
        for model in found["models"]:
            for name in PLACE:
                del model[name]
    return found


def _word(value: object) -> str:
    """Return a value as one word."""
    if isinstance(value, dict):
        return ",".join(f"{_word(key)}={_word(one)}" for key, one in value.items()) or "-"
    if value is None or value == "":
        return "-"
    return shown(value).replace(" ", "_")
