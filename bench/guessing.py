"""A tenant's token and a million guessed names of another tenant's models and streams: hits, and what the time tells.

Half of all names are those of the owner, the other half are nobody's, in an order that tells nothing. Every answer is
compared in full, its metadata included. Then one after another, with nothing else under way: how often an answer about
the owner's takes longer than one about nobody's. One half is chance; the standard score says how far chance strays.
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
    """How often a value of `a` is above one of `b` (Mann and Whitney's U, as a share), and its standard score if the
    two were of one distribution."""
    both = np.concatenate([a, b])
    _, inverse, counts = np.unique(both, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share their mean rank
    share = (ranks[: len(a)].sum() - len(a) * (len(a) + 1) / 2) / (len(a) * len(b))
    return float(share), float((share - 0.5) / math.sqrt((len(both) + 1) / (12 * len(a) * len(b))))


async def measure(n: int, timed: int) -> list[Row]:
    """The rows of one run."""
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
    """Guesses of a kind, hits among them, and how many answers there are that differ."""
    case = f"{kind} names, {counted.total():,} guessed"
    hits = sum(count for (answer, _), count in counted.items() if answer.code != "NOT_FOUND")
    return [
        Row(case, "answers other than NOT_FOUND", float(hits), "1", asked=0),
        Row(case, "different answers", float(len({answer for answer, _ in counted})), "1", asked=1),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print and write the rows; 1 if a name was hit, or an answer or its time tells what is there."""
    options = parser(__doc__)
    options.add_argument("--guesses", type=int, default=GUESSES, metavar="N")
    options.add_argument("--timed", type=int, default=TIMED, metavar="N")
    arguments = options.parse_args(argv)
    return finish(asyncio.run(measure(arguments.guesses, arguments.timed)), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
