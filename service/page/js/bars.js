// Horizontal bars on a canvas: a name, a bar, a value, and a mark to compare the value with.

import { short } from "./format.js";
import { colours, onTheme } from "./theme.js";

const ROW = 28; // px
const MOST = 64; // rows
const FONT = "12px system-ui, sans-serif";

/**
 * Bars in `host`: {set(rows), canvas, destroy()}. rows: [{label, value (number or null), mark (a line across the bar, or null), colour (token),
 * text (beside the bar)}]. label: accessible name. most(rows) → the value at the right end. The table of the panel has what is drawn.
 */
export function bars(host, { label, most }) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  host.append(canvas);
  let rows = [];
  const resized = new ResizeObserver(draw);
  resized.observe(host);
  const untheme = onTheme(draw);

  function draw() {
    const width = host.clientWidth;
    if (!width) return;
    const scale = window.devicePixelRatio || 1;
    const height = Math.max(1, rows.length) * ROW;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const c = colours();
    pen.font = FONT;
    const values = Math.max(0, ...rows.map(({ text }) => pen.measureText(text).width));
    const names = Math.min(280, Math.round(width * 0.36));
    const room = Math.max(24, width - names - values - 16);
    const end = most(rows) || 1;
    const place = (value) => names + 8 + room * Math.max(0, Math.min(1, value / end));
    pen.textBaseline = "middle";
    rows.forEach((row, at) => bar(pen, row, { c, y: at * ROW, names, end, place, width }));
  }

  return {
    set(next) {
      rows = next.slice(0, MOST);
      draw();
    },
    get canvas() { return canvas; },
    destroy() {
      resized.disconnect();
      untheme();
    },
  };
}

function bar(pen, { label, value, mark = null, colour, text }, { c, y, names, end, place, width }) {
  const middle = y + ROW / 2;
  pen.font = FONT;
  pen.fillStyle = c.text;
  pen.textAlign = "left";
  pen.fillText(fitted(pen, label, names), 0, middle);
  pen.fillStyle = c.grid;
  pen.fillRect(place(0), y + 6, place(end) - place(0), ROW - 12);
  if (value !== null) {
    pen.fillStyle = c[colour];
    pen.fillRect(place(0), y + 6, Math.max(1, place(value) - place(0)), ROW - 12);
  }
  if (mark !== null) {
    pen.fillStyle = c.text;
    pen.fillRect(Math.round(place(mark)) - 1, y + 2, 2, ROW - 4);
  }
  pen.fillStyle = c.muted;
  pen.textAlign = "right";
  pen.fillText(text, width, middle);
}

function fitted(pen, text, width) {
  for (let most = 40; most > 3; most -= 1) {
    const shorter = short(text, most);
    if (pen.measureText(shorter).width <= width) return shorter;
  }
  return "…";
}
