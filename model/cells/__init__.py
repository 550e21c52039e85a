"""Recurrent cells by name. Forward and backward of a cell are in one file; the contract tests run over all of them.

Knows no scaler, no loss and no learning rule.
"""

from collections.abc import Callable

from model.cells.attention import Block
from model.cells.between import Between
from model.cells.contract import Cell
from model.cells.gru import GRU
from model.cells.gru_before import GRUBefore
from model.cells.init import Init
from model.cells.lru import LRU
from model.cells.lstm import LSTM
from model.cells.mingru import MinGRU
from model.cells.rnn import RNN
from model.spec import ModelSpec

# (inputs, hidden, spec) → cell; a cell reads from the spec only the fields that it has (`CELL_FIELDS`)
CELLS: dict[str, Callable[[int, int, ModelSpec], Cell]] = {
    "lstm": lambda inputs, hidden, spec: LSTM(inputs, hidden, _init(spec)),
    "gru": lambda inputs, hidden, spec: (GRU if spec.reset == "after" else GRUBefore)(inputs, hidden, _init(spec)),
    "rnn": lambda inputs, hidden, spec: RNN(inputs, hidden, spec.activation, _init(spec)),
    "lru": lambda inputs, hidden, spec: LRU(inputs, hidden, spec.init_gain),
    "mingru": lambda inputs, hidden, spec: MinGRU(inputs, hidden, _init(spec)),
    "attention": lambda inputs, hidden, spec: Block(
        inputs, hidden, spec.attention_window, spec.heads, spec.positions == "rotary"
    ),
}


def _init(spec: ModelSpec) -> Init:
    return Init(spec.init, spec.init_gain)


def unrolled(cell: Cell, ticks: int) -> int:
    """Return the size of a cell's tape for one row of a window, in units of what a hidden unit of an LSTM takes."""
    inner = cell.cell if isinstance(cell, Between) else cell
    return inner.unrolled(ticks) if isinstance(inner, Block) else ticks * cell.hidden


def ring(cell: Cell) -> int:
    """Return how many numbers of a cell's state one step reads and copies, beside a few per hidden unit."""
    inner = cell.cell if isinstance(cell, Between) else cell
    return inner.state_size if isinstance(inner, Block) else 0


def stacked(spec: ModelSpec, inputs: int) -> list[Cell]:
    """Return the cell of each layer, for `inputs` features of a tick."""
    first, *others = spec.stack
    cells = [CELLS[first](inputs, spec.hidden, spec)]
    for name in others:
        cell = CELLS[name](spec.hidden, spec.hidden, spec)
        plain = not (spec.layer_norm or spec.residual)
        cells.append(cell if plain else Between(cell, spec.layer_norm, spec.residual))
    return cells
