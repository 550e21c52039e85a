"""`freshet top` as people and scripts use it: a real command on a real terminal, beside a real server at work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import freshet
from service.programs.backtest.child import ServerChild
from tests.journeys import preloaded
from tests.journeys.crash import DEADLINE_S, a_server, walk, within
from tests.journeys.credentials import Entry, written
from tests.journeys.scraped import scrape

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is the terminal")


def words(server: ServerChild, *arguments: str) -> list[str]:
    return ["top", "--url", server.grpc, "--http", server.http, "--interval", "0.5", *arguments]


def command(server: ServerChild, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "service.cli", *words(server, *arguments)]


async def started(server: ServerChild, *arguments: str) -> asyncio.subprocess.Process:
    """The command with its output on a pipe."""
    return await preloaded.command(*words(server, *arguments))


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


@contextlib.asynccontextmanager
async def at_work(client: freshet.Client, *models: str) -> AsyncIterator[None]:
    """A stream of each model that goes on until the end."""

    async def drive(model: str) -> None:
        async with client.stream(model, "pump", give_up_s=DEADLINE_S) as stream:
            async for _ in stream.forecasts(np.tile(walk(500, 1), (400, 1)), max_staleness=64):
                pass

    async with asyncio.TaskGroup() as tasks:
        driving = [tasks.create_task(drive(model)) for model in models]
        yield
        for task in driving:
            task.cancel()


class Terminal:
    """A terminal of tmux with one command in it, seen as a person sees it."""

    def __init__(self, socket: Path, words: list[str], width: int, height: int) -> None:
        self._socket = socket
        stale = "COLUMNS=200 LINES=99"  # as a shell may have exported them before the terminal changed
        shell = f"{stale} {shlex.join(words)}; echo left with $?; stty -a; exec cat"
        self("-f", os.devnull, "new-session", "-d", "-x", str(width), "-y", str(height), shell)

    def __call__(self, *words: str) -> str:
        """What tmux answers."""
        line = ["tmux", "-S", str(self._socket), *words]
        return subprocess.run(line, check=True, capture_output=True, text=True, timeout=60, env=environment()).stdout

    async def shows(self, wanted: Callable[[str], bool]) -> str:
        """The screen, once it is as wanted. Raises TimeoutError with what was seen last as a note."""
        seen = ""
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not wanted(seen):
                    seen = await asyncio.to_thread(self, "capture-pane", "-p")
        except TimeoutError as error:
            error.add_note(f"last seen:\n{seen}")
            raise
        return seen


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    socket = tmp_path / "tmux"

    def open(words: list[str], width: int = 150, height: int = 30) -> Terminal:
        return Terminal(socket, words, width, height)

    yield open
    if socket.exists():
        subprocess.run(["tmux", "-S", str(socket), "kill-server"], check=False, capture_output=True, timeout=60)


async def test_scripts_get_what_the_server_measured(server, client, name):
    await client.create_model(name, ["x"], hidden=8)
    await client.create_model(f"{name}-idle", ["x"], hidden=8)
    async with client.stream(name, "pump") as stream:
        async for _ in stream.forecasts(walk(300, 1), max_staleness=64):
            pass
        await within(stream.wait_judged(300))
        await client.pause(name)
        process = await started(server, name, "--once", "--json")
        out, err = await within(process.communicate())
        metrics = await scrape(server.http)

    assert process.returncode == 0, err.decode()
    told = json.loads(out)
    [m] = told["models"]
    labels = {"tenant": "default", "model": name}
    assert (m["model"], m["streams_open"], m["streams"]) == (name, 1, 1)
    assert m["version"] == metrics.total("freshet_version", **labels) > 1
    assert m["published"] == metrics.total("freshet_verdicts_total", kind="publish", **labels)
    assert m["loss"] == metrics.total("freshet_loss_prequential", **labels)
    assert (m["verdict"], m["learning"], m["backlog"]) == ("published", "paused", 0)
    assert (told["server"]["ready"], told["server"]["calls"]) == ("ready", 1)


async def test_a_pipe_gets_lines_in_columns_until_interrupted(server, client, name):
    await client.create_model(name, ["x"], hidden=8)
    async with at_work(client, name):
        process = await started(server, name)
        assert process.stdout
        names = (await within(process.stdout.readline())).decode().split()
        rows: list[dict[str, str]] = []
        while not rows or rows[-1]["staleness_p50"] == "-" or rows[-1]["gradient"] == "-":
            line = (await within(process.stdout.readline())).decode().split()
            if line[0] != "#":
                rows.append(dict(zip(names, line, strict=True)))
        process.send_signal(signal.SIGINT)
        _, err = await within(process.communicate())

    assert (process.returncode, err) == (0, b"")
    last = rows[-1]
    assert last["model"] == name
    assert float(last["ticks_per_s"]) > 0
    assert float(last["loss"]) > 0
    assert {part.split("=")[0] for part in last["gradient"].split(",")} == {"all", "cell0", "head"}


async def test_a_token_shows_what_its_role_may_see(tmp_path):
    tokens = [Entry("reads", "acme", "predict"), Entry("makes", "acme", "admin"), Entry("scrapes", "ops", "metrics")]
    (tmp_path / "access.toml").write_text(written(*tokens, Entry("runs", "default", "admin")))
    seen = {}
    async with a_server(tmp_path, access=tmp_path / "access.toml") as server:
        async with freshet.connect(server.grpc, token="makes") as client:
            await client.create_model("pumps", ["x"], hidden=8)
            await client.pause("pumps")
        for token in ("reads", "scrapes", "runs"):
            process = await started(server, "--once", "--json", "--token", token)
            out, err = await within(process.communicate())
            assert process.returncode == (1 if token == "scrapes" else 0), err.decode()
            seen[token] = json.loads(out)

    [reads], [scrapes], [runs] = (seen[token]["models"] for token in ("reads", "scrapes", "runs"))
    assert (reads["tenant"], reads["version"], reads["learning"], reads["ticks_per_s"]) == ("", 1, "paused", 0)
    assert scrapes.pop("published_s") < runs.pop("published_s"), "a while later"
    assert scrapes == runs
    assert (runs["tenant"], runs["version"], runs["learning"], runs["ticks_per_s"]) == ("acme", 1, "paused", 0)
    assert seen["reads"]["troubles"] == []
    assert seen["reads"]["server"]["latency_p50"] is None
    unlike = {name for name in runs if runs[name] != reads[name]} - {"published_s"}
    assert unlike <= {"tenant", "gradient", "experts"}, "a tenant sees of its own models what an operator sees"
    assert [trouble.startswith("no list of models: ") for trouble in seen["scrapes"]["troubles"]] == [True]
    assert seen["runs"]["troubles"] == []


async def test_a_server_that_is_not_there_is_one_line_and_exit_code_1(tmp_path):
    nobody = ServerChild(tmp_path / "data", tmp_path / "log")
    nobody.grpc, nobody.http = "127.0.0.1:1", "127.0.0.1:1"
    process = await started(nobody, "--once")
    out, err = await within(process.communicate())

    assert (process.returncode, out) == (1, b"")
    assert err.startswith(b"freshet: no http://127.0.0.1:1/metrics: ")
    assert err.count(b"\n") == 1


@needs_tmux
async def test_a_person_watches_a_server_that_goes_away_and_comes_back(tmp_path, terminal):
    async with a_server(tmp_path) as server, freshet.connect(server.grpc) as client:
        for name in ("pumps", "taxi"):
            await client.create_model(name, ["x"], hidden=8)
        async with at_work(client, "pumps"):
            top = terminal(command(server))
            begun = f"freshet {server.grpc}   ready   1 calls   "
            wanted = (begun, "gradient head", "last verdict published: due")
            seen = await top.shows(lambda text: all(words in text for words in wanted))
            names, pumps, taxi = (line(seen, word) for word in ("model", "pumps", "taxi"))
            assert seen.startswith(begun)
            assert "latency p50 " in seen
            assert names.split()[:4] == ["model", "streams", "ticks/s", "learned/s"]
            assert pumps.split()[:2] == ["pumps", "1/1"]
            assert taxi.split()[:2] == ["taxi", "0/0"]
            assert pumps.index("1/1") + 3 == names.index("streams") + 7, "numbers stand below their names"

            await client.pause("taxi")
            await top.shows(lambda text: line(text, "taxi").endswith("paused"))

            server.kill()
            await server.wait()
            seen = await top.shows(lambda text: "away since" in text)
            assert line(seen, "taxi"), "what was seen last stays"
            assert "Traceback" not in seen
            await server.start()
            await top.shows(lambda text: "   ready   " in text and line(text, "pumps").split()[1:2] == ["1/1"])

        top("send-keys", "q")
        await left(top)


@needs_tmux
async def test_a_terminal_may_be_narrow_and_may_change(server, client, name, terminal):
    await client.create_model(name, ["x"], hidden=8)
    async with at_work(client, name):
        # As many rows as later: where there are more than before, tmux may fill up the terminal that is restored with
        # lines of the screen that was left.
        top = terminal(command(server, name), 40, 24)
        narrow = await top.shows(lambda text: name[:30] in text)
        assert "staleness" not in line(narrow, "model")
        top("resize-window", "-x", "80", "-y", "24")
        await top.shows(lambda text: "gradient head" in text)
        top("resize-window", "-x", "180", "-y", "24")
        wide = await top.shows(lambda text: "ok/veto/back   backlog   learning" in text)
        assert name in wide

    top("send-keys", "C-c")
    await left(top)


def line(screen: str, model: str) -> str:
    """A model's line of the table, or that of the names of columns."""
    return next((row.rstrip() for row in screen.splitlines() if row.startswith(f"{model} ")), "")


async def left(top: Terminal) -> None:
    """The command has left well, and the terminal is as it was: lines are edited, and what is typed is seen."""

    def before_again(text: str) -> bool:
        return "left with" in text and "echok" in text and "ticks/s" not in text

    after = await top.shows(before_again)
    assert "left with 0\n" in after
    words = after.replace(";", " ").split()
    assert {"icanon", "echo", "isig"} <= set(words)
    assert "away since" not in after
    top("send-keys", "typed after")
    await top.shows(lambda text: "typed after" in text)
