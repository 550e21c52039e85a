"""The only place where errors become HTTP statuses: their bodies have the reason, field, value and remedy of gRPC's."""

from __future__ import annotations

from typing import Any

import structlog

from service.common.errors import (
    AlreadyExists,
    Exhausted,
    Forbidden,
    Invalid,
    Moved,
    NotFound,
    ServiceError,
    Unauthenticated,
    Unavailable,
    Unsupported,
)
from service.edge.guard.statuses import reason_of
from service.storage.versions import VersionCorrupt

log = structlog.get_logger("http")


class Misdirected(ServiceError):
    """The request names another host than this server."""


class NotAllowed(ServiceError):
    """The path exists and does not take this method. allowed: those that it takes."""

    def __init__(self, method: str, allowed: str) -> None:
        self.allowed = allowed
        super().__init__("method", method, f"this path takes {allowed}")


class Damaged(ServiceError):
    """Files of the server that the request needs are damaged."""


class Fault(ServiceError):
    """The server has a bug; its log has more."""


STATUS: dict[type[ServiceError], int] = {
    Invalid: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    NotAllowed: 405,
    AlreadyExists: 409,
    Misdirected: 421,
    Moved: 421,
    Exhausted: 429,
    Damaged: 500,
    Fault: 500,
    Unsupported: 501,
    Unavailable: 503,
}


def ours(error: Exception) -> ServiceError:
    """Return the error that a caller may see of an exception. What it does not tell is logged."""
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, VersionCorrupt):  # its text names our files
        log.error("a version is damaged: its caller gets 500", why=str(error))
        return Damaged("version", "damaged", "the version's files are damaged: roll back to another")
    log.error("a request has failed", exc_info=error)
    return Fault("server", "a fault", "see its log")


def facts(error: ServiceError, http: str = "") -> dict[str, Any]:
    """Return the body of the reply. http: of a model on another node, the HTTP address of that node."""
    found = {"reason": reason_of(error).upper(), "field": error.field, "value": error.value, "remedy": error.remedy}
    if isinstance(error, Moved):
        found |= {"address": error.address, "http": http}
    return {"error": found}


def headers(error: ServiceError) -> dict[str, str]:
    """Return the headers that go with the status."""
    found = {}
    if isinstance(error, Unauthenticated):
        found["WWW-Authenticate"] = "Bearer"
    if isinstance(error, NotAllowed):
        found["Allow"] = error.allowed
    if error.retry_s is not None and not isinstance(error, Moved):
        found["Retry-After"] = str(max(1, round(error.retry_s)))
    if error.field == "body":  # the rest of it is not read
        found["Connection"] = "close"
    return found
