// Errors of what serves beside persistence, least squares and the ghost: over time, by stream, by step, and what intervals promise.

import { path } from "../api.js";
import { breaks } from "../axes.js";
import { bars } from "../bars.js";
import { chart, markOf } from "../chart.js";
import { columnsOf, spanOf } from "../columns.js";
import { announced, el } from "../dom.js";
import { number, percent, plural, short, stamp, times } from "../format.js";
import { panel } from "../panel.js";
import { noSamples } from "../reading.js";
import { horizonSentence, standing } from "../sentences.js";
import { MEAN, streamErrors, versionChanges } from "../windows.js";

const NO_TRUTH = "Labels of this task arrive by themselves, not as later ticks: choose all streams to see the error of the learner.";

const SHOWN = 512; // ticks
const EVERY = 5000; // ms between two looks at errors by stream and step
const WORST = 10;
const ALL = ""; // the choice of all streams
const HINT = "Move along a line to read it; drag to look closer.";
const NEAR = 0.05; // of a level: an interval that covers so nearly what it promised is well

const CURVES = [
  { key: "persistence", label: "persistence", colour: "persistence", width: 1.5, dash: [2, 3] },
  { key: "least_squares", label: "least squares", colour: "least_squares", width: 1.5, dash: [8, 3, 2, 3] },
  { key: "ghost", label: "ghost", colour: "ghost", dash: [6, 4] },
  { key: "served", label: "served", colour: "served" },
];
const LEGEND = [
  { label: "what serves", colour: "served" }, { label: "persistence: the last value again", colour: "persistence", kind: "dotted" },
  { label: "least squares on the last values", colour: "least_squares", kind: "dashed" }, { label: "ghost: had it not learned", colour: "ghost", kind: "dashed" },
];
const MARKS = ["published", "vetoed", "drifted", "rolled back"].map((kind) => {
  const { sign, colour } = markOf(kind);
  return { label: kind, colour, kind: "mark", sign };
});
const DOC = `Every error here is prequential: the forecast was made before its truth was known, and counts once. Squared errors are divided by the mean square of one-step differences of the same stream, \
so that streams of any unit compare; the error of persistence one step ahead then stands near one.
What serves should lie below persistence, or the model is of no use; below the ghost, or learning is of no use. After a change of the series all rise; only what learns comes back.
Least squares is computed by the server over the last labels, since the page opened; the other lines are running means over ${MEAN} ticks of what the page has.`;

