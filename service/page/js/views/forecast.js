// Forecast against truth of the chosen streams, as they move, beside the ghost: the model had it not learned.

import { breaks } from "../axes.js";
import { chart } from "../chart.js";
import { announced, el, setText } from "../dom.js";
import { moment, number, percent, short, stamp } from "../format.js";
import { panel } from "../panel.js";
import { pointPanel } from "../point.js";
import { ghostSentence } from "../sentences.js";
import { withNext } from "../windows.js";

const WINDOW = 256; // ticks of the moving window
const HINT = "Click a point to see who answered; drag to look closer.";
const SERIES = [
  { key: "low", label: "low", colour: "", width: 0 },
  { key: "high", label: "high", colour: "", width: 0 },
  { key: "nextLow", label: "", colour: "", width: 0 },
  { key: "nextHigh", label: "", colour: "", width: 0 },
  { key: "ghost", label: "ghost", colour: "ghost", width: 1.5, dash: [6, 4] },
  { key: "nextGhost", label: "", colour: "ghost", dash: [2, 3] },
  { key: "truth", label: "truth", colour: "text", width: 1.5 },
  { key: "y", label: "forecast", colour: "served", width: 1.5 },
  { key: "next", label: "ahead", colour: "served", width: 1.5, dash: [2, 2], points: true },
];
const BANDS = [{ low: "low", high: "high", colour: "interval" }, { low: "nextLow", high: "nextHigh", colour: "interval" }];
const LABELS = { forecast: ["truth", "forecast", "ghost"], answer: ["truth", "answer", "ghost"] };
const DOC = `The solid line in the colour of text is what came; the coloured one is the forecast that was made for that tick, as many ticks earlier as “Steps ahead” says, so that both compare where they stand. \
The area is the interval the model promised. Right of the dotted line nothing is known yet: the points are the newest forecast of every step.
The dashed ghost is the same model with the weights of one version, stepped through the same ticks. Only its weights are frozen: its state, its statistics and its own readouts still move. \
Where ghost and forecast lie together, learning since that version changed nothing; where the ghost stays wrong and the forecast does not, learning has paid.
Drag over a stretch to look closer (plus and minus on the keyboard), double click or Escape to come back to now. A click or Enter on a point says which version answered there.`;

/** The legend and words of a task: what is no forecast has no truth and no interval. */
function wordsOf(model, ghost) {
  const forecasts = !model || model.task === "forecast";
  const [, made] = LABELS[forecasts ? "forecast" : "answer"];
  const legend = [
    ...(forecasts ? [{ label: "truth", colour: "text" }] : []),
    { label: made, colour: "served" },
    ...(forecasts && model?.intervals?.length ? [{ label: `interval, ${percent(model.intervals.at(-1))}`, colour: "interval", kind: "area" }] : []), // of several the widest is drawn
    ...(forecasts ? [{ label: "the next steps", colour: "served", kind: "dotted" }] : []),
    ...(ghost === "none" ? [] : [{ label: "ghost: had it not learned", colour: "ghost", kind: "dashed" }]),
  ];
  return { forecasts, legend };
}

