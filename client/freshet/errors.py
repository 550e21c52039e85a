"""The exceptions of this package. The only module that reads gRPC statuses."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from freshet.packed import Packed

_DETAILS_KEY = "grpc-status-details-bin"


class Reason(enum.IntEnum):
    """Why a tick, label or window was refused: the numbers of `freshet.v1.Refused.Reason`."""

    UNSPECIFIED = 0
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

    @classmethod
    def _missing_(cls, value: object) -> Reason:  # a newer server may know more reasons
        return cls.UNSPECIFIED


class FreshetError(Exception):
    """Base of every exception that this package raises by itself."""


class TickRefused(FreshetError):
    """One tick was refused; the stream's state is unchanged. `field` held `value`; `remedy` says what to send."""

    def __init__(self, seq: int, field: str, value: str, remedy: str, reason: Reason) -> None:
        super().__init__(f"tick {seq} refused ({reason.name}): {field} = {value}; {remedy}")
        self.seq, self.field, self.value, self.remedy, self.reason = seq, field, value, remedy, reason


class LabelRefused(FreshetError):
    """One label was refused. `field` held `value`; `remedy` says what to send. `stream` is empty for the own stream."""

    def __init__(self, seq: int, field: str, value: str, remedy: str, reason: Reason, stream: str = "") -> None:
        whose = f" of {stream!r}" if stream else ""
        super().__init__(f"label for tick {seq}{whose} refused ({reason.name}): {field} = {value}; {remedy}")
        self.seq, self.field, self.value, self.remedy, self.reason = seq, field, value, remedy, reason
        self.stream = stream


class WindowRefused(FreshetError):
    """One labelled window was refused. `field` held `value`; `remedy` says what to send."""

    def __init__(self, field: str, value: str, remedy: str, reason: Reason) -> None:
        super().__init__(f"window refused ({reason.name}): {field} = {value}; {remedy}")
        self.field, self.value, self.remedy, self.reason = field, value, remedy, reason


class StreamClosed(FreshetError):
    """The stream is closed or closing. It accepts nothing more; ticks that were never sent are dropped."""


class NotOpen(FreshetError, RuntimeError):
    """The object was used before it was opened. For clients this was a RuntimeError, so it still is one.

    thing: name of the object. how: the expression for the `async with` or `with` statement.
    """

    def __init__(self, thing: str, how: str, statement: str = "async with") -> None:
        super().__init__(f"the {thing} is not open: use `{statement} {how}`")
        self._thing, self._how = thing, how

    def blocking(self) -> NotOpen:
        """Return the same error worded for the blocking form."""
        return NotOpen(self._thing, self._how, "with")


class TakenOver(FreshetError):
    """Another client has opened this stream. The SDK does not reconnect, because the two clients would take turns
    forever."""


class StateLost(FreshetError):
    """The server has lost the state that this stream continued from, and the client cannot send it again.

    For a Mux, `streams` are the affected ones; `packed` holds the answers of the step that noticed it, or None.
    """

    streams: tuple[str, ...] = ()
    packed: Packed | None = None


class Forked(FreshetError):
    """This process was forked from one that had used gRPC, which does not survive a fork: use spawn or forkserver."""


class RpcError(FreshetError):
    """The server ended a call with an error. `code` is its gRPC status."""

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN) -> None:
        super().__init__(message)
        self.code = code


class InvalidArgument(RpcError):
    """A field of a request is wrong. `field`, `value` and `remedy` are empty if the server did not name them."""

    def __init__(self, message: str, field: str = "", value: str = "", remedy: str = "") -> None:
        super().__init__(message, grpc.StatusCode.INVALID_ARGUMENT)
        self.field, self.value, self.remedy = field, value, remedy


class NotFound(RpcError):
    """The model, version or stream does not exist."""


class AlreadyExists(RpcError):
    """The name exists with another spec."""


class FailedPrecondition(RpcError):
    """The request is valid, but the server's state forbids it."""


class PermissionDenied(RpcError):
    """The credential's role does not allow this call."""


