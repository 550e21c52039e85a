"""The access file: tokens, each with a tenant and a role, and the tenants' quotas. No I/O."""

from __future__ import annotations

import datetime as dt
import enum
import hmac
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from service.common.documents import DocumentError, toml
from service.common.errors import Unauthenticated, shown

DEFAULT_TENANT = "default"  # of every caller, without an access file
TENANT_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
DIGEST = re.compile(r"[0-9a-f]{64}")
SCHEME = "Bearer "


class AccessError(ValueError):
    """An invalid access file. Names the entry, its value and the remedy."""


class Role(enum.IntEnum):
    """What a token permits; each role includes those before it. Numbered as freshet.v1.Role, except METRICS."""

    METRICS = 0  # read /metrics of all tenants; call no method
    PREDICT = 1
    TRAIN = 2
    ADMIN = 3


@dataclass(frozen=True, slots=True)
class Grant:
    """The tenant and role that a token stands for.

    digest: sha256 of the token, hex; "" without an access file, when every caller has this grant.
    expires: seconds since 1970.
    """

    tenant: str
    role: Role
    digest: str = ""
    name: str = ""  # for logs, which never hold the token
    expires: float = math.inf

    @property
    def sees_all(self) -> bool:
        """Whether it may read the metrics of all tenants."""
        return self.role is Role.METRICS or (self.tenant, self.role) == (DEFAULT_TENANT, Role.ADMIN)

    def __repr__(self) -> str:
        """Without the digest, so that no log can hold it."""
        name = f", {self.name!r}" if self.name else ""
        return f"Grant({self.tenant!r}, {self.role.name.lower()}{name})"


EVERYBODY = Grant(DEFAULT_TENANT, Role.ADMIN)  # without an access file


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of one tenant. Without an entry only the server's own limits apply."""

    models: int = 2**63
    streams: int = 2**63
    ticks_per_s: float = math.inf
    work_per_s: float = math.inf  # multiply-adds of its ticks' steps
    in_flight_bytes: int = 2**63  # received and not yet answered, in all its calls
    calls: int = 2**63  # open calls of any method
    learn_s_per_s: float = math.inf  # seconds of learning per second, in all trainers


UNLIMITED = Quota()
PER_SECOND = {"ticks_per_s", "work_per_s", "learn_s_per_s"}  # positive numbers; the others are counts
NOBODY = "-" * 64


@dataclass(frozen=True)
class Access:
    """The content of an access file. open: there is none, and no caller needs a token."""

    grants: Mapping[str, Grant] = field(default_factory=dict)  # by digest
    quotas: Mapping[str, Quota] = field(default_factory=dict)
    open: bool = False

    def admit(self, authorization: str | None, now: float) -> Grant:
        """Return the grant of a call with this `authorization` metadata. now: seconds since 1970.

        Takes the same time for every invalid token. Raises Unauthenticated.
        """
        if self.open:
            return EVERYBODY
        if not authorization:
            raise refused("(none)", "send `authorization: Bearer TOKEN` with every call")
        if not authorization.startswith(SCHEME):
            raise refused("another scheme", "send `authorization: Bearer TOKEN`")
        # A caller cannot choose the bits of a sha256, so the duration of its look-up reveals nothing about a token.
        digest = token_digest(authorization.removeprefix(SCHEME))
        found = self.grants.get(digest)
        if not hmac.compare_digest(found.digest if found else NOBODY, digest) or found is None:
            raise refused("a token", "unknown to this server: ask its operator for another")
        if found.expires <= now:
            raise refused("a token", "it has expired: ask the operator for another")
        return found

    def still_valid(self, grant: Grant, now: float) -> bool:
        """Whether a call admitted under this grant may continue. now: seconds since 1970."""
        if self.open:
            return True
        now_granted = self.grants.get(grant.digest)
        if now_granted is None or now_granted.tenant != grant.tenant:
            return False
        return now_granted.role >= grant.role and now_granted.expires > now

    def quota(self, tenant: str) -> Quota:
        """Return the quota of a tenant."""
        return self.quotas.get(tenant, UNLIMITED)


