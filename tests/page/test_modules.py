"""The page's modules that need no document, run in Node: addresses, what is kept, windows, texts, the event stream."""

import json

import pytest


@pytest.fixture(scope="module")
def evaluate(node):
    """A function that runs statements with `names` of `module` imported and returns the value of an expression."""

    def run(module, names, value, before=""):
        return node(
            f'import {{ {names} }} from "./js/{module}.js";\n{before}\nconsole.log(JSON.stringify({value} ?? null));'
        )

    return run


HOSTILE = {
    "model": "<b>/%?&#=é🚕",
    "view": "errors",
    "streams": ["a&stream=b", "<img src=x onerror=alert(1)>", "%", "שלום"],
    "target": "a b+c",
    "step": 3,
    "ghost": "12",
    "from": 1730000000.5,
    "to": 1730009000,
}


def test_an_address_comes_back_as_it_was_whatever_names_are_in_it(evaluate):
    assert evaluate("route", "build, parse", f"parse(build({json.dumps(HOSTILE)}))") == HOSTILE


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "#",
        "#/%E0%A4%A",
        "#/?step=x&ghost=latest&view=../x",
        "#/?step=-1&ghost=0&from=2&to=1",
        "#/?from=1",
        "#/?step=1e99",
    ],
)
def test_a_broken_address_opens_the_page_as_if_nothing_was_asked(evaluate, broken):
    expected = evaluate("route", "DEFAULTS", "DEFAULTS")
    found = evaluate("route", "parse", f"parse({json.dumps(broken)})")
    assert {**found, "step": 1} == expected
    assert found["step"] in (1, 1e99)  # a step beyond the horizon is cut to it where the horizon is known


def test_an_address_takes_no_more_streams_than_one_viewer_may_have_and_none_twice(evaluate):
    query = "&".join(f"stream={number % 12}" for number in range(40))
    found = evaluate("route", "parse", f"parse({json.dumps('#/m?' + query)})")["streams"]
    assert found == [str(number) for number in range(8)]


BLOCK = """
const block = (from, to, more = {}) => {
  const seq = Array.from({length: to - from}, (_, at) => from + at);
  const [time, truth] = [seq.map((at) => at * 10), seq.map((at) => (at % 5 ? at : null))];
  const [ghost, version, staleness] = [null, 1, 0].map((value) => seq.map(() => value));
  const of = {stream: "s", target: "v", step: 1, restart: false};
  return {...of, seq, time, truth, y: seq, low: seq, high: seq, ghost, version, staleness, ...more};
};
"""


def test_blocks_that_follow_and_overlap_are_one_series(evaluate):
    before = BLOCK + "const t = new Ticks(64); t.add(block(0, 10)); t.add(block(8, 12)); t.add(block(12, 12));"
    assert evaluate("store", "Ticks", "t.slice({last: 64}).seq", before) == list(range(12))
    assert evaluate("store", "Ticks", "t.slice({last: 6}).truth", before) == [6, 7, 8, 9, None, 11]


def test_a_block_that_restarts_or_is_of_another_step_replaces_what_was_there(evaluate):
    for more in ("{restart: true}", "{step: 2}", '{target: "w"}'):
        before = BLOCK + f"const t = new Ticks(64); t.add(block(0, 10)); t.add(block(20, 22, {more}));"
        assert evaluate("store", "Ticks", "t.slice({last: 64}).seq", before) == [20, 21]


def test_a_series_keeps_its_capacity_and_no_more(evaluate):
    before = BLOCK + "const t = new Ticks(16); for (let at = 0; at < 500; at += 7) t.add(block(at, at + 7));"
    assert evaluate("store", "Ticks", "[t.length <= 32, t.slice({last: 99}).seq]", before) == [
        True,
        list(range(488, 504)),
    ]


