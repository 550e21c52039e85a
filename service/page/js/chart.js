// A line chart: uPlot with our colours, keyboard, zoom, marks of events and resizing. One chart draws one set of columns.

import { WHOLE, alone, joined, logLabels } from "./axes.js";
import { fingers, level, markOf, vertical } from "./decorations.js";
import { NONE, moment, number, timeLabels } from "./format.js";
import { colours, onTheme } from "./theme.js";

export { markOf };

const FONT = "12px system-ui, sans-serif";
const LEAST_DRAG = 8; // px; less is a click
const MILLISECONDS = 104; // px of a label with thousandths of a second, and room beside it
const LABEL = 30; // px between labels of y, at least
const TALL = 160, LABEL_LOW = 16; // the same in a chart that is not as tall, so that it has two
const AROUND = 56; // px above and below what is plotted

/**
 * A chart in `host`:
 *
 *   chart(host, {label, series, bands, height, log, time, xlabel, xspace, xpad, ylabel, yformat, yrange, sync, onzoom, onlive, onpick, oncursor})
 *
 * label: name for a screen reader. series: [{key, label, colour (token), width = 2, dash, points (true: circles), steps (true: stairs)}].
 * bands: [{low, high (keys), colour (token)}]. log: y on a log₁₀ scale. time: x are seconds since 1970 (shown in UTC), else plain numbers.
 * xspace: px between labels of x, at least. xpad: room at both ends of x, in its unit. yformat(value): text of a value. yrange(min, max) → [min, max]. sync: charts with the same key share a cursor.
 * onzoom(from, to): after a drag or the + and − keys. onlive(): double click or Escape. onpick(index): click or Enter. oncursor(index | null, keyboard: whether
 * it is to be announced).
 *
 * Returns {set(columns, {from, to, now, time, breaks}) (columns: {x: […], KEY: […]}, equally long, null for a gap, x ascending; breaks: places
 * that no line leads to from the one before; a value with a gap at both sides is a dot),
 * marks([{x, kind, label}]), lines([{y, label, colour, dash}]), pick(x | null) (a line at what is open), cursor(index | null),
 * columns() (what is drawn), range() ([from, to] of x), describe(index) (one line of text), canvas (getter), destroy()}.
 */
