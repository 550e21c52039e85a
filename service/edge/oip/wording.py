"""The words of Triton's errors, which its clients parse or show; ours, with field, value and remedy, follow them."""

from __future__ import annotations

from typing import TypeVar

from service.common.errors import Exhausted, Forbidden, Invalid, NotFound, Reason, Refusal, ServiceError

E = TypeVar("E", bound=ServiceError)


def worded(error: E, text: str) -> E:
    """Return the error with `text` before its own message; its type, hence its status, stays."""
    error.args = (f"{text}; {error}",)
    return error


def unknown_model(name: str, error: NotFound) -> NotFound:
    """Return the error for a model that does not exist, or not for the caller."""
    return worded(error, f"Request for unknown model: '{name}' is not found")


def unknown_version(name: str, version: str, serving: int) -> NotFound:
    """Return the error for a version that does not serve."""
    remedy = f"version {serving} serves, and changes as the model learns: leave the version out"
    text = f"Request for unknown model: '{name}' version {version} is not found"
    return worded(NotFound("model_version", version, remedy), text)


def no_sequence(model: str) -> Invalid:
    """Return the error for a request without a sequence id."""
    remedy = "give the parameter sequence_id, a number other than 0 or a name: it becomes the id of a stream"
    text = f"inference request to model '{model}' must specify a non-zero or non-empty correlation ID"
    return worded(Invalid("sequence_id", "none", remedy), text)


def not_started(model: str, id: str) -> Invalid:
    """Return the error for a sequence that the server does not know, in a request that does not start it."""
    text = f"inference request for sequence {id} to model '{model}' must specify the START flag on the first request"
    remedy = "the model has no stream of that id: send sequence_start = true with its first tick"
    return worded(Invalid("sequence_id", id, remedy), f"{text} of the sequence")


def bad_parameter(name: str, expected: str, value: object) -> Invalid:
    """Return the error for a parameter of another type."""
    text = f"invalid value type for '{name}' parameter, expected {expected}."
    return worded(Invalid(name, value, f"send it as {expected}"), text)


def refused(refusal: Refusal, done: int) -> ServiceError:
    """Return the error for a tick or label that is refused.

    done: ticks of the same request before it, which are answered and stay.
    """
    kinds: dict[Reason, type[ServiceError]] = {Reason.OVERLOADED: Exhausted, Reason.NOT_ALLOWED: Forbidden}
    kind = kinds.get(refusal.reason, Invalid)
    remedy = refusal.remedy
    if done:
        remedy += f" (the {done} ticks before it are part of the stream: go on with tick {refusal.seq})"
    retry_s = (refusal.retry_s or 1.0) if kind is Exhausted else None
    return kind(refusal.field, refusal.value, remedy, retry_s=retry_s)
