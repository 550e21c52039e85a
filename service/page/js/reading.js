// What the pictures of the gradient and of the state mean, in one sentence each. Pure: no DOM.
// The healthy ranges and their words are those of docs/learning.md, "Read the gradient view".

import { brief, duration, percent } from "./format.js";
import { count, quantile } from "./scale.js";

export const FADED = 0.01; // of the largest of a layer: what is smaller moves its weights by nothing that counts
export const RATIO = { low: 1e-4, high: 1e-2 }; // healthy sizes of an update relative to the weights
const MUCH_CLIPPED = 0.9, MUCH_SATURATED = 0.5, APART = 2; // powers of ten between layers
const BUSY = 0.02, LEAST_SECONDS = 10; // share of a second with learning; seconds of each kind to compare
const REPORTED = 16; // updates, of which one reports its gradient
const RECENT = 10; // samples that a rate is the mean of
const STILL = 1e-3; // of the scale of a state: a unit that moves less has not moved

/**
 * How far back the gradient of one layer reaches: {faded, least, at}.
 *
 * norms: by lag, 0 the newest label. faded: the first lag from which on all are below FADED of the largest, or null;
 * least: the last lag's share of the largest; dead: no norm is positive.
 */
export function reach(norms) {
  const sizes = norms.map((v) => (Number.isFinite(v) ? v : 0));
  const largest = sizes.reduce((a, b) => Math.max(a, b), 0);
  if (!(largest > 0)) return { faded: null, least: 0, dead: true };
  let last = sizes.length - 1;
  while (last > 0 && sizes[last] < FADED * largest) last -= 1;
  return { faded: last + 1 < sizes.length ? last + 1 : null, least: sizes[sizes.length - 1] / largest, dead: false };
}

/** Reads lag × layer. layers: norms by lag of each layer; "" if there are none. */
export function readLags(layers) {
  const found = Object.entries(layers).filter(([, norms]) => norms.length).map(([name, norms]) => ({ name, n: norms.length, ...reach(norms) }));
  if (!found.length) return "";
  const dead = found.filter((layer) => layer.dead);
  if (dead.length) return `The gradient of ${several(dead)} is zero at every tick: it learns nothing, because it is frozen or saturated.`;
  const faded = found.filter((layer) => layer.faded !== null).sort((a, b) => a.faded - b.faded);
  if (!faded.length) {
    const weakest = found.reduce((a, b) => (b.least < a.least ? b : a));
    const who = found.length > 1 ? `in every layer; at the last tick ${weakest.name} still has` : `with`;
    return `Gradients reach all ${count(weakest.n, "tick")} of the window back, ${who} ${percent(weakest.least)} of the largest.`;
  }
  const [first] = faded;
  const others = faded.length > 1 ? ` (${count(faded.length - 1, "other layer")} ${faded.length === 2 ? "does" : "do"} so there or further back)` : "";
  const who = found.length === 1 ? "this model" : "this layer";
  return `The gradient of ${first.name} falls below ${percent(FADED)} of its largest at ${count(first.faded, "tick")} back${others}: ${who} cannot learn from events further away.`;
}

/** Why there is no report of a gradient, and when the first one comes. model: MODEL, or null before it is known; samples: of it. */
export function noReport(model, samples = []) {
  const rule = `One update in ${REPORTED} reports its gradient by layer and lag`;
  if (!model) return "Waiting for the server.";
  if (model.spec?.learn === false) return "This model does not learn (learn = false), so it has no gradients.";
  if (model.slice) return "A slice of a model does not learn: the node of the model's home shows its gradients.";
  if (model.paused) return "Learning is paused: gradients are reported again when it is resumed, in the view Versions.";
  if (!model.learned) return `No gradient report yet: this model has not learned a label. ${rule}, so the first comes with its first ${REPORTED} updates.`;
  const rates = samples.slice(-RECENT).map(({ updates_per_s: rate }) => rate).filter(Number.isFinite);
  const rate = rates.reduce((sum, one) => sum + one, 0) / rates.length;
  const next = rate > 0 ? `the first is due in about ${duration(Number(Math.max(1, REPORTED / rate).toPrecision(1)))}` : `the first comes within ${REPORTED} updates, once labels arrive`;
  return `Gradients are shown from when this page was opened, and none was reported since. ${rule}: ${next}.`;
}

