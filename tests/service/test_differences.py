"""What is said of two specs that differ: every key by name, both values as far as they fit."""

import pytest

from model.spec import ModelSpec
from service.publishing.differences import CHARACTERS, differences


def spec(**keys):
    return ModelSpec(**({"channels": ("a", "b")} | keys))


@pytest.mark.parametrize(
    ("there", "here", "text"),
    [
        ({"interval": 1800.0}, {"interval": 3600.0}, "interval = 1800.0 there, 3600.0 here"),
        ({"cell": "gru"}, {}, "cell = 'gru' there, 'lstm' here"),
        ({"learn": False}, {}, "learn = False there, True here"),
        ({"targets": ("a",)}, {}, "targets = ['a'] there, ['a', 'b'] here"),
        ({"clip": 2.0, "seed": 1}, {}, "clip = 2.0 there, 1.0 here; seed = 1 there, 0 here"),
    ],
)
def test_each_key_that_differs_is_named_with_both_values(there, here, text):
    assert differences(spec(**there), spec(**here)) == text


def test_of_long_lists_the_first_item_that_differs_is_named():
    names = [f"channel-{i}" for i in range(100)]
    there = spec(channels=names, targets=names[:1])
    here = spec(channels=[*names[:50], "other", *names[51:]], targets=names[:1])

    assert differences(there, here) == "channels[50] = 'channel-50' there, 'other' here"
    assert "channels has 100 items there, 99 here" in differences(there, spec(channels=names[:99], targets=names[:1]))


def test_many_differences_are_all_named_and_stay_short():
    there = spec(channels=[c * 200 for c in "abcdef"], targets=["a" * 200])
    here = spec(
        channels=[c * 200 for c in "uvwxyz"], targets=["u" * 200], horizon=4, interval=1.0, max_gap=9.0, cell="gru",
        layers=2, hidden=7, init="orthogonal", init_gain=3.0, window=99, learn_every=3, loss="huber", huber_delta=2.0,
        optimizer="adamw", schedule="cosine", warmup=5, schedule_updates=6, freeze=["head"], clip=4.0, seed=5,
        scaler="standard", head_init=0.5, missing="hold", learning_rate=0.5, drift_reaction="raise", drift_raise=2.0,
    )  # fmt: skip

    text = differences(there, here)

    named = {key for key in here.to_mapping() if getattr(here, key) != getattr(there, key)}
    assert len(named) > 25
    assert all(key in text for key in named)
    assert len(text) <= CHARACTERS + sum(len(key) + 2 for key in named)
