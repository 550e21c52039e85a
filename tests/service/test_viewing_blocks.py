"""Blocks and scores beside slow twins, which go through single answers by seq."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from model.offline.least_squares import RecursiveLeastSquares
from model.spec import ModelSpec
from service.common.errors import Invalid
from service.streams.answers import Answer, AnswerLog
from service.viewing import scores as scoring
from service.viewing.scores import LeastSquares, scores
from service.viewing.ticks import KEPT_TICKS, Lens, Track, block

NONE = np.zeros(0, np.intp)


def spec(**values: Any) -> ModelSpec:
    fields = {"channels": ("a", "b", "c"), "targets": ("c", "a"), "horizon": 5, "intervals": (0.5, 0.9)}
    return ModelSpec(**{**fields, **values})


def filled(its: ModelSpec, n: int, seed: int = 0, missing: float = 0.0, gaps: bool = False) -> tuple[AnswerLog, int]:
    """Return a log with n random answers of one stream, and the position of the newest."""
    rng, newest, time = np.random.default_rng(seed), -1, 1e9
    width = its.outputs * (1 + 2 * len(its.intervals))
    log = AnswerLog(len(its.channels), width)
    for seq in range(1, n + 1):
        time += 1000.0 if gaps and rng.random() < 0.1 else 1.0
        x = rng.normal(size=len(its.channels)).astype(np.float32)
        x[rng.random(len(x)) < missing] = np.nan
        newest = log.add(
            stream=1, seq=seq, time=time, x=x, y=rng.normal(size=width).astype(np.float32), version=seq // 7,
            judged=seq // 2, offset=seq, previous=newest,
        )  # fmt: skip
    return log, newest


def tracked(its: ModelSpec, log: AnswerLog, newest: int, target: str, step: int) -> Track:
    track = Track(Lens.of(its, target, step))
    track.extend(track.copied(log, newest))
    return track


class Twin:
    """One stream's answers by seq."""

    def __init__(self, its: ModelSpec, log: AnswerLog, newest: int, target: str) -> None:
        self.spec, self.by_seq = its, {a.seq: a for a in log.chain(newest)}
        self.k, self.channel = its.targets.index(target), its.channels.index(target)

    def truth(self, seq: int) -> float:
        return float(np.frombuffer(self.by_seq[seq].x, np.float32)[self.channel])

    def origin(self, seq: int, step: int) -> Answer | None:
        """The answer `step` ticks before, unless a gap lies between."""
        for later in range(seq - step + 1, seq + 1):
            before = self.by_seq.get(later - 1)
            if before is None or 0 < self.spec.max_gap < self.by_seq[later].time - before.time:
                return None
        return self.by_seq[seq - step]

    def made(self, seq: int, step: int, part: int = 0) -> float:
        """part: 0 the forecast; 1 … levels: lower bounds; then the upper ones."""
        answer = self.origin(seq, step)
        if answer is None:
            return math.nan
        parts = np.frombuffer(answer.y, np.float32).reshape(-1, self.spec.horizon, len(self.spec.targets))
        return float(parts[part, step - 1, self.k])

    def held(self, seq: int) -> float:
        while seq in self.by_seq:
            if not math.isnan(value := self.truth(seq)):
                return value
            seq -= 1
        return math.nan


CASES = [("c", 1, {}, 0.0, False), ("a", 3, {}, 0.2, False), ("a", 5, {"max_gap": 10.0}, 0.1, True)]


