"""`freshet streams …`: one model's streams on a running server. The work is imported inside."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.cli.remote.models import Erase, Json, Yes, run
from service.console.remote import Remote
from service.console.verbs import LOCAL, asking, group

if TYPE_CHECKING:
    import freshet

streams = group("streams", "Streams of a running server's models: list, show, errors, delete, erase.")

Model = Annotated[str, typer.Argument(help="The model's name.", metavar="MODEL")]
Id = Annotated[str, typer.Argument(help="The stream's id.", metavar="STREAM")]
COLUMNS = ("stream", "seq", "durable", "origin", "last time", "staleness")
STEP_COLUMNS = ("step", "labels", "mse", "persistence mse", "mae", "persistence mae")
ERROR_COLUMNS = ("stream", "ratio", *STEP_COLUMNS)


@streams.command("list")
@asking
def list_streams(
    model: Model,
    limit: Annotated[int, typer.Option(min=0, help="List at most N streams; 0: all.", metavar="N")] = 100,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """List a model's streams with their progress, in the order of their ids."""

    async def verb(client: freshet.Client) -> int:
        from service.console.tables import print_json, print_table

        found: list[dict[str, Any]] = []
        more = False
        async for stream in client.list_streams(model, page_size=min(limit + 1, 1000) if limit else 1000):
            if more := bool(limit) and len(found) == limit:
                break
            found.append(facts(stream))
        if json:
            print_json(found)
        elif found:
            print_table(COLUMNS, [cells(one) for one in found])
        else:
            print(f"{model}: no streams yet")
        if more:
            print(f"freshet: there are more than {limit}: give --limit 0 for all", file=sys.stderr)
        return 0

    raise run(server, verb)


@streams.command()
@asking
def show(model: Model, stream: Id, server: Remote = LOCAL, json: Json = False) -> None:
    """Show one stream: its last tick, its state on disk, the version that answers it."""

    async def verb(client: freshet.Client) -> int:
        from service.console.tables import print_facts, print_json

        found = facts(await client.get_stream(model, stream))
        if json:
            print_json(found)
        else:
            shown = {"last_time": moment(found["last_time"]), "state_bytes": f"{found['state_bytes']} bytes"}
            print_facts(
                {name.replace("_", " ").replace(" bytes", ""): value for name, value in (found | shown).items()}
            )
        return 0

    raise run(server, verb)


@streams.command()
@asking
def errors(
    model: Model,
    worst: Annotated[int, typer.Option(min=0, max=1000, help="Show at most N streams; 0: all.", metavar="N")] = 20,
    by_step: Annotated[bool, typer.Option("--by-step", help="Show the model's errors by step ahead instead.")] = False,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Show the streams whose forecasts are worst, relative to persistence: the present value as forecast.

    The errors are those of the learner's forecasts, each made before its label was learned: exponential means over
    about 500 labels, in units of the scaler (mse) and of the values (mae). With --worst 0, all streams, oldest first.
    """

    async def verb(client: freshet.Client) -> int:
        from service.console.tables import plain, print_json, print_table

        columns: tuple[str, ...] = STEP_COLUMNS if by_step else ERROR_COLUMNS
        rows: list[tuple[object, ...]]
        if by_step:
            steps = await client.horizon_errors(model)
            found = [plain(step) for step in steps]
            rows = [(step.step, *step_cells(step)) for step in steps]
        else:
            streams = await client.stream_errors(model, worst)
            found = [plain(one) for one in streams]
            rows = [
                (one.stream, figure(one.ratio), step.step, *step_cells(step)) for one in streams for step in one.steps
            ]
        if json:
            print_json(found)
        elif rows:
            print_table(columns, rows)
        else:
            print(f"{model}: no label learned yet")
        return 0

    raise run(server, verb)


def step_cells(step: freshet.StepErrors) -> tuple[object, ...]:
    """Return the recent errors of one step under the last of STEP_COLUMNS."""
    recent = step.recent
    each = (recent.scaled_squared, recent.persistence_scaled_squared, recent.absolute, recent.persistence_absolute)
    return (step.labels, *map(figure, each))


def figure(value: float | None) -> str:
    """Return an error with four digits; empty for None."""
    return "" if value is None else f"{value:.4g}"


@streams.command()
@asking
def delete(
    model: Model,
    stream: Id,
    erase: Erase = False,
    yes: Yes = False,
    server: Remote = LOCAL,
    json: Json = False,
) -> None:
    """Delete a stream; its client is disconnected, and its id may be used for a new stream.

    --erase needs a token of role admin. It drops the whole journal so far and waits until that is done; exit code 1 if
    files remain that may hold clients' data.
    """

    async def verb(client: freshet.Client) -> int:
        from service.cli.remote.manage import confirmed

        what = f"stream {stream} of {model}"
        if not yes and not confirmed(stream, f"{what} cannot be restored."):
            return 1
        remains = await client.delete_stream(model, stream, erase=erase)
        return deleted(what, {"model": model, "stream": stream}, erase, remains, json)

    raise run(server, verb)


def facts(stream: freshet.KeptStream) -> dict[str, Any]:
    """Return the shown facts of a stream as JSON values. staleness: its labels that no verdict has judged yet."""
    from service.console.tables import plain

    all_of_it = plain(stream)
    return {
        "model": stream.model,
        "stream": stream.stream,
        "seq": stream.last_seq,
        "durable": stream.durable_seq,
        "origin": all_of_it["state_origin"].lower(),
        "version": stream.version,
        "last_time": all_of_it["last_time"],
        "staleness": max(0, stream.last_seq - stream.judged_through),
        "epoch": stream.epoch,
        "state_bytes": stream.state_bytes,
    }


def cells(found: dict[str, Any]) -> tuple[object, ...]:
    """Return a stream's row under COLUMNS."""
    return (*(found[name] for name in COLUMNS[:4]), moment(found["last_time"]), found["staleness"])


def moment(seconds: float | None) -> str:
    """Return an event time as a date, UTC; as a number if it is outside the calendar; empty for None."""
    import datetime as dt

    if seconds is None:
        return ""
    try:
        return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # years that a calendar does not have
        return f"{seconds:g}"


def deleted(what: str, names: dict[str, str], erased: bool, remains: list[str], as_json: bool) -> int:
    """Print what was deleted and which files may still hold its data; return the exit code."""
    from service.console.tables import print_json, shown

    if as_json:
        print_json({"deleted": names, "erased": erased, "remains": remains})
    else:
        print(f"{shown(what)}: {'erased' if erased else 'deleted'}")
        for name in remains:
            print(f"freshet: {shown(name)} may still hold data: remove it if it is not needed", file=sys.stderr)
    return 1 if remains else 0
