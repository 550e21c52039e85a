"""`freshet journal`: what a journal holds is told without touching it; a damaged one is cut, never skipped over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.datadir import repair as repairing
from service.datadir.repair import check, repair
from service.journal.log import SegmentLog
from service.journal.records import decode_chunk
from service.journal.segments import HEADER, JournalDamaged
from service.journal.writer import Journal
from service.storage.states import States
from tests.service.one_process import key, world
from tests.service.test_journal import make, replayed
from tests.service.test_recovery import copy_of


def run(*arguments: object):
    return CliRunner().invoke(app, ["journal", *map(str, arguments)])


def files(folder: Path) -> dict[str, bytes]:
    """All but the lock, which names whoever looked last."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def a_journal(data: Path, commits: int = 6, segment_bytes: int = 200) -> list[Path]:
    """Commits of a tick of model 1 and one of model 2 each; its segments."""
    make(data / "journal", commits, segment_bytes=segment_bytes)
    return sorted((data / "journal").glob("*.journal"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    path.write_bytes(data)


def test_check_counts_what_is_there_and_leaves_it_alone(tmp_path):
    segments = a_journal(tmp_path)
    with segments[-1].open("ab") as file:
        file.write(b"torn")
    (tmp_path / "journal" / "00000000000000099999.tmp").write_bytes(b"unfinished")
    before = files(tmp_path)

    told = run("check", tmp_path)

    report = check(tmp_path)
    assert files(tmp_path) == before
    assert (report.segments, report.held, report.torn_bytes) == (len(segments), {1: (0, 6), 2: (0, 6)}, 4)
    assert told.exit_code == 0
    assert "model 1: 6 entries, offsets 0 to 6" in told.output
    assert "torn: 4 bytes" in told.output


async def test_models_are_told_by_name_where_a_record_or_the_snapshot_names_them(tmp_path):
    async with world(tmp_path) as live:
        await live.model()
        await live.snapshot()
    recorded = await asyncio.to_thread(run, "check", tmp_path)

    await asyncio.to_thread(a_journal, tmp_path / "other")  # without a record of a model's creation
    told = (await asyncio.to_thread(run, "check", tmp_path / "other")).output
    shutil.copy(tmp_path / "states.db", tmp_path / "other")

    assert "model 1, flow: " in recorded.output
    assert "model 1: 6 entries" in told
    assert check(tmp_path / "other").names == {1: "default/flow"}


def test_a_damaged_journal_is_refused_with_segment_byte_and_the_command_that_repairs_it(tmp_path):
    segments = a_journal(tmp_path)
    flip(segments[1], HEADER.size + 12)

    with pytest.raises(JournalDamaged) as refused:
        Journal.open(tmp_path / "journal")

    told = run("check", tmp_path)
    assert f"{segments[1]}, byte {HEADER.size}: " in str(refused.value)
    assert f"freshet journal repair {tmp_path}" in str(refused.value)
    assert told.exit_code == 1
    assert str(refused.value) in told.output


@pytest.mark.parametrize("where", ["first", "middle", "header", "missing"])
def test_repair_cuts_before_the_damage_keeps_all_of_the_rest_aside_and_the_journal_goes_on(tmp_path, where):
    segments = a_journal(tmp_path)
    whole, frames = {path.name: path.read_bytes() for path in segments}, replayed(tmp_path / "journal")
    broken = {"first": 0, "middle": 2, "header": 1, "missing": 2}[where]
    if where == "missing":
        segments[1].unlink()
    else:
        flip(segments[broken], 9 if where == "header" else len(whole[segments[broken].name]) - 3)
    damaged = files(tmp_path / "journal")
    report = check(tmp_path)

    told = run("repair", tmp_path)

    [quarantine] = tmp_path.glob("quarantine-*")
    kept = replayed(tmp_path / "journal")
    assert told.exit_code == 0
    assert kept == frames[: len(kept)]
    assert len(kept) < len(frames)
    assert {name: damaged[name] for name in files(quarantine)} == files(quarantine)
    assert set(files(quarantine)) == {path.name for path in segments[broken:]}
    kept_of = {m: sum(1 for _, chunk in kept if decode_chunk(chunk).model == m) for m in (1, 2)}
    for model, (first, end) in report.lost.items():
        assert (first, end) == (kept_of[model], 6)
        assert f"model {model}: after the damage, {end - first} entries, offsets {first} to {end}" in told.output
    make(tmp_path / "journal", commits=1)  # it takes new entries
    assert replayed(tmp_path / "journal")[: len(kept)] == kept


def test_what_is_behind_damage_within_a_segment_is_told_and_not_used(tmp_path):
    [segment] = a_journal(tmp_path, segment_bytes=1 << 20)
    frames = replayed(tmp_path / "journal")
    flip(segment, HEADER.size + frames[3][0] + 20)  # in the fifth frame: commit three, model 1

    report, quarantine = repair(tmp_path, "aside")

    assert replayed(tmp_path / "journal") == frames[:4]
    assert report.lost == {1: (2, 6), 2: (2, 6)}
    assert quarantine is not None
    assert (quarantine / segment.name).stat().st_size > segment.stat().st_size


def test_repair_leaves_a_whole_journal_alone(tmp_path):
    a_journal(tmp_path)
    before = files(tmp_path)

    told = run("repair", tmp_path)

    assert (told.exit_code, files(tmp_path)) == (0, before)
    assert "nothing to repair" in told.output


def test_neither_works_beside_a_server_or_without_a_journal(tmp_path):
    segments = a_journal(tmp_path)
    flip(segments[1], HEADER.size + 12)
    lock = SegmentLog(tmp_path / "elsewhere", 1)
    shutil.rmtree(tmp_path / "journal")
    (tmp_path / "elsewhere").rename(tmp_path / "journal")

    with contextlib.closing(lock):
        told = [run(verb, tmp_path) for verb in ("check", "repair")]

    for one in told:
        assert one.exit_code == 2
        assert "lock: in use by process" in one.output
    assert run("check", tmp_path / "nothing").exit_code == 2


def test_a_repair_that_is_killed_anywhere_has_lost_nothing_and_can_be_done_again(tmp_path, monkeypatch):
    segments = a_journal(tmp_path / "data")
    whole = {path.name: path.read_bytes() for path in segments}
    flip(segments[1], 60)
    damaged = {path.name: path.read_bytes() for path in segments}
    frames = None
    for calls in range(1, 100):
        data = tmp_path / f"killed-{calls}"
        shutil.copytree(tmp_path / "data", data)
        with monkeypatch.context() as patch:
            done = killed_after(calls, patch)
            with contextlib.suppress(KeyboardInterrupt):
                repair(data, "aside")
        if "killed" not in done:
            break
        left = {path.name: path.read_bytes() for path in (data / "journal").glob("*.journal")}
        for name, content in damaged.items():  # where it was, or copied
            assert content in (left.get(name), (data / "aside" / name).read_bytes() if name not in left else content)
        repair(data, "again")
        frames = frames or replayed(data / "journal")
        assert replayed(data / "journal") == frames
    assert calls > 5, "the loop has met every step"
    assert whole[segments[0].name] == segments[0].read_bytes()


def killed_after(calls: int, patch: pytest.MonkeyPatch) -> list[str]:
    """The repair ends in the middle, before its step number `calls` that changes a file or syncs; the steps done."""
    done: list[str] = []

    def step(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            if len(done) + 1 == calls:
                done.append("killed")
            if "killed" in done:
                raise KeyboardInterrupt
            done.append(name)
            return original(*args, **kwargs)

        patch.setattr(owner, name, counted)

    step(shutil, "copy2")
    step(os, "fsync")
    step(repairing, "sync_directory")
    step(repairing, "create_segment")
    step(States, "set_position")
    step(Path, "unlink")
    return done


async def test_a_journal_cut_before_the_checkpoint_is_learned_again_to_the_same_weights(tmp_path):
    data = tmp_path / "data"
    async with world(data, keep_versions=10**6) as live:
        model = await live.model()
        session = live.open(model, "pump")
        for n in range(20):
            await live.tick(model, session, float(np.sin(n)))
        await live.learn()
        expected, end = live.trainer.models[1].learner.weights.flat.copy(), live.server.journal.durable_position
        for n in range(20):
            await live.tick(model, session, float(np.sin(n)))
        await live.learn()
        live.trainer.save()
        assert live.trainer.position > end
    cut_frame_after(data, end)

    with pytest.raises(JournalDamaged):
        async with world(data):
            pass
    report, quarantine = await asyncio.to_thread(repair, data, "aside")

    assert set(report.ahead) == {"trainer.db"}
    assert quarantine is not None
    assert (quarantine / "trainer.db").exists()
    async with world(data, keep_versions=10**6) as live:
        await live.learn()
        learned = live.trainer.models[1].learner
        assert live.server.journal.durable_position >= end
        np.testing.assert_array_equal(learned.weights.flat, expected)


def cut_frame_after(data: Path, position: int) -> None:
    """Break the frame that begins at a position of the first segment."""
    flip(min((data / "journal").glob("*.journal")), HEADER.size + position + 20)


async def test_streams_keep_a_snapshot_from_behind_the_damage_and_learning_restarts(tmp_path):
    data = tmp_path / "data"
    async with world(data, segment_bytes=4096) as live:
        model = await live.model()
        session = live.open(model, "pump")
        for n in range(100):
            await live.tick(model, session, float(np.sin(n)))
            await live.server.journal.flush()
        await live.learn()
        live.trainer.save()
        await live.snapshot()
        saved, champion = copy_of(live, tmp_path / "saved"), model.champion
        for n in range(7):
            await live.tick(model, session, float(np.sin(n)))
            await live.server.journal.flush()
    cut_frame_after(data, 0)
    before = files(data)

    told = await asyncio.to_thread(run, "repair", data)

    [quarantine] = data.glob("quarantine-*")
    assert told.exit_code == 0
    assert "model 1, flow: after the damage, 7 entries" in told.output
    aside = files(quarantine)
    for name, content in before.items():  # SQLite may have added a -wal and a -shm of its own
        assert aside.get(name.removeprefix("journal/"), content) == content
        assert not name.startswith(("journal/", "states.db")) or name.removeprefix("journal/") in aside
    assert (await asyncio.to_thread(run, "check", data)).exit_code == 0
    async with world(saved) as expected, world(data) as live:
        answers = []
        await live.start_trainer()
        for one in (expected, live):
            await one.serving.residency.bring(one.serving.catalog.model(key("flow")), ["pump"])
            session = one.open(one.serving.catalog.model(key("flow")), "pump")
            assert (session.last_seq, one.serving.catalog.model(key("flow")).champion) == (100, champion)
            answers.append(
                [(await one.tick(one.serving.catalog.model(key("flow")), session, 0.5)).y for _ in range(40)]
            )
        np.testing.assert_array_equal(answers[0], answers[1])
        verdicts = await live.learn()
        assert verdicts[-1].verdict == "publish"


async def test_a_repair_behind_a_snapshot_that_is_killed_anywhere_can_be_done_again(tmp_path, monkeypatch):
    data = tmp_path / "data"
    async with world(data, segment_bytes=4096) as live:
        model = await live.model()
        session = live.open(model, "pump")
        for n in range(100):
            await live.tick(model, session, float(n))
            await live.server.journal.flush()
        await live.snapshot()
        for n in range(5):
            await live.tick(model, session, float(n))
        await live.learn()
        live.trainer.save()  # ahead of the snapshot: it goes aside too
    cut_frame_after(data, 0)
    for calls in range(1, 100):
        copy = Path(shutil.copytree(data, tmp_path / f"killed-{calls}"))
        with monkeypatch.context() as patch:
            done = killed_after(calls, patch)
            with contextlib.suppress(KeyboardInterrupt):
                repair(copy, "aside")
        if "killed" not in done:
            break
        repair(copy, "again")
        async with world(copy) as live:
            await live.serving.residency.bring(live.serving.catalog.model(key("flow")), ["pump"])
            assert live.open(live.serving.catalog.model(key("flow")), "pump").last_seq == 100
            assert (await live.start_trainer()).position == live.server.journal.durable_position
    assert calls > 5, "the loop has met every step"
