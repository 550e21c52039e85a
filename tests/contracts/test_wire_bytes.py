"""What the server serialises by itself has the same bytes as protobuf's own."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from freshet.v1.streams_pb2 import Forecast, OpenResponse
from service.edge import wire
from service.streams.answers import Answer

COUNTS = st.one_of(
    st.sampled_from([0, 1, 127, 128, 2**14 - 1, 2**14, 2**32, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1)
)
ANY_BITS = st.integers(0, 2**32 - 1)  # of a float32: also NaN with a payload, infinite, denormal


@given(COUNTS, COUNTS, COUNTS, COUNTS, st.integers(0, 40), st.integers(0, 3), st.data())
def test_a_forecast_is_serialised_as_protobuf_does_it(seq, version, judged, durable, outputs, levels, data):
    outputs = max(outputs, levels and 1)  # bounds belong to forecasts
    size = outputs * (1 + 2 * levels)
    bits = np.array(data.draw(st.lists(ANY_BITS, min_size=size, max_size=size)), np.uint32)
    values = bits.view(np.float32)
    with np.errstate(invalid="ignore"):
        values[np.isnan(values)] = np.nan  # which of them is not kept by Python's floats
    low, high = outputs, outputs * (1 + levels)
    own = OpenResponse(
        forecast=Forecast(
            seq=seq, y=values[:low].tolist(), version=version, judged_through=judged, lower=values[low:high].tolist(),
            upper=values[high:].tolist(), durable_seq=durable,
        )
    )  # fmt: skip

    ours = wire.forecast(Answer(seq, float("nan"), b"", values.tobytes(), version, judged), outputs, durable)

    assert ours == own.SerializeToString(deterministic=True)
    assert OpenResponse.FromString(ours) == own or np.isnan(values).any()


def test_a_field_that_is_not_written_by_hand_would_be_noticed():
    assert {field.name for field in Forecast.DESCRIPTOR.fields} == {
        "seq", "y", "version", "judged_through", "lower", "upper", "durable_seq"
    }  # fmt: skip
