// A panel: one picture with what it means, a sentence about now, its table and its exports.

import { el, setText, table as tableOf } from "./dom.js";
import { NONE, count, csv, fileName, number } from "./format.js";
import { colours } from "./theme.js";

const EVERY = 1000; // ms between two fillings of an open table; one that is being read (has the focus) stays as it is
const MOST_ROWS = 200; // of the table behind a chart; the CSV has all

/**
 * A panel to append to a view:
 *
 *   panel({name, title, help, doc, wide, legend, table, canvases, file})
 *
 * name: of the test ids (panel-NAME, table-NAME, csv-NAME, png-NAME). title. help: one sentence, what the picture means.
 * doc: how to read it, longer, behind "How to read this" (optional). wide: over both columns.
 * legend: [{label, colour (token), kind: "line"|"dashed"|"dotted"|"area"|"mark", sign (of a mark)}].
 * table: () => ({columns: [text…], rows: [[value…]…]}), exactly what is drawn; values are numbers, text or null.
 * newest: false where the table keeps its first rows instead of its last. canvases: () => [canvas | {title, canvas}], none: no PNG.
 * file: () => [parts of a file's name]. link(column, value) → an address for a cell of the table, or null.
 *
 * Returns {element, body (draw here), tools (controls at the right of the title), say(text) (the sentence about now),
 * empty(text, node?) (what is shown instead of the drawing; "" shows the drawing), setLegend(legend), refresh() (after each drawing)}.
 */
export function panel({ name, title, help, doc, wide = false, legend = [], table, newest = true, canvases, file = () => [], link = () => null }) {
  const heading = el("h2", { id: `title-${name}` }, title);
  const sentence = el("p", { class: "say" });
  const tools = el("div", { class: "tools" });
  const keys = el("ul", { class: "legend" });
  const body = el("div", { class: "body" });
  const nothing = el("div", { class: "empty", hidden: true });
  const behind = table ? el("details", { ontoggle: fill }, el("summary", {}, "Table")) : null;
  const exports = el("div", { class: "tools" });
  const right = el("div", { class: "tools" }, tools, exports);
  const caption = el("figcaption", {}, el("div", { class: "head" }, heading, right), el("p", { class: "help" }, help), sentence);
  const element = el("figure", { class: wide ? "panel wide" : "panel", "data-testid": `panel-${name}`, "aria-label": title }, caption, keys, nothing, body);
  if (doc) element.append(el("details", { class: "reading" }, el("summary", {}, "How to read this"), el("p", {}, doc)));
  let shownLegend = legend;
  let filled = 0; // when the table was

  if (table) {
    exports.append(el("button", { type: "button", class: "small", "data-testid": `csv-${name}`, "aria-label": `Save ${title} as CSV`, onclick: saveTable }, "CSV"));
    element.append(behind);
  }
  if (canvases) exports.append(el("button", { type: "button", class: "small", "data-testid": `png-${name}`, "aria-label": `Save ${title} as PNG`, onclick: savePicture }, "PNG"));
  setLegend(legend);

  function setLegend(items) {
    shownLegend = items;
    keys.hidden = items.length === 0;
    keys.replaceChildren(...items.map(({ label, colour, kind = "line", sign = "" }) => {
      const swatch = el("span", { class: `swatch ${kind}`, "aria-hidden": "true" }, kind === "mark" ? sign : "");
      swatch.style.setProperty("--swatch", `var(--${colour})`);
      return el("li", {}, swatch, label);
    }));
  }

  function fill() {
    if (!behind.open) return;
    filled = performance.now();
    const { columns, rows } = table();
    const some = newest ? rows.slice(-MOST_ROWS) : rows.slice(0, MOST_ROWS);
    const old = behind.querySelector(".scroll");
    const place = old ? old.scrollTop : 0;
    const made = tableOf({ columns, rows: some, label: `${title}, as a table`, testid: `table-${name}`, show: (value, at) => linked(link(columns[at], value), cell(value)) });
    const note = rows.length > some.length ? `The ${newest ? "last" : "first"} ${some.length} of ${rows.length} rows; the CSV has all.` : rows.length ? "" : "Nothing to show yet.";
    behind.replaceChildren(behind.firstElementChild, made, el("p", { class: "note" }, note));
    made.scrollTop = place;
  }

  function saveTable() {
    const { columns, rows } = table();
    save(new Blob([csv(columns, rows)], { type: "text/csv;charset=utf-8" }), fileName([...file(), name], "csv"));
  }

  function savePicture() {
    const drawn = compose({ title, sentence: sentence.textContent, legend: shownLegend, pictures: canvases() });
    drawn.toBlob((blob) => blob && save(blob, fileName([...file(), name], "png")));
  }

  return {
    element, body, tools, setLegend,
    say(text) {
      setText(sentence, text);
      const label = text ? `${title}. ${text}` : title;
      if (element.getAttribute("aria-label") !== label) element.setAttribute("aria-label", label);
    },
    empty(text, node = null) {
      nothing.hidden = !text;
      body.hidden = Boolean(text);
      keys.hidden = Boolean(text) || shownLegend.length === 0;
      if (text && nothing.firstChild?.textContent !== text) nothing.replaceChildren(el("p", {}, text), ...(node ? [node] : []));
    },
    refresh() {
      if (behind?.open && performance.now() - filled > EVERY && !behind.contains(document.activeElement?.closest(".scroll"))) fill();
    },
  };
}

