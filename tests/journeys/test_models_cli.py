"""`freshet models …` as people and scripts use it: a real command, a real server."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import freshet
from tests.journeys import preloaded
from tests.journeys.crash import walk, within


class Shell:
    """Runs the command in a folder, against one server."""

    def __init__(self, url: str, folder: Path, group: str = "models") -> None:
        self._url, self._folder, self._group = url, folder, group

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """The command under way. It inherits no terminal."""
        return await preloaded.command(self._group, *arguments, "--url", self._url, folder=self._folder)

    async def __call__(self, *arguments: str, code: int = 0) -> str:
        """What it prints; with another exit code than 0, what it says on standard error: one line."""
        process = await self.start(*arguments)
        out, err = [data.decode() for data in await within(process.communicate())]
        assert process.returncode == code, err or out
        assert code == 0 or (err.startswith("freshet: ") and err.count("\n") == 1), err
        return err if code else out

    async def json(self, *arguments: str) -> Any:
        """What it prints as JSON."""
        return json.loads(await self(*arguments, "--json"))


@pytest.mark.long  # thirty commands; the next journey has ten
async def test_a_person_makes_watches_moves_and_deletes_models_from_the_command_line(client, server, name, tmp_path):
    run = Shell(server.grpc, tmp_path)
    (tmp_path / "model.toml").write_text('channels = ["x"]\nhidden = 8\nhead_init = 0.3\n')

    said = await run("create", name, "--from", "model.toml")
    assert said == f"{name}: version 1 serves, anchor 1, learning: yes\n"
    assert await run("create", name, "--from", "model.toml") == said
    watch = await run.start("watch", name, "--json")
    assert watch.stdout
    async with client.stream(name, "pump") as stream:
        for row in walk(120, 1):
            await within(stream.step(row))
        await within(stream.wait_judged(120))
    assert "paused" in await run("pause", name)

    header, *rows = (await run("list")).splitlines()
    mine = next(row for row in rows if row.startswith(f"{name} "))
    assert header.split()[:4] == ["name", "task", "cell", "version"]
    assert mine.index("forecast") == header.index("task"), "aligned"
    [model] = [m for m in await run.json("list") if m["name"] == name]
    assert (model["paused"], model["streams"], model["spec"]["hidden"]) == (True, 1, 8)
    assert model == await run.json("show", name)
    assert "hidden = 8\n" in await run("show", name)

    history = await run.json("history", name)
    champion = history["champion"]
    assert history["versions"][0]["number"] == champion > 1
    assert history["versions"][0]["loss"] > 0
    assert {e["kind"] for e in history["events"]} >= {"PUBLISHED", "PAUSED"}
    told = await run("history", name, "--events", "1")
    assert f"\n{champion} " in told
    assert "serves" in told
    assert told.rstrip().splitlines()[-1].split()[2] == "paused"

    await export_and_import(run, client, name, champion, tmp_path)

    said = f"{name}: version 1 serves, anchor 1, learning: paused\n"
    again = f"return with `freshet models promote {name} {champion}`"
    assert await run("rollback", name, "1") == f"{said}{name}: from version {champion} back to 1; {again}\n"
    assert await run("rollback", name) == said
    assert f"version {champion} serves" in await run("promote", name, str(champion))
    assert "learning: yes" in await run("resume", name)
    assert "give --yes" in await run("delete", name, code=2)
    assert await run("delete", name, "--yes") == f"{name}: deleted\n"
    first = json.loads(await within(watch.stdout.readline()))
    assert first["model"] == name
    watch.send_signal(signal.SIGINT)
    rest, _ = await within(watch.communicate())
    kinds = [json.loads(line)["kind"] for line in rest.decode().splitlines()]
    assert watch.returncode == 130
    assert kinds[-4:] == ["ROLLED_BACK", "PUBLISHED", "RESUMED", "DELETED"]


async def export_and_import(run: Shell, client: freshet.Client, name: str, champion: int, tmp_path: Path) -> None:
    """A version as files, and into another model."""
    other = f"{name[:50]}-other"
    await run("export", name, "--to", "files", "--licence", "CC0-1.0")
    folder = tmp_path / "files"
    exported = await client.export(name, metadata=True, licence="CC0-1.0")
    assert (folder / "model.onnx").read_bytes() == exported.onnx
    assert (folder / "weights.safetensors").read_bytes() == exported.weights
    facts = json.loads((folder / "model.json").read_text())
    assert (facts["model"], facts["version"]["number"]) == (name, champion)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    meta = session.get_modelmeta().custom_metadata_map
    assert (meta["freshet.version"], meta["freshet.licence"]) == (str(champion), "CC0-1.0")
    assert "has model.onnx already" in await run("export", name, "--to", "files", code=2)
    await run("export", name, "--to", "files", "--force")
    assert json.loads(await run("export", name, "--version", "1", "--json"))["folder"] == f"{name}-1"

    assert "version 1 serves" in await run("create", other, "--from", "files/model.json")
    assert (await run.json("import", other, "--from", "files"))["number"] == 2
    assert "version 2 is there" in await run("import", other, "--from", "files/weights.safetensors")
    assert "version 2 serves, anchor 2" in await run("import", other, "--from", "files", "--promote")
    assert (await client.export(other)).weights == exported.weights

    facts["sha256"]["weights.safetensors"] = "0" * 64
    (folder / "model.json").write_text(json.dumps(facts))
    assert f"digest = {'0' * 64}: the sha256 of these" in await run("import", other, "--from", "files", code=1)
    await run("delete", other, "--yes")
    await run("create", other, "--from", "files")
    assert (await client.export(other)).weights == exported.weights, "a folder's weights are version 1"
    assert "began with other weights" in await run(
        "create", other, "--from", "files", "--weights", f"{name}-1/weights.safetensors", code=1
    )


async def test_what_the_server_refuses_is_one_line_and_exit_code_1(server, name, tmp_path):
    run = Shell(server.grpc, tmp_path)
    (tmp_path / "model.json").write_text('{"channels": ["x"]}')

    for words, arguments in {
        "no such model": ("show", name),
        "no such model; create it first": ("promote", name, "3"),
        "reserved: it stands for every model": ("create", "all", "--from", "model.json"),
        "give 1 to 64 of a-z": ("create", "../x", "--from", "model.json"),
    }.items():
        assert words in await run(*arguments, code=1)
    (tmp_path / "model.json").write_text('{"channels": ["x"], "hiden": 3}')
    assert "hiden = 3: unknown key; did you mean hidden?" in await run("create", name, "--from", "model.json", code=2)


async def test_a_person_lists_looks_at_and_deletes_streams_from_the_command_line(client, server, name, tmp_path):
    run = Shell(server.grpc, tmp_path, "streams")
    await client.create_model(name, ["x"], hidden=8, interval=60.0)
    assert await run("list", name) == f"{name}: no streams yet\n"
    for id, rows in (("pump-1", 40), ("pump-2", 3)):
        async with client.stream(name, id) as stream:
            for at, row in enumerate(walk(rows, 1)):
                await within(stream.step(row, time=1_700_000_000.0 + 60 * at))

    header, first, second = (await run("list", name)).splitlines()
    assert header.split() == ["stream", "seq", "durable", "origin", "last", "time", "staleness"]
    assert first.split()[:5] == ["pump-1", "40", "40", "resumed", "2023-11-14T22:52:20Z"]
    assert second.split()[:3] == ["pump-2", "3", "3"]
    process = await run.start("list", name, "--limit", "1", "--json")
    out, err = await within(process.communicate())
    assert [one["stream"] for one in json.loads(out)] == ["pump-1"]
    assert err == b"freshet: there are more than 1: give --limit 0 for all\n"

    async with client.stream(name, "pump-1") as stream:
        await within(stream.wait_judged(39))
    found = await run.json("show", name, "pump-1")
    model = await client.get_model(name)
    state = (await client.get_stream(name, "pump-1", with_state=True)).state
    assert found["version"] == model.champion > 1
    assert (found["seq"], found["durable"], found["last_time"]) == (40, 40, 1_700_002_340.0)
    assert (found["origin"], found["state_bytes"]) == ("resumed", len(state))
    assert found["staleness"] <= 1
    shown = dict(line.split(maxsplit=1) for line in (await run("show", name, "pump-2")).splitlines())
    assert shown["stream"] == "pump-2"
    assert shown["state"] == f"{len(state)} bytes"

    assert await run("delete", name, "pump-2", code=2) == (
        "freshet: yes = not given: without a terminal to confirm on, give --yes\n"
    )
    assert await run("delete", name, "pump-2", "--yes") == f"stream pump-2 of {name}: deleted\n"
    assert "no such stream" in await run("show", name, "pump-2", code=1)
    assert "no such stream" in await run("delete", name, "pump-2", "--yes", code=1)
    assert await run.json("delete", name, "pump-1", "--yes") == {
        "deleted": {"model": name, "stream": "pump-1"}, "erased": False, "remains": [],
    }  # fmt: skip
