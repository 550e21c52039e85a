// What has come from the server of the watched model, bounded. Pure: no document, so that Node can import it.

import { usualInterval } from "./axes.js";

const TICKS = 1024; // of each stream
const SAMPLES = 900; // one per second: a quarter of an hour
const EVENTS = 512;
const REPORTS = 120; // of gradients
const STATES = 240; // of each stream
const SCORES = 600; // of each stream
const STREAMS = 16; // whose columns are kept; the chosen ones and some that were chosen before
const COLUMNS = ["seq", "time", "truth", "y", "low", "high", "ghost", "version", "staleness"];

/** The last ticks of one stream as columns of numbers (NaN where there is none), oldest first. Owned by the store; readers copy with `slice`. */
export class Ticks {
  constructor(capacity = TICKS) {
    this.capacity = capacity;
    this.length = 0;
    this.revision = 0; // of the blocks taken: the same one means the same ticks
    this.next = null; // the newest tick's forecast of the steps ahead, as the server sent it
    this.target = "";
    this.step = 1;
    this.columns = Object.fromEntries(COLUMNS.map((name) => [name, new Float64Array(2 * capacity)]));
  }

  /** Take a BLOCK: it replaces what is here where it says so, or where it is of another target or step; of a tick that is here already the newer facts count. */
  add(block) {
    this.revision += 1;
    if (block.restart || block.target !== this.target || block.step !== this.step) this.length = 0;
    this.target = block.target;
    this.step = block.step;
    const { seq } = this.columns;
    while (this.length && block.seq.length && seq[this.length - 1] >= block.seq[0]) this.length -= 1;
    for (let at = Math.max(0, block.seq.length - this.capacity); at < block.seq.length; at += 1) {
      if (this.length === 2 * this.capacity) this.#shift();
      for (const name of COLUMNS) this.columns[name][this.length] = block[name]?.[at] ?? NaN;
      this.length += 1;
    }
    if (block.next !== undefined) this.next = block.next;
  }

  #shift() {
    for (const column of Object.values(this.columns)) column.copyWithin(0, this.capacity);
    this.length = this.capacity;
  }

  /** True where the ticks have times that only rise, so that they can be an axis. */
  timed() {
    const { time } = this.columns;
    const first = Math.max(0, this.length - this.capacity);
    for (let at = first; at < this.length; at += 1) {
      if (Number.isNaN(time[at]) || (at > first && time[at] <= time[at - 1])) return false;
    }
    return this.length > 0;
  }

  /** The usual distance between the ticks that are kept, on the axis; NaN of fewer than two. */
  usual(axis) {
    return usualInterval(Array.from(this.columns[axis].subarray(Math.max(0, this.length - this.capacity), this.length)));
  }

  /** The ticks whose `axis` ("time" or "seq") lies in [from, to], or the last `last`: columns of numbers and nulls. */
  slice({ last = 256, from = null, to = null, axis = "seq" } = {}) {
    const key = this.columns[axis];
    let [first, end] = [Math.max(0, this.length - Math.min(last, this.capacity)), this.length];
    if (from !== null) {
      first = Math.max(0, this.length - this.capacity);
      while (first < end && key[first + 1] < from) first += 1; // one outside, so that lines run to the edge
      while (end > first && key[end - 2] > to) end -= 1;
    }
    return Object.fromEntries(COLUMNS.map((name) => [name, Array.from(this.columns[name].subarray(first, end), (value) => (Number.isNaN(value) ? null : value))]));
  }
}

function bounded(list, added, most) {
  list.push(...added);
  if (list.length > most) list.splice(0, list.length - most);
}

/**
 * The store: apply(name, data) takes a message of the event stream and notes in `changes` (a Set of message names) that it came; the
 * page hands that set to the view and clears it. Read: info (GET /), hello, model, streams (ids that are watched), ghost, samples, events,
 * gradient (the last), gradients, scores (the last), dropped (count since the page opened), restarts; ticks(id) → Ticks or null,
 * states(id) → [STATE…], scoresOf(id) → the last scores of a stream or null, scoreHistory(id) → [{seq, time, …}].
 */
export function createStore() {
  const ticks = new Map();
  const states = new Map();
  const histories = new Map();
  const store = {
    info: null, hello: null, model: null, streams: [], ghost: null, samples: [], events: [], gradient: null, gradients: [], scores: null,
    dropped: 0, restarts: 0, changes: new Set(),
    ticks: (id) => ticks.get(id) ?? null,
    states: (id) => states.get(id) ?? [],
    scoresOf: (id) => store.scores?.streams.find(({ stream }) => stream === id) ?? null,
    scoreHistory: (id) => histories.get(id) ?? [],
    apply(name, data) {
      takers[name]?.(data);
      store.changes.add(name);
    },
    /** Forget all that is of a model: another one is watched from here on. */
    clear() {
      for (const map of [ticks, states, histories]) map.clear();
      Object.assign(store, { hello: null, model: null, streams: [], ghost: null, samples: [], events: [], gradient: null, gradients: [], scores: null });
      store.changes.add("clear");
    },
  };

  function kept(map, id, make) { // the entry of a stream, made where it is missing; the least recently used one goes
    const entry = map.get(id) ?? make();
    map.delete(id);
    map.set(id, entry);
    if (map.size > STREAMS) map.delete(map.keys().next().value);
    return entry;
  }

  const takers = {
    hello(data) {
      if (store.hello && store.hello.started !== data.started) store.restarts += 1;
      Object.assign(store, { hello: data, model: data.model ?? store.model, streams: data.streams ?? [], ghost: data.ghost ?? null });
      const last = store.samples.at(-1)?.time ?? -Infinity;
      bounded(store.samples, (data.history ?? []).filter(({ time }) => time > last), SAMPLES);
    },
    block: (data) => kept(ticks, data.stream, () => new Ticks()).add(data),
    state: (data) => bounded(kept(states, data.stream, () => []), [data], STATES),
    gradient(data) {
      store.gradient = data;
      bounded(store.gradients, [data], REPORTS);
    },
    scores(data) {
      store.scores = data;
      for (const one of data.streams) {
        const { columns, length } = ticks.get(one.stream) ?? { columns: null, length: 0 };
        const seq = length ? columns.seq[length - 1] : null;
        const time = length ? columns.time[length - 1] : null;
        bounded(kept(histories, one.stream, () => []), [{ ...one, seq, time }], SCORES);
      }
    },
    sample: (data) => bounded(store.samples, [data], SAMPLES),
    events(data) {
      store.events = [];
      bounded(store.events, data.events, EVENTS);
    },
    event: (data) => bounded(store.events, [data], EVENTS),
    model: (data) => { store.model = data; },
    dropped: (data) => { store.dropped += data.count ?? 0; },
  };
  return store;
}
