"""`freshet train`: train on a recorded history, write the folder, and create the model on a server if asked."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path

import freshet
from model.offline.training import Diverged
from service.common.errors import Invalid
from service.console.remote import Remote
from service.console.shown import shares
from service.console.verbs import INTERRUPTED as INTERRUPTED_CODE
from service.programs.offline.output import FILES, claim, discard, history_json, write
from service.programs.offline.plan import OfflinePlan
from service.programs.offline.run import INTERRUPTED, Trained, train
from service.programs.offline.shown import beside


@dataclass(frozen=True, slots=True)
class Target:
    """The server on which to create the model, and the model's name there."""

    server: Remote
    name: str


def run(plan: OfflinePlan, out: Path, force: bool, json: Path | None, target: Target | None) -> int:
    """Train, write the files, print the result, create the model. Returns the exit code.

    It is 0, 130 after Ctrl-C, or 1 if the loss diverged. In the last two cases the best weights so far are written if
    an epoch was completed, and no model is created.
    """
    new = claim(out, force)
    written = False
    try:
        if target is not None:
            asyncio.run(check_free(target))
        print(plan.describe(), file=sys.stderr, flush=True)
        trained = train(plan)
        weights = write(out, trained)
        written = True
    except Diverged as error:
        print(f"freshet: {error}: {remedy(plan)}; nothing was written", file=sys.stderr)
        return 1
    finally:
        if new and not written:
            discard(out)
    if json is not None:
        json.write_text(history_json(trained), encoding="utf-8")
    print_result(trained, out)
    if trained.diverged:
        kept = f"the weights of epoch {trained.best.epoch} are kept"
        print(f"freshet: {trained.stopped}: {remedy(plan)}; {kept}", file=sys.stderr)
        return 1
    if trained.stopped == INTERRUPTED:
        print(f"freshet: interrupted; the weights of epoch {trained.best.epoch} are kept", file=sys.stderr)
        return INTERRUPTED_CODE
    if target is not None:
        asyncio.run(create(target, trained, weights))
        print(f"created       {target.name} at {target.server}: these weights are version 1; it keeps learning")
    return 0


def remedy(plan: OfflinePlan) -> str:
    """Return the remedy for a loss that is not finite."""
    return f"give a --learning-rate below {abs(plan.learning_rate):g}, or a smaller clip"


def print_result(trained: Trained, out: Path) -> None:
    """Print the result of a training, and what to do next, on standard output."""
    plan, best = trained.plan, trained.best
    print(f"best epoch    {best.epoch} of {trained.epochs[-1].number} ({trained.stopped})")
    if plan.held_out:
        print(f"held out      {beside(trained.held_out)}")
        print(f"              loss per row over the last {plan.held_out:,}{how_held_out(trained)}")
    if trained.taught is not None and trained.taught.mixture:
        print(f"mixture       {shares(trained.taught.mixture)}")
    if not best.epoch:
        print("note          no epoch was better on the held-out rows than the initial weights, which are kept")
    if trained.voided:
        print(f"voided        {trained.voided:,} labels across gaps")
    print(f"written       {out}: {', '.join(FILES)}")
    print(f"next          freshet models create NAME --from {out}")
    if plan.labels is None:
        print(f"              freshet backtest LATER.csv --weights {out}")


def how_held_out(trained: Trained) -> str:
    """Return what learned from the held-out rows, as the end of a line."""
    if trained.plan.labels is not None:
        return ""
    if trained.taught is None or not trained.taught.mixture:
        return "; least squares learned from these rows too, freshet did not"
    return "; experts and least squares learned each row after its forecast, the network did not"


async def check_free(target: Target) -> None:
    """Refuse, before the training, a name that exists on the server. Raises Invalid, FreshetError."""
    async with target.server.connect() as client:
        try:
            await client.get_model(target.name)
        except freshet.NotFound:
            return
    raise Invalid("create", target.name, f"{target.server} has a model of that name: choose another")


async def create(target: Target, trained: Trained, weights: bytes) -> None:
    """Create the model with these weights as version 1. Raises FreshetError."""
    keys = trained.plan.spec.to_mapping()
    async with target.server.connect() as client:
        await client.create_model(target.name, keys.pop("channels"), weights=weights, **keys)
