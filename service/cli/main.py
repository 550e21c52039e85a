"""The command line: `freshet serve`, `models`, `quarantine`, `journal`, `replay`, `backup`, `top`, `train` …

What a verb needs is imported inside it, so that `freshet --version` and `--help` start neither NumPy nor gRPC.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import service
from service.cli.backup import backup, restore
from service.cli.health import health
from service.cli.journal import journal
from service.cli.reading import reading
from service.cli.remote.models import models
from service.cli.remote.quarantine import quarantine
from service.cli.remote.streams import streams
from service.cli.replay import replay
from service.cli.token import token
from service.cli.top import top
from service.cli.train import train
from service.common.config import ENV_PREFIX, ConfigError, ServeConfig, load, settings_in
from service.console.panels import Panelled, panel_of
from service.console.remote import Remote
from service.console.verbs import INTERRUPTED, SPEC_KEYS, USAGE_ERROR, asking, group, guarded, one_blas_thread, refused

app = group("freshet", "A model server that learns from the streams it serves.")


class Through(StrEnum):
    """What a backtest replays the series through."""

    CORE = "core"
    SERVICE = "service"


def main() -> None:
    """The console script."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: a server of ours is stopped in order
    os.umask(0o077)  # what it writes is its owner's alone: models, backups, tokens, all that clients sent
    app()


def _version(asked: bool) -> None:
    if asked:
        print(f"freshet {service.version()}")
        raise typer.Exit


@app.callback()
def freshet(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """A model server that learns from the streams it serves."""


# --- serve


def serve(
    config: Annotated[Path | None, typer.Option(help="Settings as TOML.", metavar="FILE.toml")] = None,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="Drain when standard input closes: for programs that start servers.")
    ] = False,
    **flags: Any,
) -> None:
    """Run the server until SIGTERM or Ctrl-C, then drain.

    Every setting may also be a FRESHET_* variable or a key of the --config file; flags win over variables, variables
    over the file. When it is ready it prints one line: ready grpc=HOST:PORT http=HOST:PORT.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = load(given, config)
    except ConfigError as error:
        raise refused(error) from None
    if with_parent:
        threading.Thread(target=_drain_at_end_of_input, name="with-parent", daemon=True).start()
    raise typer.Exit(_serve(settings, list(_sources(settings, given, config))))


def _with_flags(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb with one option per field of ServeConfig, as text: pydantic reads it, as it reads variables."""
    parameters = [p for p in inspect.signature(verb, eval_str=True).parameters.values() if p.name != "flags"]
    for name, field in ServeConfig.model_fields.items():
        flag, text = f"--{name.replace('_', '-')}", f"{field.description} [default: {field.default}]"
        kind: Any = bool if field.annotation is bool else str
        metavar, panel = None if kind is bool else "VALUE", panel_of(name)
        option = typer.Option(flag, help=text, show_default=False, metavar=metavar, rich_help_panel=panel)
        annotation = Annotated[kind | None, option]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation))
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {p.name: p.annotation for p in parameters}
    return verb


app.command(cls=Panelled)(_with_flags(serve))


def _sources(settings: ServeConfig, given: dict[str, Any], file: Path | None) -> Iterator[tuple[str, Any, str]]:
    """Every setting, its value and where it came from."""
    in_file = settings_in(file)
    for name, value in settings.model_dump().items():
        variable = f"{ENV_PREFIX}{name.upper()}"
        sources = [("flag", name in given), (variable, variable in os.environ), (str(file), name in in_file)]
        source = next((source for source, used in sources if used), "default")
        yield name, value, source


def _serve(settings: ServeConfig, shown: list[tuple[str, Any, str]]) -> int:
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # or each handshake of a stranger that fails is a line of the log
    import asyncio

    import structlog

    from service.access.credentials import CertificateError
    from service.access.grants import AccessError
    from service.journal.log import JournalLocked
    from service.journal.segments import JournalDamaged
    from service.observe.logs import Log
    from service.server.ports import Addresses
    from service.server.server import serve as run
    from service.storage.database import DatabaseRefused
    from service.storage.directory import DirectoryRefused
    from service.storage.disk import NoSpace
    from service.storage.states import StatesCorrupt
    from service.storage.versions import VersionCorrupt, VersionMissing

    def announce(addresses: Addresses) -> None:
        text = f"ready grpc={addresses.grpc} http={addresses.http}"
        log.announce("ready", text, grpc=addresses.grpc, http=addresses.http)

    log = Log(settings.log_format)
    for name, value, source in shown:
        log.announce("setting", f"{name} = {value}  ({source})", name=name, value=value, source=source)
    try:
        return asyncio.run(run(settings, announce))
    except KeyboardInterrupt:  # before the server listens to signals; nothing was taken in yet
        return INTERRUPTED
    except (
        OSError, NoSpace, DatabaseRefused, JournalLocked, JournalDamaged, StatesCorrupt, VersionCorrupt, VersionMissing,
        AccessError, CertificateError, DirectoryRefused,
    ) as error:  # fmt: skip
        if log.json:
            structlog.get_logger("freshet").critical("cannot start", why=str(error))
            raise typer.Exit(USAGE_ERROR) from None
        log.stop()  # first, as the sentence is the command line's own
        raise refused(error) from None
    except Exception:
        structlog.get_logger("uncaught").critical("uncaught exception", exc_info=True)
        return 1
    finally:
        log.stop()


