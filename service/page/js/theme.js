// Light and dark: what the system prefers, unless the button says otherwise. Nothing is stored.

const NAMES = ["text", "muted", "line", "grid", "surface", "bg", "raised", "accent", "served", "interval", "ghost", "persistence", "least_squares", "bad", "good", "published", "drift"];
const ORDER = ["auto", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();
let choice = "auto";
let cached = null;

/** The colours of the theme that is shown, by token (`style.css`): `colours().served`. For canvases; elements use var(--…). */
export function colours() {
  if (!cached) {
    const style = getComputedStyle(document.documentElement);
    cached = Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
  }
  return cached;
}

/** Call `listener()` after each change of theme; returns a function that ends it. */
export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function changed() {
  cached = null;
  for (const listener of [...listeners]) listener();
}

/** Make `button` go round auto, light, dark. */
export function themeButton(button) {
  button.addEventListener("click", () => {
    choice = ORDER[(ORDER.indexOf(choice) + 1) % ORDER.length];
    if (choice === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = choice;
    button.textContent = `Theme: ${choice}`;
    changed();
  });
  system.addEventListener("change", changed);
}
