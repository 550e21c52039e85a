"""Pictures of replays: whole files, which show everything, hold nothing foreign, and load nothing."""

import io
import re
import subprocess
import sys
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from service.common.errors import Invalid
from service.programs.plots.figure import Band, Dash, Figure, Kind, Line, Mark, Panel, Role, Span, Table
from service.programs.plots.layout import laid_out
from service.programs.plots.output import check_plot, write_plot
from service.programs.plots.page import page
from service.programs.plots.png import SCALE, png
from service.programs.plots.scales import number_ticks, time_ticks, widened
from service.programs.plots.svg import svg
from service.programs.plots.texts import fitted, width_of
from service.programs.plots.thinning import PER_COLUMN, envelope, thinned

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "<img src=x onerror=\"alert('1')\"> & ]]> \x00\x1b \ud800 ünï 値"


def figure(n: int = 1000, name: str = "rides", timed: bool = True) -> Figure:
    x = np.arange(n, dtype=np.float64) * (1800.0 if timed else 1.0) + (1.4e9 if timed else 0.0)
    y = np.sin(np.arange(n) / 7) * 100
    lines = [Line("truth", Role.TRUTH, x, y), Line(name, Role.SERVED, x, y + 5, Dash.DASHED, "0.5")]
    bands = [Band("0.8 interval", Role.SERVED, x, y - 9, y + 9)]
    marks = [Mark(float(x[n // 2]), kind) for kind in Kind]
    panels = [
        Panel("The whole", "About it.", name, timed, lines, bands, marks, [Span(float(x[0]), float(x[-1]), name)]),
        Panel("Left", "", name, timed, lines, wide=False),
        Panel("Right", "", name, timed, lines, wide=False, y_least=0.0, y_most=50.0),
    ]
    return Figure(f"Backtest of {name}", f"What {name} shows.", panels, [Table("Errors", ("a", "b"), [(name, name)])])


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def elements(root: ElementTree.Element, *classes: str) -> list[ElementTree.Element]:
    return [e for e in root.iter() if set(classes) <= set(e.get("class", "").split())]


@pytest.mark.parametrize("timed", [True, False])
def test_an_svg_is_well_formed_and_shows_every_series_band_and_mark(timed):
    text = svg(laid_out(figure(timed=timed)))
    root = parsed(text)
    assert root.tag == f"{SVG}svg"
    assert [child.tag for child in root[:2]] == [f"{SVG}title", f"{SVG}desc"]
    assert root.get("aria-labelledby") == f"{root[0].get('id')} {root[1].get('id')}"
    ways = {role: len(elements(root, "line", role)) for role in (Role.TRUTH, Role.SERVED)}
    assert ways[Role.TRUTH] >= 3 + 3, "a line in each panel, and its sample in the legend"
    assert ways[Role.SERVED] >= 3 + 3
    assert len(elements(root, "area", Role.SERVED)) == 2
    assert {kind for kind in Kind if elements(root, "mark", kind)} == set(Kind)
    assert not re.search(r"\b(nan|inf)\b", text, re.I)


def test_what_is_missing_interrupts_a_line_and_leaves_no_nan():
    x, y = np.arange(9.0), np.array([1, 2, np.nan, 3, np.nan, np.nan, 4, 5, np.nan])
    panel = Panel("", "", "", False, [Line("a", Role.TRUTH, x, y)], [Band("b", Role.SERVED, x, y - 1, y + 1)])
    text = svg(laid_out(Figure("", "", [panel])))
    root = parsed(text)
    assert len(elements(root, "line", Role.TRUTH)) == 3 + 1, "three runs, one of one value, and the legend's sample"
    assert len(elements(root, "area", Role.SERVED)) == 3 + 1
    assert "nan" not in text.lower()


@pytest.mark.parametrize(
    "y", [np.full(5, np.nan), np.zeros(0), np.full(5, 7.0), np.full(1, -3.0), np.array([-1e30, 1e30])]
)
def test_series_of_nothing_of_one_value_and_of_huge_values_are_drawn(y):
    panel = Panel("", "", "", False, [Line("a", Role.TRUTH, np.arange(float(len(y))), y)])
    text = svg(laid_out(Figure("t", "s", [panel, Panel("none", "", "", True)])))
    parsed(text)
    assert "nothing to show" in text
    assert not re.search(r"\b(nan|inf)\b", text)


def test_hostile_names_are_text_in_every_kind_of_file():
    made = figure(name=HOSTILE)
    drawing = laid_out(made)
    picture, whole = svg(drawing), page(made, drawing)
    root = parsed(picture)
    assert "<img" not in picture + whole
    assert any("<img src=x onerror" in (e.text or "") for e in root.iter(f"{SVG}text"))
    assert f"<td>{'&lt;img src=x onerror=&quot;alert(&#x27;1&#x27;)&quot;&gt;'}" in whole
    assert "\x00" not in picture + whole
    (picture + whole).encode()  # no lone surrogate is left
    png(drawing)


def test_a_page_loads_nothing_and_runs_nothing():
    made = figure()
    text = page(made, laid_out(made))
    assert not re.search(r"<script|@import|url\(", text)
    assert not re.search(r"\b(src|href|on\w+)\s*=", text)
    links = set(re.findall(r"https?://[^\s\"'<>]+", text))
    assert links == {"http://www.w3.org/2000/svg"}, "the namespace, which nothing loads"
    assert "default-src 'none'" in text
    for table in made.tables:
        assert all(cell in text for row in table.rows for cell in row)


def test_a_png_has_the_size_of_the_drawing_and_the_colours_of_its_lines(tmp_path):
    made = figure()
    write_plot(made, tmp_path / "a.png")
    drawing = laid_out(made)
    with Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())) as image:
        assert image.size == (drawing.width * SCALE, drawing.height * SCALE)
        colours = {colour for count, colour in image.getcolors(1 << 24) or [] if count > 50}
    assert {(0x00, 0x72, 0xB2), (0x1A, 0x1A, 0x1A), (0xFF, 0xFF, 0xFF)} <= colours


@pytest.mark.parametrize("kind", ["svg", "html"])
def test_a_hundred_thousand_rows_fit_into_300_kB(tmp_path, kind):
    random = np.random.default_rng(0)
    x = 1.4e9 + 60 * np.arange(100_000.0)
    lines = [Line(str(n), Role.OTHER, x, random.normal(size=len(x)).cumsum()) for n in range(6)]
    walk = random.normal(size=len(x))
    noisy = Panel("", "", "", True, [Line("a", Role.TRUTH, x, walk)], [Band("b", Role.TRUTH, x, walk, walk)])
    write_plot(Figure("", "", [Panel("", "", "", True, lines), noisy, noisy]), tmp_path / f"a.{kind}")
    assert (tmp_path / f"a.{kind}").stat().st_size < 300_000


values = st.lists(st.one_of(st.floats(-1e9, 1e9), st.just(np.nan)), min_size=1, max_size=300)


@given(values, st.integers(1, 40), st.randoms(use_true_random=False))
@example([1.0, -0.0, np.nan, 0.0, np.nan, np.nan, np.nan, np.nan, 0.0], 1, Random(0))
def test_thinning_keeps_the_extremes_of_every_column_and_the_order(y, columns, random):
    x = np.cumsum([random.choice([0.0, 0.1, 1.0, 50.0]) for _ in y])
    given_y = np.array(y)
    thin_x, thin_y = thinned(x, given_y, columns)
    assert len(thin_x) <= PER_COLUMN * columns or len(thin_x) == len(x) <= PER_COLUMN * columns
    assert (np.diff(thin_x) >= 0).all()
    pairs = set(zip(x.tolist(), given_y.tolist(), strict=True))
    assert all((a, b) in pairs or np.isnan(b) for a, b in zip(thin_x.tolist(), thin_y.tolist(), strict=True))
    for extreme in (np.fmin, np.fmax):
        # As an array: for scalars, `assert_equal` tells -0.0 from 0.0, of which neither is more extreme.
        np.testing.assert_array_equal(extreme.reduce(thin_y, keepdims=True), extreme.reduce(given_y, keepdims=True))


@given(values, st.integers(1, 40))
def test_an_envelope_contains_every_value(y, columns):
    x, low = np.arange(float(len(y))), np.array(y)
    at, least, most = envelope(x, low, low + 1, columns)
    assert len(at) <= max(columns, 1) or len(at) == len(x)
    for row, value in zip(x, low, strict=True):
        column = np.flatnonzero(at <= row)[-1]
        assert np.isnan(value) or least[column] <= value <= value + 1 <= most[column]


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12), st.integers(1, 12))
def test_ticks_are_round_numbers_inside_their_axis(low, width, most):
    low, high = widened(low, low + width)
    ticks = number_ticks(low, high, most)
    room = (high - low) * 1e-6
    assert len(ticks) <= 2 * most + 2
    assert all(low - room <= tick.value <= high + room for tick in ticks)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        ("2014-07-01T00:00", "2014-07-01T06:00", {"Jul 1", "01:00", "05:00"}),
        ("2014-07-01T10:00", "2014-07-05T00:00", {"Jul 2", "Jul 5"}),
        ("2014-07-01", "2015-02-01", {"Jul", "Nov", "2015"}),
        ("2000-01-01", "2024-01-01", {"2005", "2020"}),
    ],
)  # fmt: skip
def test_times_have_ticks_at_round_moments(low, high, labels):
    begin, end = (float(np.datetime64(moment, "s").astype(np.int64)) for moment in (low, high))
    found = time_ticks(begin, end)
    assert labels <= {tick.label for tick in found}, found
    assert len(found) <= 9


