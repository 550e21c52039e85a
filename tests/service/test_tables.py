"""Files as they are: each is read right, or refused by row, line, column, cell and remedy; and said how in one line."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from service.programs.backtest.series import every_series
from service.programs.tables.layout import lay_out
from service.programs.tables.names import chosen, listed
from service.programs.tables.options import Options
from service.programs.tables.reading import read
from service.programs.tables.text import decode
from service.programs.tables.times.errors import TableError


@pytest.fixture
def cases(pytestconfig) -> Path:
    folder = pytestconfig.rootpath.parent / "shared" / "cases"
    if not folder.is_dir():
        pytest.skip("the shared cases are not here")
    return folder


@pytest.fixture
def taken(tmp_path):
    """(times as text in UTC, values [N, C], the line that says how) of a file with this text."""

    def taken(text: str | bytes, columns: str | None = None, **options):
        file = tmp_path / "file.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        recording = read(file, Options(**options))
        (series, *_) = every_series(recording, columns, True)
        shown = [] if series.time is None else [datetime.fromtimestamp(t, UTC).isoformat()[:19] for t in series.time]
        return shown, series.x.tolist(), recording.describe()

    return taken


def rows(*cells: str, header: str = "time,load") -> str:
    return "\n".join([header, *cells]) + "\n"


def hours(form: str, count: int = 5, header: str = "time,load", start: str = "2021-03-04T22:00") -> str:
    """Hourly rows whose time is written by strftime; over midnight, so that a day and a month differ."""
    times = np.datetime64(start) + np.arange(count) * np.timedelta64(1, "h")
    return rows(*(f"{t.astype(datetime).strftime(form)},{n + 0.5}" for n, t in enumerate(times)), header=header)


HOURS = ["2021-03-04T22:00:00", "2021-03-04T23:00:00", "2021-03-05T00:00:00", "2021-03-05T01:00:00"]


@pytest.mark.parametrize(
    ("name", "first", "count", "said"),
    [
        ("08-comma-in-column-name/comma.csv", "2021-01-01T00:00:00Z", 40, "comma-separated"),
        ("12-other-separators-unclear/tab.csv", "2021-01-01T00:00:00Z", 10, "tab-separated"),
        ("12-other-separators-unclear/pipe.csv", "2021-01-01T00:00:00Z", 10, "pipe-separated"),
        ("12-other-separators-unclear/percent.csv", "2021-01-01T00:00:00Z", 10, "load in percent"),
        ("12-other-separators-unclear/thousands.csv", "2021-01-01T00:00:00Z", 10, "thousands"),
        ("13-date-and-hour-columns-and-dst/ampm.csv", "2021-01-01T00:00:00Z", 10, "month/day/year"),
        ("13-date-and-hour-columns-and-dst/date-hour.csv", "2021-01-01T01:00:00Z", 30, "Date, Hour"),
        ("13-date-and-hour-columns-and-dst/date-time.csv", "2021-01-01T00:00:00Z", 30, "Date, Time"),
        ("13-date-and-hour-columns-and-dst/hour24.csv", "2021-01-01T00:00:00Z", 10, "year-month-day"),
        ("13-date-and-hour-columns-and-dst/utc.csv", "2021-01-01T00:00:00Z", 10, "UTC"),
        ("14-missing-words/hash-na.csv", "2021-01-01T00:00:00Z", 20, "1 values missing"),
        ("14-missing-words/pandas-index.csv", "2021-01-01T00:00:00Z", 10, "column 1 numbers the rows"),
        ("14-missing-words/trailing-comma.csv", "2021-01-01T00:00:00Z", 10, "column 3 is empty"),
        ("14-missing-words/units-row.csv", "2021-01-01T00:00:00Z", 9, "line 2 holds units (kW)"),
    ],
)
def test_the_shared_cases_are_read_and_the_line_says_how(cases, name, first, count, said):
    recording = read(cases / name)
    (series,) = every_series(recording, None, True)
    told = recording.describe()
    assert len(told.splitlines()) == 1
    assert said in told
    assert f"{first} to " in told
    assert "a row every 3600 s, no gaps" in told
    assert series.interval == 3600
    assert len(series.x) == count
    assert np.isfinite(series.x).sum() >= series.x.size - 1


def test_the_states_of_home_assistant_are_read_once_its_column_is_named(cases):
    recording = read(cases / "14-missing-words/home-assistant.csv")
    (series,) = every_series(recording, "state", True)
    assert np.isnan(series.x[0, 0])
    with pytest.raises(TableError, match=r"row 0 \(line 2\), column entity_id = sensor.power: .* give --columns state"):
        every_series(recording, None, True)


def test_an_hour_that_comes_twice_is_named_as_the_end_of_summer_time_and_its_zone_reads_it(cases):
    file = cases / "13-date-and-hour-columns-and-dst/dst.csv"
    with pytest.raises(TableError, match=r"row 9 \(line 11\), column time .* --zone"):
        read(file)
    (series,) = every_series(read(file, Options(zone="Europe/Berlin")), None, False)
    assert series.time is not None
    assert set(np.diff(series.time)) == {3600}
    assert datetime.fromtimestamp(series.time[0], UTC).isoformat() == "2021-10-30T16:00:00+00:00"


# --- times


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S UTC", "%Y-%m-%dT%H:%M:%S.%f+00:00",
        "%Y/%m/%d %H:%M", "%Y%m%d%H%M", "%Y%m%d%H%M%S", "%Y%m%d%H", "%Y%m%dT%H%M%S", "%d.%m.%Y %H:%M",
        "%d-%b-%Y %H:%M:%S", "%B %d %Y %I:%M %p", "%a %d %b %Y %H:%M:%S GMT", "%d/%b/%Y:%H:%M:%S +0000",
        "%Y-%m-%d %I:%M:%S %p", "%Y.%m.%d %H:%M",
    ],
)  # fmt: skip
def test_a_time_is_read_however_it_is_written(taken, form):
    shown, _, told = taken(hours(form), time="time")
    assert shown[:4] == HOURS
    assert "a row every 3600 s, no gaps" in told


@pytest.mark.parametrize(
    ("unit", "factor"), [("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)]
)
@pytest.mark.parametrize("named", [True, False])
def test_a_unix_time_is_read_in_its_unit_also_where_only_its_name_says_that_it_is_one(taken, unit, factor, named):
    first = 1614895200
    text = rows(*(f"{(first + 3600 * n) * factor},1" for n in range(4)), header="timestamp,load")
    shown, x, told = taken(text, time="timestamp" if named else None)
    assert shown == HOURS
    assert x == [[1]] * 4
    assert f"Unix {unit}" in told


@pytest.mark.parametrize("decimals", [4, 5, 6, 10, 12])
def test_the_day_numbers_of_a_spreadsheet_are_days(taken, decimals):
    text = rows(*(f"{44259 + (22 + n) / 24:.{decimals}f},1" for n in range(4)))
    shown, _, told = taken(text, time="time")
    assert shown == HOURS
    assert "Excel day numbers" in told
    assert taken(rows("44259,1", "44260,1", "44261,1"), time="time")[0][1] == "2021-03-05T00:00:00"
    assert taken(rows("44259,1", "44260,1"), time="time", time_format="s")[0] == [
        "1970-01-01T12:17:39",
        "1970-01-01T12:17:40",
    ]


def test_units_that_are_mixed_and_digits_that_are_no_moment_are_refused_at_their_cell(taken):
    with pytest.raises(TableError, match=r"row 2 \(line 4\), column time = 1614902400000: .*one unit"):
        taken(rows("1614895200,1", "1614898800,2", "1614902400000,3"), time="time")
    with pytest.raises(TableError, match=r"row 1 \(line 3\), column time = 20210230: .*no such moment in yyyymmdd"):
        taken(rows("20210228,1", "20210230,2"), time="time", time_format="yyyymmdd")
    with pytest.raises(TableError, match=r"time_format = weeks: give one of s, ms"):
        taken(rows("1,1", "2,2"), time="time", time_format="weeks")


@pytest.mark.parametrize(
    ("cells", "options", "first", "said"),
    [
        (("13/02/2021", "14/02/2021"), {}, "2021-02-13", "day/month/year"),
        (("01/02/2021", "02/02/2021", "13/02/2021"), {}, "2021-02-01", "day/month/year"),
        (("02/01/2021", "02/02/2021", "02/13/2021"), {}, "2021-02-01", "month/day/year"),
        (("01.02.2021", "02.02.2021"), {}, "2021-02-01", "day.month.year"),
        (("31/01/2021 00:00", "01/02/2021 00:00", "02/02/2021 00:00"), {}, "2021-01-31", "day/month/year"),
        (("01/02/2021", "01/03/2021"), {"day_first": True}, "2021-02-01", "day/month/year"),
        (("01/02/2021", "01/03/2021"), {"day_first": False}, "2021-01-02", "month/day/year"),
        (("01/02/21 23:00", "02/02/21 00:00", "02/02/21 01:00"), {}, "2021-02-01", "as only so"),
        (("30/11/2021", "01/12/2021"), {}, "2021-11-30", "day/month/year"),
        (("1-2-2021 23:00", "2-2-2021 0:00", "2-2-2021 1:00"), {}, "2021-02-01", "as only so"),
    ],
)
def test_the_whole_column_decides_whether_the_day_is_first(taken, cells, options, first, said):
    shown, _, told = taken(rows(*(f"{cell},1" for cell in cells)), **options)
    assert shown[0][:10] == first
    assert said in told


def test_days_and_months_that_stay_open_are_refused_with_the_flags_that_say_it(taken):
    monthly = rows(*(f"01/{month:02d}/2020,{month}" for month in range(1, 13)))
    with pytest.raises(
        TableError, match=r"row 1 \(line 3\), column time = 01/02/2020: day or month first\?.*--day-first"
    ):
        taken(monthly)
    assert taken(monthly, day_first=True)[0][-1] == "2020-12-01T00:00:00"
    with pytest.raises(TableError, match=r"row 1 \(line 3\), column time = 02/13/2021: .*read as day/month/year"):
        taken(rows("13/02/2021,1", "02/13/2021,2", "14/02/2021,3"))


@pytest.mark.parametrize(
    ("header", "cells", "expected"),
    [
        ("Date,Hour,load", ("2021-03-04,22,1", "2021-03-04,23,1", "2021-03-05,0,1"), HOURS[:3]),
        ("Date,Hour,load", ("2021-03-04,22,1", "2021-03-04,23,1", "2021-03-04,24,1"), HOURS[:3]),
        ("Date,HE,load", ("20210304,22,1", "20210304,23,1", "20210304,24,1"), HOURS[:3]),
        ("Time,Date,load", ("10 PM,04.03.2021,1", "11 PM,04.03.2021,1", "12 AM,05.03.2021,1"), HOURS[:3]),
        ("Date,Time,load", ("04/03/2021,22.00.00,1", "04/03/2021,23.00.00,1", "05/03/2021,00.00.00,1"), HOURS[:3]),
        ("load,Date,Time", ("1,2021-03-04,22:00", "1,2021-03-04,23:00", "1,2021-03-04,24:00"), HOURS[:3]),
        ("year,month,day,hour,load", ("2021,3,4,22,1", "2021,3,4,23,1", "2021,3,5,0,1"), HOURS[:3]),
    ],
)
def test_a_date_and_its_hour_in_columns_of_their_own_are_joined(taken, header, cells, expected):
    shown, x, told = taken(rows(*cells, header=header), **({"day_first": True} if "/" in cells[0] else {}))
    assert shown == expected
    assert x == [[1]] * 3
    assert "joined" in told or "beside it" in told


def test_two_columns_named_as_the_time_are_joined_whatever_they_are_called(taken):
    text = rows("2021-03-04,22,1", "2021-03-04,23,2", header="D,H,load")
    assert taken(text, time="D,H")[0] == HOURS[:2]
    with pytest.raises(TableError, match=r"row 1 \(line 3\), column H = 25: no hour of a day"):
        taken(rows("2021-03-04,22,1", "2021-03-04,25,2", header="D,H,load"), time="D,H")
    with pytest.raises(TableError, match="a time of day without its date"):
        taken(rows("22:00:00,1", "23:00:00,2"), time="time")
    with pytest.raises(TableError, match=r"repeated times|--time DATE,HOUR"):
        taken(rows(*("2021-03-04,1" for _ in range(4)), header="D,load"), time="D")


@pytest.mark.parametrize(
    ("cell", "remedy"),
    [
        ("2021-03-04 25:00", "not a time"),
        ("2021-02-30 10:00", "no such day"),
        ("2021-03-04 13:00 PM", "not a time"),
        ("2021-03-04 23:00 CST", "some times of the column have a zone"),
        ("yesterday", "not a time"),
        ("", "missing time"),
        ("N/A", "missing time"),
        ("05.03.2021 23:00", "not written as the time in row 0"),
    ],
)
def test_a_cell_that_is_no_time_is_called_one_and_named(taken, cell, remedy):
    with pytest.raises(TableError, match=rf"^row 1 \(line 3\), column time = .*{remedy}"):
        taken(rows("2021-03-04 22:00,1", f"{cell},2", "2021-03-06 00:00,3"))


# --- zones


def test_names_of_zones_in_the_cells_are_read_and_those_of_two_meanings_refused(taken):
    text = rows("2021-03-04 23:00 Europe/Berlin,1", "2021-03-05 00:00 Europe/Berlin,2")
    assert taken(text)[0] == HOURS[:2]
    assert (
        taken(rows("2021-03-04T23:00+01:00[Europe/Berlin],1", "2021-03-05T00:00+01:00[Europe/Berlin],2"))[0]
        == HOURS[:2]
    )
    assert taken(rows("2021-03-04 23:00 CET,1", "2021-03-05 00:00 CET,2"))[0] == HOURS[:2]
    with pytest.raises(TableError, match="zone IST is not one zone's name"):
        taken(rows("2021-03-04 23:00 IST,1", "2021-03-05 00:00 IST,2"))
    with pytest.raises(TableError, match="zone = Europe/Berlin: the times of time have their own zone"):
        taken(hours("%Y-%m-%dT%H:%MZ"), zone="Europe/Berlin")
    with pytest.raises(TableError, match="zone = Berlin: give a zone such as"):
        taken(hours("%Y-%m-%d %H:%M"), zone="Berlin")
    assert taken(hours("%Y-%m-%d %H:%M"), zone="+01:00")[0][0] == "2021-03-04T21:00:00"


@pytest.mark.parametrize("minutes", [15, 30, 60])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_a_year_of_local_times_is_as_even_as_the_clock_that_made_it(tmp_path, minutes, zone):
    import zoneinfo

    local = [
        datetime.fromtimestamp(1609459200 + 60 * minutes * n, zoneinfo.ZoneInfo(zone)).strftime("%Y-%m-%d %H:%M")
        for n in range(366 * 24 * 60 // minutes)
    ]
    file = tmp_path / "file.csv"
    file.write_text(rows(*(f"{time},1" for time in local)))
    (series,) = every_series(read(file, Options(zone=zone)), None, False)
    np.testing.assert_array_equal(series.time, 1609459200 + 60 * minutes * np.arange(len(local)))


def test_a_local_time_that_is_left_out_is_refused(taken):
    text = rows("2021-03-28 01:30,1", "2021-03-28 02:30,2", "2021-03-28 03:30,3")
    with pytest.raises(
        TableError, match=r"row 1 \(line 3\), column time = 2021-03-28 02:30: there is no such time in Eur"
    ):
        taken(text, zone="Europe/Berlin")


# --- order


MIXED = rows("2021-03-04 23:00,2", "2021-03-04 22:00,1", "2021-03-05 00:00,3", "2021-03-04 23:00,4")


def test_rows_are_sorted_and_repeated_times_settled_as_asked(taken):
    with pytest.raises(TableError, match=r"row 1 \(line 3\), column time .*--sort"):
        taken(MIXED)
    with pytest.raises(TableError, match=r"row 3 \(line 5\), column time .*--duplicates last"):
        taken(MIXED, sort=True)
    shown, x, told = taken(MIXED, sort=True, duplicates="last")
    assert (shown, x) == (HOURS[:3], [[1], [4], [3]])
    assert "sorted by time" in told
    assert "1 rows repeat a time: the last counts" in told
    assert taken(MIXED, sort=True, duplicates="mean")[1] == [[1], [3], [3]]
    with pytest.raises(TableError, match="newest to the oldest: give --sort"):
        taken(rows("2021-03-05,1", "2021-03-04,2"))


def test_a_repeated_stretch_needs_no_sorting_and_a_mean_is_of_what_is_known(taken):
    repeated = rows(
        "2021-03-04 22:00,1", "2021-03-04 23:00,2", "2021-03-04 22:00,3", "2021-03-04 23:00,", "2021-03-05 00:00,5"
    )
    assert taken(repeated, duplicates="mean")[1] == [[2], [2], [5]]
    assert taken(repeated, duplicates="last")[1] == [[3], [2], [5]]


def test_gaps_are_counted_and_the_longest_is_told(taken):
    moments = ("04 20:00", "04 21:00", "04 22:00", "05 01:00", "05 02:00", "05 04:00", "05 05:00")
    told = taken(rows(*(f"2021-03-{moment},1" for moment in moments)))[2]
    assert "a row every 3600 s, 2 gaps of up to 10800 s" in told


# --- numbers


@pytest.mark.parametrize(
    ("header", "cells", "options", "expected"),
    [
        ("a;b", ("1,5;2", "2,25;3"), {}, [[1.5, 2], [2.25, 3]]),
        ("a;b", ("1.051,29;2", "980,5;3"), {}, [[1051.29, 2], [980.5, 3]]),
        ("a;b", ("51,288;2", "54,038;3"), {}, [[51.288, 2], [54.038, 3]]),
        ("a;b", ("51.288;2", "54.038;3"), {}, [[51.288, 2], [54.038, 3]]),
        ("a,b", ('"1,051.29",2', '"980.5",3'), {}, [[1051.29, 2], [980.5, 3]]),
        ("a,b", ('"1,051",2', "980,3"), {}, [[1051, 2], [980, 3]]),
        ("a;b", ("1,000;2", "0;3"), {}, [[1000, 2], [0, 3]]),  # a zero at the end is no general format's
        ("a,b", ('"1,051",2.5', '"1,052",3.5'), {}, [[1051, 2.5], [1052, 3.5]]),
        ("a,b", ('"1,051",2', '"1,052",3'), {"decimal": "point"}, [[1051, 2], [1052, 3]]),
        ("a,b", ('"1,051",2', '"1,052",3'), {"decimal": "comma"}, [[1.051, 2], [1.052, 3]]),
        ("a,b", ("1 051.5,2", "1\u00a0052.5,3"), {}, [[1051.5, 2], [1052.5, 3]]),
        ("a,b", ("1'051.5,2", "980,3"), {}, [[1051.5, 2], [980, 3]]),
        ("a\tb", ("51%\t-2", "52.5 %\t\u22123"), {}, [[51, -2], [52.5, -3]]),
        ("a|b", ("1e3|+2", "1E-3|.5"), {}, [[1000, 2], [0.001, 0.5]]),
        ("a;b", ("1.234;0,5", "1.235;0,25"), {}, [[1234, 0.5], [1235, 0.25]]),
    ],
)  # fmt: skip
def test_a_number_is_read_however_it_is_written(taken, header, cells, options, expected):
    np.testing.assert_allclose(taken(rows(*cells, header=header), **options)[1], expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("cells", "where", "remedy"),
    [
        (('"1,051",2', '"1,052",3'), 'row 0 (line 2), column a = 1,051', "--decimal point or --decimal comma"),
        (('"1,051",2', "1,3"), 'row 0 (line 2), column a = 1,051', "--decimal point or --decimal comma"),
        (('"1,5",2', "2.5,3"), "row 0 (line 2), column a = 1,5", "decimal mark is a point"),
        (("51%,2", "52,3"), "row 1 (line 3), column a = 52", "percent sign"),
        (("51,2", "52 kW,3"), "row 1 (line 3), column a = 52 kW", "not a number"),
        (("51,2", "1_000,3"), "row 1 (line 3), column a = 1_000", "not a number"),
    ],
)  # fmt: skip
def test_a_cell_whose_number_is_open_is_refused(taken, cells, where, remedy):
    with pytest.raises(TableError) as caught:
        taken(rows(*cells, header="a,b"))
    assert str(caught.value).startswith(where)
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    "word",
    ["#N/A", "N.A.", "\\N", "NULL", "unavailable", "unknown", ".", "--", "NaN", "None", "?", "", "n/a", "#DIV/0!"],
)
def test_the_usual_words_for_nothing_are_missing_values(taken, word):
    _, x, told = taken(rows("2021-03-04 22:00,1", f"2021-03-04 23:00,{word}", "2021-03-05 00:00,3"))
    assert np.isnan(x[1][0])
    assert "1 values missing" in told


def test_words_of_ones_own_are_missing_values_numbers_by_their_value(taken):
    text = rows("2021-03-04 22:00,1", "2021-03-04 23:00,-999.0", "2021-03-05 00:00,offline")
    assert np.isnan(np.ravel(taken(text, missing=("-999", "Offline"))[1])).tolist() == [False, True, True]
    with pytest.raises(TableError, match=r"row 2 \(line 4\), column load = offline: not a number"):
        taken(text)


# --- layout


def test_byte_order_marks_utf_16_and_every_line_end_are_read(taken):
    text = hours("%Y-%m-%d %H:%M")
    for data in (
        text.encode("utf-8-sig"),
        text.encode("utf-16"),
        text.replace("\n", "\r\n").encode(),
        text.replace("\n", "\r").encode(),
    ):
        assert taken(data)[0][:4] == HOURS
    with pytest.raises(TableError, match=r"UTF-16 without a byte order mark"):
        taken(text.encode("utf-16-le"))
    with pytest.raises(TableError, match=r"not a CSV file in UTF-8 \(line 1, byte 5"):
        taken("time,ä\n1,2\n".encode("latin-1"))


@pytest.mark.parametrize(("start", "what"), [(b"PK\x03\x04", "Excel"), (b"\x1f\x8b", "gzip"), (b"PAR1", "Parquet")])
def test_a_file_of_another_kind_is_called_what_it_is(start, what):
    with pytest.raises(TableError, match=what):
        decode(start + bytes(99), "file")


def test_comments_and_empty_rows_are_left_out_with_a_line(taken):
    data = rows("2021-03-04 22:00,1", "# the sensor was changed", "2021-03-04 23:00,2", ",", ",")
    shown, x, told = taken("# station 7\n# by hand, mostly\n" + data)
    assert (shown, x) == (HOURS[:2], [[1], [2]])
    assert "3 comment lines left out" in told
    assert taken("# station 7\n# time,load\n2021-03-04 22:00,1\n2021-03-04 23:00,2\n")[1] == [[1], [2]]
    assert taken("sep=;\ntime;load\n2021-03-04 22:00;1,5\n2021-03-04 23:00;2,5\n")[1] == [[1.5], [2.5]]


def test_the_air_quality_file_of_a_well_known_archive_is_read(taken):
    text = (
        "Date;Time;CO(GT);T;;\r\n10/03/2004;18.00.00;2,6;13,6;;\r\n10/03/2004;19.00.00;-200;13,3;;\r\n"
        "10/03/2004;20.00.00;2,2;11,9;;\r\n11/03/2004;00.00.00;1,2;11,2;;\r\n;;;;;\r\n"
    )
    with pytest.raises(TableError, match="--day-first"):
        taken(
            text.replace("20.00", "23.00").replace(
                "11/03/2004;00.00.00;1,2;11,2;;\r\n",
                "11/03/2004;00.00.00;1,2;11,2;;\r\n11/04/2004;00.00.00;1,2;11,2;;\r\n",
            )
        )
    shown, x, told = taken(text, day_first=True, missing=("-200",))
    assert shown[0] == "2004-03-10T18:00:00"
    np.testing.assert_allclose(np.array(x)[[0, 2, 3]], [[2.6, 13.6], [2.2, 11.9], [1.2, 11.2]], rtol=1e-6)
    assert np.isnan(x[1][0])
    assert "semicolon-separated" in told


@pytest.mark.parametrize(
    "text",
    [
        "2021-03-04 22:00,1\n2021-03-04 23:00,2\n2021-03-05 00:00,3\n",
        "1.5,2\n3,4\n5,6\n",
        "51,43\n54,44\n55,45\n",
        "sensor.power,2021-03-04T22:00Z,1\nsensor.power,2021-03-04T23:00Z,1\nsensor.power,2021-03-05T00:00Z,1\n",
        "1614895200,1\n1614898800,2\n1614902400,3\n",
    ],
)
def test_a_first_row_of_data_is_refused_rather_than_lost_and_read_if_that_is_said(taken, text):
    with pytest.raises(TableError, match=r"^header = .*--no-header"):
        taken(text)
    last = "column 3" if "sensor" in text else "column 2"
    assert len(taken(text, last, header=False)[1]) == 3


def test_a_column_without_a_name_is_named_by_its_place(taken):
    text = rows("2021-03-04 22:00,1,7", "2021-03-04 23:00,2,9", header="time,load,")
    assert taken(text)[1] == [[1, 7], [2, 9]]
    assert taken(text, '"column 3"')[1] == [[7], [9]]
    assert taken(rows("2021-03-04 22:00,1", "2021-03-04 23:00,2", header=",load"))[0] == HOURS[:2]


def test_rows_of_another_length_name_their_line(taken):
    with pytest.raises(TableError, match=r"line 3, number of cells = 1: the header has 2"):
        taken("a,b\n1,2\n3\n")
    with pytest.raises(TableError, match=r"line 2, number of cells = 2: the first line has 3, most rows have 2"):
        taken("a,b,c\n1,2\n3,4\n")


@pytest.mark.parametrize("title", ["A fine title\n", "A fine title;\n;\n", "A fine title\nof two lines\n"])
def test_lines_of_a_title_above_the_header_are_left_out_with_a_line(taken, title):
    shown, x, told = taken(title + "time;load\n2021-03-04 22:00;1,5\n2021-03-04 23:00;2\n")
    assert (shown, x) == (HOURS[:2], [[1.5], [2]])
    assert "above the header left out" in told


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (rows("2021-03-04 22:00,x,1", "2021-03-04 22:00,y,2", "2021-03-04 23:00,x,1", "2021-03-04 23:00,y,2",
              header="time,city,load"), "Give --id city"),
        (rows("1/1/2021 11:00,1", "1/1/2021 12:00,2", "1/1/2021 1:00,3"), "a clock of 12 hours without AM and PM"),
        (rows("1.60946E+12,1", "1.60946E+12,2"), "cut its digits"),
        (rows("soon,1", "later,2"), "column time = soon: not a time"),
        ('[{"time": 1}]\n', "a JSON file"),
        ("a\n1 2\n3 4\n", "no numeric column"),
        ("a b\n1 2\n3 4\n", "give --separator ' '"),
        (rows("2021-03-04 22:00,NaN", "2021-03-04 23:00,"), "no numeric column"),
    ],
)  # fmt: skip
def test_the_likely_cause_is_named(taken, text, remedy):
    with pytest.raises(TableError, match=re.escape(remedy)):
        taken(text)


def test_what_a_file_holds_is_printed_on_one_line_without_control_characters(taken):
    with pytest.raises(TableError) as caught:
        taken(rows("2021-03-04 22:00,1", "2021-03-04 23:00,\x1b[31m\x00"))
    assert str(caught.value).isprintable()
    assert taken('time,"load\n(kW)"\n2021-03-04 22:00,1\n2021-03-04 23:00,2\n', "load (kW)")[1] == [[1], [2]]


def test_a_column_whose_every_cell_is_missing_is_left_out_and_asked_for_it_says_so(taken):
    text = rows("2021-03-04 22:00,1,NaN", "2021-03-04 23:00,2,", header="time,load,flow")
    assert "column flow is empty in every row: left out" in taken(text)[2]
    with pytest.raises(TableError, match="column = flow: every cell of it is missing"):
        taken(text, "flow")


# --- names


def test_a_list_of_names_is_a_line_of_csv_and_a_whole_name_goes_first():
    header = ["time", "Power, kW", "Temp, C", "a", "b", "a,b", 'say "x"']
    assert chosen('"Power, kW"', header) == ["Power, kW"]
    assert chosen("Power, kW", header) == ["Power, kW"]
    assert chosen('"Temp, C","Power, kW"', header) == ["Temp, C", "Power, kW"]
    assert chosen("Temp, C, Power, kW", header) == ["Temp, C", "Power, kW"]
    assert chosen("a,b", header) == ["a,b"]
    assert chosen("b, a", header) == ["b", "a"]
    assert chosen("x, a", header) == ["x", "a"]
    assert chosen(listed(header), header) == header


def test_an_unknown_name_is_answered_with_the_quoted_list_and_what_may_be_meant(cases):
    recording = read(cases / "08-comma-in-column-name/comma.csv")
    with pytest.raises(TableError, match='column = power: no such column: the file has time, "Power, kW", "Temp, C"'):
        recording.choose("power")


def test_a_table_that_is_one_column_is_one(taken):
    assert lay_out("a\n1\n2\n").header == ["a"]
    with pytest.raises(TableError, match=r"no numeric column.*row 0 \(line 2\), column a has 'x y'"):
        taken("a\nx y\nz w\n")


# --- many in one file


MANY = rows(
    "2021-03-04 22:00,north,1", "2021-03-04 22:00,south,10", "2021-03-04 23:00,north,2", "2021-03-04 23:00,south,20",
    "2021-03-05 00:00,north,3", header="time,site,load",
)  # fmt: skip


def test_each_entity_of_a_file_is_a_series_of_its_own(tmp_path):
    file = tmp_path / "file.csv"
    file.write_text(MANY)
    recording = read(file, Options(id="site"))
    north, south = every_series(recording, None, False)
    assert (north.entity, south.entity) == ("north", "south")
    assert (north.x.ravel().tolist(), south.x.ravel().tolist()) == ([1, 2, 3], [10, 20])
    assert "2 entities by site" in recording.describe()
    for text, match in (
        (MANY + "2021-03-05 00:00,west,3\n", "the only row of its entity"),
        (MANY + "2021-03-05 00:00,,3\n", "no id"),
    ):
        file.write_text(text)
        with pytest.raises(TableError, match=rf"row 5 \(line 7\), column site = .*{match}"):
            read(file, Options(id="site"))
    with pytest.raises(TableError, match="id = town: no such column"):
        read(file, Options(id="town"))


def test_a_number_with_a_point_beside_one_that_only_thousands_make_alike_is_in_thousands(taken):
    assert taken(rows("1.051", "980", "1.102", header="a"))[1] == [[1051], [980], [1102]]
    np.testing.assert_allclose(taken(rows("1.051", "1", "1.102", header="a"))[1], [[1.051], [1.0], [1.102]], rtol=1e-6)


def test_the_columns_that_a_refusal_names_can_be_pasted(taken):
    cells = ("2021-03-04 22:00,x,1,2", "2021-03-04 23:00,x,1,2")
    text = rows(*cells, header='time,site,"Power, kW",b')
    with pytest.raises(TableError, match='give --columns "Power, kW",b, or --id site'):
        taken(text)
    assert taken(text, '"Power, kW",b')[1] == [[1, 2], [1, 2]]