def test_a_range_of_times_has_one_tick_outside_at_each_end_so_that_lines_reach_the_edge(evaluate):
    before = BLOCK + "const t = new Ticks(64); t.add(block(0, 40));"
    assert evaluate("store", "Ticks", "t.slice({from: 105, to: 135, axis: 'time'}).seq", before) == [10, 11, 12, 13, 14]
    assert evaluate("store", "Ticks", "t.slice({from: 9000, to: 9900, axis: 'time'}).seq.length < 2", before)


def test_times_that_are_missing_or_fall_are_no_axis(evaluate):
    for times, timed in (("[1, 2, 3]", True), ("[1, 1, 2]", False), ("[1, null, 2]", False), ("[3, 2, 1]", False)):
        before = BLOCK + f"const t = new Ticks(8); t.add(block(0, 3, {{time: {times}}}));"
        assert evaluate("store", "Ticks", "t.timed()", before) is timed


def test_what_the_store_keeps_is_bounded_whatever_comes(evaluate):
    before = BLOCK + (
        "const s = createStore(); const hello = {started: 1, model: {}, streams: []}; s.apply('hello', hello);"
        "for (let at = 0; at < 2000; at += 1) { s.apply('sample', {time: at}); s.apply('event', {time: at});"
        " s.apply('gradient', {updates: at}); s.apply('state', {stream: 's', seq: at}); s.apply('dropped', {count: 1});"
        " s.apply('block', block(at, at + 1, {stream: `s${at % 40}`}));"
        " s.apply('scores', {streams: [{stream: 's', served: at}]}); s.apply('of a later server', {}); }"
        "const of = (id) => Boolean(s.ticks(id));"
    )
    value = (
        "[s.samples.length, s.events.length, s.gradients.length, s.states('s').length, s.scoreHistory('s').length,"
        " Array.from({length: 40}, (_, at) => of(`s${at}`)).filter(Boolean).length, s.dropped]"
    )
    assert evaluate("store", "createStore", value, before) == [900, 512, 120, 240, 600, 16, 2000]


def test_a_second_hello_adds_only_samples_that_are_new_and_counts_a_restart(evaluate):
    before = (
        "const s = createStore(); const hello = (started, times) => s.apply('hello', {started, model: {}, streams: [],"
        " history: times.map((time) => ({time}))}); hello(1, [1, 2]); hello(1, [2, 3]); hello(9, [3, 4]);"
    )
    assert evaluate("store", "createStore", "[s.samples.map(({time}) => time), s.restarts]", before) == [
        [1, 2, 3, 4],
        1,
    ]


def test_events_are_read_whole_however_the_bytes_are_cut(evaluate):
    text = (
        'retry: 1000\n\n: alive\n\nevent: a\ndata: {"x":\ndata: 1}\n\ndata: [2]\r\n\r\nevent: b\ndata: "é"\n\nevent: c'
    )
    before = (
        f"const text = {json.dumps(text)}; const got = [];"
        "const cut = (n) => { const feed = eventReader((...event) => got.push(event));"
        " for (let at = 0; at < text.length; at += n) feed(text.slice(at, at + n)); }; [1, 7, 1000].forEach(cut);"
    )
    once = [["a", {"x": 1}], ["message", [2]], ["b", "é"]]
    assert evaluate("api", "eventReader", "got", before) == once * 3


def test_names_are_encoded_in_paths_and_queries_and_no_refusal_is_unexplained(evaluate):
    assert evaluate("api", "path", "path`/models/${'a/../b?c#d'}/pause`") == "/models/a%2F..%2Fb%3Fc%23d/pause"
    assert evaluate("api", "query", "query({stream: ['a&b', 'c'], target: '', step: 1, none: null})") == (
        "?stream=a%26b&stream=c&step=1"
    )
    for status in (400, 401, 403, 404, 409, 421, 429, 503, 500):
        said = evaluate("api", "explain", f"explain({status}, {{field: 'model', value: 'x', remedy: 'list them'}})")
        assert said.endswith(" List them."), said


