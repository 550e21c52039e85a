"""Scalers by name: running statistics that turn raw values into inputs and back.

A new one is a file, a line here, and its twins: ONNX (`graph/scalers`) and slow (tests). Knows no cell.
"""

from collections.abc import Callable

from model.scalers.contract import Scaler
from model.scalers.none import NoScaler
from model.scalers.residual import ResidualScaler
from model.scalers.residual_v1 import ResidualScalerV1
from model.scalers.standard import StandardScaler
from model.scalers.standard_v1 import StandardScalerV1

SCALERS: dict[str, Callable[[int, int, bool], Scaler]] = {
    "residual": ResidualScaler,
    "standard": StandardScaler,
    "none": NoScaler,
    "residual_v1": ResidualScalerV1,
    "standard_v1": StandardScalerV1,
}
