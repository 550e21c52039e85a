"""Overload decisions (DESIGN R6): plain functions of what is measured."""

from __future__ import annotations

MAX_THINNING = 1024


def learn_every(backlog: int, comfortable: int) -> int:
    """How thinly the trainer should learn: 1 while its backlog of entries is comfortable, then doubling with it."""
    n = 1
    while backlog > comfortable * n and n < MAX_THINNING:
        n *= 2
    return n
