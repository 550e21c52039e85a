"""Bounds: sizes that the server accepts, work that one turn of the loop takes, and how to thin learning (DESIGN R6).

Pure functions and constants. docs/hardening.md lists each bound with its test.
"""

from __future__ import annotations

from model.cells import ring
from model.fold.keeping import width
from model.fold.windows import unrolled
from model.network import Network
from model.spec import ModelSpec
from service.common.errors import Invalid

MAX_THINNING = 1024
MAX_MAGNITUDE = 1e15  # of a value; its square still fits float32
MAX_TIME_S = 1e12  # of an event time, seconds since 1970

# ---- models

# With this many float32 parameters, weights and .onnx still fit one Export message, 64 MiB.
MAX_PARAMETERS = 8_000_000
# Numbers per row of an update's window, inputs and hidden units: 32 rows with their tapes stay below 1 GB.
MAX_UNROLLED = 1 << 19
# State of a stream with rings of keys and values: it fits a message of 1 MiB, and so does what is put with it.
MAX_STATE_BYTES = 768 << 10
# Label values per row of an update's window: 32 rows of labels, mask and forecasts stay below 1 GB.
MAX_LABELS = 1 << 21
# Size of an imported file of weights, or of a graph.
MAX_WEIGHTS_BYTES = 64 << 20
# Versions that a model keeps forever: the first, and all imported, promoted or returned to. More imports are refused.
MAX_PINNED = 256
# What the learner keeps of one stream; an update copies a group of 32 streams.
MAX_CONTEXT_BYTES = 8 << 20

# ---- labels and windows

# Ticks of one labelled window, where MAX_UNROLLED and MAX_LABELS allow as many.
MAX_WINDOW_STEPS = 4096
# Senders of windows that a model remembers, each with the number of its last window.
MAX_SOURCES = 1024
# Labels and windows of one Training.Learn call that wait for an acknowledgement; at the limit the server stops reading.
MAX_UNACKNOWLEDGED = 1024
MAX_UNACKNOWLEDGED_BYTES = 8 << 20

# ---- connections and calls

# Connections of the HTTP side server: probes, scrapers, and viewers of the page. Fewer, where descriptors are few.
MAX_HTTP_CONNECTIONS = 64
LEAST_HTTP_CONNECTIONS = 16
# Path and query of an HTTP request, its body, and a reply in JSON.
MAX_TARGET_BYTES = 1 << 14
MAX_BODY_BYTES = 1 << 16
MAX_REPLY_BYTES = 1 << 20
# Replies in JSON that are kept for a second.
MAX_KEPT_REPLIES = 256
# Headers of one call, each with 32 bytes of overhead (RFC 9113, 6.5.2), after HPACK has expanded them.
MAX_HEADER_BYTES = 8192
# Calls on all connections that the event loop has not seen yet; twice as many are the hard limit.
MAX_PENDING_CALLS = 256
# Bytes of a connection before any of its calls is admitted: gRPC buffers a block of headers that never ends.
MAX_STRANGER_BYTES = 1 << 16
# Health checks, which need no token, that wait for their request; with more, the oldest is ended.
MAX_CHECKS = 32
# Time from the start of a unary call to its request.
REQUEST_S = 30.0
# Size of a file of certificates, or of a key.
MAX_PEM_BYTES = 1 << 20
# Time to read a changed file; beyond it the former content stays in force.
READ_S = 10.0
# Descriptors kept for files, databases, the trainer's pipes, polling and LEAST_HTTP_CONNECTIONS.
RESERVED_DESCRIPTORS = 48
# Audit lines of refusals, per tenant and for all callers without a valid token: at once, and per second after that.
AUDIT_REFUSALS = 20
AUDIT_REFUSALS_PER_S = 1.0
# Handles of one Mux call: columns, 21 bytes per handle.
MAX_HANDLES = 1 << 20
# Binds of one message: each takes a record and an entry of the answer.
MAX_BINDS = 1 << 14

# Ticks of one message of Streams.Open, where the limit below allows as many.
MAX_MESSAGE_TICKS = 256
# Numbers in the rows and answers of such a message: 256 KiB each way.
MAX_MESSAGE_NUMBERS = 1 << 16

# Ticks of one request of the Open Inference Protocol.
MAX_REQUEST_TICKS = 1024
# Requests of one call of ModelStreamInfer that are not answered yet; beyond that the call is not read.
MAX_STREAM_REQUESTS = 64
# Sequences of one model that are open; beyond that the longest unused is closed. Its stream stays.
MAX_SEQUENCES = 1 << 16

# ---- work of one step, and of one turn of the loop

# Rows of one step, where the two limits below allow as many.
MAX_STEP_ROWS = 1024
# Multiply-adds of one step: about 4 ms of one core. A larger wave takes several steps.
MAX_STEP_WORK = 1 << 27
# Numbers in the rows of one step: values, states, and answers counted four times because they are copied more often.
# The event loop handles this many in a few ms.
MAX_STEP_NUMBERS = 1 << 18
# Multiply-adds that the event loop computes itself in one turn, about 2 ms; a thread beside the loop computes larger
# steps. One message of 1,024 rows of a default model stays below it.
MAX_TURN_WORK = 1 << 26
# Multiply-adds of a small step. A turn reserves as much work again for small steps, so that they do not wait for large.
MAX_SMALL_WORK = 1 << 23
# Multiply-adds of a row that is stepped on arrival, before the loop turns: about 0.1 ms.
MAX_LONE_WORK = 1 << 20
# Ticks of a wave decided one by one in one turn, because they do not simply follow their stream's last tick.
MAX_DECIDED = 128
# Streams bound in one turn of the loop: each takes a record.
MAX_BOUND_AT_ONCE = 32
RING_WORK = 80  # multiply-adds that one number of a ring costs: it is read and copied about ten times
UNIT_WORK = 300  # multiply-adds that one activation costs
LOAD_ROWS = 4  # rows whose work equals bringing the weights into the cache


