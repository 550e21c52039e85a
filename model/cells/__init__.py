"""The recurrent cells by name. A new cell is one file and one line here; the contract suite finds it by itself."""

from collections.abc import Callable

from model.cell import Cell
from model.cells.gru import GRU
from model.cells.lstm import LSTM
from model.cells.rnn import RNN
from model.init import Init
from model.spec import ModelSpec

# inputs, hidden, and the spec, of which a cell takes what concerns it
CELLS: dict[str, Callable[[int, int, ModelSpec], Cell]] = {
    "lstm": lambda inputs, hidden, spec: LSTM(inputs, hidden, _init(spec)),
    "gru": lambda inputs, hidden, spec: GRU(inputs, hidden, _init(spec)),
    "rnn": lambda inputs, hidden, spec: RNN(inputs, hidden, spec.activation, _init(spec)),
}


def _init(spec: ModelSpec) -> Init:
    return Init(spec.init, spec.init_gain)
