"""Adam, line by line as in Algorithm 1 of Kingma & Ba (arXiv:1412.6980): the readable form the fast one is held to."""

import numpy as np


class PlainAdam:
    """Works in the dtype it is given. `params` passed to `update` are changed in place."""

    def __init__(self, n, learning_rate=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, dtype=np.float64):
        self.learning_rate, self.beta1, self.beta2, self.eps = learning_rate, beta1, beta2, eps
        self.t, self.m, self.v = 0, np.zeros(n, dtype), np.zeros(n, dtype)

    def update(self, params, grad):
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * grad
        self.v = self.beta2 * self.v + (1 - self.beta2) * grad**2
        m_hat = self.m / (1 - self.beta1**self.t)
        v_hat = self.v / (1 - self.beta2**self.t)
        params -= self.learning_rate * m_hat / (np.sqrt(v_hat) + self.eps)
