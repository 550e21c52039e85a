"""Runs: ticks of one stream that follow one another, computed one after the other and applied together.

The results are those of single ticks, bit for bit: `ServedModel.step` and `advance_one`, n times.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.common.names import Origin
from service.engine.session import StepSession
from service.streams.served import ServedModel
from service.streams.session import Session

Array = NDArray[np.float32]


class Run(NamedTuple):
    """The next n ticks of a stream. seq, time (seconds, NaN: none): (n,); x: [n, row]."""

    session: Session
    seq: NDArray[np.uint64]
    time: NDArray[np.float64]
    x: Array


def step_runs(model: ServedModel, session: StepSession, runs: list[Run]) -> list[tuple[Array, Array]]:
    """Compute runs of distinct streams, the first ticks of all in one step, then the second ones …; changes nothing.

    Returns y [n, A] and the state [S] after the last tick of each. (A Scan around the graph would be one call for all
    steps, but onnxruntime takes 1.4 times as long for it.)
    """
    order = sorted(range(len(runs)), key=lambda i: -len(runs[i].seq))  # so that the longer ones come first
    sizes = [len(runs[i].seq) for i in order]
    ends = np.cumsum(sizes)
    starts = ends - sizes
    values, known = model.network.inputs(
        np.concatenate([runs[i].time for i in order]), np.concatenate([runs[i].x for i in order])
    )
    states = model.table.state[[runs[i].session.row for i in order]]
    y = np.empty((len(values), model.network.answer_size), np.float32)
    count = len(runs)
    for t in range(sizes[0]):
        while sizes[count - 1] == t:
            count -= 1
        at: Any = slice(t, t + 1) if count == 1 else starts[:count] + t  # the longest run is the first
        y[at], states[:count] = session.run(values[at], known[at], states[:count])
    found = {i: (y[start:end], state) for i, start, end, state in zip(order, starts, ends, states, strict=True)}
    return [found[i] for i in range(len(runs))]


def advance_run(model: ServedModel, run: Run, y: Array, state: Array, end: int) -> int:
    """Apply a computed run: write its last state, keep the answers. Returns the judged_through of all its ticks.

    y: [n, A]; state: [S]; end: the journal's offset just after the last tick.
    """
    (session, seq, time, x), row = run, run.session.row
    t, n = model.table, len(seq)
    model.saving.change()
    judged = model.judged_seq(row)
    previous = np.arange(model.log.end - 1, model.log.end + n - 1)
    previous[0] = t.newest[row]
    model.log.append(
        n, stream=session.number, version=model.champion, seq=seq, judged=judged,
        offset=np.arange(end - n + 1, end + 1), previous=previous, time=time, x=x, y=y,
    )  # fmt: skip
    t.newest[row], t.judged[row] = model.log.end - 1, judged
    model.saving.keep(row)
    t.state[row] = state
    t.last_seq[row], t.last_offset[row] = seq[-1], end
    t.origin[row], t.changed[row] = Origin.RESUMED, True
    timed = time[~np.isnan(time)]
    if len(timed):
        t.last_time[row] = timed[-1]
    return judged
