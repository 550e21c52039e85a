"""The onnx package's cases of Attention (opsets 23 to 25) through our products of queries, keys and values."""

from __future__ import annotations

import numpy as np
import pytest

from model.attend import Attention
from model.parameters import Array
from tests.outside.onnx_suite import Case, cases

CASES = cases("attention", "Attention")
RIGHT = "reads keys after the query: a stream has none"
# What a case has that the cell has not, in the order of the checks of `reason`.
REASONS = {
    "another type": "inputs are float16 or bfloat16: the cell computes float32",
    "a mask": "a mask of its own: the cell reads all ticks of its window that exist",
    "shared keys": "fewer key heads than query heads (GQA): each head of the cell has its own",
    "other widths": "values of another width than keys: the cell's are equal",
    "soft cap": "scores are capped: the cell's are not",
    "all keys": RIGHT,
    "more queries than keys": "queries without a key of their own: each tick has one",
}


def of_heads(X: Array, heads: int) -> Array:
    """Return [B, heads, n, width] of an input [B, heads, n, width] or [B, n, heads·width]."""
    return X if X.ndim == 4 else X.reshape(*X.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def parts(case: Case) -> tuple[Array, Array, Array]:
    """Return queries, keys and values [B, heads, n, width] of a case, with those of its past."""
    given, a = case.inputs, case.attributes
    Q = of_heads(given["Q"], a.get("q_num_heads", 0))
    K, V = (of_heads(given[name], a.get("kv_num_heads", 0)) for name in "KV")
    if "past_key" in given:
        K, V = (np.concatenate([given[name], new], axis=2) for name, new in (("past_key", K), ("past_value", V)))
    return Q, K, V


def reason(case: Case) -> str:
    """Return why a case is not applicable, a key of `REASONS`, or ""."""
    a, lengths = case.attributes, case.inputs.get("nonpad_kv_seqlen")
    if any(value.dtype not in (np.float32, np.int64) for name, value in case.inputs.items() if name != "attn_mask"):
        return "another type"
    Q, K, V = parts(case)
    past = case.inputs["past_key"].shape[2] if "past_key" in case.inputs else 0
    causal = a.get("is_causal", 0) and a.get("right_window_size", -1) <= 0
    found = {
        "a mask": "attn_mask" in case.inputs,
        "shared keys": Q.shape[1] != K.shape[1],
        "other widths": K.shape[3] != V.shape[3],
        "soft cap": a.get("softcap", 0) != 0,
        "all keys": not causal,
        "more queries than keys": bool(np.any((K.shape[2] if lengths is None else lengths) < past + Q.shape[2])),
    }
    return next((name for name, is_so in found.items() if is_so), "")


def attended(case: Case) -> Array:
    """Return the output of a case, [B, heads, n, width], one row at a time: the past is the ring before the window."""
    Q, K, V = parts(case)
    B, heads, n, width = Q.shape
    past = case.inputs["past_key"].shape[2] if "past_key" in case.inputs else 0
    ends = case.inputs.get("nonpad_kv_seqlen", np.full(B, past + n))
    out = np.empty_like(Q)
    for b, end in enumerate(ends):
        before, left = int(end) - n, case.attributes.get("left_window_size", -1)
        window = left + 1 if left >= 0 else before + n
        ring = min(before, window - 1)
        q, k, v = (X[b].transpose(1, 0, 2).reshape(-1, 1, heads * width) for X in (Q, K, V))
        keys, values = (np.zeros((1, window - 1 + n, heads * width), np.float32) for _ in range(2))
        keys[0, window - 1 - ring :], values[0, window - 1 - ring :] = (X[end - n - ring : end, 0] for X in (k, v))
        scale = case.attributes.get("scale", width**-0.5)
        core = Attention(n, 1, heads * width, heads, window, np.float32)
        O = core.forward(q * np.float32(scale), keys, values, None, np.array([ring]))  # noqa: E741
        out[b] = O.reshape(n, heads, width).transpose(1, 0, 2)
    return out


APPLICABLE = [name for name, case in CASES.items() if not reason(case)]


@pytest.mark.parametrize("name", APPLICABLE)
def test_attention_gives_the_output_of_the_suite(name: str) -> None:
    case = CASES[name]
    expected = of_heads(case.outputs["Y"], case.attributes.get("q_num_heads", 0))
    np.testing.assert_allclose(attended(case), expected, rtol=0, atol=1e-5)


def test_the_other_cases_have_a_reason_of_the_table_and_each_reason_a_case() -> None:
    assert {reason(case) for case in CASES.values()} - {""} == set(REASONS)
    assert len(APPLICABLE) >= 5
