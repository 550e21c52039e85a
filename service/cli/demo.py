"""`freshet demo`: its options. The work is imported inside, so that `freshet --help` does not load NumPy."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from service.console.verbs import guarded, one_blas_thread


def demo(
    rows: Annotated[
        int | None, typer.Option(help="Use only the first N rows [default: all; of many streams 1344].", metavar="N")
    ] = None,
    streams: Annotated[
        int, typer.Option(help="Number of streams; above 1 each is a zone made from the rides.", metavar="N")
    ] = 1,
    inject_drift: Annotated[
        bool, typer.Option("--inject-drift", help="Change the series' character half-way, and report the recovery.")
    ] = False,
    pace: Annotated[
        float | None,
        typer.Option(
            help="Ticks per second of each stream, 0: no limit [default: 0; with --inject-drift 100; of many streams "
            "400 divided by their number].",
            metavar="TICKS_PER_S",
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON.", metavar="OUT")] = None,
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Leave the server running until Ctrl-C.")
    ] = False,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="Do not open the live page in a browser, even where there is a display.")
    ] = False,
) -> None:
    """Run a server on seven months of New York taxi rides.

    It starts the server, prints the address of its live page, streams the rides through it, and reports the errors of
    the forecasts.
    """
    one_blas_thread()
    from service.programs.demo.running import Wishes, demo

    series = resources.files("service.cli") / "data" / "nyc_taxi.csv"
    wishes = Wishes(
        rows=rows, streams=streams, drifts=inject_drift, pace=pace, json=json, keeps=keep_serving, opens=not no_open
    )
    with resources.as_file(series) as file:
        raise typer.Exit(guarded(lambda: demo(file, wishes)))