export function chart(host, options) {
  const o = { label: "", series: [], bands: [], height: 220, log: false, time: false, xlabel: "", ylabel: "", xspace: 72, xpad: 0, yformat: (value) => number(value), ...options };
  let columns = { x: [] };
  let view = { broken: new Set() };
  let time = o.time;
  let marks = [];
  let lines = [];
  let picked = null;
  let at = null; // index under the cursor
  let held = null; // its x, where the keyboard put it: it stays at that point while the window moves
  let plot = null;

  host.classList.add("chart");
  host.tabIndex = 0;
  host.setAttribute("role", "application");
  host.setAttribute("aria-roledescription", "chart");
  host.setAttribute("aria-label", `${o.label}. Left and right move along it${o.onpick ? ", Enter opens a point" : ""}${o.onzoom ? ", plus and minus zoom" : ""}.`);
  host.addEventListener("keydown", onKey);
  host.addEventListener("blur", () => cursor(null));

  function data() {
    const gap = () => new Array(columns.x.length).fill(null);
    return [columns.x, ...o.series.map(({ key }) => columns[key] ?? gap())];
  }

  function build() {
    plot?.destroy();
    plot = new window.uPlot(settings(), data(), host);
    plot.over.addEventListener("mousemove", () => { held = null; });
    if (o.onzoom) fingers(plot.over);
    plot.over.addEventListener("click", (event) => {
      const index = columns.x.length ? plot.posToIdx(event.offsetX) : null;
      if (index !== null) o.onpick?.(index);
    });
  }

  function settings() {
    const c = colours();
    const axis = { stroke: c.muted, font: FONT, grid: { stroke: c.grid, width: 1 }, ticks: { stroke: c.line, width: 1, size: 4 } };
    return {
      width: Math.max(120, host.clientWidth), height: o.height, legend: { show: false }, padding: [12, 38, 0, 0],
      tzDate: (seconds) => window.uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC"),
      cursor: {
        y: false, points: { size: 7 }, drag: { x: Boolean(o.onzoom), y: false, setScale: false },
        bind: { dblclick: () => () => { o.onlive?.(); return null; } },
        ...(o.sync ? { sync: { key: o.sync, scales: ["x", null] } } : {}),
      },
      scales: { x: { time, range: () => range() }, y: { distr: o.log ? 3 : 1, range: (_, low, high) => yRange(low, high) } },
      axes: [
        { ...axis, size: (_, labels) => ((labels ?? []).some((text) => text?.includes("\n")) ? 44 : 28), space: (u, _, min, max, width) => (time && ((max - min) * o.xspace) / width < 1 ? MILLISECONDS : o.xspace), gap: 4, ...(time ? { values: (_, splits, __, ___, increment) => timeLabels(splits, increment) } : { incrs: WHOLE, values: (_, splits) => splits.map((x) => number(x, 9)) }) },
        { ...axis, space: o.height < TALL ? LABEL_LOW : LABEL, ...(o.log ? { splits: (u, _, min, max) => logLabels(min, max, (o.height - AROUND) / LABEL), filter: (_, splits) => splits } : {}), size: (_, labels) => Math.max(52, 16 + 7 * Math.max(0, ...(labels ?? []).map((text) => (text ?? "").length))), gap: 4,
          values: (_, splits) => splits.map((y) => (y === null ? "" : o.yformat(y))), ...(o.ylabel ? { label: o.ylabel, labelFont: FONT, labelSize: 18, labelGap: 0 } : {}) },
      ],
      series: [{}, ...o.series.map((one) => line(one, c))],
      bands: o.bands.map(({ low, high, colour }) => ({ series: [indexOf(high), indexOf(low)], fill: c[colour] })),
      hooks: { setSelect: [select], setCursor: [moved], draw: [decorate] },
    };
  }

  function indexOf(key) {
    return 1 + o.series.findIndex((one) => one.key === key);
  }

  function line({ label, colour, width = 2, dash, points = false, steps = false }, c) {
    return {
      label, stroke: c[colour] || "transparent", width, dash, spanGaps: false,
      gaps: (u, _, first, last, gaps) => joined(gaps, [...view.broken].filter((at) => at > first && at <= last).map((at) => [at - 1, at].map((n) => u.valToPos(columns.x[n], "x", true)))),
      points: points ? { show: true, size: 6, fill: c.surface } : { show: false, size: 4, fill: c[colour], filter: (u, index) => (colour ? alone(u.data[index], view.broken) : null) },
      ...(steps ? { paths: window.uPlot.paths.stepped({ align: 1 }) } : {}),
    };
  }

  function range() {
    const { x } = columns;
    if (view.from !== undefined && view.from !== null && view.to > view.from) return [view.from, view.to];
    if (!x.length) return [0, 1];
    const [first, last] = [x[0] - o.xpad, x[x.length - 1] + o.xpad];
    return first < last ? [first, last] : [first - 1, last + 1];
  }

  function yRange(low, high) {
    for (const { y } of lines) if (low !== null && Number.isFinite(y) && (!o.log || y > 0)) [low, high] = [Math.min(low, y), Math.max(high, y)];
    if (low === null || low === undefined || !Number.isFinite(low)) return o.log ? [0.1, 10] : [0, 1];
    if (o.yrange) return o.yrange(low, high);
    if (o.log) return [low / 1.25, high * 1.25];
    const space = (high - low || Math.abs(high) || 1) * 0.08;
    return [low - space, high + space];
  }

  function select(u) {
    if (u.select.width < LEAST_DRAG) return;
    const [from, to] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    o.onzoom?.(from, to);
  }

  function moved(u) {
    const index = u.cursor.idx ?? null;
    if (index === at || held !== null) return;
    at = index;
    o.oncursor?.(index, false);
  }

  function decorate(u) {
    const { ctx, bbox } = u;
    const c = colours();
    const scale = window.uPlot.pxRatio;
    const rule = (x, colour, dash) => vertical(ctx, Math.round(u.valToPos(x, "x", true)), bbox, colour, dash.map((length) => length * scale), scale);
    ctx.save();
    ctx.font = `${11 * scale}px system-ui, sans-serif`;
    if (view.now !== undefined && view.now !== null) rule(view.now, c.muted, [2, 3]);
    if (picked !== null) rule(picked, c.accent, []);
    for (const { y, label = "", colour = "muted", dash = [4, 4] } of lines) level(u, y, label, c[colour], dash.map((length) => length * scale), scale);
    const [from, to] = range();
    for (const { x, kind } of marks) {
      if (x < from || x > to) continue;
      const { sign, colour } = markOf(kind);
      rule(x, c.line, [1, 2]);
      ctx.fillStyle = c[colour];
      ctx.textAlign = "center";
      ctx.textBaseline = "bottom";
      ctx.fillText(sign, u.valToPos(x, "x", true), bbox.top - 1 * scale);
    }
    ctx.restore();
  }

  function cursor(index, keyboard = false) {
    held = index === null ? null : columns.x[index] ?? null;
    place(held === null ? null : index);
    o.oncursor?.(at, keyboard);
  }

  function place(index) {
    at = index;
    plot?.setCursor(index === null ? { left: -10, top: -10 } : { left: plot.valToPos(columns.x[index], "x"), top: o.height / 3 }, false);
  }

  function onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !columns.x.length) return;
    const [from, to] = range();
    const inside = columns.x.flatMap((x, index) => (x >= from && x <= to ? [index] : []));
    if (!inside.length && event.key !== "Escape") return;
    const [first, last] = [inside[0], inside[inside.length - 1]];
    const newest = view.now === null || view.now === undefined ? last : columns.x.findLastIndex((x) => x <= view.now);
    const here = at ?? Math.max(first, Math.min(last, newest));
    const go = (index) => cursor(Math.max(first, Math.min(last, index)), true);
    const zoom = (factor) => {
      const middle = at === null ? to : columns.x[here];
      o.onzoom?.(middle - (middle - from) * factor, middle + (to - middle) * factor);
    };
    const step = event.shiftKey ? 10 : 1;
    const keys = {
      ArrowLeft: () => go(here - step), ArrowRight: () => go(here + step), Home: () => go(first), End: () => go(last),
      Enter: () => o.onpick?.(here), "+": () => zoom(0.5), "-": () => zoom(2), Escape: () => o.onlive?.(),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  }

  const resized = new ResizeObserver(() => {
    if (!host.clientWidth) return;
    if (!plot) build();
    else if (plot.width !== host.clientWidth) plot.setSize({ width: host.clientWidth, height: o.height });
  });
  resized.observe(host);
  const untheme = onTheme(() => plot && build());

  return {
    set(next, { from = null, to = null, now = null, time: timed = o.time, breaks = [] } = {}) {
      columns = next;
      view = { from, to, now, broken: new Set(breaks) };
      if (timed !== time) {
        time = timed;
        if (plot) build();
      } else plot?.setData(data());
      const moved = held === null ? -1 : columns.x.indexOf(held);
      if (moved >= 0 && plot) place(moved);
      else if (held === null && at !== null) o.oncursor?.(at, false); // other values lie under the pointer
      else if (held !== null) cursor(null);
    },
    marks(list) { marks = list; },
    lines(list) { lines = list; },
    pick(x) {
      picked = x;
      plot?.redraw(false);
    },
    cursor,
    columns: () => columns,
    range,
    describe(index) {
      if (index === null || index === undefined || columns.x[index] === undefined) return "";
      const x = columns.x[index];
      const values = o.series.filter(({ label, key }) => label && columns[key] && columns[key][index] !== null && columns[key][index] !== undefined);
      const where = time ? `${moment(x)} UTC` : `${o.xlabel} ${number(x, 9)}`.trim();
      return `${where}: ${values.map(({ label, key }) => `${label} ${o.yformat(columns[key][index])}`).join(", ") || NONE}`;
    },
    get canvas() { return plot?.ctx.canvas ?? null; },
    destroy() {
      resized.disconnect();
      untheme();
      plot?.destroy();
      plot = null;
    },
  };
}
