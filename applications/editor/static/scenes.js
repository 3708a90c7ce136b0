// Which scene the page shows, and the one question about pictures that the server is answering.
//
// Whatever happens on the page only changes what is wanted; `ask` compares that with what is shown and sends the next
// question once the last is answered. So an answer is always told from one that is no longer wanted, and a slow line
// or server is never asked more than it answers.

export const same = (a, b) => ["azimuth", "polar", "zoom"].every((key) => Math.abs(a[key] - b[key]) < 1e-6);

const SLOW_MS = 400; // where a full picture takes longer, a preview is shown first

export class Scenes {
  // arrived(header, bytes, made) is called for each picture that is still of use; made: its scene is new.
  constructor(channel, stage, arrived, changed) {
    Object.assign(this, { channel, stage, arrived, changed });
    this.scene = null; // name of the scene that is wanted; null while it is being made, or where there is none
    this.making = null; // function that gives the message by which it is made: [type, fields, payload]
    this.asked = null; // {id, making}: the question that is not answered yet
    this.shown = null; // header of the newest picture
    this.failed = false; // the server could not answer: nothing is asked until something changes
    this.held = []; // to do with the scene that is being made
    this.fullMs = Infinity; // that the newest full picture took
  }

  get busy() {
    return Boolean(this.asked || (this.making && !this.failed));
  }

  // In which quality a new scene is shown first.
  get quickest() {
    return this.fullMs < SLOW_MS ? "full" : "preview";
  }

  make(making) {
    Object.assign(this, { scene: null, making });
    this.refresh();
  }

  choose(scene) {
    Object.assign(this, { scene, making: null });
    this.refresh();
  }

  // Something else may be wanted now.
  refresh() {
    this.failed = false;
    this.ask();
  }

  // Do something with the wanted scene, which may have to be made first.
  whenMade(run) {
    if (!this.making) {
      run();
      return;
    }
    this.held.push(run);
    this.refresh();
  }

  ask() {
    if (!this.asked && !this.failed) {
      const message = this.making ? this.making() : this.look();
      const id = message && this.channel.send(...message);
      this.asked = id ? { id, making: this.making } : null;
    }
    this.changed();
  }

  look() {
    const { scene } = this;
    const { view, settled } = this.stage;
    return scene && !this.isShown(view, !settled) ? ["look", { scene, view, quality: settled ? "full" : "preview" }] : null;
  }

  // Whether the wanted scene is shown in this view.
  isShown(view, previewWillDo = false) {
    const { scene, shown } = this;
    return Boolean(scene && shown?.scene === scene && same(shown.view, view) && (previewWillDo || shown.quality === "full"));
  }

  answer(header, bytes) {
    if (header.id !== this.asked?.id) return;
    const { making } = this.asked;
    this.asked = null;
    if (header.quality === "full") this.fullMs = header.ms;
    if (making && making === this.making) Object.assign(this, { scene: header.scene, making: null });
    if (this.making || header.scene === this.scene) {
      this.shown = header;
      this.arrived(header, bytes, Boolean(making));
    }
    while (!this.making && this.held.length) this.held.shift()();
    this.ask();
  }

  // The server could not answer what was asked under this id; whether that was a question of ours.
  refuse(id) {
    if (id !== this.asked?.id) return false;
    this.failed = this.asked.making === this.making;
    this.asked = null;
    if (this.failed) this.held = [];
    this.ask();
    return true;
  }

  // What was asked will not be answered.
  disconnect() {
    this.asked = null;
    this.held = [];
    this.changed();
  }
}
