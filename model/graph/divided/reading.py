"""The nodes of a graph in their order: which become arithmetic, and which stay a graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from model.graph.divided.operations import ASKING, FLAGS, statements

WIDEST = 12  # columns of a value that are numbers
MOST = 4  # operations with numbers for each node that they replace: with 5, the whole graph takes as long
FEWEST = 16  # nodes that become arithmetic: for fewer, a second graph is not worth its memory


class Piece(NamedTuple):
    """Columns of a buffer: x, u, state, or given."""

    buffer: str
    start: int
    width: int


@dataclass(slots=True)
class Reading:
    """What is known while the nodes are read in their order."""

    constants: dict[str, Any]  # that are no weights
    pieces: dict[str, Piece]  # values that are columns of an input
    numbers: dict[str, list[str]] = field(default_factory=dict)  # by value: the function's variables, by column
    flags: set[str] = field(default_factory=set)  # those of them that are true or false
    loads: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    taken: int = 0  # nodes in `lines`
    rest: list[Any] = field(default_factory=list)  # nodes of the smaller graph

    @property
    def pays(self) -> bool:
        """Whether the arithmetic takes less time than its nodes."""
        return self.taken >= FEWEST and len(self.lines) <= MOST * self.taken

    def columns(self, name: str) -> list[str] | None:
        """Return the expressions for the columns of a value, None for one that is too wide or of the smaller graph."""
        if name in self.numbers:
            return self.numbers[name]
        constant, piece = self.constants.get(name), self.pieces.get(name)
        if (
            constant is not None
            and constant.dtype == np.float32
            and constant.size == (constant.shape or (1,))[-1] <= WIDEST
        ):
            return [repr(float(value)) for value in constant.reshape(-1)]
        if piece is None or not 0 < piece.width <= WIDEST:
            return None
        self.numbers[name] = made = [f"i{len(self.loads) + i}" for i in range(piece.width)]
        self.loads += [f"{variable} = {piece.buffer}[{piece.start + i}]" for i, variable in enumerate(made)]
        return made

    def read(self, node: Any) -> None:
        """Take the next node."""
        if self._is_copy(node):
            return
        inputs = [columns for columns in map(self.columns, node.input) if columns is not None]
        fits = len(inputs) == len(node.input) and not node.domain
        made = self._computed(node, inputs) if fits else None
        if made is None or (node.op_type in ASKING) != (node.input[0] in self.flags):
            self.rest.append(node)
            return
        self.numbers[node.output[0]] = made
        self.taken += 1
        if node.op_type in FLAGS:
            self.flags.add(node.output[0])

    def _computed(self, node: Any, inputs: list[list[str]]) -> list[str] | None:
        """Return the variables of an elementwise node, or of a Concat; None for another node."""
        if node.op_type == "Concat" and node.attribute[0].i == 1 and sum(map(len, inputs)) <= WIDEST:
            return [column for part in inputs for column in part]
        width = max(map(len, inputs), default=0)
        made, lines = [], []
        for i in range(width):
            made.append(f"v{len(self.lines) + i}")
            found = statements(node, [part[i if len(part) > 1 else 0] for part in inputs], made[-1])
            if found is None:
                return None
            lines.append(found)
        self.lines += lines
        return made or None

    def _is_copy(self, node: Any) -> bool:
        """Take a node that copies columns of an input, or numbers; return whether it is one."""
        given = [self.constants[name].tolist() for name in node.input[1:] if name in self.constants]
        parts = _copied(node, given) if len(given) + 1 == len(node.input) else []
        end = max((max(part) + 1 for part in parts if part), default=0)
        whole, columns = self.pieces.get(node.input[0]) if parts else None, None
        if parts and (whole is None or node.op_type == "Gather"):
            columns = self.columns(node.input[0])
        if columns is not None and 0 < end <= len(columns):
            self.numbers |= {name: [columns[i] for i in part] for name, part in zip(node.output, parts, strict=False)}
            return True
        if whole is None or node.op_type == "Gather" or not 0 < end <= whole.width:
            return False
        for name, part in zip(node.output, parts, strict=False):
            self.pieces[name] = Piece(whole.buffer, whole.start + part[0], len(part))
        return True

    def inputs(self, made: set[str], constants: set[str]) -> tuple[dict[str, Piece], list[str]]:
        """Return what the smaller graph reads, and the statements that store its numbers. made: its own values."""
        inputs: dict[str, Piece] = {}
        stores: list[str] = []
        for name in dict.fromkeys(name for node in self.rest for name in node.input):
            if not name or name in made or name in constants:
                continue
            if name not in self.pieces:
                numbers = self.numbers[name]
                self.pieces[name] = Piece("given", len(stores), len(numbers))
                stores += [f"given[{len(stores) + i}] = {number}" for i, number in enumerate(numbers)]
            inputs[name] = self.pieces[name]
        return inputs, stores


def _copied(node: Any, given: list[Any]) -> list[Any]:
    """Return the columns that each output of a node copies; none for a node that does something else."""
    axes = [a.i for a in node.attribute if a.name == "axis"]
    if node.op_type == "Split" and axes == [1] and len(given) == 1:
        ends = np.cumsum([0, *given[0]]).tolist()
        return [range(start, end) for start, end in pairwise(ends)]
    if node.op_type == "Gather" and axes == [1] and isinstance(given[0], list) and min(given[0], default=-1) >= 0:
        return [given[0]]
    if node.op_type == "Slice" and given[2:] in ([[1]], [[1], [1]]) and 0 <= given[0][0] < given[1][0]:
        return [range(given[0][0], given[1][0])]
    return []