@pytest.mark.parametrize(("target", "step", "values", "missing", "gaps"), CASES)
def test_a_block_is_what_single_answers_say(
    target: str, step: int, values: dict[str, Any], missing: float, gaps: bool
) -> None:
    its = spec(**values)
    log, newest = filled(its, 60, missing=missing, gaps=gaps)
    twin, last = Twin(its, log, newest, target), 40
    ahead = log.last(newest, 1, 0, NONE, Lens.of(its, target, step).ahead)
    got = block(tracked(its, log, newest, target, step), ahead, "s", last, True)

    seqs = list(range(21, 61))
    assert got["seq"].tolist() == seqs
    np.testing.assert_array_equal(got["truth"], [twin.truth(seq) for seq in seqs])
    np.testing.assert_array_equal(got["time"], [twin.by_seq[seq].time for seq in seqs])
    for name, part in (("y", 0), ("low", 2), ("high", 4)):
        np.testing.assert_array_equal(got[name], [twin.made(seq, step, part) for seq in seqs])
    origins = [twin.origin(seq, step) for seq in seqs]
    assert got["version"] == [o.version if o else None for o in origins]
    stale = [o.seq - o.judged_through if o else math.nan for o in origins]
    np.testing.assert_array_equal(got["staleness"], stale)
    assert np.isnan(got["ghost"]).all()
    assert any(o is None for o in origins) == gaps
    parts = np.frombuffer(twin.by_seq[60].y, np.float32).reshape(5, 5, 2)[:, :, twin.k]
    for name, part in (("y", 0), ("low", 2), ("high", 4)):
        np.testing.assert_array_equal(got["next"][name], parts[part])
    assert (got["next"]["seq"], got["next"]["steps"], got["level"]) == (60, [1, 2, 3, 4, 5], 0.9)


@pytest.mark.parametrize(("target", "step", "values", "missing", "gaps"), CASES)
@pytest.mark.parametrize("n", [12, 120, 700])
def test_scores_are_means_over_single_labels(
    target: str, step: int, values: dict[str, Any], missing: float, gaps: bool, n: int
) -> None:
    its = spec(**values)
    log, newest = filled(its, n, missing=missing, gaps=gaps)
    twin, track = Twin(its, log, newest, target), tracked(its, log, newest, target, step)
    got = scores(track, "s", LeastSquares(step), None)

    seqs = range(1, n + 1)
    held = [twin.held(seq) for seq in seqs]
    changes = [(b - a) ** 2 for a, b in pairwise(held)][-scoring.LABELS :]
    scale = np.nanmean(changes)
    for each in track.lens.steps:
        errors = {seq: twin.made(seq, each) - twin.truth(seq) for seq in seqs}
        labels = [seq for seq, error in errors.items() if not math.isnan(error)][-scoring.LABELS :]
        if not labels:
            continue
        served = np.mean([errors[seq] ** 2 for seq in labels]) / scale
        still = [(twin.held(seq - each) - twin.truth(seq)) ** 2 for seq in labels]
        persistence = np.nanmean(still) / scale
        assert got is not None
        assert got["steps"][str(each)]["served"] == pytest.approx(served, rel=1e-5)
        assert got["steps"][str(each)]["persistence"] == pytest.approx(persistence, rel=1e-5)
        if each == step:
            assert (got["labels"], got["served"]) == (len(labels), pytest.approx(served, rel=1e-5))
            for at, level in enumerate(its.intervals):
                inside = [
                    twin.made(seq, step, 1 + at) <= twin.truth(seq) <= twin.made(seq, step, 3 + at) for seq in labels
                ]
                assert got["coverage"][f"{level:g}"] == pytest.approx(np.mean(inside))


def test_a_track_that_is_followed_look_by_look_equals_one_that_is_read_at_once() -> None:
    its, rng = spec(), np.random.default_rng(1)
    whole, newest = filled(its, 3000, seed=2)
    answers, log = whole.chain(newest), AnswerLog(3, its.outputs * 5)
    track, position, at = Track(Lens.of(its, "c", 2)), -1, 0
    while at < len(answers):
        for answer in answers[at : at + int(rng.integers(1, 40))]:
            made = log.add(
                stream=1, seq=answer.seq, time=answer.time, x=np.frombuffer(answer.x, np.float32),
                y=np.frombuffer(answer.y, np.float32), version=answer.version, judged=answer.judged_through,
                offset=answer.seq, previous=position,
            )  # fmt: skip
            position, at = made, at + 1
        added, restart = track.extend(track.copied(log, position))
        assert restart == (at == added)
    assert len(track) == KEPT_TICKS
    other = tracked(its, log, position, "c", 2)
    for name in ("seq", "time", "truth"):
        np.testing.assert_array_equal(getattr(track, name), getattr(other, name))
    assert track.extend(track.copied(log, position)) == (0, False)


