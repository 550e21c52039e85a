import numpy as np
import pytest

from service.programs.backtest.series import SeriesError, read_series


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "series.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_values_names_and_times_are_read(write):
    series = read_series(write("date,a,b\n2020-01-01 00:00:00,1,-2.5\n2020-01-01 00:15:00,3,4e2\n"))
    assert series.names == ("a", "b")
    np.testing.assert_array_equal(series.x, np.array([[1, -2.5], [3, 400]], np.float32))
    assert series.x.dtype == np.float32
    np.testing.assert_array_equal(series.time, [1577836800, 1577836800 + 900])
    assert series.interval == 900


def test_the_interval_is_the_median_step(write):
    times = ("2020-01-01", "2020-01-02", "2020-01-09", "2020-01-10", "2020-01-11")
    assert read_series(write("t,a\n" + "".join(f"{t},1\n" for t in times))).interval == 86400


def test_the_time_column_is_found_wherever_it_stands(write):
    series = read_series(write("a,when,b\n1,2020-01-01,2\n3,2020-01-02,4\n"))
    assert series.names == ("a", "b")
    assert series.time is not None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("1/31/2010 0:00", "1/31/2010 1:00"),
        ("12/31/2009 23:30:00", "1/1/2010 0:30:00"),
        ("2010-01-31T00:00:00Z", "2010-01-31T01:00:00Z"),
        ("2010-01-31T02:00:00+02:00", "2010-01-31T01:00:00Z"),
        ("2010-01-31 00:00", "2010-01-31 01:00"),
    ],
)
def test_iso_and_month_first_times_are_understood(write, first, second):
    assert read_series(write(f"t,a\n{first},1\n{second},2\n")).interval == 3600


def test_without_a_time_column_there_is_no_calendar(write):
    series = read_series(write("a\n1\n2\n"))
    assert series.time is None
    assert series.interval == 0


def test_numbers_that_look_like_dates_are_values_unless_named_as_time(write):
    path = write("id,a\n20140701,1\n20140702,2\n")
    assert read_series(path).names == ("id", "a")
    assert read_series(path, time_column="id").interval == 86400


def test_columns_are_chosen_in_the_order_asked_for_and_others_may_hold_anything(write):
    path = write("t,a,note,b\n2020-01-01,1,x,2\n2020-01-02,3,,4\n")
    series = read_series(path, columns=["b", "a"])
    assert series.names == ("b", "a")
    np.testing.assert_array_equal(series.x, [[2, 1], [4, 3]])


def test_constant_columns_fifty_columns_byte_order_marks_spaces_and_blank_lines_are_fine(write):
    names = [f"c{n}" for n in range(50)]
    text = ", ".join(names) + "\r\n\r\n" + 2 * (", ".join(["7 "] * 50) + "\r\n")
    series = read_series(write(text, "utf-8-sig"))
    assert series.names == tuple(names)
    np.testing.assert_array_equal(series.x, np.full((2, 50), 7))


