"""Recurrent cells, one step of one row in float64: forward as in the paper, backward its lines in reverse.

`step(params, state, x)` returns the next state and the tape. `back(params, tape, dstate, dparams)` adds to dparams and
returns the gradients by the previous state and by x. The docstrings of `model.cells` state the parameter layouts.
"""

from typing import Any, NamedTuple

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def lstm_step(p, state, x):
    h, c = np.split(state, 2)
    z = np.concatenate([h, x, [1]])
    a_o, a_i, a_f, a_g = np.split(p["W"] @ z, 4)
    o, i, f, g = sigmoid(a_o), sigmoid(a_i), sigmoid(a_f), np.tanh(a_g)
    c_next = f * c + i * g
    return np.concatenate([o * np.tanh(c_next), c_next]), (z, c, o, i, f, g, c_next)


def lstm_back(p, tape, dstate, dp):
    z, c, o, i, f, g, c_next = tape
    dh, dc = np.split(dstate, 2)
    dc = dc + dh * o * (1 - np.tanh(c_next) ** 2)
    da_o, da_i = dh * np.tanh(c_next) * o * (1 - o), dc * g * i * (1 - i)
    da_f, da_g = dc * c * f * (1 - f), dc * i * (1 - g**2)
    da = np.concatenate([da_o, da_i, da_f, da_g])
    dp["W"] += np.outer(da, z)
    dz = p["W"].T @ da
    return np.concatenate([dz[: len(c)], dc * f]), dz[len(c) : -1]


def gru_step(p, h, x):
    h1, n_h = np.append(h, 1), len(h)
    hn, hr, hz = np.split(p["U"] @ h1, 3)
    xr, xz, xn = np.split(p["W"] @ x, 3)
    r, z, n = sigmoid(hr + xr), sigmoid(hz + xz), np.tanh(xn + p["b"] + sigmoid(hr + xr) * hn)
    return (1 - z) * n + z * h, (h1, x, hn, r, z, n, n_h)


def gru_back(p, tape, dh, dp):
    h1, x, hn, r, z, n, n_h = tape
    dn = dh * (1 - z) * (1 - n**2)
    dr, dz = dn * hn * r * (1 - r), dh * (h1[:-1] - n) * z * (1 - z)
    d_hidden, d_input = np.concatenate([dn * r, dr, dz]), np.concatenate([dr, dz, dn])
    dp["U"] += np.outer(d_hidden, h1)
    dp["W"] += np.outer(d_input, x)
    dp["b"] += dn
    return (p["U"].T @ d_hidden)[:n_h] + dh * z, p["W"].T @ d_input


def rnn(activation):
    """Return step and back of Elman's network for tanh or relu."""

    def step(p, h, x):
        z = np.concatenate([h, x, [1]])
        a = p["W"] @ z
        return np.tanh(a) if activation == "tanh" else a * (a > 0), (z, a)

    def back(p, tape, dh, dp):
        z, a = tape
        da = dh * (1 - np.tanh(a) ** 2 if activation == "tanh" else a > 0)
        dp["W"] += np.outer(da, z)
        dz = p["W"].T @ da
        return dz[: len(a)], dz[len(a) : -1]

    return step, back


def gru_before_step(p, h, x):
    x1 = np.append(x, 1)
    (U_r, U_z, U_n), (a_r, a_z, a_n) = np.split(p["U"], 3), np.split(p["W"] @ x1, 3)
    r, z = sigmoid(a_r + U_r @ h), sigmoid(a_z + U_z @ h)
    n = np.tanh(a_n + U_n @ (r * h))
    return (1 - z) * n + z * h, (h, x1, r, z, n)


def gru_before_back(p, tape, dh, dp):
    h, x1, r, z, n = tape
    U_r, U_z, U_n = np.split(p["U"], 3)
    dn, dz = dh * (1 - z) * (1 - n**2), dh * (h - n) * z * (1 - z)
    drh = U_n.T @ dn
    dr = drh * h * r * (1 - r)
    dp["U"] += np.concatenate([np.outer(dr, h), np.outer(dz, h), np.outer(dn, r * h)])
    da = np.concatenate([dr, dz, dn])
    dp["W"] += np.outer(da, x1)
    return drh * r + U_r.T @ dr + U_z.T @ dz + dh * z, (p["W"].T @ da)[:-1]


