"""What can go wrong, as a tree. Each names the field, its value and the remedy; the edge maps types to statuses."""

from __future__ import annotations

import enum
from dataclasses import dataclass

SHOWN_CHARACTERS = 80


def shown(value: object) -> str:
    """A value as text, cut to a length that fits an error message."""
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 1] + "…"


class ServiceError(Exception):
    """Base of everything a caller may be told. `field`, `value` and `remedy` are text."""

    def __init__(self, field: str, value: object, remedy: str, *, retry_s: float | None = None) -> None:
        self.field, self.value, self.remedy, self.retry_s = field, shown(value), remedy, retry_s
        super().__init__(f"{field} = {self.value}: {remedy}")


class Invalid(ServiceError):
    """The request can never succeed as it is."""


class NotFound(ServiceError):
    """No such thing, or it is not yours."""


class AlreadyExists(ServiceError):
    """The name is taken by something else."""


class Exhausted(ServiceError):
    """A bound is reached; `retry_s` says when to try again."""


class Unauthenticated(ServiceError):
    """Who calls is not known: no token, or none that is good."""


class Forbidden(ServiceError):
    """Who calls is known, and may not do this."""


class Unavailable(ServiceError):
    """The service cannot take this now: it is starting, draining, or its disk has failed."""


class Reason(enum.IntEnum):
    """Why one message of a stream was refused; the numbers are those of the wire's Refused.Reason."""

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


@dataclass(frozen=True, slots=True)
class Refusal:
    """One message refused inside a stream, which goes on as if it had not come."""

    seq: int
    reason: Reason
    field: str
    value: str
    remedy: str
    item: int = 0  # of a label or a window: which of its call's, from 1
    retry_s: float = 0.0  # of OVERLOADED: when to send it again; 0: after the next Durable
