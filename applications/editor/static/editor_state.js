// The state that is edited and undone: drawing, its view, seed, photo and style, and the scene computed from them.

import { UndoHistory } from "./drawing.js";
import { sameView } from "./render_client.js";

export class EditorState {
  // keepsStyle() returns whether edits keep the texture; onChange() is called after each change of this state.
  constructor(canvas, viewer, renderer, keepsStyle, onChange) {
    Object.assign(this, { canvas, viewer, renderer, keepsStyle, onChange });
    this.history = new UndoHistory();
    this.seed = 0;
    this.photo = null; // {name, label} of the photo whose style takes the place of the seed's
    this.style = null; // scene whose texture is kept
    this.geometry = null; // scene whose geometry the scene being computed takes, instead of the drawing's
    this.strokes = []; // changed pixels (indices) of each stroke since the drawing was last replaced
    this.beforeBlend = null; // state before the blend in progress
    this.changeCount = 0;
    this.savedCount = 0; // number of changes that the last saved session includes
  }

  get hasUnsavedChanges() {
    return this.savedCount < this.changeCount;
  }

  configure(drawing, drawingView) {
    Object.assign(this, { drawing, drawingView });
  }

  snapshot() {
    const { canvas, renderer, drawingView, seed, photo, style, geometry, strokes } = this;
    const { scene } = renderer;
    return { ids: canvas.committedIds.slice(), drawingView, seed, photo, style, geometry, strokes, scene };
  }

  // Switch to another state, as a step that can be undone. Fields that `changes` lacks stay as they are.
  change(changes) {
    const current = this.snapshot();
    const strokes = changes.ids ? [] : this.strokes;
    const next = { ...current, geometry: null, strokes, ...changes };
    if (this.beforeBlend || !sameState(current, next)) this.pushUndo(current);
    this.restore(next);
  }

  undo() {
    this.restoreFromHistory(this.history.undo(this.beforeBlend ?? this.snapshot()));
  }

  redo() {
    this.restoreFromHistory(this.history.redo(this.beforeBlend ?? this.snapshot()));
  }

  restoreFromHistory(state) {
    if (!state) return;
    this.changeCount++;
    this.restore(state);
  }

  // A stroke has ended; `idsBefore` is the drawing before it.
  commitStroke(idsBefore) {
    this.pushUndo({ ...this.snapshot(), ids: idsBefore });
    const changed = [...idsBefore.keys()].filter((i) => idsBefore[i] !== this.drawing.ids[i]);
    this.strokes = [...this.strokes, changed];
    this.computeScene();
  }

  pushUndo(state) {
    this.history.push(this.beforeBlend ?? state);
    this.changeCount++;
  }

  restore({ ids, drawingView, seed, photo, style, geometry, strokes, scene }) {
    this.canvas.cancelStroke();
    this.drawing.ids.set(ids);
    this.canvas.scheduleRedraw();
    Object.assign(this, { drawingView, seed, photo, strokes, beforeBlend: null });
    this.style = this.keepsStyle() ? (style ?? scene) : null;

    // Reuse the scene where it is known, otherwise compute it from the drawing.
    if (scene) this.renderer.showScene(scene);
    else this.computeScene(geometry);
    this.onChange();
  }

  // Compute the scene of the drawing. The message is built when it is sent, so it has the state of that moment.
  computeScene(geometry = null) {
    Object.assign(this, { geometry, beforeBlend: null });
    this.renderer.computeScene(() => {
      const { canvas, viewer, renderer, drawingView, seed, style } = this;
      const photo = this.photo?.name ?? null;
      const fields = {
        drawing_view: drawingView, seed, photo, style, geometry, view: viewer.view, quality: renderer.firstQuality,
      };
      return ["edit", fields, canvas.committedIds];
    });
    this.onChange();
  }

  // Blend two scenes. With quality "full" the drawing becomes the label map of the blend: see `showImage` in main.js.
  blend(first, second, weight, quality) {
    this.beforeBlend ??= this.snapshot();
    this.style = null; // becomes the texture of the blend, once that is computed
    this.renderer.computeScene(() => {
      const { drawingView, viewer } = this;
      return ["blend", { first, second, weight, drawing_view: drawingView, view: viewer.view, quality }];
    });
    this.onChange();
  }

  handleNewScene(scene) {
    if (this.keepsStyle()) this.style ??= scene;
  }

  // The server no longer has any of the scenes: compute the current one again.
  handleLostScenes() {
    this.style = null;
    this.computeScene();
  }

  // The server no longer has the photo: the style comes from the seed.
  handleLostPhoto() {
    this.photo = null;
    this.computeScene(this.geometry);
  }
}

function sameState(a, b) {
  if (!sameView(a.drawingView, b.drawingView) || a.seed !== b.seed || a.scene !== b.scene) return false;
  if (a.photo?.name !== b.photo?.name) return false;
  return a.ids.every((id, i) => id === b.ids[i]);
}
