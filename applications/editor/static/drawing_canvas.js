// The canvas with the drawing: turns mouse, pen, touch and keyboard input into strokes of class ids.

import { brushCenter } from "./drawing.js";

const LEFT_BUTTON = 0; // also a finger, or the tip of a pen
const RIGHT_BUTTON = 2;
const PEN_ERASER = 5;
const KEYBOARD = "keyboard"; // stands for the id and the type of a pointer
const KEY_STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }; // in pixels
const FAST_STEP = 8; // factor, with Shift

export class DrawingCanvas {
  // getTool() returns {tool, size, id, mirrorId}, or null while drawing is disabled; mirrorId is null without symmetry.
  // onStroke(idsBefore) is called after a stroke that changed the drawing, onPick(id) when a class is picked from the
  // drawing, onMove(position) when the keyboard moves the brush to [x, y], or leaves the drawing (null).
  constructor(canvas, cursor, getTool, { onStroke, onPick, onMove }) {
    Object.assign(this, { canvas, cursor, getTool, onStroke, onPick, onMove });
    this.stroke = null; // the stroke in progress
    this.usesKeys = false; // the keyboard moves the brush
    this.deferred = []; // callbacks that run once no stroke is in progress

    canvas.addEventListener("pointerdown", (event) => this.onPointerDown(event));
    canvas.addEventListener("pointermove", (event) => this.onPointerMove(event));
    canvas.addEventListener("pointerup", (event) => this.onPointerUp(event));
    canvas.addEventListener("lostpointercapture", (event) => this.onPointerUp(event));
    canvas.addEventListener("pointercancel", (event) => this.ownsStroke(event) && this.cancelStroke());
    canvas.addEventListener("pointerleave", () => (cursor.hidden = true));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("keydown", (event) => this.onKeyDown(event));
    canvas.addEventListener("focus", () => this.onFocus());
    canvas.addEventListener("blur", () => this.onBlur());
  }

  configure(drawing, colors) {
    Object.assign(this, { drawing, colors });
    this.keyPosition = [drawing.size / 2 + 0.5, drawing.size / 2 + 0.5]; // of the brush that the keyboard moves
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

  // ---------------------------------------------------------------------------------------------- pointers

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

    // The right button, Alt and the pick tool select the class under the pointer.
    if (event.button === RIGHT_BUTTON || event.altKey || (settings.tool === "pick" && event.button === LEFT_BUTTON)) {
      this.onPick(this.drawing.classAt(x, y));
      return;
    }
    if (event.button !== LEFT_BUTTON && event.button !== PEN_ERASER) return;

    this.canvas.setPointerCapture(event.pointerId);
    const { pointerId, pointerType } = event;
    this.startStroke([x, y], settings, event.button === PEN_ERASER, { pointerId, pointerType });
  }

  // Only one pointer draws at a time. A pen takes precedence over touch, which is then the palm of the hand.
  canStart(event) {
    if (this.stroke?.pointerType === "touch" && event.pointerType === "pen") this.cancelStroke();
    return !this.stroke;
  }

  onPointerMove(event) {
    if (!this.drawing) return;
    const [x, y] = this.toPixel(event);
    this.showCursor([x, y], event.pointerType !== "touch" && this.drawing.contains(x, y));
    if (!this.ownsStroke(event)) return;

    const coalesced = event.getCoalescedEvents?.() ?? []; // positions of a fast pen since the last frame
    this.extendStroke((coalesced.length ? coalesced : [event]).map((point) => this.toPixel(point)));
  }

  onPointerUp(event) {
    if (this.ownsStroke(event)) this.finishStroke();
  }

  // ---------------------------------------------------------------------------------------------- keyboard

  // A click does not leave the focus here, so that the arrow keys rotate the object; Tab does.
  onFocus() {
    this.usesKeys = Boolean(this.drawing) && this.canvas.matches(":focus-visible");
    if (this.usesKeys) this.moveKeyBrush([0, 0]);
    else this.canvas.blur();
  }

