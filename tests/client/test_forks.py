"""What a process that was forked, or spawned, from one that had used gRPC is told, and what works."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from freshet.sync.portal import Portal
from tests.client.fake_mux import FakeMux
from tests.client.fake_server import FakeServer

DEADLINE_S = 60.0

# What every script begins with. `behind_a_fork` runs a function in a child, and prints how that ended.
PRELUDE = """
import asyncio, os, sys, threading
import freshet
ADDRESS = sys.argv[1]

def outcome(work):
    try:
        result = work()
        return asyncio.run(awaited(result)) if hasattr(result, "__await__") else result
    except Exception as error:
        return f"{type(error).__name__}: {error}"

async def awaited(result):
    return await result

def behind_a_fork(*works):
    main = threading.current_thread() is threading.main_thread()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        for work in works:
            print(outcome(work), flush=True)
        if main:
            sys.exit(0)  # what was inherited is cleared away, too
        os._exit(0)
    print("ended with", os.waitpid(child, 0)[1], flush=True)

async def a_step(stream_id):
    async with freshet.connect(ADDRESS) as client, client.stream("m", stream_id, give_up_s=10) as stream:
        return (await stream.step(1.0)).seq

def a_blocking_step(stream_id):
    with freshet.sync.connect(ADDRESS) as client, client.stream("m", stream_id, give_up_s=10) as stream:
        return stream.step(1.0).seq
