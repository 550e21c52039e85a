"""Scales, sentences and layouts of the page's views, run in Node: the modules that draw nothing."""

import json
import re

import pytest

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def run(node):
    """A function that runs the body of a module, with `names` of `module` imported, and returns what it `give`s."""

    def call(module, names, body):
        give = "const give = (v) => console.log(JSON.stringify(v));"
        return node(f"import {{ {names} }} from {json.dumps(f'./js/{module}')};\n{give}\n{body}")

    return call


def test_a_recent_scale_forgets_what_was_long_ago(run):
    body = """const at = (v) => ({ time: 0, layers: { cell0: v, cell1: v } });
    give(lagPicture([...Array(50).fill(at([1e9])), ...Array(120).fill(at([0.01, 1]))], String).scale.high);"""
    assert run("pictures.js", "lagPicture", body) <= 1


def test_a_scale_of_very_many_numbers_is_that_of_some_of_them(run):
    body = """const list = () => Array.from({ length: 512 }, (_, n) => 10 ** (-3 * n / 511));
    const lists = Array.from({ length: 2000 }, list);
    const s = recentLog(lists);
    give([s.low, s.high, around(lists).high]);"""
    low, high, far = run("scale.js", "recentLog, around", body)
    assert low == pytest.approx(10**-2.85, rel=0.05)
    assert high == pytest.approx(10**-0.15, rel=0.05)
    assert far == pytest.approx(10**-0.06, rel=0.05)


def test_a_healthy_gradient_is_not_painted_as_if_it_vanished(run):
    of = run("scale.js", "recentLog", "const s = recentLog([[0.09, 0.05, 0.03]]); give([s.of(0.09), s.of(0.03)]);")
    assert of[0] == pytest.approx(1, abs=0.05)
    assert of[1] > 0.6


def test_a_scale_has_at_most_four_decades_and_one_of_one_value_has_two(run):
    wide = run("scale.js", "recentLog", "const s = recentLog([[1e-12, 1e-9, 1]]); give([s.low, s.high]);")
    assert wide[1] / wide[0] == pytest.approx(1e4)
    single = run("scale.js", "recentLog", "const s = recentLog([[0.5]]); give([s.low, s.high, s.of(0.5), s.of(0)]);")
    assert single == [pytest.approx(0.005), pytest.approx(0.5), 1, 0]


def test_without_a_positive_number_there_is_no_scale(run):
    assert run("scale.js", "recentLog", "give(recentLog([[0, null, NaN, -1, Infinity], []]));") is None


def test_values_beyond_the_ends_of_a_scale_are_counted(run):
    body = "give(beyond({ low: 0.1, high: 1 }, [0, 0.05, 0.5, 1, 2, null].slice(0, 5)));"
    assert run("scale.js", "beyond", body) == {"below": 2, "above": 1}


def test_a_diverging_scale_is_symmetric_and_zero_is_in_its_middle(run):
    body = (
        "const s = around([[-2, 0.5, null]]); give([s.of(0), s.of(1) + s.of(-1), s.low + s.high, around([[0]]).high]);"
    )
    assert run("scale.js", "around", body) == [0.5, 1, 0, 0.1]


def test_colours_rise_in_lightness(run):
    body = """const c = colourOf("rising");
    give(Array.from({ length: 33 }, (_, n) => { const [r, g, b] = c(n / 32);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b; }));"""
    light = run("scale.js", "colourOf", body)
    assert light == sorted(light)
    assert light[-1] - light[0] > 150


def test_more_values_than_pixels_keep_their_peaks(run):
    body = """const v = Array(512).fill(0.1); v[77] = -9; v[200] = null;
    give([pool(v, 100).length, [...pool(v, 100)].includes(-9)]);"""
    assert run("scale.js", "pool", body) == [100, True]
    assert run("scale.js", "pool", "give([...pool([1, null], 10)]);") == [1, None]


@pytest.mark.parametrize(
    ("number", "text"),
    [("0", "0"), ("0.0123456", "0.0123"), ("12345.6", "12\u202f346"), ("1e-4", "10⁻⁴"), ("3.2e-7", "3.2·10⁻⁷"),
     ("2e12", "2·10¹²"),
     ("-0.5", "−0.5"), ("NaN", "–"), ("null", "–"), ("Infinity", "∞")],
)  # fmt: skip
def test_numbers_are_brief(run, number, text):
    assert run("format.js", "brief", f"give(brief({number}));") == text


