// One notification at a time. Errors stay until they are closed, other messages disappear after a while.

const SHOWN_MS = 9000;

export function notify(container, text, isError = false) {
  const element = document.createElement("p");
  const close = document.createElement("button");
  Object.assign(close, { type: "button", textContent: "Close", onclick: () => element.remove() });
  element.append(text, close);
  element.classList.toggle("error", isError);
  container.replaceChildren(element);
  if (!isError) setTimeout(() => element.remove(), SHOWN_MS);
}