function mount(root, ctx) {
  const { store, route } = ctx;
  const live = el("button", { type: "button", class: "small", hidden: true, onclick: toLive }, "Back to live");
  const main = panel({
    name: "forecast", title: "Forecast against truth", wide: true, doc: DOC, table, canvases,
    help: "Each tick's truth with the forecast that was made for it: the closer the two, the better the model; where there is an interval, a truth outside of it is one the model did not expect.",
    file: () => [route.get().model, ...store.streams.slice(0, 2)],
  });
  main.tools.append(live);
  const multiples = el("div", { class: "multiples" });
  main.body.append(multiples);
  const point = pointPanel(ctx, { onclose: () => charts.forEach(({ drawing }) => drawing.pick(null)) });
  root.append(main.element, point.element);
  const charts = new Map(); // by stream
  let words = wordsOf(store.model, route.get().ghost);
  main.setLegend(words.legend);

  function toLive() {
    route.set({ from: null, to: null }, { replace: true });
  }

  function zoom(from, to) {
    route.set({ from: Number(from.toPrecision(12)), to: Number(to.toPrecision(12)) }, { replace: true });
  }

  function make(stream, height) {
    const title = el("h3", { class: "name", dir: "auto", title: stream }, short(stream, 80));
    const drop = el("button", { type: "button", class: "small", "aria-label": `Remove ${stream} from the view`, onclick: () => route.set({ streams: store.streams.filter((id) => id !== stream) }) }, "Remove");
    const host = el("div");
    const nothing = el("p", { class: "empty", hidden: true });
    const readout = el("p", { class: "readout", "aria-live": "off" });
    const element = el("section", { class: "multiple", "aria-label": stream, "data-stream": stream }, el("div", { class: "head" }, title, drop), host, nothing, readout);
    const one = { element, host, nothing, readout, drop, stream, height, revision: -1, shown: null };
    one.drawing = chart(host, {
      label: `Forecast and truth of ${stream}`, series: SERIES, bands: BANDS, height, xlabel: "tick", sync: "forecast", onzoom: zoom, onlive: toLive,
      oncursor: (index, keyboard) => announced(readout, index === null ? hintOf(one) : describe(one, index), keyboard),
      onpick: (index) => open(one, index),
    });
    return one;
  }

  function hintOf({ stream, shown }) {
    return shown && stream === store.streams[0] ? HINT : "";
  }

  function describe(one, index) {
    const { window: shown, columns, timed } = one.shown ?? {};
    if (!shown || columns.x[index] === undefined) return "";
    const where = timed ? `${moment(columns.x[index])} UTC` : `tick ${number(columns.x[index], 12)}`;
    const interval = (low, high) => (columns[low][index] === null ? "" : ` (${number(columns[low][index])} to ${number(columns[high][index])})`);
    if (index >= shown.seq.length) return `${where}, not known yet: forecast ${number(columns.next[index])}${interval("nextLow", "nextHigh")}`;
    const values = [["truth", columns.truth[index], ""], ["forecast", columns.y[index], interval("low", "high")], ["ghost", columns.ghost[index], ""]].filter(([, value]) => value !== null);
    const version = shown.version[index] === null ? "" : `, version ${shown.version[index]}`;
    return `${where}: ${values.map(([name, value, more]) => `${name} ${number(value)}${more}`).join(", ") || "nothing known"}${timed ? `; tick ${number(shown.seq[index], 12)}` : ""}${version}`;
  }

  function open(one, index) {
    const { window: shown, columns } = one.shown ?? {};
    if (!shown) return;
    const last = shown.seq.length - 1;
    const target = store.ticks(one.stream)?.target ?? "";
    one.drawing.pick(columns.x[index]);
    point.open({ stream: one.stream, target, shown: index <= last ? shown.seq[index] : shown.seq[last] + index - last, made: index <= last ? shown.seq[index] - one.step : shown.seq[last] });
  }

  function arrange() {
    const wanted = store.streams;
    const height = wanted.length > 4 ? 180 : wanted.length > 1 ? 220 : 320;
    for (const [stream, one] of charts) {
      if (wanted.includes(stream) && one.height === height) continue;
      one.drawing.destroy();
      one.element.remove();
      charts.delete(stream);
    }
    for (const stream of wanted) {
      if (!charts.has(stream)) charts.set(stream, make(stream, height));
      const { element, drop } = charts.get(stream);
      drop.hidden = wanted.length < 2;
      if (multiples.children[wanted.indexOf(stream)] !== element) multiples.insertBefore(element, multiples.children[wanted.indexOf(stream)] ?? null);
    }
    multiples.classList.toggle("many", wanted.length > 1);
  }

  function draw(one) {
    const { from, to } = route.get();
    const ticks = store.ticks(one.stream);
    one.revision = ticks?.revision ?? null;
    const axis = ticks?.timed() ? "time" : "seq";
    const shown = ticks ? ticks.slice({ last: WINDOW, from, to, axis }) : null;
    const none = !shown || shown.seq.length === 0;
    const outside = !none && from !== null && !shown[axis].some((x) => x >= from && x <= to);
    one.host.hidden = none || outside;
    one.nothing.style.minHeight = `${one.height}px`;
    one.nothing.hidden = !(none || outside);
    if (none) setText(one.nothing, "No tick of this stream has been answered since the server started. The next one is drawn here.");
    if (outside) setText(one.nothing, "Nothing is kept of this stretch: the page sees the last ticks only. “Back to live” shows them.");
    if (none || outside) one.shown = null;
    if (!one.readout.textContent || none || outside) setText(one.readout, none || outside ? "" : hintOf({ stream: one.stream, shown }));
    if (none || outside) return;
    const columns = withNext(shown, from === null || to >= shown[axis].at(-1) ? ticks.next : null, axis);
    one.shown = { window: shown, columns, timed: axis === "time" };
    one.step = ticks.step;
    one.drawing.set(columns, { from, to, now: shown[axis].at(-1), time: axis === "time", breaks: breaks(shown.seq, shown[axis], ticks.usual(axis)) });
  }

  function update(changes) {
    if (["model", "hello", "route"].some((name) => changes.has(name))) {
      words = wordsOf(store.model, route.get().ghost);
      main.setLegend(words.legend);
    }
    if (["hello", "block", "route", "theme"].some((name) => changes.has(name))) {
      arrange();
      const all = ["hello", "route", "theme"].some((name) => changes.has(name));
      for (const one of charts.values()) if (all || store.ticks(one.stream)?.revision !== one.revision) draw(one);
      live.hidden = route.get().from === null;
      main.empty(store.streams.length ? "" : store.hello ? store.model?.slices ? "The streams of this model are in its slices: choose one above." : "No stream of this model has ticked yet. Send one a value and it appears here; or choose streams above." : "Waiting for the first values…");
    }
    if (["hello", "scores", "route"].some((name) => changes.has(name))) say();
    main.refresh();
  }

  function say() {
    const stream = store.streams[0];
    if (!stream) return main.say("");
    const sentence = ghostSentence({ wanted: route.get().ghost, ghost: store.scores?.ghost ?? store.ghost, scores: store.scoresOf(stream), champion: store.model?.champion ?? null, stream: store.streams.length > 1 ? short(stream, 40) : "" });
    main.say(words.forecasts ? sentence : `This model answers a task other than forecasting (${store.model.task}): there is no truth to compare with and no ghost. The line is the output chosen as target, or the likeliest class.`);
  }

  function table() {
    const rows = [...charts.values()].flatMap((one) => {
      if (!one.shown) return [];
      const { window: shown } = one.shown;
      return shown.seq.map((seq, at) => [one.stream, seq, stamp(shown.time[at]), shown.truth[at], shown.y[at], shown.low[at], shown.high[at], shown.ghost[at], shown.version[at], shown.staleness[at]]);
    });
    return { columns: ["stream", "tick", "time (UTC)", "truth", "forecast", "low", "high", "ghost", "version", "labels not judged"], rows };
  }

  function canvases() {
    return [...charts.values()].filter((one) => one.shown).map((one) => ({ title: short(one.stream, 80), canvas: one.drawing.canvas }));
  }

  return {
    update,
    destroy() {
      for (const { drawing } of charts.values()) drawing.destroy();
      point.destroy();
    },
  };
}

export default { id: "forecast", title: "Forecast", show: ["ticks", "scores"], mount };
