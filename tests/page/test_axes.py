"""Where the page's charts have labels and where their lines end, run in Node."""

import json

import pytest


@pytest.fixture(scope="module")
def run(node):
    """A function that returns an expression of the functions of axes.js, and of the store's `Ticks`."""

    def call(value, before=""):
        names = "import * as axes from './js/axes.js'; import { Ticks } from './js/store.js';"
        return node(f"{names}\n{before}\nconsole.log(JSON.stringify({value}));")

    return call


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (1e-5, 0.1, [1e-5, 1e-4, 1e-3, 1e-2, 0.1]),
        (0.13, 0.6, [0.15, 0.2, 0.3, 0.5]),
        (0.5, 1.4, [0.5, 0.7, 1]),
        (0.41, 0.49, [0.42, 0.44, 0.46, 0.48]),
        (1e-12, 1, [1e-12, 1e-9, 1e-6, 1e-3, 1]),
    ],
)
def test_a_logarithmic_axis_has_round_labels_that_fit(run, low, high, labels):
    assert run(f"axes.logLabels({low}, {high}, 5)") == labels


def test_a_logarithmic_axis_of_any_range_has_at_least_two_labels_and_all_are_inside(run):
    before = """const found = [];
    for (let low = 1e-9; low < 1e9; low *= 3.7) for (const wide of [1.01, 1.3, 1.5625, 2.1, 7, 30, 900, 1e6, 1e15])
      for (const most of [1, 2, 5, 12]) found.push([low, low * wide, axes.logLabels(low, low * wide, most)]);
    const good = ([low, high, all]) => all.length >= 2 && all.length <= 12
      && all.every((v, n) => v >= low * 0.999999 && v <= high * 1.000001 && (!n || v > all[n - 1]));"""
    assert run("[found.length > 100, found.filter((one) => !good(one))]", before) == [True, []]


def test_a_line_ends_where_ticks_are_missing_and_where_the_time_jumps(run):
    times = [0, 10, 20, 30, 70, 80, 90, 100, 110, 120, 130]
    seq = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13]
    found = f"axes.breaks({seq}, {times}, axes.usualInterval({times}))"
    assert run(found) == [4, 9]
    assert run(f"axes.breaks({seq}, {seq}, axes.usualInterval({seq}))") == [9]
    assert run("[axes.breaks([], [], NaN), axes.breaks([4], [1], NaN), axes.breaks([4, 5], [1, 99], 98)]") == [[]] * 3


def test_uneven_times_are_not_all_gaps(run):
    before = """let seed = 1, at = 0;
    const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
    const times = Array.from({ length: 1000 }, () => (at -= Math.log(random())));
    const found = axes.breaks(times.map((_, n) => n), times, axes.usualInterval(times));"""
    assert run("found.length < 5", before)


def test_the_usual_interval_is_that_of_all_ticks_that_are_kept_not_of_those_in_a_small_window(run):
    block = {"stream": "s", "target": "v", "step": 1, "restart": True, "seq": [*range(40)]}
    block["time"] = [n * 10 if n < 39 else 1000 for n in range(40)]
    before = f"const t = new Ticks(64); t.add({json.dumps(block)}); const last = t.slice({{ last: 2, axis: 'time' }});"
    assert run("[t.usual('time'), axes.breaks(last.seq, last.time, t.usual('time'))]", before) == [10, [1]]


def test_stretches_without_a_line_are_joined(run):
    assert run("axes.joined([[5, 9], [20, 21]], [[0, 1], [8, 12], [9, 10]])") == [[0, 1], [5, 12], [20, 21]]


def test_a_value_between_two_gaps_is_drawn_as_a_dot(run):
    assert run("axes.alone([1, null, 2, 3, null, 4, 5, 6], new Set([6, 7]))") == [0, 5, 6, 7]
    assert run("axes.alone([null, null], new Set())") == []
