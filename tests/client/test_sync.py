"""The client that blocks: the same surface as the async one, usable from scripts, threads and running event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import freshet
from freshet.sync.portal import Portal
from freshet.v1 import models_pb2
from tests.client.fake_server import FakeServer, oracle

VALUES = np.arange(1.0, 101.0)
DEADLINE_S = 60.0

# --- the surfaces

TWINS = [(getattr(freshet, name), getattr(freshet.sync, name)) for name in freshet.sync.__all__]
SPOKEN = {
    "aclose": "close", "__aenter__": "__enter__", "__aexit__": "__exit__", "__aiter__": "__iter__",
    "__anext__": "__next__",
}  # fmt: skip
NOT_HERE = {"Client": {"open"}}  # `connect` has opened it


def members(cls: type, names: dict[str, str]) -> dict[str, Any]:
    """What a user sees of a class, by the name that it has in the blocking form."""
    found = {}
    for name in dir(cls):
        if not name.startswith("_") or name in names or name in names.values():
            found[names.get(name, name)] = inspect.getattr_static(cls, name)
    return found


def asked(function: Any) -> tuple[list[str], str]:
    """Its parameters with types and defaults, and what it returns, in the words of the blocking form."""
    called = function.fget if isinstance(function, property) else function
    assert called is not None
    signature = inspect.signature(called)
    words = [str(parameter) for parameter in signature.parameters.values()]
    return words, str(signature.return_annotation).replace("AsyncIterator", "Iterator")


def attributes(cls: type) -> set[str]:
    """Public names that its methods set on `self`."""
    return set(re.findall(r"\bself\.([a-z]\w*)(?:: [^=\n]+)? = ", inspect.getsource(cls)))


def test_every_class_that_is_awaited_has_a_twin():
    def awaited(thing: Any) -> bool:
        return isinstance(thing, type) and any(
            inspect.iscoroutinefunction(m) or inspect.isasyncgenfunction(m) for m in vars(thing).values()
        )

    public = {name for name in freshet.__all__ if awaited(getattr(freshet, name))}
    assert public | {"connect"} == set(freshet.sync.__all__)


@pytest.mark.parametrize(("there", "here"), TWINS, ids=freshet.sync.__all__)
def test_both_forms_have_the_same_names_arguments_types_and_words(there, here):
    if there is freshet.connect:
        assert asked(here) == asked(there)
        return
    theirs = members(there, SPOKEN)
    ours = members(here, {name: name for name in SPOKEN.values()})
    assert ours.keys() == (theirs.keys() | attributes(there)) - NOT_HERE.get(there.__name__, set())
    for name in ours.keys() & theirs.keys():
        assert isinstance(ours[name], property) == isinstance(theirs[name], property), name
        assert asked(ours[name]) == asked(theirs[name]), name
        assert not inspect.iscoroutinefunction(ours[name]), name
        assert name.startswith("_") or ours[name].__doc__, name


def test_a_change_on_one_side_would_be_seen(monkeypatch):
    monkeypatch.setattr(freshet.Stream, "step", lambda self, x, time=None, more=0: None)
    with pytest.raises(AssertionError, match="step"):
        test_both_forms_have_the_same_names_arguments_types_and_words(freshet.Stream, freshet.sync.Stream)
    monkeypatch.undo()
    monkeypatch.setattr(freshet.Client, "forgotten", lambda self: None, raising=False)
    with pytest.raises(AssertionError, match="forgotten"):
        test_both_forms_have_the_same_names_arguments_types_and_words(freshet.Client, freshet.sync.Client)


@pytest.mark.parametrize(("there", "here"), TWINS, ids=freshet.sync.__all__)
def test_the_documentation_of_the_blocking_form_awaits_nothing(there, here):
    documented = [member for name, member in inspect.getmembers(here) if not name.startswith("_")]
    for thing in (here, *documented):
        assert not re.search(r"async with|await |aclose", thing.__doc__ or ""), thing


def test_what_is_used_before_it_is_open_says_with_and_not_async_with(client):
    stream, mux, learning = client.stream("m", "s"), client.mux("m"), client.learn("m", "here")
    uses: list[Callable[[], Any]] = [
        lambda: stream.step(1.0), lambda: stream.durable(1), lambda: stream.reset(), lambda: stream.label(1, 1.0),
        lambda: stream.forecasts([1.0]).several(), lambda: stream.forecasts([1.0], max_staleness=1),
        lambda: stream.welcome, lambda: stream.spec, lambda: mux.step(["a"], [1.0]), lambda: learning.flush(),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(freshet.NotOpen, match="is not open: use `with client") as refused:
            use()
        assert "async" not in str(refused.value)


# --- a server in a thread of its own, so that a test may block


class ServerInThread(FakeServer):
    """A fake server on the loop of another thread; `do` runs a function there."""

    def __init__(self, portal: Portal) -> None:
        super().__init__()
        self.do = portal.run


@pytest.fixture
def server() -> Iterator[FakeServer]:
    portal = Portal()
    server = ServerInThread(portal)
    portal.call(server.start())
    yield server
    portal.call(server.stop())
    portal.close()


@pytest.fixture
def client(server) -> Iterator[freshet.sync.Client]:
    with freshet.sync.connect(f"127.0.0.1:{server.port}") as client:
        yield client


def until(condition: Callable[[], bool]) -> None:
    """Give way until something has come about in another thread; the test's timeout bounds it."""
    while not condition():
        os.sched_yield()


