// The review desk's keys. They only move the focus and press buttons that stand in the page: whatever a key does, a
// mouse, a finger or a screen reader can do without this file. After htmx put a new page in, what was open is open again.
"use strict";
(() => {
  let at = "";
  let open = null;

  const items = () => [...document.querySelectorAll("details.item")];
  const here = () => document.getElementById(at);

  function go(item) {
    here()?.classList.remove("at");
    at = item.id;
    item.classList.add("at");
    item.querySelector("summary").focus({ preventScroll: true });
    item.scrollIntoView({ block: "start", behavior: "instant" });
  }

  function step(by) {
    const all = items();
    if (!all.length) return;
    const now = all.indexOf(here());
    go(all[now < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, now + by))]);
  }

  // The button of what has the focus, else of the item where we are, of its PR, else the first of its kind.
  function press(name) {
    const place = document.activeElement?.closest("article.pull") ?? here()?.closest("article.pull");
    (document.querySelector(`.said [data-key=${name}]`) ?? (place ?? document).querySelector(`[data-key=${name}]`))?.click();
  }

  function write(verb) {
    const item = here();
    const field = item?.querySelector("input[name=text]") ?? null;
    if (!field) return;
    item.open = true;
    field.dataset.verb = verb;
    field.focus({ preventScroll: true });
    field.scrollIntoView({ block: "center", behavior: "instant" });
  }

  const keys = {
    j: () => step(1),
    k: () => step(-1),
    a: () => press("a"),
    u: () => press("u"),
    r: () => write("reject"),
    t: () => write("retry"),
    "?": () => document.getElementById("keys")?.showModal(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const field = event.target.closest?.("input, textarea, select");
    if (field) {
      if (event.key === "Escape") field.closest("details")?.querySelector("summary").focus();
      const verb = event.key === "Enter" && field.dataset.verb;
      if (verb) {
        event.preventDefault();
        field.form.querySelector(`button[value=${verb}]`).click();
      }
      return;
    }
    if (document.querySelector("dialog[open]") || !Object.hasOwn(keys, event.key)) return;
    event.preventDefault();
    keys[event.key]();
  });

  document.addEventListener("focusin", (event) => {
    const item = event.target.closest?.("details.item");
    if (item && item.id !== at) {
      here()?.classList.remove("at");
      at = item.id;
      item.classList.add("at");
    }
  });

  document.addEventListener("htmx:beforeSwap", () => {
    open = items().filter((item) => item.open).map((item) => item.id);
  });
  document.addEventListener("htmx:afterSettle", () => {
    if (open === null) return;
    for (const item of items()) item.open = open.includes(item.id);
    open = null;
    here()?.classList.add("at");
    document.querySelector(".said")?.focus({ preventScroll: true });
  });
  document.addEventListener("htmx:responseError", () => window.location.reload());
  document.addEventListener("htmx:sendError", () => {
    const said = document.getElementById("gone");
    if (said) said.hidden = false;
  });
})();
