// Versions: what was published, refused, rolled back and promoted, beside the error; why; and the acts by hand.

import { chart } from "../chart.js";
import { columnsOf, columnsOfVersions } from "../columns.js";
import { announced, el, setText, table } from "../dom.js";
import { brief, clock, moment } from "../format.js";
import { panel } from "../panel.js";
import { colours } from "../theme.js";
import { MARKS, beginning, consequence, explain, gateRows, kindOf, readTimeline, shownEvents, tell } from "../verdicts.js";
import { picker, sheet } from "./kit.js";
import { lanes } from "./marks.js";

const NEW_VERSIONS = ["published", "rolled back", "anchored", "imported"];
const APART = 2000; // ms between two requests for the list of versions, at least
const CHOICES = [["", "what is recent"], ["120", "last 2 minutes"], ["900", "last 15 minutes"], ["3600", "last hour"], ["86400", "last day"], ["all", "all that is known"]];
const ZOOMED = ["zoomed", "the chosen range"];

/** The versions view: see `VIEWS` in main.js. */
export default {
  id: "versions",
  title: "Versions",
  show: ["samples"],
  mount(root, ctx) {
    sheet();
    const state = { listed: [], versions: [], chosen: null, span: "", problem: "", asked: -Infinity, timer: 0, gone: false };
    const choose = (event) => {
      state.chosen = event;
      draw();
    };
    const parts = [timeline(ctx, state, choose), verdict(ctx, state, choose), list(ctx, state, fetchVersions)];
    root.append(...parts.map(({ element }) => element));
    const draw = () => {
      const { model } = ctx.store;
      if (!model) return;
      state.versions = state.listed.map((version) => ({ ...version, champion: version.number === model.champion, anchor: version.number === model.anchor }));
      if (state.listed.length && !state.listed.some(({ number }) => number === model.champion)) fetchVersions(); // it is newer than the list
      parts.forEach((part) => part.update());
    };

    /** Ask for the list, but not more often than once in APART. */
    function fetchVersions() {
      state.timer ||= setTimeout(async () => {
        Object.assign(state, { asked: performance.now(), timer: 0 });
        const { model } = ctx.route.get();
        try {
          const reply = await ctx.api.get(ctx.path`/models/${model}/versions`);
          Object.assign(state, { listed: reply.versions, problem: "" });
        } catch (error) {
          state.problem = error.message;
        }
        if (!state.gone && model === ctx.route.get().model) draw();
      }, Math.max(0, state.asked + APART - performance.now()));
    }

    fetchVersions();
    return {
      update(changes) {
        if (changes.has("clear")) Object.assign(state, { listed: [], versions: [], chosen: null });
        if (changes.has("hello") || (changes.has("event") && NEW_VERSIONS.includes(ctx.store.events.at(-1)?.kind))) fetchVersions();
        draw();
      },
      destroy() {
        state.gone = true;
        clearTimeout(state.timer);
        parts.forEach((part) => part.destroy?.());
      },
    };
  },
};

const file = (ctx) => () => [ctx.store.model?.name];

