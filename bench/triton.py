"""Measure the server's CPU per message beside Triton's: its sequence batcher with the same step graph, in turns.

Triton runs the graph that our server exports through onnxruntime in its Python backend (`bench/_triton_model.py`): the
states are in its memory, and nothing is durable. Ours journals every tick. Each stream has one message unanswered. Both
servers get the same messages of the same `tritonclient` (ModelStreamInfer, output y); `Streams.Open` is our own way in.
CPU is of all threads of a server: of Triton's with its backend's process, of ours without the trainer, which has a row
of its own. First our model's learning is paused, then it is on. While it is paused, both servers must answer alike.

Triton comes from the wheel nvidia-pytriton, which is installed into build/triton, or from --server. Where it does not
run, the reason is printed and nothing is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from bench._costs import LOOPS, calibration_s
from bench._drives import UNDURABLE, opened
from bench._triton import Absent, Installed, descendants, installed, process_cpu_s, repository, running
from bench.report import Row, finish, parser
from freshet.v1 import models_pb2, models_pb2_grpc, streams_pb2, types_pb2
from service.programs.backtest.child import ServerChild

ROUNDS, MESSAGES = 12, 480  # messages of a turn, of all streams together; short turns: a busy machine drifts
STREAMS = (1, 16)
MODEL, HIDDEN = "m", 64
ASKED = 0.9  # of our CPU over Triton's
AGREES = 1e-5  # of a forecast: float32 rounding over one step is far below
OIP, OPEN, TRITON = "ModelStreamInfer", "Streams.Open", "Triton"
Array = NDArray[Any]
Step = Callable[[float, bool], Awaitable[float]]  # send a value, and whether it is the last; return its forecast


@dataclass(slots=True)
class Turns:
    """What the turns of one way took.

    parts: process ids by the name of a part of the server; cpu_s: of each part, seconds a message, by round;
    waited: seconds of each message.
    """

    parts: Mapping[str, list[int]]
    steps: list[Step]
    cpu_s: dict[str, list[float]] = field(default_factory=dict)
    waited: list[float] = field(default_factory=list)

    async def turn(self, values: Array, counts: bool, last: bool) -> Array:
        """Send values [streams, n], each stream's one after another, and return the forecasts [streams, n].

        counts: not a warm-up; last: streams end with their last value.
        """
        waited: list[float] = []

        async def stream(step: Step, own: list[float]) -> list[float]:
            answers = []
            for left, value in zip(range(len(own))[::-1], own, strict=True):
                started = time.perf_counter()
                answers.append(await step(value, last and not left))
                waited.append(time.perf_counter() - started)
            return answers

        before = self._used()
        answers = await asyncio.gather(*(stream(s, v) for s, v in zip(self.steps, values.tolist(), strict=True)))
        if counts:
            for part, used in self._used().items():
                self.cpu_s.setdefault(part, []).append((used - before[part]) / values.size)
            self.waited += waited
        return np.array(answers)

    def _used(self) -> dict[str, float]:
        return {part: sum(map(process_cpu_s, pids)) for part, pids in self.parts.items()}

    def serving(self) -> list[float]:
        """Return the CPU seconds per message of all parts, by round."""
        return [sum(each) for each in zip(*self.cpu_s.values(), strict=True)]


async def stepping(channel: grpc.aio.Channel, stream: str) -> Step:
    """Return a step of a stream of Streams.Open, opened as the SDK does."""
    call = await opened(channel, MODEL, stream)
    seqs, on_disk = itertools.count(1), 0

    async def step(value: float, last: bool) -> float:
        nonlocal on_disk
        seq, forecast = next(seqs), None
        await call.write(streams_pb2.OpenRequest(tick=streams_pb2.Tick(seq=seq, x=[value])))
        while forecast is None or seq - on_disk >= UNDURABLE:
            answer = await call.read()
            if (kind := answer.WhichOneof("message")) not in ("forecast", "durable"):
                raise RuntimeError(f"unexpected answer: {answer}")
            forecast = answer.forecast if kind == "forecast" else forecast
            on_disk = max(on_disk, answer.forecast.durable_seq, answer.durable.seq)
        if last:
            await call.done_writing()
        return float(forecast.y[0])

    return step


def streamed(library: Any, client: Any, sequence: int) -> Step:
    """Return a sequence in a call of its own of ModelStreamInfer, with tritonclient as it is."""
    requests: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def sent() -> AsyncIterator[dict[str, Any]]:
        while True:
            yield await requests.get()

    answers, first, wanted = client.stream_infer(sent()), itertools.count(), [library.InferRequestedOutput("y")]

    async def step(value: float, last: bool) -> float:
        tensor = library.InferInput("x", [1, 1], "FP32")
        tensor.set_data_from_numpy(np.array([[value]], np.float32))
        flags = {"sequence_start": next(first) == 0, "sequence_end": last}
        requests.put_nowait(
            {"model_name": MODEL, "inputs": [tensor], "outputs": wanted, "sequence_id": sequence, **flags}
        )
        result, error = await anext(answers)
        if error:
            raise error
        return float(result.as_numpy("y")[0, 0])

    return step


class Pair:
    """Both servers, and the ways into them."""

    def __init__(self, child: ServerChild, triton: tuple[int, str], stack: contextlib.AsyncExitStack) -> None:
        import tritonclient.grpc.aio as library  # its protobuf names are those of our own stubs: not beside these

        self._child, self._triton, self._stack, self._library = child, triton, stack, library
        self._sequences = itertools.count(1)

    async def ways(self, streams: int) -> dict[str, Turns]:
        """Return the three ways, with new streams."""
        ours = {"server": [self._child.pid]}
        pid, address = self._triton
        theirs = {"server": [pid], "its backend": descendants(pid)}
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(self._child.grpc))
        names = [next(self._sequences) for _ in range(streams)]
        return {
            OPEN: Turns(ours, [await stepping(channel, f"open{name}") for name in names]),
            OIP: Turns(ours, await self._streamed(self._child.grpc, names)),
            TRITON: Turns(theirs, await self._streamed(address, names)),
        }

    async def _streamed(self, address: str, sequences: list[int]) -> list[Step]:
        client = self._library.InferenceServerClient(address)
        self._stack.push_async_callback(client.close)
        return [streamed(self._library, client, sequence) for sequence in sequences]


async def compare(ways: Mapping[str, Turns], streams: int, rounds: int) -> float:
    """Run all ways in turns; return the largest difference of their forecasts from Triton's, relative to its own."""
    rng, level, worst = np.random.default_rng(streams), np.zeros((streams, 1)), 0.0
    for r in range(rounds + 1):  # the first round warms up
        values = level + rng.standard_normal((streams, MESSAGES // streams)).cumsum(axis=1)
        level, answers = values[:, -1:], {}
        for name in list(ways)[r % 3 :] + list(ways)[: r % 3]:
            answers[name] = await ways[name].turn(values.astype(np.float32), counts=r > 0, last=r == rounds)
        theirs = answers[TRITON]
        off = [np.abs(given - theirs) / np.maximum(1, np.abs(theirs)) for given in answers.values()]
        worst = max(worst, float(np.max(off)))
    return worst


def rows(case: str, ways: Mapping[str, Turns], bound: float | None, loop_s: float) -> list[Row]:
    """Return the rows of one case. bound: of our CPU over Triton's; loop_s: of 1,000 rounds of a Python loop."""
    theirs, made = ways[TRITON].serving(), []
    for name, turns in ways.items():
        serving = turns.serving()
        made.append(Row(case, f"{name}: CPU per message", median(serving), "s"))
        if name != TRITON:
            ratio = median(a / b for a, b in zip(serving, theirs, strict=True))
            made.append(Row(case, f"{name} / {TRITON}", ratio, "ratio", asked=bound))
        made.append(Row(case, f"{name}: CPU over 1,000 rounds of a Python loop", median(serving) / loop_s, "ratio"))
        parts = list(turns.cpu_s.items())
        made += [Row(case, f"{name}: {part}, CPU per message", median(used), "s") for part, used in parts[1:]]
        cuts = quantiles(turns.waited, n=100)
        made += [Row(case, f"{name}: round trip, {p}", cuts[at], "s") for p, at in (("median", 49), ("p99", 98))]
    return made


async def measure(found: Installed, rounds: int, all_streams: Sequence[int]) -> list[Row]:
    """Run both servers and return the rows."""
    loop_s, made = calibration_s() / LOOPS * 1000, []
    with tempfile.TemporaryDirectory() as name:
        async with contextlib.AsyncExitStack() as stack:
            folder = Path(name)
            child = await stack.enter_async_context(ServerChild(folder / "data", folder / "serve.log"))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(child.grpc))
            models = models_pb2_grpc.ModelsStub(channel)
            spec = types_pb2.ModelSpec(channels=["v"], cell="lstm", hidden=HIDDEN, forecaster="network", head_init=0.3)
            await models.Create(models_pb2.CreateModelRequest(name=MODEL, spec=spec))
            await models.Pause(models_pb2.PauseRequest(name=MODEL))
            onnx = (await models.Export(models_pb2.ExportRequest(name=MODEL))).onnx
            (folder / "triton").mkdir()
            kept = repository(folder / "models", MODEL, onnx, max(all_streams))
            triton = await stack.enter_async_context(running(found, kept, folder / "triton"))
            print(f"tritonserver {triton.version}, its Python backend with onnxruntime", file=sys.stderr)
            pair = Pair(child, (triton.pid, triton.address), stack)
            for learning, streams in itertools.product((False, True), all_streams):
                if learning:
                    await models.Resume(models_pb2.ResumeRequest(name=MODEL))
                ways = await pair.ways(streams)
                trainer = descendants(child.pid)
                before = sum(map(process_cpu_s, trainer))
                worst = await compare(ways, streams, rounds)
                ticks = (len(ways) - 1) * (rounds + 1) * MESSAGES
                trained_s = (sum(map(process_cpu_s, trainer)) - before) / ticks
                case = f"{streams} at once, learning {'on' if learning else 'paused'}"
                made += rows(case, ways, None if learning else ASKED, loop_s)
                made.append(Row(case, "trainer: CPU per tick of ours", trained_s, "s"))
                made += [] if learning else [Row(case, "largest difference of forecasts", worst, "1", asked=AGREES)]
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if a ratio exceeds its bound, 0 if Triton does not run here."""
    options = parser(__doc__)
    options.add_argument(
        "--server", type=Path, default=os.environ.get("TRITON_SERVER"), metavar="DIR",
        help="folder of an installed Triton, with bin/tritonserver and backends/python; default: $TRITON_SERVER",
    )  # fmt: skip
    options.add_argument("--rounds", type=int, default=ROUNDS, metavar="N")
    options.add_argument("--streams", type=int, nargs="+", default=STREAMS, metavar="N")
    arguments = options.parse_args(argv)
    try:
        made = asyncio.run(measure(installed(arguments.server), arguments.rounds, arguments.streams))
    except Absent as reason:
        print(f"nothing is measured: {reason}")
        return 0
    return finish(made, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
