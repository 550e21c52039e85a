"""References for training on labels from outside: answers without recurrence, fitted to the same training ticks."""

from __future__ import annotations

import numpy as np

from model.network import Network
from model.offline.recorded import Recorded
from model.parameters import Array

RIDGE = 1e-3  # of the features' mean square: keeps the solution finite when columns are collinear


def references(network: Network, recorded: Recorded, train_ticks: int) -> dict[str, Array]:
    """Return p [N − train_ticks, O] of the ticks after the training ticks, by name of the reference.

    Task regress: "mean", the labels' mean, and "linear", least squares on the features of the same tick. Task classify:
    "frequency", the classes' frequencies. recorded: as `scale_labels` returns it.
    """
    ticks = len(recorded.X) - train_ticks
    Y, weight = recorded.Y[:train_ticks].astype(np.float64), recorded.weight[:train_ticks].astype(np.float64)
    if network.spec.task == "classify":
        counts = Y[weight.any(axis=1)].sum(axis=0) + 1  # so that no class has probability 0
        return {"frequency": np.tile(np.log(counts / counts.sum()).astype(np.float32), (ticks, 1))}
    mean = (Y * weight).sum(axis=0) / np.maximum(weight.sum(axis=0), 1)
    made = {"mean": np.tile(mean.astype(np.float32), (ticks, 1)), "linear": np.zeros((ticks, Y.shape[1]), np.float32)}
    Z = np.concatenate([recorded.X, np.ones((len(recorded.X), 1))], axis=1, dtype=np.float64)
    for o in range(Y.shape[1]):
        made["linear"][:, o] = Z[train_ticks:] @ _ridge(Z[:train_ticks][weight[:, o] > 0], Y[weight[:, o] > 0, o])
    return made


def _ridge(Z: Array, y: Array) -> Array:
    """Return ridge-regression weights [n] of rows Z [N, n] for y [N]; zeros without rows."""
    n = Z.shape[1]
    A = Z.T @ Z
    solution: Array = np.linalg.solve(A + (RIDGE * np.trace(A) / n + 1e-12) * np.eye(n), Z.T @ y)
    return solution
