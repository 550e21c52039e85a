// A question before an act that cannot be taken back by a click.

import { el } from "./dom.js";

/** Ask once, in a dialog; resolves to true only for the button `yes` (Escape and the other button are no). The focus returns to where it was. */
export function confirm(text, { title = "Are you sure?", yes = "Yes", no = "Cancel", danger = false } = {}) {
  return new Promise((resolve) => {
    let answer = false;
    const dialog = el("dialog", { "aria-labelledby": "dialog-title", "aria-describedby": "dialog-text" },
      el("h2", { id: "dialog-title" }, title),
      el("p", { id: "dialog-text" }, text),
      el("div", { class: "actions" },
        el("button", { type: "button", "data-testid": "confirm-no", autofocus: true, onclick: () => dialog.close() }, no),
        el("button", { type: "button", class: danger ? "danger" : "primary", "data-testid": "confirm-yes", onclick: () => { answer = true; dialog.close(); } }, yes)));
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
