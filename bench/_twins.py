"""The same training step as users of PyTorch and of JAX write it, for the cells that both libraries have.

Neither library is a dependency: a benchmark takes what is installed, and says how to install the rest.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from bench._steps import CLIP, RATE, Point, Step

TWINS = ("rnn", "gru", "lstm")  # cells that both libraries have
INSTALL = 'python -m pip install -e ".[bench]", in .venv'
# XLA reads its flags when it starts.
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"


def library(name: str) -> Any:
    """Return PyTorch or JAX limited to one thread, or None, with a printed remedy, if it is not installed."""
    os.environ.setdefault("NPROC", "1")  # size of XLA's pool of threads
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
    try:
        module = importlib.import_module(name)
    except ImportError:
        print(f"{name} is not installed, and its columns are left out: {INSTALL}", file=sys.stderr)
        return None
    if name == "torch":
        module.set_num_threads(1)
    return module


def torch_step(torch: Any, name: str, point: Point, layers: int) -> Step:
    """Return the step in eager PyTorch: its own cell, its own clip, and fused Adam."""
    B, T, I, H = point  # noqa: E741
    torch.manual_seed(0)
    kind = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[name]
    cell, head = kind(I, H, num_layers=layers), torch.nn.Linear(H, I)
    params = [*cell.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(params, lr=RATE, fused=True)
    X, Y, loss_of = torch.randn(T, B, I), torch.randn(T, B, I), torch.nn.MSELoss()

    def step() -> float:
        optimizer.zero_grad()
        loss = loss_of(head(cell(X)[0]), Y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, CLIP)
        optimizer.step()
        return float(loss.item())

    return step


def jax_step(jax: Any, name: str, point: Point, layers: int) -> Step:
    """Return the step in JAX: cells as lax.scan, clip and Adam over the tree of parameters, all in one jit."""
    B, T, I, H = point  # noqa: E741
    jnp, rng = jax.numpy, np.random.default_rng(0)
    cell, gates, states = _jax_cells(jax)[name]

    def draw(*shape: int) -> Any:
        return jnp.asarray(rng.uniform(-1, 1, shape) / np.sqrt(H), jnp.float32)

    stack = [(draw(H if i else I, gates * H), draw(H, gates * H), draw(gates * H), draw(H)) for i in range(layers)]
    X, Y = (jnp.asarray(rng.standard_normal((T, B, I)), jnp.float32) for _ in range(2))

    def loss_of(params: Any) -> Any:
        stack, (W, b) = params
        seen = X
        for layer in stack:
            start = (jnp.zeros((B, H), jnp.float32),) * states
            _, seen = jax.lax.scan(lambda state, x, layer=layer: cell(layer, state, x), start, seen)
        return jnp.mean((seen @ W + b - Y) ** 2)

    update = jax.jit(_jax_update(jax, loss_of), donate_argnums=0)
    params = (stack, (draw(H, I), draw(I)))
    zeros = jax.tree.map(jnp.zeros_like, params)
    kept = [(params, zeros, jax.tree.map(jnp.zeros_like, params), jnp.float32(0))]

    def step() -> float:
        kept[0], loss = update(kept[0])
        return float(loss)

    return step


def _jax_cells(jax: Any) -> dict[str, tuple[Callable[..., Any], int, int]]:
    """Return each cell's step, (layer, state, x) → (state, h); its gates; and the parts of its state."""
    jnp, sigmoid = jax.numpy, jax.nn.sigmoid

    def rnn(layer: Any, state: Any, x: Any) -> Any:
        W, U, b, _ = layer
        h = jnp.tanh(x @ W + state[0] @ U + b)
        return (h,), h

    def gru(layer: Any, state: Any, x: Any) -> Any:
        W, U, b, b_n = layer
        (h,) = state
        (r, z, n), (u_r, u_z, u_n) = jnp.split(x @ W + b, 3, axis=1), jnp.split(h @ U, 3, axis=1)
        z, n = sigmoid(z + u_z), jnp.tanh(n + sigmoid(r + u_r) * (u_n + b_n))
        h = n + z * (h - n)
        return (h,), h

    def lstm(layer: Any, state: Any, x: Any) -> Any:
        W, U, b, _ = layer
        h, c = state
        i, f, g, o = jnp.split(x @ W + h @ U + b, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return {"rnn": (rnn, 1, 1), "gru": (gru, 3, 1), "lstm": (lstm, 4, 2)}


def _jax_update(jax: Any, loss_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a function (params, m, v, count) → (the same after one step of Adam on the clipped gradient), loss."""
    jnp, tree = jax.numpy, jax.tree

    def update(kept: Any) -> Any:
        params, m, v, count = kept
        loss, grad = jax.value_and_grad(loss_of)(params)
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in tree.leaves(grad)))
        grad = tree.map(lambda g: g * jnp.minimum(1, CLIP / norm), grad)
        count = count + 1
        m = tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grad)
        v = tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grad)

        def moved(p: Any, m: Any, v: Any) -> Any:
            return p - RATE * m / (1 - 0.9**count) / (jnp.sqrt(v / (1 - 0.999**count)) + 1e-8)

        return (tree.map(moved, params, m, v), m, v, count), loss

    return update
