"""Our histogram against the library's own: the same observations give the same scrape."""

from __future__ import annotations

import numpy as np
import prometheus_client
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from service.observe.histograms import Histogram, Series

BOUNDS = (0.1, 1, 2.5, 1e3)


def scrapes(labels: tuple[str, ...], observed: list[tuple[tuple[str, ...], float]]) -> tuple[bytes, bytes]:
    """Return a scrape of our histogram and of the library's."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("seconds", "Some text.", labels, BOUNDS)
    ours.register(histogram)
    oracle = prometheus_client.Histogram("seconds", "Some text.", labels, registry=theirs, buckets=BOUNDS)
    for values, value in observed:
        histogram.labels(*values).observe(value)
        (oracle.labels(*values) if labels else oracle).observe(value)
    without_times = [line for line in generate_latest(theirs).splitlines() if b"_created" not in line]
    return generate_latest(ours), b"\n".join(without_times) + b"\n"


@given(st.lists(st.sampled_from((*BOUNDS, 0, -3, 0.0999, 0.1001, 2.4, 7e8, float("inf"))), min_size=1))
def test_a_plain_histogram_is_scraped_like_the_librarys(values):
    ours, theirs = scrapes((), [((), value) for value in values])

    assert ours == theirs


@given(st.lists(st.tuples(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", 'q"\n'])), st.floats(0, 2e3))))
def test_a_labelled_histogram_is_scraped_like_the_librarys(observed):
    ours, theirs = scrapes(("model", "layer"), observed)

    assert ours == theirs


@given(st.lists(st.lists(st.integers(0, 2**63), max_size=8), max_size=4))
def test_many_integers_are_counted_at_once_as_one_by_one(arrays):
    each, together = Series(BOUNDS), Series(BOUNDS)
    for values in arrays:
        together.observe_all(np.array(values, np.uint64))
        for value in values:
            each.observe(value)

    assert together.counts == each.counts


def test_a_series_is_made_once():
    histogram = Histogram("seconds", "Some text.", ("model",), BOUNDS)

    assert histogram.labels("a") is histogram.labels("a")
    assert histogram.labels("a") is not histogram.labels("b")
