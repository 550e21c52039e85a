"""The scalers by name. A new one is one file, one line here, and its twins: ONNX (`onnx_scalers`) and slow (tests)."""

from collections.abc import Callable

from model.scaler import Scaler
from model.scalers.none import NoScaler
from model.scalers.residual import ResidualScaler
from model.scalers.standard import StandardScaler

SCALERS: dict[str, Callable[[int, int, bool], Scaler]] = {
    "residual": ResidualScaler,
    "standard": StandardScaler,
    "none": NoScaler,
}
