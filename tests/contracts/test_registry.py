"""A registry entry without a reference is an error during collection, before any test runs."""

from __future__ import annotations

import importlib
import os
import pkgutil
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import model
from model.answers.losses import LOSSES
from model.answers.tasks import TASKS
from model.cells import CELLS
from model.cells.init import INITS
from model.scalers import SCALERS
from model.spec import CHOICES
from model.update.optimizers import OPTIMIZERS
from model.update.schedules import SCHEDULES
from tests.contracts import registry
from tests.oracles import slow_cells

FOLDER = Path(__file__).parent
# registry: its field in the spec, an entry to copy for a bogus one, the suite that tests it
REGISTRIES: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "CELLS": (CELLS, "cell", "gru", "test_cells.py"),
    "TASKS": (TASKS, "task", "regress", "test_cells.py"),
    "LOSSES": (LOSSES, "loss", "huber", "test_losses.py"),
    "OPTIMIZERS": (OPTIMIZERS, "optimizer", "adam", "test_optimizers.py"),
    "SCHEDULES": (SCHEDULES, "schedule", "cosine", "test_schedules.py"),
    "INITS": (INITS, "init", "normal", "test_inits.py"),
    "SCALERS": (SCALERS, "scaler", "standard", "test_scalers.py"),
}
every_registry = pytest.mark.parametrize("name", REGISTRIES)


def collect(suite: str) -> None:
    """Run the module of a suite, as pytest does to collect it."""
    runpy.run_path(str(FOLDER / suite))


def offer(monkeypatch: pytest.MonkeyPatch, field: str) -> None:
    monkeypatch.setitem(CHOICES, field, (*CHOICES[field], "bogus"))


@every_registry
def test_an_entry_that_is_registered_but_not_offered_or_offered_but_not_registered_is_not_collected(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries, field, like, suite = REGISTRIES[name]
    with monkeypatch.context() as patched:
        patched.setitem(entries, "bogus", entries[like])
        with pytest.raises(registry.Unproven, match=r"bogus.* the spec offers .* make them the same"):
            collect(suite)
    offer(monkeypatch, field)
    with pytest.raises(registry.Unproven, match=r"the spec offers .*bogus.* make them the same"):
        collect(suite)


@pytest.mark.parametrize("name", sorted(REGISTRIES.keys() - {"INITS"}))  # inits have no reference
def test_an_entry_without_its_reference_is_not_collected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entries, field, like, suite = REGISTRIES[name]
    monkeypatch.setitem(entries, "bogus", entries[like])
    offer(monkeypatch, field)
    with pytest.raises(
        registry.Unproven, match=r"bogus: registered without (slow_twin|plain_form|example|a_slow_twin)"
    ):
        collect(suite)


def test_a_cell_without_an_export_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bogus:
        pass

    monkeypatch.setitem(CELLS, "bogus", lambda inputs, hidden, spec: Bogus())
    monkeypatch.setitem(slow_cells.CELLS, "bogus", slow_cells.CELLS["gru"])
    offer(monkeypatch, "cell")
    with pytest.raises(registry.Unproven, match="bogus: registered without onnx_export"):
        registry.cells()


def test_a_task_without_an_export_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bogus:
        def __init__(self, spec: Any) -> None:
            pass

    monkeypatch.setitem(TASKS, "regress", Bogus)
    with pytest.raises(registry.Unproven, match="regress: registered without onnx_export"):
        registry.objectives()


def test_a_loss_that_no_task_takes_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHOICES, "task", ("forecast", "regress"))
    monkeypatch.delitem(TASKS, "classify")
    monkeypatch.delitem(registry.EXAMPLES, "classify")
    with pytest.raises(registry.Unproven, match="cross_entropy: registered without task"):
        registry.objectives()


def test_a_reference_without_an_entry_is_not_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(registry.Unproven, match="gone: twin of nothing that is registered"):
        registry.proven({"here": 1}, twin={"here": 1, "gone": 2})


def test_pytest_reports_a_collection_error_that_names_the_entry(tmp_path: Path) -> None:
    plugin = "from model.update.optimizers import OPTIMIZERS\nfrom model.spec import CHOICES\n"
    plugin += "OPTIMIZERS['bogus'] = OPTIMIZERS['adam']\nCHOICES['optimizer'] += ('bogus',)\n"
    (tmp_path / "bogus_plugin.py").write_text(plugin)
    path = [str(tmp_path), *sys.path]
    # Options of the run that this test belongs to, such as a file for its results, are not for the other one.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path}; import pytest; sys.exit(pytest.main(sys.argv[1:]))",
         "-p", "bogus_plugin", "-p", "no:cacheprovider", "--collect-only", "-q", str(FOLDER / "test_optimizers.py")],
        cwd=FOLDER.parents[1], capture_output=True, text=True, check=False, timeout=240, env=alone,
    )  # fmt: skip
    assert run.returncode == pytest.ExitCode.INTERRUPTED, run.stdout
    assert "bogus: registered without plain_form" in run.stdout
    assert "1 error" in run.stdout


def test_this_list_has_every_registry_of_the_model() -> None:
    """A registry is a dict of callables whose keys are the choices of a spec field."""
    offered = {frozenset(names) for names in CHOICES.values()}
    found = set()
    for module in pkgutil.walk_packages(model.__path__, "model."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, dict) and value and all(map(callable, value.values())) and frozenset(value) in offered:
                found.add(name)
    assert found == REGISTRIES.keys()
