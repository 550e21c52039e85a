// Service: how fast it answers while it learns, how fresh what it answers with is, and what it refused.

import { el } from "../dom.js";
import { brief, count, duration, number, percent } from "../format.js";
import { panel } from "../panel.js";
import { noSamples, readFreshness, readLatency } from "../reading.js";
import { samplesPanel, sheet } from "./kit.js";

const EVERY = 2000; // ms between two looks at the process
const RECENT = 300; // seconds that the sentence on latency compares
const HIDDEN = "This token does not see the process, which all tenants share: latencies and counts of the process need a token of the role METRICS, or of an administrator of the tenant default.";
const NO_MODEL = "This is of a model, and this token sees none.";

/** The service view: see `VIEWS` in main.js. It is also shown without a model. */
export default {
  id: "service",
  title: "Service",
  show: ["samples"],
  mount(root, ctx) {
    sheet();
    const state = { service: null, problem: "", own: [], timer: 0, gone: false };
    const parts = [latency(ctx, state), training(ctx, state), freshness(ctx, state), counts(ctx, state)];
    root.append(...parts.map(({ element }) => element));
    const draw = () => parts.forEach((part) => part.update());

    async function look() {
      if (!document.hidden && !ctx.paused && ctx.store.info?.sees_all) {
        try {
          const service = await ctx.api.get("/service");
          state.own = [...state.own, service].slice(-RECENT);
          Object.assign(state, { service, problem: "" });
        } catch (error) {
          state.problem = error.message;
        }
      }
      if (state.gone) return;
      if (!ctx.paused) draw();
      state.timer = setTimeout(look, EVERY);
    }

    look();
    return {
      update: draw,
      destroy() {
        state.gone = true;
        clearTimeout(state.timer);
        parts.forEach((part) => part.destroy?.());
      },
    };
  },
};

const file = (ctx) => () => [ctx.store.model?.name];

/** Samples of the watched model; without a model, those of the process that this view asked for. */
function samplesOf(ctx, state) {
  return ctx.store.model ? ctx.store.samples : state.own;
}

function blind(ctx, samples) {
  return ctx.store.info?.sees_all ? noSamples(samples, "message was answered", "a latency is drawn a second after the next one") : HIDDEN;
}

function latency(ctx, state) {
  const made = samplesPanel({
    name: "latency", title: "Latency", sync: "service", file: file(ctx), nothing: () => blind(ctx, samplesOf(ctx, state)),
    help: "Of the messages of each second: half and 99 % are answered within this time; the step of the model, and the wait for it. Logarithmic; the same axis of time as Training.",
    charts: [{
      label: "Latency", log: true, yformat: duration, height: 258,
      series: [{ key: "latency_p99", label: "message, 99 %", colour: "ghost" }, { key: "latency_p50", label: "message, half", colour: "served" }, { key: "queue_p99", label: "wait for a step, 99 %", colour: "drift", dash: [4, 3] }, { key: "step_p50", label: "step, half", colour: "least_squares", dash: [2, 2] }],
    }],
  });
  return {
    ...made,
    update() {
      const samples = samplesOf(ctx, state);
      made.draw({ samples });
      made.say(readLatency(samples.slice(-RECENT)));
    },
  };
}

function training(ctx, state) {
  const made = samplesPanel({
    name: "training", title: "Training", sync: "service", file: file(ctx), nothing: () => ctx.store.model ? noSamples(ctx.store.samples, "label was learned", "the first point comes with the next second in which one is") : NO_MODEL,
    help: "The share of each second in which the trainer was busy with this model, and its labels and updates: where they rise, does latency?",
    charts: [
      { label: "Share of time with learning", title: "Share of time with learning", yformat: percent, yrange: (_, high) => [0, Math.max(1, high)], height: 100, series: [{ key: "learning_share", label: "learning", colour: "served" }] },
      { label: "Per second", title: "Per second", yformat: brief, yrange: (_, high) => [0, Math.max(1, high * 1.1)], height: 120, series: [{ key: "learned_per_s", label: "labels", colour: "least_squares" }, { key: "updates_per_s", label: "updates", colour: "ghost", dash: [4, 3] }] },
    ],
  });
  return {
    ...made,
    update() {
      const samples = samplesOf(ctx, state), last = samples.at(-1);
      made.draw({ samples });
      const share = last && Number.isFinite(last.learning_share) ? `, in ${percent(last.learning_share)} of it` : "";
      made.say(last && Number.isFinite(last.learned_per_s) ? `In the last second ${brief(last.learned_per_s)} labels were learned, with ${brief(last.updates_per_s)} updates${share}.` : "");
    },
  };
}

