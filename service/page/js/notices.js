// What the page says of itself: the connection, a banner, messages, and the form that asks for a token.

import { el, setText } from "./dom.js";
import { clock } from "./format.js";

const byId = (id) => document.getElementById(id);

/** Say how the connection is: state is "starting", "connected", "paused", "lost" or "refused". A text that did not change is not announced again. */
export function connection(state, text) {
  byId("connection").dataset.state = state;
  setText(byId("connection"), text);
}

/** A line over the whole page for as long as something lasts; "" takes it away. bad: it is a failure. */
export function banner(text, { bad = false } = {}) {
  byId("banner").hidden = !text;
  byId("banner").classList.toggle("bad", bad);
  setText(byId("banner"), text);
}

/** A message until it is closed or another one comes, with the time of it; "" takes it away. */
export function message(text, { bad = false } = {}) {
  const place = byId("message");
  place.classList.toggle("bad", bad);
  if (!text) return place.replaceChildren();
  place.replaceChildren(
    el("span", {}, `${clock(Date.now() / 1000)}  ${text}`),
    el("button", { type: "button", class: "small", "aria-label": "Close the message", onclick: () => message("") }, "Close"));
}

/** A line under the choices: which part of a model in slices is shown; "" for none. */
export function part(text) {
  byId("part").hidden = !text;
  setText(byId("part"), text);
}

/** Say discreetly how many messages this page was too slow for. */
export function dropped(count) {
  byId("dropped").hidden = count === 0;
  setText(byId("dropped"), `${count} skipped`);
  byId("dropped").title = "Messages that the server dropped because this page was slower than they came. Nothing but detail is lost.";
}

/**
 * Ask for a token in `root`, instead of what it shows. refusal: why; again: the last one was not taken. Resolves to the token. The field is
 * emptied at once: the token is nowhere in the document and in no store of the browser.
 */
export function askToken(root, { refusal, again }) {
  return new Promise((resolve) => {
    const input = el("input", { id: "token", type: "password", autocomplete: "off", spellcheck: "false", required: true, "data-testid": "token-input", "aria-describedby": "token-help" });
    const take = (event) => {
      event.preventDefault();
      const token = input.value;
      input.value = "";
      if (token.trim()) resolve(token);
    };
    const form = el("form", { class: "card", "data-testid": "token-form", onsubmit: take },
      el("h2", {}, "This server asks for a token"),
      again ? el("p", { class: "problem", role: "alert" }, "That token was not accepted: it is unknown, has expired or was revoked.") : null,
      el("p", { id: "token-help", class: "muted" }, "It is kept in this page's memory only, until the page is closed or loaded again, and is sent to this server alone. You see what the token may see."),
      el("div", { class: "field" }, el("label", { for: "token" }, "Token"), input),
      el("div", { class: "actions" }, el("button", { type: "submit", class: "primary" }, "Show the page")));
    form.title = refusal.reason;
    root.replaceChildren(form);
    root.removeAttribute("aria-busy");
    input.focus();
  });
}

/** An empty state of a whole view: a heading and what to do. */
export function blank(title, text, ...more) {
  return el("div", { class: "card" }, el("h2", {}, title), el("p", { class: "muted" }, text), ...more);
}
