"""A real server on a journal that is kept short: it stays bounded, and a trainer.db that is lost costs no stream."""

from __future__ import annotations

from pathlib import Path

import freshet
from freshet import EventKind
from tests.journeys import crash
from tests.journeys.crash import SMALL, kill_trainer, walk, within
from tests.journeys.scraped import scrape, scraped_until

CAP = 32768
CANNOT_START = """
import os, sys
if "service.trainer.process" in sys.orig_argv and os.path.exists({broken!r}):
    os._exit(7)
"""
SHORT = {"segment_bytes": 4096, "journal_keep_bytes": 0, "snapshot_s": 0.1}


async def stream(client: freshet.Client, ticks: int, seed: int) -> list[freshet.Forecast]:
    """So many more ticks of one stream, all judged."""
    async with client.stream("flow", "pump") as pump:
        before = pump.next_seq
        forecasts = [forecast async for forecast in pump.forecasts(walk(ticks, seed))]
        await within(pump.durable())
        await within(pump.wait_judged(forecasts[-1].seq))
    assert [forecast.seq for forecast in forecasts] == list(range(before, before + ticks))
    return forecasts


async def test_a_journal_stays_short_and_a_lost_checkpoint_costs_no_stream(tmp_path):
    async with crash.a_server(tmp_path, **SHORT) as server, freshet.connect(server.grpc) as client:
        await client.create_model("flow", **SMALL)
        for round in range(4):
            await stream(client, 200, round)
        await scraped_until(server.http, lambda seen: seen.total("freshet_journal_segments_dropped_total") >= 2)
        kept = sum(path.stat().st_size for path in (server.data / "journal").glob("*.journal"))
        position = (await scrape(server.http)).total("freshet_journal_position_bytes")
        assert kept < position

        server.kill()
        await within(server.wait())
        lose_checkpoint(server.data)
        await server.start()
        after = await stream(client, 200, 9)

        assert [forecast.seq for forecast in after] == list(range(801, 1001))
        events = await client.history("flow")
        assert [e.reason for e in events if e.kind == EventKind.SKIPPED]

        kill_trainer(server)  # and the checkpoint that it has made since is one like any other
        assert (await stream(client, 100, 10))[0].version > after[0].version, "it learns and publishes again"
        events = await client.history("flow")
        assert len([e for e in events if e.kind == EventKind.SKIPPED]) == 1


async def test_a_trainer_that_cannot_start_does_not_hold_the_journal(tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    crash.mutate(monkeypatch, tmp_path, CANNOT_START.format(broken=str(broken)))
    async with (
        crash.a_server(tmp_path, **SHORT, journal_cap_bytes=CAP) as server,
        freshet.connect(server.grpc) as client,
    ):
        await client.create_model("flow", **SMALL)
        await stream(client, 100, 0)
        broken.touch()
        kill_trainer(server)
        async with client.stream("flow", "pump") as pump:
            before = (await scrape(server.http)).total("freshet_journal_position_bytes")
            while (await scrape(server.http)).total("freshet_journal_position_bytes") < before + 3 * CAP:
                assert [forecast.seq async for forecast in pump.forecasts(walk(100, 1))]
                await within(pump.durable())
            assert pump.reconnects == 0
        seen = await scraped_until(server.http, lambda seen: seen.total("freshet_journal_bytes") < 2 * CAP)
        assert seen.total("freshet_entries_skipped_total", model="flow") > 0
        [event, *_] = [e for e in await client.history("flow") if e.kind == EventKind.SKIPPED]
        assert "journal_cap_bytes" in event.reason

        broken.unlink()
        assert (await stream(client, 100, 2))[-1].version, "and it is judged: the trainer learns again"


def lose_checkpoint(data: Path) -> None:
    for path in data.glob("trainer.db*"):
        path.unlink(missing_ok=True)  # the trainer may be closing it: its server is dead
