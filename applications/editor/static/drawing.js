// The drawing as an array of class ids, and its undo history. Tools write whole ids, so classes never blend.
// This file does not depend on the page.

export const UNDO_STEPS = 50;

// Snap a coordinate to where a brush can be centered: pixel centers for odd diameters, pixel corners for even ones.
export const brushCenter = (value, diameter) => (diameter % 2 ? Math.floor(value) + 0.5 : Math.round(value));

export class Drawing {
  constructor(size) {
    this.size = size;
    this.ids = new Uint8Array(size * size);
  }

  // Set the pixels whose center is within half a diameter of a line segment (pixel coordinates).
  drawLine(x0, y0, x1, y1, diameter, id) {
    [x0, y0, x1, y1] = [x0, y0, x1, y1].map((value) => brushCenter(value, diameter));
    const radius = diameter / 2;
    const dx = x1 - x0;
    const dy = y1 - y0;
    const lengthSquared = dx * dx + dy * dy;

    const [left, right] = this.pixelRange(x0, x1, radius);
    const [top, bottom] = this.pixelRange(y0, y1, radius);
    for (let y = top; y <= bottom; y++) {
      for (let x = left; x <= right; x++) {
        const px = x + 0.5 - x0;
        const py = y + 0.5 - y0;

        // Project the pixel center onto the segment and measure the distance to that point.
        const along = lengthSquared ? Math.min(Math.max((px * dx + py * dy) / lengthSquared, 0), 1) : 0;
        if ((px - along * dx) ** 2 + (py - along * dy) ** 2 <= radius * radius) this.ids[y * this.size + x] = id;
      }
    }
  }

  // First and last pixel that a brush of this radius can touch between two coordinates.
  pixelRange(a, b, radius) {
    const clip = (value) => Math.min(Math.max(Math.floor(value), 0), this.size - 1);
    return [clip(Math.min(a, b) - radius), clip(Math.max(a, b) + radius)];
  }

  contains(x, y) {
    return x >= 0 && y >= 0 && x < this.size && y < this.size;
  }

  classAt(x, y) {
    return this.ids[Math.floor(y) * this.size + Math.floor(x)];
  }

  // Fill the 4-connected region of one class around a point.
  floodFill(x, y, id) {
    const { size, ids } = this;
    const start = Math.floor(y) * size + Math.floor(x);
    const oldId = ids[start];
    if (oldId === id) return;

    const pending = [start];
    ids[start] = id;
    while (pending.length) {
      const i = pending.pop();
      const column = i % size;
      const left = column > 0 ? i - 1 : -1; // -1: outside the drawing
      const right = column < size - 1 ? i + 1 : -1;
      for (const j of [left, right, i - size, i + size]) {
        if (j >= 0 && j < ids.length && ids[j] === oldId) {
          ids[j] = id;
          pending.push(j);
        }
      }
    }
  }
}

// Undo and redo stacks of states, which can be any value.
export class UndoHistory {
  constructor() {
    this.undoStack = [];
    this.redoStack = [];
  }

  push(state) {
    this.undoStack.push(state);
    if (this.undoStack.length > UNDO_STEPS) this.undoStack.shift();
    this.redoStack = [];
  }

  // Both return the state that replaces `current`, or undefined if there is none.
  undo(current) {
    return move(this.undoStack, this.redoStack, current);
  }

  redo(current) {
    return move(this.redoStack, this.undoStack, current);
  }
}

function move(from, to, current) {
  if (!from.length) return undefined;
  to.push(current);
  return from.pop();
}
