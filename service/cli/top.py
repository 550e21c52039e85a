"""`freshet top`: what it takes. What it needs is imported inside, so that `freshet --help` stays quick."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from service.cli.remote.models import Json
from service.console.remote import Remote
from service.console.verbs import LOCAL, asking, guarded

HTTP = "127.0.0.1:8301"


@asking
def top(
    models: Annotated[list[str] | None, typer.Argument(help="Models to show [default: all].", metavar="MODEL")] = None,
    server: Remote = LOCAL,
    http: Annotated[str, typer.Option(help="The server's HTTP port.", metavar="HOST:PORT")] = HTTP,
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Between two looks.", metavar="SECONDS")] = 2.0,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Look twice, an interval apart, print what was seen, and leave: with 1 if not all."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Watch a running server: its models, their streams, learning, versions.

    Until q or Ctrl-C on a terminal; elsewhere, one line for each model and interval. Rates, means and quantiles are of
    the last ten seconds.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what it writes by itself would be drawn over

    def work() -> int:
        from service.cli.remote.manage import connected
        from service.programs.top.command import top as verb

        try:
            return connected(server, lambda client: verb(client, http, server, models or (), interval, once, json))
        except KeyboardInterrupt:
            return 0

    raise typer.Exit(guarded(work))