def test_one_notation_of_numbers_is_on_the_page_and_a_csv_has_them_in_full(run):
    body = """give([number(1.23456789e-5), brief(1.23456789e-5), duration(1.5e-8), percent(1e-6),
      csv(["v"], [[1.23456789e-5]])]);"""
    *shown, saved = run("format.js", "brief, csv, duration, number, percent", body)
    assert shown == ["1.23·10⁻⁵", "1.2·10⁻⁵", "0.015 µs", "10⁻⁴ %"]
    assert float(saved.split()[1]) == 1.23456789e-5


def test_no_module_but_one_makes_text_of_digits():
    scripts = (ROOT / "service" / "page" / "js").rglob("*.js")
    own = re.compile(r"toFixed|toExponential|toLocaleString|\d,\d{3}\b.*unless|\b\d(\.\d+)?e-\d+ to")
    assert [script.name for script in scripts if own.search(script.read_text(encoding="utf-8"))] == ["format.js"]


def test_an_axis_has_round_numbers_and_not_more_than_fit(run):
    assert run("scale.js", "wholes", "give(wholes(512, 6));") == [0, 100, 200, 300, 400, 500]
    assert run("scale.js", "wholes", "give([wholes(1, 9), wholes(0, 9), wholes(3, 9)]);") == [[0], [], [0, 1, 2]]


def test_a_vanishing_gradient_is_read_with_its_lag(run):
    body = "give(readLags({ cell0: [1, 0.5, 0.3], cell1: [1, 0.3, 0.02, 0.009, 0.001, 0.00001] }));"
    read = run("reading.js", "readLags", body)
    assert "cell1 falls below 1 % of its largest at 3 ticks back" in read
    assert "cannot learn from events further away" in read


def test_a_gradient_that_reaches_back_is_read_with_its_weakest_layer(run):
    read = run("reading.js", "readLags", "give(readLags({ cell0: [1, 0.5, 0.3], cell1: [1, 0.5, 0.11] }));")
    assert "reach all 3 ticks" in read
    assert "cell1 still has 11 %" in read


def test_a_gradient_that_dips_and_returns_reaches_back(run):
    assert run("reading.js", "reach", "give(reach([1, 0.001, 0.5]).faded);") is None


def test_a_layer_without_gradient_is_named(run):
    assert "cell1 is zero at every tick" in run(
        "reading.js", "readLags", "give(readLags({ cell0: [1], cell1: [0, 0] }));"
    )
    assert run("reading.js", "readLags", "give(readLags({}));") == ""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ("readNorm([3, 3, 3], [0.6], 1)", ["norm is 3 ", "60 % of the updates", "below 90 %"]),
        ("readNorm([3], [0.95, 0.99], 1)", ["nearly everything is clipped"]),
        ("readNorm([3], [], 0)", ["no clip is set", "one value"]),
        ("readRatio([3e-4])", ["3·10⁻⁴", "healthy"]),
        ("readRatio([0.5])", ["lower learning_rate"]),
        ("readRatio([1e-6])", ["raise learning_rate"]),
        ("readLayers({ all: 9, cell0: 1, head: 1e-4 }, { cell0: 0.02 })", ["4 powers of ten", "learns nothing", "2 %"]),
        ("readLayers({ cell0: 1, head: 1 }, { cell0: 0.7 })", ["70 % of the gates of cell0"]),
        ("readLayers({ cell0: 1, head: 0 }, {})", ["head has no gradient"]),
    ],
)
def test_each_picture_is_read_by_the_healthy_ranges(run, call, words):
    read = run("reading.js", "readNorm, readRatio, readLayers", f"give({call});")
    assert all(word in read for word in words), read


@pytest.mark.parametrize(
    ("model", "words"),
    [("null", "Waiting"), ("{ learned: 0 }", "has not learned a label"), ("{ learned: 9, paused: true }", "paused"),
     ("{ learned: 9 }", "within 16 updates, once labels arrive"),
     ("{ learned: 0, slice: { index: 0, count: 2 } }", "the node of the model's home"),
     ("{ learned: 0, spec: { learn: false } }", "learn = false")],
)  # fmt: skip
def test_without_a_report_the_page_says_why(run, model, words):
    assert words in run("reading.js", "noReport", f"give(noReport({model}));")


