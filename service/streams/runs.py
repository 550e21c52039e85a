"""Ticks of one stream that follow one another: computed one after the other, applied together.

The results are those of single ticks, bit for bit: `ServedModel.step` and `advance_one`, n times.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.common.names import Origin
from service.engine.session import StepSession
from service.streams.served import ServedModel

Array = NDArray[np.float32]


def step_run(model: ServedModel, session: StepSession, row: int, time: NDArray[np.float64], x: Array) -> tuple[
    Array, Array
]:  # fmt: skip
    """Compute n ticks of the stream in `row`; changes nothing.

    time: (n,) seconds; x: [n, row] → y [n, A], and the state [S] after the last, in a buffer that the next step
    overwrites.
    (A Scan around the graph would be one call for all, but onnxruntime takes 1.4 times as long for it.)
    """
    values, known = model.network.inputs(time, x)
    state = model.table.state[row : row + 1]
    y = np.empty((len(x), model.network.answer_size), np.float32)
    for i in range(len(x)):
        answer, state = session.run(values[i : i + 1], known[i : i + 1], state)
        y[i] = answer[0]
    return y, state[0]


def advance_run(
    model: ServedModel, row: int, seq: NDArray[np.uint64], time: NDArray[np.float64], x: Array, y: Array, state: Array,
    end: int,
) -> int:  # fmt: skip
    """Apply n computed ticks of the stream in `row`: write its last state, keep the answers. Returns judged_through.

    seq, time: (n,); x: [n, row]; y: [n, A]; state: [S]; end: the journal's offset just after the last.
    """
    t, n = model.table, len(seq)
    model.saving.change()
    judged = model.judged_seq(row)
    previous = np.arange(model.log.end - 1, model.log.end + n - 1)
    previous[0] = t.newest[row]
    model.log.append(
        n, stream=t.number[row], version=model.champion, seq=seq, judged=judged,
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
