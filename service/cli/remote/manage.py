"""The work of `freshet models …`: ask a running server through the SDK and print the answer."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import freshet
from freshet import Model, ModelEvent
from model.spec import ModelSpec
from service.cli.remote.streams import deleted
from service.common.documents import toml_value
from service.common.errors import Invalid
from service.common.limits import MAX_WEIGHTS_BYTES
from service.console import files, spec_keys
from service.console.remote import Remote
from service.console.shown import learning
from service.console.tables import plain, print_facts, print_json, print_table

PLACE = ("shard", "node", "epoch")  # of a model in a cluster


def connected(server: Remote, verb: Callable[[freshet.Client], Awaitable[int]]) -> int:
    """Run a verb with a client of the server. Raises Invalid for no address, FreshetError, OSError."""

    async def run() -> int:
        async with server.connect() as client:
            return await verb(client)

    try:
        return asyncio.run(run())
    except freshet.Unavailable as error:
        raise freshet.Unavailable(server.unavailable(error)) from error


# --- look


async def list_models(client: freshet.Client, as_json: bool) -> int:
    """Print a line for each model."""
    found = await client.list_models()
    if as_json:
        print_json([plain(model) for model in found])
    elif found:
        columns = ("name", "task", "cell", "version", "anchor", "learning", "streams", "judged")
        print_table(columns + PLACE * any(m.node for m in found), model_rows(found))
    else:
        print("no models yet; make one: freshet models create NAME --from MODEL.toml")
    return 0


def model_rows(found: list[Model]) -> list[tuple[object, ...]]:
    """Return models as rows of the list; in a cluster, each ends with PLACE."""
    return [
        (
            m.name, m.spec.task, f"{m.spec.cell} {m.spec.layers}×{m.spec.hidden}", m.champion, m.anchor, learning(m),
            m.streams, f"{m.judged_offset}/{m.offset}", *place(m).values(),
        )
        for m in found
    ]  # fmt: skip


def place(model: Model) -> dict[str, object]:
    """Return where a model is, by PLACE; nothing without a cluster."""
    return dict(zip(PLACE, (f"{model.shard:03d}", model.node, model.epoch), strict=True)) if model.node else {}


async def show(client: freshet.Client, name: str, as_json: bool) -> int:
    """Print one model with its spec."""
    model = await client.get_model(name)
    if as_json:
        print_json(plain(model))
        return 0
    print_facts(
        {
            "name": model.name, "version": model.champion, "anchor": model.anchor, "learning": learning(model),
            "streams": model.streams, "records": model.offset, "judged": model.judged_offset, **place(model),
        }
    )  # fmt: skip
    print("\n" + files.spec_toml(ModelSpec.from_mapping(model.spec.to_mapping())), end="")
    return 0


async def history(client: freshet.Client, name: str, events: int, as_json: bool) -> int:
    """Print versions and events of one model."""
    model, versions, past = await asyncio.gather(
        client.get_model(name), client.versions(name), client.history(name, events)
    )
    if as_json:
        facts = {"name": name, "champion": model.champion, "anchor": model.anchor}
        print_json(facts | {"versions": [plain(v) for v in versions], "events": [plain(e) for e in past]})
        return 0
    rows = [
        (
            v.number, v.parent or None, when(v.created), v.offset, v.loss,
            v.anchor_loss,
            ", ".join(["serves"] * (v.number == model.champion) + ["anchor"] * (v.number == model.anchor)),
        )
        for v in versions
    ]  # fmt: skip
    print_table(("version", "parent", "made", "learned to", "loss", "anchor's loss", ""), rows)
    if past:
        print()
        print_table(("time", "event", "version", "reason", "numbers"), [event_row(e)[1:] for e in past])
    return 0


def when(seconds: float) -> str:
    """Return a time in seconds since 1970 as text, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def event_row(event: ModelEvent) -> tuple[str, ...]:
    """Return an event's model, time, kind, version, reason and numbers as text."""
    numbers = " ".join(f"{name}={value:.4g}" for name, value in sorted(event.numbers.items()))
    kind = event.kind.name.lower().replace("_", " ")
    return event.model, when(event.time), kind, str(event.version), event.reason, numbers


