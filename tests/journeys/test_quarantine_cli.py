"""`freshet quarantine …` as people and scripts use it: a real command, a real server."""

from __future__ import annotations

import pytest

from tests.journeys.raw import RawStream
from tests.journeys.test_labels import SPEC, label, labels_durable, outcomes_are, ticks
from tests.journeys.test_models_cli import Shell


async def test_a_person_lists_what_could_not_be_learned_and_learns_it_after_all(
    server, client, channel, name, tmp_path
):
    run = Shell(server.grpc, tmp_path, "quarantine")
    await client.create_model(name, **SPEC)
    assert await run("list", name) == f"{name}: nothing is in quarantine\n"
    assert await run("replay", name, "--all") == f"{name}: 0 of 0 sent to learning\n"
    async with RawStream(channel, name, "pump") as stream:
        await ticks(stream, 1, 20)
        for seq, y in ((15, 1.0), (15, 2.0), (16, 1.0), (16, 2.5), (17, 1.0), (17, 3.0)):
            await stream.say(**label(seq, y))
        await labels_durable(stream, 6)

    header, *rows = (await run("list", name)).splitlines()
    assert header.split() == ["id", "reason", "what", "of", "number", "value", "record"]
    assert [row.split()[:6] for row in rows] == [
        ["1", "conflict", "label", "pump", "15", "2"],
        ["2", "conflict", "label", "pump", "16", "2.5"],
        ["3", "conflict", "label", "pump", "17", "3"],
    ]
    assert [item["y"] for item in await run.json("list", name)] == [[2.0], [2.5], [3.0]]

    assert await run("replay", name, "2") == f"{name}: 1 of 1 sent to learning\n"
    answer = await run.json("replay", name, "--all")
    assert answer == {"replayed": [1, 3], "refused": {}}
    await outcomes_are(server.http, name, learned_windows=3, in_quarantine=0)


async def test_what_cannot_be_replayed_is_told_and_the_exit_code_says_so(server, client, name, tmp_path):
    run = Shell(server.grpc, tmp_path, "quarantine")
    await client.create_model(name, **SPEC)

    process = await run.start("replay", name, "7")
    out, _ = await process.communicate()

    assert process.returncode == 1
    assert out.decode().splitlines()[-1] == "7: not in the quarantine, or no longer"


MISTAKES = {
    "no items": (["replay", "m"], 2, "ids = none: name the items, or give --all"),
    "items and all": (["replay", "m", "1", "--all"], 2, "name the items, or give --all"),
    "item 0": (["replay", "m", "0"], 2, "give ids that"),
    "an endless item": (["replay", "m", str(2**64)], 2, "give ids that"),
    "a model that is not there": (["list", "m"], 1, "model = m: no such model"),
}


@pytest.mark.parametrize("case", MISTAKES)
async def test_a_mistake_is_answered_in_one_line(server, tmp_path, case):
    arguments, code, said = MISTAKES[case]

    assert said in await Shell(server.grpc, tmp_path, "quarantine")(*arguments, code=code)