@given(st.floats(-1e15, 1e15), st.floats(1e-3, 1e13))
def test_any_range_of_times_has_ticks_without_an_error(low, width):
    assert len(time_ticks(*widened(low, low + width))) <= 100


@given(st.text(), st.floats(20, 300))
def test_a_fitted_text_is_no_wider_than_its_place(text, width):
    assert width_of(fitted(text, width, 12), 12) <= max(width, width_of("…", 12))


@pytest.mark.parametrize(
    ("name", "why"),
    [("a.pdf", "end the name in"), ("plot", "end the name in"), ("folder.svg", "cannot be written"),
     ("none/a.svg", "cannot be written")],
)  # fmt: skip
def test_a_picture_that_cannot_be_written_is_refused(tmp_path, name, why):
    (tmp_path / "folder.svg").mkdir()
    with pytest.raises(Invalid, match=why) as refused:
        check_plot(tmp_path / name)
    assert refused.value.field == "plot"


def test_a_check_leaves_no_file_and_no_change(tmp_path):
    kept = tmp_path / "kept.svg"
    kept.write_text("as before")
    for path in (kept, tmp_path / "new.HTML", None):
        check_plot(path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"kept.svg": "as before"}


def test_png_without_pillow_is_refused_by_the_name_of_the_extra():
    code = (
        "import sys, pathlib; sys.modules['PIL'] = None\n"
        "import service.programs.plots.output as output\n"
        "output.find_spec = lambda name: None if name == 'PIL' else 1/0\n"
        "output.check_plot(pathlib.Path('a.svg'))\n"
        "output.check_plot(pathlib.Path('a.png'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert "freshet-server[plot]" in done.stderr, done.stderr
    assert not Path("a.svg").exists()
