// Where one is, in the address: /#/MODEL?view=…&stream=…. A hash is never sent to a server, and no token is ever in it.

export const DEFAULTS = Object.freeze({ model: "", view: "forecast", streams: Object.freeze([]), target: "", step: 1, ghost: "open", from: null, to: null });
export const MOST_STREAMS = 8; // at once, of one viewer

/** The hash as a route. What it does not know or cannot read is as in DEFAULTS: a broken link opens the page, it does not break it. */
export function parse(hash) {
  const text = String(hash).replace(/^#?\/?/, "");
  const cut = text.indexOf("?");
  const query = new URLSearchParams(cut < 0 ? "" : text.slice(cut + 1));
  const step = Number(query.get("step"));
  const [from, to] = ["from", "to"].map((key) => (query.get(key) ? Number(query.get(key)) : NaN));
  const ranged = Number.isFinite(from) && Number.isFinite(to) && to > from;
  const ghost = query.get("ghost") ?? "";
  return {
    model: decoded(cut < 0 ? text : text.slice(0, cut)),
    view: /^[a-z]+$/.test(query.get("view") ?? "") ? query.get("view") : DEFAULTS.view,
    streams: [...new Set(query.getAll("stream").filter(Boolean))].slice(0, MOST_STREAMS),
    target: query.get("target") ?? "",
    step: Number.isInteger(step) && step >= 1 ? step : DEFAULTS.step,
    ghost: /^(open|none|[1-9]\d{0,15})$/.test(ghost) ? ghost : DEFAULTS.ghost,
    from: ranged ? from : null,
    to: ranged ? to : null,
  };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return ""; // a percent sign that encodes nothing: no model has that name
  }
}

/** A route as a hash that `parse` reads back; what is as in DEFAULTS is left out. */
export function build(route) {
  const parts = [];
  const add = (key, value) => parts.push(`${key}=${encodeURIComponent(value)}`);
  if (route.view !== DEFAULTS.view) add("view", route.view);
  for (const stream of route.streams) add("stream", stream);
  if (route.target) add("target", route.target);
  if (route.step !== DEFAULTS.step) add("step", route.step);
  if (route.ghost !== DEFAULTS.ghost) add("ghost", route.ghost);
  if (route.from !== null && route.to !== null) {
    add("from", route.from);
    add("to", route.to);
  }
  return `#/${encodeURIComponent(route.model)}${parts.length ? `?${parts.join("&")}` : ""}`;
}

/**
 * The route of a window: {get() → the route (frozen), set(changes, {replace}), href(changes) → a hash to link to, on(listener(route, before)) → end}.
 * `set` writes the address (replace: no new entry in the history) and calls the listeners; so do back, forward and a typed hash.
 */
export function createRoute(window) {
  const listeners = new Set();
  let now = Object.freeze(parse(window.location.hash));
  const move = (next) => {
    const before = now;
    now = Object.freeze(next);
    if (build(before) !== build(now)) for (const listener of [...listeners]) listener(now, before);
  };
  window.addEventListener("hashchange", () => move(parse(window.location.hash)));
  return {
    get: () => now,
    href: (changes) => build({ ...now, ...changes }),
    set(changes, { replace = false } = {}) {
      const next = parse(build({ ...now, ...changes }));
      const hash = build(next);
      if (hash !== window.location.hash) window.history[replace ? "replaceState" : "pushState"](null, "", hash);
      move(next);
    },
    on(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}
