// A closer look at the drawing: Ctrl and wheel, or a trackpad's pinch, to come nearer; the wheel alone to move along.

const LARGEST = 16;
const ZOOM_PER_PIXEL = 0.01; // of wheel, as an exponent

export class Lens {
  // sheet lies in frame and is as large.
  constructor(frame, sheet) {
    Object.assign(this, { frame, sheet, scale: 1, x: 0, y: 0 }); // x, y: of the sheet's corner in the frame
    frame.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  wheel(event) {
    if (!event.ctrlKey && this.scale === 1) return; // scrolls the page
    event.preventDefault();
    if (!event.ctrlKey) {
      this.show(this.scale, this.x - event.deltaX, this.y - event.deltaY);
      return;
    }
    const box = this.frame.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top]; // stays where it is
    const scale = Math.min(Math.max(this.scale * Math.exp(-event.deltaY * ZOOM_PER_PIXEL), 1), LARGEST);
    const growth = scale / this.scale;
    this.show(scale, x - (x - this.x) * growth, y - (y - this.y) * growth);
  }

  show(scale, x, y) {
    const least = this.frame.clientWidth * (1 - scale); // no further than the sheet's edge
    const clip = (v) => Math.min(Math.max(v, least), 0);
    Object.assign(this, { scale, x: clip(x), y: clip(y) });
    this.sheet.style.transform = `translate(${this.x}px, ${this.y}px) scale(${scale})`;
    this.sheet.style.setProperty("--thin", `${1 / scale}px`);
  }
}
