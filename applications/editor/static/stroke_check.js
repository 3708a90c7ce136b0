// Which strokes the object shows: asked when "Edit from here" replaces the drawing.

const MIN_SHARE = 0.5; // of a stroke's pixels; a stroke that shows less had no effect

export class StrokeCheck {
  constructor(channel, notify) {
    Object.assign(this, { channel, notify, request: null });
  }

  // Ask for the class ids of the object, seen from the view of the drawing that is about to be replaced.
  start({ scene, drawingView, ids, strokes }) {
    if (!strokes.length) return;
    const id = this.channel.send("labels", { scene, view: drawingView });
    this.request = { id, ids, strokes };
  }

  handleLabels({ id }, labels) {
    if (id !== this.request?.id) return;
    const { ids, strokes } = this.request;
    const shows = (stroke) => stroke.filter((i) => labels[i] === ids[i]).length >= MIN_SHARE * stroke.length;
    const count = strokes.filter((stroke) => !shows(stroke)).length;
    if (!count) return;
    const subject = `${count} of ${strokes.length} stroke${strokes.length > 1 ? "s" : ""}`;
    this.notify(`${subject} had no effect on the object, so the new drawing lacks them. Undo brings them back.`);
  }
}
