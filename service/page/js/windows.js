// What is computed of a window of ticks. Pure: no document, so that Node can import it.

export const MEAN = 64; // ticks of a running mean of errors

/** Ahead of the newest tick: the x of steps 1…H, from its x and the usual distance (median of the last 32) between ticks. axis: "time" or "seq". */
export function ahead(x, steps, axis) {
  if (!x.length) return [];
  const last = x[x.length - 1];
  if (axis === "seq") return steps.map((step) => last + step);
  const gaps = x.slice(-33).flatMap((value, at, all) => (at ? [value - all[at - 1]] : [])).sort((a, b) => a - b);
  const usual = gaps.length ? gaps[gaps.length >> 1] : 1;
  return steps.map((step) => last + step * usual);
}

/**
 * A window of ticks (columns of `Ticks.slice`) with the forecast of the next steps behind it, as columns of a chart: x, truth, y, low,
 * high, ghost over the ticks; next, nextLow, nextHigh, nextGhost from the newest tick on.
 */
export function withNext(ticks, next, axis) {
  const n = ticks.seq.length;
  const x = ticks[axis];
  const live = next && n && next.seq === ticks.seq[n - 1];
  const steps = live ? next.steps : [];
  const rest = (value = null) => steps.map(() => value);
  const before = (values, joint) => [...new Array(Math.max(0, n - 1)).fill(null), ...(n ? [joint] : []), ...values];
  const values = (name) => (live ? next[name] ?? rest() : []);
  const joint = live ? ticks.truth[n - 1] : null; // the fan starts at what is known
  return {
    x: [...x, ...ahead(x, steps, axis)],
    truth: [...ticks.truth, ...rest()], y: [...ticks.y, ...rest()], low: [...ticks.low, ...rest()], high: [...ticks.high, ...rest()], ghost: [...ticks.ghost, ...rest()],
    next: before(values("y"), joint), nextLow: before(values("low"), joint), nextHigh: before(values("high"), joint),
    nextGhost: before(values("ghost"), values("ghost").some((value) => value !== null) ? joint : null),
  };
}

/** Squared differences of two columns where both are known, else null. */
export function squared(a, b) {
  return a.map((value, at) => (value === null || b[at] === null || b[at] === undefined ? null : (value - b[at]) ** 2));
}

/** A column moved `by` places towards newer: what was last seen that many ticks before. */
export function earlier(values, by) {
  return values.map((_, at) => (at >= by ? values[at - by] : null));
}

/** The mean square of one-step differences: what the errors of streams of any unit are divided by. null where there are none, or all are 0. */
export function scaleOf(truth) {
  const steps = truth.flatMap((value, at) => (at && value !== null && truth[at - 1] !== null ? [value - truth[at - 1]] : []));
  const sum = steps.reduce((all, value) => all + value * value, 0);
  return sum > 0 ? sum / steps.length : null;
}

/** Mean of the last `width` known values at each place; null before `least` of them are known. */
export function runningMean(values, width, least = Math.min(8, width)) {
  let [sum, known] = [0, 0];
  return values.map((value, at) => {
    if (value !== null) [sum, known] = [sum + value, known + 1];
    const left = at >= width ? values[at - width] : null;
    if (left !== null) [sum, known] = [sum - left, known - 1];
    return known >= least ? Math.max(0, sum / known) : null;
  });
}

/** Where a column of versions changes: [{at (index), version}]. */
export function versionChanges(versions) {
  let last = null;
  return versions.flatMap((version, at) => {
    const changed = version !== null && last !== null && version !== last;
    last = version ?? last;
    return changed ? [{ at, version }] : [];
  });
}

/** Columns of the chart of one stream: relative squared errors as running means, and the versions that answered. Pure. */
export function streamErrors(ticks, step, history, axis) {
  const scale = scaleOf(ticks.truth);
  const mean = (errors) => runningMean(errors, MEAN).map((value) => (value === null || scale === null ? null : value / scale));
  const bySeq = new Map(history.map((one) => [one.seq, one.least_squares]));
  let known = null; // held until the next score
  return {
    x: ticks[axis],
    served: mean(squared(ticks.truth, ticks.y)),
    persistence: mean(squared(ticks.truth, earlier(ticks.truth, step))),
    ghost: mean(squared(ticks.truth, ticks.ghost)),
    least_squares: ticks.seq.map((seq) => (known = bySeq.get(seq) ?? known)),
  };
}
