// The page: what is painted and shown, and which messages that makes.

import { Board, packed } from "./board.js";
import { Channel, MAX_MESSAGE_BYTES } from "./channel.js";
import { drawCompass, inWords } from "./compass.js";
import { Downloads } from "./downloads.js";
import { Drawing, Undo } from "./drawing.js";
import { History } from "./history.js";
import { fillHelp, listen } from "./keys.js";
import { note } from "./notes.js";
import { fillPalette } from "./palette.js";
import { Stage } from "./stage.js";

const TURN_STEP_RAD = Math.PI / 36; // of an arrow key
const ZOOM_STEP = 1.1;
const BLEND_STEP = 0.05;
const LARGEST_BRUSH = 1 / 4; // of the drawing
const MAX_SEED = 2 ** 32 - 1;

const at = (id) => document.getElementById(id);
const same = (a, b) => ["azimuth", "polar", "zoom"].every((key) => Math.abs(a[key] - b[key]) < 1e-6);

const state = {
  hello: null, // what the server said of its network
  drawing: null,
  place: null, // the view that the drawing is painted in
  scene: null, // what is shown
  style: null, // the scene whose texture is kept, or null
  picture: null, // {view, quality, ids} of what is shown
  id: 1, // of the chosen class
  tool: "brush",
  edits: new Map(), // sent and not answered: id to {ids, place, seed}
  newest: 0, // id of the newest request for a picture
  wanted: null, // {view, settled}: the view to ask for at the next frame
  whenFull: null, // to call with the next full picture
  opening: new Map(), // files that the server reads: id to name
};
const undo = new Undo();
const downloads = new Downloads(at("progress-row"), at("progress"));
const say = (text, bad) => note(at("notes"), text, bad);

// ---------------------------------------------------------------------------- server

const receivers = {
  hello, picture, error,
  drawing: openedDrawing,
  session: openedSession,
  file: (header, bytes) => downloads.deliver(header, bytes),
  progress: (header) => downloads.progress(header),
};
const channel = new Channel((header, bytes) => receivers[header.type](header, bytes), connected);

function connected(open) {
  at("status").textContent = open ? "" : "no connection to the server; trying again…";
  at("status").classList.toggle("bad", !open);
  if (!open) {
    state.edits.clear();
    downloads.endAll();
  }
}

function hello(header) {
  const again = state.hello;
  state.hello = header;
  if (again && JSON.stringify(again) !== JSON.stringify(header)) location.reload(); // another network now
  if (again) {
    requestLook(stage.view, "full");
    return;
  }
  const { resolution, classes, orbit, front, cfg, data_type } = header;
  const colours = Uint32Array.from(classes, ({ colour }) => packed(colour));
  at("network").textContent = `${cfg}, ${data_type === "edge" ? "edges" : `${classes.length} classes`}, ${resolution} pixels`;
  state.drawing = new Drawing(resolution);
  state.place = { ...front };
  board.use(state.drawing, colours);
  stage.use(orbit, front, resolution, colours);
  at("size").max = Math.round(resolution * LARGEST_BRUSH);
  setSize(Math.max(1, Math.round(resolution / (data_type === "edge" ? 64 : 16))));
  fillPalette(at("classes"), classes, setClass);
  setClass(1);
  showPlaces();
  showUndo();
  document.body.dataset.ready = "true";
}

function requestEdit({ style = state.style, geometry = null } = {}) {
  const seed = Number(at("seed").value);
  const ids = state.drawing.ids.slice();
  const id = channel.send("edit", { place: state.place, seed, style, geometry, view: stage.view }, ids);
  if (!id) return;
  state.edits.set(id, { ids, place: state.place, seed });
  state.newest = id;
  busy();
}

function requestLook(view, quality) {
  // An unanswered edit will be the newest scene, which null stands for.
  const scene = state.edits.size ? null : state.scene;
  if (!scene && !state.edits.size) return;
  state.newest = channel.send("look", { scene, view, quality }) || state.newest;
  busy();
}

function picture(header, bytes) {
  const edit = state.edits.get(header.id);
  for (const id of state.edits.keys()) if (id <= header.id) state.edits.delete(id); // replaced by this one
  if (edit) {
    state.scene = header.scene;
    if (at("keep-style").checked && !state.style) state.style = header.scene;
  }
  show(header, bytes); // they come in the order in which they were asked for
  if (edit) results.add({ scene: header.scene, ...edit }, at("image"));
  busy();
}

function show(header, bytes) {
  const count = state.hello.resolution ** 2;
  const ids = bytes.slice(3 * count);
  stage.show(bytes.subarray(0, 3 * count), ids);
  state.scene = header.scene;
  state.picture = { view: header.view, quality: header.quality, ids };
  at("empty").hidden = true;
  at("timing").textContent = `${Math.round(header.ms)} ms`;
  Object.assign(at("orbit").dataset, { id: header.id, scene: header.scene, quality: header.quality, view: JSON.stringify(header.view) });
  if (header.quality === "full" && same(header.view, stage.view)) {
    state.whenFull?.();
    state.whenFull = null;
  }
}

