"""Every cell and loss as PyTorch computes it, on our parameters: the twins of `bench.oracle`.

`CELLS` and `LOSSES` are tables: a new cell or loss adds a function and an entry. A twin uses PyTorch's own function
where there is one, and permutes our rows and columns for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from model.spec import ModelSpec

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


def lru(torch: Any, spec: ModelSpec, layer: dict[str, Any], X: Any, state: Any) -> Any:
    """A loop over complex states, λ = exp(−2⁻²⁰ − exp(ν) + iθ), γ = √(1 − |λ|²); columns of W are re|im|x|1."""
    n, W = spec.hidden, layer["W"]
    rate = torch.exp(layer["nu"].clamp(-40, 2)) + 2.0**-20
    turn = torch.polar(torch.exp(-rate), layer["theta"])
    inputs = torch.complex(layer["B"][:n], layer["B"][n:]) * torch.sqrt(1 - torch.exp(-2 * rate))[:, None]
    s, seen = torch.complex(state[:, :n], state[:, n:]), []
    for x in X:
        s = turn * s + x.to(s.dtype) @ inputs.T
        seen.append(torch.relu(torch.cat([s.real, s.imag, x], dim=1) @ W[:, :-1].T + W[:, -1]))
    return torch.stack(seen)


def mingru(torch: Any, spec: ModelSpec, layer: dict[str, Any], X: Any, state: Any) -> Any:
    """A loop; rows are z|n, the last column of W is the bias."""
    W, h, seen = layer["W"], state, []
    for x in X @ W[:, :-1].T + W[:, -1]:
        z, n = x.chunk(2, dim=1)
        h = torch.lerp(h, n, torch.sigmoid(z))
        seen.append(h)
    return torch.stack(seen)


def attention(torch: Any, spec: ModelSpec, layer: dict[str, Any], X: Any, state: Any) -> Any:
    """PyTorch's attention over the ring's slots and the window's ticks, with a mask; norms without gain and bias."""
    fields, d, (T, B, _) = spec.to_mapping(), spec.hidden, X.shape  # its fields, as not every version has them
    W, heads, functional = fields["attention_window"], fields["heads"], torch.nn.functional

    def affine(name: str, v: Any) -> Any:
        return v @ layer[name][:, :-1].T + layer[name][:, -1]

    def norm(v: Any) -> Any:
        return functional.layer_norm(v, (d,), eps=1e-5)

    def by_head(v: Any) -> Any:
        return v.reshape(B, -1, heads, d // heads).transpose(1, 2)

    U = affine("E", X)
    query, key, value = (norm(U) @ layer["QKV"].T).transpose(0, 1).chunk(3, dim=2)
    query, made = query + layer["b"][:d], (key, value + layer["b"][d:])
    rings = state[:, :-1].reshape(B, 2, W, d).unbind(1)
    q, k, v = by_head(query), *(by_head(torch.cat(pair, dim=1)) for pair in zip(rings, made, strict=True))
    slots, now = torch.arange(W + T), torch.arange(W, W + T)[:, None]
    exists = slots >= W - state[:, -1].round().clamp(0, W)[:, None, None, None]
    seen = (slots <= now) & (slots > now - W) & exists
    scores = torch.zeros((heads, T, W + T), dtype=X.dtype)
    if fields["positions"] == "rotary":
        q, k = turned(torch, q, now[:, 0]), turned(torch, k, slots)
    else:
        scores = layer["lags"][:, (now - slots).clamp(0, W - 1)]
    read = functional.scaled_dot_product_attention(q, k, v, attn_mask=scores.where(seen, -torch.inf))
    A = U + read.permute(2, 0, 1, 3).reshape(T, B, d) @ layer["O"].T
    return norm(A + affine("M2", torch.relu(affine("M1", norm(A)))))


def turned(torch: Any, v: Any, place: Any) -> Any:
    """Turn neighbouring features of v [.., n, width], an even width, as complex numbers by their places [n]."""
    pairs = v.shape[-1] // 2
    angle = place[:, None] * 10_000.0 ** (-torch.arange(pairs, dtype=v.dtype) / pairs)
    plane = torch.view_as_complex(v.reshape(*v.shape[:-1], pairs, 2).contiguous())
    return torch.view_as_real(plane * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


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


def sizes(torch: Any, raw: Any, starts: Sequence[float]) -> Any:
    """0.01 + softplus(raw + c), where raw = 0 gives `starts`, one for each row of raw [.., len(starts), O]."""
    least = torch.tensor(starts, dtype=raw.dtype).sub(0.01).clamp(min=1e-3)
    return 0.01 + torch.nn.functional.softplus(raw + torch.log(torch.expm1(least))[:, None])


def pinball(torch: Any, spec: ModelSpec, p: Any, y: Any, weight: Any) -> Any:
    """2/Q of the pinball losses of Q quantiles: the median, and by level those below, then those above."""
    O, levels = y.shape[-1], torch.tensor(spec.intervals, dtype=p.dtype)  # noqa: E741
    normal = torch.distributions.Normal(0.0, 1.0).icdf((1 + levels) / 2)
    starts = torch.diff(normal, prepend=torch.zeros(1, dtype=p.dtype)).tolist()
    raw = p[..., O:].reshape(*p.shape[:-1], 2, len(levels), O)
    away = torch.cumsum(sizes(torch, raw, starts), dim=-2)
    median = p[..., None, :O]
    below, above = median - away[..., 0, :, :], median + away[..., 1, :, :]
    off = y[..., None, :] - torch.cat([median, below, above], dim=-2)
    tau = torch.cat([torch.tensor([0.5], dtype=p.dtype), (1 - levels) / 2, (1 + levels) / 2])[:, None]
    return (weight[..., None, :] * torch.maximum(tau * off, (tau - 1) * off)).sum() * 2 / len(tau)


def gaussian(torch: Any, spec: ModelSpec, p: Any, y: Any, weight: Any) -> Any:
    """PyTorch's gaussian_nll_loss, which leaves the constant out as ours does."""
    scale = sizes(torch, p[..., None, y.shape[-1] :], [1.0])[..., 0, :]
    each = torch.nn.functional.gaussian_nll_loss(p[..., : y.shape[-1]], y, scale**2, reduction="none")
    return (weight * each).sum()


def student_t(torch: Any, spec: ModelSpec, p: Any, y: Any, weight: Any) -> Any:
    """PyTorch's StudentT, less its constant."""
    scale = sizes(torch, p[..., None, y.shape[-1] :], [1.0])[..., 0, :]
    degrees = torch.tensor(spec.to_mapping()["degrees"], dtype=p.dtype)
    constant = torch.distributions.StudentT(degrees).log_prob(torch.zeros((), dtype=p.dtype))
    each = torch.distributions.StudentT(degrees, p[..., : y.shape[-1]], scale).log_prob(y)
    return (weight * (constant - each)).sum()


# Name of a row → the spec's fields, and the twin.
BLOCK: dict[str, Any] = {"cell": "attention", "attention_window": 4, "heads": 2, "hidden": 8}
CELLS: dict[str, tuple[dict[str, Any], Cell]] = {
    "rnn": ({"cell": "rnn"}, rnn),
    "rnn relu": ({"cell": "rnn", "activation": "relu"}, rnn),
    "gru": ({"cell": "gru"}, gru),
    "gru before": ({"cell": "gru", "reset": "before"}, gru_before),
    "lstm": ({"cell": "lstm"}, lstm),
    "lstm norm": ({"cell": "lstm", "layer_norm": True, "residual": True}, lstm),
    "lru": ({"cell": "lru"}, lru),
    "mingru": ({"cell": "mingru"}, mingru),
    "attention": ({**BLOCK, "positions": "rotary"}, attention),
    "attention, learned": ({**BLOCK, "positions": "learned"}, attention),
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
    "pinball": ({**FORECAST, "loss": "pinball", "intervals": (0.5, 0.9)}, pinball),
    "gaussian": ({**FORECAST, "loss": "gaussian"}, gaussian),
    "student_t": ({**FORECAST, "loss": "student_t", "degrees": 4.0}, student_t),
}
