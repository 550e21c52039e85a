"""Models and processes: who learns what, and checkpoints that follow when the number of processes changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from service.common.names import ModelKey
from service.trainer import placing
from service.trainer.checkpoint import Checkpoints
from service.trainer.hosting import HostedModel
from service.trainer.placing import checkpoint_file, checkpoint_files, move, place, processes
from tests.journeys.test_formats import RELEASES, unpacked
from tests.service.histories import GATE, create, digest

KEYS = {n: ModelKey("default", f"model-{n}") for n in range(1, 9)}


def test_auto_leaves_serving_a_core_and_there_is_always_one():
    assert [processes("auto", cores) for cores in (1, 2, 3, 8)] == [1, 1, 2, 7]
    assert processes(3, 1) == 3


def test_a_process_more_takes_models_only_to_itself():
    keys = [ModelKey("acme", f"m{n}") for n in range(500)]
    for n in range(1, 8):
        before, after = [place(key, n) for key in keys], [place(key, n + 1) for key in keys]
        moved = [b for a, b in zip(before, after, strict=True) if a != b]
        assert set(moved) == {n}
        assert 0.5 < len(moved) * (n + 1) / len(keys) < 1.6, "about its share"
    assert [place(ModelKey("acme", "flow"), 4), place(ModelKey("acme", "heat"), 4)] == GOLDEN, "for good"


GOLDEN = [1, 0]


def stored(data: Path) -> dict[int, tuple[str, int]]:
    """By model, what is stored of it, and in which file."""
    found: dict[int, tuple[str, int]] = {}
    for n, path in checkpoint_files(data).items():
        store = Checkpoints(path)
        for number, hosted in store.load(GATE)[1].items():
            assert number not in found, "a model is in two files"
            found[number] = digest(hosted), n
        store.close()
    return found


def positions(data: Path) -> list[int | None]:
    found = []
    for path in checkpoint_files(data).values():
        store = Checkpoints(path)
        found.append(store.held().position)
        store.close()
    return found


def saved(data: Path, position: int = 700) -> dict[int, str]:
    """A data directory as one trainer leaves it; what each model is."""
    data.mkdir(exist_ok=True)
    store = Checkpoints(data / "trainer.db")
    models = [HostedModel.create(n, create(), GATE) for n in KEYS]
    for hosted in models:
        hosted.learner.weights.flat[...] += hosted.number
        hosted.offset = hosted.number
    store.save(position, models)
    store.close()
    return {hosted.number: digest(hosted) for hosted in models}


def test_models_move_with_all_that_is_stored_of_them_and_back(tmp_path):
    expected = saved(tmp_path / "data")
    for count in (3, 5, 2, 1):
        move(tmp_path / "data", count, KEYS, whole=True)

        found = stored(tmp_path / "data")
        assert {number: what for number, (what, _) in found.items()} == expected
        assert {number: n for number, (_, n) in found.items()} == {n: place(key, count) for n, key in KEYS.items()}
        assert list(checkpoint_files(tmp_path / "data")) == list(range(count))
        assert set(positions(tmp_path / "data")) == {700}
        assert move(tmp_path / "data", count, KEYS, whole=True) == 0


def test_all_go_on_at_the_first_position_that_one_needs(tmp_path):
    """A model may have been created behind one checkpoint's position and before that of the file that it moves to."""
    data = tmp_path / "data"
    saved(data)
    move(data, 2, KEYS, whole=True)
    store = Checkpoints(data / checkpoint_file(1))
    store.set_position(300)
    store.close()

    move(data, 1, KEYS, whole=True)
    assert positions(data) == [300]


class Killed(BaseException):
    pass


def cut_short(data: Path, count: int, step: int) -> bool:
    """Whether a move to so many processes was killed at its `step`-th change of a file; it is done without one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("set_position", "take_over", "drop"):
            plain = getattr(Checkpoints, name)

            def dies(self, *args, plain=plain):
                nonlocal step
                step -= 1
                if step < 0:
                    raise Killed
                return plain(self, *args)

            patch.setattr(Checkpoints, name, dies)
        try:
            move(data, count, KEYS, whole=True)
        except Killed:
            return True
    return False


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (3, 1)])
def test_a_move_that_is_cut_short_anywhere_is_done_again(tmp_path, before, after):
    step, expected = 0, saved(tmp_path / "first")
    move(tmp_path / "first", before, KEYS, whole=True)
    while cut_short(shutil.copytree(tmp_path / "first", data := tmp_path / f"{step}"), after, step):
        move(data, after, KEYS, whole=True)

        found = stored(data)
        assert {number: what for number, (what, _) in found.items()} == expected
        assert {number: n for number, (_, n) in found.items()} == {n: place(key, after) for n, key in KEYS.items()}
        assert set(positions(data)) == {700}
        step += 1
    assert step > 5


def test_a_lost_file_is_learned_again_from_the_start_where_the_journal_has_it(tmp_path):
    data = tmp_path / "data"
    saved(data)
    move(data, 2, KEYS, whole=True)
    (data / checkpoint_file(1)).unlink()
    shutil.copytree(data, tmp_path / "short")

    move(data, 2, KEYS, whole=True)
    move(tmp_path / "short", 2, KEYS, whole=False)

    assert positions(data) == [700, 0]
    assert positions(tmp_path / "short") == [700, 700], "its process finds that it lacks them, and begins anew"


def test_a_damaged_file_is_left_as_it_is_for_its_process(tmp_path):
    data = tmp_path / "data"
    saved(data)
    move(data, 2, KEYS, whole=True)
    (data / checkpoint_file(1)).write_bytes(b"no database" * 1000)

    move(data, 3, KEYS, whole=True)

    assert (data / checkpoint_file(1)).read_bytes().startswith(b"no database")


def test_a_data_directory_of_an_earlier_release_stays_as_it_is_with_one_process_and_moves_to_more(tmp_path):
    data = unpacked(RELEASES[-1], tmp_path)
    before, names = stored(data), {path.name for path in data.iterdir()}
    models = {number: ModelKey("default", f"m{number}") for number in before}

    assert move(data, 1, models, whole=True) == 0
    assert {path.name for path in data.iterdir()} == names
    move(data, 4, models, whole=True)
    assert {number: what for number, (what, _) in stored(data).items()} == {n: what for n, (what, _) in before.items()}


def test_files_of_other_names_are_no_checkpoints(tmp_path):
    for name in ("trainer.db", "trainer-2.db", "trainer-0.db", "trainer-02.db", "trainer.db.damaged-1", "trainer-x.db"):
        (tmp_path / name).touch()

    assert list(checkpoint_files(tmp_path)) == [0, 2]
    assert placing.cores() >= 1
