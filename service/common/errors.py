"""Errors that callers see. Each names the field, its value and the remedy; the edge maps their types to statuses."""

from __future__ import annotations

import enum
from dataclasses import dataclass

SHOWN_CHARACTERS = 80


def shown(value: object) -> str:
    """Return a value as text, cut to a length that fits an error message."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


class ServiceError(Exception):
    """Base of all errors that callers see. retry_s: seconds after which a retry may succeed; None: unknown."""

    def __init__(self, field: str, value: object, remedy: str, *, retry_s: float | None = None) -> None:
        self.field, self.value, self.remedy, self.retry_s = field, shown(value), remedy, retry_s
        super().__init__(f"{field} = {self.value}: {remedy}")


class Invalid(ServiceError):
    """The request can never succeed unchanged."""


class NotFound(ServiceError):
    """The thing does not exist, or belongs to another tenant."""


class AlreadyExists(ServiceError):
    """The name is taken by something else."""


class Exhausted(ServiceError):
    """A limit is reached; `retry_s` is the time to the next attempt."""


class Unauthenticated(ServiceError):
    """The caller is unknown: no token, or an invalid one."""


class Forbidden(ServiceError):
    """The caller is known and may not do this."""


class Unavailable(ServiceError):
    """The server cannot accept this now: it is starting or draining, or its disk has failed."""


class Unsupported(ServiceError):
    """The server does not offer this as it is set up."""


class Moved(Unavailable):
    """Another node has the model. address: the gRPC address of that node."""

    def __init__(self, shard: int, address: str) -> None:
        self.shard, self.address = shard, address
        super().__init__("shard", shard, f"it is on another node: connect to {address}", retry_s=0.0)


def store_unreachable() -> Unavailable:
    """Return the error that callers get while the store that nodes share does not answer."""
    return Unavailable("store", "unreachable", "try again once it answers", retry_s=1.0)


class Reason(enum.IntEnum):
    """Why one message of a stream was refused. Numbered as Refused.Reason on the wire."""

    SHAPE = 1
    NON_FINITE = 2
    TOO_LARGE = 3
    GAP = 4
    CONFLICT = 5
    ANSWER_LOST = 6
    TIME = 7
    UNKNOWN_TICK = 8
    OVERLOADED = 9
    UNSUPPORTED = 10
    INVALID = 11
    NOT_ALLOWED = 12
    MOVED = 13


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused message of a stream. The stream continues as if the message had not been sent."""

    seq: int
    reason: Reason
    field: str
    value: str
    remedy: str
    item: int = 0  # ordinal of a label or window in its call, from 1
    retry_s: float = 0.0  # with OVERLOADED: seconds until it may be sent again; 0: after the next Durable
