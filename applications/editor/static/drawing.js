// A drawing is an array of class ids. Every tool writes whole ids: nothing is ever blended. No page needed here.

export const UNDO_STEPS = 50;

// Where a brush of so many pixels is set down: an odd one on a pixel's center, an even one on a corner.
export const brushCenter = (v, diameter) => (diameter % 2 ? Math.floor(v) + 0.5 : Math.round(v));

export class Drawing {
  constructor(size) {
    this.size = size;
    this.ids = new Uint8Array(size * size);
  }

  // Pixels whose center is within half a diameter of the line between two points (pixel coordinates).
  stroke(x0, y0, x1, y1, diameter, id) {
    [x0, y0, x1, y1] = [x0, y0, x1, y1].map((v) => brushCenter(v, diameter));
    const [dx, dy, radius] = [x1 - x0, y1 - y0, diameter / 2];
    const length2 = dx * dx + dy * dy;
    const [left, right] = this.span(x0, x1, radius);
    const [top, bottom] = this.span(y0, y1, radius);
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const [px, py] = [x + 0.5 - x0, y + 0.5 - y0];
        const along = length2 ? Math.min(Math.max((px * dx + py * dy) / length2, 0), 1) : 0;
        if ((px - along * dx) ** 2 + (py - along * dy) ** 2 <= radius * radius) this.ids[y * this.size + x] = id;
      }
    }
  }

  span(a, b, radius) {
    const clip = (v) => Math.min(Math.max(Math.floor(v), 0), this.size - 1);
    return [clip(Math.min(a, b) - radius), clip(Math.max(a, b) + radius)];
  }

  inside(x, y) {
    return x >= 0 && y >= 0 && x < this.size && y < this.size;
  }

  at(x, y) {
    return this.ids[Math.floor(y) * this.size + Math.floor(x)];
  }

  // The region of one class around a point, joined by edges.
  fill(x, y, id) {
    const { size, ids } = this;
    const start = Math.floor(y) * size + Math.floor(x);
    const old = ids[start];
    if (old === id) return;
    const waiting = [start];
    ids[start] = id;
    while (waiting.length) {
      const i = waiting.pop();
      const column = i % size;
      const next = [column > 0 ? i - 1 : -1, column < size - 1 ? i + 1 : -1, i - size, i + size];
      for (const j of next) {
        if (j >= 0 && j < ids.length && ids[j] === old) {
          ids[j] = id;
          waiting.push(j);
        }
      }
    }
  }
}

// States to go back to and forward again; a state is whatever the caller puts in.
export class Undo {
  constructor() {
    this.past = [];
    this.future = [];
  }

  push(state) {
    this.past.push(state);
    if (this.past.length > UNDO_STEPS) this.past.shift();
    this.future = [];
  }

  // The state to show in place of `now`, or undefined at the end.
  move(back, now) {
    const [from, to] = back ? [this.past, this.future] : [this.future, this.past];
    if (!from.length) return undefined;
    to.push(now);
    return from.pop();
  }
}
