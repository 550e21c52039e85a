"""Measure the step graph that serving runs: its nodes, the time of one row, and the time per row of many.

Each case is a model that differs from the default in one thing; all run as `StepSession` runs them, one row divided
into arithmetic and a smaller graph where it is served so, in turn with the graph of the first edition, whole. Beside
them runs a graph that never changes: the arithmetic of one LSTM cell of 32 units and its readout, without scaler or
state in one row. Times relative to it compare two versions of freshet, and two machines.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from bench.report import Row, alternated, finish, one_blas_thread, parser

one_blas_thread()

import numpy as np  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)
import onnxruntime  # noqa: E402
from onnx import ModelProto, TensorProto, helper, numpy_helper  # noqa: E402

from model.graph.divided.parts import divided  # noqa: E402
from model.graph.step import export_step  # noqa: E402
from model.network import Network  # noqa: E402
from model.spec import ModelSpec  # noqa: E402
from service.engine.export import Canary, export  # noqa: E402
from service.engine.session import StepSession  # noqa: E402

HIDDEN, WARM, MANY, BLOCK_S = 32, 40, 1024, 0.01  # WARM: ticks that bring a state off zero
CASES: dict[str, dict[str, Any]] = {
    "network": {"forecaster": "network"},
    "mixture": {"forecaster": "mixture"},
    "mixture, season": {"forecaster": "mixture", "interval": 3600.0},
    "mixture, own readout": {"forecaster": "mixture", "own_readout": True},
    "intervals": {"forecaster": "network", "intervals": (0.8, 0.95)},
    "missing=hold": {"forecaster": "network", "missing": "hold"},
    "horizon 24": {"forecaster": "network", "horizon": 24},
    "3 channels": {"forecaster": "network", "channels": ("a", "b", "c")},
    "gru": {"forecaster": "network", "cell": "gru"},
    "standard": {"forecaster": "network", "scaler": "standard"},
    "residual_v1": {"forecaster": "network", "scaler": "residual_v1"},
    "scaler none": {"forecaster": "network", "scaler": "none"},
}


def exported(fields: dict[str, Any], before: bool = False) -> tuple[Network, StepSession, bytes]:
    """Return a network of these fields, with random weights, and its step as it is served, with its graph.

    before: as the first edition and its version of freshet served it.
    """
    network = Network(ModelSpec(**{"channels": ("a",), "cell": "lstm", "hidden": HIDDEN, "horizon": 1, **fields}))
    weights = network.weights(np.random.default_rng(0).normal(0, 0.1, network.layout.size).astype(np.float32))
    if before:
        onnx = export_step(network, weights, 1)
        return network, StepSession(onnx), onnx
    made = export(network, weights)
    session = StepSession(made.onnx)
    session.divide(made.onnx, Canary.unpack(made.canary))
    return network, session, made.onnx


def stepping(network: Network, session: StepSession, rows: int) -> Callable[[], float]:
    """Return a function that runs the step about BLOCK_S long and returns the seconds of one run."""
    rng, C = np.random.default_rng(1), len(network.spec.channels)
    x, state = np.zeros((rows, C), np.float32), np.zeros((rows, network.state_size), np.float32)
    for tick in range(WARM):
        x = x + rng.standard_normal((rows, C), np.float32)
        u = network.ahead.inputs(3600.0 * tick + np.zeros(rows))
        state = session.run(x, u, state)[1].copy()
    return _repeated(lambda: session.run(x, u, state))


def _repeated(run: Callable[[], object]) -> Callable[[], float]:
    begun = time.thread_time()  # of the processor: other work on the machine takes turns with this one
    for _ in range(WARM):
        run()
    count = max(1, round(BLOCK_S * WARM / (time.thread_time() - begun)))

    def block() -> float:
        begun = time.thread_time()
        for _ in range(count):
            run()
        return (time.thread_time() - begun) / count

    return block


def reference(rows: int) -> Callable[[], float]:
    """Return a function as of `stepping`, for the bare cell: two inputs, 11 nodes and the readout."""
    H, rng = HIDDEN, np.random.default_rng(2)
    weights = {"W": rng.normal(0, 0.1, (H + 2, 4 * H)), "b": rng.normal(0, 0.1, 4 * H), "R": np.full((H, 1), 0.1)}
    constants = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    constants += [numpy_helper.from_array(np.array(v), k) for k, v in {"two": [3 * H, H], "three": [H, H, H]}.items()]
    nodes = [helper.make_node(kind, i.split(), o.split(), **_axis(kind))
             for kind, i, o in (
                 ("Concat", "h x", "hx"), ("Gemm", "hx W b", "gates"), ("Split", "gates two", "s n"),
                 ("Sigmoid", "s", "oif"), ("Split", "oif three", "o i f"), ("Tanh", "n", "t"), ("Mul", "i t", "it"),
                 ("Mul", "f c", "fc"), ("Add", "it fc", "c_next"), ("Tanh", "c_next", "tc"), ("Mul", "o tc", "h_next"),
                 ("MatMul", "h_next R", "y"))]  # fmt: skip
    widths = {"x": 2, "h": H, "c": H, "y": 1, "h_next": H, "c_next": H}
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["B", width]) for n, width in widths.items()}
    graph = helper.make_graph(nodes, "cell", [values[n] for n in "xhc"], list(values.values())[3:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {n: rng.standard_normal((rows, widths[n]), np.float32) for n in "xhc"}
    return _repeated(lambda: session.run(None, feed))


def _axis(kind: str) -> dict[str, Any]:
    return {"axis": 1} if kind in ("Concat", "Split") else {}


def nodes(onnx: bytes) -> list[str]:
    """Return the kinds of a graph's nodes."""
    return [node.op_type for node in ModelProto.FromString(onnx).graph.node]


def measure(name: str, rounds: int) -> list[Row]:
    """Return the rows of one case: nodes, then times, alternated with the first edition and the reference."""
    network, now, onnx = exported(CASES[name])
    _, before, earlier = exported(CASES[name], before=True)
    counts, parts = [float(len(nodes(graph))) for graph in (onnx, earlier)], divided(onnx)
    rows = [Row(name, "nodes", counts[0], ""), Row(name, "nodes / first edition", counts[0] / counts[1], "ratio")]
    rows.append(Row(name, "B=1: nodes beside arithmetic", float(len(nodes(parts.graph))) if parts else counts[0], ""))
    for B in (1, MANY):
        blocks = {"now": stepping(network, now, B), "before": stepping(network, before, B), "cell": reference(B)}
        taken = alternated(blocks, rounds)
        rows.append(Row(name, f"B={B}: a row", taken["now"] / B, "s"))
        rows.append(Row(name, f"B={B}: / first edition", taken["now"] / taken["before"], "ratio"))
        rows.append(Row(name, f"B={B}: / cell alone", taken["now"] / taken["cell"], "ratio"))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows."""
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", metavar="CASE", default=list(CASES), choices=list(CASES))
    options.add_argument("--rounds", type=int, default=41, help="number of alternated blocks, about 10 ms each")
    arguments = options.parse_args(argv)
    rows = []
    for name in arguments.only:
        counted = Counter(nodes(exported(CASES[name])[2])).most_common()
        print(f"{name}: {', '.join(f'{count} {kind}' for kind, count in counted)}", file=sys.stderr)
        rows += measure(name, arguments.rounds)
    return finish(rows, arguments.json)


if __name__ == "__main__":
    raise SystemExit(main())
