"""The scalers by name. A new one is one file, one line here, and its twins: ONNX (`onnx_scalers`) and slow (tests)."""

from collections.abc import Callable

from model.scaler import Scaler
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
