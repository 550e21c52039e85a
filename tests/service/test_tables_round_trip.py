"""What is written in any of many forms is read back as it was, or refused: never read wrong."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from service.programs.backtest.series import Series, every_series
from service.programs.tables.layout import lay_out
from service.programs.tables.options import Options
from service.programs.tables.reading import read
from service.programs.tables.recording import Recording
from service.programs.tables.table import Table
from service.programs.tables.times.errors import TableError
from tests import memory
from tests.conftest import examples

TOKYO = timezone(timedelta(hours=9))
EXCEL = datetime(1899, 12, 30, tzinfo=UTC)

# How a moment is written, and which options say so where the cells alone may leave it open.
TIMES: dict[str, tuple[Any, dict[str, Any]]] = {
    "iso": (lambda t: t.strftime("%Y-%m-%d %H:%M:%S"), {}),
    "iso Z": (lambda t: t.strftime("%Y-%m-%dT%H:%M:%SZ"), {}),
    "offset": (lambda t: t.astimezone(tz=TOKYO).isoformat(), {}),
    "slashes": (lambda t: t.strftime("%Y/%m/%d %H:%M"), {}),
    "day first": (lambda t: t.strftime("%d/%m/%Y %H:%M"), {"day_first": True}),
    "month first": (lambda t: t.strftime("%m/%d/%Y %I:%M %p"), {"day_first": False}),
    "points": (lambda t: t.strftime("%d.%m.%Y %H:%M"), {}),
    "names": (lambda t: t.strftime("%d-%b-%Y %H:%M"), {}),
    "digits": (lambda t: t.strftime("%Y%m%d%H%M"), {}),
    "seconds": (lambda t: str(int(t.timestamp())), {}),
    "milliseconds": (lambda t: str(int(t.timestamp()) * 1000), {}),
    "microseconds": (lambda t: str(int(t.timestamp()) * 10**6), {}),
    "nanoseconds": (lambda t: str(int(t.timestamp()) * 10**9), {}),
    "excel": (lambda t: f"{(t - EXCEL).total_seconds() / 86400:.9f}", {}),
}


def grouped(value: float, decimals: int, thousands: str, mark: str) -> str:
    text = f"{value:,.{decimals}f}"
    return text.replace(",", "T").replace(".", mark).replace("T", thousands)


NUMBERS: dict[str, Any] = {
    "plain": lambda v, d: f"{v:.{d}f}",
    "comma": lambda v, d: grouped(v, d, "", ","),
    "thousands": lambda v, d: grouped(v, d, ",", "."),
    "points": lambda v, d: grouped(v, d, ".", ","),
    "spaces": lambda v, d: grouped(v, d, " ", "."),
    "percent": lambda v, d: f"{v:.{d}f} %",
}


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, dict[str, Any], list[datetime], np.ndarray, int]:
    """(bytes, options, times, values [N, C] rounded as written, C)."""
    step = draw(st.sampled_from([timedelta(minutes=1), timedelta(minutes=15), timedelta(hours=1), timedelta(days=1)]))
    start = datetime(2015, 1, 1, tzinfo=UTC) + draw(st.integers(0, 3650)) * timedelta(days=1)
    start += draw(st.integers(0, 95)) * timedelta(minutes=15)
    count, width = draw(st.integers(3, 40)), draw(st.integers(1, 3))
    times = [start + n * step for n in range(count)]
    write_time, options = TIMES[draw(st.sampled_from(sorted(TIMES)))]
    decimals = draw(st.integers(0, 4))
    value = st.integers(-(10**8), 10**8).map(lambda v: v / 10**decimals)
    values = np.array(draw(st.lists(st.lists(value, min_size=width, max_size=width), min_size=count, max_size=count)))
    kind = draw(st.sampled_from(sorted(NUMBERS)))
    # Whole numbers with points between thousands are plain numbers too: nothing in the file says that they are not.
    kind = "thousands" if kind == "points" and not decimals else kind
    # Nor that commas before three digits are not decimal ones, in each number of a column between semicolons.
    delimiters = ",\t|" if kind == "thousands" and (np.abs(values) >= 1000).all(axis=0).any() else ",;\t|"
    number = NUMBERS[kind]
    options = options | ({"decimal": "comma"} if kind in ("comma", "points") else {"decimal": "point"})
    if draw(st.booleans()):
        options = {name: said for name, said in options.items() if name == "time"}  # all is to be found, or refused
    header = ["time", *(draw(st.sampled_from([f"v{c}", f"v {c}, kW", f"Größe {c}"])) for c in range(width))]
    cells = [
        [write_time(t), *(number(v, decimals) for v in row)] for t, row in zip(times, values.tolist(), strict=True)
    ]
    out = io.StringIO()
    writer = csv.writer(
        out, delimiter=draw(st.sampled_from(delimiters)), lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
        quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
    )  # fmt: skip
    trailing = draw(st.booleans())
    for row in [header, *cells]:
        writer.writerow([*row, ""] if trailing else row)
    text = ("# exported\n" if draw(st.booleans()) else "") + out.getvalue()
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))), options, times, values, width


def read_or_refused(data: bytes, options: dict[str, Any]) -> tuple[Recording, Series] | TableError:
    with TemporaryDirectory(dir=memory.folder()) as folder:
        file = Path(folder) / "file.csv"
        file.write_bytes(data)
        try:
            recording = read(file, Options(time="time", **options))
            return recording, every_series(recording, None, False)[0]
        except TableError as refused:
            return refused


def table_or_refused(text: str) -> Table | TableError:
    try:
        return lay_out(text)
    except TableError as refused:
        return refused


@examples(300)
@given(files())
def test_a_file_is_read_as_it_was_written_or_refused_where_it_leaves_something_open(made):
    data, options, times, values, width = made
    found = read_or_refused(data, options)
    if isinstance(found, TableError):
        questions = ("--day-first", "--decimal", "decimal mark", "day, where the column", "--sort")
        assert not options
        assert any(question in str(found) for question in questions), found
        return
    recording, series = found
    assert len(recording.describe().splitlines()) == 1
    assert series.x.shape[1] == width
    written = [t.timestamp() for t in times]
    assert series.time is not None
    np.testing.assert_allclose(series.time, written, atol=1e-3)
    np.testing.assert_allclose(series.x, values, rtol=1e-6, atol=1e-6)


@examples(300)
@given(st.text(alphabet=st.sampled_from('ab1,.;|\t\n\r"#% \u00a0-:/NaN\x00é'), max_size=200))
def test_whatever_the_text_a_table_comes_of_it_or_a_named_refusal(text):
    found = table_or_refused(text)
    if isinstance(found, TableError):
        assert found.field
        assert found.remedy
    else:
        assert all(len(cells) == len(found) for cells in found.columns)
        assert len(set(found.header)) == len(found.header) == len(found.columns)
