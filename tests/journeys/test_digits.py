"""A classification of real sequences: handwritten digits, read line by line, learned online in one pass."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import freshet
from tests.journeys.scraped import scrape
from tests.journeys.test_labels import outcomes

SETTINGS = {"publish_labels": 8, "commit_s": 0.001}
GROUP = 8  # images shown side by side, answered first and learned after
HELD_OUT = 400
LINES = 8
MODEL: dict[str, Any] = {
    "channels": [f"column {i}" for i in range(LINES)], "task": "classify", "classes": [str(i) for i in range(10)],
    "cell": "gru", "init": "orthogonal", "hidden": 64, "learning_rate": 7e-3, "scaler": "none", "window": 9,
}  # fmt: skip

Array = NDArray[np.float32]


def digits() -> tuple[Array, NDArray[np.int64]]:
    """Images (1797, 8, 8) with values 0..1, and what they show. In the order of the data set: neighbours are often of
    one hand, so the held-out tail is further from what was learned than a random part would be."""
    from sklearn.datasets import load_digits  # not at the top: every other test would wait for scikit-learn

    data = load_digits()
    return (data.images / 16).astype(np.float32), data.target


async def read(stream: freshet.Stream, image: Array) -> int:
    """What the model that serves takes an image for, told after its last line."""
    await stream.reset()
    answers = await asyncio.gather(*(stream.step(line) for line in image))
    return int(answers[-1].y.argmax())


def score(onnx: bytes, images: Array, shown: NDArray[np.int64]) -> float:
    """Part of the images that an exported version tells rightly, all read side by side."""
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    width = next(i.shape[1] for i in session.get_inputs() if i.name == "state")
    state, u = np.zeros((len(images), width), np.float32), np.zeros((len(images), 0), np.float32)
    for line in range(LINES):
        x = np.ascontiguousarray(images[:, line])
        y, state = session.run(["y", "next_state"], {"x": x, "u": u, "state": state})
    return float(np.mean(y.argmax(axis=1) == shown))


async def learn_in_one_pass(client: freshet.Client, name: str, images: Array, shown: NDArray[np.int64]) -> list[bool]:
    """Every image is answered by the model that serves then, and learned after; whether each answer was right."""
    right: list[bool] = []
    async with client.learn(name, "archive", acknowledge="learned") as learning:
        streams = [await client.stream(name, f"eye {i}").__aenter__() for i in range(GROUP)]
        for first in range(0, len(images), GROUP):
            group = range(first, min(first + GROUP, len(images)))
            seen = await asyncio.gather(*(read(s, images[i]) for s, i in zip(streams, group, strict=False)))
            right += [answer == shown[i] for answer, i in zip(seen, group, strict=True)]
            for i in group:
                await learning.window(images[i], int(shown[i]))
            await learning.flush()
        for stream in streams:
            await stream.aclose()
    return right


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_handwritten_digits_are_learned_online_in_one_pass(server, client, name, capsys):
    from sklearn.linear_model import LogisticRegression

    images, shown = digits()
    train, test = slice(0, len(images) - HELD_OUT), slice(len(images) - HELD_OUT, None)
    await client.create_model(name, **MODEL)

    right = await learn_in_one_pass(client, name, images[train], shown[train])

    seen = outcomes(await scrape(server.http), name)
    assert (seen["learned windows"], seen["quarantined"]) == (len(right), 0)
    champion = (await client.get_model(name)).champion
    accuracy = score((await client.export(name)).onnx, images[test], shown[test])
    flat = images.reshape(len(images), -1)
    logistic = LogisticRegression(max_iter=1000).fit(flat[train], shown[train])
    baseline = float(logistic.score(flat[test], shown[test]))
    majority = float(np.mean(shown[test] == np.bincount(shown[train]).argmax()))
    with capsys.disabled():
        print(
            f"\ndigits: {accuracy:.3f} of {HELD_OUT} held-out images told rightly after one pass over {len(right)} "
            f"({champion} versions served; {np.mean(right[-300:]):.3f} of the last 300 before each was learned); "
            f"logistic regression on whole images, many passes: {baseline:.3f}; the most frequent digit: {majority:.3f}"
        )
    assert accuracy > 5 * majority
    assert np.mean(right[-300:]) > 5 * majority
