"""The examples, run as a reader runs them, against a real server; and a notebook's cells."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.programs.backtest.child import ServerChild
from tests.journeys.conftest import QUICK

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SETTINGS = {"max_streams": 10_000}
SCREEN = 40  # lines
DEADLINE_S = 240.0  # for a whole example, on a busy machine


def run(name: str, *arguments: str, code: int = 0) -> str:
    """What it prints. It must end with the exit code, and complain of nothing."""
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=DEADLINE_S,
        check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert ended.returncode == code, ended.stdout + ended.stderr
    # On a busy machine learning may be late by seconds, which a stream that waits for it reports.
    assert re.sub(r"^stream '.*': max_staleness = \d+ holds tick .*\n", "", ended.stderr, flags=re.M) == ""
    return ended.stdout


def test_each_example_fits_on_a_screen_and_is_run_here():
    scripts = {path.name: path.read_text() for path in EXAMPLES.glob("*.py")}
    long = {name: len(text.splitlines()) for name, text in scripts.items() if len(text.splitlines()) > SCREEN}
    assert not long
    assert {name for name in scripts if f'"{name}"' in Path(__file__).read_text()} == scripts.keys()


def test_no_example_hides_a_module_of_the_standard_library():
    """Their folder comes first on the path of whoever runs one."""
    assert not {path.stem for path in EXAMPLES.glob("*.py")} & sys.stdlib_module_names


def test_an_application_goes_on_where_it_was(server):
    first, second = run("application.py", server.grpc), run("application.py", server.grpc)

    said = [re.findall(r"^reading (\d+): then (?:-?\d+\.\d, ){4}-?\d+\.\d °C, says version \d+$", text, re.M)
            for text in (first, second)]  # fmt: skip
    assert said == [["50", "100", "150", "200", "250", "300"], ["350", "400", "450", "500", "550", "600"]]


def test_a_script_learns_from_labels_that_come_later(server):
    text = run("application_sync.py", server.grpc)

    first, last = map(float, re.findall(r"readings: (\S+), last 50: (\S+)", text)[0])
    assert last < first / 2
    estimates = ast.literal_eval(text.partition("estimates: ")[2])
    assert len(estimates) == 2


def test_a_gateway_speaks_for_thousands(server):
    assert re.fullmatch(r"2,000 forecasts in \d+ ms, by version \d+\n", run("gateway.py", server.grpc))


def test_an_engineer_sees_what_is_learned_and_moves_versions(server):
    text = run("engineer.py", server.grpc, f"http://{server.http}")

    error, persistence = map(float, re.findall(r"mean squared error (\S+), of persistence (\S+)", text)[0])
    assert error < persistence / 2
    lags = ast.literal_eval(f"[{text.partition('gradient: ')[2].splitlines()[0].replace(') (', '), (')}]")
    assert [lag for lag, _ in lags] == [f'lag="{n}"' for n in range(8)]
    assert float(lags[0][1]) > float(lags[-1][1]) > 0
    assert len(re.findall(r"^(?:PUBLISHED|ANCHORED|VETOED|ROLLED_BACK) \d+ .*\{.*\}$", text, re.M)) == 3
    serves, newest = re.findall(r"^serves (\d+) of 1 to (\d+)$", text, re.M)[0]
    assert serves == newest


async def test_an_operator_sees_that_the_server_is_ready_and_then_that_it_has_left(tmp_path):
    child = ServerChild(tmp_path / "data", tmp_path / "log", settings=QUICK)
    await child.start()
    url = f"http://{child.http}"
    text = await asyncio.to_thread(run, "operations.py", url)
    assert text.startswith("healthz: alive\n readyz: ready\n")
    assert re.search(r"^freshet_disk_free_bytes \S+$", text, re.M)

    watching = asyncio.create_task(asyncio.to_thread(run, "operations.py", url, "--until-drained"))
    assert await child.stop() == 0

    assert await watching == "drained: the next server may start on its data\n"
    assert "refused" in await asyncio.to_thread(run, "operations.py", url, code=1)


# --- a notebook

CELLS = [
    # async, as Jupyter runs a cell: in a loop that goes on between the cells
    """
    import freshet
    client = await freshet.connect(ADDRESS).open()
    model = await client.create_model("notebook", ["x"], hidden=8)
    """,
    """
    stream = await client.stream("notebook", "one").open()
    first = await stream.step(1.0)
    """,
    "forecasts = [f async for f in stream.forecasts([2.0, 3.0])]",
    "await stream.aclose(); await client.aclose()",
    # without await, in the same running loop
    """
    blocking = freshet.sync.connect(ADDRESS)
    stream = blocking.stream("notebook", "one").open()
    more = list(stream.forecasts([4.0, 5.0]))
    """,
    """
    with blocking.mux("notebook") as mux:
        packed = mux.step(["one", "two"], [6.0, 1.0])
    """,
    "stream.close(); blocking.close()",
]


async def test_cells_of_a_notebook_await_or_block(server):
    cells: dict[str, Any] = {"ADDRESS": server.grpc}
    for cell in CELLS:
        code = compile(inspect.cleandoc(cell), "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, cells)
        if inspect.isawaitable(result):
            await result

    seqs = [cells["first"].seq, *(f.seq for f in cells["forecasts"]), *(f.seq for f in cells["more"])]
    assert seqs == [1, 2, 3, 4, 5]
    assert cells["packed"].seq.tolist() == [6, 1]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_each_example_says_how_it_is_run(path):
    assert f"python examples/{path.name}" in (ast.get_docstring(ast.parse(path.read_text())) or "")
