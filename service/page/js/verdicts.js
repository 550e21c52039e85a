// Events and verdicts of a model in words, and where their marks stand on a time axis. Pure: no DOM.
// What the numbers mean is said in docs/concepts.md and service/common/gate.py.

import { brief, duration, number, percent } from "./format.js";
import { count } from "./scale.js";

const WORSE = 1e4, LARGEST = 1e300; // evidence that vetoes, unless worse_evidence is set; "not finite" on the wire

/** Kinds that have a mark: its sign, lane (0 is nearest to the data), colour (token), and the word of the legend. */
export const MARKS = {
  published: { sign: "▲", lane: 0, colour: "published", word: "published" },
  vetoed: { sign: "✕", lane: 1, colour: "bad", word: "vetoed" },
  "rolled back": { sign: "◀", lane: 1, colour: "text", word: "rolled back" },
  drifted: { sign: "◆", lane: 2, colour: "drift", word: "drift" },
  promoted: { sign: "★", lane: 2, colour: "accent", word: "promoted" },
  anchored: { sign: "■", lane: 2, colour: "muted", word: "new anchor" },
  imported: { sign: "▼", lane: 3, colour: "muted", word: "imported" },
  paused: { sign: "‖", lane: 3, colour: "text", word: "paused" },
  resumed: { sign: "►", lane: 3, colour: "text", word: "resumed" },
  changed: { sign: "●", lane: 3, colour: "muted", word: "settings changed" },
  skipped: { sign: "○", lane: 3, colour: "bad", word: "part of the journal left out" },
};
export const LANES = 4;
export const SPANS = [120, 900, 3600, 86400]; // seconds that a timeline shows
const ENOUGH = 20; // events and versions
const ASIDE = 12; // pixels between marks of different kinds

/** The kind of an event's mark; a promotion is a publish "by hand" or of reason "promote…". */
export function kindOf(event) {
  if (event.kind === "published" && /^(by hand|promot)/.test(event.reason || "")) return "promoted";
  return event.kind;
}

/**
 * The marks of events on an axis: [{kind, events, x, lane}], those of a lane at least `apart` pixels from each other.
 *
 * place: seconds -> pixels. Events of one kind that are nearer than `apart` share the mark of the newest of them.
 */
export function marks(events, place, width, apart = 14) {
  const made = [];
  const last = {};
  for (const event of events) {
    const kind = kindOf(event), mark = MARKS[kind];
    const x = mark ? place(event.time) : NaN;
    if (!(x >= 0 && x <= width)) continue;
    const before = last[kind];
    if (before && x - before.from < apart) {
      before.events.push(event);
      before.x = x;
    } else {
      made.push((last[kind] = { kind, lane: mark.lane, events: [event], x, from: x }));
    }
  }
  return asideOf(made);
}

/** Move marks of a lane that stand on each other aside, so that they can be distinguished, in the order of time. */
function asideOf(made) {
  const free = {};
  for (const mark of made) {
    mark.x = Math.max(mark.x, free[mark.lane] ?? -Infinity);
    free[mark.lane] = mark.x + ASIDE;
  }
  return made;
}

/** One sentence on an event. */
export function tell(event) {
  const version = event.version, reason = event.reason || "";
  const words = {
    created: () => `The model was created and version ${version} serves.`,
    published: () => `The candidate became version ${version} and serves.`,
    promoted: () => `Version ${version} was promoted by hand: it serves, and is the anchor.`,
    vetoed: () => `The candidate was refused: ${reason || "no reason was given"}. Version ${version} serves on. ${WHY[reason] || ""}`.trim(),
    "rolled back": () => `Serving and learning returned to version ${version}: ${reason || "no reason was given"}.`,
    drifted: () => `The world changed: ${reason || "the loss has risen"}.`,
    anchored: () => `Version ${version} proved itself in service and is the new anchor.`,
    paused: () => "Learning is paused: labels that arrive meanwhile are never learned.",
    resumed: () => "Learning continues.",
    imported: () => `Version ${version} was imported; it does not serve yet.`,
    changed: () => `Settings of learning changed: ${reason}.`,
    skipped: () => `A piece of the journal was left out: ${reason}.`,
  }[kindOf(event)];
  return words ? words() : `${event.kind}${reason ? `: ${reason}` : ""}.`;
}

const WHY = {
  "worse than the anchor": "The sequential test is certain; learning has returned to the anchor and continues from there.",
  "non-finite weights": "The learning rate is far too high, or the values are.",
  "moved too far": "The weights changed by more than max_movement between two versions: lower the rate.",
  "cooling down after a rollback": "That is not about the candidate: some labels are learned before anything is published again.",
  drift: "The drift reaction of the model returns to the anchor.",
};

/** The numbers of a verdict in words: [{name, value (text), raw (the number), words}], known ones first. */
export function explain(event) {
  const numbers = event.numbers || {};
  const known = Object.keys(NUMBERS).filter((name) => name in numbers);
  const others = Object.keys(numbers).filter((name) => !(name in NUMBERS)).sort();
  const rows = [...known, ...others].map((name) => {
    const v = numbers[name];
    return { name, value: v >= LARGEST ? "not finite" : brief(v), raw: v, words: NUMBERS[name] ? NUMBERS[name](v, numbers) : "" };
  });
  return [{ name: "offset", value: number(event.offset, 12), raw: event.offset ?? null, words: "Entries of the model's journal before it." }, ...rows];
}