function timeline(ctx, state, choose) {
  const shown = { gate: { x: [] }, loss: { x: [] } };
  const made = panel({
    name: "timeline", title: "What happened, and the error", wide: true, file: file(ctx), newest: true,
    legend: [
      ...["published", "vetoed", "rolled back", "drifted", "promoted", "anchored"].map((kind) => ({ label: MARKS[kind].word, colour: MARKS[kind].colour, kind: "mark", sign: MARKS[kind].sign })),
      { label: "candidate", colour: "served" }, { label: "anchor", colour: "ghost", kind: "dashed" }, { label: "persistence", colour: "persistence", kind: "dashed" },
    ],
    help: "Events of the model above; below, on the same axis of time, the loss as the gate sees it (of each version and veto) and the scaled loss of each second. Compare each loss only with its neighbour in the same chart.",
    doc: "A version is published when enough labels are learned. The gate refuses a candidate (veto) that is not finite, moved too far, or is worse than the anchor by a sequential test; learning then returns to the anchor. A drift is a lasting rise of the loss. The anchor is the last version that proved itself in service.\nThe gate’s loss is per label, clipped and mapped to 0..1: the mean since the version before. The anchor’s loss covers fewer labels, those on which it was scored. The scaled loss is in running units of each stream; persistence is the forecast that nothing changes.\nFrom docs/concepts.md, “What learns” and “Four losses”.",
    canvases: () => [strip.canvas, ...[["gate", "Loss as the gate sees it", gate], ["loss", "Scaled loss of each second", loss]].filter(([key]) => !titled[key].hidden).map(([, title, one]) => ({ title, canvas: one.canvas }))],
    table: () => tableOfEvents(ctx.store.events, shown),
  });
  const hosts = { strip: el("div", {}), gate: el("div", {}), loss: el("div", {}) };
  const readout = el("p", { class: "readout", "aria-live": "off" });
  const span = picker("Show", "timeline-span", (value) => {
    state.span = value;
    zoom(null, null);
    choose(state.chosen);
  });
  made.tools.append(span.element);
  const titled = { gate: el("div", {}, el("h3", {}, "Loss as the gate sees it, per version and veto"), hosts.gate), loss: el("div", {}, el("h3", {}, "Scaled loss of each second"), hosts.loss) };
  made.body.append(hosts.strip, titled.gate, titled.loss, readout);
  const say = (text, aloud) => announced(readout, text, aloud);
  const zoom = (from, to) => ctx.route.set({ from: from && Number(from.toPrecision(13)), to: to && Number(to.toPrecision(13)) }, { replace: true });
  const shared = { time: true, sync: "versions", onzoom: zoom, onlive: () => zoom(null, null), yformat: brief, height: 150 };
  const gate = chart(hosts.gate, {
    ...shared, label: "Loss as the gate sees it", oncursor: (n, aloud) => say(n === null ? "" : `${shown.gate.number?.[n] ? `Version ${shown.gate.number[n]}, ` : "Veto, "}${gate.describe(n)}`, aloud), onpick: (n) => choose(nearestEvent(ctx.store.events, shown.gate.x[n])),
    series: [{ key: "loss", label: "candidate", colour: "served", points: true }, { key: "anchor_loss", label: "anchor", colour: "ghost", dash: [4, 4], points: true }],
  });
  const loss = chart(hosts.loss, {
    ...shared, label: "Scaled loss of each second", oncursor: (n, aloud) => n !== null && say(loss.describe(n), aloud),
    series: [{ key: "loss", label: "candidate", colour: "served" }, { key: "persistence", label: "persistence", colour: "persistence", dash: [4, 4] }],
  });
  const strip = lanes(hosts.strip, { over: () => hosts[titled.gate.hidden ? "loss" : "gate"].querySelector(".u-over"), colours, onpick: choose, onread: say });

  return {
    element: made.element,
    update() {
      const { store } = ctx, { model, events, samples } = store;
      shown.gate = columnsOfVersions(gateRows(state.versions, events), ["loss", "anchor_loss"]);
      shown.loss = columnsOf(samples, ["loss", "persistence"]);
      const { from, to, zoomed } = rangeOf(ctx, state.span, shown, events);
      span.fill(zoomed ? [ZOOMED, ...CHOICES] : CHOICES, zoomed ? "zoomed" : state.span);
      const known = shown.gate.x.length || shown.loss.x.length || events.length;
      made.empty(known ? "" : "Nothing has happened yet: events, versions and losses appear as the model learns.");
      made.say(readTimeline(events, model));
      if (!known) return;
      const chosen = chosenOf(state, events);
      titled.gate.hidden = ![shown.gate.loss, shown.gate.anchor_loss].some((column) => column.some(Number.isFinite));
      titled.loss.hidden = !shown.loss.x.length;
      gate.set(shown.gate, { from, to });
      loss.set(shown.loss, { from, to });
      gate.pick(chosen ? chosen.time : null);
      loss.pick(chosen ? chosen.time : null);
      const flags = state.versions.filter(({ champion, anchor }) => champion || anchor).map(({ number, created, champion, anchor }) => ({ time: created, text: `${[champion && "champion", anchor && "anchor"].filter(Boolean).join(" and ")} ${number}` }));
      strip.draw({ events, from, to, chosen, flags });
      made.refresh();
    },
    destroy() {
      for (const one of [gate, loss, strip]) one.destroy();
    },
  };

  function tableOfEvents(events, { gate: versions, loss: seconds }) {
    const rows = events.map((event) => [event.time, moment(event.time), kindOf(event), event.version, event.reason, null, null]);
    const numbers = [[versions, "version"], [seconds, "second"]].flatMap(([columns, what]) => columns.x.map((x, n) => [x, moment(x), what, columns.number?.[n] ?? null, "", columns.loss[n], (columns.anchor_loss ?? columns.persistence)[n]]));
    const all = [...rows, ...numbers.filter((row) => row[5] !== null || row[6] !== null)].sort((a, b) => a[0] - b[0]).map((row) => row.slice(1));
    return { columns: ["time (UTC)", "what", "version", "reason", "candidate’s loss", "anchor’s loss, or persistence’s"], rows: all };
  }
}

