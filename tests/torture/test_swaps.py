"""A quick form of `dev.py torture --only swaps`, which swaps a thousand times."""

from __future__ import annotations

import pytest

from tests.torture import swaps
from tests.torture.failpoints import injected

ANSWERS_BY_ANOTHER = """
from service.engine.loaded import Engine
replace = Engine.replace

def late(self, model, version, session):
    former = next((s for (m, _), s in self._sessions.items() if m == model), session)
    replace(self, model, version, former)

Engine.replace = late
"""


async def test_fifty_swaps_under_load_fail_no_request_and_each_answer_is_that_of_its_version(tmp_path):
    part = await swaps.rounds(tmp_path, 50)

    assert part.good, part.as_json()
    assert part.hits == 50


@pytest.mark.long
async def test_a_server_that_swaps_the_number_and_not_the_graph_is_detected(tmp_path):
    with injected(tmp_path / "inject", ANSWERS_BY_ANOTHER):
        part = await swaps.rounds(tmp_path, 6)

    assert any("got another answer" in line for line in part.wrong)
