// One notification at a time. An error stays until it is closed or a later request succeeds, other messages disappear
// after a while.

const MESSAGE_MS = 9000;
const MIN_ERROR_MS = 3000; // an error is shown at least this long

export class Notifications {
  constructor(container) {
    this.container = container;
  }

  // `lastId` is the id of the newest request.
  show(text, isError, lastId) {
    const element = document.createElement("p");
    const close = document.createElement("button");
    Object.assign(close, { type: "button", textContent: "Close", onclick: () => element.remove() });
    element.append(text, close);
    element.classList.toggle("error", isError);
    this.container.replaceChildren(element);

    this.error = isError ? { element, lastId, time: Date.now() } : null;
    if (!isError) setTimeout(() => element.remove(), MESSAGE_MS);
  }

  // Request `id` has succeeded: remove an error that was shown before it was sent.
  handleSuccess(id) {
    if (!this.error || id <= this.error.lastId) return;
    const { element, time } = this.error;
    this.error = null;
    setTimeout(() => element.remove(), Math.max(time + MIN_ERROR_MS - Date.now(), 0));
  }
}
