// What is shown of a model: streams, target, steps ahead and the ghost, as the route says.

import { path } from "./api.js";
import { choice } from "./dom.js";
import { streamPicker } from "./picker.js";

const VERSIONS = 10_000; // ms between two lists of versions

/**
 * The choices in `root`. unpin(): forget which version a ghost is of, since another one is asked for. Returns {heed(names): which of
 * streams, target, step, ghost the view heeds; fill(): show the route and the model; update(changes): something came; listVersions();
 * drop(refusal) → whether a name in the route that the server does not take was left out; clear(): of another model from here on}.
 */
export function createChoices({ root, api, store, route, unpin, message }) {
  let versions = []; // numbers, newest first, that a ghost may be of
  let listed = 0; // when they were
  let heeded = [];
  const streams = streamPicker({
    fetchPage: (values) => api.get(path`/models/${route.get().model}/streams`, values),
    onchange: (ids) => route.set({ streams: ids }),
  });
  const target = choice("Target", { id: "target", testid: "target-picker", onchange: (value) => route.set({ target: value }) });
  const step = choice("Steps ahead", { id: "step", testid: "step-picker", onchange: (value) => route.set({ step: Number(value) }) });
  const ghost = choice("Ghost, not learned since", { id: "ghost", testid: "ghost-picker", onchange: (value) => { unpin(); route.set({ ghost: value }); } });
  const all = { streams, target, step, ghost };
  root.append(...Object.values(all).map(({ field }) => field));

  function fill() {
    const { target: named, step: wanted, ghost: of, streams: ids } = route.get();
    const { model } = store;
    if (!model) return;
    for (const [name, { field }] of Object.entries(all)) field.hidden = !heeded.includes(name);
    root.hidden = heeded.length === 0;
    streams.show(ids.length ? ids : store.streams);
    target.fill(model.targets.map((name) => [name, name]), named || model.targets[0]);
    step.fill(Array.from({ length: model.horizon }, (_, at) => [at + 1, at === 0 ? "1 step" : `${at + 1} steps`]), Math.min(wanted, model.horizon));
    const open = store.ghost && of === "open" ? `page opened (version ${store.ghost.version})` : "page opened";
    const known = of === "open" || of === "none" || versions.includes(Number(of)) ? versions : [Number(of), ...versions];
    ghost.fill([["open", open], ...known.map((number) => [number, `version ${number}`]), ["none", "no ghost"]], of);
  }

  async function listVersions() {
    const { model } = route.get();
    listed = performance.now();
    try {
      const reply = await api.get(path`/models/${model}/versions`);
      if (route.get().model !== model) return;
      versions = reply.versions.map(({ number }) => number);
      if (document.activeElement !== ghost.select) fill(); // an open list does not change under the pointer
    } catch (error) {
      console.info(`no versions to choose a ghost from: ${error.message}`);
    }
  }

  return {
    fill,
    listVersions,
    heed(names) { heeded = names; },
    update(changes) {
      if (changes.has("hello") || changes.has("model")) fill();
      if (changes.has("event") && performance.now() - listed > VERSIONS) listVersions();
    },
    drop({ field, value, message: why }) {
      const now = route.get();
      const without = { stream: { streams: now.streams.filter((id) => id !== value) }, target: { target: "" }, ghost: { ghost: "open" }, step: { step: 1 } }[field];
      if (!without || (field === "stream" && !now.streams.includes(value))) return false;
      message(`${why} The page continues without it.`, { bad: true });
      unpin();
      route.set(without, { replace: true });
      return true;
    },
    clear() {
      versions = [];
      streams.close();
    },
  };
}
