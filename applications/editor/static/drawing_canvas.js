// The canvas with the drawing: turns mouse, pen and touch input into strokes of class ids.

import { brushCenter } from "./drawing.js";

const LEFT_BUTTON = 0; // also a finger, or the tip of a pen
const RIGHT_BUTTON = 2;
const PEN_ERASER = 5;

export class DrawingCanvas {
  // getTool() returns {tool, size, id}, or null while drawing is disabled. onStroke(idsBefore) is called after a stroke
  // that changed the drawing, onPick(id) when a class is picked from the drawing.
  constructor(canvas, cursor, getTool, { onStroke, onPick }) {
    Object.assign(this, { canvas, cursor, getTool, onStroke, onPick });
    this.stroke = null; // the stroke in progress
    this.deferred = []; // callbacks that run once no stroke is in progress

    canvas.addEventListener("pointerdown", (event) => this.onPointerDown(event));
    canvas.addEventListener("pointermove", (event) => this.onPointerMove(event));
    canvas.addEventListener("pointerup", (event) => this.onPointerUp(event));
    canvas.addEventListener("lostpointercapture", (event) => this.onPointerUp(event));
    canvas.addEventListener("pointercancel", (event) => this.ownsStroke(event) && this.cancelStroke());
    canvas.addEventListener("pointerleave", () => (cursor.hidden = true));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  configure(drawing, colors) {
    Object.assign(this, { drawing, colors });
    this.canvas.width = this.canvas.height = drawing.size;
    this.context = this.canvas.getContext("2d");
    this.scheduleRedraw();
  }

  // Class ids without the stroke in progress.
  get committedIds() {
    return this.stroke?.idsBefore ?? this.drawing.ids;
  }

  // Redraw at most once per frame: pens report more often than the screen refreshes.
  scheduleRedraw() {
    this.redrawRequest ??= requestAnimationFrame(() => {
      this.redrawRequest = null;
      this.context.putImageData(labelImage(this.drawing.ids, this.drawing.size, this.colors), 0, 0);
    });
  }

  // Position of a pointer in pixels of the drawing.
  toPixel(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.drawing.size / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  ownsStroke(event) {
    return this.stroke?.pointerId === event.pointerId;
  }

  onPointerDown(event) {
    if (!this.drawing || !this.canStart(event)) return;
    const [x, y] = this.toPixel(event);
    const settings = this.getTool();
    if (!settings || !this.drawing.contains(x, y)) return; // on the border, or outside by rounding
    const { tool, size, id } = settings;

    // The right button, Alt and the pick tool select the class under the pointer.
    if (event.button === RIGHT_BUTTON || event.altKey || (tool === "pick" && event.button === LEFT_BUTTON)) {
      this.onPick(this.drawing.classAt(x, y));
      return;
    }
    if (event.button !== LEFT_BUTTON && event.button !== PEN_ERASER) return;

    this.canvas.setPointerCapture(event.pointerId);
    const erases = tool === "eraser" || event.button === PEN_ERASER;
    this.stroke = {
      tool,
      size,
      id: erases ? 0 : id,
      pointerId: event.pointerId,
      pointerType: event.pointerType,
      idsBefore: this.drawing.ids.slice(),
      start: [x, y],
      last: [x, y],
    };
    if (tool === "fill") {
      this.drawing.floodFill(x, y, this.stroke.id);
      this.scheduleRedraw();
    } else {
      this.extendStroke([event]);
    }
  }

  // Only one pointer draws at a time. A pen takes precedence over touch, which is then the palm of the hand.
  canStart(event) {
    if (this.stroke?.pointerType === "touch" && event.pointerType === "pen") this.cancelStroke();
    return !this.stroke;
  }

  onPointerMove(event) {
    if (!this.drawing) return;
    this.updateCursor(event);
    if (!this.ownsStroke(event) || this.stroke.tool === "fill") return;

    const coalesced = event.getCoalescedEvents?.() ?? []; // positions of a fast pen since the last frame
    this.extendStroke(coalesced.length ? coalesced : [event]);
  }

  extendStroke(events) {
    const { tool, size, id, idsBefore, start } = this.stroke;
    for (const point of events.map((event) => this.toPixel(event))) {
      if (tool === "line") {
        this.drawing.ids.set(idsBefore); // a line follows the pointer: remove the previous one
        this.drawing.drawLine(...start, ...point, size, id);
      } else {
        this.drawing.drawLine(...this.stroke.last, ...point, size, id);
      }
      this.stroke.last = point;
    }
    this.scheduleRedraw();
  }

  onPointerUp(event) {
    if (!this.ownsStroke(event)) return;
    const { idsBefore } = this.stroke;
    this.endStroke();
    if (this.drawing.ids.some((id, i) => id !== idsBefore[i])) this.onStroke(idsBefore);
  }

  cancelStroke() {
    if (!this.stroke) return;
    this.drawing.ids.set(this.stroke.idsBefore);
    this.endStroke();
    this.scheduleRedraw();
  }

  // Deferred callbacks run in a microtask, after the caller has handled the stroke. A new stroke may start before that.
  endStroke() {
    this.stroke = null;
    queueMicrotask(() => {
      while (!this.stroke && this.deferred.length) this.deferred.shift()();
    });
  }

  // Run a callback now, or after the stroke in progress.
  whenIdle(callback) {
    if (this.stroke) this.deferred.push(callback);
    else callback();
  }

  // Show the outline of the brush.
  updateCursor(event) {
    const [x, y] = this.toPixel(event);
    const { tool, size } = this.getTool() ?? {};
    const diameter = tool === "brush" || tool === "eraser" || tool === "line" ? size : 1;
    const scale = this.canvas.clientWidth / this.drawing.size;
    const edge = (value) => `${(brushCenter(value, diameter) - diameter / 2) * scale}px`;

    this.cursor.hidden = event.pointerType === "touch" || !this.drawing.contains(x, y);
    const length = `${diameter * scale}px`;
    Object.assign(this.cursor.style, { width: length, height: length, left: edge(x), top: edge(y) });
  }
}

// An opaque RGBA pixel as a little-endian 32-bit number.
export const packColor = ([r, g, b]) => ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0;

// Class ids as an image; `colors` holds one packed color for each class.
export function labelImage(ids, size, colors) {
  const pixels = new Uint32Array(ids.length);
  for (let i = 0; i < ids.length; i++) pixels[i] = colors[ids[i]];
  return new ImageData(new Uint8ClampedArray(pixels.buffer), size, size);
}
