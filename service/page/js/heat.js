// A heat map on a canvas: rows × columns in colours, with axis, legend, marks, and a readout by pointer and keyboard.
// Everything of the picture is drawn on the one canvas, so that its PNG is complete. Owned by a view: mount, draw, destroy.

import { announced, el } from "./dom.js";
import { brief, short } from "./format.js";
import { colourOf, pool, wholes } from "./scale.js";

const TOP = 4, AXIS = 36, LEGEND = 32, TEXT = 18, LEFT_MOST = 150, GUTTER = 14; // pixels
const NARROW = 420; // below it the legend's text stands under its colours
const SHADES = 256;
const known = {}; // palettes as shades
const FONT = "12px system-ui, sans-serif", LINE = 13;

/**
 * Mount a heat map in `host`. name: what it shows, for screen readers; colours(): of the theme, by token.
 *
 * Returns {canvas, draw(picture), destroy()}. A picture is {rows, columns, scale, palette, x, legend, read}:
 *   rows: top to bottom, each {label, values, height (pixels), gap (pixels above), edge: a line above, faint, now: a dot beside it,
 *     marks: [columns with a dot], limit: column before which a bar stands}
 *   scale: {low, high, of(v) -> 0..1, ticks}; palette: of `colourOf`
 *   x: {label, tick(column) -> text}; legend: text beside the scale; read(row, column) -> the readout's text
 */
export function heat(host, { name, colours }) {
  const box = el("div", { class: "heat" });
  const canvas = el("canvas", { role: "application", tabindex: "0", "aria-roledescription": "heat map", "aria-label": name });
  const readout = el("p", { class: "readout", "aria-live": "off" });
  box.append(canvas, readout);
  host.append(box);
  const state = { picture: null, at: null, plan: null };

  const paint = () => state.picture && (state.plan = render(canvas, state.picture, state.at, colours()));
  const say = (aloud) => announced(readout, state.at ? state.picture.read(state.at.row, state.at.column) : hint(), aloud);
  const select = (at, aloud = false) => {
    if (same(at, state.at)) return;
    state.at = at;
    paint();
    say(aloud);
  };
  canvas.addEventListener("pointermove", (event) => state.plan && select(hit(state, event)));
  canvas.addEventListener("pointerdown", (event) => state.plan && select(hit(state, event)));
  canvas.addEventListener("pointerleave", () => document.activeElement !== canvas && select(null));
  canvas.addEventListener("blur", () => select(null));
  canvas.addEventListener("keydown", (event) => {
    const next = state.picture && step(event.key, state.at, state.picture);
    if (next === undefined) return;
    event.preventDefault();
    select(next, true);
  });
  const watcher = new ResizeObserver(paint);
  watcher.observe(box);

  return {
    canvas,
    draw(picture) {
      state.picture = picture;
      state.at = inside(state.at, picture);
      paint();
      say(false);
    },
    destroy() {
      watcher.disconnect();
      box.remove();
    },
  };
}

/** Where a key leads: {row, column}, null to leave, undefined if the key is none of ours. Pure. */
export function step(key, at, { rows, columns }) {
  if (key === "Escape") return null;
  const from = at || { row: 0, column: 0 };
  const moves = {
    ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Home: [0, -columns], End: [0, columns],
    PageUp: [-10, 0], PageDown: [10, 0],
  };
  const move = moves[key];
  if (!move || !rows.length || !columns) return undefined;
  if (!at) return from;
  const within = (v, n) => Math.min(n - 1, Math.max(0, v));
  return { row: within(at.row + move[0], rows.length), column: within(at.column + move[1], columns) };
}

/** The cells of a width: {left, width, cells} of the plot's area. Pure. */
export function layout(width, labels, columns) {
  const left = Math.min(LEFT_MOST, Math.floor(width / 3), Math.max(0, ...labels) + 8);
  const plot = Math.max(1, width - left - GUTTER);
  return { left, width: plot, cells: Math.max(1, Math.min(columns, Math.floor(plot))) };
}

/** The top of each row, and the bottom of the last. Pure. */
export function tops(rows) {
  const found = [];
  let y = TOP;
  for (const row of rows) {
    y += row.gap || 0;
    found.push(y);
    y += row.height;
  }
  return { tops: found, bottom: y };
}

function hint() {
  return "Point at a cell, or focus the picture and use the arrow keys.";
}

