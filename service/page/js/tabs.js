// Views as tabs: one is shown, arrows move between them, as the ARIA practices describe tabs.

import { el } from "./dom.js";

/** Fill `list` (role=tablist) with views [{id, title}]; onselect(id). Returns {select(id)}, which shows it and calls nothing. */
export function tabs(list, views, onselect) {
  const buttons = views.map(({ id, title }) =>
    el("button", { type: "button", role: "tab", id: `tab-${id}`, "data-testid": `tab-${id}`, "aria-selected": "false", "aria-controls": "view", tabindex: "-1", onclick: () => onselect(id) }, title));
  list.replaceChildren(...buttons);
  list.addEventListener("keydown", (event) => {
    const here = buttons.indexOf(document.activeElement);
    const to = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (here < 0 || to === undefined) return;
    event.preventDefault();
    const button = buttons[(to + buttons.length) % buttons.length];
    button.focus();
    button.click();
  });
  return {
    select(id) {
      for (const button of buttons) {
        const shown = button.id === `tab-${id}`;
        button.setAttribute("aria-selected", String(shown));
        button.tabIndex = shown ? 0 : -1;
        if (shown) list.scrollLeft = Math.max(0, button.offsetLeft - list.offsetLeft - 48);
      }
    },
  };
}
