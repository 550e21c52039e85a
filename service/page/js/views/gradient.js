// Gradient flow: how far back it reaches, how large it is, and what an update does to the weights.

import { el } from "../dom.js";
import { brief, clock, moment, percent } from "../format.js";
import { heat } from "../heat.js";
import { panel } from "../panel.js";
import { lagPicture } from "../pictures.js";
import { RATIO, noReport, readLags, readLayers, readNorm, readRatio } from "../reading.js";
import { colours } from "../theme.js";
import { samplesPanel, sheet } from "./kit.js";

const RECENT = 60; // samples that the sentences are about

/** The gradient view: see `views` in main.js. */
export default {
  id: "gradient",
  title: "Gradient flow",
  show: ["gradient", "samples"],
  mount(root, ctx) {
    sheet();
    const parts = [lags(ctx), norm(ctx), ratio(ctx), layers(ctx)];
    root.append(...parts.map(({ element }) => element));
    const draw = (changes) => parts.forEach((part) => part.update(ctx.store, changes));
    draw(null);
    return {
      update: draw,
      destroy() {
        parts.forEach((part) => part.destroy());
      },
    };
  },
};

const since = (changes, ...names) => !changes || changes.has("theme") || changes.has("clear") || changes.has("hello") || names.some((name) => changes.has(name));
const file = (ctx) => () => [ctx.store.model?.name];

/** Reports that are not repeated: a new connection sends the last one again. */
function reportsOf(store) {
  return store.gradients.filter((report, n, all) => Object.keys(report.layers).length && (n === 0 || report.time !== all[n - 1].time));
}

function lags(ctx) {
  let picture = null;
  const made = panel({
    name: "lags", title: "How far back the gradient reaches", wide: true, newest: false, file: file(ctx), canvases: () => [map.canvas], table: () => tableOfLags(picture),
    help: "Left is the newest label, right the first tick of the window. A wide row per layer is the newest report, the thin rows below it are those before. The bar stands where less than 1 % is left.",
    doc: "gradient_lag_norm: the gradient by a layer's output this many ticks back. Healthy: it falls, but is not zero at the last lag.\nFalling by orders of magnitude within a few lags is correct for a series that depends on its recent past. If you know of a longer memory: lru, whose gradient decays by a known rate; attention, whose gradient has direct paths; or lstm or gru rather than rnn; init=orthogonal. If many gates are saturated, they pass no gradient: lower learning_rate or init_gain, or set scaler to residual.\nFrom docs/learning.md, “The gradient vanishes”.",
  });
  const map = heat(made.body, { name: "Gradient by lag and layer", colours });
  const note = el("p", { class: "note" });
  made.body.append(note);
  return {
    element: made.element,
    update(store, changes) {
      if (!since(changes, "gradient", "model") && picture) return;
      picture = lagPicture(reportsOf(store), clock);
      made.empty(picture ? "" : noReport(store.model, store.samples));
      made.say(picture ? readLags(newestLayers(picture)) : "");
      if (!picture) return;
      note.textContent = picture.note;
      map.draw(picture);
      made.refresh();
    },
    destroy: map.destroy,
  };
}

function newestLayers(picture) {
  return Object.fromEntries(picture.rows.filter((row) => row.newest).map(({ name, report }) => [name, report.layers[name]]));
}

function tableOfLags(picture) {
  if (!picture) return { columns: ["layer", "report", "ticks back", "norm"], rows: [] };
  const rows = [...picture.rows].sort((a, b) => b.newest - a.newest).flatMap(({ name, report }) => report.layers[name].map((v, lag) => [name, moment(report.time), lag, v]));
  return { columns: ["layer", "report (UTC)", "ticks back", "norm"], rows };
}

function norm(ctx) {
  const sizes = { label: "Norm of the gradient", series: [{ key: "norm", label: "norm before the clip", colour: "served" }], log: true, yformat: brief };
  const shares = { label: "Share of the updates that were clipped", title: "Clipped updates", series: [{ key: "clipped", label: "share clipped", colour: "ghost" }], height: 110, yformat: percent, yrange: () => [0, 1] };
  const made = samplesPanel({
    name: "norm", title: "Norm of the gradient", sync: "gradient", charts: [sizes, shares], nothing: () => noReport(ctx.store.model, ctx.store.samples), file: file(ctx),
    legend: LEGEND_OF_NORM(null),
    help: "How long the gradient of an update is, before the clip shortens it; logarithmic.",
    doc: "Clipping keeps a gradient's direction, and Adam keeps its step's size, so clipping alone does little harm: six in ten gradients are clipped on the taxi series. If nearly all are (0.9 and more), the loss has the wrong units: a heavy tail (loss=huber), values that are not scaled (scaler=none), or spikes (label_range). Raise clip if the norms are always above it.\nFrom docs/learning.md, “Everything is clipped”.",
  });
  let shown = null;
  return {
    ...made,
    update(store, changes) {
      if (!since(changes, "sample", "gradient", "model")) return;
      const { samples } = store, clip = clipOf(store), recent = samples.slice(-RECENT);
      const line = clip ? [{ y: clip, colour: "bad" }] : [];
      if (clip !== shown) made.setLegend(LEGEND_OF_NORM((shown = clip))); // before `draw`, which hides it where nothing is drawn
      made.draw({ samples, lines: { [sizes.label]: line, [shares.label]: [{ y: 0.9, colour: "muted" }] } });
      made.say(readNorm(recent.map((sample) => sample.norm), recent.map((sample) => sample.clipped), clip));
    },
  };
}

