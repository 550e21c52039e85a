"""A regression whose labels arrive 50 to 500 ticks late and out of order, by two ways, one of them another process."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.journeys.scraped import scrape
from tests.journeys.test_labels import outcomes

TICKS, SCORED = 2200, 600
MODEL: dict[str, Any] = {
    "channels": ["a", "b"], "task": "regress", "targets": ["q"], "hidden": 16, "learning_rate": 1e-2,
    "scaler": "standard", "label_horizon": 600,
}  # fmt: skip
DEADLINE_S = 60.0

Array = NDArray[np.float32]


def world(n: int, seed: int) -> tuple[Array, Array]:
    """x (n, 2), y (n,): y follows from the present values and one two ticks ago, not linearly, plus noise of 0.5."""
    rng = np.random.default_rng(seed)
    a, b = np.zeros(n), np.zeros(n)
    for t in range(1, n):
        a[t], b[t] = 0.8 * a[t - 1] + 0.6 * rng.normal(), 0.5 * b[t - 1] + rng.normal()
    before = np.concatenate([[0, 0], a[:-2]])
    y = 20 + 2.5 * np.tanh(1.5 * before) * b + 3.5 * np.sin(a) + rng.normal(0, 0.5, n)
    return np.stack([100 + 10 * a, b], axis=1).astype(np.float32), y.astype(np.float32)


class Laboratory:
    """The other process, and what it says at its end."""

    def __init__(self, target: str, model: str) -> None:
        self._arguments = sys.executable, "-m", "tests.journeys.laboratory", target, model, "kiln"

    async def __aenter__(self) -> Laboratory:
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(
            *self._arguments, stdin=pipe, stdout=pipe, env={"PYTHONPATH": ":".join(sys.path)}
        )
        assert self._process.stdout is not None
        assert await asyncio.wait_for(self._process.stdout.readline(), DEADLINE_S) == b"ready\n"
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def send(self, seq: int, y: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seq} {y!r}\n".encode())

    async def finish(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.close()
        out, _ = await asyncio.wait_for(self._process.communicate(), DEADLINE_S)
        return dict(json.loads(out))


async def test_labels_that_come_late_and_out_of_order_are_learned_once_each_and_the_error_falls(
    server, client, name, capsys
):
    x, y = world(TICKS, seed=0)
    rng = np.random.default_rng(1)
    arrival = np.arange(TICKS) + rng.integers(50, 501, TICKS)
    due = sorted(range(TICKS), key=lambda i: (arrival[i], i))
    answers, running_mean = np.zeros(TICKS), np.zeros(TICKS)
    seen = total = 0.0
    told = Counter[str]()  # the client's own ledger
    await client.create_model(name, **MODEL)

    async with Laboratory(server.grpc, name) as laboratory, client.stream(name, "kiln") as stream:
        async with asyncio.TaskGroup() as group:
            for t in range(TICKS):
                if t % 100 == 0 and t > 200:  # the trainer keeps up, however slow the machine
                    await stream.wait_judged(t - 200)
                answers[t] = (await stream.step(x[t])).y[0, 0]
                running_mean[t] = total / max(1, seen)
                while due and arrival[due[0]] <= t:
                    at = due.pop(0)
                    seen, total = seen + 1, total + y[at]
                    if at % 3 == 0:
                        laboratory.send(at + 1, float(y[at]))
                        told["from the laboratory"] += 1
                    else:
                        group.create_task(stream.label(at + 1, y[at]))
                        told["from the stream"] += 1
                        if at % 20 == 1:
                            group.create_task(stream.label(at + 1, y[at]))
                            told["again"] += 1
        # A label is another value than the one before, and one comes after its tick is gone from the window.
        await stream.label(TICKS - 499, 999.0)
        await stream.reset()
        await stream.step(x[0])
        await stream.label(TICKS, y[-1])
        ledger = await laboratory.finish()

        items = [item async for item in client.quarantine(name)]
        by_reason = Counter(item.reason for item in items)
        seen_now = outcomes(await scrape(server.http), name)

    error = float(np.mean((answers - y)[-SCORED:] ** 2))
    baseline = float(np.mean((running_mean - y)[-SCORED:] ** 2))
    with capsys.disabled():
        print(f"\nlate labels: MSE {error:.2f}, running mean {baseline:.2f}, noise 0.25, over the last {SCORED} ticks")
    assert error < 0.4 * baseline

    # A process that the machine keeps waiting may come too late for the door; then it is told so.
    assert {reason for _, reason in ledger["refused"]} <= {"UNKNOWN_TICK"}
    assert ledger["acknowledged"] + len(ledger["refused"]) == told["from the laboratory"]
    acknowledged = ledger["acknowledged"] + told["from the stream"] + told["again"] + 2
    assert by_reason == {"conflict": 1, "late": 1}
    assert [(i.seq, list(i.y)) for i in items if i.reason == "conflict"] == [(TICKS - 499, [999.0])]
    assert [i.seq for i in items if i.reason == "late"] == [TICKS]
    assert seen_now["labels"] == acknowledged
    assert seen_now["learned"] == ledger["acknowledged"] + told["from the stream"]
    assert seen_now["duplicate"] == told["again"]

    answer = await client.replay(name, [item.id for item in items])
    assert (list(answer.replayed), dict(answer.refused)) == ([1, 2], {})
    assert [item async for item in client.quarantine(name)] == []
    assert outcomes(await scrape(server.http), name)["learned windows"] == 2
