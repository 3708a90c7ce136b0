// Saving and opening files, which the server writes and reads.

import { MAX_MESSAGE_BYTES } from "./channel.js";

const HEADER_BYTES = 1000; // upper bound for the header of a message with a file
const OPENING_BRACE = "{".charCodeAt(0); // first byte of a session, and of no image

export class Files {
  constructor(channel, state, renderer, viewer, downloads, notify) {
    Object.assign(this, { channel, state, renderer, viewer, downloads, notify });
    this.opening = new Map(); // name of each file that the server is reading, by request id
    this.cfg = ""; // configuration of the network
    this.sessions = new Map(); // number of changes in each session that the server is writing, by request id
  }

  // Return whether there is a connection; without one, show an error.
  requireConnection() {
    if (!this.channel.isOpen) this.notify("Not connected to the server. Try again once the connection is back.", true);
    return this.channel.isOpen;
  }

  // First part of the names of files: the configuration and the style.
  get prefix() {
    const { seed, photo } = this.state;
    const stem = photo?.label.replace(/\.[^.]*$/, "").replaceAll(" ", "-");
    return `${this.cfg}_${photo ? `style-${stem}` : `seed${seed}`}`;
  }

  // Save one of the options of the "Save" menu. Everything but the drawing waits for the scene of the latest edit, and
  // uses the current view.
  save(option) {
    if (!this.requireConnection()) return;
    const { channel, state, renderer, downloads, viewer: { view } } = this;
    const [kind, format] = option.split("-");

    if (kind === "drawing") {
      downloads.start(channel.send("save_drawing", { png_format: format }, state.canvas.committedIds), this.prefix);
      return;
    }
    if (!renderer.scene && !renderer.sceneRequest) {
      this.notify("There is nothing to save yet. Draw something first.", true);
      return;
    }
    const send = {
      image: (scene) => channel.send("save_image", { scene, view }),
      labels: (scene) => channel.send("save_labels", { scene, view, png_format: format }),
      session: (scene) => this.saveSession(scene, view),
      video: (scene) => channel.send("save_video", { scene, video_format: format }),
      mesh: (scene) => channel.send("save_mesh", { scene, mesh_format: format }),
    };
    renderer.whenReady(() => downloads.start(send[kind](renderer.scene), this.prefix));
  }

  saveSession(scene, view) {
    const { drawingView, seed, photo, changeCount, canvas } = this.state;
    const photoName = photo?.name ?? null;
    const header = { scene, drawing_view: drawingView, seed, photo: photoName, keep_style: this.state.keepsStyle(), view };
    const id = this.channel.send("save_session", header, canvas.committedIds);
    this.sessions.set(id, changeCount);
    return id;
  }

  handleFile(header, bytes) {
    this.downloads.save(header, bytes);
    this.state.savedCount = Math.max(this.state.savedCount, this.sessions.get(header.id) ?? 0);
  }

  // Open a label map or a session, or with `type` "open_photo" a photo.
  async open(file, type = null) {
    if (!file || !this.requireConnection()) return;
    if (file.size > MAX_MESSAGE_BYTES - HEADER_BYTES) {
      const [size, limit] = [file.size, MAX_MESSAGE_BYTES].map((bytes) => Math.round(bytes / 2 ** 20));
      this.notify(`${file.name}: the file has ${size} MB; the limit is ${limit} MB`, true);
      return;
    }

    const content = new Uint8Array(await file.arrayBuffer());
    const isSession = content[0] === OPENING_BRACE || /\.json$/i.test(file.name);
    this.opening.set(this.channel.send(type ?? (isSession ? "open_session" : "open_drawing"), {}, content), file.name);
  }

  // The name of a file that the server was asked to read.
  nameOf(id) {
    return this.opening.get(id);
  }

  // The message of an error, with the name of the file that it is about.
  describeError({ id, reason }) {
    const name = this.nameOf(id);
    return name ? `${name}: ${reason}` : reason;
  }
}
