"""freshet: send observations and get a forecast for each, from a model that keeps learning from them.

async with freshet.connect("127.0.0.1:8300") as client:
    await client.create_model("taxi", channels=["passengers"], interval=1800.0)
    async with client.stream("taxi", "nyc") as stream:
        async for forecast in stream.forecasts(values, times):
            print(forecast.seq, forecast.y)
"""

from freshet import forks as forks  # first: it must run before gRPC is imported
from freshet import sync
from freshet.client import Client, connect
from freshet.errors import (
    AlreadyExists,
    FailedPrecondition,
    Forked,
    FreshetError,
    InvalidArgument,
    LabelRefused,
    NotFound,
    NotOpen,
    PermissionDenied,
    Reason,
    ResourceExhausted,
    RpcError,
    StateLost,
    StreamClosed,
    TakenOver,
    TickRefused,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    WindowRefused,
)
from freshet.forecast import Forecast
from freshet.forecasts import Forecasts
from freshet.learning import Learning
from freshet.measured import MeanErrors, StepErrors, StreamErrors
from freshet.mux import Mux
from freshet.packed import Packed
from freshet.results import (
    Cluster,
    Comparison,
    EventKind,
    Export,
    KeptStream,
    Model,
    ModelEvent,
    ModelReport,
    ModelSpec,
    Node,
    Quarantined,
    Replayed,
    Shard,
    StateOrigin,
    Version,
    Welcome,
)
from freshet.resume import ProtocolError
from freshet.security import Tls
from freshet.stream import Stream
from freshet.ticks import Tick
from freshet.version import __version__ as __version__

__all__ = [
    "AlreadyExists",
    "Client",
    "Cluster",
    "Comparison",
    "EventKind",
    "Export",
    "FailedPrecondition",
    "Forecast",
    "Forecasts",
    "Forked",
    "FreshetError",
    "InvalidArgument",
    "KeptStream",
    "LabelRefused",
    "Learning",
    "MeanErrors",
    "Model",
    "ModelEvent",
    "ModelReport",
    "ModelSpec",
    "Mux",
    "Node",
    "NotFound",
    "NotOpen",
    "Packed",
    "PermissionDenied",
    "ProtocolError",
    "Quarantined",
    "Reason",
    "Replayed",
    "ResourceExhausted",
    "RpcError",
    "Shard",
    "StateLost",
    "StateOrigin",
    "StepErrors",
    "Stream",
    "StreamClosed",
    "StreamErrors",
    "TakenOver",
    "Tick",
    "TickRefused",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "Version",
    "Welcome",
    "WindowRefused",
    "connect",
    "sync",
]