def test_an_empty_chart_says_that_it_begins_with_the_page_and_when_its_first_point_comes(run):
    body = """give([noReport({ learned: 9 }, [{ updates_per_s: 2 }, { updates_per_s: 6 }, { updates_per_s: null }]),
      noReport({ learned: 9 }, [{ updates_per_s: 0 }]), noSamples([], "label was learned", "it comes"),
      noSamples([{}], "label was learned", "it comes")]);"""
    due, idle, none, some = run("reading.js", "noReport, noSamples", body)
    assert due == (
        "Gradients are shown from when this page was opened, and none was reported since."
        " One update in 16 reports its gradient by layer and lag: the first is due in about 4 s."
    )
    assert idle.endswith("within 16 updates, once labels arrive.")
    assert none == ("Samples begin when the page is opened, one each second: the first is due within two seconds.")
    assert some == "No label was learned since this page was opened: it comes."


def test_an_axis_of_two_samples_is_a_minute_long_and_one_of_many_shows_all(run):
    body = "const at = (...times) => spanOf(times.map((time) => ({ time }))); give([at(), at(99, 100), at(0, 500)]);"
    assert run("columns.js", "spanOf", body) == [{}, {"from": 40, "to": 100}, {"from": 0, "to": 500}]


def test_the_healthy_ranges_are_those_of_the_page_on_learning(run):
    assert run("reading.js", "RATIO", "give([RATIO.low, RATIO.high]);") == [1e-4, 1e-2]
    learning = (ROOT / "docs" / "learning.md").read_text(encoding="utf-8")
    assert "1e-4 to 1e-2" in learning
    assert "within two powers of ten of each other" in learning
    assert "below 0.9" in learning


def test_units_that_stand_still_and_saturated_ones_are_counted(run):
    body = """const looks = Array.from({ length: 70 }, (_, t) => ({
      values: [Math.sin(t), 0.3, t < 5 ? 1 : 0.5], marked: [0] }));
    const found = units(looks); give([found.order, readState(found)]);"""
    order, read = run("reading.js", "units, readState", body)
    assert order == [0, 1, 2]
    assert read == "1 of 3 units is saturated; 2 have not moved in the last 60 looks."


def test_a_state_of_one_unit_one_look_or_none_is_read(run):
    read = """give([readState(units([{ values: [0.5], marked: [0] }])), readState(units([])),
    readState(units([{ values: [1, null], marked: [] }]))]);"""
    one, none, first = run("reading.js", "units, readState", read)
    assert one == "The only unit is saturated; this is the first look."
    assert none == ""
    assert first == "None of 2 units are saturated; this is the first look."


def test_a_state_whose_gates_are_not_known_is_read_from_the_last_look_at_which_they_are(run):
    body = """const at = (marked) => ({ time: 0, seq: 1, version: 1, values: [0.5, 0.1], marked });
    const read = (...looks) => readState(units(looks));
    give([read(at(null)), read(at([1]), at(null))]);"""
    unknown, known = run("reading.js", "units, readState", body)
    assert unknown == "How many of the 2 units are saturated is not known yet; this is the first look."
    assert known == "1 of 2 units is saturated; 2 have not moved in the last 2 looks."


def test_marks_of_different_kinds_at_one_moment_stand_beside_each_other(run):
    body = """const at = (kind) => ({ time: 50, kind, reason: "x", version: 1 });
    give(marks([at("vetoed"), at("rolled back"), at("drifted")], (t) => t, 100).map((m) => m.x));"""
    assert run("verdicts.js", "marks", body) == [50, 62, 50]


def test_marks_that_would_overlap_are_one_mark_with_all_their_events(run):
    body = """const at = (time, kind = "published", reason = "due") => ({ time, kind, reason, version: time });
    const found = marks([at(-5), at(0), at(4), at(9), at(30), at(31, "vetoed"),
      at(32, "published", "by hand")], (t) => t, 100);
    give(found.map((m) => [m.kind, m.events.length, m.x]));"""
    assert run("verdicts.js", "marks", body) == [
        ["published", 3, 9], ["published", 1, 30], ["vetoed", 1, 31], ["promoted", 1, 32],
    ]  # fmt: skip


def test_each_kind_of_event_is_told_in_a_sentence(run):
    body = """give(Object.keys(MARKS).map((kind) => tell({ kind, version: 3, reason: 'x',
    numbers: {} })).concat(tell({ kind: 'new', reason: '' })));"""
    told = run("verdicts.js", "MARKS, tell", body)
    assert all(sentence.endswith(".") and "undefined" not in sentence for sentence in told), told


