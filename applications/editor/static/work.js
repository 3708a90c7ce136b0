// What is worked on: the drawing, from where it is seen, its seed and style; how the scene follows from them; the steps back.

import { Undo } from "./drawing.js";
import { same } from "./scenes.js";

export class Work {
  // keepsStyle() says whether edits keep the texture; changed() is called when something here is another.
  constructor(board, stage, scenes, keepsStyle, changed) {
    Object.assign(this, { board, stage, scenes, keepsStyle, changed });
    this.undo = new Undo();
    this.seed = 0;
    this.style = null; // the scene whose texture is kept
    this.geometry = null; // the scene whose form the one that is being made takes, instead of the drawing's
    this.before = null; // the state from before a blend that is not settled yet
    this.changes = 0;
    this.saved = 0; // how many of these a session file has
  }

  get unsaved() {
    return this.saved < this.changes;
  }

  use(drawing, place) {
    Object.assign(this, { drawing, place });
  }

  snapshot() {
    const { board, scenes, place, seed, style, geometry } = this;
    return { ids: board.ids.slice(), place, seed, style, geometry, scene: scenes.scene };
  }

  // Become another state, as a step that can be undone.
  change(next) {
    const now = this.snapshot();
    next = { ...now, geometry: null, ...next };
    if (this.before || !equal(now, next)) this.remember(now);
    this.apply(next);
  }

  step(back) {
    const next = this.undo.move(back, this.before ?? this.snapshot());
    if (!next) return;
    this.changes++;
    this.apply(next);
  }

  // A stroke has ended, before which the drawing was `ids`.
  stroked(ids) {
    this.remember({ ...this.snapshot(), ids });
    this.edit();
  }

  remember(state) {
    this.undo.push(this.before ?? state);
    this.changes++;
  }

  apply({ ids, place, seed, style, geometry, scene }) {
    this.board.abort();
    this.drawing.ids.set(ids);
    this.board.draw();
    Object.assign(this, { place, seed, before: null });
    this.style = this.keepsStyle() ? style ?? scene : null;
    if (scene) this.scenes.choose(scene);
    else this.edit(geometry);
    this.changed();
  }

  // Have the scene of the drawing made.
  edit(geometry = null) {
    Object.assign(this, { geometry, before: null });
    this.scenes.make(() => {
      const { board, stage, scenes, place, seed, style } = this;
      return ["edit", { place, seed, style, geometry, view: stage.view, quality: scenes.quickest }, board.ids];
    });
    this.changed();
  }

  // Go between two scenes. With quality "full" the drawing follows: see `picture` in main.js.
  blend(first, second, share, quality) {
    this.before ??= this.snapshot();
    this.style = null; // that of the blend, as soon as there is one
    this.scenes.make(() => ["blend", { first, second, share, place: this.place, view: this.stage.view, quality }]);
    this.changed();
  }

  // A new scene has come.
  made(scene) {
    if (this.keepsStyle()) this.style ??= scene;
  }

  // The server knows none of our scenes any more.
  forgotten() {
    this.style = null;
    this.edit();
  }
}

function equal(a, b) {
  return same(a.place, b.place) && a.seed === b.seed && a.scene === b.scene && a.ids.every((id, i) => id === b.ids[i]);
}
