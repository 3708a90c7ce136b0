// The strip of results: to return to, and to go between two of them.

const KEPT = 40;

export class History {
  // chosen(result) is called when a result is to be shown again, ends(first, second) when A or B changes.
  constructor(strip, chosen, ends) {
    Object.assign(this, { strip, chosen, ends });
    this.results = [];
    this.now = null;
    this.first = this.second = null;
  }

  // result: {scene, style, ids, place, seed}; picture: the canvas that shows it.
  add(result, picture) {
    const known = this.results.find(({ scene }) => scene === result.scene);
    if (known) {
      this.mark(known);
      return;
    }
    const thumb = document.createElement("canvas");
    thumb.width = thumb.height = 144;
    thumb.getContext("2d").drawImage(picture, 0, 0, 144, 144);
    result.figure = this.figure(result, thumb);
    this.results.push(result);
    if (this.results.length === 1) this.strip.replaceChildren();
    this.strip.append(result.figure);
    if (this.results.length > KEPT) this.results.shift().figure.remove();
    this.mark(result);
  }

  figure(result, thumb) {
    const figure = document.createElement("figure");
    const show = button("", `Return to this result (seed ${result.seed})`, () => this.choose(result));
    show.append(thumb);
    const end = (name, label) => {
      const element = button(label, `${label}: one end of the way between two results`, () => this.setEnd(name, result));
      element.className = "end";
      element.dataset.end = name;
      element.setAttribute("aria-pressed", "false");
      return element;
    };
    figure.append(show, end("first", "A"), end("second", "B"));
    return figure;
  }

  choose(result) {
    this.mark(result);
    this.chosen(result);
  }

  mark(result) {
    this.now = result;
    for (const { figure } of this.results) figure.classList.toggle("now", figure === result?.figure);
    if (!result) return;
    const { offsetLeft: left, offsetWidth: width } = result.figure; // the strip alone scrolls, never the page
    this.strip.scrollLeft = Math.min(Math.max(this.strip.scrollLeft, left + width - this.strip.clientWidth), left);
  }

  step(by) {
    const next = this.results[this.results.indexOf(this.now) + by];
    if (next) this.choose(next);
  }

  setEnd(name, result) {
    this[name] = result;
    this.last = name;
    for (const { figure } of this.results) {
      for (const end of figure.querySelectorAll(".end")) {
        end.setAttribute("aria-pressed", String(this[end.dataset.end]?.figure === figure));
      }
    }
    this.ends(this.first, this.second);
  }

  // The shown result becomes A, the one after that B, and so on.
  nextEnd() {
    if (!this.now) return;
    this.setEnd(this.last === "first" ? "second" : "first", this.now);
  }
}

function button(text, title, press) {
  const element = document.createElement("button");
  Object.assign(element, { type: "button", textContent: text, title });
  element.addEventListener("click", press);
  return element;
}
