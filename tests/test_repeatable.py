"""Each run tries the same examples of every property: one that fails elsewhere fails here."""

from __future__ import annotations

import importlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.internal.conjecture import providers

from tests.conftest import CONSTANTS_OF_MODULES


@pytest.fixture(autouse=True)
def _no_seed(pytestconfig):
    if pytestconfig.getoption("--hypothesis-seed") is not None:
        pytest.skip("a seed asks for other examples")


def drawn() -> list[list[str]]:
    """Return the examples of a property, printed: NaN is not equal to itself."""
    examples: list[list[str]] = []

    @given(st.lists(st.floats(), min_size=40, max_size=40))
    def draw(values: list[float]) -> None:
        examples.append([repr(value) for value in values])

    draw()
    return examples


def import_constants(monkeypatch, folder, first: int) -> None:
    """Import a module with numbers that no other has, as a test does that is the first to need a room."""
    name = f"freshet_constants_{first}"
    (folder / f"{name}.py").write_text(f"NUMBERS = {[first + n + 0.123456789 for n in range(100)]}\n")
    monkeypatch.syspath_prepend(folder)
    importlib.import_module(name)


def test_examples_are_the_same_whatever_has_been_imported(tmp_path, monkeypatch):
    before = drawn()
    import_constants(monkeypatch, tmp_path, 1000)
    assert len(before) >= 25
    assert drawn() == before


def test_constants_of_imported_modules_would_be_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(providers, "_get_local_constants", CONSTANTS_OF_MODULES)
    monkeypatch.setattr(providers, "CONSTANTS_CACHE", type(providers.CONSTANTS_CACHE)(1024))  # a cache of them
    before = drawn()
    import_constants(monkeypatch, tmp_path, 2000)
    assert drawn() != before
