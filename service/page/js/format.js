// Numbers, times and names as text. Pure: no document, so that Node can import it.

export const NONE = "–"; // what is shown where there is no value

const SUPER = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/**
 * A number with `digits` significant digits: grouped from 10⁴ on, as a power of ten below 0.001 and from 10⁷ on; "–" for none. Axes,
 * legends, tables and sentences write numbers with this one function; a CSV has them in full.
 */
export function number(value, digits = 4) {
  if (typeof value !== "number" || Number.isNaN(value)) return NONE;
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 10 ** Math.max(7, digits)) return count(Number(value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(size))))));
  const [digit, power] = size.toExponential(Math.max(0, digits - 2)).split("e");
  const tens = `10${Number(power) < 0 ? "⁻" : ""}${[...String(Math.abs(Number(power)))].map((one) => SUPER[one]).join("")}`;
  return `${value < 0 ? "−" : ""}${Number(digit) === 1 ? "" : `${Number(digit)}·`}${tens}`;
}

/** A number in few characters: `number` with three significant digits. */
export function brief(value) {
  return number(value, 3);
}

/** An integer (or decimal as it is) with thin spaces between thousands from 10⁴ on; "–" for none. */
export function count(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return NONE;
  const [whole, rest] = Math.abs(value).toString().split(".");
  const grouped = whole.length > 4 && !whole.includes("e") ? whole.replace(/\B(?=(\d{3})+$)/g, "\u202f") : whole;
  return (value < 0 ? "−" : "") + grouped + (rest ? `.${rest}` : "");
}

/** A share in 0…1 as a percentage: whole from 10 % on, with one decimal below it where that says more, two digits below 1 %; "–" for none. */
export function percent(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return NONE;
  const hundred = value * 100;
  if (Math.abs(hundred) < 1) return `${number(hundred, 2)} %`;
  const places = Math.abs(hundred) < 10 && Math.abs(hundred - Math.round(hundred)) > 0.05 ? 1 : 0;
  return `${count(Number(hundred.toFixed(places)))} %`;
}

/** A ratio as "2.4 times", with enough digits near one to tell it from one. */
export function times(ratio) {
  if (typeof ratio !== "number" || !Number.isFinite(ratio)) return NONE;
  return `${number(ratio, Math.abs(ratio - 1) < 0.1 ? 3 : 2)} times`;
}

/** Seconds as a length of time in the unit that suits: "850 µs", "12.5 ms", "3 s", "2 min", "5 h", "3 d"; "–" for none. */
export function duration(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return NONE;
  const size = Math.abs(seconds);
  if (size === 0) return "0 s";
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1], ["ms", 1e-3]]) {
    if (size >= length) return `${number(seconds / length, 3)} ${unit}`;
  }
  return `${number(seconds * 1e6, 3)} µs`;
}

const pad = (value, width = 2) => String(value).padStart(width, "0");

/** Seconds since 1970 as "2024-11-30 08:27:43" UTC; "–" for none. */
export function moment(seconds) {
  if (typeof seconds !== "number" || !Number.isFinite(seconds)) return NONE;
  const at = new Date(seconds * 1000);
  return Number.isNaN(at.getTime()) ? NONE : at.toISOString().slice(0, 19).replace("T", " ");
}

/** Seconds since 1970 as a cell of a table: like `moment`, with milliseconds where there are any; null for none. */
export function stamp(seconds) {
  const text = moment(seconds);
  if (text === NONE) return null;
  const thousandths = Math.round(seconds * 1000) % 1000;
  return thousandths ? `${text}.${pad(Math.abs(thousandths), 3)}` : text;
}

/** Seconds since 1970 as "08:27:43" UTC; "–" for none. */
export function clock(seconds) {
  const text = moment(seconds);
  return text === NONE ? NONE : text.slice(-8);
}

/** Labels of a time axis, UTC: the date stands under the first label of each day. splits: seconds, increment: seconds between them. */
export function timeLabels(splits, increment) {
  let day = "";
  return splits.map((seconds) => {
    const at = new Date(seconds * 1000);
    if (seconds === null || Number.isNaN(at.getTime())) return "";
    const date = `${at.getUTCFullYear()}-${pad(at.getUTCMonth() + 1)}-${pad(at.getUTCDate())}`;
    if (increment >= 86400) return date;
    let text = `${pad(at.getUTCHours())}:${pad(at.getUTCMinutes())}`;
    if (increment < 60) text += `:${pad(at.getUTCSeconds())}`;
    if (increment < 1) text += `.${pad(at.getUTCMilliseconds(), 3)}`;
    const first = date !== day;
    day = date;
    return first ? `${text}\n${date}` : text;
  });
}

/** A long name with its middle left out, at most `most` characters; characters outside the basic plane are kept whole. */
export function short(name, most = 32) {
  const letters = Array.from(String(name));
  if (letters.length <= most) return letters.join("");
  const head = Math.ceil((most - 1) / 2);
  return `${letters.slice(0, head).join("")}…${letters.slice(letters.length - (most - 1 - head)).join("")}`;
}

/** "1 stream", "2 streams". */
export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** Columns and rows as CSV (RFC 4180). Text that a spreadsheet would run as a formula is kept text by an apostrophe. */
export function csv(columns, rows) {
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
    let text = String(value);
    if (/^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

/** A name of a file made of parts: everything but letters, digits, dot and dash becomes one "_". */
export function fileName(parts, ending) {
  const safe = parts.filter(Boolean).map((part) => String(part).replace(/[^A-Za-z0-9.-]+/g, "_").slice(0, 40));
  return `${safe.join("-") || "freshet"}.${ending}`;
}
