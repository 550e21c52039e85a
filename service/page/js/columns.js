// Samples and versions as columns of a chart. Pure: no DOM.

const GAP = 15; // seconds without a value that a line does not bridge
const LEAST = 60; // seconds of an axis: two samples do not fill it from end to end

/**
 * Columns of the samples in which any of `keys` has a value: {x: [time], KEY: [value or null]}; between samples that are
 * more than GAP seconds apart stands a row of nulls, and lines end there.
 */
export function columnsOf(samples, keys) {
  const found = Object.fromEntries([["x", []], ...keys.map((key) => [key, []])]);
  for (const sample of samples) {
    if (!keys.some((key) => Number.isFinite(sample[key]))) continue;
    const before = found.x.at(-1);
    if (before !== undefined && sample.time - before > GAP) push(found, before + GAP / 2, keys, () => null);
    push(found, sample.time, keys, (key) => (Number.isFinite(sample[key]) ? sample[key] : null));
  }
  return found;
}

/** The range of a time axis that shows all samples, LEAST seconds at least: the newest stands at its end. {} of none. */
export function spanOf(samples) {
  if (!samples.length) return {};
  const [first, last] = [samples[0].time, samples.at(-1).time];
  return { from: Math.min(first, last - LEAST), to: last };
}

function push(found, time, keys, value) {
  found.x.push(time);
  for (const key of keys) found[key].push(value(key));
}

/** The columns of one key of the versions, oldest first: {x, KEY…}; versions without a time are left out. */
export function columnsOfVersions(versions, keys) {
  const rows = versions.filter(({ created }) => created > 0).sort((a, b) => a.created - b.created || a.number - b.number);
  const x = rows.map(({ created }) => created);
  for (let n = 1; n < x.length; n += 1) if (x[n] <= x[n - 1]) x[n] = x[n - 1] + 1e-3; // an axis rises
  return { x, number: rows.map((row) => row.number), ...Object.fromEntries(keys.map((key) => [key, rows.map((row) => (Number.isFinite(row[key]) ? row[key] : null))])) };
}

/** Columns of both on one axis: {x, …}, rising; a row of one has nulls in the columns of the other. */
export function merged(a, b) {
  const keys = [...new Set([...Object.keys(a), ...Object.keys(b)])].filter((key) => key !== "x");
  const rows = [...rowsOf(a), ...rowsOf(b)].sort((one, other) => one.x - other.x);
  for (let n = 1; n < rows.length; n += 1) if (rows[n].x <= rows[n - 1].x) rows[n].x = rows[n - 1].x + 1e-4;
  return { x: rows.map(({ x }) => x), ...Object.fromEntries(keys.map((key) => [key, rows.map((row) => row[key] ?? null)])) };
}

function rowsOf(columns) {
  return columns.x.map((x, n) => Object.fromEntries(Object.entries(columns).map(([key, values]) => [key, key === "x" ? x : values[n]])));
}

/** Columns as a table: {columns, rows}, the oldest first. names: [[key, title]…]. */
export function tableOf(columns, names, moment) {
  const rows = columns.x.map((x, n) => [moment(x), ...names.map(([key]) => columns[key]?.[n] ?? null)]);
  return { columns: ["time (UTC)", ...names.map(([, title]) => title)], rows: rows.filter((row) => row.slice(1).some((v) => v !== null)) };
}

/** The middle of the last `most` values of a key that are numbers; NaN if there are none. */
export function recently(samples, key, most = 60) {
  const found = samples.slice(-most).map((sample) => sample[key]).filter(Number.isFinite).sort((a, b) => a - b);
  return found.length ? found[Math.floor(found.length / 2)] : NaN;
}
