"""The check of the soak, a soak of some minutes, and a leaking server that the same check must flag."""

from __future__ import annotations

import numpy as np
import pytest

from tests.torture import soak
from tests.torture.failpoints import injected
from tests.torture.soak import MiB, Samples, Use


def sampled(rss: np.ndarray, threads: int = 4) -> Samples:
    """Return samples of a process with this memory, twice a second."""
    return Samples([n * soak.SAMPLE_S for n in range(len(rss))], [Use(int(value), 20, threads) for value in rss])


def test_fluctuating_memory_after_the_warm_up_is_not_growth():
    rng, n = np.random.default_rng(0), np.arange(600)
    warm = 100 * MiB + 50 * MiB * (1 - np.exp(-n / 40))

    assert sampled(warm + rng.choice([-3 * MiB, 0, 3 * MiB], 600)).found("server") == []


def test_a_single_jump_is_not_growth():
    assert sampled(np.where(np.arange(600) < 580, 100 * MiB, 160 * MiB)).found("server") == []


def test_slow_steady_growth_is_found_under_noise():
    rng, n = np.random.default_rng(0), np.arange(600)
    (found,) = sampled(100 * MiB + 0.05 * MiB * n + rng.choice([-3 * MiB, 0, 3 * MiB], 600)).found("server")

    assert found.startswith("server: rss grew by")


@pytest.mark.long
@pytest.mark.timeout(1500)
async def test_some_minutes_of_steady_load_leak_nothing(tmp_path):
    part = await soak.soaked(tmp_path, 150.0, ticks=300_000, models=100)

    assert part.good, part.wrong


@pytest.mark.long
@pytest.mark.timeout(700)
async def test_a_server_that_keeps_a_little_of_every_tick_is_flagged(tmp_path):
    with injected(tmp_path / "inject", soak.LEAK):
        part = await soak.soaked(tmp_path, 45.0, ticks=60_000)

    assert any(line.startswith("server: rss grew") for line in part.wrong), part.as_json()
    # More than what any server takes while it warms up, which lasts longer than this soak.
    kept = soak.KEPT_BYTES * part.numbers["ticks"] * (1 - soak.WARM_UP)
    assert part.numbers["server: growth after the warm-up"]["rss"] > kept / 2