def test_what_another_node_has_is_said_with_the_address_of_its_page(evaluate):
    moved = {"reason": "MOVED", "field": "shard", "remedy": "it is on another node", "http": "10.0.0.2:8301"}
    said = evaluate("api", "explain", f"explain(421, {json.dumps(moved)}, '#/flow?stream=a')")
    assert said == "Another node of the cluster has this: open http://10.0.0.2:8301/#/flow?stream=a to see it."
    assert evaluate("api", "explain", "explain(421, {remedy: 'use localhost'})").startswith("The server answers only")


def test_a_model_in_slices_says_which_part_of_it_is_shown(evaluate):
    def said(**of):
        return evaluate("sentences", "sliceSentence", f"sliceSentence({json.dumps(of)})")

    part = said(model={"slice": {"index": 1, "count": 3}}, streams=["pump-1", "pump-4"], node="10.0.0.2:8300")
    assert "only streams of slice 2 are shown, which this node (10.0.0.2:8300) serves: pump-1, pump-4." in part
    home = said(model={"slices": 3, "slice": None})
    assert home.startswith("This model is served in 3 slices, each with its own streams; this node is its home")
    assert home.endswith("Choose a stream to see it, on the node that serves its slice.")
    assert said(model={"slices": 0, "slice": None}) == said(model=None) == ""


def test_a_running_mean_is_that_of_the_known_values_and_waits_for_enough_of_them(evaluate):
    assert evaluate("windows", "runningMean", "runningMean([1, null, 3, 5, null, null, 9], 3, 1)") == [
        1, 1, 2, 4, 4, 5, 9,
    ]  # fmt: skip
    assert evaluate("windows", "runningMean", "runningMean([2, 4, 6], 4, 2)") == [None, 3, 4]


def test_errors_are_divided_by_how_much_the_series_moves(evaluate):
    assert evaluate("windows", "scaleOf", "[scaleOf([1, 3, 3, 5, null, 7]), scaleOf([2, 2, 2]), scaleOf([])]") == [
        pytest.approx(8 / 3),
        None,
        None,
    ]
    assert evaluate("windows", "squared, earlier", "squared([1, 2, 4, null], earlier([1, 2, 4, null], 1))") == [
        None, 1, 4, None,
    ]  # fmt: skip


def test_the_next_steps_stand_behind_the_newest_tick_at_the_usual_distance(evaluate):
    before = (
        "const c = [1, 2, 3]; const t = {seq: [7, 8, 9], time: [10, 20, 30], truth: c, y: c, low: c, high: c,"
        " ghost: [null, null, null]};"
        "const next = {seq: 9, steps: [1, 2], y: [4, 5], low: [3, 4], high: [5, 6], ghost: [null, null]};"
    )
    drawn = evaluate("windows", "withNext", "withNext(t, next, 'time')", before)
    assert (drawn["x"], drawn["truth"]) == ([10, 20, 30, 40, 50], [1, 2, 3, None, None])
    assert (drawn["next"], drawn["nextGhost"]) == ([None, None, 3, 4, 5], [None] * 5)
    assert {len(column) for column in drawn.values()} == {5}
    older = evaluate("windows", "withNext", "withNext(t, {...next, seq: 8}, 'seq')", before)
    assert older["x"] == [7, 8, 9]  # a forecast of an earlier tick is not drawn behind a later one


def test_numbers_lengths_of_time_and_names_as_text(evaluate):
    numbers = "[number(1234.5678), number(0.00001234), number(null), number(-0.5), count(1234567)]"
    assert evaluate("format", "number, count", numbers) == ["1235", "1.23·10⁻⁵", "–", "−0.5", "1\u202f234\u202f567"]
    shares = "[percent(0.8), percent(0.084), percent(0.0012345), times(2.41), times(1.024)]"
    assert evaluate("format", "percent, times", shares) == ["80 %", "8.4 %", "0.12 %", "2.4 times", "1.02 times"]
    spans = "[duration(0.0008), duration(0.0125), duration(90), duration(null)]"
    assert evaluate("format", "duration", spans) == ["800 µs", "12.5 ms", "1.5 min", "–"]
    assert evaluate("format", "short", "[short('abcdefghij', 5), short('🚕🚕🚕', 3)]") == ["ab…ij", "🚕🚕🚕"]
    assert evaluate("format", "stamp", "[stamp(0), stamp(1.25), stamp(null)]") == [
        "1970-01-01 00:00:00", "1970-01-01 00:00:01.250", None,
    ]  # fmt: skip


