"""The model that Triton's Python backend runs: a step graph of ours, with the state of each sequence in memory.

`bench._triton` copies this file into a model repository, beside the graph. It imports nothing of freshet: it runs in
Triton's own process, with NumPy and onnxruntime. Nothing is durable: a state is lost with the process.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

GRAPH = "step.onnx"
Array = NDArray[np.float32]


class States:
    """The states of the sequences that are open, one row each, and the step that moves several at once."""

    def __init__(self, onnx: bytes, sequences: int) -> None:
        """sequences: the most at once."""
        options = onnxruntime.SessionOptions()  # as `service.engine.session` sets them
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_mem_reuse = False
        self._session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        widths = {i.name: i.shape[1] for i in self._session.get_inputs()}
        self._state = np.zeros((sequences, widths["state"]), np.float32)
        self._none = np.zeros((sequences, widths["u"]), np.float32)
        self._rows: dict[int, int] = {}  # by sequence
        self._free = list(range(sequences))[::-1]

    def step(self, sequences: Sequence[int], starts: Sequence[bool], x: Array) -> Array:
        """Return the forecasts [n, O] of one tick of each of n sequences, and keep their next states. x: [n, C].

        A start begins with zeros. Raises KeyError for a sequence that never started.
        """
        for sequence, start in zip(sequences, starts, strict=True):
            if start and sequence not in self._rows:
                self._rows[sequence] = self._free.pop()
            if start:
                self._state[self._rows[sequence]] = 0
        rows = [self._rows[sequence] for sequence in sequences]
        feed = {"x": x, "u": self._none[: len(rows)], "state": self._state[rows]}
        y, self._state[rows] = self._session.run(["y", "next_state"], feed)
        forecasts: Array = y
        return forecasts

    def end(self, sequence: int) -> None:
        """Forget a sequence."""
        self._free.append(self._rows.pop(sequence))


class TritonPythonModel:
    """What the backend calls. `pb_utils`: its module, which only exists inside it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph."""
        pb_utils = importlib.import_module("triton_python_backend_utils")

        onnx = (Path(args["model_repository"]) / args["model_version"] / GRAPH).read_bytes()
        self._pb, self._states = pb_utils, States(onnx, json.loads(args["model_config"])["max_batch_size"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch: of each sequence that is ready, one tick; all of them in one run of the graph."""
        pb = self._pb

        def sent(request: Any, name: str) -> Any:
            return pb.get_input_tensor_by_name(request, name).as_numpy()

        ready = [i for i, request in enumerate(requests) if sent(request, "READY")[0, 0]]
        sequences = [int(sent(requests[i], "CORRID")[0, 0]) for i in ready]
        x = [sent(requests[i], "x") for i in ready]
        starts = [bool(sent(requests[i], "START")[0, 0]) for i in ready]
        y = self._states.step(sequences, starts, x[0] if len(x) == 1 else np.concatenate(x))
        answers: list[Any] = [None] * len(requests)
        for n, i in enumerate(ready):
            answers[i] = pb.InferenceResponse([pb.Tensor("y", y[n : n + 1])])
            if sent(requests[i], "END")[0, 0]:
                self._states.end(sequences[n])
        for i in {*range(len(requests))} - {*ready}:
            answers[i] = pb.InferenceResponse([pb.Tensor("y", np.zeros((1, 1), np.float32))])
        return answers