def mingru_step(p, h, x):
    x1 = np.append(x, 1)
    a_z, n = np.split(p["W"] @ x1, 2)
    z = sigmoid(a_z)
    return (1 - z) * h + z * n, (h, x1, z, n)


def mingru_back(p, tape, dh, dp):
    h, x1, z, n = tape
    da = np.concatenate([dh * (n - h) * z * (1 - z), dh * z])
    dp["W"] += np.outer(da, x1)
    return dh * (1 - z), (p["W"].T @ da)[:-1]


LRU_LEAST_DECAY = 2.0**-20


def lru(spec):
    """Return the layer of complex units, in complex arithmetic; its output is not a part of its state."""

    def split(s):
        return np.concatenate([s.real, s.imag])

    def joined(s):
        real, imaginary = np.split(s, 2)
        return real + 1j * imaginary

    def step(p, state, x):
        eigenvalue = np.exp(-LRU_LEAST_DECAY - np.exp(p["nu"]) + 1j * p["theta"])
        gamma, B = np.sqrt(1 - abs(eigenvalue) ** 2), joined(p["B"])
        s = eigenvalue * joined(state) + gamma * (B @ x)
        z = np.concatenate([s.real, s.imag, x, [1]])
        a = p["W"] @ z
        return a * (a > 0), split(s), (state, x, eigenvalue, gamma, z, a)

    def back(p, tape, doutput, dstate, dp):
        state, x, eigenvalue, gamma, z, a = tape
        da = doutput * (a > 0)
        dp["W"] += np.outer(da, z)
        dz = p["W"].T @ da
        ds = joined(dstate + dz[: 2 * spec.hidden])  # dL/d(re) + i·dL/d(im)
        B = joined(p["B"])
        dp["B"] += split(np.outer(gamma * ds, x))
        by_eigenvalue = ds * np.conj(joined(state))
        by_gamma = (ds * np.conj(B @ x)).real
        along = (by_eigenvalue * np.conj(eigenvalue)).real  # by the logarithm of the radius
        along = along - by_gamma * abs(eigenvalue) ** 2 / gamma
        dp["nu"] -= np.exp(p["nu"]) * along
        dp["theta"] += (by_eigenvalue * np.conj(1j * eigenvalue)).real
        dx = dz[2 * spec.hidden : -1] + (np.conj(B).T @ (gamma * ds)).real
        return split(np.conj(eigenvalue) * ds), dx

    return Layer(step, back, 2 * spec.hidden)


class Layer(NamedTuple):
    """step(params, state, x) → output, next state, tape; back(params, tape, doutput, dstate, dparams) → both before."""

    step: Any
    back: Any
    size: int  # floats of a state


def units(spec, step, back, vectors=1):
    """Return a layer whose output is the first of `vectors` vectors of its state."""

    def forward(p, state, x):
        after, tape = step(p, state, x)
        return after[: spec.hidden], after, tape

    def backward(p, tape, doutput, dstate, dp):
        whole = dstate.copy()
        whole[: spec.hidden] += doutput
        return back(p, tape, whole, dp)

    return Layer(forward, backward, vectors * spec.hidden)


def between(spec, layer):
    """Return a layer with what surrounds it: layer normalization of its input, and its input added to its output."""

    def forward(p, state, x):
        read, mean, deviation = x, x.mean(), np.sqrt(x.var() + 1e-5)
        if spec.layer_norm:
            read = p["norm"][0] * (x - mean) / deviation + p["norm"][1]
        output, after, tape = layer.step(p, state, read)
        return output + x if spec.residual else output, after, (tape, (x - mean) / deviation, deviation)

    def backward(p, tape, doutput, dstate, dp):
        inner, x, deviation = tape
        dstate, dx = layer.back(p, inner, doutput, dstate, dp)
        if spec.layer_norm:
            dp["norm"] += np.stack([dx * x, dx])
            jacobian = (np.eye(len(x)) - 1 / len(x) - np.outer(x, x) / len(x)) / deviation
            dx = jacobian @ (dx * p["norm"][0])
        return dstate, dx + doutput if spec.residual else dx

    return Layer(forward, backward, layer.size)


def turned(v, angle):
    """Turn the neighbouring features of a key or query; pair f by 10,000^(−2f / width) times the angle."""
    width = len(v) - len(v) % 2
    out = v.copy()
    for f in range(0, width, 2):
        z = complex(v[f], v[f + 1]) * np.exp(1j * angle * 10_000.0 ** (-f / width))
        out[f], out[f + 1] = z.real, z.imag
    return out