OPEN = Access(open=True)


def refused(value: str, remedy: str) -> Unauthenticated:
    """Return the error for a caller that is not admitted. It never holds the token."""
    return Unauthenticated("authorization", value, remedy)


def token_digest(token: str) -> str:
    """Return the sha256 of a token, hex. Tokens are random and long, so they need no salt and no slow hash."""
    return sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def parse(text: str) -> Access:
    """Parse an access file, TOML. Raises AccessError for any entry that is not understood."""
    try:
        content = toml(text)
    except DocumentError as error:
        raise AccessError(f"not TOML: {error}") from error
    unknown = content.keys() - {"token", "tenant"}
    if unknown:
        raise AccessError(f"{shown(min(unknown))}: no such entry; write [[token]] and [tenant.NAME]")
    tokens, tenants = content.get("token", []), content.get("tenant", {})
    if not isinstance(tokens, list) or not isinstance(tenants, dict):
        raise AccessError("token is a list, [[token]]; tenant a table, [tenant.NAME]")
    grants: dict[str, Grant] = {}
    for at, entry in enumerate(tokens, 1):
        grant = _grant(f"token {at}", entry)
        if grant.digest in grants:
            raise AccessError(f"token {at}: its sha256 occurs twice; a token has one tenant and one role")
        grants[grant.digest] = grant
    return Access(grants, {name: _quota(name, entry) for name, entry in tenants.items()})


def _grant(where: str, entry: Any) -> Grant:
    known = {"sha256", "tenant", "role", "name", "expires"}
    entry = _table(where, entry, known)
    digest, tenant, name = entry.get("sha256", ""), entry.get("tenant", ""), entry.get("name", "")
    role, expires = entry.get("role", ""), entry.get("expires")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise AccessError(
            f"{where}: sha256 must be 64 hex digits in lower case; `freshet token new` prints such an entry"
        )
    if not isinstance(role, str) or role.upper() not in Role.__members__:
        raise AccessError(f"{where}: role = {shown(repr(role))}; choose {', '.join(r.name.lower() for r in Role)}")
    if not isinstance(name, str) or len(name) > 64 or (name and not name.isprintable()):
        raise AccessError(f"{where}: name = {shown(repr(name))}; give up to 64 printable characters")
    if expires is not None and (not isinstance(expires, dt.datetime) or expires.tzinfo is None):
        raise AccessError(f"{where}: expires = {expires}; give a time with its zone, e.g. 2027-01-01T00:00:00Z")
    _check_tenant(where, tenant)
    ends = math.inf if expires is None else expires.timestamp()
    return Grant(tenant, Role[role.upper()], digest, name, ends)


def _quota(tenant: str, entry: Any) -> Quota:
    where = f"tenant.{shown(tenant)}"
    _check_tenant(where, tenant)
    entry = _table(where, entry, set(Quota.__dataclass_fields__))
    for name, value in entry.items():
        whole = name not in PER_SECOND
        right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not right or not 0 <= value < 2**63 or (value == 0 and not whole):
            allowed = "whole number" if whole else "number above 0"
            raise AccessError(f"{where}.{name} = {shown(repr(value))}; give a {allowed}")
    return Quota(**entry)


def _table(where: str, entry: Any, known: set[str]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        # Do not repeat the value: it may be a token, and this text is logged.
        raise AccessError(f"{where}: {type(entry).__name__}; write it as a table")
    unknown = entry.keys() - known
    if unknown:
        raise AccessError(f"{where}.{shown(min(unknown))}: no such key; known are {', '.join(sorted(known))}")
    return entry


def _check_tenant(where: str, tenant: Any) -> None:
    if not isinstance(tenant, str) or not TENANT_NAME.fullmatch(tenant):
        allowed = "give 1 to 64 of a-z, 0-9, '-', '_', beginning with a letter"
        raise AccessError(f"{where}: tenant = {shown(repr(tenant))}; {allowed}")
