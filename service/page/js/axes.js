// Where an axis has labels, and where a line is not drawn. Pure: no document, so that Node can import it.

const WIDE = 3; // usual intervals: ticks that are further apart have a gap between them
const USUAL = 0.9; // of the intervals are not longer than the usual one: at uneven intervals few look like a gap
const LADDER = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]]; // digits of the labels of a logarithmic axis, the fewest first

/** Whole numbers, as intervals of an axis of steps or ticks. */
export const WHOLE = [1, 2, 5].flatMap((digit) => Array.from({ length: 12 }, (_, power) => digit * 10 ** power)).sort((a, b) => a - b);

/** Labels of a logarithmic axis from min to max: two at least, `most` at most where that is possible; powers of ten where they do. */
export function logLabels(min, max, most) {
  const wide = [10, 5, 3, 2].map((apart) => within([1], min, max, apart)); // powers of ten so far apart
  const fitting = [...wide, ...LADDER.map((digits) => within(digits, min, max))].filter(({ length }) => length >= 2);
  return fitting.findLast(({ length }) => length <= most) ?? fitting[0] ?? even(min, max);
}

function within(digits, min, max, apart = 1) {
  const found = [];
  for (let power = Math.floor(Math.log10(min)); power <= Math.ceil(Math.log10(max)); power += 1) {
    if (power % apart === 0) found.push(...digits.map((digit) => Number(`${digit}e${power}`)));
  }
  return found.filter((value) => value >= min * (1 - 1e-9) && value <= max * (1 + 1e-9));
}

/** Two labels or more at even distances: of a range that is too short for round ones. */
function even(min, max) {
  const half = (max - min) / 2, power = 10 ** Math.floor(Math.log10(half));
  const step = [5, 2, 1].find((digit) => digit * power <= half * (1 + 1e-9)) * power;
  return Array.from({ length: Math.floor(max / step) - Math.ceil(min / step) + 1 }, (_, n) => Number(((Math.ceil(min / step) + n) * step).toPrecision(12)));
}

/** The usual distance between neighbours of a rising axis; NaN of fewer than two. */
export function usualInterval(x) {
  const sorted = x.slice(1).map((value, at) => value - x[at]).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor(USUAL * (sorted.length - 1))] : NaN;
}

/** The ticks that no line leads to from the one before, as places: ticks are missing between, or the time jumps. usual: of `usualInterval`. */
export function breaks(seq, x, usual) {
  return seq.flatMap((value, at) => (at && (value - seq[at - 1] > 1 || x[at] - x[at - 1] > WIDE * usual) ? [at] : []));
}

/** Two lists of stretches [from, to] as one, rising and without overlaps. */
export function joined(some, others) {
  const made = [];
  for (const [from, to] of [...some, ...others].sort((a, b) => a[0] - b[0])) {
    const last = made.at(-1);
    if (last && from <= last[1]) last[1] = Math.max(last[1], to);
    else made.push([from, to]);
  }
  return made;
}

/** The places of values that no line leads to or from: they are drawn as dots. broken: a Set of `breaks`. */
export function alone(values, broken) {
  const known = (at) => values[at] !== null && values[at] !== undefined;
  return values.flatMap((_, at) => (known(at) && (!known(at - 1) || broken.has(at)) && (!known(at + 1) || broken.has(at + 1)) ? [at] : []));
}
