"""`freshet models …`: what each verb takes. What they need is imported inside, so that `freshet --help` stays quick."""

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


def _run(server: Remote, verb: Callable[..., Awaitable[int]], *arguments: Any) -> typer.Exit:
    from service.cli.remote.manage import connected

    return typer.Exit(guarded(lambda: connected(server, lambda client: verb(client, *arguments))))


@models.command("list")
@asking
def list_models(server: Remote = LOCAL, json: Json = False) -> None:
    """Every model: what serves, whether it learns, how far it is."""
    from service.cli.remote.manage import list_models as verb

    raise _run(server, verb, json)


@models.command()
@asking
def show(name: Name, server: Remote = LOCAL, json: Json = False) -> None:
    """One model with every key of its spec."""
    from service.cli.remote.manage import show as verb

    raise _run(server, verb, name, json)


@models.command()
@asking
def history(
    name: Name,
    events: Annotated[int, typer.Option(min=0, help="The last so many events.", metavar="N")] = 20,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Versions that are kept, with their losses; recent events.

    Versions come newest first, events oldest first. The server remembers events since its start, 128 of each model.
    """
    from service.cli.remote.manage import history as verb

    raise _run(server, verb, name, events, json)


@models.command()
@asking
def create(
    name: Name,
    source: Annotated[
        Path, typer.Option("--from", help="Keys of the spec, or a folder with them.", metavar="MODEL.toml|.json|DIR")
    ],
    weights: Annotated[
        Path | None,
        typer.Option(help="First weights [default: the folder's, or drawn from the seed].", metavar="FILE"),
    ] = None,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Create a model from a spec's file, or a trained folder.

    The folder is one that `freshet train` or `freshet models export` wrote: its weights are version 1. `freshet models
    keys` lists what the file may hold.
    """
    from service.cli.remote.manage import create as verb

    raise _run(server, verb, name, source, weights, json)


@models.command("import")
@asking
def import_version(
    name: Name,
    source: Annotated[
        Path, typer.Option("--from", help="Weights, or a folder that has them.", metavar="DIR|FILE.safetensors")
    ],
    promote: Annotated[bool, typer.Option("--promote", help="Put it into service too.")] = False,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Add a version from files. It does not serve until it is promoted."""
    from service.cli.remote.manage import import_version as verb

    raise _run(server, verb, name, source, promote, json)


@models.command()
@asking
def export(
    name: Name,
    to: Annotated[Path | None, typer.Option(help="Folder [default: NAME-VERSION].", metavar="DIR")] = None,
    version: Annotated[int, typer.Option(min=0, help="0: the one that serves.", metavar="N")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Write a version's files: .onnx, weights, spec, facts.

    model.onnx is the whole forecaster and runs anywhere onnxruntime does; model.json has the version's facts.
    """
    from service.cli.remote.manage import export as verb

    raise _run(server, verb, name, version, to, force, json)


@models.command()
@asking
def promote(
    name: Name,
    version: Annotated[int, typer.Argument(min=1, help="A version that is kept.", metavar="VERSION")],
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Put a version into service; learning goes on from it."""
    from service.cli.remote.manage import promote as verb

    raise _run(server, verb, name, version, json)


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

    raise _run(server, verb, name, version, json)


@models.command()
@asking
def pause(name: Name, server: Remote = LOCAL, json: Json = False) -> None:
    """Stop learning; serving goes on."""
    from service.cli.remote.manage import pause as verb

    raise _run(server, verb, name, json)


@models.command()
@asking
def resume(name: Name, server: Remote = LOCAL, json: Json = False) -> None:
    """Go on learning."""
    from service.cli.remote.manage import resume as verb

    raise _run(server, verb, name, json)


@models.command()
@asking
def delete(
    name: Name,
    erase: Annotated[
        bool, typer.Option("--erase", help="Also remove what the server's files hold of it: docs/erasure.md.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Delete a model with its streams and versions, for good."""
    from service.cli.remote.manage import delete as verb

    raise _run(server, verb, name, yes, erase, json)


@models.command()
@asking
def watch(
    name: Annotated[str, typer.Argument(help="A model [default: all].", metavar="[NAME]")] = "",
    events: Annotated[int, typer.Option(min=0, help="First the last so many events.", metavar="N")] = 0,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Events as they happen, until Ctrl-C."""
    from service.cli.remote.manage import watch as verb

    raise _run(server, verb, name, events, json)


@models.command()
def keys(json: Json = False) -> None:
    """Every key of a model's spec, for MODEL.toml."""
    from service.cli.remote.manage import keys as verb

    raise typer.Exit(verb(json))
