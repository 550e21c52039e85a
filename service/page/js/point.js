// One point of a forecast: who answered, how stale it was, and what became of its label.

import { path } from "./api.js";
import { el } from "./dom.js";
import { NONE, moment, number, plural } from "./format.js";
import { panel } from "./panel.js";

/** The panel of a point; it is hidden until `open({stream, target, shown (tick that was clicked), made (tick whose answer it is)})`. onclose(): it was closed. */
export function pointPanel(ctx, { onclose }) {
  const { api, route, store } = ctx;
  let shown = { columns: [], rows: [] };
  let asked = 0;
  let opener = null; // what had the focus when it was opened
  const one = panel({
    name: "point", title: "One point", wide: true, table: () => shown, newest: false, file: () => [route.get().model],
    help: "Which version made this forecast, how much it had not learned yet, and into which version the outcome went.",
  });
  const close = el("button", { type: "button", class: "small", "data-testid": "point-close", onclick: shut }, "Close");
  one.tools.append(close);
  one.element.hidden = true;
  one.element.addEventListener("keydown", (event) => event.key === "Escape" && shut());

  function shut() {
    asked += 1;
    if (one.element.contains(document.activeElement)) opener?.focus(); // else the keyboard would begin at the top again
    one.element.hidden = true;
    onclose();
  }

  async function open({ stream, target, shown: tick, made }) {
    const request = (asked += 1);
    if (!one.element.contains(document.activeElement)) opener = document.activeElement;
    one.element.hidden = false;
    one.say(`Tick ${number(tick, 12)} of ${stream}.`);
    one.empty("Asking the server…");
    one.element.scrollIntoView({ block: "nearest" });
    try {
      if (made < 0) throw new Error("No forecast was made for this tick: the stream is too young.");
      const point = await api.get(path`/models/${route.get().model}/streams/${stream}/ticks/${made}`);
      if (request !== asked) return;
      one.empty("");
      fill(point, { stream, target, tick });
    } catch (error) {
      if (request !== asked) return;
      shown = { columns: [], rows: [] };
      one.empty(error.status === 404 ? "The server does not keep this answer any more: only the last ones of each stream are in memory." : error.message);
    }
    one.refresh();
  }

  function fill(point, { stream, target, tick }) {
    const targets = store.model?.targets ?? [];
    const index = Math.max(0, targets.indexOf(target));
    const step = tick - point.seq;
    const names = targets.length ? targets : [target || "value"];
    shown = {
      columns: ["step", ...names.flatMap((name) => [`answer ${name}`, `truth ${name}`])],
      rows: point.y.map((values, at) => [at + 1, ...names.flatMap((_, of) => [values[of] ?? null, point.truth[at]?.[of] ?? null])]),
    };
    const at = Math.max(0, step - 1); // 0 steps ahead: an answer that is no forecast
    const [y, truth] = [point.y[at]?.[index] ?? null, point.truth[at]?.[index] ?? null];
    const facts = [
      ["Answered by", point.version === null ? NONE : `version ${point.version}`],
      ["When", `tick ${number(point.seq, 12)}${point.time === null ? "" : `, ${moment(point.time)} UTC`}`],
      ["Staleness", point.staleness === null ? NONE : point.staleness === 0 ? "none: every label received was judged" : `${plural(point.staleness, "label")} received and not judged yet`],
      ["Its label", learned(point)],
      [step ? `Forecast of ${names[index]}` : names[index], step ? `${number(y, 6)}, ${plural(step, "step")} ahead` : number(y, 6)],
      ...(step ? [["Truth", truth === null ? "not known yet" : `${number(truth, 6)} (error ${number(y === null ? null : y - truth, 3)})`]] : []),
    ];
    one.say(`Tick ${number(tick, 12)} of ${stream}: ${point.version === null ? "" : `version ${point.version} answered. `}Its label ${learned(point)}.`);
    one.body.replaceChildren(el("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", { class: "number" }, value)])));
  }

  return { element: one.element, open, destroy() { asked += 1; } };
}

/** What became of an answer's label: the truths of all its steps. */
function learned({ learned_in: version, y, truth }) {
  if (version !== null && version !== undefined) return `went first into version ${version}`;
  const known = truth.filter((values) => values.some((value) => value !== null)).length;
  if (known < y.length) return known ? `is not whole yet: ${known} of its ${plural(y.length, "step")} have come` : "has not come yet";
  return "has come; no version that has learned it serves yet";
}