def test_a_table_that_is_saved_runs_no_formula_and_keeps_every_character(evaluate):
    rows = """[["=cmd|' /C calc'!A0", 1.5, null], ['a "b", c', NaN, -2]]"""
    assert evaluate("format", "csv", f"csv(['name', '@x', 'y'], {rows})") == (
        'name,\'@x,y\r\n\'=cmd|\' /C calc\'!A0,1.5,\r\n"a ""b"", c",,-2\r\n'
    )
    assert evaluate("format", "fileName", "fileName(['../<x>', '', 'error'], 'csv')") == ".._x_-error.csv"


SCORED = {"labels": 256, "served": 0.5, "persistence": 1, "least_squares": None, "ghost": 1.2, "ghost_labels": 40}


def test_the_ghost_is_compared_on_the_labels_that_it_is_scored_on(evaluate):
    def said(wanted="open", **scores):
        asked = {"wanted": wanted, "ghost": {"version": 3}, "scores": SCORED | scores, "stream": "a"}
        return evaluate("sentences", "ghostSentence", f"ghostSentence({json.dumps(asked)})")

    assert said(ghost_served=0.4) == (
        "Had it not learned since version 3, the squared error of the last 40 labels of a would be 3 times as large."
    )
    assert "be 2.4 times as large" in said()  # a server that does not say: against all labels
    assert said(ghost_served=1.19).endswith("would be the same.")
    assert said(ghost_served=2.4).endswith("0.5 times as large. Here learning has not paid, yet.")
    assert "are not scored" in said(ghost=None)
    assert said("none").startswith("No ghost is drawn")


def test_how_a_stream_stands_leaves_out_what_is_not_known(evaluate):
    said = evaluate("sentences", "standing", f"standing({json.dumps(SCORED)})")
    assert said == (
        "Over the last 256 labels the squared error of what serves is 0.5 times persistence's"
        " and 0.42 times the ghost's."
    )
    assert "Too few" in evaluate("sentences", "standing", "standing({labels: 0, served: null})")
    steps = [{"step": 1, "squared": 0.4, "persistence_squared": 1}, {"step": 5, "squared": 1, "persistence_squared": 4}]
    assert evaluate("sentences", "horizonSentence", f"horizonSentence({json.dumps(steps)})") == (
        "1 step ahead its squared error is 0.4 times persistence's, 5 steps ahead 0.25 times."
    )
    assert evaluate("sentences", "horizonSentence", "horizonSentence([])") == ""
    one = evaluate("sentences", "horizonSentence", f"horizonSentence({json.dumps(steps[:1])})")
    assert one.startswith("This model forecasts one step ahead, so there is one point: its squared error is 0.4 times")


def test_the_error_of_repeating_the_last_value_stands_at_one(evaluate):
    before = (
        "const truth = Array.from({length: 80}, (_, at) => (at % 2 ? 1 : 0)); const seq = truth.map((_, at) => at);"
        "const none = truth.map(() => null); const t = {seq, truth, y: truth, ghost: none};"
    )
    drawn = evaluate("windows", "streamErrors", "streamErrors(t, 1, [{seq: 70, least_squares: 0.5}], 'seq')", before)
    assert (drawn["persistence"][-1], drawn["served"][-1], drawn["ghost"][-1]) == (1, 0, None)
    assert drawn["least_squares"][69:72] == [None, 0.5, 0.5]
