"""`freshet models …`: the options of each verb. The work is imported inside, so that `freshet --help` stays fast."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from service.console.remote import Remote
from service.console.verbs import LOCAL, asking, group, guarded

models = group("models", "Models and versions of a running server: list, create, promote, roll back …")

Name = Annotated[str, typer.Argument(help="The model's name.", metavar="NAME")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Erase = Annotated[bool, typer.Option("--erase", help="Also erase its data from the server's files: docs/erasure.md.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def run(server: Remote, verb: Callable[..., Awaitable[int]], *arguments: Any) -> typer.Exit:
    """Run `verb(client, *arguments)` with a client of the server; return the exit to raise."""
    from service.cli.remote.manage import connected

    return typer.Exit(guarded(lambda: connected(server, lambda client: verb(client, *arguments))))


@models.command("list")
@asking
def list_models(server: Remote = LOCAL, json: Json = False) -> None:
    """List the models: version in service, learning, streams, progress."""
    from service.cli.remote.manage import list_models as verb

    raise run(server, verb, json)


@models.command()
@asking
def show(name: Name, server: Remote = LOCAL, json: Json = False) -> None:
    """Show one model with every key of its spec."""
    from service.cli.remote.manage import show as verb

    raise run(server, verb, name, json)


@models.command()
@asking
def compare(
    name: Name,
    other: Annotated[str, typer.Argument(help="Its shadow, or its source.", metavar="OTHER")],
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Show the losses of a model and its shadow on the same labels.

    A shadow is a model that was created with the key shadow = NAME: it learns from the ticks of NAME and answers none.
    """
    from service.cli.remote.comparing import compare as verb

    raise run(server, verb, name, other, json)


@models.command()
@asking
def history(
    name: Name,
    events: Annotated[int, typer.Option(min=0, help="Show the last N events.", metavar="N")] = 20,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Show the kept versions with their losses, and recent events.

    Versions are listed newest first, events oldest first. A server keeps the events since its start, up to 128 per
    model.
    """
    from service.cli.remote.manage import history as verb

    raise run(server, verb, name, events, json)


@models.command()
@asking
def create(
    name: Name,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="The spec's file, or a folder with it.", metavar="MODEL.toml|.json|DIR"),
    ] = None,
    shadow: Annotated[
        str, typer.Option(help="Learn from the ticks of this model; the spec's default is its spec.", metavar="MODEL")
    ] = "",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A key of the spec; repeatable.", metavar="KEY=VALUE")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Initial weights [default: the folder's, or drawn from the seed].", metavar="FILE"),
    ] = None,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Create a model from a spec's file or a trained folder, or as a shadow of another model.

    A shadow learns beside its source and answers no calls; `freshet models compare` shows the losses of both.
    The weights in a folder that `freshet train` or `freshet models export` wrote become version 1. `freshet models
    keys` lists the keys of the file.
    """
    from service.cli.remote.manage import create as verb

    raise run(server, verb, name, source, shadow, settings or (), weights, json)


@models.command("import")
@asking
def import_version(
    name: Name,
    source: Annotated[
        Path, typer.Option("--from", help="Weights, or a folder with them.", metavar="DIR|FILE.safetensors")
    ],
    promote: Annotated[bool, typer.Option("--promote", help="Put it into service too.")] = False,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Add a version from files. It does not serve until it is promoted."""
    from service.cli.remote.manage import import_version as verb

    raise run(server, verb, name, source, promote, json)


@models.command()
@asking
def export(
    name: Name,
    to: Annotated[Path | None, typer.Option(help="Folder [default: NAME-VERSION].", metavar="DIR")] = None,
    version: Annotated[int, typer.Option(min=0, help="Version; 0: the one in service.", metavar="N")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    licence: Annotated[str, typer.Option(help="Licence of the weights, for model.onnx.", metavar="TEXT")] = "",
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Write the files of a version: .onnx, weights, spec, facts.

    model.onnx is the whole forecaster and runs wherever onnxruntime does; model.json has the version's facts, and the
    metadata of model.onnx those that are needed to run it.
    """
    from service.cli.remote.manage import export as verb

    raise run(server, verb, name, version, to, force, licence, json)


@models.command()
@asking
def promote(
    name: Name,
    version: Annotated[int, typer.Argument(min=1, help="A kept version.", metavar="VERSION")],
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Put a version into service; learning continues from it."""
    from service.cli.remote.manage import promote as verb

    raise run(server, verb, name, version, json)


@models.command()
@asking
def rollback(
    name: Name,
    version: Annotated[int, typer.Argument(min=0, help="0: the anchor.", metavar="VERSION")] = 0,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Return serving and learning to an earlier version.

    Nothing is published until some labels are learned again.
    """
    from service.cli.remote.manage import roll_back as verb

    raise run(server, verb, name, version, json)


@models.command("set")
@asking
def set_keys(
    name: Name,
    changes: Annotated[
        list[str], typer.Argument(help="learning_rate=1e-4 …; KEY= returns to its default.", metavar="KEY=VALUE…")
    ],
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Change how a running model learns: rate, schedule, clip, drift reaction, label range, max_share.

    Labels of later ticks are learned by the new settings. Weights and streams stay. Other keys are fixed: create
    another model with them. `shadow=` ends that a model is a shadow: it then answers calls.
    """
    from service.cli.remote.manage import set_keys as verb

    raise run(server, verb, name, changes, json)


@models.command()
@asking
def pause(name: Name, server: Remote = LOCAL, json: Json = False) -> None:
    """Stop learning; serving continues."""
    from service.cli.remote.manage import pause as verb

    raise run(server, verb, name, json)


@models.command()
@asking
def resume(name: Name, server: Remote = LOCAL, json: Json = False) -> None:
    """Resume learning."""
    from service.cli.remote.manage import resume as verb

    raise run(server, verb, name, json)


@models.command()
@asking
def delete(
    name: Name,
    erase: Erase = False,
    yes: Yes = False,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Delete a model with its streams and versions permanently."""
    from service.cli.remote.manage import delete as verb

    raise run(server, verb, name, yes, erase, json)


@models.command()
@asking
def watch(
    name: Annotated[str, typer.Argument(help="A model [default: all].", metavar="[NAME]")] = "",
    events: Annotated[int, typer.Option(min=0, help="Print the last N events first.", metavar="N")] = 0,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Print events as they happen, until Ctrl-C."""
    from service.cli.remote.manage import watch as verb

    raise run(server, verb, name, events, json)


@models.command()
def keys(json: Json = False) -> None:
    """List every key of a model's spec, for MODEL.toml."""
    from service.cli.remote.manage import keys as verb

    raise typer.Exit(verb(json))
