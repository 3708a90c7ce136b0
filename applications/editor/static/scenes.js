// Which scene the page shows, and the one question about pictures that the server is answering.
//
// Whatever happens on the page only changes what is wanted; `ask` compares that with what is shown and sends the next
// question once the last is answered. So an answer is always told from one that is no longer wanted, and a slow line
// or server is never asked more than it answers.

export const same = (a, b) => ["azimuth", "polar", "zoom"].every((key) => Math.abs(a[key] - b[key]) < 1e-6);

const SLOW_MS = 400; // where a full picture takes longer, a preview is shown first

export class Scenes {
  // arrived(header, bytes, made) is called for each picture that is still of use; made: its scene is the wanted one, and
  // new. whenFree(run) runs something once no stroke is under way.
  constructor(channel, stage, arrived, changed, whenFree) {
    Object.assign(this, { channel, stage, arrived, changed, whenFree });
    this.scene = null; // name of the scene that is wanted; null while it is being made, or where there is none
    this.making = null; // function that gives the message by which it is made: [type, fields, payload]
    this.asked = null; // {id, making, header}: the question that is not answered yet
    this.shown = null; // header of the newest picture
    this.failed = false; // the server could not answer: nothing is asked until something changes
    this.held = []; // to do with the wanted scene once it is made and no stroke is under way
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
    this.held.push(run);
    if (this.making) this.refresh();
    else this.runHeld();
  }

  runHeld() {
    this.whenFree(() => {
      while (!this.making && this.held.length) this.held.shift()();
    });
  }

  ask() {
    if (!this.asked && !this.failed) {
      const message = this.wanted();
      const id = message && this.channel.send(...message);
      this.asked = id ? { id, making: this.making, header: JSON.stringify(message[1]) } : null;
    }
    this.changed();
  }

  // The message to send next, if any.
  wanted() {
    return this.making ? this.making() : this.look();
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
    const made = Boolean(making) && making === this.making;
    this.asked = null;
    if (header.quality === "full") this.fullMs = header.ms;
    if (made) Object.assign(this, { scene: header.scene, making: null });
    if (this.making || header.scene === this.scene) {
      this.shown = header;
      this.arrived(header, bytes, made);
    }
    this.runHeld();
    this.ask();
  }

  // The server could not answer what was asked under this id. The same is not asked again.
  refuse(id) {
    if (id !== this.asked?.id) return;
    const { making, header } = this.asked;
    this.asked = null;
    this.failed = making === this.making && header === JSON.stringify(this.wanted()?.[1]);
    if (this.failed) this.held = [];
    this.ask();
  }

  // What was asked will not be answered.
  disconnect() {
    this.asked = null;
    this.held = [];
    this.changed();
  }
}
