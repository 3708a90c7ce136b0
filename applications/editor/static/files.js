// Files to save and files to open: what the page asks the server for.

import { MAX_MESSAGE_BYTES } from "./channel.js";

const HEADER_BYTES = 1000; // more than that of any message
const BRACE = "{".charCodeAt(0); // begins a session and no picture

export class Files {
  constructor(channel, work, scenes, stage, downloads, say) {
    Object.assign(this, { channel, work, scenes, stage, downloads, say });
    this.opening = new Map(); // what the server reads: id to name
    this.sessions = new Map(); // that the server writes: id to how many changes they have
  }

  // Whether the server can be asked for a file; says so where not.
  get possible() {
    if (!this.channel.isOpen) this.say("Files need the server, and there is no connection to it: try again later.", true);
    return this.channel.isOpen;
  }

  // What is kept of a scene waits until it is that of the drawing, and shows it as it is seen now.
  save(what) {
    if (!this.possible) return;
    const { channel, work, scenes, downloads, stage: { view } } = this;
    const [kind, form] = what.split("-");
    const send = {
      image: (scene) => channel.send("save_image", { scene, view }),
      view: (scene) => channel.send("save_labels", { scene, view, png_form: form }),
      session: (scene) => this.saveSession(scene, view),
      film: (scene) => channel.send("save_film", { scene, film_form: form }),
      mesh: (scene) => channel.send("save_mesh", { scene, mesh_form: form }),
    };
    if (kind === "drawing") downloads.asked(channel.send("save_drawing", { png_form: form }, work.board.ids));
    else if (scenes.scene || scenes.making) scenes.whenMade(() => downloads.asked(send[kind](scenes.scene)));
    else this.say("There is nothing to save yet: paint something first.", true);
  }

  saveSession(scene, view) {
    const { place, seed, changes, board } = this.work;
    const header = { scene, place, seed, keep_style: this.work.keepsStyle(), view };
    const id = this.channel.send("save_session", header, board.ids);
    this.sessions.set(id, changes);
    return id;
  }

  deliver(header, bytes) {
    this.downloads.deliver(header, bytes);
    this.work.saved = Math.max(this.work.saved, this.sessions.get(header.id) ?? 0);
  }

  async open(chosen) {
    if (!chosen || !this.possible) return;
    if (chosen.size > MAX_MESSAGE_BYTES - HEADER_BYTES) {
      const [size, limit] = [chosen.size, MAX_MESSAGE_BYTES].map((bytes) => Math.round(bytes / 2 ** 20));
      this.say(`${chosen.name}: ${size} MB; files up to ${limit} MB are opened`, true);
      return;
    }
    const content = new Uint8Array(await chosen.arrayBuffer());
    const session = content[0] === BRACE || /\.json$/i.test(chosen.name);
    this.opening.set(this.channel.send(session ? "open_session" : "open_drawing", {}, content), chosen.name);
  }

  // The reason of an error, after the name of the file that it is about.
  named({ id, reason }) {
    const name = this.opening.get(id);
    return name ? `${name}: ${reason}` : reason;
  }
}