/** Why a chart of samples is empty, and when its first point comes. what: has not happened, as a noun; first: sentence without its end. */
export function noSamples(samples, what, first) {
  if (!samples.length) return "Samples begin when the page is opened, one each second: the first is due within two seconds.";
  return `No ${what} since this page was opened: ${first}.`;
}

/** Reads the norm and the clip. norms: recent ones; clipped: recent shares, null where unknown; clip: null or 0 for none. */
export function readNorm(norms, clipped, clip) {
  const known = norms.filter(Number.isFinite);
  if (!known.length) return "";
  const middle = quantile(Float64Array.from(known).sort(), 0.5);
  const start = `The gradient's norm is ${brief(middle)} (median of the last ${count(known.length, "value")})`;
  if (!clip) return `${start}; no clip is set.`;
  const shares = clipped.filter(Number.isFinite);
  if (!shares.length) return `${start}; the clip is at ${brief(clip)}.`;
  const share = shares.reduce((a, b) => a + b, 0) / shares.length;
  const reading = share >= MUCH_CLIPPED
    ? "nearly everything is clipped: the loss has the wrong units (a heavy tail, values that are not scaled, or spikes)"
    : "healthy is below 90 %, because a clip keeps the direction";
  return `${start}; ${percent(share)} of the updates were clipped to ${brief(clip)}: ${reading}.`;
}

/** Reads the update/weight ratio. ratios: recent ones. */
export function readRatio(ratios) {
  const known = ratios.filter((v) => v > 0 && v < Infinity);
  if (!known.length) return "";
  const middle = quantile(Float64Array.from(known).sort(), 0.5);
  const start = `An update changes the weights by ${brief(middle)} of their size`;
  if (middle > RATIO.high) return `${start}, above 10⁻²: lower learning_rate.`;
  if (middle < RATIO.low) return `${start}, below 10⁻⁴: raise learning_rate.`;
  return `${start}: healthy (10⁻⁴ to 10⁻²).`;
}

/** Reads the layers beside each other. norms: of each layer's gradient; saturated: share of its gates. */
export function readLayers(norms, saturated) {
  const full = Object.entries(saturated).filter(([, share]) => share >= MUCH_SATURATED).map(([name]) => ({ name }));
  if (full.length) return `${percent(Math.max(...full.map(({ name }) => saturated[name])))} of the gates of ${several(full)} are saturated (healthy is below 50 %): inputs or weights are too large, and no gradient passes.`;
  const known = Object.entries(norms).filter(([name, v]) => name !== "all" && Number.isFinite(v));
  const idle = known.filter(([, v]) => !(v > 0)).map(([name]) => ({ name }));
  if (idle.length) return `${several(idle)} ${idle.length === 1 ? "has" : "have"} no gradient: frozen, or saturated.`;
  const most = Math.max(0, ...Object.values(saturated).filter(Number.isFinite));
  const gates = Object.keys(saturated).length ? `; at most ${percent(most)} of a layer's gates are saturated (healthy is below 50 %)` : "";
  if (known.length < 2) return known.length || gates ? `One layer has a gradient${gates}.` : "";
  const logs = known.map(([, v]) => Math.log10(v)), apart = Math.max(...logs) - Math.min(...logs);
  const verdict = apart <= APART ? "healthy is within two" : "healthy is within two: a layer near 0 learns nothing";
  return `The layers' norms are within ${brief(Math.max(0.1, apart))} powers of ten of each other (${verdict})${gates}.`;
}

/**
 * What a layer's units did: {saturated, still, looks, order}.
 *
 * looks: states of one layer, oldest first: {values, marked}, marked null where the gates are not known. saturated: how
 * many at the last look at which they are; null: at none of them. order: units by falling variance.
 */
