// The page: who one is, which model, which view; then whatever moves goes from the event stream to the view, once per frame at most.

import { createApi, path } from "./api.js";
import { createChoices } from "./choices.js";
import { confirm } from "./dialog.js";
import { el, setText } from "./dom.js";
import * as format from "./format.js";
import * as notices from "./notices.js";
import { createRoute } from "./route.js";
import { sliceSentence } from "./sentences.js";
import { createStore } from "./store.js";
import { tabs } from "./tabs.js";
import { colours, onTheme, themeButton } from "./theme.js";
import { watching } from "./watching.js";

const VIEWS = [ // controls: which of the page's choices the view heeds
  { id: "forecast", title: "Forecast", controls: ["streams", "target", "step", "ghost"] },
  { id: "errors", title: "Error", controls: ["streams", "target", "step", "ghost"] },
  { id: "gradient", title: "Gradient flow", controls: [] },
  { id: "state", title: "State", controls: ["streams"] },
  { id: "versions", title: "Versions", controls: [] },
  { id: "service", title: "Service", controls: [] },
];
const MODELS = 100; // in the list; more are found by name
const MANY = 12; // models from which on there is a field to find one
const CALM = 1000; // ms between drawings where the system asks for reduced motion
const NONE_YET = 5000; // ms between looks for a first model, or for one that is missing
const RELIST = 15_000; // ms between two lists of models

const NO_MODELS = ["No models yet", "This server has no model that you may see. As soon as one is created (freshet create NAME), it is shown here."];
const HELD = "The page is paused: this view shows what had come before. Resume shows what comes.";
const NOT_YOURS = ["This token does not see models", "Its role is for metrics: the view Service is yours, the others need a token that may read models."];

const byId = (id) => document.getElementById(id);
const root = byId("view");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const route = createRoute(window);
const store = createStore();
let paused = false;
let mounted = null; // {id, show, handle}
let nothing = NO_MODELS; // what is said where no model is shown
let frame = 0;
let drawn = 0;
let tokensAsked = 0;
let asking = null;
let epoch = 0; // of models and views: an answer to an earlier choice is dropped

const api = createApi({
  unauthorized(refusal) {
    asking ??= (async () => {
      unmount();
      chrome(false);
      notices.connection("refused", "Token needed");
      api.setToken(await notices.askToken(root, { refusal, again: tokensAsked > 0 }));
      tokensAsked += 1;
      asking = null;
      root.replaceChildren();
      if (!store.info) return; // at the start: it continues from there
      chrome(true);
      queueMicrotask(show);
    })();
    return asking;
  },
});
const watch = watching({ api, store, notices, onchange: schedule, ongone: gone, paused: () => paused });
const choices = createChoices({ root: byId("controls"), api, store, route, unpin: () => watch.unpin(), message: notices.message });
const tabList = tabs(byId("tabs"), VIEWS, (view) => route.set({ view }));
const context = {
  store, api, route, format, colours, confirm, path, message: notices.message,
  get paused() { return paused; },
};

/* ── Models ──────────────────────────────────────────────────────────────────────────────────────────────── */

async function listModels(match = "") {
  const { models, next } = await api.get("/models", { limit: MODELS, match });
  const picker = byId("model");
  const { model } = route.get();
  const names = models.map(({ name }) => name);
  byId("model-match").hidden = !match && names.length <= MANY && !next;
  const shown = model && !names.includes(model) ? [model, ...names] : names;
  picker.replaceChildren(...shown.map((name) => el("option", { value: name }, name)));
  if (match && !names.length) picker.append(el("option", { value: "", disabled: true }, `no name has “${format.short(match)}”`));
  if (next) picker.append(el("option", { value: "", disabled: true }, "more: find them by name"));
  picker.value = model;
  picker.disabled = shown.length === 0;
  return names;
}

/** List the models again, unless the list is in use: some come and go. */
function listAgain() {
  const used = [byId("model"), byId("model-match")].includes(document.activeElement) || byId("model-match").value;
  if (store.model && !document.hidden && !used) listModels().catch(() => {}); // a lost connection is reported by the event stream
}