function busy() {
  const waiting = Number(at("orbit").dataset.id ?? 0) < state.newest;
  at("orbit").dataset.busy = waiting;
  if (channel.socket.readyState === WebSocket.OPEN) at("status").textContent = waiting ? "rendering…" : "";
}

function error(header) {
  const file = state.opening.get(header.id);
  say(file ? `${file}: ${header.reason}` : header.reason, true);
  state.edits.delete(header.id);
  downloads.ended(header.id);
  if (header.id === state.newest) {
    state.newest = 0;
    busy();
  }
}

// ---------------------------------------------------------------------------- painting

const board = new Board(at("drawing"), at("cursor"), () => ({ tool: state.tool, size: Number(at("size").value), id: state.id }), {
  ended(before) {
    undo.push({ ids: before, place: state.place });
    showUndo();
    requestEdit();
  },
  picked: setClass,
});

function replaceDrawing(ids, place = state.place) {
  state.drawing.ids.set(ids);
  state.place = place;
  board.draw();
  showPlaces();
  showUndo();
}

function change(ids, place) {
  undo.push({ ids: state.drawing.ids.slice(), place: state.place });
  replaceDrawing(ids, place);
}

function step(back) {
  const next = undo.move(back, { ids: state.drawing.ids.slice(), place: state.place });
  if (!next) return;
  replaceDrawing(next.ids, next.place);
  requestEdit();
}

function showUndo() {
  document.querySelector('[data-action="undo"]').disabled = !undo.past.length;
  document.querySelector('[data-action="redo"]').disabled = !undo.future.length;
}

function setTool(tool) {
  state.tool = tool;
  for (const button of at("tool-choice").children) button.setAttribute("aria-checked", String(button.dataset.tool === tool));
}

function setSize(size) {
  at("size").value = size;
  at("size-shown").textContent = `${at("size").value} px`;
}

function setClass(id) {
  if (id < 0 || id >= state.hello.classes.length) return;
  state.id = id;
  for (const button of at("classes").children) button.setAttribute("aria-checked", String(Number(button.dataset.id) === id));
  if (state.tool === "eraser") setTool("brush");
}

// ---------------------------------------------------------------------------- turning

const stage = new Stage(at("orbit"), at("image"), at("labels"), (view, settled) => {
  if (!state.wanted) requestAnimationFrame(askForView); // at most one question a frame
  state.wanted = { view, settled };
  showPlaces();
});

function askForView() {
  const { view, settled } = state.wanted;
  state.wanted = null;
  const shown = state.picture;
  if (settled && shown?.quality === "full" && same(shown.view, view) && !state.edits.size) return;
  requestLook(view, settled ? "full" : "preview");
}

function editFromHere() {
  if (!state.scene) return;
  const here = { ...stage.view, zoom: state.hello.front.zoom }; // the network knows drawings in its own lens only
  const take = () => change(state.picture.ids, here);
  const { picture: shown, edits } = state;
  if (shown.quality === "full" && same(shown.view, here) && same(stage.view, here) && !edits.size) {
    take();
  } else {
    state.whenFull = take;
    stage.look(here, true);
  }
}

function showPlaces() {
  at("place").textContent = inWords(state.place);
  at("seen-from").textContent = `${inWords(stage.view)}${stage.view.zoom === 1 ? "" : `, ${stage.view.zoom.toFixed(2)}×`}`;
  drawCompass(at("compass"), state.place, stage.view);
}

// ---------------------------------------------------------------------------- style, history

function keepStyle() {
  state.style = at("keep-style").checked ? state.scene : null;
}

function newStyle(seed) {
  at("seed").value = seed;
  state.style = null;
  if (state.scene) requestEdit({ geometry: state.scene });
}

const results = new History(at("strip"), (result) => {
  change(result.ids, result.place);
  at("seed").value = result.seed;
  state.scene = result.scene;
  keepStyle();
  state.edits.clear();
  requestLook(stage.view, "full");
}, (first, second) => {
  at("blend").disabled = !(first && second);
});

function blend(quality) {
  const { first, second } = results;
  if (!first || !second) return;
  results.mark(null);
  const header = { first: first.scene, second: second.scene, share: Number(at("blend").value), view: stage.view, quality };
  state.edits.clear();
  state.newest = channel.send("blend", header) || state.newest;
  busy();
  if (quality === "full") state.whenFull = keepStyle; // further edits keep the blended texture
}

function moveBlend(by) {
  if (at("blend").disabled) return;
  at("blend").value = Number(at("blend").value) + by;
  blend("full");
}

// ---------------------------------------------------------------------------- files

function sessionFields() {
  return { place: state.place, seed: Number(at("seed").value), keep_style: at("keep-style").checked, view: stage.view };
}

