// The canvas that is painted on: pointers of every kind to strokes of class ids.

import { brushCenter } from "./drawing.js";

const LEFT_BUTTON = 0; // also a finger, or the tip of a pen
const RIGHT_BUTTON = 2;
const PEN_ERASER = 5;

export class Board {
  // tools() gives {tool, size, id}, or null while nothing may be painted; ended(before) is called after a stroke with
  // the ids from before it, picked(id) when a class is taken from the drawing.
  constructor(canvas, cursor, tools, { ended, picked }) {
    Object.assign(this, { canvas, cursor, tools, ended, picked });
    this.stroke = null;
    this.waiting = []; // to do once no stroke is under way
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "lostpointercapture"]) canvas.addEventListener(name, (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.holds(event) && this.abort());
    canvas.addEventListener("pointerleave", () => (cursor.hidden = true));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  use(drawing, colors) {
    Object.assign(this, { drawing, colors });
    this.canvas.width = this.canvas.height = drawing.size;
    this.context = this.canvas.getContext("2d");
    this.draw();
  }

  // The drawing without the stroke that is being made.
  get ids() {
    return this.stroke?.before ?? this.drawing.ids;
  }

  // At most once a frame: pens report more often.
  draw() {
    this.due ??= requestAnimationFrame(() => {
      this.due = null;
      this.context.putImageData(labelPicture(this.drawing.ids, this.drawing.size, this.colors), 0, 0);
    });
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.drawing.size / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  holds(event) {
    return this.stroke?.pointer === event.pointerId;
  }

  down(event) {
    if (!this.drawing || !this.makesWay(event)) return;
    const [x, y] = this.point(event);
    const tools = this.tools();
    if (!tools || !this.drawing.inside(x, y)) return; // the border, or a rounding
    const { tool, size, id } = tools;
    if (event.button === RIGHT_BUTTON || event.altKey || (tool === "pick" && event.button === LEFT_BUTTON)) {
      this.picked(this.drawing.at(x, y));
      return;
    }
    if (event.button !== LEFT_BUTTON && event.button !== PEN_ERASER) return;
    this.canvas.setPointerCapture(event.pointerId);
    const erases = tool === "eraser" || event.button === PEN_ERASER;
    const { pointerId: pointer, pointerType: type } = event;
    this.stroke = {
      pointer, type, tool, size, id: erases ? 0 : id, before: this.drawing.ids.slice(), start: [x, y], last: [x, y],
    };
    if (tool === "fill") {
      this.drawing.fill(x, y, this.stroke.id);
      this.draw();
    } else {
      this.extend([event]);
    }
  }

  // One pointer paints at a time, but a pen takes the place of the hand that it is held with.
  makesWay(event) {
    if (this.stroke?.type === "touch" && event.pointerType === "pen") this.abort();
    return !this.stroke;
  }

  move(event) {
    if (!this.drawing) return;
    this.showCursor(event);
    if (!this.holds(event) || this.stroke.tool === "fill") return;
    const all = event.getCoalescedEvents?.() ?? []; // what a fast pen did since the last frame
    this.extend(all.length ? all : [event]);
  }

  extend(events) {
    const { tool, size, id, before, start } = this.stroke;
    for (const point of events.map((event) => this.point(event))) {
      if (tool === "line") {
        this.drawing.ids.set(before);
        this.drawing.stroke(...start, ...point, size, id);
      } else {
        this.drawing.stroke(...this.stroke.last, ...point, size, id);
      }
      this.stroke.last = point;
    }
    this.draw();
  }

  up(event) {
    if (!this.holds(event)) return;
    const { before } = this.stroke;
    this.release();
    if (this.drawing.ids.some((id, i) => id !== before[i])) this.ended(before);
  }

  abort() {
    if (!this.stroke) return;
    this.drawing.ids.set(this.stroke.before);
    this.release();
    this.draw();
  }

  // What waited follows when all that the end of the stroke brings about is done; the next stroke may have begun by then.
  release() {
    this.stroke = null;
    queueMicrotask(() => {
      while (!this.stroke && this.waiting.length) this.waiting.shift()();
    });
  }

  whenFree(run) {
    if (this.stroke) this.waiting.push(run);
    else run();
  }

  showCursor(event) {
    const [x, y] = this.point(event);
    const { tool, size } = this.tools() ?? {};
    const width = tool === "brush" || tool === "eraser" || tool === "line" ? size : 1;
    const pixel = this.canvas.clientWidth / this.drawing.size;
    const corner = (v) => `${(brushCenter(v, width) - width / 2) * pixel}px`;
    this.cursor.hidden = event.pointerType === "touch" || !this.drawing.inside(x, y);
    Object.assign(this.cursor.style, {
      width: `${width * pixel}px`, height: `${width * pixel}px`, left: corner(x), top: corner(y),
    });
  }
}

export const packed = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0; // an opaque RGBA pixel, little-endian

// Class ids in colors, each as `packed` gives it.
export function labelPicture(ids, size, colors) {
  const pixels = new Uint32Array(ids.length);
  for (let i = 0; i < ids.length; i++) pixels[i] = colors[ids[i]];
  return new ImageData(new Uint8ClampedArray(pixels.buffer), size, size);
}