function cell(value) {
  if (value === null || value === undefined) return NONE;
  if (typeof value !== "number") return String(value);
  return Number.isInteger(value) ? count(value) : number(value, 6);
}

function linked(address, text) {
  return address ? el("a", { href: address }, text) : text;
}

function save(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = el("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** One picture of a panel: title, sentence, legend, then its canvases one under the other, on the colours of the theme. */
function compose({ title, sentence, legend, pictures }) {
  const shown = pictures.map((picture) => (picture instanceof HTMLCanvasElement ? { title: "", canvas: picture } : picture)).filter(({ canvas }) => canvas && canvas.width > 0);
  const scale = Math.max(1, window.devicePixelRatio || 1);
  const width = Math.max(640 * scale, ...shown.map(({ canvas }) => canvas.width)) + 32 * scale;
  const out = el("canvas", { width });
  const pen = out.getContext("2d");
  const font = (size, weight = 400) => `${weight} ${size * scale}px system-ui, sans-serif`;
  pen.font = font(13);
  const lines = wrap(pen, sentence, width - 32 * scale);
  const heights = shown.map(({ title: name, canvas }) => canvas.height + (name ? 28 : 8) * scale);
  out.height = (72 + 18 * lines.length + (legend.length ? 24 : 0)) * scale + heights.reduce((sum, height) => sum + height, 0);
  const c = colours();
  const say = (text, x, y, { size = 13, weight = 400, colour = c.text } = {}) => {
    pen.font = font(size, weight);
    pen.fillStyle = colour;
    pen.fillText(text, x, y);
    return pen.measureText(text).width;
  };
  pen.fillStyle = c.surface;
  pen.fillRect(0, 0, out.width, out.height);
  const left = 16 * scale;
  let y = 30 * scale;
  say(title, left, y, { size: 16, weight: 600 });
  for (const line of lines) say(line, left, (y += 18 * scale));
  if (legend.length) {
    let x = left;
    y += 24 * scale;
    for (const { label, colour, kind = "line", sign = "—" } of legend) {
      x += say(kind === "mark" ? sign : { dashed: "╌╌", dotted: "┈┈", area: "■" }[kind] ?? "──", x, y, { colour: c[colour], weight: 700 }) + 6 * scale;
      x += say(label, x, y, { size: 12 }) + 18 * scale;
    }
  }
  y += 12 * scale;
  shown.forEach(({ title: name, canvas }, at) => {
    if (name) say(name, left, y + 18 * scale, { weight: 600 });
    pen.drawImage(canvas, left, y + heights[at] - canvas.height);
    y += heights[at];
  });
  say(`freshet, ${new Date().toISOString().slice(0, 19)}Z`, left, out.height - 10 * scale, { size: 11, colour: c.muted });
  return out;
}

function wrap(pen, text, width) {
  const lines = [];
  let line = "";
  for (const word of text.split(" ").filter(Boolean)) {
    const longer = line ? `${line} ${word}` : word;
    if (line && pen.measureText(longer).width > width) {
      lines.push(line);
      line = word;
    } else line = longer;
  }
  return line ? [...lines, line] : lines;
}
