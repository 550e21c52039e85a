"""Proof that an import computes what the original does: stored outputs, and onnxruntime on random inputs."""

from __future__ import annotations

import contextlib
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.lib import format as npy
from numpy.typing import NDArray

from model.foreign.answers import TOLERANCE, Arrangement, answers, arrangement_of, difference
from model.foreign.fitting import plain
from model.foreign.graph import Imported
from model.foreign.layers import Stack
from model.foreign.refused import ForeignError
from service.common.errors import Invalid, shown

Array = NDArray[Any]

MAX_CHECK_BYTES = 64 << 20  # of all arrays in a file for --check
MAX_ARRAYS = 64
ROWS, STEPS = 3, 9  # of random inputs, where the graph leaves them open
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Differs(Exception):
    """The import does not compute what the original did."""


def read_arrays(file: Path) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return the arrays in/NAME and out/NAME of an .npz, float32, by name. Raises Invalid, OSError.

    Sizes are checked before anything is allocated; nothing is unpickled.
    """
    inputs: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    left = MAX_CHECK_BYTES
    try:
        with zipfile.ZipFile(file) as archive:
            for entry in archive.infolist():
                side, _, name = entry.filename.removesuffix(".npy").partition("/")
                kept = {"in": inputs, "out": outputs}.get(side)
                if kept is None or not name:
                    continue
                left -= entry.file_size
                if left < 0 or len(inputs) + len(outputs) == MAX_ARRAYS:
                    remedy = f"give at most {MAX_ARRAYS} arrays of {MAX_CHECK_BYTES} bytes in all"
                    raise Invalid("check", str(file), remedy)
                kept[name] = _array(archive, entry, f"{side}/{name}")
    except zipfile.BadZipFile as error:
        raise Invalid("check", str(file), f"not an .npz file: {error}") from None
    if not inputs or not outputs:
        raise Invalid("check", str(file), "it must hold arrays in/NAME and out/NAME: np.savez(FILE, **{'in/x': x, …})")
    return inputs, outputs


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> Array:
    """Return one float32 array, C order, after its header was compared with its size."""
    try:
        with archive.open(entry) as data:
            shape, fortran, dtype = HEADERS[npy.read_magic(data)](data)
            if dtype != np.float32 or fortran:
                raise Invalid("check", name, f"{dtype}{', Fortran order' * fortran}: give float32 in C order")
            body = data.read(entry.file_size)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise Invalid("check", name, f"not an array of NumPy: {error}") from None
    if len(body) != math.prod(shape) * dtype.itemsize:
        raise Invalid("check", name, f"shape {shape} does not fit its {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape)


def check_stored(file: Path, stack: Stack, graph: Imported | None, time_first: bool) -> str:
    """Compare with stored inputs and outputs, and return a line about it. Raises Differs, Invalid, OSError."""
    inputs, outputs = read_arrays(file)
    try:
        how = arrangement_of(inputs, outputs, time_first) if graph is None else graph.how
        if len(outputs) == len(how.outputs) == 1:  # whatever the exporter called it
            outputs = dict(zip(how.outputs, outputs.values(), strict=True))
        unknown = sorted(outputs.keys() - how.outputs.keys())
        if unknown:
            raise ForeignError("out/" + unknown[0], "not an output", f"the graph has {', '.join(how.outputs)}")
        made = _ours(stack, how, inputs)
    except ForeignError as error:
        raise Differs(f"{file}: {error}") from None
    worst = _worst(outputs, made, str(file))
    return f"{len(outputs)} outputs in {file.name} differ by at most {worst:.1e}"


def check_original(data: bytes, stack: Stack, graph: Imported) -> str:
    """Compare with onnxruntime on random inputs, and return a line about it. Raises Differs.

    Only for a graph that `read_graph` accepted: every node was interpreted, so its cost is known.
    """
    rng = np.random.default_rng(0)
    T, B = (axis or n for axis, n in zip(_time_and_rows(graph), (STEPS, ROWS), strict=True))
    features = stack.layers[0].inputs
    x = (T, B, features) if graph.how.time_first else (B, T, features)
    shapes = {graph.how.x: x} | dict.fromkeys(graph.how.starts, (len(stack.layers), B, stack.layers[0].hidden))
    inputs = {name: rng.uniform(-1, 1, shape).astype(np.float32) for name, shape in shapes.items()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # a graph that it refuses is our sentence, not its log
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints some refusals
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        found = session.run(list(graph.how.outputs), inputs)
    except Exception as error:  # onnxruntime raises its own types
        raise Differs(f"onnxruntime does not run the graph: {shown(str(error))}") from None
    worst = _worst(dict(zip(graph.how.outputs, found, strict=True)), _ours(stack, graph.how, inputs), "onnxruntime")
    return f"onnxruntime's outputs for random inputs differ by at most {worst:.1e}"


def _time_and_rows(graph: Imported) -> tuple[int | None, int | None]:
    first, second = graph.shape[:2]
    return (first, second) if graph.how.time_first else (second, first)


def _ours(stack: Stack, how: Arrangement, inputs: Mapping[str, Array]) -> dict[str, Array]:
    network, weights = plain(stack)
    with np.errstate(all="ignore"):  # what is not finite differs
        return answers(network, weights, how, inputs)


def _worst(expected: Mapping[str, Array], ours: Mapping[str, Array], source: str) -> float:
    """Return the largest difference. Raises Differs above TOLERANCE, or where shapes differ."""
    worst = 0.0
    for name, array in expected.items():
        if array.shape != ours[name].shape:
            shapes = f"{list(array.shape)}, the imported model gives {list(ours[name].shape)}"
            raise Differs(f"{source}: output {name} has shape {shapes}")
        gap = difference(array, ours[name])
        if not gap <= TOLERANCE:
            remedy = "check the order of gates, the biases and the layout"
            raise Differs(f"{source}: output {name} differs by {gap:.3g}, more than {TOLERANCE:g}: {remedy}")
        worst = max(worst, gap)
    return worst
