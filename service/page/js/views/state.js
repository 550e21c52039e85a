// State: the hidden state of one stream, units × time.

import { el } from "../dom.js";
import { moment, short } from "../format.js";
import { heat } from "../heat.js";
import { panel } from "../panel.js";
import { statePicture } from "../pictures.js";
import { readState, units } from "../reading.js";
import { colours } from "../theme.js";
import { picker, sheet } from "./kit.js";

const LOOKS = 120; // shown: half a minute at four looks a second

/** The state view: see `views` in main.js. */
export default {
  id: "state",
  title: "State",
  show: ["state"],
  mount(root, ctx) {
    sheet();
    const view = stateView(ctx);
    root.append(view.element);
    view.draw();
    return {
      update: (changes) => ["state", "hello", "clear", "theme"].some((name) => changes.has(name)) && view.draw(),
      destroy: view.destroy,
    };
  },
};

function stateView(ctx) {
  const chosen = { stream: "", layer: "", order: "unit" };
  let shown = [];
  const made = panel({
    name: "state", title: "Hidden state", wide: true, canvases: () => [map.canvas], file: () => [ctx.store.model?.name, chosen.stream, chosen.layer],
    help: "A row per unit of the layer, a column per look at the stream. Blue is negative, orange positive, as strong as the value is far from 0. A dot marks a saturated unit; beside the row: saturated now.",
    doc: "The gates are computed from one look to the next; at the first look, and after many ticks between two, they are not known.\nA unit is marked while one of its gates is saturated (nearly 0 or 1, where it passes almost no gradient), or, in a cell without gates, while its value is at the end of its range (0.99 and more). Some saturated units are the memory of a cell. Many are a sign of inputs or weights that are too large: see “The gradient vanishes” in docs/learning.md.\nA unit that does not move carries nothing of the stream; too many of them: the model is larger than it needs to be.",
    table: () => tableOf(shown),
  });
  const redraw = (key) => (value) => {
    chosen[key] = value;
    draw();
  };
  const pickers = { stream: picker("Stream", "state-stream", redraw("stream")), layer: picker("Layer", "state-layer", redraw("layer")), order: picker("Rows", "state-order", redraw("order")) };
  made.tools.append(...Object.values(pickers).map(({ element }) => element));
  const map = heat(made.body, { name: "Hidden state by unit and time", colours });
  const about = el("p", { class: "note" });
  made.body.append(about);

  function draw() {
    const { streams } = ctx.store;
    if (!streams.includes(chosen.stream)) chosen.stream = streams[0] ?? "";
    const states = ctx.store.states(chosen.stream), newest = states.at(-1);
    const names = newest ? newest.layers.map(({ name }) => name) : [];
    if (!names.includes(chosen.layer)) chosen.layer = names[0] ?? "";
    pickers.stream.fill(streams.map((id) => [id, short(id, 40)]), chosen.stream);
    pickers.layer.fill(names.map((name) => [name, name]), chosen.layer);
    pickers.order.fill([["unit", "by number"], ["variance", "most moving first"]], chosen.order);
    shown = looksOf(states, chosen.layer);
    const found = units(shown);
    made.empty(shown.length ? "" : emptyText(ctx.store, chosen.stream));
    made.say(readState(found));
    if (!shown.length) return;
    const order = chosen.order === "unit" ? found.order.slice().sort((a, b) => a - b) : found.order;
    map.draw(statePicture(shown, { order, palette: dark() ? "around-dark" : "around-light", clock: moment }));
    const { hidden = 0 } = ctx.store.model ?? {}, most = shown.at(-1).values.length;
    const part = hidden > most && most >= 512 ? ` The first ${most} of ${hidden} units are shown.` : "";
    about.textContent = `${chosen.stream}, tick ${newest.seq}, answered by version ${newest.version}.${part} The scale is symmetric and fitted to the looks that are shown.`;
    made.refresh();
  }

  return { element: made.element, draw, destroy: map.destroy };
}

/** The looks at one layer, oldest first: {time, seq, version, values, marked}. A look at a tick that was seen already adds nothing. */
function looksOf(states, layer) {
  const looks = [];
  for (const state of states) {
    const found = state.layers.find(({ name }) => name === layer);
    if (found && looks.at(-1)?.seq !== state.seq) looks.push({ time: state.time, seq: state.seq, version: state.version, values: found.values, marked: found.marked ?? null });
  }
  const n = looks.at(-1)?.values.length;
  return looks.filter(({ values }) => values.length === n).slice(-LOOKS);
}

function emptyText(store, stream) {
  if (!store.hello) return "Waiting for the server.";
  if (!stream && store.model?.slices) return "The streams of this model are in its slices: choose one above.";
  if (!stream) return "No stream is chosen, and none has ticked: a state begins with a stream's first tick.";
  return `States are shown from when this page was opened: the first column of ${stream} comes with its next tick.`;
}

function tableOf(looks) {
  const n = looks.at(-1)?.values.length ?? 0;
  const columns = ["time (UTC)", "tick", "version", "saturated units", ...Array.from({ length: n }, (_, unit) => `unit ${unit}`)];
  return { columns, rows: looks.map((look) => [moment(look.time), look.seq, look.version, look.marked ? look.marked.join(" ") : null, ...look.values]) };
}

function dark() {
  return getComputedStyle(document.documentElement).colorScheme === "dark";
}
