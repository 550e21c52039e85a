// Events of a model as marks in lanes, on the time axis of the chart below them.

import { el } from "../dom.js";
import { moment } from "../format.js";
import { LANES, MARKS, marks, tell } from "../verdicts.js";

const LANE = 20, PAD = 4, FLAGS = 18; // pixels
const NAMES = ["published", "vetoed, rolled back", "drift, promoted, anchor", "paused, other"];

/**
 * Lanes in `host`, above a chart. over(): the chart's element that its lines are drawn in; colours(): of the theme, by token;
 * onpick(event): one was chosen by click or Enter; onread(text, aloud): what is under the pointer, or
 * under the keyboard, which is to be announced.
 *
 * Returns {canvas, draw({events, from, to, chosen, flags: [{time, text}]}), destroy()}; events are the oldest first, from and to are seconds.
 */
export function lanes(host, { over, colours, onpick, onread }) {
  const canvas = el("canvas", { class: "lanes", role: "application", tabindex: "0", "aria-roledescription": "timeline", "aria-label": "Events of the model. Left and right move from one to the next, Enter opens its verdict." });
  host.append(canvas);
  const state = { drawn: null, made: [], at: -1 };
  const paint = () => state.drawn && (state.made = render(canvas, state.drawn, over(), state.at, colours()));
  const go = (n, aloud = false) => {
    state.at = Math.max(-1, Math.min(state.made.length - 1, n));
    paint();
    onread(state.at < 0 ? "" : read(state.made[state.at]), aloud);
  };
  const open = () => state.at >= 0 && onpick(state.made[state.at].events.at(-1));
  canvas.addEventListener("pointermove", (event) => go(nearest(state.made, event.offsetX, event.offsetY)));
  canvas.addEventListener("pointerleave", () => document.activeElement !== canvas && go(-1));
  canvas.addEventListener("blur", () => go(-1));
  canvas.addEventListener("click", (event) => {
    go(nearest(state.made, event.offsetX, event.offsetY));
    open();
  });
  canvas.addEventListener("keydown", (event) => {
    const last = state.made.length - 1, here = state.at;
    const to = { ArrowLeft: here < 0 ? last : Math.max(0, here - 1), ArrowRight: here < 0 ? last : here + 1, Home: 0, End: last, Escape: -1, Enter: here }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    go(to, true);
    if (event.key === "Enter") open();
  });
  const watcher = new ResizeObserver(paint);
  watcher.observe(host);
  return {
    canvas,
    draw(drawn) {
      state.drawn = drawn;
      paint();
    },
    destroy: () => watcher.disconnect(),
  };
}

function read({ events, kind }) {
  const newest = events.at(-1), more = events.length > 1 ? `${events.length} times ${MARKS[kind].word}; the last at ` : "";
  return `${more}${moment(newest.time)} UTC: ${tell(newest)}`;
}

function nearest(made, x, y) {
  let best = -1, least = 14;
  made.forEach((mark, n) => {
    const away = Math.hypot(mark.left - x, mark.top - y);
    if (away < least) [best, least] = [n, away];
  });
  return best;
}

function render(canvas, { events, from, to, chosen, flags }, over, at, theme) {
  const host = canvas.parentElement, width = Math.max(120, host.clientWidth), height = FLAGS + LANES * LANE + 2 * PAD;
  const dense = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * dense)) Object.assign(canvas, { width: Math.round(width * dense), height: Math.round(height * dense) });
  Object.assign(canvas.style, { width: `${width}px`, height: `${height}px` });
  const pen = canvas.getContext("2d");
  pen.setTransform(dense, 0, 0, dense, 0, 0);
  pen.fillStyle = theme.surface;
  pen.fillRect(0, 0, width, height);
  const area = over?.getBoundingClientRect(), left = area ? area.left - host.getBoundingClientRect().left : 52, plot = area ? area.width : width - 60;
  pen.textBaseline = "middle";
  for (let lane = 0; lane < LANES; lane += 1) {
    const y = topOf(lane);
    pen.strokeStyle = theme.grid;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(left, y);
    pen.lineTo(left + plot, y);
    pen.stroke();
  }
  const made = marks(events, (time) => ((time - from) / (to - from)) * plot, plot).map((mark) => ({ ...mark, left: left + mark.x, top: topOf(mark.lane) }));
  made.forEach((mark, n) => sign(pen, mark, n === at, mark.events.includes(chosen), theme));
  pen.font = "11px system-ui, sans-serif";
  pen.textAlign = "left";
  NAMES.forEach((name, lane) => label(pen, name, left + 6, topOf(lane), made.filter((mark) => mark.lane === lane), theme));
  flag(pen, flags.map(({ time, text }) => ({ text, x: ((time - from) / (to - from)) * plot })), left, plot, height, theme);
  return made;
}

/** Versions that are marked for good: the name above the lanes, and a line through them where it was made. */
function flag(pen, flags, left, plot, height, theme) {
  let free = plot;
  for (const { text, x } of flags.filter((one) => one.x >= 0 && one.x <= plot).sort((a, b) => b.x - a.x)) {
    const wide = pen.measureText(text).width, start = Math.min(x - wide / 2, free - wide);
    free = start - 10;
    pen.strokeStyle = theme.muted;
    pen.beginPath();
    pen.moveTo(left + x, FLAGS);
    pen.lineTo(left + x, height);
    pen.stroke();
    pen.fillStyle = theme.text;
    pen.fillText(text, left + start, FLAGS / 2);
  }
}

const topOf = (lane) => FLAGS + PAD + LANE * (LANES - 1 - lane) + LANE / 2;

function sign(pen, { kind, left, top, events }, under, chosen, theme) {
  const { sign: text, colour } = MARKS[kind];
  if (under || chosen) {
    pen.strokeStyle = under ? theme.accent : theme.text;
    pen.lineWidth = 2;
    pen.beginPath();
    pen.arc(left, top, 9, 0, 2 * Math.PI);
    pen.stroke();
  }
  pen.fillStyle = theme[colour];
  pen.textAlign = "center";
  pen.font = "13px system-ui, sans-serif";
  pen.fillText(text, left, top);
  if (events.length < 2 || kind === "published") return; // publishes are many and even: how many is in the readout
  pen.font = "9px system-ui, sans-serif";
  pen.fillText(String(events.length), left + 8 + 2 * String(events.length).length, top - 5);
}

/** The name of a lane, at its left, where no mark stands. */
function label(pen, name, x, y, made, theme) {
  if (made.some((mark) => mark.left < x + pen.measureText(name).width + 12)) return;
  pen.fillStyle = theme.muted;
  pen.fillText(name, x, y);
}