function save(what) {
  const [kind, form] = what.split("-");
  if (!state.scene && kind !== "drawing") {
    say("There is nothing to save yet: paint something first.", true);
    return;
  }
  const { scene } = state;
  const send = {
    image: () => channel.send("save_image", { scene, view: stage.view }),
    drawing: () => channel.send("save_drawing", { png_form: form }, state.drawing.ids),
    view: () => channel.send("save_drawing", { png_form: form }, state.picture.ids),
    session: () => channel.send("save_session", { scene, ...sessionFields() }, state.drawing.ids),
    film: () => channel.send("save_film", { scene, film_form: form }),
    mesh: () => channel.send("save_mesh", { scene, mesh_form: form }),
  };
  downloads.asked(send[kind]());
}

async function open(chosen) {
  if (!chosen) return;
  if (chosen.size > MAX_MESSAGE_BYTES - 1000) {
    say(`${chosen.name}: ${Math.round(chosen.size / 2 ** 20)} MB; files up to ${MAX_MESSAGE_BYTES / 2 ** 20} MB are opened`, true);
    return;
  }
  const type = /\.json$/i.test(chosen.name) ? "open_session" : "open_drawing";
  state.opening.set(channel.send(type, {}, new Uint8Array(await chosen.arrayBuffer())), chosen.name);
}

function openedDrawing(_header, bytes) {
  change(bytes, state.place);
  requestEdit();
}

function openedSession(header, bytes) {
  change(bytes, header.place);
  at("seed").value = header.seed;
  at("keep-style").checked = header.keep_style;
  stage.view = stage.within(header.view);
  showPlaces();
  state.edits.clear();
  state.scene = header.scene;
  keepStyle();
  if (header.scene) {
    requestLook(stage.view, "full");
  } else {
    say("This session was saved with other weights: the object is made anew from its drawing.");
    requestEdit();
  }
}

// ---------------------------------------------------------------------------- buttons and keys

const actions = {
  "tool-brush": () => setTool("brush"),
  "tool-eraser": () => setTool("eraser"),
  "tool-fill": () => setTool("fill"),
  "tool-line": () => setTool("line"),
  smaller: () => setSize(Number(at("size").value) - 1),
  larger: () => setSize(Number(at("size").value) + 1),
  class: (event) => setClass(Number(event.key)),
  "class-before": () => setClass(state.id - 1),
  "class-after": () => setClass(state.id + 1),
  undo: () => step(true),
  redo: () => step(false),
  clear() {
    change(new Uint8Array(state.drawing.ids.length));
    requestEdit();
  },
  open: () => at("file").click(),
  turn(event) {
    const [right, up] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    stage.turn(right * TURN_STEP_RAD, up * TURN_STEP_RAD, !event.repeat);
  },
  nearer: () => stage.zoomBy(ZOOM_STEP, true),
  farther: () => stage.zoomBy(1 / ZOOM_STEP, true),
  reset: () => stage.look(state.hello.front, true),
  swap() {
    at("reveal").value = at("reveal").value > 50 ? 0 : 100;
    stage.reveal(at("reveal").value);
  },
  "edit-here": editFromHere,
  "keep-style"() {
    at("keep-style").checked = !at("keep-style").checked;
    keepStyle();
  },
  "new-style": () => newStyle((Number(at("seed").value) + 1) % (MAX_SEED + 1)),
  "result-before": () => results.step(-1),
  "result-after": () => results.step(1),
  end: () => results.nextEnd(),
  "towards-first": () => moveBlend(-BLEND_STEP),
  "towards-second": () => moveBlend(BLEND_STEP),
  save: () => save(at("save-what").value),
  "save-session": () => save("session"),
  cancel: () => channel.send("cancel"),
  help: () => at("help").showModal(),
};
const act = (action, event) => state.hello && !board.stroke && actions[action](event);

setTool("brush");
fillHelp(at("keys"));
listen(act);
for (const button of document.querySelectorAll("[data-action]")) button.addEventListener("click", (event) => act(button.dataset.action, event));
for (const button of at("tool-choice").children) button.addEventListener("click", () => setTool(button.dataset.tool));
at("size").addEventListener("input", () => setSize(at("size").value));
at("keep-style").addEventListener("change", keepStyle);
at("seed").addEventListener("change", () => {
  const seed = Math.min(Math.max(Math.trunc(Number(at("seed").value)) || 0, 0), MAX_SEED);
  newStyle(seed);
});
at("reveal").addEventListener("input", () => stage.reveal(at("reveal").value));
at("blend").addEventListener("input", () => blend("preview"));
at("blend").addEventListener("change", () => blend("full"));
at("file").addEventListener("change", () => {
  open(at("file").files[0]);
  at("file").value = ""; // so that the same file can be chosen again
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", name === "dragover");
    if (name === "drop") open(event.dataTransfer.files[0]);
  });
}
