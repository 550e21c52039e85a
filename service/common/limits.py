"""Bounds: how thinly an overloaded trainer learns (DESIGN R6), how large a model may be. Plain functions."""

from __future__ import annotations

from model.fold.keeping import width
from model.network import Network
from model.spec import ModelSpec
from service.common.errors import Invalid

MAX_THINNING = 1024
MAX_MAGNITUDE = 1e15  # squares of it still fit float32
MAX_TIME_S = 1e12  # of event time, seconds since 1970
# Weights and .onnx of so many float32 parameters still fit one Export message, 64 MiB.
MAX_PARAMETERS = 8_000_000
# Numbers that one row of an update's window holds, inputs and hidden units: 32 rows with their tapes stay below 1 GB.
MAX_UNROLLED = 1 << 19
# Labels that one row of an update's window has room for: 32 rows of labels, mask and forecasts stay below 1 GB.
MAX_LABELS = 1 << 21
# A file of either, as people give it.
MAX_WEIGHTS_BYTES = 64 << 20
# Versions that a model keeps for good: the first, those imported, promoted, returned to. With more, none is imported.
MAX_PINNED = 256
# Ticks of one labelled window, where MAX_UNROLLED and MAX_LABELS allow as many.
MAX_WINDOW_STEPS = 4096
# Senders of windows that a model remembers: for each, the number of its last window.
MAX_SOURCES = 1024
# Labels and windows that one call of Training.Learn may have on their way to an acknowledgement; with more, the server
# reads on only when some are acknowledged.
MAX_UNACKNOWLEDGED = 1024
MAX_UNACKNOWLEDGED_BYTES = 8 << 20
# What the learner keeps of one stream; a group of 32 streams is copied for an update.
MAX_CONTEXT_BYTES = 8 << 20


# Of the side server: for probes, and whoever scrapes.
MAX_HTTP_CONNECTIONS = 16
# Headers of one call, each with 32 bytes for its place (RFC 9113, 6.5.2), however few HPACK makes of them.
MAX_HEADER_BYTES = 8192
# Calls that have come and that the event loop has not seen yet, of all connections; twice as many at the very most.
MAX_PENDING_CALLS = 256
# What a connection may send before any of its calls is let in: a header block that never ends is kept whole.
MAX_STRANGER_BYTES = 1 << 16
# Health checks, which need no token, whose request has not come; with more, the oldest is ended.
MAX_CHECKS = 32
# From a call's begin to its request, where a method takes one.
REQUEST_S = 30.0
# Of a file of certificates, or of a key.
MAX_PEM_BYTES = 1 << 20
# For a file that has changed to be read and understood; beyond it, what was read before stays in force.
READ_S = 10.0
# For files, databases, the trainer's pipes, polling, and the side server.
RESERVED_DESCRIPTORS = 48
# Audit lines of refusals: of one tenant, or of all callers without a good token, at once, and per second after that.
AUDIT_REFUSALS = 20
AUDIT_REFUSALS_PER_S = 1.0
# Of one call of Mux: its handles are columns, 21 bytes each.
MAX_HANDLES = 1 << 20
# Of one message: each takes a record and a line of the answer.
MAX_BINDS = 1 << 14
# Rows of one step, where the two below allow as many.
MAX_STEP_ROWS = 1024
# Multiply-adds of one step: some 4 ms of one core. A wave with more takes several steps.
MAX_STEP_WORK = 1 << 27
# Numbers that the rows of one step hold, values, states and answers together, these four times as they are copied more
# often: the loop does with them in a few ms.
MAX_STEP_NUMBERS = 1 << 18
# Multiply-adds of the steps that the event loop computes itself in one of its turns, some 2 ms; what is beyond them is
# computed by a thread beside the loop. One message of 1,024 rows of a default model is below it.
MAX_TURN_WORK = 1 << 26
# Multiply-adds of a step for which a turn has as much room again: who ticks little does not wait behind who ticks much.
MAX_SMALL_WORK = 1 << 23
# Multiply-adds of a row that may be stepped as soon as it has come, before the loop turns: some 0.1 ms.
MAX_LONE_WORK = 1 << 20
# Ticks of a wave that are not plainly good, decided at once: each takes a look, and a line of the answer.
MAX_DECIDED = 128
# Streams bound in one turn of the loop: each takes a record.
MAX_BOUND_AT_ONCE = 32
UNIT_WORK = 300  # an activation costs as many multiply-adds
LOAD_ROWS = 4  # to bring the weights into the cache costs as much as so many rows


