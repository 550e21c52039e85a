// One event stream at a time: which one the route and the view ask for, and what to do as it comes and goes.

import { clock } from "./format.js";

const ALWAYS = ["ticks", "scores", "samples"]; // so that a change of view keeps the ghost and the history of errors
const RESTING = 30_000; // ms: a tab that is hidden for longer is no viewer any more
const SETTLE = 200; // ms: several changes of the route in a row open one stream

/**
 * Watch what is asked for. api, store: as in api.js and store.js. notices: {connection, banner, message, dropped}. onchange(): something
 * came. ongone(refusal): a name of the route is not there (any more). Returns {ask({model, streams, target, step, ghost, show}), stop()}.
 */
export function watching({ api, store, notices, onchange, ongone, paused }) {
  let asked = null; // what is wanted
  let open = null; // the newest stream, and its key; former ones stay open until it has greeted, so that their ghost lives on
  let openKey = "";
  const streams = new Set(); // all that are open
  let pinned = null; // the ghost's version once it is known: a stream that is opened again continues with the same one
  let shown = []; // the ids that the server chose where none are asked for, kept likewise
  let lost = false;
  let timer = 0;
  let resting = 0;

  function ask(wanted) {
    if (!wanted.model) return stop();
    const other = asked?.model !== wanted.model;
    if (other || wanted.ghost !== asked.ghost) pinned = null;
    if (other || wanted.streams.length) shown = [];
    asked = wanted;
    clearTimeout(timer);
    timer = setTimeout(begin, open ? SETTLE : 0);
  }

  function values() {
    const { model, streams: ids, target, step, ghost, show } = asked;
    const frozen = ghost === "open" && pinned !== null ? pinned : ghost;
    return { model, stream: ids.length ? ids : shown, target, step, ghost: frozen, show: [...new Set([...ALWAYS, ...show])].sort().join(",") };
  }

  function begin() {
    if (!asked || document.hidden) return;
    const key = JSON.stringify({ ...values(), stream: asked.streams, ghost: asked.ghost });
    if (key === openKey) return;
    openKey = key;
    const stream = api.watch(() => asked ? values() : {}, {
      onevent(name, data) {
        if (name === "hello") closeOthers(stream);
        onevent(name, data);
      },
      onstate(state, detail) {
        if (state !== "connected") closeOthers(stream);
        if (stream === open) onstate(state, detail);
      },
    });
    streams.add(stream);
    open = stream;
  }

  /** Close all streams but this one, and none where it is not the newest itself. */
  function closeOthers(stream) {
    for (const other of stream === open ? [...streams] : []) {
      if (other === stream) continue;
      other.close();
      streams.delete(other);
    }
  }

  function closeAll() {
    for (const stream of streams) stream.close();
    streams.clear();
    open = null;
    openKey = "";
  }

  function stop() {
    clearTimeout(timer);
    closeAll();
    asked = null;
  }

  function onevent(name, data) {
    if (name === "hello") greeted(data);
    if (name === "bye") return notices.message(`The server ended this page's stream${data.reason ? ` (${data.reason})` : ""}; it is opened again.`, { bad: true });
    store.apply(name, data);
    if (name === "dropped") notices.dropped(store.dropped);
    onchange();
  }

  function greeted(data) {
    const before = store.hello;
    if (asked.ghost === "open" && data.ghost) pinned = data.ghost.version;
    if (!asked.streams.length) shown = data.streams;
    if (before && before.started !== data.started) {
      notices.message(`The server was restarted at ${clock(data.started)} UTC. The page is connected again.`);
    } else if (lost) notices.message("Connected again.");
    lost = false;
  }

  function onstate(state, { refusal, wait } = {}) {
    if (state === "connected") {
      notices.banner("");
      notices.connection(paused() ? "paused" : "connected", paused() ? "Paused" : "Live");
    } else if (state === "lost") {
      lost = true;
      notices.connection("lost", "Connection lost");
      notices.banner(`The connection to the server is lost. What you see is from before; the page tries again${wait > 1 ? ` every ${Math.round(wait)} s` : ""}.`, { bad: true });
    } else if (refusal.field === "ghost" && asked.ghost === "open" && pinned !== null) {
      notices.message(`Version ${pinned} is kept no longer. The ghost is the version that serves now.`);
      openKey = "";
      pinned = null;
      begin();
    } else if (refusal.field === "stream" && !asked.streams.length) { // the one that the server chose is gone
      openKey = "";
      shown = [];
      begin();
    } else if ((refusal.status === 404 || refusal.status === 400) && ongone(refusal)) {
      openKey = "";
    } else {
      notices.connection("refused", refusal.status === 429 ? "Too many viewers" : "Refused");
      notices.banner(refusal.message, { bad: true });
      if (!wait) openKey = "";
    }
  }

  document.addEventListener("visibilitychange", () => {
    clearTimeout(resting);
    if (!document.hidden) return asked && begin();
    resting = setTimeout(closeAll, RESTING);
  });

  return { ask, stop, unpin() { pinned = null; } };
}
