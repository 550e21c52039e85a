// Scales of heat maps: value -> 0..1 -> colour, and the numbers of their legends. Pure: no DOM.

// Lightness rises evenly from end to end, so that the order can be seen without colour vision, and in grey.
const RISING = [
  [37, 1, 70], [34, 29, 118], [1, 70, 131], [1, 104, 136], [15, 135, 146], [21, 168, 150], [75, 199, 136],
  [170, 217, 139], [231, 234, 173],
];
// Blue below zero, orange above; zero is near the page's background, so that only what differs from it is seen.
const AROUND_LIGHT = [
  [5, 79, 137], [53, 119, 183], [119, 161, 205], [181, 203, 226], [245, 245, 245], [222, 194, 176], [196, 144, 109],
  [168, 94, 34], [119, 58, 0],
];
const AROUND_DARK = [
  [137, 195, 254], [86, 152, 218], [70, 111, 152], [54, 72, 91], [36, 36, 36], [87, 65, 50], [144, 95, 61],
  [204, 126, 70], [255, 166, 102],
];

const MOST_VALUES = 20_000; // that a scale is fitted to; of more, evenly many are left out
const LEAST_DECADES = 2; // a narrower scale would paint a healthy gradient as if it vanished
const MOST_DECADES = 4; // beyond a ten-thousandth of the largest nothing is learned: more shades would hide that

/** The `share` quantile of ascending numbers, between neighbours linear; NaN if there are none. */
export function quantile(ascending, share) {
  if (!ascending.length) return NaN;
  const at = share * (ascending.length - 1), low = Math.floor(at), high = Math.ceil(at);
  return ascending[low] + (ascending[high] - ascending[low]) * (at - low);
}

/** A function 0..1 -> [red, green, blue], linear between the nine stops of "rising", "around-light" or "around-dark". */
export function colourOf(name) {
  const stops = { rising: RISING, "around-light": AROUND_LIGHT, "around-dark": AROUND_DARK }[name];
  return (share) => {
    const at = Math.min(1, Math.max(0, share)) * (stops.length - 1), low = Math.min(stops.length - 2, Math.floor(at));
    return stops[low].map((v, n) => Math.round(v + (stops[low + 1][n] - v) * (at - low)));
  };
}

/**
 * The logarithmic scale of lists of numbers: from their 5th to their 95th percentile, two to four decades wide.
 *
 * Returns null if no number is positive; else {low, high, of(v) -> 0..1 or NaN, ticks}. A number <= 0 is at the low end.
 */
export function recentLog(lists) {
  const sorted = thinned(lists, (v) => (v > 0 && v < Infinity ? v : NaN));
  if (!sorted.length) return null;
  const high = quantile(sorted, 0.95);
  const low = Math.max(Math.min(quantile(sorted, 0.05), high / 10 ** LEAST_DECADES), high / 10 ** MOST_DECADES);
  const from = Math.log10(low), wide = Math.log10(high) - from;
  const of = (v) => (v == null || Number.isNaN(v) ? NaN : v > 0 ? Math.min(1, Math.max(0, (Math.log10(v) - from) / wide)) : 0);
  return { low, high, of, ticks: decades(low, high) };
}

/** At most MOST_VALUES of what `take` makes of the numbers, ascending, without NaN. */
function thinned(lists, take) {
  const total = lists.reduce((sum, list) => sum + list.length, 0);
  const every = Math.ceil(total / MOST_VALUES) | 1; // odd, so that it does not hit the same columns of each list of 2ⁿ
  const found = new Float64Array(Math.ceil(total / every));
  let n = 0, at = 0; // at: of the list, the next that counts
  for (const list of lists) {
    for (; at < list.length; at += every) {
      const v = take(list[at]);
      if (!Number.isNaN(v)) found[n++] = v;
    }
    at -= list.length;
  }
  return found.subarray(0, n).sort(); // numeric, unlike an array's
}

/** How many of `values` lie {below, above} the ends of a scale and are shown in its end colours. */
export function beyond(scale, values) {
  let below = 0, above = 0;
  for (const v of values) {
    if (v < scale.low) below += 1;
    else if (v > scale.high) above += 1;
  }
  return { below, above };
}

/** The scale of signed numbers: symmetric around 0, to the 98th percentile of their sizes, and to `least` at least. */
export function around(lists, least = 0.1) {
  const sizes = thinned(lists, (v) => (Number.isFinite(v) ? Math.abs(v) : NaN));
  const high = sizes.length ? Math.max(least, quantile(sizes, 0.98)) : 1;
  const of = (v) => (v == null || Number.isNaN(v) ? NaN : Math.min(1, Math.max(0, 0.5 + v / high / 2)));
  return { low: -high, high, of, ticks: [0] };
}

/** The powers of ten within [low, high]; with fewer than two of them, the ends themselves. */
export function decades(low, high) {
  const ticks = [];
  for (let n = Math.ceil(Math.log10(low) - 1e-9); 10 ** n <= high * (1 + 1e-9); n += 1) ticks.push(10 ** n);
  return ticks.length > 1 ? ticks : [low, high];
}

/** Whole numbers for the ticks of an axis of `n` cells, at most `most` of them, 1, 2 or 5 times a power of ten apart. */
export function wholes(n, most) {
  if (n <= 0) return [];
  let step = 1;
  for (let next = 0; Math.ceil(n / step) > Math.max(2, most); next += 1) step = [2, 5, 10][next % 3] * 10 ** Math.floor(next / 3);
  return Array.from({ length: Math.ceil(n / step) }, (_, k) => k * step);
}

/** `values` in `cells` cells: the value of the largest size of each, so that no peak is lost; NaN where none is finite. */
export function pool(values, cells) {
  const n = values.length;
  if (n <= cells) return Float64Array.from(values, (v) => (v == null ? NaN : v));
  const pooled = new Float64Array(cells).fill(NaN);
  for (let i = 0; i < n; i += 1) {
    const cell = Math.floor((i * cells) / n), v = values[i];
    if (Number.isFinite(v) && !(Math.abs(v) <= Math.abs(pooled[cell]))) pooled[cell] = v;
  }
  return pooled;
}

/** `n` and a noun, in the plural unless it is one. */
export function count(n, noun, plural = `${noun}s`) {
  return `${n === 1 ? "one" : n} ${n === 1 ? noun : plural}`;
}
