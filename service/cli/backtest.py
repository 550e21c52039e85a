"""`freshet backtest`: its options. The work is imported inside, so that `freshet --help` does not load NumPy."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.reading import reading
from service.console.remote import Remote
from service.console.verbs import SPEC_KEYS, asking, guarded, one_blas_thread


class Through(StrEnum):
    """Where a backtest replays the series: in the learner itself, or through a server."""

    CORE = "core"
    SERVICE = "service"


@asking
@reading
def backtest(
    file: Annotated[Path, typer.Argument(help="The recorded series.", metavar="FILE.csv")],
    columns: Annotated[str, typer.Option(help="Columns to forecast: a,b,… (quoted as in CSV), or all.")] = "all",
    known: Annotated[
        str | None, typer.Option(help="Columns known ahead: a,b,… Each row sends the next rows' values.", metavar="A,B")
    ] = None,
    static: Annotated[
        str | None, typer.Option(help="Columns with one value per series, such as its region.", metavar="A,B")
    ] = None,
    options: Any = None,
    rows: Annotated[int | None, typer.Option(help="Use only the first N rows of each series.", metavar="N")] = None,
    horizon: Annotated[int | None, typer.Option(help="Forecast 1..H rows ahead [default: 1].", metavar="H")] = None,
    config: Annotated[Path | None, typer.Option(help="Keys of the model's spec, TOML.", metavar="MODEL.toml")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the initial weights [default: 0].", metavar="S")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help=f"A key of the model's spec; repeatable. Keys: {SPEC_KEYS}.", metavar="KEY=VALUE"),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Initial weights: a file, or a folder of `freshet train`.", metavar="DIR")
    ] = None,
    train_rows: Annotated[
        int | None, typer.Option(help="Rows that define the units of errors [default: 20 %].", metavar="N")
    ] = None,
    score_from: Annotated[int | None, typer.Option(help="First scored row [default: 25 %].", metavar="ROW")] = None,
    score_to: Annotated[
        int | None, typer.Option(help="Row after the last scored one [default: the end].", metavar="ROW")
    ] = None,
    through: Annotated[Through, typer.Option(help="The learner alone, or a real server and client.")] = Through.CORE,
    server: Remote | None = None,
    max_staleness: Annotated[
        int, typer.Option(min=1, help="Largest age of a forecast's weights, in labels (service only).", metavar="K")
    ] = 32,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON.", metavar="OUT")] = None,
    forecasts: Annotated[Path | None, typer.Option(help="Write every scored forecast.", metavar="OUT.csv")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw forecasts and errors in one file.", metavar="OUT.html|svg|png")
    ] = None,
) -> None:
    """Replay a recorded series and score the forecasts.

    Each row is forecast before it is learned. Persistence, recursive least squares, the same with the values of a day
    and a week before, and these values alone are scored on the same rows, --score-from to --score-to, in units of the
    standard deviation of the first --train-rows rows.
    """
    one_blas_thread()
    from service.common.errors import Invalid
    from service.console.files import keys_beside
    from service.programs.backtest.command import backtest as run
    from service.programs.backtest.command import check_outputs, finish
    from service.programs.backtest.plan import make_plan, model_keys
    from service.programs.pictures.replayed import Replayed
    from service.programs.plots.output import check_plot, write_plot

    def work() -> int:
        check_outputs(json=json, forecasts=forecasts)
        check_plot(plot)
        if server is not None and through is not Through.SERVICE:
            raise Invalid("url", server.url, "goes with --through service")
        beside = keys_beside(weights) if config is None else {}
        plan = make_plan(
            file,
            options=options(),
            columns=columns,
            rows=rows,
            model=beside | model_keys(config, settings or (), horizon=horizon, seed=seed, known=known, static=static),
            weights=weights,
            train_rows=train_rows,
            score_from=score_from,
            score_to=score_to,
        )
        print(plan.describe(), file=sys.stderr, flush=True)
        watch = None if plot is None else Replayed(plan)
        report = run(plan, through.value, server=server, max_staleness=max_staleness, forecasts=forecasts, watch=watch)
        if plot is not None and watch is not None:
            write_plot(watch.figure(report), plot)
        return finish(report, json, max_staleness)

    raise typer.Exit(guarded(work))
