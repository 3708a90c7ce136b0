// The rendered object: shows pictures, and turns drags, wheels and pinches into views.

import { labelPicture } from "./board.js";

const TURN_PER_WIDTH = { part: 1.6, full: Math.PI }; // rad of a drag across the whole picture
const ZOOM_PER_PIXEL = { wheel: 0.0015, pinch: 0.01 }; // as an exponent; browsers report a trackpad's pinch as Ctrl and wheel
const SETTLE_MS = 180; // after the last step of a wheel or a held key

export class Stage {
  // changed() is called for every new `view`, and when it is `settled`: nobody is dragging any more.
  constructor(area, image, labels, changed) {
    Object.assign(this, { area, image, labels, changed });
    this.pointers = new Map(); // id to [x, y] of each that holds the object
    this.settled = true;
    area.addEventListener("pointerdown", (event) => this.down(event));
    area.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) area.addEventListener(name, (event) => this.up(event));
    area.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  use(orbit, front, size, colors) {
    Object.assign(this, { orbit, front, size, colors });
    this.view = { ...front };
    for (const canvas of [this.image, this.labels]) canvas.width = canvas.height = size;
  }

  show(colors, ids) {
    this.ids = ids;
    const count = this.size * this.size;
    const pixels = new Uint8ClampedArray(4 * count).fill(255);
    for (let i = 0, j = 0, k = 0; i < count; i++, j += 4, k += 3) {
      pixels[j] = colors[k];
      pixels[j + 1] = colors[k + 1];
      pixels[j + 2] = colors[k + 2];
    }
    this.image.getContext("2d").putImageData(new ImageData(pixels, this.size, this.size), 0, 0);
    this.labels.getContext("2d").putImageData(labelPicture(ids, this.size, this.colors), 0, 0);
  }

  // The image gives way to the label map from the right.
  reveal(percent) {
    this.image.style.clipPath = `inset(0 ${percent}% 0 0)`;
  }

  within({ azimuth, polar, zoom }) {
    const clip = (value, [low, high]) => Math.min(Math.max(value, low), high);
    const turn = 2 * Math.PI;
    if (this.orbit.full_turn) azimuth -= turn * Math.round(azimuth / turn);
    return {
      azimuth: clip(azimuth, this.orbit.azimuth), polar: clip(polar, this.orbit.polar), zoom: clip(zoom, this.orbit.zoom),
    };
  }

  look(view, settled) {
    this.view = this.within(view);
    if (settled) this.settle();
    else this.stir();
  }

  // Pictures are previews from now on; unless a pointer holds the object, that ends by itself.
  stir() {
    this.settled = false;
    clearTimeout(this.settling);
    if (!this.pointers.size) this.settling = setTimeout(() => this.settle(), SETTLE_MS);
    this.changed();
  }

  settle() {
    clearTimeout(this.settling);
    this.settled = true;
    this.changed();
  }

  // As a hand would turn the object: its near side goes right and up.
  turn(right, up, settled) {
    const { azimuth, polar, zoom } = this.view;
    this.look({ azimuth: azimuth - right, polar: polar + up, zoom }, settled);
  }

  zoomBy(factor, settled) {
    this.look({ ...this.view, zoom: this.view.zoom * factor }, settled);
  }

  down(event) {
    if (!this.orbit || event.button !== 0) return;
    this.area.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    this.area.classList.add("turning");
  }

  move(event) {
    const last = this.pointers.get(event.pointerId);
    if (!last) return;
    if (!event.buttons) {
      this.up(event); // it was let go where nobody saw it
      return;
    }
    const now = [event.clientX, event.clientY];
    const before = this.spread();
    this.pointers.set(event.pointerId, now);
    if (this.pointers.size > 1) {
      this.zoomBy(this.spread() / before, false);
      return;
    }
    const scale = TURN_PER_WIDTH[this.orbit.full_turn ? "full" : "part"] / this.area.clientWidth;
    this.turn((now[0] - last[0]) * scale, (last[1] - now[1]) * scale, false);
  }

  // Distance between two fingers, in screen pixels.
  spread() {
    const [a, b] = this.pointers.values();
    return b ? Math.max(Math.hypot(a[0] - b[0], a[1] - b[1]), 1) : 1;
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId) || this.pointers.size) return;
    this.area.classList.remove("turning");
    this.settle();
  }

  wheel(event) {
    event.preventDefault();
    if (!this.orbit) return;
    const pixels = event.deltaMode ? event.deltaY * 30 : event.deltaY;
    this.zoomBy(Math.exp(-pixels * ZOOM_PER_PIXEL[event.ctrlKey ? "pinch" : "wheel"]), false);
  }
}
