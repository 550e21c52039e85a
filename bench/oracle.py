"""Compare losses and gradients of every cell and loss with PyTorch's automatic differentiation, in float64.

Our side is `model.update.bptt.gradient` on a batch with masks; the other side is PyTorch's own cell and loss on the
same flat vector of weights, whose gradient then has our layout. A row holds if the largest difference, relative to the
largest element, is at most 1e-5. `CELLS` and `LOSSES` are tables: a new cell or loss adds an entry.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.report import Row, finish, one_blas_thread, parser

one_blas_thread()

import numpy as np  # noqa: E402  (BLAS reads its thread count when NumPy is first imported)

from bench._twins import library  # noqa: E402
from model.network import Network  # noqa: E402
from model.spec import ModelSpec  # noqa: E402
from model.update.bptt import Batch, gradient, labelled  # noqa: E402

ASKED = 1e-5
T, B, H = 9, 3, 5
# (torch, spec, layer's parameters, X [T, B, inputs], state [B, state_size]) → H [T, B, hidden]
Cell = Callable[[Any, ModelSpec, dict[str, Any], Any, Any], Any]
# (torch, spec, p [T, B, O], y, weight) → loss summed over outputs and positions
Loss = Callable[[Any, ModelSpec, Any, Any, Any], Any]


def lstm(torch: Any, spec: ModelSpec, layer: dict[str, Any], X: Any, state: Any) -> Any:
    """torch.lstm. Our rows o|i|f|g become i|f|g|o; our columns are h|x|1."""
    W, n = torch.roll(layer["W"], -spec.hidden, 0), spec.hidden
    weights = [W[:, n:-1], W[:, :n], W[:, -1], torch.zeros_like(W[:, -1])]
    h, c = (part[None].contiguous() for part in state.split(n, dim=1))
    return torch.lstm(X, (h, c), weights, True, 1, 0.0, True, False, False)[0]


def gru(torch: Any, spec: ModelSpec, layer: dict[str, Any], X: Any, state: Any) -> Any:
    """torch.gru. Our recurrent rows hn|r|z become r|z|n; columns h|1. Input rows are r|z|n in both."""
    U = torch.roll(layer["U"], -spec.hidden, 0)
    own = torch.cat([torch.zeros(2 * spec.hidden, dtype=U.dtype), layer["b"]])
    return torch.gru(X, state[None], [layer["W"], U[:, :-1], own, U[:, -1]], True, 1, 0.0, True, False, False)[0]


def gru_before(torch: Any, spec: ModelSpec, layer: dict[str, Any], X: Any, state: Any) -> Any:
    """A loop: PyTorch has no GRU that resets before the product. Rows are r|z|n; the last column of W is the bias."""
    U, W, n, h, seen = layer["U"], layer["W"], 2 * spec.hidden, state, []
    for x in X @ W[:, :-1].T + W[:, -1]:
        r, z = torch.sigmoid(x[:, :n] + h @ U[:n].T).chunk(2, dim=1)
        candidate = torch.tanh(x[:, n:] + (r * h) @ U[n:].T)
        h = candidate + z * (h - candidate)
        seen.append(h)
    return torch.stack(seen)


def rnn(torch: Any, spec: ModelSpec, layer: dict[str, Any], X: Any, state: Any) -> Any:
    """torch.rnn_tanh or torch.rnn_relu; our columns are h|x|1."""
    W, n = layer["W"], spec.hidden
    weights = [W[:, n:-1], W[:, :n], W[:, -1], torch.zeros_like(W[:, -1])]
    run = {"tanh": torch.rnn_tanh, "relu": torch.rnn_relu}[spec.activation]
    return run(X, state[None], weights, True, 1, 0.0, True, False, False)[0]


def mse(torch: Any, spec: ModelSpec, p: Any, y: Any, weight: Any) -> Any:
    """Half the squared error."""
    return (0.5 * weight * torch.nn.functional.mse_loss(p, y, reduction="none")).sum()


def huber(torch: Any, spec: ModelSpec, p: Any, y: Any, weight: Any) -> Any:
    """PyTorch's huber_loss has the same scale as ours."""
    return (weight * torch.nn.functional.huber_loss(p, y, reduction="none", delta=spec.huber_delta)).sum()


def cross_entropy(torch: Any, spec: ModelSpec, p: Any, y: Any, weight: Any) -> Any:
    """PyTorch's cross_entropy with probabilities as labels, one class per position, and class weights."""
    flat, classes = (a.reshape(-1, a.shape[-1]) for a in (p, y))
    by_class = torch.tensor(spec.class_weights, dtype=p.dtype)
    each = torch.nn.functional.cross_entropy(flat, classes, weight=by_class, reduction="none")
    return (each * weight.amax(dim=-1).reshape(-1)).sum()


# Name of a row → the spec's fields, and the twin.
CELLS: dict[str, tuple[dict[str, Any], Cell]] = {
    "rnn": ({"cell": "rnn"}, rnn),
    "rnn relu": ({"cell": "rnn", "activation": "relu"}, rnn),
    "gru": ({"cell": "gru"}, gru),
    "gru before": ({"cell": "gru", "reset": "before"}, gru_before),
    "lstm": ({"cell": "lstm"}, lstm),
}
FORECAST: dict[str, Any] = {"channels": ("a", "b"), "scaler": "none", "forecaster": "network"}
LOSSES: dict[str, tuple[dict[str, Any], Loss]] = {
    "mse": ({**FORECAST, "loss": "mse"}, mse),
    "huber": ({**FORECAST, "loss": "huber", "huber_delta": 0.5}, huber),
    "cross_entropy": (
        {
            "channels": ("a", "b"),
            "scaler": "none",
            "task": "classify",
            "classes": ("u", "v", "w"),
            "class_weights": (1.0, 2.0, 0.5),
        },
        cross_entropy,
    ),
}


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
        seen = run(torch, network.spec, layer, seen, part)
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