def test_the_numbers_of_a_verdict_are_explained_and_unknown_ones_are_shown(run):
    body = """give(explain({ offset: 9, numbers: { evidence: 1.2, score: 0.2, anchor_score: 0.25, labels: 1,
    odd: 7, loss: 1e300 } }));"""
    rows = {row["name"]: row for row in run("verdicts.js", "explain", body)}
    assert rows["score"]["words"].endswith("20 % better than the anchor.")
    assert rows["labels"]["words"] == "Labels learned since the verdict before."
    assert rows["odd"] == {"name": "odd", "value": "7", "raw": 7, "words": ""}
    assert rows["loss"]["value"] == "not finite"


def test_an_action_names_its_consequence_before_it_is_done(run):
    body = """const model = { name: "m", champion: 12, anchor: 10 };
    give(["pause", "resume", "rollback", "promote"].map((a) => consequence(a, model, a === "promote" ? 3 : 0)));"""
    pause, resume, rollback, promote = run("verdicts.js", "consequence", body)
    assert "never learned" in pause["text"]
    assert "those of the pause are not" in resume["text"]
    assert "its anchor, version 10" in rollback["title"]
    assert "version 3" in promote["title"]
    assert "instead of by version 12" in promote["text"]


def test_keys_move_over_a_picture_and_stop_at_its_ends(run):
    body = """const p = { rows: [1, 2, 3], columns: 5 };
    give([step("ArrowRight", null, p), step("ArrowLeft", { row: 0, column: 0 }, p),
      step("End", { row: 1, column: 2 }, p),
      step("PageDown", { row: 1, column: 2 }, p), step("Escape", { row: 1, column: 2 }, p),
      step("a", null, p) === undefined]);"""
    assert run("heat.js", "step", body) == [
        {"row": 0, "column": 0}, {"row": 0, "column": 0}, {"row": 1, "column": 4}, {"row": 2, "column": 2}, None, True,
    ]  # fmt: skip


def test_a_picture_has_no_more_cells_than_pixels_and_room_beside_long_names(run):
    body = "give([layout(375, [900], 512), layout(1000, [40], 16)]);"
    narrow, wide = run("heat.js", "layout", body)
    assert narrow["left"] == 125
    assert narrow["cells"] == narrow["width"] == 236
    assert wide["cells"] == 16


def test_samples_become_columns_and_a_long_silence_ends_the_line(run):
    body = """const samples = [{ time: 0, a: 1, b: null }, { time: 1, a: null, b: null }, { time: 2, a: 3, b: 4 },
      { time: 60, a: 5, b: null }];
    give(columnsOf(samples, ["a", "b"]));"""
    assert run("columns.js", "columnsOf", body) == {
        "x": [0, 2, 9.5, 60], "a": [1, 3, None, 5], "b": [None, 4, None, None],
    }  # fmt: skip


def test_columns_of_two_origins_share_an_axis_that_rises(run):
    body = "give(merged({ x: [1, 3], a: [1, 2] }, { x: [2, 3], b: [7, 8] }));"
    found = run("columns.js", "merged", body)
    assert found["x"] == sorted(set(found["x"]))
    assert found["a"] == [1, None, 2, None]
    assert found["b"] == [None, 7, None, 8]


def test_versions_of_one_moment_stand_beside_each_other(run):
    body = """give(columnsOfVersions([{ number: 3, created: 5, loss: 2 }, { number: 2, created: 5, loss: null },
      { number: 1, created: 0, loss: 9 }], ["loss"]));"""
    found = run("columns.js", "columnsOfVersions", body)
    assert found["number"] == [2, 3]
    assert found["x"][1] > found["x"][0]
    assert found["loss"] == [None, 2]


REPORTS = """const reports = (layers, lags, n) => Array.from({ length: n }, (_, t) => ({ time: t, layers:
  Object.fromEntries(Array.from({ length: layers }, (_, k) => [`cell${k}`,
    Array.from({ length: lags }, (_, lag) => 0.7 ** lag)])) }));
"""


@pytest.mark.parametrize(("layers", "lags", "reports"), [(1, 1, 1), (2, 16, 120), (12, 64, 40), (64, 512, 120)])
def test_lags_of_any_size_are_one_picture_of_bounded_height(run, layers, lags, reports):
    body = f"""{REPORTS}const p = lagPicture(reports({layers}, {lags}, {reports}), String);
    const height = p.rows.reduce((sum, row) => sum + row.height + row.gap, 0);
    give([p.columns, height, p.rows.filter((row) => row.newest).length,
      p.read(0, {lags} - 1)]);"""
    columns, height, newest, read = run("pictures.js", "lagPicture", body)
    assert (columns, newest) == (lags, layers)
    assert height <= 720
    assert read.startswith(f"cell0, {lags - 1} back, newest report: ")