@pytest.mark.parametrize(
    ("text", "field", "value", "remedy"),
    [
        ("t,a\n2020-01-01,1\n2020-01-02,\n", "row 1 (line 3), column a", "", "missing value"),
        ("t,a\n2020-01-01,1\n2020-01-02,NaN\n", "row 1 (line 3), column a", "NaN", "missing value"),
        ("t,a\n2020-01-01,1\n\n2020-01-02,high\n", "row 1 (line 4), column a", "high", "not a number"),
        ("a\n1\n1_000\n", "row 1 (line 3), column a", "1_000", "not a number"),
        ("a\n1\n-inf\n", "row 1 (line 3), column a", "-inf", "finite"),
        ("a\n1e38\n1\n", "row 0 (line 2), column a", "1e38", "at most 1e+15"),
        ("t,a\n2020-01-01,1\n", "rows", "1", "at least 2"),
        ("", "rows", "0", "at least 2"),
        ("t,a\n2020-01-02,1\n2020-01-01,2\n", "row 1 (line 3), column t", "2020-01-01", "after 2020-01-02"),
        ("t,a\n2020-01-02,1\n2020-01-02,2\n", "row 1 (line 3), column t", "2020-01-02", "repeated times"),
        ("t,a\n2020-01-02,1\nlater,2\n", "row 1 (line 3), column t", "later", "not a time"),
        ("t,a\n2020-01-02,1\n,2\n", "row 1 (line 3), column t", "", "missing time"),
        ("a,b,a\n1,2,3\n1,2,3\n", "header", "a", "2 columns have that name"),
        ("t,name\n2020-01-01,x\n2020-01-02,y\n", "columns", "name", "no numeric column"),
        ("t\n2020-01-01\n2020-01-02\n", "columns", "", "no numeric column"),
        ("a,b\n1,2\n3\n", "line 3, number of cells", "1", "the header has 2"),
        ("t,site,a\n2020-01-01,x,1\n2020-01-02,x,2\n", "row 0 (line 2), column site", "x", "give --columns a,"),
        ("t,a\n31.12.2020,1\n1.13.2021,2\n", "row 1 (line 3), column t", "1.13.2021", "read as day.month.year"),
        ("t;a\n2020-01-01;1,5\n2020-01-02;2,x\n", "row 1 (line 3), column a", "2,x", "not a number"),
        ("1.5,2\n3,4\n5,6\n", "header", "1.5, 2", "column names"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_its_place_and_a_remedy(write, text, field, value, remedy):
    with pytest.raises(SeriesError) as caught:
        read_series(write(text))
    assert caught.value.field == field
    assert caught.value.value == value
    assert remedy in caught.value.remedy


def test_where_missing_values_are_held_an_empty_cell_is_nan_and_a_wrong_one_is_still_refused(write):
    series = read_series(write("t,a,b\n2020-01-01,1,\n2020-01-02,n/a,2\n2020-01-03,?,NaN\n"), holds=True)
    np.testing.assert_array_equal(series.x, np.array([[1, np.nan], [np.nan, 2], [np.nan, np.nan]], np.float32))
    for cell, remedy in (("high", "not a number"), ("inf", "finite")):
        with pytest.raises(SeriesError, match=remedy):
            read_series(write(f"a\n1\n{cell}\n"), holds=True)
    with pytest.raises(SeriesError, match="missing time"):
        read_series(write("t,a\n2020-01-02,1\n,2\n"), holds=True)
    with pytest.raises(SeriesError, match='give missing = "hold"'):
        read_series(write("a\n1\n\n-\n"))


@pytest.mark.parametrize(
    ("arguments", "value", "remedy"),
    [
        ({"columns": ["a", "z"]}, "z", "the file has t, a"),
        ({"time_column": "z"}, "z", "the file has t, a"),
        ({"columns": ["t", "a"]}, "t", "time column"),
        ({"columns": []}, "", "no numeric column"),
    ],
)
def test_columns_that_the_file_does_not_offer_are_refused_by_name(write, arguments, value, remedy):
    with pytest.raises(SeriesError) as caught:
        read_series(write("t,a\n2020-01-01,1\n2020-01-02,2\n"), **arguments)
    assert caught.value.value == value
    assert remedy in caught.value.remedy


def test_a_file_that_is_not_text_is_refused(write):
    with pytest.raises(SeriesError, match="UTF-8"):
        read_series(write("t,ä\n1,2\n", "latin-1"))


def test_the_shipped_series_is_read_whole(pytestconfig):
    series = read_series(pytestconfig.rootpath / "service/cli/data/nyc_taxi.csv")
    assert series.x.shape == (10320, 1)
    assert series.interval == 1800


@pytest.mark.parametrize(("file", "interval"), [("ETTh2.csv", 3600), ("ETTm1_head.csv", 900)])
def test_the_measured_series_are_read_whole(shared_data, file, interval):
    series = read_series(shared_data / file)
    assert series.x.shape[1] == 7
    assert series.interval == interval
