"""What a user says about a file of weights: names, order of gates, units. Parsed from TOML, checked once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from model.foreign.layers import GATES, ORDERS
from model.foreign.refused import ForeignError, names
from model.parameters import Array

FORMATS = ("pytorch", "keras")
PREDICTS = ("value", "change")
# Names of a layer's tensors, put in place of the * of its pattern. Keras keeps the biases of a GRU in one tensor.
NAMES = {
    "pytorch": {
        "input": "weight_ih", "recurrent": "weight_hh", "input_bias": "bias_ih", "recurrent_bias": "bias_hh",
        "head": "weight", "head_bias": "bias",
    },
    "keras": {"input": "kernel", "recurrent": "recurrent_kernel", "input_bias": "bias", "head": "kernel",
              "head_bias": "bias"},
}  # fmt: skip
MOST_NAMES = 4096


@dataclass(frozen=True, kw_only=True)
class Options:
    """Keys of IMPORT.toml. Raises ForeignError, which names the key, its value and the remedy."""

    format: str = "pytorch"  # pytorch: weights [G·H, I]; keras: kernels [I, G·H]
    cell: str = ""  # lstm, gru or rnn
    layers: tuple[str, ...] = ()  # names of each layer's tensors; * stands for weight_ih, kernel …
    head: str = ""  # names of the readout's tensors; without it, the hidden state is the answer
    bias: bool = True  # whether the layers have biases
    head_bias: bool = True
    gates: tuple[str, ...] = ()  # order of the blocks, if it is not the format's
    names: Mapping[str, str] = field(default_factory=dict)  # other names in place of *
    ignore: tuple[str, ...] = ()  # tensors to leave out; * stands for any text
    input_mean: tuple[float, ...] = ()  # of each channel: the network was trained on (x - mean) / std
    input_std: tuple[float, ...] = ()
    output_mean: tuple[float, ...] = ()  # of each target: an answer is mean + std · output
    output_std: tuple[float, ...] = ()
    time_first: bool = False  # of the arrays in --check: [T, B, I], not [B, T, I]
    predicts: str = "value"  # of task forecast: the target's future value, or its change from now
    model: Mapping[str, Any] = field(default_factory=dict)  # keys of the spec

    def __post_init__(self) -> None:
        for key in ("layers", "gates", "ignore", "input_mean", "input_std", "output_mean", "output_std"):
            value = getattr(self, key)
            kind, what = ((int, float), "numbers") if "put_" in key else ((str,), "texts")
            wrong = not isinstance(value, list | tuple) or len(value) > MOST_NAMES
            if wrong or not all(isinstance(v, kind) and not isinstance(v, bool) for v in value):
                raise ForeignError(key, value, f"give a list of {what}")
            object.__setattr__(self, key, tuple(value))
        for key in ("bias", "head_bias", "time_first"):
            if not isinstance(getattr(self, key), bool):
                raise ForeignError(key, getattr(self, key), "give true or false")
        for key, choices in (("format", FORMATS), ("predicts", PREDICTS), ("cell", ("", *GATES))):
            if getattr(self, key) not in choices:
                raise ForeignError(key, getattr(self, key), f"choose one of {names([c for c in choices if c])}")
        for key in ("names", "model"):
            if not isinstance(getattr(self, key), Mapping):
                raise ForeignError(key, getattr(self, key), "give a table of keys")
        self._check_names()
        self._check_units()

    def _check_names(self) -> None:
        known = NAMES[self.format]
        for key, value in self.names.items():
            if key not in known or not isinstance(value, str):
                raise ForeignError(f"names.{key}", value, f"known names are {names(list(known))}, each a text")
        for key, patterns in (("layers", self.layers), ("head", (self.head,) if self.head else ())):
            for pattern in patterns:
                if not isinstance(pattern, str) or pattern.count("*") != 1:
                    raise ForeignError(key, pattern, "write * once, where the tensors differ: rnn.*_l0, head.*")
        if self.gates and self.cell and sorted(self.gates) != sorted(GATES[self.cell]):
            raise ForeignError("gates", names(self.gates), f"order the letters {names(list(GATES[self.cell]))}")

    def _check_units(self) -> None:
        for side in ("input", "output"):
            mean, std = getattr(self, f"{side}_mean"), getattr(self, f"{side}_std")
            if len(mean) != len(std):
                raise ForeignError(f"{side}_std", std, f"give as many as in {side}_mean, {len(mean)}")
            if not np.isfinite([*mean, *std]).all() or any(not abs(value) < 1e15 for value in (*mean, *std)):
                raise ForeignError(f"{side}_mean", [*mean, *std], "give finite numbers below 1e15")
            if any(not value > 1e-12 for value in std):
                raise ForeignError(f"{side}_std", std, "give numbers above 1e-12")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Options:
        """Return the options in a parsed TOML file. Raises ForeignError, also for an unknown key."""
        known = [field.name for field in fields(cls)]
        for key in mapping:
            if key not in known:
                [near] = difflib.get_close_matches(str(key), known, n=1) or [""]
                meant = f"did you mean {near}? " if near else ""
                remedy = f"unknown key; {meant}known are {', '.join(known)}; the spec's go into the table [model]"
                raise ForeignError(str(key), mapping[key], remedy)
        return cls(**mapping)

    @property
    def order(self) -> str:
        """Letters of the gates in the order of their blocks."""
        return "".join(self.gates) or ORDERS[self.format][self.cell]

    def name(self, pattern: str, part: str) -> str:
        """Return the name of a tensor. part: a key of NAMES."""
        return pattern.replace("*", self.names.get(part, NAMES[self.format][part]))

    def units(self, side: str, size: int) -> tuple[Array, Array] | None:
        """Return mean and deviation [size] float64 of the inputs or outputs; None if there are none."""
        mean, std = (np.array(getattr(self, f"{side}_{what}"), np.float64) for what in ("mean", "std"))
        if not mean.size:
            return None
        if mean.size != size:
            raise ForeignError(f"{side}_mean", f"{mean.size} numbers", f"give {size}, one for each {side}")
        return mean, std
