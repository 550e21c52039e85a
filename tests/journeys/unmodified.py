"""The clients of other servers as their users have them: `python -m tests.journeys.unmodified CLIENT < STORY`.

Runs apart from the tests, whose process has stubs of the same protobuf package. A story is JSON: the address, the
model, and the sequences, each with its id and rows. What the client heard is printed as JSON: answers by sequence, and
the status and message of a request for a model that does not exist.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import numpy as np

DEADLINE_S = 60.0
Story = dict[str, Any]
Heard = dict[str, Any]


def turns(story: Story) -> Iterator[tuple[int, Any, list[float], bool, bool]]:
    """Yield the ticks of all sequences in turn: which, its id, the values, whether it starts and ends there."""
    sequences = story["sequences"]
    for tick in range(len(sequences[0]["rows"])):
        for at, sequence in enumerate(sequences):
            yield at, sequence["id"], sequence["rows"][tick], tick == 0, tick == len(sequence["rows"]) - 1


def tensors(library: Any, row: list[float], **how: Any) -> list[Any]:
    """One tick as the library's input."""
    values = np.array([row], np.float32)
    tensor = library.InferInput("x", list(values.shape), "FP32")
    tensor.set_data_from_numpy(values, **how)
    return [tensor]


def heard(story: Story) -> tuple[Heard, Callable[[int, Any], None]]:
    """What is to be printed, and a function that notes the answer to a sequence's next tick."""
    found: Heard = {"y": [[] for _ in story["sequences"]], "seq": [[] for _ in story["sequences"]]}

    def note(at: int, result: Any) -> None:
        found["y"][at].append(result.as_numpy("y")[0].tolist())
        found["seq"][at].append(int(result.as_numpy("seq")[0, 0]))

    return found, note


def error_of(error: Any) -> list[str]:
    return [str(error.status()), str(error.message())]


def unary(library: Any, story: Story, inputs: Callable[[list[float]], list[Any]]) -> Heard:
    """Every request after the answer to the one before."""
    client, model = library.InferenceServerClient(story["address"]), story["model"]
    found, note = heard(story)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(model)
    assert client.get_model_metadata(model)
    assert client.get_model_config(model)
    for at, id, row, start, end in turns(story):
        options = {"sequence_id": id, "sequence_start": start, "sequence_end": end}
        note(at, client.infer(model, inputs(row), **options))
    try:
        client.infer("nobody", inputs([0.0, 0.0]), sequence_id=1, sequence_start=True)
    except library.InferenceServerException as error:
        found["error"] = error_of(error)
    return found


def grpc_sync(story: Story) -> Heard:
    import tritonclient.grpc as library

    return unary(library, story, lambda row: tensors(library, row))


def http_binary(story: Story) -> Heard:
    import tritonclient.http as library

    return unary(library, story, lambda row: tensors(library, row))


def http_json(story: Story) -> Heard:
    import tritonclient.http as library

    return unary(library, story, lambda row: tensors(library, row, binary_data=False))


def grpc_async(story: Story) -> Heard:
    """Requests whose answers come by callback; of one sequence, one after the other."""
    import tritonclient.grpc as library

    client = library.InferenceServerClient(story["address"])
    found, note = heard(story)
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    waiting = 0
    for at, id, row, start, end in turns(story):
        options = {"sequence_id": id, "sequence_start": start, "sequence_end": end}

        def answered(result: Any, error: Any, at: int = at) -> None:
            answers.put((at, error or result))

        client.async_infer(story["model"], tensors(library, row), answered, **options)
        waiting += 1
        if waiting == len(story["sequences"]):
            for _ in range(waiting):
                note(*answers.get(timeout=DEADLINE_S))
            waiting = 0
    failed: queue.Queue[Any] = queue.Queue()
    nobody = tensors(library, [0.0, 0.0])
    client.async_infer("nobody", nobody, lambda result, error: failed.put(error), sequence_id=1)
    found["error"] = error_of(failed.get(timeout=DEADLINE_S))
    return found