def test_the_picture_of_lags_marks_where_the_gradient_is_gone_and_says_what_is_beyond_its_colours(run):
    body = f"""{REPORTS}const p = lagPicture(reports(1, 40, 3), String);
    give([p.rows.map((row) => row.limit ?? null), p.note]);"""
    limits, note = run("pictures.js", "lagPicture", body)
    assert limits[0] == 13  # 0.7**13 is the first below a hundredth
    assert limits[1:] == [None, None]
    assert "last 3 reports" in note
    assert "below" in note
    assert run("pictures.js", "lagPicture", "give(lagPicture([], String));") is None


@pytest.mark.parametrize(("units", "height"), [(1, 24), (32, 384), (512, 512)])
def test_a_state_of_any_size_is_a_picture_that_fits(run, units, height):
    body = f"""const looks = Array.from({{ length: 240 }}, (_, t) => ({{ time: t, seq: t, version: 1, marked: [0],
      values: Array({units}).fill(0.5) }}));
    const order = Array.from({{ length: {units} }}, (_, n) => n);
    const p = statePicture(looks, {{ order, palette: "around-light", clock: String }});
    give([p.rows.reduce((sum, row) => sum + row.height, 0), p.rows[0].now, p.read(0, 3)]);"""
    tall, now, read = run("pictures.js", "statePicture", body)
    assert (tall, now) == (height, True)
    assert read == "Unit 0 at tick 3 (3, version 1): 0.5, saturated"


def test_latency_is_compared_between_seconds_with_learning_and_without(run):
    body = """const at = (p99, share) => ({ latency_p50: 0.001, latency_p99: p99, learning_share: share });
    const busy = Array(20).fill(at(0.004, 0.5)), idle = Array(20).fill(at(0.002, 0)), none = { latency_p99: null };
    const calm = [...idle, ...idle.map(() => at(0.002, 0.5))];
    give([readLatency([...busy, ...idle, none]), readLatency(calm), readLatency(busy),
      readLatency([none])]);"""
    disturbed, calm, always, nothing = run("reading.js", "readLatency", body)
    assert disturbed.endswith("While it learns, p99 is 4 ms, without 2 ms: 100 % more than without.")
    assert calm.endswith("learning does not disturb it.")
    assert "nothing to compare with" in always
    assert nothing == ""


def test_freshness_is_compared_with_what_is_aimed_at(run):
    body = """give([readFreshness(3, 0.4, 2), readFreshness(1, null, 2), readFreshness(1, null, null),
      readFreshness(null)]);"""
    late, fresh, unknown, nothing = run("reading.js", "readFreshness", body)
    assert "more than the 2 s" in late
    assert late.endswith("Half of the labels serve within 400 ms.")
    assert "within the 2 s" in fresh
    assert unknown == "The oldest label that is not judged yet has waited 1 s."
    assert nothing == ""


def test_losses_of_the_gate_are_those_of_versions_and_of_vetoes(run):
    body = """give(gateRows([{ number: 2, created: 1, loss: 0.1, anchor_loss: null }], [
      { kind: "vetoed", time: 2, numbers: { loss: 0.3, anchor_score: 0.1 } },
      { kind: "vetoed", time: 3, numbers: {} },
      { kind: "published", time: 1, numbers: { loss: 0.1 } }])
      .map((row) => [row.created, row.loss, row.anchor_loss]));"""
    assert run("verdicts.js", "gateRows", body) == [[1, 0.1, None], [2, 0.3, 0.1]]


def test_a_timeline_begins_where_enough_happened_and_one_old_version_does_not_press_it_together(run):
    body = """const recent = Array.from({ length: 30 }, (_, n) => 1e6 - 10 * n);
    give([beginning([1, ...recent], 1e6, ""), beginning([1, ...recent], 1e6, "all"),
      beginning([1, ...recent], 1e6, "120"),
      beginning([9e5, 8e5], 1e6, ""), beginning([], 1e6, "")]);"""
    assert run("verdicts.js", "beginning", body) == [999_100, 1, 999_880, 800_000, 999_940]


def test_an_event_of_a_later_server_is_shown_as_it_is_named(run):
    body = """give([tell({ kind: "melted", reason: "heat" }),
      marks([{ kind: "melted", time: 1 }], (t) => t, 9).length,
      shownEvents([{ kind: "melted" }, { kind: "created", time: 1 }, { kind: "paused", time: 2 }]).length]);"""
    assert run("verdicts.js", "tell, marks, shownEvents", body) == ["melted: heat.", 0, 2]