"""


@contextlib.contextmanager
def running(fake: Any) -> Iterator[Any]:
    portal = Portal()
    portal.call(fake.start())
    yield fake
    portal.call(fake.stop())
    portal.close()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with running(FakeServer()) as fake:
        yield fake


def script(tmp_path: Path, port: int, text: str) -> list[str]:
    """The lines that a script prints; it must end well."""
    file = tmp_path / "script.py"
    file.write_text(PRELUDE + textwrap.dedent(text))
    ended = subprocess.run(
        [sys.executable, str(file), f"127.0.0.1:{port}"], capture_output=True, text=True, timeout=DEADLINE_S,
        check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout.splitlines()


def assert_told(lines: list[str], times: int) -> None:
    assert len(lines) == times + 1, lines
    for line in lines[:-1]:
        assert line.startswith("Forked: this process was forked from one that had used gRPC"), lines
        assert 'multiprocessing.get_context("spawn") or "forkserver"' in line
    assert lines[-1] == "ended with 0"


def test_new_clients_behind_a_fork_are_refused_with_the_remedy(server, tmp_path):
    lines = script(tmp_path, server.port, """
        print(asyncio.run(a_step("s")))
        behind_a_fork(lambda: a_step("child"), lambda: a_blocking_step("child"),
                      lambda: freshet.connect(ADDRESS), lambda: freshet.sync.connect(ADDRESS))
        print(asyncio.run(a_step("s")))
    """)  # fmt: skip
    assert (lines[0], lines[-1]) == ("1", "2")
    assert_told(lines[1:-1], 4)


def test_new_clients_behind_a_fork_are_refused_where_the_parent_blocks(server, tmp_path):
    lines = script(tmp_path, server.port, """
        client = freshet.sync.connect(ADDRESS)
        client.get_model("m")
        behind_a_fork(lambda: a_step("child"), lambda: a_blocking_step("child"))
        client.close()
    """)  # fmt: skip
    assert_told(lines, 2)


def test_what_was_made_before_a_fork_is_refused_behind_it_and_goes_on_in_the_parent(server, tmp_path):
    lines = script(tmp_path, server.port, """
        async def main():
            async with freshet.connect(ADDRESS) as client, client.stream("m", "s") as stream:
                await stream.step(1.0)
                forecasts = stream.forecasts([1.0, 2.0])
                await anext(forecasts)
                unopened = client.stream("m", "later")
                await asyncio.to_thread(behind_a_fork,
                    lambda: stream.step(1.0), lambda: stream.label(1, 1.0), lambda: stream.reset(),
                    lambda: stream.durable(), lambda: stream.wait_judged(1), lambda: forecasts.several(),
                    lambda: unopened.open(), lambda: client.get_model("m"), lambda: client.stream("m", "x"),
                    lambda: client.mux("m"), lambda: client.learn("m", "x"), lambda: client.open())
                print((await anext(forecasts)).seq, (await stream.step(1.0)).seq)
        asyncio.run(main())
    """)  # fmt: skip
    assert lines[-1] == "3 4"
    assert_told(lines[:-1], 12)


def test_what_blocks_and_was_made_before_a_fork_is_refused_behind_it(server, tmp_path):
    lines = script(tmp_path, server.port, """
        client = freshet.sync.connect(ADDRESS)
        stream = client.stream("m", "s").open()
        stream.step(1.0)
        forecasts, events = stream.forecasts([1.0, 2.0]), client.watch("m")
        behind_a_fork(lambda: stream.step(1.0), lambda: stream.label(1, 1.0), lambda: stream.durable(),
                      lambda: next(forecasts), lambda: next(events), lambda: client.get_model("m"),
                      lambda: client.mux("m"), lambda: client.learn("m", "x"))
        print(stream.step(1.0).seq)
        client.close()
    """)  # fmt: skip
    assert lines[-1] == "2"
    assert_told(lines[:-1], 8)


def test_a_mux_that_was_made_before_a_fork_is_refused_behind_it(tmp_path):
    with running(FakeMux()) as fake:
        lines = script(tmp_path, fake.port, """
            with freshet.sync.connect(ADDRESS) as client, client.mux("m") as blocking:
                blocking.step(["b"], [1.0])
                async def main():
                    async with freshet.connect(ADDRESS) as client, client.mux("m") as mux:
                        await mux.step(["a"], [1.0])
                        await asyncio.to_thread(behind_a_fork, lambda: mux.step(["a"], [1.0]),
                                                lambda: client.mux("m"), lambda: blocking.step(["b"], [1.0]))
                        print((await mux.step(["a"], [1.0])).seq[0])
                asyncio.run(main())
                print(blocking.step(["b"], [1.0]).seq[0])
        """)  # fmt: skip
    assert lines[-2:] == ["2", "2"]
    assert_told(lines[:-2], 3)


def test_a_fork_behind_grpc_that_another_library_used_is_noticed(server, tmp_path):
    lines = script(tmp_path, server.port, """
        import grpc
        from freshet.v1 import models_pb2, models_pb2_grpc
        async def other():
            async with grpc.aio.insecure_channel(ADDRESS) as channel:
                await models_pb2_grpc.ModelsStub(channel).Get(models_pb2.GetModelRequest(name="m"))
                await asyncio.to_thread(behind_a_fork, lambda: a_step("child"), lambda: a_blocking_step("child"))
        asyncio.run(other())
    """)  # fmt: skip
    assert_told(lines, 2)


def test_children_that_use_no_grpc_end_well_however_busy_the_parent_is(server, tmp_path):
    """gRPC's own handlers crashed one in four of them, inside of fork()."""
    lines = script(tmp_path, server.port, """
        async def main():
            async with freshet.connect(ADDRESS) as client, client.stream("m", "s") as stream:
                await stream.step(1.0)
                for _ in range(20):
                    await asyncio.to_thread(behind_a_fork)
        asyncio.run(main())
    """)  # fmt: skip
    assert lines == ["ended with 0"] * 20


def test_a_fork_before_the_first_client_is_opened_works(server, tmp_path):
    lines = script(tmp_path, server.port, """
        unopened = freshet.connect(ADDRESS)
        behind_a_fork(lambda: a_step("child"), lambda: a_blocking_step("child"))
        print(asyncio.run(a_step("s")))
    """)  # fmt: skip
    assert lines == ["1", "2", "ended with 0", "1"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_of_spawn_and_forkserver_work(server, tmp_path, method):
    lines = script(tmp_path, server.port, f"""
        import multiprocessing
        if __name__ == "__main__":
            print(asyncio.run(a_step("s")))
            with multiprocessing.get_context("{method}").Pool(2) as pool:
                print(sorted(pool.map(a_blocking_step, ["x", "y"])))
            print(asyncio.run(a_step("s")))
    """)  # fmt: skip
    assert lines == ["1", "[1, 1]", "2"]
