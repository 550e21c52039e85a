"""Bounds that keep one request, or one slow trainer, from taking all resources."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.fold.keeping import CONTEXT_BUDGET_BYTES
from model.fold.learner import Learner
from model.fold.windows import unrolled
from model.network import Network
from model.spec import ModelSpec
from model.update.rounds import GROUP_ROWS
from service.common import limits
from service.common.errors import Invalid
from service.common.limits import MAX_THINNING, RESERVED_DESCRIPTORS, check_size, connections, learn_every


def test_a_comfortable_backlog_is_learned_whole():
    assert [learn_every(backlog, 100) for backlog in (0, 1, 100)] == [1, 1, 1]


def test_thinning_doubles_with_the_backlog():
    assert [learn_every(backlog, 100) for backlog in (101, 200, 201, 400, 401, 10_000)] == [2, 2, 4, 4, 8, 128]


def test_thinning_has_an_end():
    assert learn_every(10**15, 1) == MAX_THINNING


@given(st.integers(0, 10**9), st.integers(1, 10**6))
def test_the_thinned_backlog_is_comfortable_or_the_thinning_at_its_maximum(backlog, comfortable):
    n = learn_every(backlog, comfortable)

    assert n == MAX_THINNING or backlog <= comfortable * n
    assert n == 1 or backlog > comfortable * n // 2  # and it is no thinner than necessary


CHANNELS = tuple(f"c{i}" for i in range(4096))


REGRESS: dict[str, Any] = {"task": "regress", "targets": ("t",)}
CLASSIFY: dict[str, Any] = {"channels": ("a",), "task": "classify", "classes": CHANNELS[:1024]}


@pytest.mark.parametrize(
    "spec",
    [
        {**REGRESS, "channels": ("a",), "label_horizon": 50_000},
        {**REGRESS, "channels": ("a",), "window": 2048},
        CLASSIFY,
        {"channels": ("a",)},
        {"channels": ("a",), "hidden": 1024},
        {"channels": CHANNELS[:321], "hidden": 256},
        {"channels": ("a",), "horizon": 1024},
        {"channels": ("a",), "window": 4096},
        {"channels": ("a",), "cell": "attention", "attention_window": 1024},
        {"channels": ("a",), "cell": "attention", "hidden": 896},
    ],
    ids=lambda spec: str({k: v if k != "channels" else len(v) for k, v in spec.items()}),
)
def test_a_model_of_a_sensible_size_is_taken(spec: dict[str, Any]):
    check_size(ModelSpec(**spec))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"channels": ("a",), "hidden": 1024, "layers": 8}, "hidden"),
        ({"channels": CHANNELS, "horizon": 2, "hidden": 1024}, "hidden"),
        ({"channels": CHANNELS, "targets": ("c0",), "window": 4096, "hidden": 1}, "window"),
        ({"channels": CHANNELS[:8], "horizon": 1024, "hidden": 8}, "horizon"),
        ({"channels": CHANNELS[:4], "horizon": 512, "hidden": 8, "learn_every": 1024}, "learn_every"),
        ({"channels": CHANNELS[:20], "horizon": 100, "hidden": 8, "window": 4096}, "window"),
        ({"channels": CHANNELS[:512], "targets": ("c0",), "hidden": 1024, "cell": "lru", "rule": "rtrl"}, "rule"),
        ({**REGRESS, "channels": CHANNELS[:4], "label_horizon": 100_000}, "label_horizon"),
        ({**REGRESS, "channels": CHANNELS[:64], "window": 4096, "label_horizon": 1}, "window"),
        ({**CLASSIFY, "window": 4096, "hidden": 8, "label_horizon": 1}, "window"),
        ({"channels": ("a",), "cell": "attention", "attention_window": 1024, "hidden": 128}, "attention_window"),
        (
            {"channels": ("a",), "cells": ("gru", *["attention"] * 4), "hidden": 256, "attention_window": 128},
            "attention_window",
        ),
        ({"channels": ("a",), "cell": "attention", "window": 4096, "hidden": 256}, "window"),
    ],
    ids=[
        "deep and wide",
        "many outputs",
        "long and wide",
        "far",
        "rarely learned",
        "long and far",
        "traces",
        "late",
        "late and long",
        "many classes",
        "a ring that is long",
        "several rings",
        "attention over a long window",
    ],
)
def test_a_model_that_needs_too_much_memory_is_refused_by_field(spec: dict[str, Any], field: str):
    with pytest.raises(Invalid) as caught:
        check_size(ModelSpec(**spec))

    assert caught.value.field == f"spec.{field}"
    assert "at most" in caught.value.remedy


@pytest.mark.parametrize(
    ("spec", "contexts"),
    [
        ({"channels": ("a",), "hidden": 8}, 20_000),
        ({"channels": ("a",), "horizon": 1024, "hidden": 8}, 230),
        ({"channels": CHANNELS[:32], "hidden": 256, "cell": "mingru", "rule": "rtrl"}, 7563),
        ({**REGRESS, "channels": ("a",), "label_horizon": 50_000}, 447),
    ],
    ids=["small", "as wide as can be", "traces", "late labels"],
)
def test_the_contexts_of_a_model_fit_their_byte_budget(spec: dict[str, Any], contexts: int):
    learner = Learner(ModelSpec(**spec))

    assert learner.contexts.limit == contexts >= GROUP_ROWS
    assert contexts * 4 * learner.contexts.width <= CONTEXT_BUDGET_BYTES


def test_the_side_server_takes_an_eighth_of_few_descriptors():
    assert [limits.http_connections(n) for n in (10, 64, 256, 512, 20_000)] == [16, 16, 32, 64, 64]


@pytest.mark.parametrize(("asked", "descriptors", "allowed"), [
    (10_000, 20_000, 10_000), (10_000, 1024, 1024 - RESERVED_DESCRIPTORS - 48), (4, 64, 4), (10_000, 16, 1),
])  # fmt: skip
def test_connections_leave_descriptors_for_files(asked, descriptors, allowed):
    assert connections(asked, descriptors) == allowed


@pytest.mark.parametrize(
    ("spec", "rows"),
    [
        ({"channels": ("a",)}, limits.MAX_STEP_ROWS),
        ({"channels": ("a",), "hidden": 1024}, 25),
        ({"channels": CHANNELS[:256], "hidden": 1024}, 15),
        ({"channels": CHANNELS, "targets": CHANNELS[:1]}, 6),
        ({**CLASSIFY, "classes": CHANNELS}, 15),
        ({"channels": ("a",), "cell": "attention"}, 31),
        ({"channels": ("a",), "cell": "attention", "hidden": 512, "attention_window": 128}, 1),
    ],
    ids=lambda value: (
        str({k: v if k != "channels" else len(v) for k, v in value.items() if k != "classes"})
        if isinstance(value, dict)
        else ""
    ),
)
def test_a_step_of_any_permitted_model_is_bounded_and_a_default_models_wave_is_one(spec, rows):
    network = Network(ModelSpec(**spec))
    work = limits.step_work(limits.row_work(network), limits.step_rows(network))

    assert limits.step_rows(network) == rows
    assert work <= limits.MAX_STEP_WORK
    small = "hidden" not in spec and len(spec["channels"]) == 1
    assert (limits.row_work(network) <= limits.MAX_LONE_WORK) == small
    if spec == {"channels": ("a",)}:
        assert work <= limits.MAX_TURN_WORK


def test_one_row_of_the_largest_model_is_a_step_of_the_loop():
    assert limits.step_work(limits.MAX_PARAMETERS + limits.UNIT_WORK * 1024, 1) <= limits.MAX_TURN_WORK


@pytest.mark.parametrize(
    "fields", [{}, {"attention_window": 256, "hidden": 16}, {"window": 200, "positions": "learned"}]
)
def test_the_size_of_a_window_of_attention_covers_the_bytes_of_its_tape(fields):
    network, rows = Network(ModelSpec(channels=("a",), cell="attention", **fields)), 8
    size = rows * unrolled(network, network.spec.window)

    assert 50 * size < network.tape(network.spec.window, rows).nbytes < 80 * size
    assert 50 * 16 * 74 * rows < Network(ModelSpec(channels=("a",))).tape(16, rows).nbytes < 80 * 16 * 74 * rows
