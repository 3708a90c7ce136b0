// Zoom of the drawing: Ctrl and the wheel, or a trackpad pinch, zoom; the wheel alone scrolls the enlarged drawing.

const MAX_SCALE = 16;
const ZOOM_PER_PIXEL = 0.01; // exponent, for each pixel of the wheel

export class CanvasZoom {
  // `layer` fills `frame` at scale 1. onChange(scale) is called after each change.
  constructor(frame, layer, onChange) {
    Object.assign(this, { frame, layer, onChange, scale: 1, x: 0, y: 0 }); // x, y: corner of the layer in the frame
    frame.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
  }

  onWheel(event) {
    if (!event.ctrlKey && this.scale === 1) return; // the wheel scrolls the page
    event.preventDefault();
    if (!event.ctrlKey) {
      this.setTransform(this.scale, this.x - event.deltaX, this.y - event.deltaY);
      return;
    }

    // Zoom about the pointer, so that the point below it stays in place.
    const box = this.frame.getBoundingClientRect();
    const x = event.clientX - box.left;
    const y = event.clientY - box.top;
    const scale = Math.min(Math.max(this.scale * Math.exp(-event.deltaY * ZOOM_PER_PIXEL), 1), MAX_SCALE);
    const growth = scale / this.scale;
    this.setTransform(scale, x - (x - this.x) * growth, y - (y - this.y) * growth);
  }

  reset() {
    this.setTransform(1, 0, 0);
  }

  setTransform(scale, x, y) {
    const lowest = this.frame.clientWidth * (1 - scale); // the layer always covers the frame
    const clip = (value) => Math.min(Math.max(value, lowest), 0);
    Object.assign(this, { scale, x: clip(x), y: clip(y) });
    this.layer.style.transform = `translate(${this.x}px, ${this.y}px) scale(${scale})`;
    this.layer.style.setProperty("--hairline", `${1 / scale}px`); // one screen pixel at any scale
    this.onChange(scale);
  }
}
