"""`freshet top`: its options. The work is imported inside, so that `freshet --help` stays fast."""

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
    interval: Annotated[float, typer.Option(min=0.1, max=3600, help="Time between scrapes.", metavar="SECONDS")] = 2.0,
    once: Annotated[
        bool,
        typer.Option(
            "--once", help="Scrape twice, print the result and exit; exit code 1 if something could not be read."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Watch the models of a running server.

    On a terminal it shows streams, learning and versions until q or Ctrl-C; elsewhere it prints one line per model and
    interval. Rates, means and quantiles cover the last ten seconds.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's own messages would disturb the screen

    def work() -> int:
        from service.cli.remote.manage import connected
        from service.programs.top.command import top as verb

        try:
            return connected(server, lambda client: verb(client, http, server, models or (), interval, once, json))
        except KeyboardInterrupt:
            return 0

    raise typer.Exit(guarded(work))