def test_least_squares_learns_a_bounded_number_at_a_time_and_then_forecasts_as_if_it_ran_alone() -> None:
    its = spec(targets=("a",))
    log, newest = filled(its, 300, missing=0.1)
    track, baseline, rests = tracked(its, log, newest, "a", 2), LeastSquares(2), []
    alone, last, expected = RecursiveLeastSquares(1, 2), math.nan, []
    for value in track.truth.tolist():
        last = last if math.isnan(value) else value
        expected.append(math.nan if math.isnan(last) else float(alone.step(np.array([last]))[1, 0]))
    for _ in range(3):
        assert baseline.is_behind(track)
        baseline.follow(track, 100, lambda: rests.append(1))
    assert not baseline.is_behind(track)
    assert len(rests) == 300
    expected[: scoring.UNLEARNED] = [math.nan] * scoring.UNLEARNED
    np.testing.assert_array_equal(baseline.forecasts(np.arange(1, 301)), expected)
    assert np.isnan(baseline.forecasts(np.array([-3, 0, 301]))).all()


def test_least_squares_begins_again_after_a_gap() -> None:
    its = spec(targets=("a",))
    log, newest = filled(its, 50)
    baseline = LeastSquares(1)
    baseline.follow(tracked(its, log, newest, "a", 1), 1000)
    long, end = filled(its, 50 + KEPT_TICKS + 10)
    later = tracked(its, long, end, "a", 1)
    baseline.follow(later, 10_000)
    other = LeastSquares(1)
    other.follow(later, 10_000)
    seqs = later.seq.astype(np.int64)
    np.testing.assert_array_equal(baseline.forecasts(seqs), other.forecasts(seqs))


def test_a_constant_stream_has_no_scale_and_no_score() -> None:
    its = ModelSpec(channels=("a",))
    log, newest = AnswerLog(1, 1), -1
    for seq in range(1, 10):
        newest = log.add(
            stream=1, seq=seq, time=math.nan, x=np.ones(1, np.float32), y=np.ones(1, np.float32), version=1, judged=0,
            offset=seq, previous=newest,
        )  # fmt: skip
    got = scores(tracked(its, log, newest, "a", 1), "s", LeastSquares(1), None)
    assert got is not None
    assert (got["labels"], got["served"], got["persistence"], got["scale"]) == (8, None, None, 0)


@pytest.mark.parametrize(
    ("task", "values"), [("regress", {"targets": ("r", "s")}), ("classify", {"classes": ("u", "v")})]
)
def test_other_tasks_show_the_answer_itself(task: str, values: dict[str, Any]) -> None:
    its = ModelSpec(channels=("a",), task=task, **values)
    log, newest = filled(its, 12)
    track = tracked(its, log, newest, "", 1)
    got = block(track, log.last(newest, 1, 0, NONE, track.lens.ahead), "s", 8, True)
    answers = [np.frombuffer(a.y, np.float32) for a in log.chain(newest)[-8:]]
    expected = [a[0] if task == "regress" else a.argmax() for a in answers]
    np.testing.assert_array_equal(got["y"], np.array(expected, np.float64))
    assert np.isnan(got["truth"]).all()
    assert got["next"] is None
    assert scores(track, "s", LeastSquares(1), None) is None


@pytest.mark.parametrize(("target", "step", "field"), [("b", 1, "target"), ("", 6, "step"), ("", 0, "step")])
def test_a_target_or_step_that_the_model_lacks_is_refused(target: str, step: int, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        Lens.of(spec(), target, step)
    assert refused.value.field == field
