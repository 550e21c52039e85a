"""The command line: `freshet serve`, `models`, `quarantine`, `journal`, `replay`, `backup`, `top`, `train` …

A verb imports inside its function what it needs, so that `freshet --version` and `--help` load neither NumPy nor gRPC.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

import service
from service.cli.backtest import backtest
from service.cli.backup import backup, restore
from service.cli.demo import demo
from service.cli.journal import journal
from service.cli.remote.health import health
from service.cli.remote.models import models
from service.cli.remote.nodes import nodes
from service.cli.remote.quarantine import quarantine
from service.cli.remote.streams import streams
from service.cli.remote.top import top
from service.cli.replay import replay
from service.cli.store import store
from service.cli.store_moving import export_data, import_data
from service.cli.token import token
from service.cli.train import import_weights, train
from service.console.panels import Panelled, panel_of
from service.console.verbs import INTERRUPTED, USAGE_ERROR, group, refused
from service.server.config import ENV_PREFIX, ConfigError, ServeConfig, load, settings_in

app = group("freshet", "A model server that learns from the streams it serves.")


def main() -> None:
    """Run the console script."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, so that a server we started is stopped too
    os.umask(0o077)  # only the owner may read what it writes: models, backups, tokens, clients' data
    app()


def _version(asked: bool) -> None:
    if asked:
        print(f"freshet {service.version()}")
        raise typer.Exit


@app.callback()
def freshet(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A model server that learns from the streams it serves."""


# --- serve


def serve(
    config: Annotated[Path | None, typer.Option(help="File with settings, TOML.", metavar="FILE.toml")] = None,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="Drain when standard input closes; for programs that start servers.")
    ] = False,
    **flags: Any,
) -> None:
    """Run the server until SIGTERM or Ctrl-C, then drain.

    Every setting can also be a FRESHET_* variable or a key of the --config file. Flags take precedence over variables,
    variables over the file. When the server is ready, it prints one line: ready grpc=HOST:PORT http=HOST:PORT.
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
    """Add an option per field of ServeConfig to a verb. Values stay text, which pydantic parses like variables."""
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
    """Yield every setting, its value and its source."""
    in_file = settings_in(file)
    for name, value in settings.model_dump().items():
        variable = f"{ENV_PREFIX}{name.upper()}"
        sources = [("flag", name in given), (variable, variable in os.environ), (str(file), name in in_file)]
        source = next((source for source, used in sources if used), "default")
        yield name, value, source


def _serve(settings: ServeConfig, shown: list[tuple[str, Any, str]]) -> int:
    from service.server import process

    process.set_grpc_defaults()
    import asyncio

    import structlog

    from service.access.credentials import CertificateError
    from service.access.grants import AccessError
    from service.cluster.store.seam import StoreRefused, StoreUnavailable
    from service.journal.log import JournalLocked
    from service.journal.segments import JournalDamaged
    from service.observe.logs import Log
    from service.server.ports import Addresses
    from service.storage.database import DatabaseRefused
    from service.storage.directory import DirectoryRefused
    from service.storage.disk import NoSpace
    from service.storage.states import StatesCorrupt
    from service.storage.versions import VersionCorrupt, VersionMissing

    if settings.store:
        from service.cluster.hosting.starting import serve as run
    else:
        from service.server.server import serve as run

    def announce(addresses: Addresses) -> None:
        text = f"ready grpc={addresses.grpc} http={addresses.http}"
        log.announce("ready", text, grpc=addresses.grpc, http=addresses.http)

    log = Log(settings.log_format)
    for name, value, source in shown:
        log.announce("setting", f"{name} = {value}  ({source})", name=name, value=value, source=source)
    try:
        return asyncio.run(run(settings, announce))
    except KeyboardInterrupt:  # before the server handles signals; it has not accepted anything yet
        return INTERRUPTED
    except (
        OSError, NoSpace, DatabaseRefused, JournalLocked, JournalDamaged, StatesCorrupt, VersionCorrupt, VersionMissing,
        AccessError, CertificateError, DirectoryRefused, StoreRefused, StoreUnavailable,
    ) as error:  # fmt: skip
        if log.json:
            structlog.get_logger("freshet").critical("cannot start", why=str(error))
            raise typer.Exit(USAGE_ERROR) from None
        log.stop()  # first: the command line itself prints the message
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


# --- the other verbs

app.command()(train)
app.command("import")(import_weights)
app.command()(backtest)
app.command()(replay)
app.command()(top)
app.command()(backup)
app.command()(restore)
app.command()(health)
app.command()(nodes)
app.add_typer(models)
app.add_typer(streams)
app.add_typer(quarantine)
app.add_typer(journal)
store.command("import")(import_data)
store.command("export")(export_data)
app.add_typer(store)
app.add_typer(token)
app.command()(demo)