function nowOf(store) {
  return store.samples.at(-1)?.time ?? store.hello?.now ?? Date.now() / 1000;
}

/** The range of the address, if anything is known of it: it may be one of ticks, or of events of another year. Else that of the picker. */
function rangeOf(ctx, span, shown, events) {
  const { from, to } = ctx.route.get(), now = nowOf(ctx.store);
  const times = [...shown.gate.x, ...events.map(({ time }) => time)];
  if (from !== null && from < now && to > beginning(times, now, "all")) return { from, to, zoomed: true };
  const first = beginning([...times, ...shown.loss.x.slice(0, 1)], now, span);
  return { from: first, to: now + (now - first) * 0.01, zoomed: false };
}

function nearestEvent(events, time) {
  return events.reduce((best, event) => (!best || Math.abs(event.time - time) < Math.abs(best.time - time) ? event : best), null);
}

function chosenOf(state, events) {
  return events.includes(state.chosen) ? state.chosen : null;
}

function verdict(ctx, state, choose) {
  let rows = [];
  const made = panel({
    name: "verdict", title: "The verdict in words", file: file(ctx), newest: false, table: () => ({ columns: ["number", "value", "meaning"], rows: rows.map(({ name, raw, words }) => [name, raw, words]) }),
    help: "The numbers that the gate decided by. The newest event is shown until another one is chosen.",
    doc: "Evidence: the candidate and the anchor are scored on the same labels; a bet is placed on “the candidate is worse”, and the evidence is its wealth. It grows only while the candidate is worse, so false alarms are rare however often one looks. About 1: not worse. From worse_evidence (10 000 unless set): vetoed, and learning returns to the anchor. A contender becomes the anchor after enough scored labels, if the evidence is below the square root of that.\nFrom docs/concepts.md, “What learns”.",
  });
  const which = picker("Event", "verdict-event", (value) => choose(value === "" ? null : shownEvents(ctx.store.events)[Number(value)]));
  made.tools.append(which.element);
  const sentence = el("p", { "data-testid": "verdict-text" });
  const numbers = el("dl", { class: "facts numbers" });
  made.body.append(numbers, sentence);
  return {
    element: made.element,
    update() {
      const events = shownEvents(ctx.store.events), chosen = chosenOf(state, ctx.store.events), event = chosen ?? events[0];
      which.fill([["", "the newest"], ...events.map((one, n) => [n, `${clock(one.time)} ${MARKS[kindOf(one)]?.sign ?? "●"} ${kindOf(one)} ${one.version}`])], chosen ? events.indexOf(chosen) : "");
      made.empty(event ? "" : "No verdict yet: the first one comes when the model has learned its first labels.");
      if (!event) return;
      rows = explain(event);
      made.say(`${moment(event.time)} UTC: ${tell(event)}`);
      setText(sentence, rows.length < 2 ? "It has no other numbers." : "");
      numbers.replaceChildren(...rows.flatMap(({ name, value, words }) => [el("dt", {}, name), el("dd", {}, el("b", {}, value), words ? ` ${words}` : "")]));
      made.refresh();
    },
  };
}