def assert_unbroken(forecasts, rows):
    assert [forecast.seq for forecast in forecasts] == list(range(1, len(rows) + 1))
    for forecast, y in zip(forecasts, oracle(rows), strict=True):
        np.testing.assert_array_equal(forecast.y, y)


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("freshet")}


def test_a_script_steps_and_iterates(client, server):
    with client.stream("m", "s") as stream:
        forecasts = [stream.step(value) for value in VALUES[:10]]
        forecasts += stream.forecasts(VALUES[10:60])
        forecasts += stream.forecasts(float(value) for value in VALUES[60:])
        stream.durable()
        assert (stream.next_seq, stream.durable_seq, stream.reconnects) == (101, 100, 0)

    assert_unbroken(forecasts, VALUES)
    assert server.streams["s"].durable == 100


def test_without_with_it_is_opened_and_closed_by_hand(server):
    client = freshet.sync.connect(f"127.0.0.1:{server.port}")
    stream = client.stream("m", "s").open()
    assert stream.step(1.0).seq == 1
    stream.close()
    stream.close()
    client.close()
    client.close()
    for call in (client.list_models, lambda: stream.step(2.0), lambda: client.stream("m", "s")):
        with pytest.raises(freshet.StreamClosed, match="the client is closed"):
            call()


async def test_it_blocks_within_a_running_event_loop_as_in_a_notebook(server):
    with freshet.sync.connect(f"127.0.0.1:{server.port}") as client, client.stream("m", "s") as stream:
        blocking = list(stream.forecasts(VALUES[:20]))
    async with freshet.connect(f"127.0.0.1:{server.port}") as other, other.stream("m", "t") as same:
        awaited = [forecast async for forecast in same.forecasts(VALUES[:20])]

    assert_unbroken(blocking, VALUES[:20])
    assert_unbroken(awaited, VALUES[:20])


def test_models_are_looked_up_and_iterated(client, server):
    assert client.create_model("n", ["x"], horizon=3).spec.horizon == 3
    assert [model.name for model in client.list_models()] == ["m", "n"]
    with pytest.raises(freshet.NotFound, match="no model 'o'"):
        client.get_model("o")
    server.do(lambda: [server.events.put_nowait(models_pb2.ModelEvent(version=n)) for n in range(3)])
    events = client.watch("m")
    assert [next(events).version for _ in range(3)] == [0, 1, 2]
    events.close()


def test_a_refused_tick_is_raised_in_its_place_and_iterating_goes_on(client):
    with client.stream("m", "s") as stream:
        forecasts, seen = stream.forecasts([1.0, np.nan, 3.0]), []
        for _ in range(3):
            try:
                seen.append(next(forecasts).seq)
            except freshet.TickRefused as refused:
                seen.append(refused.field)
        assert seen == [1, "x[0]", 2]
        with pytest.raises(StopIteration):
            next(forecasts)
        skipping = stream.forecasts([1.0, np.nan, 3.0], on_refused="skip")
        assert [f.seq for f in skipping] == [3, 4]
        assert [refused.seq for refused in skipping.refused] == [4]


def test_leaving_a_loop_early_leaves_the_stream_usable(client):
    with client.stream("m", "s", in_flight=4) as stream:
        forecasts = stream.forecasts(VALUES)
        for _ in forecasts:
            break
        forecasts.close()
        assert stream.step(0.0).seq == stream.next_seq - 1


# --- sources that block


def test_a_source_may_wait_for_the_forecast_before(client):
    answered = threading.Semaphore(0)

    def rows() -> Iterator[float]:
        yield VALUES[0]
        for value in VALUES[1:10]:
            assert answered.acquire(timeout=DEADLINE_S)
            yield value

    seen = []
    with client.stream("m", "s") as stream:
        for forecast in stream.forecasts(rows()):
            seen.append(forecast)
            answered.release()

    assert_unbroken(seen, VALUES[:10])


def test_a_source_that_fails_is_heard_of_after_the_forecasts_before_it(client):
    def rows() -> Iterator[float]:
        yield from VALUES[:5]
        raise OSError("the sensor is gone")

    seen: list[freshet.Forecast] = []
    with client.stream("m", "s") as stream:
        with pytest.raises(OSError, match="the sensor is gone"):
            seen.extend(stream.forecasts(rows()))
        seen.append(stream.step(VALUES[5]))

    assert_unbroken(seen, VALUES[:6])


