// Choosing streams of a model that may have ten thousand: the server searches and pages, the page never has them all.

import { el, setText } from "./dom.js";
import { plural, short } from "./format.js";
import { MOST_STREAMS } from "./route.js";

const PAGE = 50;
const SEARCHES = 20; // pages in a row without a match, before one has to ask for more
const TYPING = 250; // ms of rest before the server is asked

/**
 * A picker of streams. fetchPage({match, after, limit}) → {streams: [{id}], next}; onchange(ids). Returns {field, show(ids): what is
 * chosen, close()}.
 */
export function streamPicker({ fetchPage, onchange }) {
  let chosen = [];
  let next = "";
  let asked = 0; // requests made: a late answer to an earlier one is dropped
  let timer = 0;
  const button = el("button", { type: "button", id: "streams", "aria-expanded": "false", "aria-controls": "streams-pop", "aria-haspopup": "dialog", onclick: () => (pop.hidden ? open() : close()) }, "Streams");
  const search = el("input", { type: "search", placeholder: "Find streams", "aria-label": "Find streams by a part of their name", autocomplete: "off", oninput: typed });
  const list = el("ul", { "aria-label": "Streams" });
  const note = el("p", { class: "note", role: "status" });
  const more = el("button", { type: "button", class: "small", hidden: true, onclick: () => load(next) }, "More");
  const pop = el("div", { class: "pop", id: "streams-pop", role: "dialog", "aria-label": "Choose streams", hidden: true }, search, list, note,
    el("div", { class: "pair" }, more, el("button", { type: "button", class: "small", onclick: close }, "Done")));
  const field = el("div", { class: "field" }, el("label", { for: "streams" }, "Streams"), el("div", { class: "picker", "data-testid": "stream-picker" }, button, pop));
  field.addEventListener("keydown", (event) => event.key === "Escape" && !pop.hidden && close());
  document.addEventListener("pointerdown", (event) => !pop.hidden && !field.contains(event.target) && close());

  function open() {
    pop.hidden = false;
    button.setAttribute("aria-expanded", "true");
    search.value = "";
    search.focus();
    load("");
  }

  function close() {
    if (pop.hidden) return;
    pop.hidden = true;
    asked += 1;
    button.setAttribute("aria-expanded", "false");
    button.focus();
  }

  function typed() {
    clearTimeout(timer);
    timer = setTimeout(() => load(""), TYPING);
  }

  async function load(after) {
    const request = (asked += 1);
    const match = search.value.trim();
    setText(note, "Looking…");
    try {
      let page = await fetchPage({ match, after, limit: PAGE });
      for (let more = 1; more < SEARCHES && !page.streams.length && page.next; more += 1) { // a page looks through a part of the streams
        if (request !== asked) return;
        page = await fetchPage({ match, after: page.next, limit: PAGE });
      }
      if (request !== asked) return;
      const ids = page.streams.map(({ id }) => id);
      if (!after) list.replaceChildren(...(match ? [] : chosen).map(row));
      list.append(...ids.filter((id) => after || match || !chosen.includes(id)).map(row));
      next = page.next;
      more.hidden = !next;
      tell(list.children.length ? "" : match ? `No stream has “${short(match)}” in its name.` : "This model has no streams yet.");
    } catch (error) {
      if (request === asked) setText(note, error.message);
    }
  }

  function row(id) {
    const box = el("input", { type: "checkbox", checked: chosen.includes(id), onchange: () => toggle(id, box.checked) });
    box.dataset.id = id;
    return el("li", {}, el("label", {}, box, el("span", { class: "name", dir: "auto" }, id)));
  }

  function toggle(id, wanted) {
    chosen = wanted ? [...chosen, id].slice(0, MOST_STREAMS) : chosen.filter((other) => other !== id);
    tell("");
    label();
    onchange(chosen);
  }

  function tell(text) {
    const full = chosen.length >= MOST_STREAMS;
    for (const box of list.querySelectorAll("input")) box.disabled = full && !box.checked;
    setText(note, text || (full ? `${MOST_STREAMS} at once is the most.` : next ? "There are more: find them by a part of their name." : plural(list.children.length, "stream")));
  }

  function label() {
    setText(button, chosen.length === 0 ? "None" : chosen.length === 1 ? short(chosen[0], 28) : `${short(chosen[0], 18)} and ${chosen.length - 1} more`);
  }

  label();
  return {
    field,
    close,
    show(ids) {
      chosen = [...ids];
      label();
      for (const box of list.querySelectorAll("input")) box.checked = chosen.includes(box.dataset.id);
    },
  };
}
