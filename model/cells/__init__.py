"""Recurrent cells by name. Forward and backward of a cell are in one file; the contract tests run over all of them.

Knows no scaler, no loss and no learning rule.
"""

from collections.abc import Callable

from model.cells.contract import Cell
from model.cells.gru import GRU
from model.cells.init import Init
from model.cells.lstm import LSTM
from model.cells.rnn import RNN
from model.spec import ModelSpec

# (inputs, hidden, spec) → cell; a cell reads from the spec only the fields that it has
CELLS: dict[str, Callable[[int, int, ModelSpec], Cell]] = {
    "lstm": lambda inputs, hidden, spec: LSTM(inputs, hidden, _init(spec)),
    "gru": lambda inputs, hidden, spec: GRU(inputs, hidden, _init(spec)),
    "rnn": lambda inputs, hidden, spec: RNN(inputs, hidden, spec.activation, _init(spec)),
}


def _init(spec: ModelSpec) -> Init:
    return Init(spec.init, spec.init_gain)