  onBlur() {
    if (!this.usesKeys) return;
    if (this.stroke?.pointerId === KEYBOARD) this.finishStroke();
    this.cursor.hidden = true;
    this.onMove(null);
  }

  onKeyDown(event) {
    const step = KEY_STEPS[event.key];
    if (!this.usesKeys || event.ctrlKey || event.metaKey || event.altKey || (!step && event.key !== " ")) return;
    event.preventDefault();
    event.stopPropagation(); // elsewhere, arrow keys rotate the object
    if (step) this.moveKeyBrush(step.map((value) => (event.shiftKey ? FAST_STEP * value : value)));
    else if (!event.repeat) this.pressKeyBrush();
  }

  moveKeyBrush(step) {
    const clip = (value) => Math.min(Math.max(value, 0.5), this.drawing.size - 0.5);
    this.keyPosition = this.keyPosition.map((value, axis) => clip(value + step[axis]));
    if (this.stroke?.pointerId === KEYBOARD) this.extendStroke([this.keyPosition]);
    this.showCursor(this.keyPosition, true);
    this.onMove(this.keyPosition);
  }

  // Lower or lift the brush; other tools than brush, eraser and line act at once.
  pressKeyBrush() {
    const settings = this.getTool();
    if (this.stroke?.pointerId === KEYBOARD) this.finishStroke();
    else if (settings?.tool === "pick") this.onPick(this.drawing.classAt(...this.keyPosition));
    else if (settings && !this.stroke) {
      this.startStroke(this.keyPosition, settings, false, { pointerId: KEYBOARD, pointerType: KEYBOARD });
      if (settings.tool === "fill") this.finishStroke();
    }
    this.onMove(this.keyPosition);
  }

  // ---------------------------------------------------------------------------------------------- strokes

  startStroke(point, { tool, size, id, mirrorId }, erases, pointer) {
    const isEraser = erases || tool === "eraser";
    this.stroke = {
      ...pointer,
      tool,
      size,
      id: isEraser ? 0 : id,
      mirrorId: isEraser && mirrorId !== null ? 0 : mirrorId,
      idsBefore: this.drawing.ids.slice(),
      start: point,
      last: point,
    };
    if (tool === "fill") this.fill(point);
    else this.extendStroke([point]);
  }

  extendStroke(points) {
    const { tool, idsBefore, start } = this.stroke;
    if (tool === "fill") return;
    for (const point of points) {
      if (tool === "line") this.drawing.ids.set(idsBefore); // a line follows the pointer: remove the previous one
      this.drawSegment(tool === "line" ? start : this.stroke.last, point);
      this.stroke.last = point;
    }
    this.scheduleRedraw();
  }

  drawSegment([x0, y0], [x1, y1]) {
    const { size, id, mirrorId } = this.stroke;
    if (mirrorId !== null) {
      // Mirrored after snapping, so that both halves are exact mirror images.
      const mirror = (x) => this.drawing.size - brushCenter(x, size);
      this.drawing.drawLine(mirror(x0), y0, mirror(x1), y1, size, mirrorId);
    }
    this.drawing.drawLine(x0, y0, x1, y1, size, id);
  }

  fill([x, y]) {
    const { id, mirrorId, idsBefore } = this.stroke;
    const { drawing } = this;
    drawing.floodFill(x, y, id);

    // The mirrored region, unless it is the same one.
    const mirrorX = drawing.size - 1 - Math.floor(x);
    const isFilled = drawing.classAt(mirrorX, y) !== idsBefore[Math.floor(y) * drawing.size + mirrorX];
    if (mirrorId !== null && !isFilled) drawing.floodFill(mirrorX, y, mirrorId);
    this.scheduleRedraw();
  }

  finishStroke() {
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

  // Show the outline of the brush at a position.
  showCursor([x, y], isVisible) {
    const { tool, size } = this.getTool() ?? {};
    const diameter = tool === "brush" || tool === "eraser" || tool === "line" ? size : 1;
    const scale = this.canvas.clientWidth / this.drawing.size;
    const edge = (value) => `${(brushCenter(value, diameter) - diameter / 2) * scale}px`;

    this.cursor.hidden = !isVisible;
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
