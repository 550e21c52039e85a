"""What a model is: its spec, checked once. Must not know how a spec is learned, served or stored."""

from model.spec.changes import CHANGEABLE, DEFAULTS, changed, keeps_layout
from model.spec.defaults import baseline_seasons, season_name
from model.spec.names import (
    CELL_FIELDS,
    CHOICES,
    MAX_CHANNELS,
    MAX_OUTPUTS,
    MAX_SEASON_TICKS,
    TRACED_CELLS,
    WINDOW_MARGIN,
    SpecError,
)
from model.spec.spec import MOST_SHOWN, ModelSpec

__all__ = [
    "CELL_FIELDS",
    "CHANGEABLE",
    "CHOICES",
    "DEFAULTS",
    "MAX_CHANNELS",
    "MAX_OUTPUTS",
    "MAX_SEASON_TICKS",
    "MOST_SHOWN",
    "TRACED_CELLS",
    "WINDOW_MARGIN",
    "ModelSpec",
    "SpecError",
    "baseline_seasons",
    "changed",
    "keeps_layout",
    "season_name",
]
