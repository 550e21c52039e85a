"""The gate as a decision: seldom wrong about a candidate no worse, quick about one that is, and what follows."""

import dataclasses
import json
import math

import numpy as np
import pytest

from service.common.gate import BETS, Gate, GateSettings

PROMPT = GateSettings(worse_evidence=1e4, anchor_labels=40, anchor_scores=1, score_every=1, cool_down_labels=30)


class NeverWorse(Gate):
    """A mutant: it takes every score in and vetoes nothing."""

    @property
    def worse(self) -> bool:
        return False


class AnyDifference(Gate):
    """A mutant without patience: one worse score is enough."""

    @property
    def worse(self) -> bool:
        return self.evidence > 1


def alarms(kind: type[Gate], threshold: float, runs: int, scores: int, worse_by: float = 0.0) -> list[int]:
    """Seeded runs of paired scores, the candidate's higher by `worse_by` on average: scores until "worse", 0 for never.

    The two share the hardness of each label (heavy-tailed, as losses are) and differ by noise of their own.
    """
    rng = np.random.default_rng(11)
    found = []
    for _ in range(runs):
        gate = kind(GateSettings(worse_evidence=threshold))
        hardness = np.minimum(rng.exponential(0.15, scores), 0.6)
        own = rng.normal(0, 0.1, (2, scores))
        candidate, anchor = np.clip(hardness + 0.2 + own, 0, 1)
        candidate = np.clip(candidate + worse_by, 0, 1)
        found.append(0)
        for n, (c, a) in enumerate(zip(candidate.tolist(), anchor.tolist(), strict=True), 1):
            gate.scored(c, a, 1)
            if gate.worse:
                found[-1] = n
                break
    return found


def false_alarms_within_bound(kind: type[Gate]) -> bool:
    """At most n·α of the runs over n scores, and four standard errors of that count."""
    runs, scores, threshold = 200, 300, 3000.0
    expected = runs * scores / threshold
    return sum(n > 0 for n in alarms(kind, threshold, runs, scores)) <= expected + 4 * math.sqrt(expected)


def finds_a_worse_candidate(kind: type[Gate]) -> bool:
    """Always, within as many scores as its fastest bet needs at the mean difference, and half of that again."""
    worse_by = 0.15
    needed = math.log(len(BETS) * 1e4) / math.log(1 + BETS[-1] * worse_by)
    found = alarms(kind, 1e4, 40, 400, worse_by)
    return all(0 < n <= 1.5 * needed for n in found)


def test_a_candidate_that_is_no_worse_is_seldom_called_worse():
    assert false_alarms_within_bound(Gate)
    assert not false_alarms_within_bound(AnyDifference), "the simulation would not notice an impatient gate"


def test_a_clearly_worse_candidate_is_found_within_the_scores_its_bets_promise():
    assert finds_a_worse_candidate(Gate)
    assert not finds_a_worse_candidate(NeverWorse), "the simulation would not notice a gate that is asleep"


def test_a_candidate_that_was_good_for_long_is_found_as_quickly_once_it_is_worse():
    gate = Gate(PROMPT)
    for _ in range(5000):
        gate.scored(0.2, 0.3, 1)
    fresh = Gate(PROMPT)

    for each in (gate, fresh):
        for _ in range(70):
            each.scored(0.5, 0.3, 1)

    assert gate == fresh
    assert gate.worse


def test_a_candidate_without_a_finite_score_counts_as_wrong_as_can_be():
    nan, worst = Gate(PROMPT), Gate(PROMPT)
    for _ in range(20):
        nan.scored(math.nan, 0.2, 1)
        worst.scored(1.0, 0.2, 1)

    assert nan == worst
    assert nan.worse


def test_an_anchor_without_a_finite_score_is_no_evidence():
    gate = Gate(PROMPT)

    gate.scored(1.0, math.inf, 1)

    assert gate.wealth == [1.0] * len(BETS)


