"""LSTM, GRU and RNN, one step of one row in float64: forward as in the paper, backward its lines in reverse.

`step(params, state, x)` returns the next state and the tape. `back(params, tape, dstate, dparams)` adds to dparams and
returns the gradients by the previous state and by x. The docstrings of `model.cells` state the parameter layouts.
"""

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


# name: a function of the spec that returns step, back, and the number of vectors in a state
CELLS = {
    "lstm": lambda spec: (lstm_step, lstm_back, 2),
    "gru": lambda spec: (gru_step, gru_back, 1),
    "rnn": lambda spec: (*rnn(spec.activation), 1),
}
