// The rendered object: shows images and label maps, and turns drags, the wheel and pinches into camera views.

import { labelImage } from "./drawing_canvas.js";

const RADIANS_PER_WIDTH = { limited: 1.6, full: Math.PI }; // rotation of a drag across the whole image
const ZOOM_PER_PIXEL = { wheel: 0.0015, pinch: 0.01 }; // exponent; browsers report a trackpad pinch as Ctrl and wheel
const PIXELS_PER_LINE = 30; // of a wheel that reports lines
const SETTLE_MS = 180; // after the last step of a wheel or a held key

export class Viewer {
  // onChange() is called for each new `view`, and when `settled` becomes true because no interaction is in progress.
  constructor(element, image, labels, onChange) {
    Object.assign(this, { element, image, labels, onChange });
    this.pointers = new Map(); // position [x, y] of each pressed pointer, by its id
    this.settled = true;

    element.addEventListener("pointerdown", (event) => this.onPointerDown(event));
    element.addEventListener("pointermove", (event) => this.onPointerMove(event));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) {
      element.addEventListener(name, (event) => this.onPointerUp(event));
    }
    element.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
  }

  configure(limits, frontView, size, colors) {
    Object.assign(this, { limits, size, colors });
    this.view = { ...frontView };
    for (const canvas of [this.image, this.labels]) canvas.width = canvas.height = size;
  }

  // Show an image (RGB bytes) and its label map (class ids).
  showImage(rgb, ids) {
    this.ids = ids;
    const count = this.size * this.size;
    const pixels = new Uint8ClampedArray(4 * count).fill(255);
    for (let i = 0, j = 0, k = 0; i < count; i++, j += 4, k += 3) {
      pixels[j] = rgb[k];
      pixels[j + 1] = rgb[k + 1];
      pixels[j + 2] = rgb[k + 2];
    }
    this.image.getContext("2d").putImageData(new ImageData(pixels, this.size, this.size), 0, 0);
    this.labels.getContext("2d").putImageData(labelImage(ids, this.size, this.colors), 0, 0);
  }

  // Cut away this share of the image, from the right, so that the label map below it shows.
  revealLabels(percent) {
    this.image.style.clipPath = `inset(0 ${percent}% 0 0)`;
  }

  // The nearest view within the limits.
  clampView({ azimuth, polar, zoom }) {
    const clip = (value, [low, high]) => Math.min(Math.max(value, low), high);
    const turn = 2 * Math.PI;
    if (this.limits.full_turn) azimuth -= turn * Math.round(azimuth / turn);
    return {
      azimuth: clip(azimuth, this.limits.azimuth),
      polar: clip(polar, this.limits.polar),
      zoom: clip(zoom, this.limits.zoom),
    };
  }

  setView(view, settled) {
    this.view = this.clampView(view);
    if (settled) this.settle();
    else this.startMoving();
  }

  // Ask for previews until the interaction ends: when the last pointer is released, or else after a delay.
  startMoving() {
    this.settled = false;
    clearTimeout(this.settleTimer);
    if (!this.pointers.size) this.settleTimer = setTimeout(() => this.settle(), SETTLE_MS);
    this.onChange();
  }

  settle() {
    clearTimeout(this.settleTimer);
    this.settled = true;
    this.onChange();
  }

  // Rotate the object so that its near side moves right and up.
  rotate(right, up, settled) {
    const { azimuth, polar, zoom } = this.view;
    this.setView({ azimuth: azimuth - right, polar: polar + up, zoom }, settled);
  }

  zoomBy(factor, settled) {
    this.setView({ ...this.view, zoom: this.view.zoom * factor }, settled);
  }

  onPointerDown(event) {
    if (!this.limits || event.button !== 0) return;
    this.element.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    this.element.classList.add("rotating");
  }

  onPointerMove(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    if (!event.buttons) {
      this.onPointerUp(event); // it was released outside the window
      return;
    }

    const position = [event.clientX, event.clientY];
    const distanceBefore = this.pinchDistance();
    this.pointers.set(event.pointerId, position);
    if (this.pointers.size > 1) {
      this.zoomBy(this.pinchDistance() / distanceBefore, false);
      return;
    }

    const scale = RADIANS_PER_WIDTH[this.limits.full_turn ? "full" : "limited"] / this.element.clientWidth;
    this.rotate((position[0] - last[0]) * scale, (last[1] - position[1]) * scale, false);
  }

  // Distance between two fingers, in screen pixels.
  pinchDistance() {
    const [a, b] = this.pointers.values();
    return b ? Math.max(Math.hypot(a[0] - b[0], a[1] - b[1]), 1) : 1;
  }

  onPointerUp(event) {
    if (!this.pointers.delete(event.pointerId) || this.pointers.size) return;
    this.element.classList.remove("rotating");
    this.settle();
  }

  onWheel(event) {
    event.preventDefault();
    if (!this.limits) return;
    const pixels = event.deltaMode ? event.deltaY * PIXELS_PER_LINE : event.deltaY;
    this.zoomBy(Math.exp(-pixels * ZOOM_PER_PIXEL[event.ctrlKey ? "pinch" : "wheel"]), false);
  }
}
