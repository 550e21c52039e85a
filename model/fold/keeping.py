"""The size of a learner's context of one stream, and the number of contexts it keeps."""

from __future__ import annotations

import math

from model.fold import contexts, histories
from model.fold.contexts import Contexts
from model.fold.histories import Histories
from model.network import Network
from model.update.rounds import GROUP_ROWS

# A learner keeps this many contexts, or as many as fit the budget.
MAX_CONTEXTS = 20_000
CONTEXT_BUDGET_BYTES = 1 << 30


def width(network: Network) -> int:
    """Return the number of float32 values in one context."""
    shapes = (histories if network.spec.label_horizon else contexts).shapes(network)
    return sum(map(math.prod, shapes))


def most_contexts(network: Network) -> int:
    """Return the number of contexts a learner keeps: a function of the spec, because evictions are part of the fold."""
    return max(GROUP_ROWS, min(MAX_CONTEXTS, CONTEXT_BUDGET_BYTES // (4 * width(network))))


def make_contexts(network: Network, limit: int | None = None) -> Contexts | Histories:
    """Return empty contexts of the kind that the task needs. limit: None for `most_contexts`."""
    make = Histories if network.spec.label_horizon else Contexts
    return make(network, limit or most_contexts(network))