def _drain_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1 << 10):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


# --- train, backtest and demo

app.command()(train)
app.command()(replay)
app.command()(top)
app.command()(backup)
app.command()(restore)
app.command()(health)
app.add_typer(models)
app.add_typer(streams)
app.add_typer(quarantine)
app.add_typer(journal)
app.add_typer(token)


@app.command()
@asking
@reading
def backtest(
    file: Annotated[Path, typer.Argument(help="The recorded series.", metavar="FILE.csv")],
    columns: Annotated[str, typer.Option(help="Columns to forecast, a line of CSV: a,b,… or all.")] = "all",
    options: Any = None,
    rows: Annotated[int | None, typer.Option(help="Only the first rows, of each series.", metavar="N")] = None,
    horizon: Annotated[int | None, typer.Option(help="Forecast 1..H rows ahead [default: 1].", metavar="H")] = None,
    config: Annotated[Path | None, typer.Option(help="Keys of the model's spec as TOML.", metavar="MODEL.toml")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first weights [default: 0].", metavar="S")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help=f"A key of the model's spec; repeatable. Keys: {SPEC_KEYS}.", metavar="KEY=VALUE"),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Begin with these: a file, or a folder of `freshet train`.", metavar="DIR")
    ] = None,
    train_rows: Annotated[
        int | None, typer.Option(help="Rows that fix the units of the errors [default: 20 %].", metavar="N")
    ] = None,
    score_from: Annotated[int | None, typer.Option(help="First row scored [default: 25 %].", metavar="ROW")] = None,
    score_to: Annotated[
        int | None, typer.Option(help="Row behind the last scored [default: the end].", metavar="ROW")
    ] = None,
    through: Annotated[Through, typer.Option(help="The learner itself, or a real server and client.")] = Through.CORE,
    server: Remote | None = None,
    max_staleness: Annotated[
        int, typer.Option(min=1, help="No forecast is older than so many labels (service only).", metavar="K")
    ] = 32,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON.", metavar="OUT")] = None,
    forecasts: Annotated[Path | None, typer.Option(help="Write every scored forecast.", metavar="OUT.csv")] = None,
) -> None:
    """Replay a recorded series, forecast first and learn after, beside persistence and recursive least squares.

    Errors are in units of the first --train-rows rows' standard deviation, over target rows --score-from to --score-to.
    """
    one_blas_thread()
    from service.common.errors import Invalid
    from service.console.files import keys_beside
    from service.programs.backtest.command import backtest as run
    from service.programs.backtest.command import check_outputs, finish
    from service.programs.backtest.plan import make_plan, model_keys

    def work() -> int:
        check_outputs(json=json, forecasts=forecasts)
        if server is not None and through is not Through.SERVICE:
            raise Invalid("url", server.url, "goes with --through service")
        beside = keys_beside(weights) if config is None else {}
        plan = make_plan(
            file,
            options=options(),
            columns=columns,
            rows=rows,
            model=beside | model_keys(config, settings or (), horizon=horizon, seed=seed),
            weights=weights,
            train_rows=train_rows,
            score_from=score_from,
            score_to=score_to,
        )
        print(plan.describe(), file=sys.stderr, flush=True)
        report = run(plan, through.value, server=server, max_staleness=max_staleness, forecasts=forecasts)
        return finish(report, json, max_staleness)

    raise typer.Exit(guarded(work))


@app.command()
def demo(
    rows: Annotated[int | None, typer.Option(help="Only the first so many rows.", metavar="N")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON.", metavar="OUT")] = None,
    keep_serving: Annotated[
        bool, typer.Option("--keep-serving", help="Leave the server running until Ctrl-C.")
    ] = False,
) -> None:
    """Start a server, stream seven months of New York taxi rides through it, and show what it learned meanwhile."""
    one_blas_thread()
    from service.cli.demo import demo as run

    raise typer.Exit(guarded(lambda: run(rows, json, keep_serving)))
