"""Guess a million names of another tenant's models and streams with a valid token, and compare answers and their times.

Half of the names exist at the owner, half do not exist, in random order. Every answer is compared in full, metadata
included. Then names are tried one after another without other load, to see how often an answer about an existing name
takes longer than one about a name that does not exist. One half is chance; the standard score is the distance from it.
"""

from __future__ import annotations

import asyncio
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.report import Row, finish, parser
from service.programs.backtest.child import ServerChild
from tests.journeys.guessing import ACCESS, Answer, Guesser, furnish, guesses
from tests.journeys.raw import channel_to

GUESSES, TIMED, WARM = 1_000_000, 60_000, 500


def longer(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Return how often a value of `a` exceeds one of `b` (Mann and Whitney's U, as a share), and its standard score.

    The score assumes that both have the same distribution.
    """
    both = np.concatenate([a, b])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share their mean rank
    share = (ranks[: len(a)].sum() - len(a) * (len(a) + 1) / 2) / (len(a) * len(b))
    return float(share), float((share - 0.5) / math.sqrt((len(both) + 1) / (12 * len(a) * len(b))))


async def measure(n: int, timed: int) -> list[Row]:
    """Return the rows of one run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "access.toml").write_text(ACCESS)
        child = ServerChild(folder / "data", folder / "log", settings={"access": folder / "access.toml"})
        async with child, channel_to(child.grpc) as channel:
            await furnish(channel)
            guesser = Guesser(channel)
            heard = await guesser.ask_all(guesses(n, 1))
            rows = [row for kind, counted in heard.items() for row in _told(kind, counted)]
            took: dict[tuple[str, bool], list[float]] = {}
            for at, guess in enumerate(guesses(timed + WARM, 2)):
                _, seconds = await guesser.ask(guess)
                if at >= WARM:
                    took.setdefault((guess.name.partition("-")[0], guess.hit), []).append(seconds)
    for kind in heard:
        theirs, nobodys = (np.array(took[kind, hit]) for hit in (True, False))
        share, score = longer(theirs, nobodys)
        case = f"{kind} names, {len(theirs) + len(nobodys):,} one by one"
        rows += [
            Row(case, "median time, the owner's", float(np.median(theirs)), "s"),
            Row(case, "median time, nobody's", float(np.median(nobodys)), "s"),
            Row(case, "the owner's takes longer: distance from one half", abs(share - 0.5), "ratio", asked=0.01),
            Row(case, "standard score of that, absolute", abs(score), "ratio", asked=4.0),
        ]
    return rows


def _told(kind: str, counted: Counter[tuple[Answer, bool]]) -> list[Row]:
    """Return the rows for guesses of one kind: the hits, and the number of different answers."""
    case = f"{kind} names, {counted.total():,} guessed"
    hits = sum(count for (answer, _), count in counted.items() if answer.code != "NOT_FOUND")
    return [
        Row(case, "answers other than NOT_FOUND", float(hits), "1", asked=0),
        Row(case, "different answers", float(len({answer for answer, _ in counted})), "1", asked=1),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print the rows; return 1 if an answer or its time reveals that a name exists."""
    options = parser(__doc__)
    options.add_argument("--guesses", type=int, default=GUESSES, metavar="N")
    options.add_argument("--timed", type=int, default=TIMED, metavar="N")
    arguments = options.parse_args(argv)
    return finish(asyncio.run(measure(arguments.guesses, arguments.timed)), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