def test_a_source_that_waits_for_good_does_not_hold_up_closing(client):
    silent = threading.Event()

    def rows() -> Iterator[float]:
        yield 1.0
        silent.wait()

    with client.stream("m", "s") as stream:
        assert next(stream.forecasts(rows())).seq == 1
    client.close()
    silent.set()


# --- threads


def test_threads_share_a_client_and_a_stream(client, server):
    with client.stream("m", "shared") as shared, ThreadPoolExecutor(8) as pool:

        def work(number: int) -> list[freshet.Forecast]:
            shared.step(1.0)
            with client.stream("m", f"s{number}") as own:
                return list(own.forecasts(VALUES[:20]))

        for forecasts in pool.map(work, range(8)):
            assert_unbroken(forecasts, VALUES[:20])

    assert server.streams["shared"].durable == 8


def test_clients_share_nothing(server):
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(freshet.sync.connect(f"127.0.0.1:{server.port}")) for _ in range(5)]
        clients[0].close()
        assert all(client.list_models() for client in clients[1:])


def test_the_thread_ends_at_close_and_where_that_was_forgotten(server):
    before = threading.active_count()
    with freshet.sync.connect(f"127.0.0.1:{server.port}") as client:
        client.list_models()
    forgotten = freshet.sync.connect(f"127.0.0.1:{server.port}")
    stream = forgotten.stream("m", "s").open()
    del forgotten
    assert stream.step(1.0).seq == 1, "a stream keeps its client"
    del stream
    gc.collect()
    until(lambda: threading.active_count() <= before)


def test_collecting_garbage_does_not_wait_for_its_thread():
    """It may happen in any thread, also in one that the other still waits for."""
    collected, tasks = threading.Event(), []

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            collected.wait(DEADLINE_S)

    portals = [Portal()]
    thread = portals[0]._thread
    portals[0].run(lambda: tasks.append(asyncio.create_task(stubborn())))
    portals[0].call(asyncio.sleep(0))  # it has begun
    portals.clear()
    gc.collect()

    assert thread.is_alive()
    collected.set()
    thread.join(DEADLINE_S)
    assert not thread.is_alive()


def test_closing_wakes_whoever_waits(client, server):
    server.mute = True
    stream = client.stream("m", "s", close_s=0.0).open()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stream.step, 1.0)
        until(lambda: bool(server.received))
        with contextlib.suppress(freshet.Unavailable):  # the tick is not confirmed
            client.close()
        with pytest.raises(freshet.StreamClosed):
            waiting.result(DEADLINE_S)


def test_a_client_cannot_wait_for_itself(server):
    def token() -> str:
        own.list_models()
        return "never"

    with (
        freshet.sync.connect(f"127.0.0.1:{server.port}", token=token) as own,
        pytest.raises(freshet.FreshetError, match="own thread"),
    ):
        own.list_models()


def test_an_interrupt_ends_the_wait_and_loses_nothing(client, server):
    server.mute = True

    def interrupt() -> None:
        until(lambda: len(server.received) >= 1)
        os.kill(os.getpid(), signal.SIGINT)

    with client.stream("m", "s", answer_s=0.2) as stream:
        helper = threading.Thread(target=interrupt)
        helper.start()
        with pytest.raises(KeyboardInterrupt):
            stream.step(VALUES[0])
        helper.join()
        server.mute = False
        second = stream.step(VALUES[1])

    assert second.seq == 2
    np.testing.assert_array_equal(second.y, oracle(VALUES[:2])[1])
    assert server.rows() == [[1.0], [2.0]]


# --- whole processes


def script(server: FakeServer, text: str) -> subprocess.CompletedProcess[str]:
    code = f"import os, sys, threading, freshet\nADDRESS = '127.0.0.1:{server.port}'\n{textwrap.dedent(text)}"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip


def test_a_script_that_forgets_to_close_ends_in_silence(server):
    ended = script(server, """
        client = freshet.sync.connect(ADDRESS)
        stream = client.stream("m", "s").open()
        events = client.watch()
        print(stream.step(1.0).seq)
        for forecast in stream.forecasts(iter([2.0, 3.0])):
            print(forecast.seq)
    """)  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\n2\n3\n", "")


def test_after_a_fork_the_child_is_told_and_the_parent_goes_on(server):
    ended = script(server, """
        client = freshet.sync.connect(ADDRESS)
        print(len(client.list_models()), flush=True)
        child = os.fork()
        if not child:
            try:
                client.list_models()
            except freshet.FreshetError as error:
                print(error, flush=True)
            client.close()
            os._exit(0)
        os.waitpid(child, 0)
        print(len(client.list_models()))
        client.close()
    """)  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    first, told, last = ended.stdout.splitlines()
    assert (first, last) == ("1", "1")
    assert "forked from one that had used gRPC" in told
