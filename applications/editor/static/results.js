// The strip of results: thumbnails to return to, two of which can be marked as A and B for blending.

const MAX_RESULTS = 40;
const THUMBNAIL_PIXELS = 144;

export class ResultStrip {
  // onSelect(result) is called when a result is selected, onEndpointsChange(first, second) when A or B changes.
  constructor(element, onSelect, onEndpointsChange) {
    Object.assign(this, { element, onSelect, onEndpointsChange });
    this.results = [];
    this.current = null;
    this.first = null; // the result marked as A
    this.second = null; // the result marked as B
    this.lastEndpoint = null; // "first" or "second", whichever was set last
  }

  // result: a snapshot of the editor state; canvas: its image.
  add(result, canvas) {
    const existing = this.results.find(({ scene }) => scene === result.scene);
    if (existing) {
      this.highlight(existing);
      return;
    }

    const thumbnail = document.createElement("canvas");
    thumbnail.width = thumbnail.height = THUMBNAIL_PIXELS;
    thumbnail.getContext("2d").drawImage(canvas, 0, 0, THUMBNAIL_PIXELS, THUMBNAIL_PIXELS);
    result.figure = this.createFigure(result, thumbnail);

    if (!this.results.length) this.element.replaceChildren(); // removes the placeholder text
    this.results.push(result);
    this.element.append(result.figure);
    if (this.results.length > MAX_RESULTS) this.results.shift().figure.remove();
    this.highlight(result);
  }

  createFigure(result, thumbnail) {
    const figure = document.createElement("figure");
    const show = createButton("", `Return to this result (${result.photo?.label ?? `seed ${result.seed}`})`, () => this.select(result));
    show.append(thumbnail);

    const createEndpoint = (name, label) => {
      const title = `Use this result as ${label} for blending`;
      const button = createButton(label, title, () => this.setEndpoint(name, result));
      button.className = "endpoint";
      button.dataset.endpoint = name;
      button.setAttribute("aria-pressed", "false");
      return button;
    };
    figure.append(show, createEndpoint("first", "A"), createEndpoint("second", "B"));
    return figure;
  }

  select(result) {
    this.highlight(result);
    this.onSelect(result);
  }

  highlight(result) {
    this.current = result;
    for (const { figure } of this.results) figure.classList.toggle("current", figure === result?.figure);
    if (!result) return;

    // Scroll the strip only: scrollIntoView would scroll the page too.
    const { offsetLeft: left, offsetWidth: width } = result.figure;
    this.element.scrollLeft = Math.min(Math.max(this.element.scrollLeft, left + width - this.element.clientWidth), left);
  }

  // Select the result `offset` places after the current one.
  selectNeighbor(offset) {
    const next = this.results[this.results.indexOf(this.current) + offset];
    if (next) this.select(next);
  }

  setEndpoint(name, result) {
    this[name] = result;
    this.lastEndpoint = name;
    for (const { figure } of this.results) {
      for (const button of figure.querySelectorAll(".endpoint")) {
        button.setAttribute("aria-pressed", String(this[button.dataset.endpoint]?.figure === figure));
      }
    }
    this.onEndpointsChange(this.first, this.second);
  }

  // Mark the current result as A; the next call marks B, then A again.
  markNextEndpoint() {
    if (!this.current) return;
    this.setEndpoint(this.lastEndpoint === "first" ? "second" : "first", this.current);
  }
}

function createButton(text, title, onClick) {
  const element = document.createElement("button");
  Object.assign(element, { type: "button", textContent: text, title });
  element.addEventListener("click", onClick);
  return element;
}
