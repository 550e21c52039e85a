"""Compare losses and gradients of every cell and loss with PyTorch's automatic differentiation, in float64.

Our side is `model.update.bptt.gradient` on a batch with masks; the other side is PyTorch's own cell and loss on the
same flat vector of weights, whose gradient then has our layout. A row holds if the largest difference, relative to the
largest element, is at most 1e-5. `bench/_oracles.py` has the table of cells and losses.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from bench.report import Row, finish, one_blas_thread, parser

one_blas_thread()

import numpy as np  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)

from bench._oracles import CELLS, LOSSES, Cell, Loss  # noqa: E402
from bench._twins import library  # noqa: E402
from model.network import Network  # noqa: E402
from model.spec import ModelSpec  # noqa: E402
from model.update.bptt import Batch, gradient, labelled  # noqa: E402

ASKED = 1e-5
T, B, H = 9, 3, 5


def draw(network: Network, seed: int) -> tuple[Any, Batch]:
    """Return weights [n] float64 without a zero, and a batch with labels at some positions of every row."""
    rng, outputs = np.random.default_rng(seed), network.spec.outputs
    flat = rng.normal(0, 0.5, network.layout.size)
    weight = (rng.random((T, B, outputs)) < 0.5).astype(np.float64)
    weight[-2] = 1
    Y = rng.normal(0, 1, (T, B, outputs))
    if network.spec.classes:
        Y = np.eye(outputs)[rng.integers(0, outputs, (T, B))]
    start = rng.normal(0, 0.5, (B, network.hidden_size))
    return flat, Batch(start, rng.normal(0, 1, (T, B, network.features)), Y, weight)


def theirs(torch: Any, network: Network, flat: Any, batch: Batch, run: Cell, loss_of: Loss) -> tuple[float, Any, Any]:
    """Return loss, forecasts and gradient [n] as PyTorch computes them."""
    theta = torch.tensor(flat, requires_grad=True)
    named, start = {}, 0
    for name, shape in network.layout.shapes.items():
        size = int(np.prod(shape))
        named[name] = theta[start : start + size].reshape(shape)
        start += size
    X, Y, weight, state = (torch.tensor(a) for a in (batch.X, batch.Y, batch.weight, batch.start))
    seen, sizes = X, [cell.state_size for cell in network.cells]
    for i, part in enumerate(state.split(sizes, dim=1)):
        layer = {name.split(".")[1]: value for name, value in named.items() if name.startswith(f"cell{i}.")}
        read = torch.nn.functional.layer_norm(seen, seen.shape[-1:], *layer["norm"]) if "norm" in layer else seen
        H = run(torch, network.spec, layer, read, part)
        seen = H + seen if network.spec.residual and i else H
    W, n = named["head.W"], network.spec.hidden
    p = seen @ W[:, :n].T + X @ W[:, n:-1].T + W[:, -1]
    loss = loss_of(torch, network.spec, p, Y, weight) / batch.weight.any(axis=(0, 2)).sum()
    loss.backward()
    return float(loss.detach()), p.detach().numpy(), theta.grad.numpy()


def compared(torch: Any, fields: dict[str, Any], run: Cell, loss_of: Loss, seed: int) -> tuple[float, float]:
    """Return the largest relative difference of the values (forecasts and loss) and of the gradients."""
    network = Network(ModelSpec(**{"hidden": H, "window": T, **fields}))
    flat, batch = draw(network, seed)
    weights, grad = network.weights(flat), network.weights(np.empty_like(flat))
    loss, p, (t0, t1) = gradient(network, weights, batch, network.tape(T, B, np.float64), grad)
    wanted, q, dtheta = theirs(torch, network, flat, batch, run, loss_of)
    assert (t0, t1) == labelled(batch.weight)
    value = max(abs(loss - wanted) / abs(wanted), relative(p, q[t0:t1]))
    parts = network.layout.layers().values()
    return value, max(relative(grad.flat[part], dtheta[part]) for part in parts if np.any(dtheta[part]))


def relative(ours: Any, wanted: Any) -> float:
    """Return the largest difference relative to the largest element."""
    return float(np.abs(ours - wanted).max() / np.abs(wanted).max())


def rows(torch: Any, cells: Sequence[str], seeds: int) -> Iterator[Row]:
    """Yield two rows for each cell, loss and number of layers."""
    for cell in cells:
        of_cell, run = CELLS[cell]
        for loss, (of_loss, loss_of) in LOSSES.items():
            for layers in (1, 2):
                fields = {**of_loss, **of_cell, "layers": layers}
                try:
                    ModelSpec(**{"hidden": H, "window": T, **fields})
                except (TypeError, ValueError) as error:  # this version does not have it
                    print(f"{cell} {layers}, {loss} is left out: {error}", file=sys.stderr)
                    continue
                pairs = [compared(torch, fields, run, loss_of, seed) for seed in range(seeds)]
                value, grad = (max(found) for found in zip(*pairs, strict=True))
                yield Row(f"{cell} {layers}, {loss}", "largest difference of values", value, "ratio", ASKED)
                yield Row(f"{cell} {layers}, {loss}", "largest difference of gradients", grad, "ratio", ASKED)


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print the rows, and return 1 if one disagrees or 2 if PyTorch is not installed."""
    options = parser(__doc__)
    options.add_argument("--only", nargs="+", metavar="CELL", default=list(CELLS), choices=list(CELLS))
    options.add_argument("--seeds", type=int, default=3)
    arguments = options.parse_args(argv)
    torch = library("torch")
    return 2 if torch is None else finish(list(rows(torch, arguments.only, arguments.seeds)), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