function freshness(ctx, state) {
  const made = samplesPanel({
    name: "freshness", title: "Freshness", sync: "service", file: file(ctx), nothing: () => ctx.store.model ? noSamples(ctx.store.samples, "tick was answered and no label waits", "the first point comes a second after the next tick") : NO_MODEL,
    help: "How many labels had arrived that the answering weights had not been judged with, and how long labels wait.",
    doc: "Staleness is seq − judged_through: labels that had arrived and were not yet judged in the weights that answered. Tens are healthy; more means that the trainer is behind.\nLabel to serving: from a label on disk to serving weights that were judged with it. Unjudged: how long the oldest label on disk has waited.\nFrom docs/concepts.md, “What comes out”, and docs/learning.md.",
    charts: [
      { label: "Staleness in labels", title: "Staleness, labels", yformat: brief, yrange: (_, high) => [0, Math.max(4, high * 1.1)], height: 100, series: [{ key: "staleness_p95", label: "staleness, 95 %", colour: "ghost" }, { key: "staleness_p50", label: "staleness, half", colour: "served" }] },
      { label: "Label to serving", title: "From a label on disk to weights that know it", yformat: duration, yrange: (_, high) => [0, Math.max(0.1, high * 1.1)], height: 100, series: [{ key: "freshness_p50", label: "label to serving, half", colour: "least_squares" }] },
      { label: "Unjudged", title: "Wait of the oldest label that is not judged", yformat: duration, yrange: (_, high) => [0, Math.max(0.1, high * 1.1)], height: 100, series: [{ key: "unjudged_seconds", label: "unjudged", colour: "drift" }] },
    ],
  });
  return {
    ...made,
    update() {
      const samples = samplesOf(ctx, state), target = state.service?.fresh_target ?? null, recent = samples.slice(-60);
      made.draw({ samples, lines: { Unjudged: Number.isFinite(target) ? [{ y: target, label: `aim ${duration(target)}`, colour: "bad" }] : [] } });
      const known = (key) => recent.findLast((sample) => Number.isFinite(sample[key]))?.[key];
      made.say(readFreshness(known("unjudged_seconds"), known("freshness_p50"), target));
    },
  };
}

function counts(ctx, state) {
  let tiles = [];
  const made = panel({
    name: "counts", title: "Counts", file: file(ctx), newest: false, table: () => ({ columns: ["what", "of", "value"], rows: tiles.map(({ what, of, value }) => [what, of, value]) }),
    help: "Of this model, and of the whole process where this token may see it; refusals and quarantine since the server's start.",
  });
  const list = el("dl", { class: "tiles" }), note = el("p", { class: "note" });
  made.body.append(list, note);
  let shown = "";
  return {
    element: made.element,
    update() {
      const { model, info } = ctx.store;
      tiles = [...ofModel(model), ...ofProcess(state.service)];
      made.empty(tiles.length ? "" : info?.sees_all ? state.problem || "Waiting for the first counts." : HIDDEN);
      made.say(sentence(state.service));
      const key = JSON.stringify(tiles);
      if (key !== shown) list.replaceChildren(...tiles.map(tile));
      shown = key;
      note.textContent = state.problem ? `The last look at the process was refused: ${state.problem}` : info?.sees_all ? "" : HIDDEN;
      made.refresh();
    },
  };
}

function tile({ what, value, text, bad, note }) {
  return el("div", { class: `tile${bad ? " bad" : ""}` }, el("dt", {}, what), el("dd", {}, text ?? count(value)), note ? el("dd", { class: "note" }, note) : null);
}

function ofModel(model) {
  if (!model) return [];
  const of = "model";
  return [
    { what: "Ticks", of, value: model.ticks }, { what: "Labels learned", of, value: model.learned }, { what: "Streams of the model", of, value: model.streams, note: `${count(model.streams_open)} open` },
    { what: "Backlog, entries", of, value: model.backlog, bad: model.learn_every > 1, note: model.learn_every > 1 ? `one label in ${model.learn_every} is learned: overload` : "" },
    { what: "Published", of, value: model.published }, { what: "Vetoed", of, value: model.vetoed }, { what: "Rolled back", of, value: model.rolled_back },
  ];
}

function ofProcess(service) {
  if (!service) return [];
  const of = "process", { trainers = [], refused = {}, quarantine = {} } = service, ready = trainers.filter(({ ready: is }) => is).length;
  const bytes = service.journal_bytes;
  return [
    { what: "Trainers ready", of, value: ready, text: `${ready} of ${trainers.length}`, bad: ready < trainers.length, note: ready < trainers.length ? "serving is not affected; nothing is learned by the others" : "" },
    { what: "Streams in memory", of, value: service.streams ?? null }, { what: "Streams open", of, value: service.streams_open ?? null }, { what: "Viewers of this page", of, value: service.viewers ?? null },
    { what: "Journal", of, value: bytes ?? null, text: size(bytes) },
    ...reasons("Refused", refused), ...reasons("In quarantine", quarantine),
  ];
}

function reasons(what, found) {
  const entries = typeof found === "object" && found ? Object.entries(found).filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]) : [];
  if (!entries.length) return [{ what, of: "process", value: 0 }];
  return entries.map(([reason, n]) => ({ what: `${what}: ${reason}`, of: "process", value: n }));
}

function size(bytes) {
  if (!Number.isFinite(bytes)) return "–";
  const power = Math.min(4, Math.max(0, Math.floor(Math.log10(Math.max(1, bytes)) / 3)));
  return `${number(bytes / 1000 ** power, 3)} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

function sentence(service) {
  if (!service) return "";
  const n = Object.values(service.refused ?? {}).reduce((a, b) => a + b, 0), { trainers = [] } = service;
  const down = trainers.filter(({ ready }) => !ready).length;
  return `${n ? `${count(n)} ticks or calls were refused since the start` : "Nothing was refused since the start"}; ${down ? `${down} of ${trainers.length} trainers ${down === 1 ? "is" : "are"} not ready` : "every trainer is ready"}.`;
}
