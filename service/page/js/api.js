// The server: GET, POST and the event stream, with the token in this module's memory and nowhere else.

const ROOT = "api/v1"; // relative: the page works under any prefix of a proxy
const FIRST_WAIT = 500; // ms before the first try again; doubled up to LAST_WAIT
const LAST_WAIT = 5000;
const QUIET = 25_000; // ms without a byte (the server sends a comment each 10 s): the connection is taken for lost

/** A refusal of the server: status, reason, field, value and remedy as it gave them. `message` is fit to be shown. */
export class Refusal extends Error {
  constructor(status, error = {}) {
    super(explain(status, error, globalThis.location?.hash));
    Object.assign(this, { status, reason: error.reason ?? "", field: error.field ?? "", value: error.value ?? "", remedy: error.remedy ?? "" });
  }
}

/** What a refusal means, in a sentence. hash: of the page's address, for the page of another node. Pure. */
export function explain(status, { reason = "", field = "", value = "", remedy = "", http = "" } = {}, hash = "") {
  if (reason === "MOVED") return `Another node of the cluster has this: ${http ? `open http://${http}/${hash} to see it.` : `${remedy}.`}`;
  const what = field ? `${field} ${JSON.stringify(value)}` : "";
  const sentence = {
    401: "The server asks for a token.",
    403: "This token may not do that.",
    404: `Not found${what ? `: ${what}` : ""}.`,
    421: "The server answers only to its own address.",
    429: "The server has as many viewers as it takes.",
    503: "The server is not ready.",
  }[status] ?? `Refused (${status}${reason ? `, ${reason}` : ""})${what ? `: ${what}` : ""}.`;
  return remedy ? `${sentence} ${remedy[0].toUpperCase()}${remedy.slice(1)}${/[.!?]$/.test(remedy) ? "" : "."}` : sentence;
}

/** A reader of server-sent events: feed it text as it comes, in pieces; it calls onevent(name, data) for each complete event whose data is JSON. Pure. */
export function eventReader(onevent) {
  let rest = "";
  return (text) => {
    rest += text;
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      let name = "message";
      const data = [];
      for (const line of block.split(/\r?\n/)) {
        if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      }
      if (data.length) onevent(name, JSON.parse(data.join("\n")));
    }
  };
}

/** A path below the API from names of users: path`/models/${model}/pause` percent-encodes what is put in. Pure. */
export function path(texts, ...names) {
  return texts.reduce((all, text, at) => all + text + (at < names.length ? encodeURIComponent(names[at]) : ""), "");
}

/** A query of keys and values; an array repeats its key, null and "" are left out. Pure. */
export function query(values) {
  const parts = Object.entries(values).flatMap(([key, value]) => (Array.isArray(value) ? value : [value]).map((one) => [key, one]));
  const text = parts.filter(([, value]) => value !== null && value !== undefined && value !== "").map(([key, value]) => `${key}=${encodeURIComponent(value)}`).join("&");
  return text ? `?${text}` : "";
}

/**
 * {get(path, values), post(path, body), watch(valuesNow, {onevent, onstate}), setToken(text)}.
 * unauthorized(): called at a 401; returns a promise that is done when a token was given, and the request is made again.
 * `get` and `post` resolve to the reply's JSON and reject with a Refusal, or a TypeError where there is no connection.
 */
export function createApi({ unauthorized }) {
  let token = "";

  async function request(where, { method = "GET", body, signal, accept = "application/json" } = {}) {
    for (;;) {
      const headers = { Accept: accept };
      if (token) headers.Authorization = `Bearer ${token}`;
      if (body !== undefined) headers["Content-Type"] = "application/json";
      const reply = await fetch(ROOT + where, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store", credentials: "omit", redirect: "error" });
      if (reply.ok) return reply;
      const refusal = new Refusal(reply.status, (await reply.json().catch(() => ({}))).error);
      if (reply.status !== 401) throw refusal;
      await unauthorized(refusal);
    }
  }

  /**
   * The event stream, opened again whenever it ends. valuesNow(): of the query, asked before each try. onevent(name, data); onstate(state, detail): "connected"; "lost" {wait: seconds
   * until the next try}; "refused" {refusal, wait} (it is tried again slowly for 429, else not). Returns {close()}.
   */
  function watch(valuesNow, { onevent, onstate }) {
    let closed = false;
    let wait = FIRST_WAIT;
    let abort = null;

    async function once() {
      abort = new AbortController();
      let timer = setTimeout(() => abort.abort(), QUIET);
      try {
        const reply = await request(`/watch${query(valuesNow())}`, { signal: abort.signal, accept: "text/event-stream" });
        if (closed) return;
        const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
        const feed = eventReader((name, data) => {
          if (closed) return;
          if (name === "hello") {
            wait = FIRST_WAIT;
            onstate("connected");
          }
          onevent(name, data);
        });
        for (;;) {
          const { value, done } = await reader.read();
          if (done || closed) return;
          clearTimeout(timer);
          timer = setTimeout(() => abort.abort(), QUIET);
          feed(value);
        }
      } finally {
        clearTimeout(timer);
        abort.abort();
      }
    }

    (async () => {
      while (!closed) {
        let refusal = null;
        try {
          await once();
        } catch (error) {
          if (error instanceof Refusal) refusal = error;
          else if (!(error instanceof TypeError || error.name === "AbortError")) console.error(error); // ours, not the network's
        }
        if (closed) return;
        const leaving = refusal?.status === 503; // it starts or stops: as if it were not there
        if (refusal && refusal.status !== 429 && !leaving) return onstate("refused", { refusal });
        if (refusal && !leaving) wait = LAST_WAIT;
        onstate(refusal && !leaving ? "refused" : "lost", { refusal, wait: wait / 1000 });
        await new Promise((resolve) => setTimeout(resolve, wait));
        wait = Math.min(LAST_WAIT, wait * 2);
      }
    })();
    return {
      close() {
        closed = true;
        abort?.abort();
      },
    };
  }

  return {
    get: async (where, values = {}) => (await request(where + query(values))).json(),
    post: async (where, body = {}) => (await request(where, { method: "POST", body })).json(),
    watch,
    setToken(text) { token = text.trim(); },
  };
}
