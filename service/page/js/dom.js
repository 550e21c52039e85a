// Elements. Text from users passes here only as a text node.

/**
 * An element: `el("p", {class: "help", "data-testid": "x", onclick: f}, "text", child…)`. Keys that begin with "on" are listeners,
 * true sets an empty attribute, null/undefined/false sets none; children that are not nodes become text.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

/** Set the text of an element only where it differs: an unchanged text is not announced or laid out again. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set a text that is read aloud only where the keyboard brought it about: what moves by itself or under a pointer is not. */
export function announced(element, text, aloud) {
  element.setAttribute("aria-live", aloud ? "polite" : "off");
  setText(element, text);
}

/** A labelled `<select>`: options are [value, text] pairs. Returns {field, select, fill(options, value)}. */
export function choice(label, { id, testid, onchange }) {
  const select = el("select", { id, "data-testid": testid, onchange: () => onchange(select.value) });
  const field = el("div", { class: "field" }, el("label", { for: id }, label), select);
  let shown = "";
  return {
    field,
    select,
    fill(options, value) {
      const key = JSON.stringify(options);
      if (key !== shown) {
        select.replaceChildren(...options.map(([key, text]) => el("option", { value: key }, text)));
        shown = key;
      }
      select.value = String(value);
      select.disabled = options.length < 2;
    },
  };
}

/** A table of columns and rows (≤ `most` rows, the newest or first as given); numbers stand right. show(value, column's index) → text or a node. */
export function table({ columns, rows, label, testid, show = (value) => String(value) }) {
  const numeric = columns.map((_, at) => rows.some((row) => typeof row[at] === "number"));
  const head = el("tr", {}, ...columns.map((name, at) => el("th", { scope: "col", class: numeric[at] ? "number" : null }, name)));
  const body = rows.map((row) =>
    el("tr", {}, ...row.map((value, at) => el("td", { class: numeric[at] ? "number" : "name" }, show(value, at)))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    el("table", { "data-testid": testid }, el("caption", { class: "sr" }, label), el("thead", {}, head), el("tbody", {}, ...body)));
}