def learn_every(backlog: int, comfortable: int) -> int:
    """How thinly the trainer should learn: 1 while its backlog of entries is comfortable, then doubling with it."""
    n = 1
    while backlog > comfortable * n and n < MAX_THINNING:
        n *= 2
    return n


def comfortable(entries: int, seconds: float, seconds_each: float) -> int:
    """The backlog up to which nothing is thinned: so many entries, or as many as are learned in so many seconds if each
    takes `seconds_each`; at least 1."""
    return max(1, min(entries, int(seconds / seconds_each))) if seconds_each > 0 else entries


def connections(asked: int, descriptors: int) -> int:
    """How many connections there may be in a process that may have so many descriptors: at most as many as asked, so
    that there is always one for a file. At least 1."""
    return max(1, min(asked, descriptors - RESERVED_DESCRIPTORS))


def is_overdue(since: float | None, now: float, allowed: float) -> bool:
    """Whether something that began at `since` (None: nothing is under way) has taken longer than allowed. Seconds."""
    return since is not None and now - since > allowed


def window_steps(network: Network) -> int:
    """The most ticks that one labelled window may have: at least the spec's own window."""
    spec = network.spec
    unrolled = network.features + spec.layers * spec.hidden
    return max(spec.window, min(MAX_WINDOW_STEPS, MAX_UNROLLED // unrolled, MAX_LABELS // spec.outputs))


def row_work(network: Network) -> int:
    """Multiply-adds of one row's step, estimated: one for each weight, and what the activations cost."""
    spec = network.spec
    return network.layout.size + UNIT_WORK * spec.layers * spec.hidden


def step_work(row: int, rows: int) -> int:
    """Multiply-adds of a step of so many rows, each of `row`, with the weights brought into the cache."""
    return row * (rows + LOAD_ROWS)


def step_rows(network: Network) -> int:
    """The most rows of one step: at least 1, which takes below a millisecond with the largest model there may be."""
    spec = network.spec
    numbers = len(spec.channels) + 4 * spec.outputs + network.state_size
    by_work = MAX_STEP_WORK // row_work(network) - LOAD_ROWS
    return max(1, min(MAX_STEP_ROWS, by_work, MAX_STEP_NUMBERS // numbers))


def check_size(spec: ModelSpec) -> None:
    """Refuse a model whose files, updates or contexts would take too much memory: some GB at most, however many streams
    it has. Raises Invalid, naming the field to lower."""
    network = Network(spec)
    if network.layout.size > MAX_PARAMETERS:
        remedy = (
            f"the model would have {network.layout.size} parameters, at most {MAX_PARAMETERS}: fewer units, or outputs"
        )
        raise Invalid("spec.hidden", spec.hidden, remedy)
    longest = spec.window * (2 if spec.label_horizon else 1)  # ticks that lead to a late label
    unrolled = longest * (network.features + spec.layers * spec.hidden)
    if unrolled > MAX_UNROLLED:
        remedy = f"ticks × (inputs + hidden units) is {unrolled}, at most {MAX_UNROLLED}: a shorter window"
        raise Invalid("spec.window", spec.window, remedy)
    context = 4 * width(network)
    if context > MAX_CONTEXT_BYTES:
        field = "horizon" if spec.horizon >= spec.learn_every else "learn_every"
        field = "label_horizon" if spec.label_horizon else field
        remedy = f"learning keeps {context} bytes per stream, at most {MAX_CONTEXT_BYTES}: lower it, or fewer targets"
        raise Invalid(f"spec.{field}", getattr(spec, field), remedy)
    labels = longest * spec.outputs
    if labels > MAX_LABELS:
        remedy = f"ticks × outputs is {labels}, at most {MAX_LABELS}: a shorter window, or fewer outputs"
        raise Invalid("spec.window", spec.window, remedy)
