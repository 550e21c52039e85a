"""Operations of a graph as statements of Python, for one number.

They round to float32 after each operation, as the graph does: a float64 has so many digits that rounding twice changes
nothing for + − · / and √ (Figueroa 1995, ACM SIGNUM 30(3)).
"""

from __future__ import annotations

from typing import Any

import numpy as np

# Statements that set {v} from the inputs {0}, {1} …; what is put into r[0] is rounded.
STATEMENTS = {
    "Add": "r[0] = {0} + {1}; {v} = r[0]",
    "Sub": "r[0] = {0} - {1}; {v} = r[0]",
    "Mul": "r[0] = {0} * {1}; {v} = r[0]",
    "Div": "r[0] = {0} / {1} if {1} else {0} * copysign(inf, {1}); {v} = r[0]",
    "Sqrt": "r[0] = sqrt({0}); {v} = r[0]",
    "Reciprocal": "r[0] = 1.0 / {0}; {v} = r[0]",
    "Softsign": "r[0] = 1.0 + abs({0}); r[0] = 1.0 / r[0]; r[0] = r[0] * {0}; {v} = r[0]",
    "HardSigmoid": "r[0] = {0} * {alpha!r}; r[0] = r[0] + {beta!r}; {v} = r[0]; "
    "{v} = 1.0 if {v} > 1.0 else 0.0 if {v} < 0.0 else {v}",
    "Abs": "{v} = abs({0})",
    "Neg": "{v} = -{0}",
    "Clip": "{v} = {1} if {0} < {1} else {2} if {0} > {2} else {0}",
    "Max": "{v} = {0} if {0} > {1} else {1}",
    "Min": "{v} = {0} if {0} < {1} else {1}",
    "IsNaN": "{v} = {0} != {0}",
    "Not": "{v} = not {0}",
    "Where": "{v} = {1} if {0} else {2}",
    "Cast": "{v} = 1.0 if {0} else 0.0",
}
LARGER = "{v} = {0} if {0} > {v} else {v}"  # for each further input of a Max
FLAGS, ASKING = ("IsNaN", "Not"), ("Not", "Where", "Cast")  # what makes true or false of its input, and what reads it


def statements(node: Any, inputs: list[Any], variable: str) -> str | None:
    """Return the statements of a node, None for one of another kind.

    node: as in a graph; inputs: expressions; variable: the name of the result.
    """
    kind = node.op_type
    arity = {"Clip": 3, "Where": 3}.get(kind, 2 if "{1}" in STATEMENTS.get(kind, "") else 1)
    if kind not in STATEMENTS or len(inputs) < arity or (len(inputs) > arity and kind != "Max"):
        return None
    given = {"alpha": 0.2, "beta": 0.5} | {a.name: float(np.float32(a.f)) for a in node.attribute}
    first = STATEMENTS[kind].format(*inputs, v=variable, alpha=given["alpha"], beta=given["beta"])
    return "; ".join([first, *(LARGER.format(more, v=variable) for more in inputs[arity:])])