async def watch(client: freshet.Client, name: str, events: int, as_json: bool) -> int:
    """Print events until the process is interrupted."""
    past = await client.history(name, events) if events else []

    def show_event(event: ModelEvent) -> None:
        if as_json:
            print_json(plain(event), line=True)
        else:
            print("  ".join(part for part in event_row(event) if part), flush=True)

    for event in past:
        show_event(event)
    async for event in client.watch(name):
        show_event(event)
    return 0


def keys(as_json: bool) -> int:
    """Print every key of a spec."""
    described = spec_keys.describe()
    if as_json:
        print_json([key._asdict() for key in described])
    else:
        print_table(spec_keys.Key._fields, described)
    return 0


# --- change


async def create(
    client: freshet.Client,
    name: str,
    source: Path | None,
    shadow: str,
    settings: Sequence[str],
    weights: Path | None,
    as_json: bool,
) -> int:
    """Create a model from a spec's file or folder, or a shadow from its source's spec; `settings` come on top."""
    if source is not None:
        keys = files.read_spec(source).to_mapping()
    elif shadow:
        keys = (await client.get_model(shadow)).spec.to_mapping()
    else:
        raise Invalid("from", "not given", "give the spec's file, or the model whose shadow it is: --shadow MODEL")
    spec = ModelSpec.from_mapping(keys | assignments(settings) | ({"shadow": shadow} if shadow else {}))
    beside = source / files.WEIGHTS if source is not None else None
    if weights is None and beside is not None and source is not None and source.is_dir() and beside.is_file():
        weights = beside
    data = b"" if weights is None else files.load_weights(weights, spec)
    model = await client.create_model(name, weights=data, **spec.to_mapping())
    if as_json or not model.spec.shadow:
        return print_state(model, as_json)
    source_name = model.spec.shadow
    print(f"{name}: learns from the ticks of {source_name}; compare them: freshet models compare {source_name} {name}")
    return 0


async def import_version(client: freshet.Client, name: str, source: Path, promote: bool, as_json: bool) -> int:
    """Add a version from a weights file, or from a folder with one."""
    file = source / files.WEIGHTS if source.is_dir() else source
    if not file.is_file():
        raise Invalid("from", str(source), f"no such file, nor a folder with {files.WEIGHTS}")
    onnx = file.with_name(files.ONNX)
    graph = files.read_file("onnx", onnx, MAX_WEIGHTS_BYTES) if source.is_dir() and onnx.is_file() else b""
    digest = files.recorded_digest(source) if source.is_dir() else ""
    weights = files.read_file("weights", file, MAX_WEIGHTS_BYTES)
    version = await client.import_version(name, weights, onnx=graph, digest=digest)
    if promote:
        return print_state(await client.promote(name, version.number), as_json)
    if as_json:
        print_json(plain(version))
    else:
        print(f"{name}: version {version.number} is there; put it into service: freshet models promote "
              f"{name} {version.number}")  # fmt: skip
    return 0


async def export(
    client: freshet.Client, name: str, version: int, to: Path | None, force: bool, licence: str, as_json: bool
) -> int:
    """Write a version's files."""
    exported = client.export(name, version, metadata=True, licence=licence)
    model, made = await asyncio.gather(client.get_model(name), exported)
    folder = to or Path(f"{name}-{made.version.number}")
    spec = ModelSpec.from_mapping(model.spec.to_mapping())
    facts = {
        "model": name,
        "version": plain(made.version),
        "sha256": {files.ONNX: sha256(made.onnx).hexdigest(), files.WEIGHTS: sha256(made.weights).hexdigest()},
        "spec": spec.to_mapping(),
    }
    contents = {
        files.ONNX: made.onnx,
        files.WEIGHTS: made.weights,
        files.SPEC: files.spec_toml(spec).encode(),
        files.FACTS: (json.dumps(facts, indent=2, ensure_ascii=False) + "\n").encode(),
    }
    there = [file for file in contents if (folder / file).exists()]
    if there and not force:
        raise Invalid("to", str(folder), f"has {there[0]} already: choose another folder, or replace it with --force")
    folder.mkdir(parents=True, exist_ok=True)
    files.write_all(folder, contents)
    if as_json:
        print_json(facts | {"folder": str(folder)})
    else:
        print(f"{name}: version {made.version.number} is in {folder}: {', '.join(contents)}")
    return 0


