"""What the server serialises by itself has the same bytes as protobuf's own."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from freshet.v1.streams_pb2 import Forecast, OpenResponse, Outcomes
from service.common.errors import Reason, Refusal
from service.edge import wire, wire_ticks
from service.serving.waves import Answered
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


@given(
    st.integers(1, 2**64 - 1), st.integers(0, 20), st.integers(1, 5), st.integers(0, 2), st.integers(0, 3), COUNTS,
    st.integers(0, 2**32),
)  # fmt: skip
def test_outcomes_are_serialised_as_protobuf_does_it(first, answered, outputs, levels, refused, durable, seed):
    rng, upper = np.random.default_rng(seed), outputs * (1 + levels)
    y = rng.normal(size=(answered, outputs * (1 + 2 * levels))).astype(np.float32)
    version, judged = (rng.integers(0, 2**64, answered, dtype=np.uint64) for _ in range(2))
    refusals = [Refusal(first, Reason.GAP, "seq", str(i), "send it later", i, i / 2) for i in range(refused)]
    own = OpenResponse(
        outcomes=Outcomes(
            first_seq=first, count=answered + refused, y=y[:, :outputs].tobytes(),
            lower=y[:, outputs:upper].tobytes(), upper=y[:, upper:].tobytes(), version=version.tobytes(),
            judged_through=judged.tobytes(), refused=map(wire.refusal_message, refusals), durable_seq=durable,
        )
    )  # fmt: skip

    ours = wire_ticks.outcomes(first, Answered(y, version, judged, refusals), outputs, durable)

    assert OpenResponse.FromString(ours) == own
    assert ours == own.SerializeToString(deterministic=True)


def test_a_field_that_is_not_written_by_hand_would_be_noticed():
    assert {field.name for field in Forecast.DESCRIPTOR.fields} == {
        "seq", "y", "version", "judged_through", "lower", "upper", "durable_seq"
    }  # fmt: skip
    assert {field.name for field in Outcomes.DESCRIPTOR.fields} == {
        "first_seq", "count", "y", "lower", "upper", "version", "judged_through", "refused", "durable_seq"
    }  # fmt: skip
