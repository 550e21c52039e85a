"""The spec of a model: defaults, and errors that name field, value and remedy."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from typing import Any

import pytest

from model.spec import CHOICES, ModelSpec, SpecError, baseline_seasons
from model.spec.names import SPREAD_LOSSES

GOOD: dict[str, Any] = {"channels": ["a", "b"]}

BAD: list[tuple[str, Any]] = [
    *(("channels", v) for v in ([], "ab", [""], [1], [None], ["a", "a"], ["a\n"], ["x" * 257], 5, None)),
    *(("targets", v) for v in (["c"], ["a", "a"], "a", [2], 7)),
    *(("horizon", v) for v in (0, -1, 1025, 1.5, "3", None, True, float("nan"))),
    *(("interval", v) for v in (-1.0, float("nan"), float("inf"), 1e10, "1h", None, True)),
    *(("max_gap", v) for v in (-1.0, float("nan"), 1e10, "1h")),
    *(("cell", v) for v in ("transformer", "", "LSTM", 3, None)),
    *(("cells", v) for v in ("lstm", 3, ["other"], [3], [""], ["lstm"] * 9)),
    *((name, v) for name in ("layer_norm", "residual") for v in (1, "true", None, True)),  # true needs two layers
    *(("layers", v) for v in (0, 9, 1.0, "1", True)),
    *(("hidden", v) for v in (-1, 1025, 32.0, "32")),
    *(("attention_window", v) for v in (0, -1, 1025, 64.0, "64", True, 32)),  # lstm, which GOOD has, has none
    *(("heads", v) for v in (-1, 1025, 4.0, "4", True, 4)),
    *(("window", v) for v in (8, -1, 4097, 16.0, "16")),
    *(("learn_every", v) for v in (0, -1, 1025, 1.0, "1", None)),
    *(("learn", v) for v in (0, 1, "yes", None)),
    *(
        (name, v)
        for name in (
            "task",
            "optimizer",
            "init",
            "activation",
            "reset",
            "positions",
            "rule",
            "scaler",
            "missing",
            "drift_reaction",
        )
        for v in ("other", "", 0, None)
    ),
    *(("loss", v) for v in ("other", 0, None, "cross_entropy")),
    *(("classes", v) for v in (["a", "b"], "ab", 3, [1, 2])),
    *(("class_weights", v) for v in ([1.0], ["a"], 2.0, [True])),
    *(("label_range", v) for v in ([1.0], [2.0, 1.0], [0.0, 0.0], "01", ["0", "1"], [0.0, float("inf")])),
    *(("label_horizon", v) for v in (1, -1, 1.5, "3")),
    *(("huber_delta", v) for v in (0.0, -1.0, float("nan"), "1")),
    *(("degrees", v) for v in (2.0, -1.0, 1001.0, float("nan"), "5")),
    *(("momentum", v) for v in (-0.1, 1.0, float("nan"), "0.9")),
    *(("weight_decay", v) for v in (-0.1, 1.5, float("inf"), "0")),
    *(("warmup", v) for v in (-1, 1.5, "3", 10**10)),
    *(("schedule_updates", v) for v in (-1, 1.5, "3")),
    *(("schedule", v) for v in ("other", 0, None)),
    *(("intervals", v) for v in ("0.9", [True], [0.0], [1.0], [90], [0.9, 0.9], [n / 10 for n in range(1, 10)])),
    *(("known", v) for v in ("k", 3, ["a"], ["k", "k"], [""], [3], [str(i) for i in range(9000)])),
    *(("static", v) for v in ("k", 3, ["a"], ["k", "k"])),
    *(("categories", v) for v in ("k:3", 3, ["k:3"], ["k"], [3], ["a:3", "a:3"])),
    *(("forecaster", v) for v in ("other", 3, None)),
    *(("seasons", v) for v in ([3600.0], "day", [-1.0], ["a"])),
    *(("own_readout", v) for v in (1, "true", None)),
    *(("zone", v) for v in (3, None, "Europe/Berlin", "UTC0")),  # a rule needs the interval too
    *(("rate_floor", v) for v in (-1e-3, 2.0, "1e-4")),
    *(("shadow", v) for v in (3, None, ["a"])),
    *(("holidays", v) for v in (3, None, "XX", "CN", "US")),
    *(("freeze", v) for v in (["cell1"], "head", ["head", "head"], ["head", "cell0"], [3])),
    *(("init_gain", v) for v in (-0.1, 101.0, float("nan"), "1")),
    *(("learning_rate", v) for v in (1.5, -2.0, float("nan"), float("inf"), "1e-3")),
    *(("clip", v) for v in (0.0, -1.0, 1e7, float("nan"), "1")),
    *(("clip_value", v) for v in (-1.0, 1e7, float("nan"), "1")),
    *(("accumulate", v) for v in (0, -1, 4097, 1.0, "2", None)),
    *(("layer_rates", v) for v in ("head:2", [3], ["head"], ["head:x"], ["head:0"], ["head:-1"], ["head:1001"])),
    *(("layer_rates", v) for v in (["head:nan"], ["cell1:2"], ["embed:2"], ["head:2", "head:3"], [":2"])),
    *(("max_share", v) for v in (0.0, -0.5, 1.1, float("nan"), "1")),
    *(("drift_raise", v) for v in (0.0, -1.0, 101.0, float("nan"), "3")),
    *(("drift_labels", v) for v in (0, -1, 1.5, "3")),
    *(("head_init", v) for v in (-0.1, 11.0, float("inf"), "0")),
    *(("seed", v) for v in (-1, 2**63, 0.5, "0")),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=lambda v: str(v)[:20])
def test_the_error_for_a_bad_field_names_it_with_its_value_and_a_remedy(field: str, value: Any) -> None:
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_mapping(GOOD | {field: value})

    error = caught.value
    assert error.field == field
    assert str(error) == f"{field} = {error.value!r}: {error.remedy}"
    assert error.remedy
    if not isinstance(value, list | str):  # for lists the error shows the faulty name
        assert error.value is value


def test_this_list_has_a_bad_value_for_every_field() -> None:
    assert {field for field, _ in BAD} == {field.name for field in dataclasses.fields(ModelSpec)}


def test_the_constructor_checks_as_from_mapping_does() -> None:
    for field, value in BAD:
        with pytest.raises(SpecError):
            ModelSpec(**{"channels": ("a", "b"), field: value})


def test_the_error_for_an_unknown_key_names_the_known_keys() -> None:
    with pytest.raises(SpecError, match=r"hiden = 3: unknown key; did you mean hidden\? known are .*hidden") as caught:
        ModelSpec.from_mapping(GOOD | {"hiden": 3})
    assert caught.value.field == "hiden"


def test_channels_are_required() -> None:
    with pytest.raises(SpecError, match="channels = None"):
        ModelSpec.from_mapping({})


def test_defaults_depend_on_the_horizon_only() -> None:
    one, two, far = (ModelSpec.from_mapping(GOOD | {"horizon": h}) for h in (1, 2, 24))
    assert (one.window, two.window, far.window) == (16, 16, 32)  # at least horizon + 8
    assert one.learning_rate > two.learning_rate == far.learning_rate > 0
    assert one.hidden <= two.hidden == far.hidden
    other = ModelSpec.from_mapping({"channels": ["x"], "interval": 60, "seed": 3})
    assert (other.hidden, other.window, other.learning_rate) == (one.hidden, one.window, one.learning_rate)


def test_the_default_window_leaves_room_for_the_ticks_between_updates() -> None:
    assert ModelSpec.from_mapping(GOOD | {"horizon": 24, "learn_every": 4}).window == 24 + 4 + 7


def test_given_values_are_kept() -> None:
    given = {"horizon": 24, "hidden": 8, "window": 100, "learning_rate": 0.5}
    spec = ModelSpec.from_mapping(GOOD | given)
    assert {name: getattr(spec, name) for name in given} == given


def test_targets_default_to_all_channels_and_keep_their_own_order() -> None:
    assert ModelSpec.from_mapping(GOOD).targets == ("a", "b")
    spec = ModelSpec.from_mapping({"channels": ["a", "b", "c"], "targets": ["c", "a"], "horizon": 3})
    assert (spec.target_index, spec.outputs) == ([2, 0], 6)


def test_outputs_beyond_the_limit_are_refused() -> None:
    names = [f"c{i}" for i in range(100)]
    with pytest.raises(SpecError, match="horizon × targets is 100000"):
        ModelSpec.from_mapping({"channels": names, "horizon": 1000})


def test_a_negative_learning_rate_is_allowed_so_that_the_gate_can_be_tested() -> None:
    assert ModelSpec.from_mapping(GOOD | {"learning_rate": -1e-3}).learning_rate == -1e-3


def test_a_spec_is_equal_after_a_json_round_trip() -> None:
    spec = ModelSpec.from_mapping(GOOD | {"horizon": 5, "targets": ["b"], "cell": "gru", "interval": 60})
    assert ModelSpec.from_mapping(json.loads(json.dumps(spec.to_mapping()))) == spec


def test_a_spec_is_read_from_toml() -> None:
    text = 'channels = ["load"]\nhorizon = 2\ninterval = 1800\nlearn = false\n'
    spec = ModelSpec.from_mapping(tomllib.loads(text))
    assert (spec.channels, spec.horizon, spec.interval, spec.learn) == (("load",), 2, 1800, False)


def test_a_spec_cannot_be_changed() -> None:
    spec = ModelSpec.from_mapping(GOOD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.horizon = 2  # type: ignore[misc]  # what is tested: it is frozen


@pytest.mark.parametrize("name", sorted(CHOICES))
def test_every_choice_offered_is_accepted(name: str) -> None:
    needs: dict[str, dict[str, Any]]
    needs = {"regress": {"targets": ["t"]}, "classify": {"classes": ["n", "p"]}}
    needs["cross_entropy"] = {"task": "classify", **needs["classify"]}
    needs["relu"] = needs["identity"] = {"cell": "rnn", "activation": "relu"}
    needs["before"], needs["rtrl"], needs["learned"] = {"cell": "gru"}, {"cell": "lru"}, {"cell": "attention"}
    for value in CHOICES[name]:
        spec = ModelSpec.from_mapping(GOOD | {name: value} | needs.get(value, {}))
        assert getattr(spec, name) == value


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [
        ({"task": "regress"}, "targets"),
        ({"task": "regress", "targets": ["t"], "horizon": 2}, "horizon"),
        ({"task": "regress", "targets": ["t"], "learn_every": 2}, "learn_every"),
        ({"task": "regress", "targets": ["t"], "classes": ["n", "p"]}, "classes"),
        ({"task": "regress", "targets": ["t"], "loss": "cross_entropy"}, "loss"),
        ({"task": "classify"}, "classes"),
        ({"task": "classify", "classes": ["n"]}, "classes"),
        ({"task": "classify", "classes": ["n", "p"], "targets": ["t"]}, "targets"),
        ({"task": "classify", "classes": ["n", "p"], "loss": "mse"}, "loss"),
        ({"task": "classify", "classes": ["n", "p"], "class_weights": [1.0]}, "class_weights"),
        ({"task": "classify", "classes": ["n", "p"], "class_weights": [1.0, 0.0]}, "class_weights"),
        ({"label_horizon": 5}, "label_horizon"),
        ({"rule": "rtrl"}, "rule"),
        ({"rule": "rtrl", "cell": "lru", "layers": 2}, "rule"),
        ({"rule": "rtrl", "cells": ["lru", "gru"]}, "rule"),
        ({"rule": "rtrl", "cell": "lru", "static": ["s"], "categories": ["s:3"]}, "rule"),
        ({"rule": "rtrl", "cell": "mingru", "horizon": 4, "window": 3}, "window"),
        ({"rule": "rtrl", "cell": "mingru", "task": "regress", "targets": ["t"], "window": 8}, "window"),
        *(({"loss": loss, "forecaster": "mixture"}, "loss") for loss in SPREAD_LOSSES),
        *(({"task": "classify", "classes": ["n", "p"], "loss": loss}, "loss") for loss in SPREAD_LOSSES),
        ({"layer_rates": ["head:2"], "freeze": ["head"]}, "layer_rates"),
    ],
)
def test_the_error_names_a_field_that_a_task_needs_or_does_not_use(fields: dict[str, Any], at_fault: str) -> None:
    with pytest.raises(SpecError) as caught:
        ModelSpec.from_mapping(GOOD | fields)
    assert caught.value.field == at_fault


def test_a_task_with_external_labels_has_a_label_horizon_and_forecasts_no_channel() -> None:
    spec = ModelSpec.from_mapping(GOOD | {"task": "classify", "classes": ["n", "p", "q"]})
    assert (spec.outputs, spec.loss, spec.label_horizon, spec.class_weights) == (3, "cross_entropy", 512, (1, 1, 1))
    spec = ModelSpec.from_mapping(GOOD | {"task": "regress", "targets": ["t", "a"]})
    assert (spec.outputs, spec.target_index, spec.loss) == (2, [], "mse")


def test_heads_are_the_most_of_4_that_leave_two_units_each_and_0_without_attention() -> None:
    heads = {
        hidden: ModelSpec(channels=("a",), cell="attention", hidden=hidden).heads for hidden in (1, 3, 4, 6, 8, 64)
    }
    assert heads == {1: 1, 3: 1, 4: 2, 6: 2, 8: 4, 64: 4}
    assert ModelSpec(channels=("a",), cells=("gru", "attention")).heads == 4
    assert ModelSpec(channels=("a",)).heads == 0


def test_a_list_of_cells_determines_cell_and_layers_and_equal_cells_are_written_as_one() -> None:
    spec = ModelSpec.from_mapping(GOOD | {"cells": ["gru", "rnn"]})
    assert (spec.cell, spec.layers, spec.stack) == ("gru", 2, ("gru", "rnn"))
    assert ModelSpec.from_mapping(spec.to_mapping()) == spec
    assert ModelSpec.from_mapping(GOOD | {"cells": ["gru", "gru"]}) == ModelSpec.from_mapping(
        GOOD | {"cell": "gru", "layers": 2}
    )


@pytest.mark.parametrize(
    ("field", "given", "remedy"),
    [
        ("activation", {"cell": "lstm", "activation": "relu"}, "cell lstm has its own"),
        ("activation", {"cell": "gru", "activation": "relu"}, "cell gru has its own"),
        ("reset", {"cell": "lstm", "reset": "before"}, "cell lstm has its own, or none: it is for gru"),
        ("heads", {"cell": "attention", "hidden": 64, "heads": 5}, "they share the hidden units: .*divides 64"),
        ("attention_window", {"cell": "attention", "attention_window": 0}, "give 1 to 1024"),
        ("attention_window", {"cell": "attention", "attention_window": 1025}, "give 1 to 1024"),
        ("heads", {"cell": "gru", "heads": 4}, "cell gru has its own, or none: it is for attention"),
        ("positions", {"cells": ["gru", "rnn"], "positions": "learned"}, "it is for attention"),
        (
            "activation",
            {"cell": "attention", "activation": "relu"},
            "cell attention has its own, or none: it is for rnn",
        ),
        ("init", {"cell": "attention", "init": "orthogonal"}, "cell attention has its own, or none"),
        ("layers", {"cells": ["gru", "rnn"], "layers": 3}, "cells names 2 layers: leave layers out"),
        ("cell", {"cells": ["gru", "rnn"], "cell": "rnn"}, "cells names the cell of each layer: leave cell out"),
        ("layer_norm", {"layer_norm": True}, "it works between layers: give 2 or more layers"),
        ("init", {"cells": ["gru", "rnn"], "init": "identity"}, "identity needs cell rnn .*not gru and rnn"),
        ("init", {"cell": "lstm", "init": "identity"}, "identity needs cell rnn .*not lstm"),
        ("init", {"cell": "rnn", "init": "identity"}, "identity needs cell rnn .*not rnn with tanh"),
        ("weight_decay", {"weight_decay": 0.1}, "adam has none: choose optimizer adamw"),
        ("weight_decay", {"weight_decay": 0.1, "optimizer": "sgd"}, "sgd has none"),
    ],
)
def test_a_setting_that_the_chosen_option_does_not_read_is_refused(field: str, given: Any, remedy: str) -> None:
    with pytest.raises(SpecError, match=remedy) as caught:
        ModelSpec.from_mapping(GOOD | given)
    assert caught.value.field == field


def test_absurdly_many_layers_are_refused_before_anything_is_allocated():
    with pytest.raises(SpecError, match="layers = 1099511627776: give 1 to 8"):
        ModelSpec(channels=("a",), layers=2**40)


def test_a_spec_shows_only_what_differs_from_the_defaults():
    spec = ModelSpec(channels=("load", "temperature"), targets=("load",), hidden=32)
    assert repr(spec) == "ModelSpec(channels=('load', 'temperature'), targets=('load',), hidden=32)"
    assert eval(repr(spec)) == spec


def test_a_spec_with_many_channels_shows_their_number():
    assert repr(ModelSpec(channels=tuple(f"c{i}" for i in range(4096)))) == "ModelSpec(channels=('c0', … 4096))"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, ()),
        ({"interval": 3600.0}, (86_400.0, 604_800.0)),
        ({"interval": 300.0}, (86_400.0,)),  # a week has 2,016 ticks
        ({"interval": 86_400.0}, (604_800.0,)),
        ({"interval": 5.0}, ()),
        ({"interval": 3600.0, "forecaster": "network"}, (86_400.0, 604_800.0)),
        ({"interval": 3600.0, "seasons": [0.0]}, (86_400.0, 604_800.0)),
        ({"interval": 3600.0, "forecaster": "mixture", "seasons": [43_200.0]}, (43_200.0,)),
    ],
)
def test_the_seasons_of_the_baselines_are_the_specs_or_those_of_its_interval(keys, expected):
    assert baseline_seasons(ModelSpec(**(GOOD | keys))) == expected


def test_an_own_readout_needs_a_mixture_one_step_ahead():
    keys = GOOD | {"forecaster": "mixture", "own_readout": True}
    spec = ModelSpec.from_mapping(keys)

    assert spec.own_readout
    assert not spec.as_of(2).own_readout  # as an earlier release meant it: it had no mixture
    with pytest.raises(SpecError, match=r"own_readout = True: it belongs to forecaster mixture: leave it out"):
        ModelSpec.from_mapping(keys | {"forecaster": "network"})
    with pytest.raises(SpecError, match=r"own_readout = True: it learns from the next tick only, so the horizon must"):
        ModelSpec.from_mapping(keys | {"horizon": 2})
