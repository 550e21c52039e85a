"""Scalers by name: running statistics that turn raw values into inputs, and scaled forecasts back into values.

A new scaler is a file, a line here, and two twins: ONNX (`graph/scalers`) and the slow one in tests. Knows no cell.
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
