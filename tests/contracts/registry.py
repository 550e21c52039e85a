"""Parameters of the contract suites, read from the registries: every registered entry is tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.answers.losses import LOSSES
from model.answers.tasks import TASKS
from model.cells import CELLS
from model.cells.contract import Traced
from model.graph.cells import EXPORTS
from model.graph.tasks import TASK_TWINS
from model.spec import CELL_FIELDS, CHOICES, TRACED_CELLS, ModelSpec, SpecError
from tests.oracles import plain_losses, slow_cells

# Fields that a spec needs for each task, besides the channels a and b.
EXAMPLES: dict[str, dict[str, Any]] = {
    "forecast": {"horizon": 3},
    "regress": {"targets": ("y", "z")},
    "classify": {"classes": ("low", "middle", "high"), "class_weights": (0.5, 1.0, 3.0)},
}


# Fields that make a loss forecast all that it can.
SPREAD: dict[str, dict[str, Any]] = {
    "pinball": {"intervals": (0.5, 0.9)}, "gaussian": {"intervals": (0.5, 0.9)}, "student_t": {"intervals": (0.9,)},
}  # fmt: skip
# Fields that make a cell small: a window that is shorter than the sequences of the tests, so that it moves and fills.
SMALL: dict[str, dict[str, Any]] = {"attention": {"attention_window": 4}}


class Unproven(Exception):
    """A registry entry has no reference to test it against. Raised while tests are collected."""


def proven(registry: Mapping[str, Any], **proofs: Mapping[str, Any]) -> list[str]:
    """Return the sorted names of the registry. Raises Unproven unless each has an entry in every proof.

    proofs: references by entry name; the keyword names the kind of reference, as in plain_form=PLAIN.
    """
    for what, proof in proofs.items():
        missing, surplus = sorted(registry.keys() - proof.keys()), sorted(proof.keys() - registry.keys())
        if missing:
            raise Unproven(f"{', '.join(missing)}: registered without {what}; add it, or the contracts prove nothing")
        if surplus:
            raise Unproven(f"{', '.join(surplus)}: {what} of nothing that is registered; remove it")
    return sorted(registry)


def chosen(registry: Mapping[str, Any], field: str) -> Mapping[str, Any]:
    """Return the registry. Raises Unproven unless the spec's choices for that field are exactly its names."""
    if registry.keys() != set(CHOICES[field]):
        names, offered = ", ".join(sorted(registry)), ", ".join(sorted(CHOICES[field]))
        raise Unproven(f"{field}: registered are {names}; the spec offers {offered}; make them the same")
    return registry


def cells(brief: bool = False) -> dict[str, dict[str, Any]]:
    """Return spec fields of every registered cell by a short name, once more for each option of a cell.

    brief: without the options of the cells in `SMALL`, which are slow: for suites of what is around a cell.
    Raises Unproven for a cell without a slow twin or without an ONNX export.
    """
    spec = ModelSpec(channels=("a",))
    exports = {name for name, make in CELLS.items() if type(make(1, 1, spec)) in EXPORTS}
    kinds: dict[str, dict[str, Any]] = {}
    for name in proven(chosen(CELLS, "cell"), slow_twin=slow_cells.CELLS, onnx_export=dict.fromkeys(exports)):
        kinds |= {name: {"cell": name, **SMALL.get(name, {})}}
        for option, owners in CELL_FIELDS.items():
            if owners == (name,) and option in CHOICES and not (brief and name in SMALL):
                others = [value for value in CHOICES[option] if value != getattr(spec, option)]
                kinds |= {f"{name}-{value}": {**kinds[name], option: value} for value in others}
    return kinds


def traced() -> dict[str, dict[str, Any]]:
    """Return spec fields of every cell that rule rtrl accepts, with it. Raises Unproven for one without traces."""
    makes = {name: make(1, 1, ModelSpec(channels=("a",))) for name, make in CELLS.items()}
    proven(dict.fromkeys(TRACED_CELLS), traces={n: None for n, c in makes.items() if isinstance(c, Traced)})
    return {f"{name}-rtrl": {"cell": name, "rule": "rtrl"} for name in TRACED_CELLS}


def stacks() -> dict[str, dict[str, Any]]:
    """Return spec fields of stacks of layers that differ, or with something between them, by a short name."""
    names = sorted(CELLS)
    small = {option: value for fields in SMALL.values() for option, value in fields.items()}
    return {
        "normed": {"layers": 2, "layer_norm": True},
        "residual": {"layers": 3, "residual": True},
        "both": {"layers": 2, "layer_norm": True, "residual": True, "cell": "gru"},
        "mixed": {"cells": tuple(names), **small},
        "mixed-both": {"cells": tuple(names[::-1]), "layer_norm": True, "residual": True, **small},
    }


def objectives() -> dict[str, dict[str, Any]]:
    """Return spec fields of every task and loss that a spec accepts together, by a short name.

    Raises Unproven for a task without an example or an ONNX export, and for a loss without a plain form or a task.
    """
    accepted: dict[str, dict[str, Any]] = {}
    for task in proven(chosen(TASKS, "task"), example=EXAMPLES):
        for loss in proven(chosen(LOSSES, "loss"), plain_form=plain_losses.LOSSES):
            fields = {**EXAMPLES[task], "task": task, "loss": loss, **SPREAD.get(loss, {})}
            try:
                spec = ModelSpec(channels=("a", "b"), **fields)
            except SpecError:
                continue
            if type(TASKS[task](spec)) in TASK_TWINS:
                accepted[f"{task}-{loss}"] = fields
    proven(TASKS, onnx_export=dict.fromkeys(fields["task"] for fields in accepted.values()))
    proven(LOSSES, task=dict.fromkeys(fields["loss"] for fields in accepted.values()))
    return accepted


def pairs(brief: bool = False) -> list[tuple[str, str]]:
    """Return the names of cells (see `cells` for `brief`) and objectives to test together: each of both at least once.

    Losses with a spread meet a cell only through the derivative by the readout, as all losses do, so that one cell with
    all of them, and one of them with every cell, are enough.
    """
    kinds, made = sorted(cells(brief), key="lstm".__ne__), objectives()  # lstm first
    spread = [name for name, fields in made.items() if fields["loss"] in SPREAD]
    plain = [(kind, name) for kind in kinds for name in made if name not in spread]
    return [*plain, *((kinds[0], name) for name in spread), *((kind, spread[0]) for kind in kinds[1:])]
