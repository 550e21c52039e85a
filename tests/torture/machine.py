"""Model-based tests: sessions, journal and learner in one process, stepped in an order that hypothesis chooses.

The model is a few dicts of ticks sent, answers, and durable ticks. Between any two steps the process may die: the files
that a kill would leave are copied, and the run continues from the copy. Time is injected and jumps.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from service.common.errors import Refusal
from service.common.names import Origin
from service.learning.labels import RawWindow
from service.serving.ticks import Tick
from service.streams.answers import Answer
from service.streams.served import ServedModel
from service.streams.session import Session
from tests.oracles import replay
from tests.service.histories import digest
from tests.service.one_process import World, key, world
from tests.torture import verify
from tests.torture.report import Part

FLOW, LAB = "flow", "lab"  # learns from ticks; learns from labels and windows
WINDOW, LATEST = 9, 40
LAB_SPEC = {"task": "regress", "targets": ["q"], "window": WINDOW, "label_horizon": LATEST}
STREAMS = [f"pump-{n}" for n in range(3)]
KEPT = {"keep_versions": 10**6, "segment_bytes": 4096, "idle_s": 0.0, "checkpoint_chunks": 10**6}

streams = st.sampled_from(STREAMS)
values = st.floats(-3, 3, width=32)
models = st.sampled_from([FLOW, LAB])


class Sent:
    """One life of a stream between two deletions, as its client knows it."""

    def __init__(self) -> None:
        self.x: list[float] = []
        self.answers: list[tuple[int, bytes]] = []  # version and values, of tick 1, 2 …
        self.durable = 0
        self.reset_at = 0  # number of ticks at the last reset; 0 at the start

    @property
    def fresh(self) -> bool:
        """Return whether there is no tick since the start or a reset. A crash may have lost earlier ones."""
        return len(self.x) <= self.reset_at


class Machine(RuleBasedStateMachine):
    """The rules are events of a server. Each compares with the dicts, and `teardown` with the oracles."""

    part = Part()

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="machine-"))
        self.loop = asyncio.new_event_loop()
        self.now, self.wall = 0.0, 1.7e9
        self.lives = 0
        self.sent: dict[tuple[str, str], Sent] = {}
        self.windows = 0  # seq of the last one taken in
        self.durable_windows = 0
        self.labels: dict[str, dict[tuple[str, int], float]] = {"taken": {}, "durable": {}}
        self._open(self.folder / "0")
        self._do(self.live.model(FLOW))
        self._do(self.live.model(LAB, **LAB_SPEC))
        self._do(self.live.server.journal.flush())

    # ---- actions of clients

    @rule(model=models, id=streams, xs=st.lists(values, min_size=1, max_size=16))
    def ticks(self, model: str, id: str, xs: list[float]) -> None:
        session, sent = self._session(model, id)
        for x in xs:
            answer = self._submit(model, session, len(sent.x) + 1, x)
            assert isinstance(answer, Answer), answer
            sent.x.append(x)
            sent.answers.append((answer.version, bytes(answer.y)))

    @rule(model=models, id=streams)
    def the_same_tick_again(self, model: str, id: str) -> None:
        session, sent = self._session(model, id)
        if sent.x:
            answer = self._submit(model, session, len(sent.x), sent.x[-1])
            if isinstance(answer, Refusal):
                assert answer.reason.name == "ANSWER_LOST", answer
            else:
                assert (answer.version, bytes(answer.y)) == sent.answers[-1]
            assert session.last_seq == len(sent.x), "a tick is taken twice"

    @rule(model=models, id=streams)
    def another_tick_of_the_same_number(self, model: str, id: str) -> None:
        session, sent = self._session(model, id)
        if sent.x:
            refused = self._submit(model, session, len(sent.x), sent.x[-1] + 1)
            assert isinstance(refused, Refusal)

    @rule(model=models, id=streams, ahead=st.integers(2, 5))
    def a_gap(self, model: str, id: str, ahead: int) -> None:
        session, sent = self._session(model, id)
        refused = self._submit(model, session, len(sent.x) + ahead, 0.0)
        assert isinstance(refused, Refusal)
        assert session.last_seq == len(sent.x)

    @rule(id=streams, backs=st.lists(st.integers(0, 50), min_size=1, max_size=8), y=values)
    def labels_late_or_again(self, id: str, backs: list[int], y: float) -> None:
        _, sent = self._session(LAB, id)
        for back in backs:
            seq = len(sent.x) - back
            same = self.labels["taken"].get((id, seq), y)  # a different label is refused each time
            outcome = self.live.server.intake.label(self._model(LAB), id, seq, np.array([same], np.float32))
            allowed = seq > 0 and back < LATEST
            assert isinstance(outcome, Refusal) != allowed, (seq, back, outcome)
            if allowed:
                self.labels["taken"].setdefault((id, seq), y)

    @rule(x=st.lists(values, min_size=WINDOW, max_size=WINDOW), again=st.booleans())
    def window(self, x: list[float], again: bool) -> None:
        number = self.windows if again and self.windows else self.windows + 1
        rows = np.array(x, np.float32)
        raw = RawWindow(number, WINDOW, rows.tobytes(), (rows * 2).tobytes(), b"", b"")
        before = self.live.server.journal.offset(self._model(LAB).number)
        outcome = self.live.server.intake.window(self._model(LAB), "laboratory", raw)
        assert outcome == before + (number > self.windows), "a repeated window is taken twice"
        self.windows = number

    @rule(model=models, id=streams)
    def reset(self, model: str, id: str) -> None:
        session, sent = self._session(model, id)
        self.live.serving.opening.reset(self._model(model), session)
        sent.reset_at = len(sent.x)
        assert session.origin is Origin.FRESH

    @rule(id=streams)
    def take_over(self, id: str) -> None:
        session, _ = self._session(FLOW, id)
        epoch = session.epoch
        session, _ = self._session(FLOW, id)
        assert session.epoch > epoch

    # ---- actions of the server

    @rule()
    def commit(self) -> None:
        self._do(self.live.server.journal.flush())
        for sent in self.sent.values():
            sent.durable = len(sent.x)
        self.durable_windows, self.labels["durable"] = self.windows, dict(self.labels["taken"])

    @rule()
    def snapshot(self) -> None:
        self._do(self.live.snapshot())
        self.commit()

    @rule()
    def learn(self) -> None:
        self._do(self.live.learn())

    @rule()
    def checkpoint(self) -> None:
        self.learn()
        assert self.live.trainer is not None
        self.live.trainer.save()

    @rule()
    def the_trainer_dies(self) -> None:
        self._do(self.live.start_trainer())

    @rule(model=models, seed=st.integers(1, 5))
    def publish(self, model: str, seed: int) -> None:
        self._do(self.live.publish(self._model(model), seed))

    @rule(model=models, back=st.integers(1, 3), promote=st.booleans())
    def return_to(self, model: str, back: int, promote: bool) -> None:
        number = self._model(model).champion - back
        if number >= 1:
            way = self.live.control.promote if promote else self.live.control.roll_back
            self._do(way(key(model), number))
            assert self._model(model).champion == number

    @rule(on=st.booleans())
    def pause_or_resume(self, on: bool) -> None:
        """Pause or resume the model that learns from ticks. The labels of windows are counted for the other one."""
        self._do((self.live.control.resume if on else self.live.control.pause)(key(FLOW)))

    @rule(seconds=st.floats(0, 1e6), wall=st.floats(-1e6, 1e6))
    def time_passes_and_the_wall_clock_jumps(self, seconds: float, wall: float) -> None:
        self.now += seconds
        self.wall += wall

    @precondition(lambda self: self.lives < 6)
    @rule()
    def crash(self) -> None:
        """kill -9: pending entries are lost, everything reported as durable survives."""
        self.lives += 1
        copy = self._image()
        self._close()
        self._open(copy)
        self.part.hits += 1
        for (model, id), sent in self.sent.items():
            kept = self._last_seq(model, id)
            self.part.lost += max(0, sent.durable - kept)
            assert sent.durable <= kept <= len(sent.x), f"{model}/{id}: {kept} of {sent.durable} durable ticks"
            del sent.x[kept:], sent.answers[kept:]
        self._count_again()

    def teardown(self) -> None:
        if not hasattr(self, "live"):
            return
        try:
            self.commit()
            self.checkpoint()
            self._compare()
        finally:
            self._close()
            self.loop.close()
            shutil.rmtree(self.folder)
            self.part.rounds += 1

    # ---- helpers

    def _do(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(awaitable, 60))

    def _open(self, data: Path) -> None:
        self._context = world(data, **KEPT)
        self.live: World = self._do(self._context.__aenter__())
        self.live.clock, self.live.wall = lambda: self.now, lambda: self.wall

    def _image(self) -> Path:
        """Copy the data directory; repeat if the thread of the journal renames a file meanwhile."""
        copy = self.folder / f"{self.lives}"
        for tries_left in reversed(range(10)):
            try:
                shutil.copytree(self.live.server.config.data, copy)
                break
            except shutil.Error:
                if not tries_left:
                    raise
                shutil.rmtree(copy)
        return copy

    def _close(self) -> None:
        self._do(self._context.__aexit__(None, None, None))

    def _model(self, name: str) -> ServedModel:
        return self.live.serving.catalog.model(key(name))

    def _session(self, model: str, id: str) -> tuple[Session, Sent]:
        """Open the stream and compare it with the dicts."""
        sent = self.sent.setdefault((model, id), Sent())
        self._do(self.live.serving.residency.bring(self._model(model), [id]))
        session, origin = self.live.serving.opening.open(self._model(model), id)
        assert session.last_seq == len(sent.x)
        if sent.x and not sent.fresh:
            assert origin is Origin.RESUMED, "a stream restarted without notice"
        return session, sent

    def _submit(self, model: str, session: Session, seq: int, x: float) -> Any:
        tick = Tick(self._model(model), session, session.epoch, seq, np.nan, np.array([x], np.float32), 0.0)

        async def submitted() -> Any:
            return await self.live.serving.ticks.submit(tick)

        return self._do(submitted())

    def _last_seq(self, model: str, id: str) -> int:
        self._do(self.live.serving.residency.bring(self._model(model), [id]))
        row = self._model(model).table.by_id.get(id)
        return 0 if row is None else int(self._model(model).table.last_seq[row])

    def _count_again(self) -> None:
        """Count the surviving labels and windows. All durable ones must survive."""
        counted = verify.count(self._chunks(), self._model(LAB).number, 1 << 62)
        assert set(self.labels["durable"]) <= counted.labels, "a label is lost"
        assert len(counted.windows) >= self.durable_windows, "a window is lost"
        self.labels["taken"] = {key: y for key, y in self.labels["taken"].items() if key in counted.labels}
        self.windows = len(counted.windows)

    def _chunks(self) -> list[Any]:
        return [chunk for _, chunk in self.live.server.journal.chunks(0)]

    def _compare(self) -> None:
        """Compare answers with plain onnxruntime, and weights and counts with an uninterrupted fold."""
        chunks, data = self._chunks(), self.live.server.config.data
        for name in (FLOW, LAB):
            model = self._model(name)
            files = replay.Files.of(data, model.number)
            oracle = replay.served(chunks, files, model.number)
            for (of, id), sent in self.sent.items():
                for seq, (version, y) in enumerate(sent.answers, 1) if of == name else ():
                    expected = oracle.answers.get((id, seq))
                    assert expected is not None, f"{name}/{id}: tick {seq} was answered and is not in the journal"
                    assert (version, y) == (expected.version, expected.y.tobytes()), f"{name}/{id}: tick {seq}"
                    self.part.acknowledged += 1
            self._compare_learning(model, chunks, files)

    def _compare_learning(self, model: ServedModel, chunks: list[Any], files: replay.Files) -> None:
        assert self.live.trainer is not None
        hosted = self.live.trainer.models.get(model.number)
        assert hosted is not None, f"the trainer has nothing of {model.name}"
        whole = replay.learned(chunks, files, self.live.server.config.gate, hosted.offset, model.number)
        self.part.digests_unequal += digest(hosted) != digest(whole)
        assert digest(hosted) == digest(whole), "the weights differ from those of an uninterrupted fold"
        must, counts = verify.count(chunks, model.number, hosted.offset), hosted.learner.counts
        assert counts.ticks == must.ticks
        if model.name == LAB:
            self.part.learned_twice += must.exceeded(counts)
            did, should = verify.taken(counts), must.learned + must.again
            assert did == should, f"{did} labels reached the learner, {should} are in the journal"


def run(folder: Path, quick: bool) -> Part:
    """Run. Quick: 25 histories of up to 40 steps. Full: 1,000 of up to 100."""
    Machine.part = part = Part()
    run_state_machine_as_test(Machine, settings=how(25 if quick else 1000, 40 if quick else 100))
    part.summary = f"{part.rounds} histories, {part.hits} crashes, {part.acknowledged} answers compared"
    return part


def how(histories: int, steps: int) -> settings:
    """Return settings for `histories` histories of up to `steps` steps, the same in each run."""
    return settings(
        max_examples=histories, stateful_step_count=steps, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate],  # shrinking would take as long as the run
    )  # fmt: skip