const LEGEND_OF_NORM = (clip) => [
  { label: "norm before the clip", colour: "served" }, ...(clip ? [{ label: `clip at ${brief(clip)}`, colour: "bad", kind: "dashed" }] : []),
  { label: "share clipped", colour: "ghost" }, { label: "healthy below 90 %", colour: "muted", kind: "dashed" },
];

function clipOf(store) {
  return store.gradient?.clip ?? store.model?.clip ?? store.model?.spec?.clip ?? null;
}

function ratio(ctx) {
  const only = {
    label: "Size of an update relative to the weights", log: true, height: 316, yformat: brief, yrange: roomy, fixed: { ...RATIO },
    series: [{ key: "ratio", label: "update / weights", colour: "served" }, { key: "low", colour: "", width: 0 }, { key: "high", colour: "", width: 0 }],
    bands: [{ low: "low", high: "high", colour: "interval" }],
  };
  const made = samplesPanel({
    name: "ratio", title: "Update / weights", sync: "gradient", charts: [only], nothing: () => noReport(ctx.store.model, ctx.store.samples), file: file(ctx),
    legend: [{ label: "update / weights", colour: "served" }, { label: "healthy: 10⁻⁴ to 10⁻²", colour: "interval", kind: "area" }],
    help: "How large an update is, relative to the weights that it changes; logarithmic.",
    doc: "update_ratio: size of an update relative to the weights. Healthy: 10⁻⁴ to 10⁻². Above: lower learning_rate; below: raise it.\nFrom docs/learning.md, “Read the gradient view”.",
  });
  return {
    ...made,
    update(store, changes) {
      if (!since(changes, "sample", "model")) return;
      made.draw({ samples: store.samples });
      made.say(readRatio(store.samples.slice(-RECENT).map((sample) => sample.ratio)));
    },
  };
}

/** A range that shows the healthy band within what surrounds it. */
function roomy(low, high) {
  return [10 ** Math.floor(Math.log10(Math.min(low, RATIO.low / 2))), 10 ** Math.ceil(Math.log10(Math.max(high, RATIO.high * 2)))];
}

function layers(ctx) {
  let rows = [];
  const made = panel({
    name: "layers", title: "Layers side by side", wide: true, file: file(ctx), newest: false,
    help: "The norm of each layer's gradient, and the share of its gates that are saturated and pass none.",
    doc: "gradient_norm{layer}: before the clip. Healthy: layers within two powers of ten of each other; a layer near 0 learns nothing: frozen, or saturated.\ngates_saturated_ratio{layer}. Healthy: below 0.5; otherwise inputs are too large, or weights.\nFrom docs/learning.md, “Read the gradient view”.",
    table: () => ({ columns: ["layer", "norm", "share of gates saturated"], rows }),
  });
  const list = el("ul", { class: "bars", tabindex: "0", "aria-label": "Layers" });
  made.body.append(list);
  return {
    element: made.element,
    update(store, changes) {
      if (!since(changes, "gradient", "model")) return;
      const { by_layer: norms = {}, saturated = {} } = reportsOf(store).at(-1) ?? {};
      const names = [...new Set([...Object.keys(norms), ...Object.keys(saturated)])].filter((name) => name !== "all");
      rows = names.map((name) => [name, norms[name] ?? null, saturated[name] ?? null]);
      made.empty(rows.length ? "" : noReport(store.model, store.samples));
      made.say(readLayers(norms, saturated));
      list.replaceChildren(...bars(rows));
      made.refresh();
    },
    destroy() {},
  };
}

/** A line per layer: norms as bars over the four powers of ten below the largest. */
function bars(rows) {
  const largest = Math.max(0, ...rows.map(([, v]) => v ?? 0));
  return rows.map(([name, v, share]) => el("li", {},
    el("span", { class: "name" }, name),
    el("span", { class: "bar" }, bar(v > 0 ? 1 + Math.log10(v / largest) / 4 : 0, "served"), el("span", { class: "number" }, `norm ${brief(v)}`)),
    share === null ? el("span", { class: "muted" }, "no gates") : el("span", { class: "bar" }, bar(share, share >= 0.5 ? "bad" : "persistence"), el("span", { class: "number" }, `${percent(share)} saturated`)),
  ));
}

function bar(share, colour) {
  const inner = el("span", {});
  inner.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  inner.style.background = `var(--${colour})`;
  return el("span", { class: "track", "aria-hidden": "true" }, inner);
}
