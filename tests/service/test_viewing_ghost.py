"""A ghost against an independent run of its version over the same ticks, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.common.errors import NotFound
from service.streams.served import ServedModel
from service.viewing import ghost as ghosts
from service.viewing.ghost import TICKS_PER_LOOK, WARM_UP, Ghost, Ghosts
from service.viewing.scene import Shown
from service.viewing.scores import scores
from service.viewing.states import Loaded
from service.viewing.ticks import Lens
from tests.service.one_process import World, world


async def in_thread(run: Callable[..., Any], *arguments: Any) -> Any:
    """As Viewing has it, at once."""
    return run(*arguments)


async def ticks(w: World, model: ServedModel, n: int, seed: int) -> None:
    """Send the next n ticks of a random walk to stream a."""
    session = model.session("a")
    for x in np.cumsum(np.random.default_rng(seed).normal(size=n)).tolist():
        await w.tick(model, session, x)


class Looked:
    """A stream of a model with its ghost, looked at by hand."""

    def __init__(self, w: World, model: ServedModel, version: int, step: int = 1) -> None:
        self.w, self.model = w, model
        session = w.serving.loader.load(model, version)
        self.ghost = Ghost(model.network, version, session)
        self.shown = Shown(model, Lens.of(model.spec, "", step), "a", self.ghost, with_state=False)

    def look(self) -> None:
        copied = self.shown.copy()
        if copied is not None:
            self.shown.take(copied, Loaded(), self.w.server.versions)

    def oracle(self, version: int, state: np.ndarray, since: int) -> np.ndarray:
        """Run the version over the kept ticks after `since`, from a state [S]; returns all forecasts [n, O]."""
        session, rows = self.w.serving.loader.load(self.model, version), []
        state = state[None].copy()
        for answer in self.model.log.chain(int(self.model.table.newest[self.model.table.by_id["a"]])):
            if answer.seq > since:
                x, u = self.model.network.inputs(np.array([answer.time]), np.frombuffer(answer.x, np.float32)[None])
                y, state = session.compute(x, u, state)
                rows.append(y[0, : self.model.spec.outputs])
        return np.array(rows)

    def state(self) -> np.ndarray:
        return self.model.table.state[self.model.table.by_id["a"]].copy()

    def forecasts(self, first: int, last: int) -> np.ndarray:
        seqs = np.arange(first, last + 1, dtype=np.uint64)
        return self.ghost.rows(seqs, np.arange(self.model.spec.outputs)).astype(np.float32)


async def test_a_ghost_is_a_run_of_its_version_whatever_serves_meanwhile(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        model = await w.model(horizon=3, intervals=[0.8], forecaster="network")
        w.open(model, "a")
        await ticks(w, model, 30, 0)
        looked = Looked(w, model, 1)
        looked.look()
        start = looked.state()
        for seed in range(1, 6):
            await ticks(w, model, 7, seed)
            looked.look()
            await w.publish(model, seed)
        await ticks(w, model, 5, 9)
        looked.look()

        expected = looked.oracle(1, start, since=30)
        np.testing.assert_array_equal(looked.forecasts(31, 70), expected)
        live = np.array([np.frombuffer(a.y, np.float32)[:3] for a in model.log.chain(int(model.table.newest[0]))][30:])
        assert (live[-5:] != expected[-5:]).all(), "what serves has learned something else"
        assert (looked.ghost.since, looked.ghost.restarts) == (30, 0)
        assert np.isnan(looked.forecasts(29, 30)).all(), "it made none before it began"


async def test_a_ghost_that_falls_behind_restarts_from_the_live_state_and_its_first_labels_are_not_scored(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as w:
        model = await w.model()
        w.open(model, "a")
        await ticks(w, model, 3, 0)
        looked = Looked(w, model, 1)
        looked.look()
        await w.publish(model, 1)
        await ticks(w, model, TICKS_PER_LOOK, 1)
        looked.look()
        assert looked.ghost.restarts == 0
        await ticks(w, model, TICKS_PER_LOOK + 1, 2)
        looked.look()
        since, start = 3 + 2 * TICKS_PER_LOOK + 1, looked.state()
        assert (looked.ghost.restarts, looked.ghost.since) == (1, since)

        await ticks(w, model, WARM_UP + 1, 3)
        looked.look()
        np.testing.assert_array_equal(looked.forecasts(since + 1, since + WARM_UP + 1), looked.oracle(1, start, since))
        for extra in range(3):
            part = scores(looked.shown.track, "a", looked.shown.baseline, looked.ghost)
            assert part is not None
            assert part["ghost_labels"] == extra, "a label counts once its forecast was made after the warm-up"
            await ticks(w, model, 1, extra)
            looked.look()


@pytest.mark.parametrize("how", ["reset", "put"])
async def test_a_ghost_restarts_where_the_stream_was_reset_or_put(tmp_path: Path, how: str) -> None:
    async with world(tmp_path) as w:
        model = await w.model()
        session = w.open(model, "a")
        await ticks(w, model, 30, 0)
        looked = Looked(w, model, 1)
        looked.look()
        if how == "reset":
            w.serving.opening.reset(model, session)
        else:
            state = np.zeros(model.network.state_size, np.float32)
            w.serving.opening.put(model, "a", session.epoch, session.last_seq, np.nan, state)
        await ticks(w, model, 4, 1)
        looked.look()
        assert (looked.ghost.restarts, looked.ghost.since) == (1, 34)
        await ticks(w, model, 4, 2)
        looked.look()
        assert looked.ghost.restarts == 1


async def test_an_older_copy_of_a_shared_ghost_changes_nothing(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        model = await w.model()
        w.open(model, "a")
        await ticks(w, model, 5, 0)
        one = Looked(w, model, 1)
        two = Shown(model, Lens.of(model.spec, "", 1), "a", one.ghost, with_state=False)
        one.look()
        await ticks(w, model, 3, 1)
        early = two.copy()
        await ticks(w, model, 3, 2)
        one.look()
        before = one.forecasts(6, 11)
        assert early is not None
        two.take(early, Loaded(), w.server.versions)
        np.testing.assert_array_equal(one.forecasts(6, 11), before)
        assert (one.ghost.restarts, one.ghost.seq) == (0, 11)


async def test_ghosts_are_shared_counted_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path) as w:
        model, seen = await w.model(), w.server.seen()
        all_ghosts = Ghosts(in_thread)
        one = await all_ghosts.take(seen, model, 1, "a", chosen=False)
        assert await all_ghosts.take(seen, model, 1, "a", chosen=False) is one
        other = await all_ghosts.take(seen, model, 1, "b", chosen=False)
        assert one is not None
        assert other is not None
        assert other.session is one.session, "a version is loaded once"
        all_ghosts.give_back(model, 1, "a")
        assert len(all_ghosts) == 2
        all_ghosts.give_back(model, 1, "a")
        assert len(all_ghosts) == 1

        with pytest.raises(NotFound, match="9"):
            await all_ghosts.take(seen, model, 9, "a", chosen=True)
        assert await all_ghosts.take(seen, model, 9, "a", chosen=False) is None
        for n in range(ghosts.MAX_GHOSTS - 1):
            assert await all_ghosts.take(seen, model, 1, str(n), chosen=False)
        assert await all_ghosts.take(seen, model, 1, "more", chosen=True) is None
        assert len(all_ghosts) == ghosts.MAX_GHOSTS

        monkeypatch.setattr(ghosts, "SESSIONS_BYTES", 1)
        few = Ghosts(in_thread)
        assert await few.take(seen, model, 1, "a", chosen=False)
        await w.publish(model, 1)
        assert await few.take(seen, model, model.champion, "a", chosen=False) is None, "no memory for a second version"


async def test_what_a_ghost_keeps_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with world(tmp_path) as w:
        monkeypatch.setattr(ghosts, "KEPT_BYTES", 4 * 20)
        model = await w.model(horizon=2)
        w.open(model, "a")
        await ticks(w, model, 1, 0)
        looked = Looked(w, model, 1)
        looked.look()
        start = looked.state()
        await ticks(w, model, 25, 1)
        looked.look()
        assert np.isnan(looked.forecasts(2, 16)).all()
        np.testing.assert_array_equal(looked.forecasts(17, 26), looked.oracle(1, start, 1)[-10:])