async function chooseModel() {
  const now = (epoch += 1);
  const { model } = route.get();
  watch.stop(); // also where it is the same model again: a cleared store needs another greeting
  store.clear();
  choices.clear();
  if (!Array.from(byId("model").options).some(({ value }) => value === model)) byId("model").prepend(el("option", { value: model }, model));
  byId("model").value = model;
  document.title = model ? `${model} · freshet` : "freshet";
  const asked = api.get(path`/models/${model}`);
  load(route.get().view).then(({ view }) => now === epoch && ask(view.show)); // not one after the other: the first picture comes sooner
  try {
    const facts = await asked;
    if (now !== epoch) return;
    store.apply("model", facts);
  } catch (error) {
    if (now !== epoch) return;
    if (error.reason !== "MOVED" || !route.get().streams.length) return noModel(error); // else this node may serve their slice
  }
  byId("pause").disabled = false;
  await show();
  choices.listVersions();
}

function gone(refusal) {
  if (refusal.field !== "model") return choices.drop(refusal);
  noModel(refusal);
  return true;
}

function noModel(error) {
  const now = (epoch += 1);
  unmount();
  watch.stop();
  byId("controls").hidden = true;
  notices.banner("");
  notices.connection("refused", error.status === 404 ? "No such model" : "Refused");
  root.replaceChildren(notices.blank(error.status === 404 ? "There is no model of this name" : "This model cannot be shown", error.message));
  listModels().catch(() => {}); // the next look tries again
  setTimeout(() => look(now), NONE_YET);
}

/** See whether a model that was missing is there. now: the epoch in which it was missed. */
async function look(now) {
  const { model } = route.get();
  if (now !== epoch || !model) return;
  try {
    await api.get(path`/models/${model}`);
  } catch {
    return void setTimeout(() => look(now), NONE_YET);
  }
  if (now === epoch) await chooseModel();
}

/* ── Views ───────────────────────────────────────────────────────────────────────────────────────────────── */

function unmount() {
  mounted?.handle.destroy();
  mounted = null;
  root.replaceChildren();
}

async function show() {
  const { view: id, model } = route.get();
  const now = (epoch += 1);
  const { known, view } = await load(id);
  if (now !== epoch) return;
  tabList.select(known.id);
  choices.heed(known.controls);
  if (!model && known.id !== "service") {
    unmount();
    return void root.append(notices.blank(...nothing));
  }
  unmount();
  const place = el("div", { class: "view", role: "tabpanel", id: `view-${known.id}`, "data-testid": `view-${known.id}`, "aria-labelledby": `tab-${known.id}` });
  root.append(place);
  mounted = { id: known.id, show: view.show, handle: view.mount(place, context) };
  choices.fill();
  ask(view.show);
  draw(new Set([...ALL, "route"]));
  if (paused) notices.message(HELD);
}

async function load(id) {
  const known = VIEWS.find((view) => view.id === id) ?? VIEWS[0];
  try {
    return { known, view: (await import(`./views/${known.id}.js`)).default };
  } catch (error) {
    console.info(`view ${known.id}: ${error.message}`);
    return { known, view: missing(known.title) };
  }
}

const ALL = ["hello", "block", "state", "gradient", "scores", "sample", "event", "events", "model"];

function missing(title) {
  return {
    show: [],
    mount(place) {
      place.append(notices.blank(`${title} is not here`, "This view could not be loaded from the server. The other views work; load the page again to try it once more."));
      return { update() {}, destroy() {} };
    },
  };
}

function ask(shown = mounted?.show ?? []) {
  const { model, streams: ids, target: named, step: ahead, ghost: of, view } = route.get();
  const learns = sliced() && !VIEWS.find(({ id }) => id === view)?.controls.length; // a slice does not learn: its home is asked
  watch.ask({ model, streams: learns ? [] : ids, target: named, step: Math.min(ahead, store.model?.horizon ?? ahead), ghost: of, show: shown });
}

/** Whether streams of the model are served elsewhere than where it learns. */
function sliced() {
  return Boolean(store.model?.slices || store.model?.slice);
}

/* ── Drawing ─────────────────────────────────────────────────────────────────────────────────────────────── */

function schedule() {
  if (frame || document.hidden) return;
  const wait = calm.matches ? Math.max(0, drawn + CALM - performance.now()) : 0;
  frame = wait ? setTimeout(paint, wait) : requestAnimationFrame(paint);
}

