"""The work of `freshet models compare`: a model and its shadow on the same labels, and how to use the better one."""

from __future__ import annotations

from dataclasses import replace

import freshet
from freshet import Comparison
from model.spec import CHANGEABLE, ModelSpec, keeps_layout
from service.console.tables import plain, print_json, print_table

UNITS = 0.01  # relative difference of the losses of persistence from which on the units are not the same


async def compare(client: freshet.Client, name: str, other: str, as_json: bool) -> int:
    """Print the comparison; the exit code is 1 if there is none yet, or none is possible."""
    found = await client.compare_models(name, other)
    if as_json:
        print_json(plain(found))
        return int(not found.labels)
    if not found.labels:
        why = found.problem or "both must learn some labels first, since the server's start"
        print(f"{found.source} and {found.shadow}: nothing to compare: {why}")
        return 1
    rows = [
        ("source", found.source, found.source_loss, found.source_persistence_loss, source_ratio(found)),
        ("shadow", found.shadow, found.loss, found.persistence_loss, ratio(found)),
    ]
    print_table(("", "model", "loss", "persistence", "ratio"), rows)
    print(f"\n{found.labels} labels, each forecast before it was learned; ratio: of loss to persistence")
    if abs(found.persistence_loss / (found.source_persistence_loss or 1) - 1) > UNITS:
        print("the units differ, as one model has seen more of the streams than the other: compare the ratios")
    better = ratio(found) < source_ratio(found)
    less = 1 - min(ratio(found), source_ratio(found)) / max(ratio(found), source_ratio(found))
    print(f"{found.shadow if better else found.source} is better by {less:.1%}")
    if better:
        models = [await client.get_model(each) for each in (found.source, found.shadow)]
        specs = [ModelSpec.from_mapping(model.spec.to_mapping()) for model in models]
        print("\nput it into service:\n" + "\n".join(f"  {line}" for line in promotion(found, *specs)))
    return 0


def ratio(found: Comparison) -> float:
    """Return the shadow's loss relative to persistence in its units."""
    return found.loss / (found.persistence_loss or 1)


def source_ratio(found: Comparison) -> float:
    """Return the source's loss relative to persistence in its units."""
    return found.source_loss / (found.source_persistence_loss or 1)


def promotion(found: Comparison, source: ModelSpec, shadow: ModelSpec) -> list[str]:
    """Return the commands that put the shadow into service.

    Weights of the same layout go into the source, whose streams and calls stay. Another layout needs another model:
    clients then call the shadow by its name, and its streams begin without a state.
    """
    if not keeps_layout(source, replace(shadow, seed=source.seed)):
        return [f"freshet models set {found.shadow} shadow=", f"then let clients call {found.shadow}"]
    folder = f"{found.shadow}-best"
    lines = [
        f"freshet models export {found.shadow} --to {folder} --force",
        f"freshet models import {found.source} --from {folder} --promote",
    ]
    keys = [
        f"{key}={_text(getattr(shadow, key))}"
        for key in CHANGEABLE
        if key != "shadow" and getattr(shadow, key) != getattr(source, key)
    ]
    return lines + ([f"freshet models set {found.source} {' '.join(keys)}"] if keys else [])


def _text(value: object) -> str:
    return f"'{list(value)}'" if isinstance(value, tuple) else str(value)
