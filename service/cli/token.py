"""`freshet token …`: create tokens, and check an access file as the server does."""

from __future__ import annotations

import datetime as dt
import json
import os
import secrets
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from service.access.grants import Access, AccessError, Quota, Role, parse, token_digest
from service.common.documents import DocumentError, read_text
from service.common.errors import Invalid
from service.console.verbs import group, guarded, refused

token = group("token", "Tokens of the access file: create one, list them.")

PREFIX = "freshet_"  # so that scanners for leaked secrets recognize a token
UNITS = {
    "models": "models",
    "streams": "streams",
    "ticks_per_s": "ticks/s",
    "work_per_s": "multiply-adds/s",
    "in_flight_bytes": "bytes in flight",
    "calls": "calls",
    "learn_s_per_s": "s of learning per s",
}
Choice = StrEnum("Choice", {role.name: role.name.lower() for role in Role})  # type: ignore[misc]


@token.command()
def new(
    tenant: Annotated[str, typer.Option(help="Tenant whose models and streams it opens.", metavar="NAME")],
    role: Annotated[Choice, typer.Option(help="Rights: predict < train < admin; metrics: GET /metrics.")],
    name: Annotated[str, typer.Option(help="Name of the holder, for logs.", metavar="TEXT")] = "",
    days: Annotated[int | None, typer.Option(min=1, max=36500, help="Expire after N days.", metavar="N")] = None,
    append: Annotated[Path | None, typer.Option(help="Add the entry to this access file.", metavar="FILE")] = None,
) -> None:
    """Create a token and its entry for the access file.

    The token is shown only now. With --append, nothing else is printed. A running server reads the file within seconds.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    until = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(days=days) if days else None
    made = entry(secret, tenant, role.value, name, until)

    def work() -> int:
        try:
            parse(made)
            if append is not None:
                add(append, made)
        except AccessError as error:
            raise Invalid("token", f"{tenant}, {role.value}", str(error)) from error
        print(secret)
        if append is None:
            print(
                f"\nThis was the token; the server needs only its entry, for the access file:\n\n{made}",
                file=sys.stderr,
            )
        return 0

    raise typer.Exit(guarded(work))


@token.command("list")
def list_tokens(file: Annotated[Path, typer.Argument(help="The access file.", metavar="FILE")]) -> None:
    """List tokens with their rights and expiry, and quotas; report errors as the server does."""
    from service.console.tables import print_table

    try:
        access = parse(read_text(file))
    except (AccessError, OSError, DocumentError) as error:
        raise refused(error if isinstance(error, OSError) else AccessError(f"{file}: {error}")) from None
    print_table(("sha256", "tenant", "role", "name", "expires"), rows(access))
    for tenant, quota in sorted(access.quotas.items()):
        print(f"{tenant}: {limits(quota)}")


def limits(quota: Quota) -> str:
    """Return the limits of a quota in words."""
    unlimited, limited = asdict(Quota()), asdict(quota)
    words = (f"{limited[name]:,.15g} {unit}" for name, unit in UNITS.items() if limited[name] != unlimited[name])
    return ", ".join(words) or "no limits"


def rows(access: Access) -> list[tuple[object, ...]]:
    """Return the tokens as rows of a table."""
    return [
        (
            f"{grant.digest[:12]}…", grant.tenant, grant.role.name.lower(), grant.name,
            "never" if grant.expires > 1e11 else dt.datetime.fromtimestamp(grant.expires, dt.UTC).isoformat(),
        )
        for grant in sorted(access.grants.values(), key=lambda grant: (grant.tenant, grant.role, grant.name))
    ]  # fmt: skip


def entry(secret: str, tenant: str, role: str, name: str, until: dt.datetime | None) -> str:
    """Return a token's entry in an access file, TOML."""
    words = {"sha256": token_digest(secret), "tenant": tenant, "role": role} | ({"name": name} if name else {})
    lines = ["[[token]]", *(f"{key} = {json.dumps(word)}" for key, word in words.items())]  # as TOML writes strings too
    lines += [f"expires = {until.isoformat().replace('+00:00', 'Z')}"] if until else []
    return "\n".join(lines) + "\n"


def add(path: Path, made: str) -> None:
    """Add an entry to an access file, which is created if needed and replaced atomically.

    Raises AccessError if the file was invalid before, OSError.
    """
    before = read_text(path) if path.exists() else ""
    if before:
        parse(before)
        made = f"{made}\n{before}" if "[tenant." in before else f"{before.rstrip()}\n\n{made}"
    parse(made)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(made)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        fresh.chmod(path.stat().st_mode & 0o777)
    fresh.replace(path)