function list(ctx, state, changed) {
  let wanted = 0; // the version of roll back and promote; 0: the anchor
  const made = panel({
    name: "versions", title: "Versions", file: file(ctx), newest: false, table: () => ({ columns: TITLES, rows: state.versions.map((version) => cells(version)) }),
    help: "The versions that are kept, the newest first. What an act does is said before it is done, and it is journaled.",
  });
  made.element.querySelector("details")?.remove(); // the table is the picture: once is enough
  const place = el("div", {});
  const select = el("select", { id: "act-version", "data-testid": "action-version", onchange: () => pick(Number(select.value)) });
  const reason = el("p", { class: "reason", id: "act-reason" });
  const button = (action, text, cls = "") => el("button", { type: "button", class: cls, "data-testid": `action-${action}`, "aria-describedby": "act-reason", onclick: () => act(action) }, text);
  const buttons = { pause: button("pause", "Pause learning"), resume: button("resume", "Resume learning"), rollback: button("rollback", "Roll back…", "danger"), promote: button("promote", "Promote…") };
  const field = el("div", { class: "field" }, el("label", { for: "act-version" }, "Version to roll back to or to promote"), select);
  made.body.append(el("div", { class: "act" }, field, buttons.rollback, buttons.promote), el("div", { class: "act" }, buttons.pause, buttons.resume), reason, place);
  let options = "", rows = "";

  function pick(number) {
    wanted = number;
    update();
  }

  async function act(action) {
    const { model } = ctx.store, number = action === "promote" || action === "rollback" ? wanted : 0;
    const { title, text, yes } = consequence(action, model, number);
    if (!(await ctx.confirm(text, { title, yes, danger: action === "rollback" }))) return;
    try {
      const after = await ctx.api.post(`${ctx.path`/models/${model.name}/`}${action}`, action === "rollback" || action === "promote" ? { version: number } : {});
      ctx.store.apply("model", { ...ctx.store.model, ...after });
      ctx.message(`${after.name}: version ${after.champion} serves, anchor ${after.anchor}, learning: ${after.paused ? "paused" : "yes"}.`);
    } catch (error) {
      ctx.message(error.message, { bad: true });
    }
    changed();
    update();
  }

  function update() {
    const { store } = ctx, { model, info } = store, may = Boolean(info?.may?.act);
    if (wanted && !state.versions.some(({ number }) => number === wanted)) wanted = 0;
    const numbers = state.versions.map(({ number, champion, anchor }) => [number, `version ${number}${champion ? ", champion" : anchor ? ", anchor" : ""}`]);
    const now = JSON.stringify([model.anchor, numbers]);
    if (now !== options) select.replaceChildren(el("option", { value: 0 }, `the anchor (version ${model.anchor})`), ...numbers.map(([value, text]) => el("option", { value }, text)));
    options = now;
    select.value = String(wanted);
    select.disabled = !may;
    buttons.rollback.disabled = !may;
    buttons.promote.disabled = !may || !wanted;
    buttons.pause.disabled = !may || model.paused;
    buttons.resume.disabled = !may || !model.paused;
    setText(reason, may ? (wanted ? "" : "To promote, choose a version first.") : `These acts need the role admin; this page's token has the role ${info?.role ?? "of nobody"}.`);
    made.say(state.versions.length ? `${state.versions.length === 1 ? "One version is" : `${state.versions.length} versions are`} kept; version ${model.champion} serves.` : "");
    const drawn = JSON.stringify([state.versions.map(({ number, champion, anchor }) => [number, champion, anchor]), wanted, may, state.problem]);
    if (drawn === rows) return;
    rows = drawn;
    const top = place.firstElementChild?.scrollTop ?? 0;
    place.replaceChildren(state.versions.length ? tableOfVersions() : el("p", { class: "note" }, state.problem || "Waiting for the list of versions."));
    place.firstElementChild.scrollTop = top;
  }

  function tableOfVersions() {
    const today = moment(nowOf(ctx.store)).slice(0, 10);
    const made = table({
      columns: ["version", ...TITLES.slice(2)], label: "Versions, the newest first", testid: "table-versions", show: (v) => (v instanceof Node ? v : v === null ? "–" : typeof v === "number" ? brief(v) : String(v)),
      rows: state.versions.map((version) => {
        const [, , parent, made, loss, against, digest, offset] = cells(version);
        return [named(version), String(parent), made.slice(0, 10) === today ? made.slice(11) : made, loss, against, digest.slice(0, 8), String(offset)];
      }),
    });
    made.classList.add("versions-list");
    made.querySelectorAll("tbody tr").forEach((row, n) => state.versions[n].number === wanted && row.setAttribute("aria-current", "true"));
    return made;
  }

  function named({ number, champion, anchor }) {
    return el("span", {}, el("button", { type: "button", class: "link", "aria-label": `Choose version ${number}`, onclick: () => pick(number === wanted ? 0 : number) }, String(number)), " ",
      champion ? el("span", { class: "tag champion" }, "champion") : null, anchor ? el("span", { class: "tag anchor" }, "anchor") : null);
  }

  return { element: made.element, update };
}

const TITLES = ["version", "role", "parent", "made (UTC)", "loss", "anchor’s loss", "digest", "entries learned"];

function cells({ number, champion, anchor, parent, created, loss, anchor_loss: against, digest, offset }) {
  return [number, [champion && "champion", anchor && "anchor"].filter(Boolean).join(", "), parent, moment(created), loss ?? null, against ?? null, digest, offset];
}