async def promote(client: freshet.Client, name: str, version: int, as_json: bool) -> int:
    """Put a version into service."""
    return print_state(await client.promote(name, version), as_json)


async def roll_back(client: freshet.Client, name: str, version: int, as_json: bool) -> int:
    """Return to an earlier version."""
    before = await client.get_model(name)
    after = await client.rollback(name, version)
    print_state(after, as_json)
    if not as_json and after.champion != before.champion:
        again = f"return with `freshet models promote {name} {before.champion}`"
        print(f"{name}: from version {before.champion} back to {after.champion}; {again}")
    return 0


async def set_keys(client: freshet.Client, name: str, changes: list[str], as_json: bool) -> int:
    """Change keys of a running model, and print their values. Raises Invalid for a text that is not key=value."""
    given = assignments(changes)
    defaults = [key for key, value in given.items() if value == ""]
    values = {key: value for key, value in given.items() if value != ""}
    model = await client.update_model(name, defaults=defaults, **values)
    if as_json:
        return print_state(model, as_json)
    spec = model.spec.to_mapping()
    print(f"{name}: {', '.join(f'{key} = {spec[key]}' for key in given)}")
    return 0


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Return keys and values of texts such as hidden=32. Raises Invalid for another text, and for a repeated key."""
    given: dict[str, Any] = {}
    for assignment in texts:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not (key and equals) or key in given:
            raise Invalid("set", assignment, "write each key once, as key=value, such as learning_rate=1e-4")
        given[key] = toml_value(text)
    return given


async def pause(client: freshet.Client, name: str, as_json: bool) -> int:
    """Stop learning."""
    return print_state(await client.pause(name), as_json)


async def resume(client: freshet.Client, name: str, as_json: bool) -> int:
    """Resume learning."""
    return print_state(await client.resume(name), as_json)


def check_terminal() -> None:
    """Raise Invalid unless standard input is a terminal."""
    if not sys.stdin.isatty():
        raise Invalid("yes", "not given", "without a terminal to confirm on, give --yes")


def confirmed(name: str, warning: str) -> bool:
    """Print a warning and return whether the user types the name of what to delete. Raises Invalid if no terminal."""
    check_terminal()
    print(warning)
    print(f"Type {name} to delete it: ", end="", flush=True)
    if sys.stdin.readline().strip() == name:
        return True
    print("nothing was deleted")
    return False


async def delete(client: freshet.Client, name: str, yes: bool, erase: bool, as_json: bool) -> int:
    """Delete a model after confirmation."""
    if not yes:
        check_terminal()
        model = await client.get_model(name)
        facts = f"{name}: version {model.champion}, {model.streams} streams. They cannot be restored."
        if not confirmed(name, facts):
            return 1
    remains = await client.delete_model(name, erase=erase)
    if erase:
        return deleted(name, {"model": name}, erase, remains, as_json)
    if as_json:
        print_json({"deleted": name})
    else:
        print(f"{name}: deleted")
    return 0


def print_state(model: Model, as_json: bool) -> int:
    """Print the state of a model after a change; return exit code 0."""
    if as_json:
        print_json(plain(model))
    else:
        print(f"{model.name}: version {model.champion} serves, anchor {model.anchor}, learning: {learning(model)}")
    return 0
