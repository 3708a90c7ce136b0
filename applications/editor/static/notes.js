// One line to the person at the page, until it is closed; good news go by themselves.

const SHOWN_MS = 9000;

export function note(box, text, bad = false) {
  const [element, close] = [document.createElement("p"), document.createElement("button")];
  element.append(text, close);
  element.classList.toggle("bad", bad);
  Object.assign(close, { type: "button", textContent: "Close", onclick: () => element.remove() });
  box.replaceChildren(element);
  if (!bad) setTimeout(() => element.remove(), SHOWN_MS);
}