function render(canvas, picture, at, theme) {
  const pen = canvas.getContext("2d");
  const width = Math.max(120, Math.floor(canvas.parentElement.clientWidth));
  pen.font = FONT;
  const { tops: ys, bottom } = tops(picture.rows);
  const plan = { ...layout(width, picture.rows.map((row) => pen.measureText(row.label || "").width), picture.columns), ys, bottom };
  const height = bottom + AXIS + LEGEND + (width < NARROW ? TEXT : 0), dense = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
    canvas.width = Math.round(width * dense);
    canvas.height = Math.round(height * dense);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  pen.setTransform(dense, 0, 0, dense, 0, 0);
  pen.font = FONT;
  pen.textBaseline = "middle";
  pen.fillStyle = theme.surface;
  pen.fillRect(0, 0, width, height);
  cells(pen, picture, plan, theme);
  labels(pen, picture, plan, theme);
  axis(pen, picture, plan, theme);
  legend(pen, picture, plan, theme);
  if (at) cross(pen, picture, plan, at, theme);
  return plan;
}

function cells(pen, picture, plan, theme) {
  const shade = shades(picture.palette), holes = [];
  const image = new ImageData(plan.cells, picture.rows.length), pixels = new Uint32Array(image.data.buffer);
  picture.rows.forEach((row, r) => {
    pool(row.values, plan.cells).forEach((v, c) => {
      const share = picture.scale.of(v);
      if (Number.isNaN(share)) holes.push([r, c]);
      else pixels[r * plan.cells + c] = shade[Math.round(share * (SHADES - 1))];
    });
  });
  const small = new OffscreenCanvas(plan.cells, picture.rows.length);
  small.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  picture.rows.forEach((row, r) => pen.drawImage(small, 0, r, plan.cells, 1, plan.left, plan.ys[r], plan.width, row.height));
  if (holes.length) hatch(pen, picture, plan, holes, theme);
  picture.rows.forEach((row, r) => dots(pen, picture, plan, row, r, theme));
}

/** The shades of a palette as pixels of an ImageData; bytes are in the order red, green, blue, opacity. */
function shades(palette) {
  if (!known[palette]) {
    const colour = colourOf(palette), bytes = new Uint8Array(SHADES * 4);
    for (let n = 0; n < SHADES; n += 1) bytes.set([...colour(n / (SHADES - 1)), 255], n * 4);
    known[palette] = new Uint32Array(bytes.buffer);
  }
  return known[palette];
}

function hatch(pen, picture, plan, holes, theme) {
  const wide = plan.width / plan.cells;
  pen.save();
  pen.beginPath();
  for (const [r, c] of holes) pen.rect(plan.left + c * wide, plan.ys[r], wide, picture.rows[r].height);
  pen.clip();
  pen.strokeStyle = theme.muted;
  pen.lineWidth = 1;
  pen.beginPath();
  const tall = plan.bottom - TOP;
  for (let x = plan.left - tall; x < plan.left + plan.width; x += 6) {
    pen.moveTo(x, plan.bottom);
    pen.lineTo(x + tall, TOP);
  }
  pen.stroke();
  pen.restore();
}

/** Marked cells, and beside the row whether its newest is: a ring in cells that are large enough, else a point; dark with a light rim, to be seen on each colour. */
function dots(pen, picture, plan, row, r, theme) {
  const wide = plan.width / picture.columns;
  const size = Math.min(4, row.height / 2 - 0.5, Math.max(1, wide / 2 - 0.5));
  const y = plan.ys[r] + row.height / 2;
  for (const column of row.marks || []) {
    const x = plan.left + (column + 0.5) * wide;
    if (size < 1.5) {
      pen.fillStyle = theme.text;
      pen.fillRect(x - Math.max(0.5, wide / 2), y - row.height / 4, Math.max(1, wide), Math.max(1, row.height / 2));
    } else dot(pen, x, y, size, "#111", "#fff");
  }
  if (row.now) dot(pen, plan.left + plan.width + 7, y, Math.min(4, Math.max(1, row.height / 2)), theme.text, theme.surface);
  if (Number.isFinite(row.limit)) {
    const x = plan.left + row.limit * wide;
    for (const [colour, thick] of [["#111", 4], ["#fff", 2]]) line(pen, x, plan.ys[r], x, plan.ys[r] + row.height, colour, thick);
  }
}

function dot(pen, x, y, size, colour, rim) {
  pen.beginPath();
  pen.arc(x, y, size, 0, 2 * Math.PI);
  pen.fillStyle = colour;
  pen.fill();
  pen.strokeStyle = rim;
  pen.lineWidth = Math.min(1.5, size / 2);
  pen.stroke();
}

