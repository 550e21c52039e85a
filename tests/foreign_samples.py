"""Graphs that PyTorch and Keras exported, with inputs, outputs and weights, beside the project (../shared/onnx)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ROOT

FOLDER = ROOT.parent / "shared" / "onnx"
NAMES = sorted(path.stem for path in FOLDER.glob("*.onnx"))


def each(names: list[str]) -> pytest.MarkDecorator:
    """Parametrize `sample` with names; one skipped test where the samples are not there."""
    why = "the exported samples are not beside the project (../shared/onnx)"
    return pytest.mark.parametrize("sample", names or [pytest.param("", marks=pytest.mark.skip(why))])


def graph(name: str) -> Path:
    return FOLDER / f"{name}.onnx"


def arrays(name: str) -> dict[str, Any]:
    """in/NAME, out/NAME, and the weights as sd/… or w/…"""
    with np.load(FOLDER / f"{name}.npz") as found:
        return dict(found)
