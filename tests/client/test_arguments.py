"""Arguments of other types than asked for: refused by name before anything is sent, in both forms of the client."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

import freshet
from freshet.arguments import identifier
from freshet.spec import spec_message
from freshet.v1 import types_pb2
from model.spec import ModelSpec as CoreSpec
from model.spec import SpecError
from tests.client.fake_server import FakeServer

HOUR = dt.timedelta(hours=1)


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    server = FakeServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[freshet.Client]:
    async with freshet.connect(f"127.0.0.1:{server.port}") as client:
        yield client


# Keys, and what the refusal names: field, value, a word of the remedy.
WRONG: list[tuple[dict[str, Any], str, str, str]] = [
    ({"channels": "load"}, "channels", "'load'", r"give a list: \['load'\]"),
    ({"channels": b"load"}, "channels", "b'load'", "give a list"),
    ({"channels": {"b"}}, "channels", "{", "a set has no order"),
    ({"channels": frozenset({"a"})}, "channels", "frozenset", "a set has no order"),
    ({"channels": {"a": 1}}, "channels", "{'a': 1}", "give a list"),
    ({"channels": None}, "channels", "None", "give a list"),
    ({"channels": 3}, "channels", "3", "give a list"),
    ({"channels": [1, 2]}, "channels", "1", "give '1'"),
    ({"channels": ["a", None]}, "channels", "None", "a name is 1 to 256"),
    ({"channels": [b"a"]}, "channels", "b'a'", "a name is 1 to 256"),
    ({"channels": ["a\tb"]}, "channels", r"'a\tb'", "printable"),
    ({"channels": ["\ud800"]}, "channels", r"'\ud800'", "printable"),
    ({"targets": "yield"}, "targets", "'yield'", "give a list"),
    ({"classes": "ab"}, "classes", "'ab'", "give a list"),
    ({"classes": [0, 1]}, "classes", "0", "give '0'"),
    ({"freeze": "head"}, "freeze", "'head'", "give a list"),
    ({"class_weights": "12"}, "class_weights", "'12'", "give a list"),
    ({"class_weights": ["1"]}, "class_weights", "'1'", "give a finite number"),
    ({"class_weights": [True, False]}, "class_weights", "True", "give a finite number"),
    ({"label_range": 5.0}, "label_range", "5.0", "give a list"),
    ({"label_range": [(0, 1)]}, "label_range", "(0, 1)", "give a finite number"),
    ({"interval": "30min"}, "interval", "'30min'", "seconds"),
    ({"interval": HOUR}, "interval", "timedelta", "seconds: 3600"),
    ({"interval": np.timedelta64(1, "h")}, "interval", "timedelta", "seconds: 3600"),
    ({"interval": True}, "interval", "True", "finite number"),
    ({"interval": float("nan")}, "interval", "nan", "finite number"),
    ({"interval": [1.0]}, "interval", "[1.0]", "finite number"),
    ({"max_gap": HOUR}, "max_gap", "timedelta", "seconds: 3600"),
    ({"learning_rate": "1e-3"}, "learning_rate", "'1e-3'", "finite number"),
    ({"clip": 10**400}, "clip", "1000", "finite number"),
    ({"horizon": "24"}, "horizon", "'24'", "whole number"),
    ({"horizon": 24.0}, "horizon", "24.0", "whole number"),
    ({"horizon": True}, "horizon", "True", "whole number"),
    ({"horizon": np.bool_(True)}, "horizon", "True", "whole number"),
    ({"hidden": -1}, "hidden", "-1", "whole number from 0"),
    ({"hidden": 2**32}, "hidden", "4294967296", "whole number from 0"),
    ({"seed": -1}, "seed", "-1", "whole number from 0"),
    ({"learn": "false"}, "learn", "'false'", "True or False"),
    ({"learn": 0}, "learn", "0", "True or False"),
    ({"cell": 5}, "cell", "5", "give a text"),
    ({"cell": ["gru"]}, "cell", "['gru']", "give a text"),
    ({"cell": "\ud800"}, "cell", r"'\ud800'", "UTF-8"),
    ({"horizn": 24}, "horizn", "24", "did you mean horizon"),
    ({"chanels": ["a"]}, "chanels", "['a']", "did you mean channels"),
    ({"zzz": 1}, "zzz", "1", "known are accumulate, activation, attention_window"),
]  # fmt: skip


def ids(case: Any) -> str | None:
    return repr(case)[:40] if isinstance(case, dict) else None


@pytest.mark.parametrize(("keys", "field", "value", "remedy"), WRONG, ids=ids)
async def test_a_key_of_another_type_is_refused_by_name_value_and_remedy(client, server, keys, field, value, remedy):
    with pytest.raises(freshet.InvalidArgument, match=remedy) as refused:
        await client.create_model("new", **({"channels": ["a"]} | keys))

    error = refused.value
    assert error.field == field
    assert value in error.value
    assert re.search(remedy, error.remedy)
    assert str(error) == f"{field} = {error.value}: {error.remedy}"
    assert "new" not in server.models


@pytest.mark.parametrize(("keys", "field", "value", "remedy"), WRONG[:4], ids=ids)
async def test_the_blocking_client_refuses_alike(client, server, keys, field, value, remedy):
    def create() -> None:
        with freshet.sync.connect(f"127.0.0.1:{server.port}") as blocking:
            blocking.create_model("new", **({"channels": ["a"]} | keys))

    with pytest.raises(freshet.InvalidArgument, match=remedy) as refused:
        await asyncio.to_thread(create)

    assert refused.value.field == field


def test_every_key_refuses_what_is_of_no_type_at_all():
    for key in types_pb2.ModelSpec.DESCRIPTOR.fields_by_name:
        with pytest.raises(freshet.InvalidArgument) as refused:
            spec_message({key: object()})
        assert refused.value.field == key


@pytest.mark.parametrize(
    ("keys", "same"),
    [
        ({"channels": ("a", "b")}, {"channels": ["a", "b"]}),
        ({"channels": np.array(["a", "b"])}, {"channels": ["a", "b"]}),
        ({"channels": {"a": 1, "b": 2}.keys()}, {"channels": ["a", "b"]}),
        ({"channels": (name for name in "ab")}, {"channels": ["a", "b"]}),
        ({"horizon": np.int64(24)}, {"horizon": 24}),
        ({"horizon": np.array(24)}, {"horizon": 24}),
        ({"interval": 1800}, {"interval": 1800.0}),
        ({"interval": np.float32(1800)}, {"interval": 1800.0}),
        ({"learn": np.bool_(False)}, {"learn": False}),
        ({"class_weights": np.array([1.0, 2.0])}, {"class_weights": [1.0, 2.0]}),
        ({"horizon": None, "cell": None, "classes": None}, {}),
    ],
    ids=ids,
)
def test_what_means_the_same_is_taken(keys, same):
    assert spec_message(keys) == types_pb2.ModelSpec(**same)


def test_what_the_model_core_refuses_for_its_type_is_refused_here_alike():
    """The command line reads keys through model/spec: the two agree about types."""
    for keys, field, _value, _remedy in WRONG:
        if keys.get("hidden") == 2**32 or "cell" in keys or field in ("seed", "hidden"):
            continue  # of their range, and of the choices, the server alone judges
        with pytest.raises(SpecError):
            CoreSpec.from_mapping({"channels": ["a"]} | keys)


# --- ids and names


async def made(use: Callable[[], Any]) -> None:
    """Call it, and await what it gives where that is to be awaited."""
    given = use()
    if hasattr(given, "__await__"):
        await given


BAD_IDS: list[Any] = ["", None, 1.5, b"pump", True, np.bool_(True), ("a",), "a\tb", "x" * 257, "\ud800", Ellipsis]


@pytest.mark.parametrize(("given", "sent"), [(7, "7"), (np.int64(7), "7"), ("pump-7", "pump-7"), (np.str_("p"), "p")])
def test_an_id_is_text_or_a_whole_number(given, sent):
    assert identifier(given) == sent
    assert type(identifier(given)) is str


@pytest.mark.parametrize("bad", BAD_IDS, ids=repr)
async def test_a_bad_id_is_refused_by_name_wherever_a_stream_is_named(client, bad):
    for use in (
        lambda: client.stream("m", bad),
        lambda: client.get_stream("m", bad),
        lambda: client.delete_stream("m", bad),
    ):
        with pytest.raises(freshet.InvalidArgument, match="stream = ") as refused:
            await made(use)
        assert refused.value.field == "stream"
        assert refused.value.remedy


async def test_a_stream_of_a_number_is_the_stream_of_its_digits(client, server):
    async with client.stream("m", 7) as stream:
        await stream.step(1.0)

    assert list(server.streams) == ["7"]


@pytest.mark.parametrize("name", [7, None, b"m", "\ud800"], ids=repr)
async def test_a_model_is_named_by_text_everywhere(client, name):
    uses = {
        "create_model": lambda: client.create_model(name, ["a"]),
        "get_model": lambda: client.get_model(name),
        "versions": lambda: client.versions(name),
        "export": lambda: client.export(name),
        "import_version": lambda: client.import_version(name, b"w"),
        "promote": lambda: client.promote(name, 1),
        "rollback": lambda: client.rollback(name),
        "update_model": lambda: client.update_model(name, clip=2.0),
        "pause": lambda: client.pause(name),
        "resume": lambda: client.resume(name),
        "delete_model": lambda: client.delete_model(name),
        "history": lambda: client.history(name),
        "watch": lambda: anext(client.watch(name)),
        "stream": lambda: client.stream(name, "s"),
        "mux": lambda: client.mux(name),
        "learn": lambda: client.learn(name, "here"),
        "get_stream": lambda: client.get_stream(name, "s"),
        "delete_stream": lambda: client.delete_stream(name, "s"),
        "list_streams": lambda: anext(client.list_streams(name)),
        "quarantine": lambda: anext(client.quarantine(name)),
        "replay": lambda: client.replay(name, [1]),
    }
    for method, use in uses.items():
        with pytest.raises(freshet.InvalidArgument) as refused:
            await made(use)
        assert refused.value.field in ("name", "model"), method


async def test_numbers_of_methods_are_whole_and_in_range(client):
    uses = {
        "version": lambda: client.export("m", "3"),
        "promote": lambda: client.promote("m", -1),
        "rollback": lambda: client.rollback("m", 1.0),
        "events": lambda: client.history("m", "all"),
        "ids": lambda: client.replay("m", ["1"]),
        "page_size": lambda: anext(client.list_streams("m", page_size="many")),
    }
    for name, use in uses.items():
        with pytest.raises(freshet.InvalidArgument) as refused:
            await use()
        assert refused.value.field in (name, "version"), name


@pytest.mark.parametrize("weights", ["path/to/weights", 5, [1.0]], ids=repr)
async def test_weights_are_bytes(client, weights):
    for use in (
        lambda: client.create_model("new", ["a"], weights=weights),
        lambda: client.import_version("m", weights),
        lambda: client.import_version("m", b"w", onnx=weights),
    ):
        with pytest.raises(freshet.InvalidArgument, match="bytes") as refused:
            await use()
        assert refused.value.field in ("weights", "onnx")


async def test_numbers_of_ticks_are_whole(client):
    async with client.stream("m", "s") as stream:
        for use in (
            lambda: stream.label("1", 2.0),
            lambda: stream.durable("1"),
            lambda: stream.wait_judged(1.5),
        ):
            with pytest.raises(freshet.InvalidArgument, match=r"seq = .*: give a whole number"):
                await use()
        with pytest.raises(freshet.InvalidArgument, match="max_staleness = '3'"):
            stream.forecasts([1.0], max_staleness="3")


@pytest.mark.parametrize("wrong", ["60", None, True, HOUR, float("nan")], ids=repr)
async def test_waits_and_bounds_are_numbers(client, wrong):
    uses = {
        "give_up_s": lambda: client.stream("m", "s", give_up_s=wrong),
        "answer_s": lambda: client.stream("m", "s", answer_s=wrong),
        "close_s": lambda: client.stream("m", "s", close_s=wrong),
        "in_flight": lambda: client.stream("m", "s", wrong),
        "give_up_s of mux": lambda: client.mux("m", give_up_s=wrong),
        "answer_s of mux": lambda: client.mux("m", answer_s=wrong),
        "close_s of mux": lambda: client.mux("m", close_s=wrong),
        "in_flight of learn": lambda: client.learn("m", "here", in_flight=wrong),
        "give_up_s of learn": lambda: client.learn("m", "here", give_up_s=wrong),
        "answer_s of learn": lambda: client.learn("m", "here", answer_s=wrong),
        "give_up_s of watch": lambda: anext(client.watch("m", give_up_s=wrong)),
        "timeout_s": lambda: freshet.connect("127.0.0.1:1", timeout_s=wrong),
    }
    for name, use in uses.items():
        with pytest.raises(freshet.InvalidArgument) as refused:
            await made(use)
        assert refused.value.field == name.split()[0]


async def test_sets_and_text_are_no_rows_no_times_and_no_streams(client):
    async with client.stream("m", "s") as stream, client.mux("m") as mux:
        for field, use in (
            ("values", lambda: stream.forecasts({1.0, 2.0})),
            ("times", lambda: stream.forecasts([1.0, 2.0], {1.0, 2.0})),
            ("streams", lambda: mux.step("pump", np.zeros((4, 1)))),
            ("streams", lambda: mux.step({"a", "b"}, np.zeros((2, 1)))),
        ):
            with pytest.raises(freshet.InvalidArgument, match="give a list") as refused:
                await made(use)
            assert refused.value.field == field