def test_evidence_stays_finite_however_long_the_candidate_is_worse():
    gate = Gate(PROMPT)
    for _ in range(5000):
        gate.scored(1.0, 0.0, 1)

    assert gate.worse
    assert math.isfinite(gate.evidence)
    assert json.loads(json.dumps(gate.pack())) == gate.pack()


def test_the_first_version_after_the_anchor_becomes_the_anchor_once_its_line_has_held():
    gate = Gate(PROMPT)
    gate.swapped(2)
    gate.swapped(3)  # the line goes on; the contender stays

    for _ in range(PROMPT.anchor_labels - 1):
        gate.scored(0.2, 0.3, 1)
        assert gate.promote_contender() == 0
    gate.scored(0.2, 0.3, 1)

    assert gate.promote_contender() == 2
    assert (gate.anchor, gate.contender, gate.wealth) == (2, 0, [1.0] * len(BETS))
    assert gate.promote_contender() == 0, "and only once"


def test_a_line_is_not_the_anchor_before_it_has_held_enough_scores_however_many_labels_each_is_of():
    gate = Gate(dataclasses.replace(PROMPT, anchor_scores=5))
    gate.swapped(2)

    for _ in range(4):
        gate.scored(0.2, 0.3, 10 * PROMPT.anchor_labels)
        assert gate.promote_contender() == 0
    gate.scored(0.2, 0.3, 1)

    assert gate.promote_contender() == 2


def test_labels_scored_before_there_was_a_contender_do_not_count_for_it():
    gate = Gate(PROMPT)
    gate.scored(0.2, 0.3, 10 * PROMPT.anchor_labels)

    gate.swapped(2)

    assert gate.promote_contender() == 0


def test_a_line_under_suspicion_does_not_become_the_anchor_and_the_next_version_is_tried_with_the_evidence_kept():
    gate = Gate(PROMPT)
    gate.swapped(2)
    while gate.evidence < math.sqrt(PROMPT.worse_evidence):
        gate.scored(0.6, 0.3, 1)
    suspicion = gate.evidence
    gate.scored(0.3, 0.3, PROMPT.anchor_labels)

    assert gate.promote_contender() == 0
    assert (gate.anchor, gate.contender, gate.evidence) == (1, 0, suspicion)
    gate.swapped(5)
    assert gate.contender == 5


def test_a_swap_back_to_the_anchor_or_before_it_makes_no_contender():
    gate = Gate(PROMPT, anchor=4)

    gate.swapped(4)
    gate.swapped(3)

    assert gate.contender == 0


def test_a_rollback_clears_the_evidence_and_cools_down_for_so_many_learned_labels():
    gate = Gate(PROMPT, anchor=2)
    gate.swapped(3)
    gate.scored(1.0, 0.0, 17)

    gate.rolled_back(2)

    assert (gate.anchor, gate.contender, gate.contender_scored, gate.worse) == (2, 0, 0, False)
    gate.learned(PROMPT.cool_down_labels - 1)
    assert gate.cooling == 1
    gate.learned(5)
    assert gate.cooling == 0


@pytest.mark.parametrize("at", range(0, 120, 7))
def test_a_gate_that_was_packed_goes_on_as_if_it_had_not_been(at):
    rng = np.random.default_rng(3)
    events = [(float(c), float(a)) for c, a in rng.uniform(0, 1, (120, 2))]
    straight, broken = Gate(PROMPT), Gate(PROMPT)

    for n, (candidate, anchor) in enumerate(events):
        if n == at:
            broken = Gate(PROMPT, **json.loads(json.dumps(broken.pack())))
        for gate in (straight, broken):
            gate.scored(candidate, anchor, 3)
            gate.learned(3)
            gate.promote_contender()
            if n % 20 == 5:
                gate.swapped(n)
            if n == 60:
                gate.rolled_back(gate.anchor)

    assert broken == straight