export function units(looks, most = 60) {
  const recent = looks.slice(-most), newest = recent[recent.length - 1];
  if (!newest) return { saturated: null, still: 0, looks: 0, order: [] };
  const n = newest.values.length, variance = new Float64Array(n);
  let still = 0, scale = 0;
  for (const { values } of recent) for (const v of values) if (Number.isFinite(v)) scale = Math.max(scale, Math.abs(v));
  for (let unit = 0; unit < n; unit += 1) {
    const seen = recent.map(({ values }) => values[unit]).filter(Number.isFinite);
    const mean = seen.reduce((a, b) => a + b, 0) / seen.length;
    variance[unit] = seen.length ? seen.reduce((a, b) => a + (b - mean) ** 2, 0) / seen.length : -1;
    const moved = seen.reduce((a, b) => Math.max(a, b), -Infinity) - seen.reduce((a, b) => Math.min(a, b), Infinity);
    if (!(moved > STILL * scale)) still += 1;
  }
  const order = Array.from({ length: n }, (_, unit) => unit).sort((a, b) => variance[b] - variance[a] || a - b);
  return { saturated: recent.findLast(({ marked }) => marked)?.marked.length ?? null, still, looks: recent.length, order };
}

/** Reads a state: "3 of 32 units are saturated; 5 have not moved in the last 60 looks." found: of `units`. */
export function readState(found) {
  const n = found.order.length;
  if (!n) return "";
  const unknown = n === 1 ? "Whether the only unit is saturated is not known yet" : `How many of the ${n} units are saturated is not known yet`;
  const start = found.saturated === null ? unknown : n === 1 ? `The only unit is ${found.saturated ? "" : "not "}saturated` : `${found.saturated || "None"} of ${n} units ${found.saturated === 1 ? "is" : "are"} saturated`;
  if (found.looks < 2) return `${start}; this is the first look.`;
  const span = `in the last ${found.looks} looks`;
  if (n === 1) return `${start}; it has ${found.still ? "not " : ""}moved ${span}.`;
  return found.still ? `${start}; ${found.still} ${found.still === 1 ? "has" : "have"} not moved ${span}.` : `${start}; all have moved ${span}.`;
}

function several(layers) {
  const names = layers.map((layer) => layer.name);
  return names.length > 3 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ");
}

/** Reads latency beside training: whether ticks wait longer in seconds with learning than in those without. */
export function readLatency(samples) {
  const known = samples.filter(({ latency_p99: v }) => Number.isFinite(v));
  if (!known.length) return "";
  const middle = (list, key) => quantile(Float64Array.from(list.map((sample) => sample[key])).sort(), 0.5);
  const start = `Half of the messages are answered within ${duration(middle(known.filter(({ latency_p50: v }) => Number.isFinite(v)), "latency_p50"))}, 99 % within ${duration(middle(known, "latency_p99"))}`;
  const busy = known.filter((sample) => sample.learning_share >= BUSY), idle = known.filter((sample) => sample.learning_share < BUSY);
  if (busy.length < LEAST_SECONDS || idle.length < LEAST_SECONDS) {
    const only = busy.length >= LEAST_SECONDS ? "; it learned all the time, so that there is nothing to compare with" : idle.length >= LEAST_SECONDS ? "; it did not learn" : "";
    return `${start} (medians of the seconds shown)${only}.`;
  }
  const [with_, without] = [middle(busy, "latency_p99"), middle(idle, "latency_p99")], change = with_ / without - 1;
  const verdict = Math.abs(change) < 0.1 ? "learning does not disturb it" : `${percent(Math.abs(change))} ${change > 0 ? "more" : "less"} than without`;
  return `${start}. While it learns, p99 is ${duration(with_)}, without ${duration(without)}: ${verdict}.`;
}

/** Reads freshness. sample: the newest; target: seconds within which a label should be judged, or null. */
export function readFreshness(unjudged, served, target) {
  if (!Number.isFinite(unjudged)) return "";
  const s = (v) => duration(Number(v.toPrecision(2)));
  const start = `The oldest label that is not judged yet has waited ${s(unjudged)}`;
  const aim = !Number.isFinite(target) ? "" : unjudged > target ? `, more than the ${s(target)} that are aimed at: the trainer is behind` : `, within the ${s(target)} that are aimed at`;
  return `${start}${aim}.${Number.isFinite(served) ? ` Half of the labels serve within ${s(served)}.` : ""}`;
}