def normed(x):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def normed_back(x, dy):
    y, d = normed(x), len(x)
    return (np.eye(d) - 1 / d - np.outer(y, y) / d) / np.sqrt(x.var() + 1e-5) @ dy


def attention(spec):
    """Return the block. A state is keys [W, d], values [W, d], and the number of slots that exist."""
    W, d, heads = spec.attention_window, spec.hidden, spec.heads
    width, rotary = d // heads, spec.positions == "rotary"

    def age(v, ticks):
        return turned(v, -ticks) if rotary else v

    def step(p, state, x):
        keys, values, filled = (
            state[: W * d].reshape(W, d),
            state[W * d : -1].reshape(W, d),
            min(round(state[-1]) + 1, W),
        )
        u = p["E"] @ np.append(x, 1)
        q, k, v = np.split(p["QKV"] @ normed(u), 3)
        q, v = q + p["b"][:d], v + p["b"][d:]
        keys, values = np.vstack([keys[1:], k]), np.vstack([values[1:], v])
        shares, attended = np.zeros((heads, W)), np.zeros(d)
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            scores = np.full(W, -np.inf)
            for w in range(W):
                if w >= W - filled:
                    lag = W - 1 - w
                    scores[w] = q[part] @ age(keys[w, part], lag) / np.sqrt(width)
                    scores[w] += 0 if rotary else p["lags"][h, lag]
            shares[h] = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
            attended[part] = shares[h] @ values[:, part]
        a = u + p["O"] @ attended
        m = p["M1"] @ np.append(normed(a), 1)
        r = a + p["M2"] @ np.append(m * (m > 0), 1)
        after = np.concatenate([keys.ravel(), values.ravel(), [filled]])
        return normed(r), after, (x, u, q, keys, values, shares, attended, a, m, r)

    def back(p, tape, dy, dstate, dp):
        x, u, q, keys, values, shares, attended, a, m, r = tape
        dr = normed_back(r, dy)
        dm = (p["M2"].T @ dr)[:-1] * (m > 0)
        dp["M2"] += np.outer(dr, np.append(m * (m > 0), 1))
        dp["M1"] += np.outer(dm, np.append(normed(a), 1))
        da = dr + normed_back(a, (p["M1"].T @ dm)[:-1])
        dp["O"] += np.outer(da, attended)
        dattended, dq = p["O"].T @ da, np.zeros(d)
        dkeys, dvalues = dstate[: W * d].reshape(W, d).copy(), dstate[W * d : -1].reshape(W, d).copy()
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            dshares = values[:, part] @ dattended[part]
            dvalues[:, part] += np.outer(shares[h], dattended[part])
            dscores = (np.diag(shares[h]) - np.outer(shares[h], shares[h])) @ dshares
            for w in range(W):
                lag = W - 1 - w
                dq[part] += dscores[w] * age(keys[w, part], lag) / np.sqrt(width)
                dkeys[w, part] += dscores[w] * age(q[part], -lag) / np.sqrt(width)
                if not rotary:
                    dp["lags"][h, lag] += dscores[w]
        dqkv = np.concatenate([dq, dkeys[-1], dvalues[-1]])
        dp["QKV"] += np.outer(dqkv, normed(u))
        dp["b"] += np.concatenate([dq, dvalues[-1]])
        du = da + normed_back(u, p["QKV"].T @ dqkv)
        dp["E"] += np.outer(du, np.append(x, 1))
        before = [np.vstack([np.zeros(d), part[:-1]]).ravel() for part in (dkeys, dvalues)]
        return np.concatenate([*before, [0.0]]), (p["E"].T @ du)[:-1]

    return Layer(step, back, 2 * W * d + 1)


# name: a function of the spec that returns a layer
CELLS = {
    "lstm": lambda spec: units(spec, lstm_step, lstm_back, 2),
    "gru": lambda spec: units(spec, gru_step, gru_back) if spec.reset == "after" else
           units(spec, gru_before_step, gru_before_back),
    "rnn": lambda spec: units(spec, *rnn(spec.activation)),
    "lru": lru,
    "mingru": lambda spec: units(spec, mingru_step, mingru_back),
    "attention": attention,
}  # fmt: skip


def layers(spec):
    """Return the layers of a spec, the first layer first."""
    first, *others = [CELLS[name](spec) for name in spec.stack]
    plain = not (spec.layer_norm or spec.residual)
    return [first, *(layer if plain else between(spec, layer) for layer in others)]
