"""The folder of files that a training writes."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path

from model.network import Network
from service.common.errors import Invalid
from service.console.files import ONNX, SPEC, WEIGHTS, part_of, spec_toml, write_all
from service.engine.export import download, export
from service.programs.offline.chart import Line, line_chart
from service.programs.offline.run import Trained

HISTORY, PICTURE = "history.json", "loss.svg"
FILES = (SPEC, WEIGHTS, ONNX, HISTORY, PICTURE)


def claim(folder: Path, force: bool) -> bool:
    """Create the folder before the training and return whether it is new. Raises Invalid, OSError.

    A folder that is not empty is refused unless forced; then only the five files that a training writes are replaced.
    """
    if folder.exists():
        if not folder.is_dir():
            raise Invalid("out", str(folder), "is a file: name a folder")
        if any(folder.iterdir()) and not force:
            raise Invalid("out", str(folder), "exists: name another folder, or replace its files with --force")
        if not os.access(folder, os.W_OK):
            raise Invalid("out", str(folder), "cannot be written to: name another folder")
        return False
    if not folder.parent.is_dir():
        raise Invalid("out", str(folder), "name a folder in one that exists")
    folder.mkdir()
    return True


def discard(folder: Path) -> None:
    """Remove a folder that `claim` created, with the training's files; other files stay."""
    for name in FILES:
        for begun in (folder / name, part_of(folder, name)):
            begun.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def write(folder: Path, trained: Trained) -> bytes:
    """Write FILES and return the content of the weights file. Raises OSError."""
    network = Network(trained.plan.spec)
    files = export(network, network.weights(trained.flat))
    onnx = download(network, files.onnx)
    texts = (spec_toml(trained.plan.spec), history_json(trained), picture(trained))
    spec, history, svg = (text.encode() for text in texts)
    write_all(folder, {SPEC: spec, WEIGHTS: files.weights, ONNX: onnx, HISTORY: history, PICTURE: svg})
    return files.weights


def history_json(trained: Trained) -> str:
    """Return `Trained.to_mapping` as JSON text."""
    return json.dumps(trained.to_mapping(), indent=1) + "\n"


def _levels(trained: Trained) -> dict[str, float]:
    """Return the losses that do not change with the epochs, by name."""
    mixed = trained.taught is not None and bool(trained.taught.mixture)
    return ({"mixture": trained.held_out["freshet"]} if mixed else {}) | trained.baselines


def picture(trained: Trained) -> str:
    """Return losses by epoch as SVG; baselines are horizontal lines."""
    plan, epochs = trained.plan, trained.epochs
    numbers = [float(epoch.number) for epoch in epochs]
    lines = [
        Line("train", numbers, [epoch.train for epoch in epochs]),
        Line("held out", numbers, [epoch.held_out for epoch in epochs]),
        *(Line(name, [numbers[0], numbers[-1]], [loss, loss]) for name, loss in _levels(trained).items()),
    ]
    shown = [line for line in lines if any(map(math.isfinite, line.y))]
    log = all(y > 0 for line in shown for y in line.y if math.isfinite(y))
    title = f"{plan.file.name}: {plan.spec.cell} of {plan.spec.hidden}, best after epoch {trained.best.epoch}"
    return line_chart(title, "epoch", "loss per row, scaled", shown, log_y=log)
