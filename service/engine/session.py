"""One version's step graph as an onnxruntime session, and its check against the recorded answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model.graph.divided.parts import divided
from service.engine.export import Canary
from service.engine.single import SingleStep

Array = NDArray[np.float32]

onnxruntime.disable_telemetry_events()  # a server reports to no third party

PARITY = 1e-5  # scaled units; float32 rounding over one step is two orders below
# Memory of an onnxruntime session, measured: a constant, and a multiple of the file.
SESSION_BYTES, SESSION_FACTOR = 256 << 10, 3
SINGLE_BYTES = 112 << 10  # of the second session, for single rows, instead of SESSION_BYTES

NO_NUMBER = ZeroDivisionError, ValueError  # of the arithmetic of a divided step


class BadVersion(RuntimeError):
    """The ONNX file does not load, or does not reproduce its recorded answers."""


def _options() -> Any:
    options = onnxruntime.SessionOptions()
    # One step is microseconds of work: a thread pool would cost more than it computes.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Rewriting the graph doubles the time to load a version, and a step gains nothing: the export writes it as it runs.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Values that share memory are counted at every node: a tenth of a step. Without that it takes no more memory.
    options.enable_mem_reuse = False
    return options


def _load(onnx: bytes) -> Any:
    return onnxruntime.InferenceSession(onnx, _options(), providers=["CPUExecutionProvider"])


class StepSession:
    """One version's step graph, ready to run. `run`: on one thread at a time; `compute`: on any, at the same time."""

    def __init__(self, onnx: bytes) -> None:
        """Raises BadVersion."""
        self._divided: SingleStep | None = None
        try:
            self._session = _load(onnx)
            self._bind()
            self.nbytes = SESSION_BYTES + SESSION_FACTOR * len(onnx)  # approximately
        except Exception as error:  # onnxruntime's own exceptions share no base class
            raise BadVersion(f"the ONNX file does not load: {error}") from error

    def __repr__(self) -> str:
        x, state, y = (self._single[name].shape[1] for name in ("x", "state", "y"))
        return f"StepSession({x} channels, state {state}, {y} outputs, {self.nbytes / 1024:.0f} KiB)"

    def _bind(self) -> None:
        """Bind buffers for B = 1. Raises for a graph with other names or ranks than a step's.

        Forecasts and bounds lie side by side in one buffer: the answer.
        """
        widths = {i.name: i.shape[1] for i in (*self._session.get_inputs(), *self._session.get_outputs())}
        self._answer = ["y", "bounds"] if "bounds" in widths else ["y"]
        self._single = {name: np.zeros((1, width), np.float32) for name, width in widths.items()}
        self.outputs = widths["y"]
        answer = np.zeros((1, sum(widths[name] for name in self._answer)), np.float32)
        self._single |= {"y": answer[:, : self.outputs], "bounds": answer[:, self.outputs :], "answer": answer}
        self._binding = self._session.io_binding()
        for name in ("x", "u", "state"):
            self._binding.bind_cpu_input(name, self._single[name])
        for name in (*self._answer, "next_state"):
            buffer = self._single[name]
            self._binding.bind_output(name, "cpu", 0, np.float32, buffer.shape, buffer.ctypes.data)

    def run(self, x: Array, u: Array, state: Array) -> tuple[Array, Array]:
        """Compute one step: x [B, C], u [B, F], state [B, S] → answers [B, A], next state [B, S].

        An answer is O forecasts and, with intervals, their bounds (`model.answers.intervals.bounds`).
        For B = 1 the results are buffers that the next call overwrites: copy them to keep them. Bound buffers cost a
        third of a plain call; see `divide` too.
        """
        if len(x) > 1:
            return self.compute(x, u, state)
        if self._divided is not None:
            try:
                return self._divided.run(x, u, state)
            except NO_NUMBER:
                pass  # the whole graph continues with an infinite value, or raises the same error
        return self._whole(x, u, state)

    def _whole(self, x: Array, u: Array, state: Array) -> tuple[Array, Array]:
        single = self._single
        single["x"][...], single["u"][...], single["state"][...] = x, u, state
        self._session.run_with_iobinding(self._binding)
        return single["answer"], single["next_state"]

    def divide(self, onnx: bytes, canary: Canary) -> bool:
        """Run single rows in about half the time from now on: with part of the graph as arithmetic in Python.

        onnx: the graph of this session. Only where that pays, and where the recorded ticks, each also as the first of a
        stream, have the same bits then. Returns whether that is so. Raises BadVersion for a part that does not load.
        """
        try:
            parts = divided(onnx)
            if parts is None:
                return False
            step = SingleStep(parts, {name: buffer.shape[1] for name, buffer in self._single.items()}, _load)
        except Exception as error:  # as above
            raise BadVersion(f"the graph for single rows does not load: {error}") from error
        rows = [slice(i, i + 1) for i in range(len(canary.x))]
        if not all(
            self._agrees(step, canary.x[row], canary.u[row], state)
            for row in rows
            for state in (canary.state[row], np.zeros_like(canary.state[row]))
        ):
            return False
        self._divided = step
        self.nbytes += SINGLE_BYTES + SESSION_FACTOR * len(parts.graph)
        return True

    def _agrees(self, step: SingleStep, x: Array, u: Array, state: Array) -> bool:
        expected = self._whole(x, u, state)
        try:
            found = step.run(x, u, state)
        except NO_NUMBER:
            return True  # the whole graph is then run
        return all(a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True))

    def compute(self, x: Array, u: Array, state: Array) -> tuple[Array, Array]:
        """Compute what `run` does, bit for bit, with new results for any B. On any thread."""
        *answer, after = self._session.run([*self._answer, "next_state"], {"x": x, "u": u, "state": state})
        return answer[0] if len(answer) == 1 else np.concatenate(answer, axis=1), after


def parity(session: StepSession, canary: Canary) -> float:
    """Return the largest difference from the recorded answers, in the canary's units; inf if not finite.

    A bound that is not known yet is NaN on both sides.
    Raises BadVersion for a graph that does not accept the canary's inputs, or returns other shapes.
    """
    try:
        y, after = session.run(canary.x, canary.u, canary.state)
    except Exception as error:  # as above
        raise BadVersion(f"the ONNX file does not run: {error}") from error
    if (y.shape, after.shape) != (canary.y.shape, canary.next_state.shape):
        raise BadVersion(f"the ONNX file answers {y.shape} and {after.shape}, not in the shapes recorded")
    # float32 rounds an answer to 2⁻²³ of its size: with a mean of 1e5, a unit of 1 cannot agree to 1e-5.
    off = np.maximum(np.abs(y - canary.y) - np.abs(canary.y) * 2.0**-23, 0) / canary.scale
    unknown = np.isnan(y) & np.isnan(canary.y)
    off[:, session.outputs :][unknown[:, session.outputs :]] = 0
    worst = np.max(off, initial=0.0)
    off = np.abs(after - canary.next_state) / canary.state_scale
    worst = np.maximum(worst, np.max(off, initial=0.0))  # Python's max would ignore a NaN
    return float(worst) if np.isfinite(worst) else float("inf")
