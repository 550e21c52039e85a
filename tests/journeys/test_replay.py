"""`freshet replay`: what a real server has learned, under kills, comes again from its journal, from any checkpoint."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from pathlib import Path

import numpy as np

import freshet
from tests.journeys import crash, preloaded
from tests.journeys.crash import SMALL, kill_trainer, walk, within
from tests.service.one_process import world

# No version is pruned, and no segment dropped; each copy of the checkpoint holds something.
KEPT = {"snapshot_s": 3600, "checkpoint_chunks": 1}


async def replay(*arguments: object) -> tuple[int, str]:
    """The command's exit code, and all that it printed."""
    process = await preloaded.command("replay", *arguments, merged=True)
    output, _ = await asyncio.wait_for(process.communicate(), crash.DEADLINE_S)
    return process.returncode or 0, output.decode()


async def lived(folder: Path) -> list[Path]:
    """A server that learned while its trainer was killed and it was too; copies of the checkpoint on the way."""
    copies = []
    async with crash.a_server(folder, **KEPT) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)
        async with client.stream("flow", "pump") as stream:
            for n, row in enumerate(walk(300, 1), 1):
                await within(stream.step(row))
                if n % 100 == 0:
                    await within(stream.wait_judged(n))
                    copies.append(copy_of(server.data / "trainer.db", folder / f"{n}.db"))
                    kill_trainer(server)
                if n == 150:
                    await client.rollback("flow", 1)
                if n == 230:
                    server.kill()
                    await server.wait()
                    await server.start()
            await within(stream.wait_judged(300))
    return copies


def copy_of(database: Path, to: Path) -> Path:
    """As a backup of a live file is made."""
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as source, sqlite3.connect(to) as target:
        source.backup(target)
    source.close()
    target.close()
    return to


async def test_a_journal_learned_again_from_its_start_or_any_checkpoint_ends_in_the_same_weights(tmp_path):
    copies = await lived(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "data" / "journal").glob("*.journal")}

    ends = [await replay(tmp_path / "data")]
    ends += [await replay(tmp_path / "data", "--from", copy) for copy in copies]

    assert [code for code, _ in ends] == [0] * len(ends), ends
    found = [re.findall(r"to (\d+), weights sha256 (\w{64})", text)[:1] for _, text in ends]
    assert found == [found[0]] * len(ends), ends
    assert len(found[0]) == 1, ends
    assert "recorded on the way are the same, the last checkpoint" in ends[0][1]
    assert {path: path.read_bytes() for path in (tmp_path / "data" / "journal").glob("*.journal")} == before


async def small(data: Path) -> None:
    """A few versions, learned in this process."""
    async with world(data) as live:
        model = await live.model()
        session = live.open(model, "pump")
        for n in range(40):
            await live.tick(model, session, float(np.sin(n)))
            if n % 10 == 9:
                await live.learn()


async def test_a_replay_draws_what_was_learned_and_finds_the_same_weights(tmp_path):
    await small(tmp_path / "data")
    drawn = await replay(tmp_path / "data", "--plot", tmp_path / "out.svg")
    assert drawn == await replay(tmp_path / "data")
    text = (tmp_path / "out.svg").read_text()
    for words in ("Sum of losses", "persistence", "The whole series", "stream "):
        assert words in text
    assert "nan" not in text.lower()
    code, said = await replay(tmp_path / "data", "--plot", tmp_path / "out.pdf")
    assert (code, "end the name in" in said) == (2, True)


async def test_a_version_with_other_weights_than_the_journal_gives_is_named(tmp_path):
    await small(tmp_path)
    with sqlite3.connect(tmp_path / "versions.db") as sql:
        sql.execute("UPDATE versions SET weights_digest = ? WHERE number = 4", ("0" * 64,))
    sql.close()

    code, text = await replay(tmp_path)

    assert code == 1
    assert "1 are NOT: version 4" in text


async def test_what_cannot_be_learned_again_is_said_in_a_line(tmp_path):
    await small(tmp_path)
    no_file = await replay(tmp_path, "--from", tmp_path / "none.db")
    no_data = await replay(tmp_path / "nowhere")
    [segment] = (tmp_path / "journal").glob("*.journal")
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    damaged = await replay(tmp_path)

    for code, text in (no_file, no_data, damaged):
        assert code == 2
        assert text.startswith("freshet: ")
        assert len(text.splitlines()) == 1
    assert "freshet journal check" in damaged[1]
