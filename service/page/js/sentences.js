// What errors say, in one sentence each. Pure: no document, so that Node can import it.

import { number, plural, short, times } from "./format.js";

const WARM_UP = 16; // of the ghost: ticks that are not scored

/** One sentence: how the ghost compares now. scores: of a stream; ghost: of SCORES or of hello. */
export function ghostSentence({ wanted, ghost, scores, stream, champion = null }) {
  if (wanted === "none") return "No ghost is drawn: choose a version to compare with above.";
  if (!ghost) return "There is no ghost: the server computes sixteen at once at most, or this stream is not in memory. The forecast is unaffected.";
  const served = scores?.ghost_served ?? scores?.served ?? null; // on the labels that the ghost is scored on
  if (scores?.ghost === 0 && served === 0) return "Neither what serves nor the ghost has missed by anything: this stream does not surprise.";
  if (!scores || scores.ghost === null || !(served > 0)) {
    const done = ghost.scored ?? 0;
    return `The ghost of version ${ghost.version} starts from the state of now; its first ${WARM_UP} ticks are not scored${done ? ` (${plural(done, "label")} so far)` : ""}.`;
  }
  const ratio = scores.ghost / served;
  const over = scores.ghost_labels || scores.labels;
  const whose = stream ? ` of ${stream}` : "";
  const labels = over > 0 ? ` of the last ${plural(over, "label")}` : "";
  if (Math.abs(ratio - 1) < 0.02) return `Had it not learned since version ${ghost.version}, the squared error${labels}${whose} would be the same.`;
  const older = champion !== null && champion < ghost.version; // returned to, which the ghost was not
  if (older) return `Version ${champion} serves again, older than the ghost. With version ${ghost.version} the squared error${labels}${whose} would be ${times(ratio)} as large.`;
  const paid = ratio > 1 ? "" : " Here learning has not paid, yet.";
  return `Had it not learned since version ${ghost.version}, the squared error${labels}${whose} would be ${times(ratio)} as large.${paid}`;
}

/** What the scores of a stream say, in one sentence. */
export function standing({ labels, served, persistence, least_squares: squares, ghost, ghost_served: beside = served }) {
  if (labels && (served === 0 || persistence === 0)) return "This stream does not move, or is forecast exactly: there is no error to compare.";
  if (!labels || !(served > 0) || !(persistence > 0)) return "Too few labels to say how it stands.";
  const against = [[served, persistence, "persistence's"], [served, squares, "that of least squares"], [beside ?? served, ghost, "the ghost's"]]
    .filter(([, value]) => value > 0).map(([own, value, name]) => `${times(own / value)} ${name}`);
  const list = against.length > 1 ? `${against.slice(0, -1).join(", ")} and ${against.at(-1)}` : against[0];
  return `Over the last ${plural(labels, "label")} the squared error of what serves is ${list}.`;
}

/**
 * Which part of a model in slices is shown, in one sentence; "" of a model in one piece. model: MODEL, whose `slice` says which part it is,
 * or whose `slices` say how many it learns from; streams: ids that are shown; node: the address of this node, or "".
 */
export function sliceSentence({ model, streams = [], node = "" }) {
  const here = node ? `this node (${node})` : "this node";
  if (model?.slice) {
    const { index, count } = model.slice;
    const which = streams.length ? `: ${streams.map((id) => short(id, 40)).join(", ")}` : "";
    return `This model is served in ${count} slices, and only streams of slice ${index + 1} are shown, which ${here} serves${which}. Those of the others are not in these pictures; what it learns is in Gradient flow, Versions and Service on the node of its home.`;
  }
  if (model?.slices > 0) {
    const what = streams.length ? "" : " Choose a stream to see it, on the node that serves its slice.";
    return `This model is served in ${plural(model.slices, "slice")}, each with its own streams; ${here} is its home and learns from all of them, which is what is shown.${what}`;
  }
  return "";
}

/** How the error grows with the step, in one sentence. task: of the model, as in its spec. */
export function horizonSentence(steps, task = "forecast") {
  const ratio = (one) => (one && one.persistence_squared > 0 && one.squared !== null ? one.squared / one.persistence_squared : null);
  const [first, last] = [ratio(steps[0]), ratio(steps.at(-1))];
  if (first === null) return "";
  if (steps.length === 1 && task !== "forecast") return `Its squared error is ${times(first)} persistence's.`;
  if (steps.length === 1) return `This model forecasts one step ahead, so there is one point: its squared error is ${times(first)} persistence's.`;
  const near = `${plural(steps[0].step, "step")} ahead its squared error is ${number(first, 2)} times persistence's`;
  return last !== null ? `${near}, ${plural(steps.at(-1).step, "step")} ahead ${number(last, 2)} times.` : `${near}.`;
}