const NUMBERS = {
  evidence: (v) => v >= WORSE
    ? `Against the candidate: at ${number(WORSE)}, unless worse_evidence is set, it counts as worse than the anchor.`
    : `Against the candidate: about 1 while it is not worse than the anchor; it is refused from ${number(WORSE)} on, unless worse_evidence is set.`,
  labels: () => "Labels learned since the verdict before.",
  loss: () => "The candidate's loss per label since then: scaled, clipped, and mapped to 0..1.",
  score: (v, all) => "mean_score" in all
    ? `The candidate's mean loss over the last block of labels, 0..1${compared(v, all.mean_score, "before")}.`
    : `The candidate's loss on the labels that the anchor was scored on too${compared(v, all.anchor_score, "the anchor")}.`,
  anchor_score: () => "The anchor's loss on the same labels.",
  mean_score: () => "The mean of the blocks before it.",
  excess: () => "How far the loss has risen, summed over blocks, in deviations of a block: beyond 15 for three blocks it is a drift.",
  blocks: (v) => `${count(v, "block")} of 32 labels since the test began.`,
  movement: (v) => `The weights moved by ${percent(v)} of their size since the version before; beyond max_movement (4, unless set) it is refused.`,
  parity_error: () => "Largest difference between the answers of ONNX and NumPy, in scaled units; beyond 10⁻⁵ it is refused.",
  export_s: (v) => `Writing and checking the version took ${duration(v)}.`,
};

function compared(score, other, than) {
  if (!Number.isFinite(score) || !Number.isFinite(other) || !(other > 0)) return "";
  const change = score / other - 1;
  if (Math.abs(change) < 0.005) return `: the same as ${than}`;
  return `: ${percent(Math.abs(change))} ${change < 0 ? "better" : "worse"} than ${than}`;
}

/** Events that a verdict is shown of, the newest first; all but those without a mark. */
export function shownEvents(events) {
  return events.filter((event) => MARKS[kindOf(event)] || event.kind === "created").reverse();
}

/** Losses as the gate sees them, by time: {created, number, loss, anchor_loss} of versions, and of vetoes since. */
export function gateRows(versions, events) {
  const vetoes = events.filter(({ kind, numbers }) => kind === "vetoed" && numbers && Number.isFinite(numbers.loss));
  return [...versions, ...vetoes.map(({ time, numbers }) => ({ created: time, number: null, loss: numbers.loss, anchor_loss: numbers.anchor_score ?? null }))];
}

/**
 * Where an axis of time begins that ends `now`: span: seconds, "all", or "" for the shortest of SPANS that has ENOUGH of
 * what happened, so that one old version does not press the rest together. times: of what is known, in any order.
 */
export function beginning(times, now, span) {
  const first = Math.min(now - 60, ...times.filter(Number.isFinite));
  if (span === "all") return first;
  if (span) return now - Number(span);
  const enough = Math.min(ENOUGH, times.length);
  const found = SPANS.find((seconds) => times.filter((time) => time >= now - seconds).length >= enough);
  return found ? Math.max(first, now - found) : first;
}

/** Reads the timeline: what happened in the events that are known. */
export function readTimeline(events, model) {
  const counted = {};
  for (const event of events) counted[kindOf(event)] = (counted[kindOf(event)] || 0) + 1;
  const parts = [
    [counted.published, "publish", "publishes"], [counted.vetoed, "veto", "vetoes"], [counted["rolled back"], "rollback"],
    [counted.drifted, "drift"], [counted.promoted, "promotion"],
  ].filter(([n]) => n).map(([n, noun, plural]) => count(n, noun, plural));
  const now = `Version ${model.champion} serves, ${model.anchor} is the anchor${model.paused ? ", learning is paused" : ""}.`;
  return parts.length ? `${now} Recent events: ${parts.join(", ")}.` : `${now} Nothing has happened to its versions since the server's start.`;
}

/** What an action does, for the question before it: {title, text, yes}. number: the version, 0 for the anchor. */
export function consequence(action, model, number = 0) {
  const name = model.name;
  return {
    pause: { title: `Pause learning of ${name}?`, text: `Version ${model.champion} answers on. Labels that arrive during the pause are never learned.`, yes: "Pause learning" },
    resume: { title: `Resume learning of ${name}?`, text: "Labels are learned again from now on; those of the pause are not.", yes: "Resume learning" },
    rollback: {
      title: `Roll ${name} back to ${number ? `version ${number}` : `its anchor, version ${model.anchor}`}?`,
      text: "Every stream is answered by that version from its next tick on, learning continues from its weights, and nothing is published until some labels are learned again. What was learned since is dropped.",
      yes: "Roll back",
    },
    promote: {
      title: `Promote version ${number} of ${name}?`,
      text: `Every stream is answered by it from its next tick on instead of by version ${model.champion}. It becomes the anchor, and learning continues from its weights.`,
      yes: "Promote",
    },
  }[action];
}
