// What these views share: their style sheet, a small picker, a line chart of samples, and texts that several show.

import { chart } from "../chart.js";
import { columnsOf, spanOf, tableOf } from "../columns.js";
import { announced, el } from "../dom.js";
import { moment } from "../format.js";
import { panel } from "../panel.js";

const SHEET = new URL("../../views.css", import.meta.url).href; // beside the modules, wherever they are served from

/** Load the style sheet of these views, once. */
export function sheet() {
  if (!document.querySelector(`link[href="${SHEET}"]`)) document.head.append(el("link", { rel: "stylesheet", href: SHEET }));
}

/** A picker for a panel's tools: {element, fill([[value, text]…], chosen)}; hidden while there is nothing to choose. */
export function picker(label, testid, onchange) {
  const select = el("select", { "data-testid": testid, onchange: () => onchange(select.value) });
  const element = el("label", {}, label, select);
  let shown = "";
  return {
    element,
    fill(options, chosen) {
      const key = JSON.stringify(options);
      if (key !== shown) select.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
      shown = key;
      select.value = String(chosen);
      element.hidden = options.length < 2;
    },
  };
}

/**
 * A panel with charts of samples over time, one under the other on one axis: {element, draw({samples, events, …}), destroy()}.
 *
 * charts: [{label, series, log, yformat, yrange, height, title, bands, fixed}]; fixed: columns with one value throughout.
 * What `panel` takes is passed on; nothing(): what stands instead of the drawing while no sample has any of the keys.
 */
export function samplesPanel({ charts, sync, nothing, ...rest }) {
  const keys = charts.flatMap(({ series, fixed = {} }) => series.map(({ key }) => key).filter((key) => !(key in fixed)));
  const names = charts.flatMap(({ series }) => series).filter(({ label }) => label).map(({ key, label }) => [key, label]);
  const drawn = [];
  let known = { x: [] };
  const made = panel({
    ...rest, legend: rest.legend ?? charts.flatMap(({ series }) => series).filter(({ label }) => label).map(({ label, colour, dash }) => ({ label, colour, kind: dash ? "dashed" : "line" })),
    table: () => tableOf(known, names, moment),
    canvases: () => drawn.filter(({ whole }) => !whole.hidden).map(({ chart: one, title }) => ({ title, canvas: one.canvas })),
  });
  const readout = el("p", { class: "readout", "aria-live": "off" });
  for (const one of charts) {
    const host = el("div", {}), whole = el("div", {}, one.title ? el("h3", {}, one.title) : null, host);
    made.body.append(whole);
    const held = { ...one, whole, at: null };
    drawn.push(held);
    held.chart = chart(host, { height: 180, ...one, time: true, sync, oncursor: (index, aloud) => {
      held.at = index;
      announced(readout, described(drawn), aloud);
    } });
  }
  made.body.append(readout);
  return {
    ...made,
    draw({ samples, events = [], lines = {} }) {
      const span = spanOf(samples); // one for all charts, so that what stands beside each other happened together
      known = columnsOf(samples, keys);
      made.empty(known.x.length ? "" : nothing());
      for (const { chart: one, series, fixed = {}, label, whole } of drawn) {
        const own = columnsOf(samples, series.map(({ key }) => key).filter((key) => !(key in fixed))); // only rows that it has, so that lines do not end
        whole.hidden = !own.x.length;
        if (Object.keys(fixed).length && own.x[0] > span.from) Object.entries(own).forEach(([key, values]) => values.unshift(key === "x" ? span.from : null)); // from end to end
        const still = Object.fromEntries(Object.entries(fixed).map(([key, value]) => [key, own.x.map(() => value)]));
        one.marks(events.map(({ time, kind }) => ({ x: time, kind })));
        one.lines(lines[label] ?? []);
        one.set({ ...own, ...still }, { ...span, time: true });
      }
      made.refresh();
    },
    destroy: () => drawn.forEach(({ chart: one }) => one.destroy()),
  };
}

/** What is under the cursors of charts on one axis: the time once, then the values of each. */
function described(drawn) {
  const texts = drawn.filter(({ at }) => at !== null).map(({ chart: one, at }) => one.describe(at)).filter(Boolean);
  return texts.map((text, n) => (n ? text.slice(text.indexOf(": ") + 2) : text)).join(", ");
}