function paint() {
  frame = 0;
  if (document.hidden) return;
  choices.update(store.changes);
  if (paused) return; // the changes wait in the store
  const changes = new Set(store.changes);
  store.changes.clear();
  draw(changes);
}

function draw(changes) {
  drawn = performance.now();
  notices.part(sliceSentence({ model: store.model, streams: store.streams, node: store.info?.node }));
  if (!mounted) return;
  try {
    mounted.handle.update(changes);
  } catch (error) {
    console.error(error);
    notices.message(`This view failed: ${error.message}`, { bad: true });
  }
}

function pause() {
  paused = !paused;
  const button = byId("pause");
  button.setAttribute("aria-pressed", String(paused));
  setText(button, paused ? "Resume" : "Pause");
  if (!paused && byId("message").textContent.includes(HELD)) notices.message("");
  const live = byId("connection").dataset.state;
  if (live === "connected" || live === "paused") notices.connection(paused ? "paused" : "connected", paused ? `Paused at ${format.clock(Date.now() / 1000)}` : "Live");
  schedule();
}

/* ── Start ───────────────────────────────────────────────────────────────────────────────────────────────── */

function chrome(visible) {
  byId("tabs").hidden = !visible;
  byId("controls").hidden = !visible || !store.model;
  byId("app").setAttribute("aria-busy", "false");
}

route.on((now, before) => {
  if (!store.info) return;
  if (now.model !== before.model) return void (now.model ? chooseModel() : first()).catch(failed);
  if (now.view !== before.view) return void show();
  choices.fill();
  ask();
  draw(new Set(["route"]));
});

async function start() {
  byId("skip").addEventListener("click", (event) => { event.preventDefault(); root.focus(); });
  themeButton(byId("theme"));
  onTheme(() => draw(new Set([...ALL, "theme"])));
  byId("pause").addEventListener("click", pause);
  byId("model").addEventListener("change", (event) => event.target.value && route.set({ model: event.target.value, streams: [], target: "", step: 1, ghost: "open", from: null, to: null }));
  let typing = 0;
  byId("model-match").addEventListener("input", (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => listModels(event.target.value.trim()).catch((error) => notices.message(error.message, { bad: true })), 250);
  });
  document.addEventListener("visibilitychange", schedule);
  setInterval(listAgain, RELIST);
  try {
    store.info = await api.get("/");
  } catch (error) {
    notices.connection("lost", "Not connected");
    notices.banner(`${error.status ? error.message : "The server does not answer."} Trying again.`, { bad: true });
    return setTimeout(again, 2000);
  }
  notices.banner("");
  const { version, api: number, role, tenant, open, node } = store.info;
  setText(byId("foot"), [`freshet ${version}`, `API ${number}`, node && `node ${node}`, open ? "open: no tokens are configured" : `tenant ${tenant}, role ${role}`].filter(Boolean).join(" · "));
  chrome(true);
  await first();
}

async function again() {
  try {
    store.info = await api.get("/");
    location.reload(); // whatever the page missed at its start, it starts again
  } catch {
    setTimeout(again, 2000);
  }
}

async function first() {
  let names = [];
  try {
    const listing = listModels();
    listing.catch(() => {}); // awaited below
    if (route.get().model) await chooseModel();
    names = await listing;
  } catch (error) {
    if (error.status !== 403) throw error;
    notices.connection("refused", "No models");
    notices.message(`${error.message} This token does not see models${store.info.sees_all ? "; the view Service is yours" : ""}.`, { bad: true });
    nothing = NOT_YOURS;
    if (!store.info.sees_all || route.get().view === "service") await show();
    else route.set({ view: "service" }, { replace: true });
    return;
  }
  if (!names.length && !route.get().model) {
    notices.connection("connected", "No models yet");
    nothing = NO_MODELS;
    await show();
    return void setTimeout(() => first().catch(failed), NONE_YET);
  }
  if (!route.get().model) route.set({ model: names[0] }, { replace: true });
}

function failed(error) {
  console.error(error);
  notices.banner(error.message, { bad: true });
}

start().catch(failed);
