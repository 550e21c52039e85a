"""Classify real sequences online, beside a simple baseline and the same cell trained offline for several epochs.

The sets are those of the UCR and UEA archives that the Python package aeon ships (BSD licence): JapaneseVowels, 640
utterances of 7 to 29 ticks and 12 channels by 9 speakers, and ItalyPowerDemand, 1,096 days of 24 hours in 2 seasons.
Each sequence is a stream; its class is the label of its last tick. Online: one pass, each sequence is answered before
its label is learned. Offline: epochs over the archive's training part, then frozen. All scores are the share of right
answers over the archive's test part, in one random order.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bench.report import Row, finish, one_blas_thread, parser

one_blas_thread()

import numpy as np  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)
from numpy.typing import NDArray  # noqa: E402

from model.cells import CELLS  # noqa: E402
from model.fold.learner import Learner  # noqa: E402
from model.spec import ModelSpec  # noqa: E402
from service.console.progress import progress  # noqa: E402
from service.programs.backtest.plan import model_keys  # noqa: E402

SETS = ("JapaneseVowels", "ItalyPowerDemand")
RATE = 3e-3  # the default, 7e-4, is for long streams: a set has some hundred labels
GROUP = 16  # sequences side by side, offline


class Set(NamedTuple):
    """Sequences [ticks, C] of both parts of a set, and the number of each one's class."""

    classes: tuple[str, ...]
    train: list[tuple[NDArray[np.float32], int]]
    test: list[tuple[NDArray[np.float32], int]]


def parse(text: str) -> list[tuple[NDArray[np.float32], str]]:
    """Return sequences and classes of a .ts file: a case per line, its channels and its class separated by colons."""
    lines = [line for line in text.splitlines() if line and line[0] not in "#@"]
    made = []
    for line in lines:
        *channels, label = line.split(":")
        made.append((np.array([c.split(",") for c in channels], np.float32).T, label.strip()))
    return made


def load(folder: Path, name: str) -> Set:
    """Return a set of the archive, each part in a random order that is always the same."""
    parts = [parse((folder / name / f"{name}_{part}.ts").read_text()) for part in ("TRAIN", "TEST")]
    classes = tuple(sorted({label for part in parts for _, label in part}))
    rng = np.random.default_rng(0)
    train, test = ([(part[i][0], classes.index(part[i][1])) for i in rng.permutation(len(part))] for part in parts)
    return Set(classes, train, test)


class Classifier:
    """A learner of streams that are one sequence each."""

    def __init__(self, spec: ModelSpec) -> None:
        self.learner = Learner(spec)
        self._tape = self.learner.network.tape(1, 1)
        self._next = 0

    def answer(self, x: NDArray[np.float32]) -> int:
        """Return the class of a sequence by the current weights."""
        network = self.learner.network
        state, u = np.zeros((1, network.state_size), np.float32), np.zeros((1, network.ahead.size), np.float32)
        for tick in x:
            y, state = network.step(self.learner.weights, tick[None], u, state, self._tape)
        return int(y[0].argmax())

    def learn(self, sequences: Sequence[tuple[NDArray[np.float32], int]]) -> None:
        """Learn these sequences side by side, in one update."""
        streams = np.arange(self._next, self._next + len(sequences), dtype=np.uint32)
        self._next += len(sequences)
        last = np.array([len(x) for x, _ in sequences], np.uint64)
        for stream, (x, _) in zip(streams, sequences, strict=True):
            n = len(x)
            self.learner.ticks(np.full(n, stream), np.arange(1, n + 1, dtype=np.uint64), np.full(n, np.nan), x)
        labels = np.eye(self.learner.spec.outputs, dtype=np.float32)[[label for _, label in sequences]]
        self.learner.labels(streams, last, labels)


def online(spec: ModelSpec, data: Set) -> float:
    """Return the share of right answers over the test part, in one pass over both parts."""
    model, right = Classifier(spec), 0
    for x, label in data.train:
        model.learn([(x, label)])
    for x, label in data.test:
        right += model.answer(x) == label
        model.learn([(x, label)])
    return right / len(data.test)


def offline(spec: ModelSpec, data: Set, epochs: int) -> float:
    """Return the share of right answers over the test part after epochs over the training part."""
    model, rng = Classifier(spec), np.random.default_rng(1)
    for _ in range(epochs):
        order = rng.permutation(len(data.train))
        for i in range(0, len(order), GROUP):
            model.learn([data.train[k] for k in order[i : i + GROUP]])
    return sum(model.answer(x) == label for x, label in data.test) / len(data.test)


def nearest_mean(data: Set) -> float:
    """Return the same for the nearest running mean of a class, of each channel's mean, deviation and last value."""

    def summary(x: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.concatenate([x.mean(axis=0), x.std(axis=0), x[-1]]).astype(np.float64)

    total = np.zeros((len(data.classes), 3 * data.train[0][0].shape[1]))
    count, right = np.zeros(len(data.classes)), 0
    for tested, part in enumerate((data.train, data.test)):
        for x, label in part:
            z = summary(x)
            distance = np.square(total / np.maximum(count, 1)[:, None] - z).sum(axis=1)
            right += tested * int(np.where(count > 0, distance, np.inf).argmin() == label)
            total[label] += z
            count[label] += 1
    return right / len(data.test)


def specification(data: Set, cell: str, keys: dict[str, Any]) -> ModelSpec:
    """Return the spec of a classifier of the set's sequences, whose window holds the longest."""
    longest = max(len(x) for x, _ in data.train + data.test)
    channels = tuple(f"c{i}" for i in range(data.train[0][0].shape[1]))
    given = {"scaler": "none", "window": longest, "learning_rate": RATE, "max_share": 1.0, "cell": cell}
    return ModelSpec.from_mapping({"channels": channels, "task": "classify", "classes": data.classes, **given, **keys})


def main(argv: Sequence[str] | None = None) -> int:
    """Score every cell on both sets and print the table."""
    options = parser(__doc__)
    options.add_argument("--cells", nargs="+", choices=sorted(CELLS), default=list(CELLS))
    options.add_argument("--epochs", type=int, default=20, help="of the offline training")
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of the model's spec")
    options.add_argument("--data", type=Path, metavar="FOLDER", help="default: that of the installed package aeon")
    arguments = options.parse_args(argv)
    folder, found = arguments.data, find_spec("aeon") if arguments.data is None else None
    if found is not None and found.origin is not None:
        folder = Path(found.origin).parent / "datasets" / "data"
    if folder is None:
        print("The sets are part of the package aeon: pip install --no-deps aeon, or give --data FOLDER.")
        return 1
    rows = []
    with progress("cells", len(SETS) * len(arguments.cells), "cell") as shown:
        for name in SETS:
            data = load(folder, name)
            rows.append(Row(name, "nearest class mean", nearest_mean(data), "ratio"))
            for cell in arguments.cells:
                spec = specification(data, cell, model_keys(None, arguments.set))
                rows.append(Row(name, f"{cell}, online", online(spec, data), "ratio"))
                rows.append(
                    Row(name, f"{cell}, {arguments.epochs} epochs", offline(spec, data, arguments.epochs), "ratio")
                )
                shown.note(f"{name} {cell}: online {rows[-2].value:.3f}, offline {rows[-1].value:.3f}")
                shown.advance()
    return finish(rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
