"""Reading messages: hostile content costs no more memory than the bytes sent."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from freshet.v1 import streams_pb2, training_pb2, types_pb2
from model.spec import MAX_CHANNELS
from service.common.errors import Invalid
from service.edge import wire, wire_models

MANY = 250_000  # float32 values in a message of 1 MiB
VALUES = np.ones(MANY, np.float32)


def peak_bytes(act: Callable[[], object]) -> int:
    """Return the peak memory of the call."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("read", "message"), [
    (wire.tick, streams_pb2.Tick(x=VALUES)),
    (wire.label, streams_pb2.Label(y=VALUES)),
    (wire.label, training_pb2.StreamLabel(y=VALUES)),
], ids=["Tick.x", "Label.y", "StreamLabel.y"])  # fmt: skip
def test_too_many_values_take_no_more_memory_than_their_bytes(read: Any, message: Any):
    assert read(message)[-1].tolist() == VALUES.tolist()
    assert peak_bytes(lambda: read(message)) < 1.1 * VALUES.nbytes


@pytest.mark.parametrize("field", ["channels", "targets", "classes", "freeze"])
def test_too_many_names_in_a_spec_are_counted_and_not_read(field):
    names: dict[str, Any] = {field: [""] * 100_000}
    message = types_pb2.ModelSpec(**names)

    def read() -> None:
        with pytest.raises(Invalid, match=f"spec.{field} = 100000 names: give at most {MAX_CHANNELS} "):
            wire_models.spec(message)

    assert peak_bytes(read) < 100_000


@pytest.mark.parametrize("token", ["x", "-1", "1.5", "²", "9" * 11])
def test_a_page_token_that_no_page_gave_is_refused(token):
    with pytest.raises(Invalid, match="next_page_token"):
        wire.after(token)


def test_a_page_token_is_the_number_of_the_last_stream():
    assert [wire.after(token) for token in ("", "7")] == [0, 7]