function mount(root, ctx) {
  const { store, route, api } = ctx;
  let of = null; // stream whose error over time is shown, or ALL; null: the first chosen one
  let errors = { steps: [], streams: [] };
  let problem = "";
  let asked = -Infinity;
  let gone = false;
  const file = () => [route.get().model];

  const over = panel({ name: "error", title: "Error over time", wide: true, doc: DOC, legend: LEGEND, table: overTable, canvases: () => [line.canvas], file,
    help: "Squared error of each forecast relative to how much the series moves, on a log scale: lower is better, and one is about what repeating the last value costs." });
  const select = el("select", { onchange: () => { of = select.value; draw(); } });
  const live = el("button", { type: "button", class: "small", hidden: true, onclick: () => route.set({ from: null, to: null }, { replace: true }) }, "Back to live");
  over.tools.append(el("label", {}, "of", select), live);
  const lineHost = el("div");
  const readout = el("p", { class: "readout", "aria-live": "off" }, HINT);
  over.body.append(lineHost, readout);
  const line = chart(lineHost, {
    label: "Error over time", series: CURVES, height: 280, xlabel: "tick", log: true, oncursor: (index, keyboard) => announced(readout, index === null ? HINT : line.describe(index), keyboard),
    onzoom: (from, to) => of !== ALL && route.set({ from, to }, { replace: true }), onlive: () => route.set({ from: null, to: null }, { replace: true }),
  });

  const worst = panel({ name: "worst", title: "The worst ten streams", table: worstTable, newest: false, canvases: () => [worstBars.canvas], file,
    link: (column, value) => (column === "stream" ? route.href({ view: "forecast", streams: [value], from: null, to: null }) : null),
    legend: [{ label: "squared error ÷ persistence's", colour: "served", kind: "area" }, { label: "worse than persistence", colour: "bad", kind: "area" }, { label: "persistence", colour: "text", kind: "mark", sign: "┃" }],
    help: "Where the learner does worst before it learns each label, against repeating the last value: a bar beyond the line is a stream it should not be used for. The table leads to each of them." });
  const worstBars = bars(worst.body, { label: "Squared error of the worst streams relative to persistence", most: (rows) => Math.max(1.25, ...rows.map(({ value }) => value ?? 0)) });

  const horizon = panel({ name: "horizon", title: "Error by step ahead", table: horizonTable, newest: false, canvases: () => [steps.canvas], file,
    legend: [{ label: "the learner", colour: "served" }, { label: "persistence", colour: "persistence", kind: "dotted" }],
    help: "Squared error of each step, in units of how far the series moves, as the learner had it before it learned each label. The gap below persistence is what the model knows of the future." });
  const stepsHost = el("div");
  horizon.body.append(stepsHost);
  const steps = chart(stepsHost, { label: "Error by step ahead", xlabel: "step", xspace: 32, xpad: 0.5, height: 240, yrange: (_, high) => [0, high * 1.08 || 1],
    series: [{ key: "persistence", label: "persistence", colour: "persistence", dash: [2, 3], points: true }, { key: "served", label: "served", colour: "served", points: true }] });

  const coverage = panel({ name: "coverage", title: "What intervals hold", wide: true, table: coverageTable, newest: false, canvases: () => [coverageBars.canvas], file,
    legend: [{ label: "truths inside the interval", colour: "served", kind: "area" }, { label: `more than ${percent(NEAR)} off its level`, colour: "ghost", kind: "area" }, { label: "the level it promises", colour: "text", kind: "mark", sign: "┃" }],
    help: "An 80 % interval should hold 80 % of the truths: a bar short of its line is an interval too narrow to trust, one beyond it is wider than needed." });
  const coverageBars = bars(coverage.body, { label: "Coverage of intervals against their level", most: () => 1 });
  root.append(over.element, worst.element, horizon.element, coverage.element);

  /* Errors over time */

  function shownStream() {
    return of === ALL || (of !== null && store.streams.includes(of)) ? of : store.streams[0] ?? ALL;
  }

  function draw() {
    const stream = shownStream();
    const { from, to } = stream === ALL ? { from: null, to: null } : route.get();
    const options = [...store.streams, ALL];
    if (select.dataset.key !== JSON.stringify(options)) {
      select.replaceChildren(...options.map((id) => el("option", { value: id }, id === ALL ? "all streams, by the clock" : short(id, 40))));
      select.dataset.key = JSON.stringify(options);
    }
    select.value = stream;
    live.hidden = from === null;
    const drawn = stream === ALL ? drawAll() : drawStream(stream, { from, to });
    over.empty(drawn ? "" : stream === ALL ? noSamples(store.samples, "label was learned", "the first point comes with the next second in which one is") : store.model?.task === "forecast" ? "No forecast of this stream has an error yet: the first point comes when eight of them have met their truth." : NO_TRUTH);
    over.refresh();
  }

  function drawStream(stream, { from, to }) {
    const ticks = store.ticks(stream);
    if (!ticks?.length) return false;
    const axis = ticks.timed() ? "time" : "seq";
    const shown = ticks.slice({ last: SHOWN, axis });
    const columns = streamErrors(shown, ticks.step, store.scoreHistory(stream), axis);
    over.setLegend([...LEGEND, { label: "a version took over", colour: "published", kind: "mark", sign: "▲" }]);
    line.marks(versionChanges(shown.version).map(({ at }) => ({ x: shown[axis][at], kind: "published" })));
    line.set(columns, { from, to, time: axis === "time", breaks: breaks(shown.seq, shown[axis], ticks.usual(axis)) });
    const scores = store.scoresOf(stream);
    over.say(scores ? standing(scores) : store.model?.task === "forecast" ? "The server has not scored this stream yet." : NO_TRUTH);
    return columns.served.some((value) => value !== null);
  }

  function drawAll() {
    const { samples } = store;
    over.setLegend([LEGEND[0], LEGEND[1], ...MARKS]);
    line.marks(store.events.map(({ time, kind }) => ({ x: time, kind })));
    const { loss: served, ...rest } = columnsOf(samples, ["loss", "persistence"]);
    line.set({ served, ...rest }, { ...spanOf(samples), time: true });
    const { loss, persistence_loss: base } = store.model ?? {};
    over.say(loss > 0 && base > 0 ? `Of all streams, the loss of what serves is ${times(loss / base)} that of persistence.` : "");
    return samples.some(({ loss: one }) => typeof one === "number");
  }

  function overTable() {
    const { x, ...curves } = line.columns();
    const keys = CURVES.map(({ key }) => key).filter((key) => curves[key]);
    const [clocked, timed] = [shownStream() === ALL, store.ticks(shownStream())?.timed()];
    const first = clocked ? "time (UTC)" : timed ? "event time (UTC)" : "tick";
    return { columns: [first, ...keys.map((key) => key.replace("_", " "))], rows: x.map((at, index) => [clocked || timed ? stamp(at) : at, ...keys.map((key) => curves[key][index])]) };
  }

  /* By stream, by step */

  async function look() {
    if (performance.now() - asked < EVERY || !route.get().model) return;
    asked = performance.now();
    try {
      errors = await api.get(path`/models/${route.get().model}/errors`, { worst: WORST });
      problem = "";
    } catch (error) {
      problem = error.message || "The server does not answer.";
    }
    if (!gone) drawErrors();
  }

  function drawErrors() {
    const rows = worstRows();
    worstBars.set(rows.map(({ id, ratio }) => ({ label: id, value: ratio, mark: 1, colour: ratio > 1 ? "bad" : "served", text: ratio === null ? "–" : `${number(ratio, 3)} ×` })));
    const beyond = rows.filter(({ ratio }) => ratio > 1).length;
    worst.say(rows.length ? (beyond ? `${plural(beyond, "stream")} of these ${rows.length} would do better with persistence.` : "Even the worst stream does better than persistence.") : "");
    worst.empty(rows.length ? "" : problem || "No stream has a judged label yet: the first bar comes a few seconds after one has.");
    const known = errors.steps;
    steps.set({ x: known.map(({ step }) => step), served: known.map((one) => one.squared), persistence: known.map((one) => one.persistence_squared) });
    horizon.say(horizonSentence(known, store.model?.task));
    horizon.empty(known.length ? "" : problem || "No label is judged yet: the first point comes a few seconds after one is.");
    worst.refresh();
    horizon.refresh();
  }

  function worstRows() {
    return errors.streams.slice(0, WORST).map((one) => ({ ...one, ratio: one.persistence_squared > 0 && one.squared !== null ? one.squared / one.persistence_squared : null }));
  }

  function worstTable() {
    return { columns: ["stream", "÷ persistence", "squared", "persistence", "labels"], rows: worstRows().map((one) => [one.id, one.ratio, one.squared, one.persistence_squared, one.labels]) };
  }

  function horizonTable() {
    return { columns: ["step", "squared", "persistence squared", "absolute", "persistence absolute"], rows: errors.steps.map((one) => [one.step, one.squared, one.persistence_squared, one.absolute, one.persistence_absolute]) };
  }

  /* Intervals */

  function coverageRows() {
    const ofStreams = store.streams.flatMap((stream) => Object.entries(store.scoresOf(stream)?.coverage ?? {}).map(([level, share]) => ({ of: stream, level: Number(level), share })));
    const newest = store.samples.findLast(({ coverage: one }) => one && Object.values(one).some((share) => share !== null))?.coverage ?? {};
    return [...ofStreams, ...Object.entries(newest).map(([level, share]) => ({ of: "all streams, last second", level: Number(level), share }))].filter(({ share }) => share !== null);
  }

  function drawCoverage() {
    const rows = coverageRows();
    coverageBars.set(rows.map(({ of: name, level, share }) => ({ label: short(name, 60), value: share, mark: level, colour: Math.abs(share - level) <= NEAR ? "served" : "ghost", text: `${percent(share)} of ${percent(level)}` })));
    const [first] = rows;
    coverage.say(first ? `${percent(first.share)} of the last truths of ${short(first.of, 40)} fell inside its ${percent(first.level)} interval.` : "");
    const promised = store.model?.intervals?.length;
    coverage.empty(rows.length ? "" : promised === 0 ? "This model promises no interval: its spec names no levels (intervals)." : "No truth has met an interval yet: the first bar comes a second after one has.");
    coverage.refresh();
  }

  function coverageTable() {
    return { columns: ["of", "level", "inside"], rows: coverageRows().map(({ of: name, level, share }) => [name, level, share]) };
  }

  return {
    update(changes) {
      if (["hello", "block", "scores", "sample", "event", "events", "route", "clear"].some((name) => changes.has(name))) draw();
      if (["hello", "scores", "sample", "model"].some((name) => changes.has(name))) drawCoverage();
      look();
    },
    destroy() {
      gone = true;
      for (const one of [line, steps, worstBars, coverageBars]) one.destroy();
    },
  };
}

export default { id: "errors", title: "Error", show: ["ticks", "scores", "samples"], mount };