def grpc_stream(story: Story) -> Heard:
    """All requests at once in one call; answers in the order of the requests."""
    import tritonclient.grpc as library

    client = library.InferenceServerClient(story["address"])
    found, note = heard(story)
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    order = []
    for at, id, row, start, end in turns(story):
        options = {"sequence_id": id, "sequence_start": start, "sequence_end": end}
        client.async_stream_infer(story["model"], tensors(library, row), **options)
        order.append(at)
    client.async_stream_infer("nobody", tensors(library, [0.0, 0.0]), sequence_id=1, sequence_start=True)
    for at in order:
        result, error = answers.get(timeout=DEADLINE_S)
        assert error is None, error
        note(at, result)
    _, error = answers.get(timeout=DEADLINE_S)
    found["error"] = ["None", str(error.message())]
    client.stop_stream()
    return found


def grpc_aio(story: Story) -> Heard:
    """The asyncio client's stream."""
    import tritonclient.grpc.aio as library

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for _, id, row, start, end in turns(story):
            yield {
                "model_name": story["model"], "inputs": tensors(library, row), "sequence_id": id,
                "sequence_start": start, "sequence_end": end,
            }  # fmt: skip

    async def all_of_it() -> Heard:
        found, note = heard(story)
        async with asyncio.timeout(DEADLINE_S), library.InferenceServerClient(story["address"]) as client:
            order = [at for at, *_ in turns(story)]
            answers = client.stream_infer(requests())
            for at in order:
                result, error = await anext(answers)
                assert error is None, error
                note(at, result)
            try:
                await client.infer("nobody", tensors(library, [0.0, 0.0]), sequence_id=1)
            except library.InferenceServerException as error:
                found["error"] = error_of(error)
        return found

    return asyncio.run(all_of_it())


class Answers:
    """KServe's answer with the method that Triton's has."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def as_numpy(self, name: str) -> Any:
        return next(output.as_numpy() for output in self._answer.outputs if output.name == name)


async def kserve(story: Story, client: Any, where: list[str], infer: Callable[[Any], Any], **how: bool) -> Heard:
    """Every request after the answer to the one before, with KServe's client of either protocol.

    where: the server's URL, if the client is to be told each time. infer: sends a request of the library.
    """
    import kserve as library

    def request(model: str, id: Any, row: list[float], start: bool, end: bool) -> Any:
        tensor = library.InferInput("x", [1, len(row)], "FP32")
        tensor.set_data_from_numpy(np.array([row], np.float32), **how)
        parameters = {"sequence_id": id, "sequence_start": start, "sequence_end": end}
        return library.InferRequest(model, [tensor], parameters=parameters)

    found, note = heard(story)
    async with asyncio.timeout(DEADLINE_S):
        assert await client.is_server_live(*where)
        assert await client.is_server_ready(*where)
        assert await client.is_model_ready(*where, model_name=story["model"])
        for at, *tick in turns(story):
            note(at, Answers(await infer(request(story["model"], *tick))))
        try:
            await infer(request("nobody", 1, [0.0, 0.0], True, True))
        except Exception as error:  # of the library beneath: grpc or httpx
            found["error"] = ["None", str(error)]
        await client.close()
    return found


async def kserve_grpc(story: Story) -> Heard:
    import kserve as library

    client = library.InferenceGRPCClient(story["address"])
    return await kserve(story, client, [], client.infer)


async def kserve_rest(story: Story) -> Heard:
    import kserve as library

    client, url = library.InferenceRESTClient(library.RESTConfig(protocol="v2")), f"http://{story['address']}"
    return await kserve(story, client, [url], lambda request: client.infer(url, request, request.model_name))


CLIENTS = {
    "grpc_sync": grpc_sync, "grpc_async": grpc_async, "grpc_stream": grpc_stream, "grpc_aio": grpc_aio,
    "http_binary": http_binary, "http_json": http_json,
    "kserve_grpc": lambda story: asyncio.run(kserve_grpc(story)),
    "kserve_rest": lambda story: asyncio.run(kserve_rest(story)),
}  # fmt: skip

if __name__ == "__main__":
    json.dump(CLIENTS[sys.argv[1]](json.load(sys.stdin)), sys.stdout)
