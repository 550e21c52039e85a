// Pictures for heat.js: which rows, how high, on which scale, and what a cell says. Pure: no DOM.

import { brief, percent } from "./format.js";
import { reach } from "./reading.js";
import { around, beyond, recentLog } from "./scale.js";

// By the number of layers, at most: the height of the newest report's row, how many earlier ones stand below it, the gap.
const LAG_ROWS = [
  { layers: 2, newest: 32, earlier: 36, gap: 16 }, { layers: 4, newest: 24, earlier: 24, gap: 12 }, { layers: 8, newest: 18, earlier: 12, gap: 10 },
  { layers: 16, newest: 14, earlier: 6, gap: 6 }, { layers: 32, newest: 12, earlier: 2, gap: 3 }, { layers: Infinity, newest: 10, earlier: 0, gap: 1 },
];
const EARLIER_HEIGHT = 2;
const UNIT_HEIGHTS = [[8, 24], [16, 18], [32, 12], [64, 8], [128, 4], [256, 2], [Infinity, 1]]; // units, pixels of each
const REPORTS = 120; // the colours are fitted to so many reports, never to all that ever were

/**
 * Lag × layer of recent reports, the oldest first: a wide row per layer for the newest, thin ones below it for those before.
 *
 * A bar stands in the wide row where all that is further back is below a hundredth of the layer's largest. Returns null
 * if no report has a layer; else a picture of heat.js with `note`: what the colours leave out. clock: seconds -> text.
 */
export function lagPicture(all, clock) {
  const reports = all.slice(-REPORTS);
  const newest = reports[reports.length - 1], names = newest ? Object.keys(newest.layers).filter((name) => newest.layers[name].length) : [];
  if (!names.length) return null;
  const scale = recentLog(reports.flatMap(({ layers }) => Object.values(layers))) ?? recentLog([[1]]);
  const form = LAG_ROWS.find(({ layers }) => names.length <= layers);
  const shown = reports.slice(-1 - form.earlier).reverse();
  const rows = names.flatMap((name, n) => shown.filter(({ layers }) => layers[name]).map((report, k) => ({
    label: k === 0 ? name : k === 1 && form.earlier > 8 ? "before" : "",
    faint: k > 0, edge: n > 0 && k === 0 && form.gap > 6, name, report, newest: k === 0, values: report.layers[name],
    height: k === 0 ? form.newest : EARLIER_HEIGHT, gap: k === 0 ? (n ? form.gap : 0) : k === 1 ? 2 : 0,
    limit: k === 0 ? reach(report.layers[name]).faded ?? undefined : undefined,
  })));
  const columns = Math.max(...rows.map(({ values }) => values.length));
  for (const row of rows) if (row.values.length < columns) row.values = [...row.values, ...Array(columns - row.values.length).fill(null)];
  return {
    rows, columns, scale, palette: "rising", legend: "norm of the gradient, logarithmic",
    x: { label: "ticks back (0: the newest label)", tick: String },
    read: (row, column) => readLag(rows[row], column, clock), note: noteOf(scale, newest, reports.length),
  };
}

function readLag({ name, report, values, newest }, column, clock) {
  const largest = values.reduce((a, b) => (b > a ? b : a), 0), v = values[column];
  const share = v > 0 && largest > 0 ? `, ${percent(v / largest)} of the layer's largest` : "";
  return `${name}, ${column} back, ${newest ? "newest report" : `report of ${clock(report.time)}`}: ${v == null ? "not reported" : brief(v)}${share}`;
}

function noteOf(scale, newest, n) {
  const { below, above } = beyond(scale, Object.values(newest.layers).flat());
  const ends = [below && `${below} below`, above && `${above} above`].filter(Boolean).join(" and ");
  const clipped = ends ? ` Of the newest report ${ends} the scale's ends are shown in the end colours.` : "";
  return `Colours go from ${brief(scale.low)} to ${brief(scale.high)}: the middle 90 % of the last ${n === 1 ? "report" : `${n} reports`}, over two to four powers of ten.${clipped}`;
}

/**
 * The state of one layer: units × looks, oldest first. order: the units from top to bottom; palette: "around-light" or
 * "around-dark"; marked: the word for a marked unit. Returns null without a look; else a picture of heat.js.
 */
export function statePicture(looks, { order, palette, clock, marked = "saturated" }) {
  const newest = looks[looks.length - 1];
  if (!newest || !newest.values.length) return null;
  const height = UNIT_HEIGHTS.find(([most]) => order.length <= most)[1];
  const scale = around(looks.map(({ values }) => values));
  const sets = looks.map((look) => new Set(look.marked ?? []));
  const rows = order.map((unit) => ({
    label: String(unit), unit, height, values: looks.map(({ values }) => values[unit] ?? null), now: sets[sets.length - 1].has(unit),
    marks: height < 4 ? [] : sets.flatMap((set, n) => (set.has(unit) ? [n] : [])),
  }));
  return {
    rows, columns: looks.length, scale, palette, legend: "value of a unit (0 is the middle)",
    x: { label: "tick of the stream at the look", tick: (column) => String(looks[column].seq) },
    read: (row, column) => {
      const { unit } = rows[row], look = looks[column];
      const gates = look.marked ? "" : ", gates not known";
      return `Unit ${unit} at tick ${look.seq} (${clock(look.time)}, version ${look.version}): ${brief(look.values[unit])}${sets[column].has(unit) ? `, ${marked}` : gates}`;
    },
  };
}