function labels(pen, picture, plan, theme) {
  let free = -Infinity;
  picture.rows.forEach((row, r) => {
    if (row.edge) line(pen, plan.left, plan.ys[r] - 2, plan.left + plan.width, plan.ys[r] - 2, theme.line, 1);
    const y = plan.ys[r] + row.height / 2;
    if (!row.label || y < free) return;
    free = y + LINE;
    pen.fillStyle = row.faint ? theme.muted : theme.text;
    pen.textAlign = "right";
    pen.fillText(shorten(pen, row.label, plan.left - 8), plan.left - 6, y);
  });
}

function axis(pen, picture, plan, theme) {
  const y = plan.bottom, wide = plan.width / picture.columns;
  pen.fillStyle = theme.text;
  pen.textAlign = "center";
  let free = -Infinity;
  for (const column of picture.x.ticks || wholes(picture.columns, plan.width / 60)) {
    const x = plan.left + (column + 0.5) * wide, text = picture.x.tick(column), half = pen.measureText(text).width / 2;
    const at = Math.min(plan.left + plan.width - half, Math.max(x, half));
    if (at - half < free) continue;
    free = at + half + 8;
    line(pen, x, y, x, y + 4, theme.muted, 1);
    pen.fillText(text, at, y + 12);
  }
  pen.fillStyle = theme.muted;
  pen.fillText(shorten(pen, picture.x.label, plan.width), plan.left + plan.width / 2, y + 27);
}

function legend(pen, picture, plan, theme) {
  const y = plan.bottom + AXIS + 2, colour = colourOf(picture.palette), { scale } = picture;
  const narrow = plan.left + plan.width + GUTTER < NARROW, left = plan.left;
  const wide = Math.min(260, plan.width * (narrow ? 1 : 0.5));
  for (let x = 0; x < wide; x += 1) {
    pen.fillStyle = `rgb(${colour(x / wide).join(",")})`;
    pen.fillRect(left + x, y, 1, 12);
  }
  pen.strokeStyle = theme.muted;
  pen.lineWidth = 1;
  pen.strokeRect(left - 0.5, y - 0.5, wide + 1, 13);
  pen.fillStyle = theme.text;
  pen.textAlign = "center";
  const taken = [];
  for (const tick of [scale.low, scale.high, ...scale.ticks]) { // the ends first: what has no room between them is left out
    const x = left + scale.of(tick) * wide, text = brief(tick), half = pen.measureText(text).width / 2;
    const at = Math.min(Math.max(x, left + half - 6), left + plan.width - half);
    if (taken.some(([from, to]) => at + half + 8 > from && at - half - 8 < to)) continue;
    taken.push([at - half, at + half]);
    line(pen, x, y + 12, x, y + 16, theme.muted, 1);
    pen.fillText(text, at, y + 24);
  }
  pen.textAlign = "left";
  if (narrow) pen.fillText(shorten(pen, picture.legend, plan.width), left, y + LEGEND + 8);
  else pen.fillText(shorten(pen, picture.legend, plan.width - wide - 16), left + wide + 14, y + 6);
}

function cross(pen, picture, plan, at, theme) {
  const wide = plan.width / picture.columns, row = picture.rows[at.row];
  const x = plan.left + at.column * wide, y = plan.ys[at.row];
  for (const [colour, thick, out] of [[theme.surface, 4, 2], [theme.accent, 2, 2]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = thick;
    pen.strokeRect(x - out, y - out, Math.max(2, wide) + 2 * out, row.height + 2 * out);
  }
}

function hit({ picture, plan }, event) {
  const place = event.currentTarget.getBoundingClientRect();
  const column = Math.floor(((event.clientX - place.left - plan.left) / plan.width) * picture.columns);
  const y = event.clientY - place.top;
  const row = plan.ys.findIndex((top, r) => y >= top - (picture.rows[r].gap || 0) / 2 && y < top + picture.rows[r].height + 1);
  return row >= 0 && column >= 0 && column < picture.columns ? { row, column } : null;
}

function inside(at, picture) {
  if (!at || !picture.rows.length || !picture.columns) return null;
  return { row: Math.min(at.row, picture.rows.length - 1), column: Math.min(at.column, picture.columns - 1) };
}

function same(a, b) {
  return a === b || (a && b && a.row === b.row && a.column === b.column);
}

function line(pen, x0, y0, x1, y1, colour, thick) {
  pen.strokeStyle = colour;
  pen.lineWidth = thick;
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

/** The text, or as much of its start and end as fits: names of layers differ at their ends. */
function shorten(pen, text, width) {
  let shown = text;
  for (let n = Array.from(text).length - 1; n > 2 && pen.measureText(shown).width > width; n -= 1) shown = short(text, n);
  return shown;
}
