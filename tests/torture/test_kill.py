"""Quick forms of `dev.py torture --only kill`, which kills a thousand times."""

from __future__ import annotations

import pytest

from tests.torture import kill
from tests.torture.failpoints import ALL

# One seam of each kind: in the middle of one commit, and at random.
WORST = (
    "journal.mid_write", "checkpoint.mid", "server.random", "journal.after_sync", "snapshot.mid", "swap.recorded",
    "recovery.mid",
)  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kills", [3, pytest.param(7, marks=pytest.mark.long)])
async def test_kills_at_the_worst_moments_lose_nothing_and_cause_no_double_learning(tmp_path, kills):
    part = await kill.rounds(tmp_path, WORST[:kills], seed=1)

    assert part.good, part.as_json()
    assert set(part.hits_of) == set(WORST[:kills])
    assert part.acknowledged > 500 / 7 * kills


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_three_kills_at_every_named_moment(tmp_path):
    part = await kill.rounds(tmp_path, kill.every_seam(3 * len(ALL), seed=3), seed=3)

    assert part.good, part.wrong or part.as_json()
    assert part.hits >= 0.98 * 3 * len(ALL), "too many seams were not passed in time"
    assert set(part.hits_of) == set(ALL)
