// The canvas that is painted on: pointers of every kind to strokes of class ids.

const PEN_ERASER = 32; // in PointerEvent.buttons
const RIGHT_BUTTON = 2;

export class Board {
  // tools() gives {tool, size, id}; ended(before) is called after a stroke with the ids from before it, picked(id) when
  // a class is taken from the drawing.
  constructor(canvas, cursor, tools, { ended, picked }) {
    Object.assign(this, { canvas, cursor, tools, ended, picked });
    this.stroke = null;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.cancel(event));
    canvas.addEventListener("pointerleave", () => (cursor.hidden = true));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  use(drawing, colours) {
    Object.assign(this, { drawing, colours });
    this.canvas.width = this.canvas.height = drawing.size;
    this.context = this.canvas.getContext("2d");
    this.draw();
  }

  draw() {
    this.context.putImageData(labelPicture(this.drawing.ids, this.drawing.size, this.colours), 0, 0);
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.drawing.size / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  down(event) {
    if (!this.drawing || !event.isPrimary || this.stroke) return;
    const [x, y] = this.point(event);
    if (!this.drawing.inside(x, y)) return; // the border, or a rounding
    if (event.button === RIGHT_BUTTON || event.altKey) {
      this.picked(this.drawing.at(x, y));
      return;
    }
    const { tool, size, id } = this.tools();
    this.canvas.setPointerCapture(event.pointerId);
    const erases = tool === "eraser" || event.buttons & PEN_ERASER;
    this.stroke = { tool, size, id: erases ? 0 : id, before: this.drawing.ids.slice(), start: [x, y], last: [x, y] };
    if (tool === "fill") {
      this.drawing.fill(x, y, this.stroke.id);
      this.draw();
    } else {
      this.extend([event]);
    }
  }

  move(event) {
    if (!this.drawing) return;
    this.showCursor(event);
    if (!this.stroke || !event.isPrimary || this.stroke.tool === "fill") return;
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
    if (!this.stroke || !event.isPrimary) return;
    const { before } = this.stroke;
    this.stroke = null;
    if (this.drawing.ids.some((id, i) => id !== before[i])) this.ended(before);
  }

  cancel(event) {
    if (!this.stroke || !event.isPrimary) return;
    this.drawing.ids.set(this.stroke.before);
    this.stroke = null;
    this.draw();
  }

  showCursor(event) {
    const [x, y] = this.point(event);
    const box = this.canvas.getBoundingClientRect();
    const pixel = box.width / this.drawing.size;
    const wide = (this.tools().tool === "fill" ? 1 : this.tools().size) * pixel;
    this.cursor.hidden = event.pointerType === "touch" || !this.drawing.inside(x, y);
    Object.assign(this.cursor.style, {
      width: `${wide}px`, height: `${wide}px`,
      left: `${(Math.floor(x) + 0.5) * pixel - wide / 2}px`, top: `${(Math.floor(y) + 0.5) * pixel - wide / 2}px`,
    });
  }
}

export const packed = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0; // an opaque RGBA pixel, little-endian

// Class ids in colours, each as `packed` gives it.
export function labelPicture(ids, size, colours) {
  const pixels = Uint32Array.from(ids, (id) => colours[id]);
  return new ImageData(new Uint8ClampedArray(pixels.buffer), size, size);
}
