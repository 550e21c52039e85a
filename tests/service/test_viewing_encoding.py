"""JSON of what is seen, beside the standard library's."""

import json
import math

import numpy as np
import pytest

from service.viewing.encoding import encode, event


def test_values_come_back_as_they_were():
    value = {"a": [1, "two", None, True, False, -3.5], "b": {"c": []}, "d": (0, 1), "e": '\u00e9"<img onerror=x>\n'}
    assert json.loads(encode(value)) == json.loads(json.dumps(value))


def test_what_is_not_finite_becomes_null():
    values = [math.nan, math.inf, -math.inf, 1.0]
    assert json.loads(encode(values)) == [None, None, None, 1]
    assert json.loads(encode(np.array(values, np.float32))) == [None, None, None, 1]


def test_floats_keep_six_digits_and_integers_all():
    big = 2**53 + 1
    assert encode([1 / 3, 1234567.8, 1e-30, big, np.uint64(2**64 - 1)]) == (
        b"[0.333333,1.23457e+06,1e-30,9007199254740993,18446744073709551615]"
    )
    assert encode(np.array([1 / 3, 2.0], np.float32)) == b"[0.333333,2]"
    assert encode(np.array([2**64 - 1], np.uint64)) == b"[18446744073709551615]"


def test_moments_keep_milliseconds_at_any_depth_of_an_array():
    moment = 1732952863.1239
    assert encode({"time": moment, "y": moment}) == b'{"time":1732952863.124,"y":1.73295e+09}'
    assert json.loads(encode({"time": np.array([moment, math.nan])})) == {"time": [1732952863.124, None]}


@pytest.mark.parametrize("n", [0, 1, 7])
def test_arrays_are_lists_row_by_row(n):
    values = np.arange(2 * n, dtype=np.float32).reshape(2, n)
    assert json.loads(encode(values)) == values.tolist()
    assert json.loads(encode(values > 1)) == (values > 1).tolist()


def test_bytes_and_objects_have_no_json():
    for value in (b"x", object(), {"a": {1, 2}}):
        with pytest.raises(TypeError):
            encode(value)


def test_an_event_is_one_line_of_data_and_a_blank_line():
    assert event("block", {"stream": "a\nb"}) == b'event: block\ndata: {"stream":"a\\nb"}\n\n'
