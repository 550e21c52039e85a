"""Sizes of functions and classes, and the measurements of `tests.layout` on a small tree with known answers."""

from pathlib import Path

import pytest

from tests import layout

ROOT = Path(__file__).resolve().parents[1]
# Lists that stand in one place: one statement per entry, nothing to follow.
TABLES = {
    "service.cli.train:train": "one option per argument",
    "service.cli.backtest:backtest": "one option per argument",
}
LARGE_CLASSES = {
    "service.journal.writer:Journal": "the one writer: its state is one invariant",
    "model.fold.learner:Learner": "the fold: its state is one checkpoint",
    "freshet.engine:Engine": "the SDK's calls and tasks of one stream",
    "freshet.mux:Mux": "the SDK's calls and tasks of one packed call",
}


@pytest.fixture(scope="module")
def ours():
    return layout.modules(ROOT)


def longer(found, kinds, most):
    return {size.name for size in layout.sizes(found, kinds) if size.lines > most}


def test_no_function_is_long_but_tables(ours):
    found = longer(ours, layout.FUNCTIONS, layout.LONG_FUNCTION)
    assert not found - TABLES.keys(), f"carve them: more than {layout.LONG_FUNCTION} lines"
    assert not TABLES.keys() - found, "remove them from TABLES: they are short enough"


def test_no_class_is_large_but_those_named(ours):
    found = longer(ours, layout.CLASSES, layout.LONG_CLASS)
    assert not found - LARGE_CLASSES.keys(), f"carve them: more than {layout.LONG_CLASS} lines"
    assert not LARGE_CLASSES.keys() - found, "remove them from LARGE_CLASSES: they are small enough"


def write(root, **sources):
    for name, source in sources.items():
        path = root.joinpath(*name.split("__")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(source, encoding="utf-8")


def test_a_loose_module_is_a_room_and_so_is_a_folder(tmp_path):
    write(
        tmp_path, model__spec="", model__cells__lstm="import model.spec", service__disk__copy="from model import spec"
    )
    found = layout.modules(tmp_path)
    assert layout.rooms(found) == {"model.spec", "model.cells", "service.disk"}
    assert layout.arrows(found) == {("model.cells", "model.spec"), ("service.disk", "model.spec")}
    assert layout.floors(layout.rooms(found), layout.arrows(found)) == 2


def test_rooms_that_import_each_other_are_a_knot(tmp_path):
    write(
        tmp_path,
        service__a__one="from service.b import two",
        service__b__two="import service.c.three",
        service__c__three="from service.a.one import name\nfrom service.d import four",
        service__d__four="",
    )
    pairs = layout.arrows(layout.modules(tmp_path))
    assert layout.knots(pairs) == [{"service.a", "service.b", "service.c"}]
    assert (layout.upward(pairs), layout.floors({"service.a"}, pairs)) == (1, 2)


def test_a_function_is_measured_with_its_signature_and_named_with_its_class(tmp_path):
    write(tmp_path, model__one="class A:\n    def f(self):\n        x = 1\n        return x\n")
    assert layout.sizes(layout.modules(tmp_path), layout.FUNCTIONS) == [(3, "model.one:A.f")]