class Unauthenticated(PermissionDenied):
    """The credential is missing, wrong, expired or revoked. The SDK never retries with the same one."""


class ResourceExhausted(RpcError):
    """A limit of the server is reached. `retry_delay_s` is the server's advice in seconds, or None."""

    retry_delay_s: float | None = None


class Unimplemented(RpcError):
    """This server does not have this method."""


class Unavailable(RpcError):
    """No working server answered in the time allowed.

    If there was no connection and its cause was found, `problem` names it: "refused", "silent", "unreachable",
    "unresolved", "proxy"; "tls" (the server speaks TLS), "plain" (it does not), "http" (not gRPC); "untrusted", "name",
    "expired" (the server's certificate), "certificate" (the client's), "files", "closed". `found` and `remedy` describe
    it. lasting: later calls fail too until one side changes.
    """

    problem = found = remedy = ""
    lasting = False

    def __init__(self, message: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE) -> None:
        super().__init__(message, code)


# Statuses of a broken connection or a server that shuts down. INTERNAL also stands for RST_STREAM, and for a write
# that raced the end of the call (grpc/grpc#36066), which hides the true status.
RETRYABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED})

_BY_CODE: dict[grpc.StatusCode, type[RpcError]] = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.INTERNAL: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
}


class Failed(Protocol):
    """The part of `grpc.aio.AioRpcError` that this module reads."""

    def code(self) -> grpc.StatusCode: ...  # noqa: D102
    def details(self) -> str | None: ...  # noqa: D102
    def trailing_metadata(self) -> object: ...  # noqa: D102


def from_rpc(error: Failed) -> FreshetError:
    """Return the exception for a gRPC error. The caller raises it."""
    code, text = error.code(), error.details() or error.code().name
    details = _rich_details(error)
    if code is grpc.StatusCode.ABORTED:
        return TakenOver(text)
    if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE):
        return InvalidArgument(text, *_violation(details))
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        if "larger than max" in text:  # gRPC's own text for a message over the server's limit
            text += "; start the server with a larger --max-message-bytes"
        exhausted = ResourceExhausted(text, code)
        exhausted.retry_delay_s = _retry_delay_s(details)
        return exhausted
    return _BY_CODE.get(code, RpcError)(text, code)


def may_succeed_later(error: Failed, was_open: bool) -> bool:
    """Whether the same call may succeed a little later.

    RESOURCE_EXHAUSTED counts if the server says when to retry, but only for a client that has had a call open: a new
    client gets the error.
    """
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return was_open and _retry_delay_s(_rich_details(error)) is not None
    return error.code() in RETRYABLE


def moved_to(error: Failed) -> str | None:
    """Return the address that a node names instead of its own; None for another error."""
    info = error_details_pb2.ErrorInfo()
    for detail in _rich_details(error).details if error.code() is grpc.StatusCode.UNAVAILABLE else ():
        if detail.Unpack(info) and info.reason == "MOVED" and info.domain == "freshet":
            return info.metadata.get("address") or None
    return None


def _rich_details(error: Failed) -> status_pb2.Status:
    """Return the google.rpc.Status sent with the error; an empty one if it is absent or unreadable."""
    metadata = error.trailing_metadata()
    for key, value in metadata if metadata is not None else ():  # type: ignore[attr-defined]
        if key == _DETAILS_KEY:
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _violation(status: status_pb2.Status) -> tuple[str, str, str]:
    """Return (field, value, remedy) of the first BadRequest violation; the value is in ErrorInfo's metadata."""
    field = value = remedy = ""
    bad, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(bad) and bad.field_violations:
            field, remedy = bad.field_violations[0].field, bad.field_violations[0].description
        elif detail.Unpack(info):
            value = info.metadata.get("value", "")
    return field, value, remedy


def _retry_delay_s(status: status_pb2.Status) -> float | None:
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        if detail.Unpack(retry):
            return float(retry.retry_delay.seconds + retry.retry_delay.nanos * 1e-9)
    return None