def learn_every(backlog: int, comfortable: int) -> int:
    """Return the n of "learn one label in n": 1 up to a comfortable backlog of entries, then doubling with it."""
    n = 1
    while backlog > comfortable * n and n < MAX_THINNING:
        n *= 2
    return n


def comfortable(entries: int, seconds: float, seconds_each: float) -> int:
    """Return the largest backlog without thinning: `entries`, or fewer that take `seconds` to learn; at least 1.

    seconds_each: learning time of one entry; 0: unknown.
    """
    return max(1, min(entries, int(seconds / seconds_each))) if seconds_each > 0 else entries


def connections(asked: int, descriptors: int) -> int:
    """Return the connections to accept: `asked`, or fewer, to reserve descriptors for files. At least 1."""
    viewers = http_connections(descriptors) - LEAST_HTTP_CONNECTIONS
    return max(1, min(asked, descriptors - RESERVED_DESCRIPTORS - viewers))


def http_connections(descriptors: int) -> int:
    """Return the connections of the HTTP side server: MAX_HTTP_CONNECTIONS, or an eighth of few descriptors."""
    return max(LEAST_HTTP_CONNECTIONS, min(MAX_HTTP_CONNECTIONS, descriptors // 8))


def is_overdue(since: float | None, now: float, allowed: float) -> bool:
    """Whether something that began at `since` has taken longer than `allowed` seconds. since: None: nothing runs."""
    return since is not None and now - since > allowed


def window_steps(network: Network) -> int:
    """Return the most ticks of a labelled window: at least the spec's own window."""
    spec = network.spec
    return max(spec.window, min(MAX_WINDOW_STEPS, MAX_UNROLLED // tick_size(network), MAX_LABELS // spec.outputs))


def tick_size(network: Network) -> int:
    """Return the numbers of one row and tick in a long window, as `MAX_UNROLLED` counts them."""
    return -(-unrolled(network, MAX_WINDOW_STEPS) // MAX_WINDOW_STEPS)


def row_work(network: Network) -> int:
    """Return the estimated multiply-adds of one row's step: one per weight, and the cost of activations and of
    rings of keys and values."""
    spec = network.spec
    return network.layout.size + UNIT_WORK * spec.layers * spec.hidden + RING_WORK * sum(map(ring, network.cells))


def step_work(row: int, rows: int) -> int:
    """Return the multiply-adds of a step of `rows` rows, each of `row`, including the loading of the weights."""
    return row * (rows + LOAD_ROWS)


def step_rows(network: Network) -> int:
    """Return the most rows of one step: at least 1, which takes under a millisecond even with the largest model."""
    spec = network.spec
    numbers = network.row + 3 * spec.outputs + network.answer_size + network.state_size
    by_work = MAX_STEP_WORK // row_work(network) - LOAD_ROWS
    return max(1, min(MAX_STEP_ROWS, by_work, MAX_STEP_NUMBERS // numbers))


def message_ticks(network: Network) -> int:
    """Return the most ticks of one stream in one message: at least 1."""
    return max(1, min(MAX_MESSAGE_TICKS, MAX_MESSAGE_NUMBERS // (network.row + network.answer_size)))


def check_size(spec: ModelSpec) -> None:
    """Raise Invalid, naming the field to lower, for a model whose files, updates or contexts need too much memory.

    The bounds keep an update at a few GB, however many streams the model has.
    """
    network = Network(spec)
    if network.layout.size > MAX_PARAMETERS:
        remedy = (
            f"the model would have {network.layout.size} parameters, at most {MAX_PARAMETERS}: fewer units, or outputs"
        )
        raise Invalid("spec.hidden", spec.hidden, remedy)
    state = 4 * network.state_size
    if sum(map(ring, network.cells)) and state > MAX_STATE_BYTES:
        remedy = f"the state of a stream would take {state} bytes, at most {MAX_STATE_BYTES}: lower it, or fewer units"
        raise Invalid("spec.attention_window", spec.attention_window, remedy)
    longest = spec.window * (2 if spec.label_horizon else 1)  # ticks up to a late label
    size = unrolled(network, longest)
    if size > MAX_UNROLLED:
        remedy = f"ticks × (inputs + hidden units) is {size}, at most {MAX_UNROLLED}: a shorter window"
        raise Invalid("spec.window", spec.window, remedy)
    context = 4 * width(network)
    if context > MAX_CONTEXT_BYTES:
        field = "horizon" if spec.horizon >= spec.learn_every else "learn_every"
        field = "label_horizon" if spec.label_horizon else field
        change = "lower it, or fewer targets"
        if 8 * network.trace_size > context:  # the larger half
            field, change = "rule", "fewer hidden units or channels, or tbptt"
        remedy = f"learning keeps {context} bytes per stream, at most {MAX_CONTEXT_BYTES}: {change}"
        raise Invalid(f"spec.{field}", getattr(spec, field), remedy)
    labels = longest * spec.outputs
    if labels > MAX_LABELS:
        remedy = f"ticks × outputs is {labels}, at most {MAX_LABELS}: a shorter window, or fewer outputs"
        raise Invalid("spec.window", spec.window, remedy)
