// The page: its elements, what they show, and what its buttons and keys do.

import { Board, packed } from "./board.js";
import { Channel } from "./channel.js";
import { drawCompass, inWords } from "./compass.js";
import { Downloads } from "./downloads.js";
import { Drawing } from "./drawing.js";
import { Files } from "./files.js";
import { History } from "./history.js";
import { fillHelp, listen } from "./keys.js";
import { Lens } from "./lens.js";
import { note } from "./notes.js";
import { fillPalette } from "./palette.js";
import { same, Scenes } from "./scenes.js";
import { Stage } from "./stage.js";
import { Work } from "./work.js";

const TURN_STEP_RAD = Math.PI / 36; // of an arrow key
const ZOOM_STEP = 1.1;
const SIZE_STEP = 1.2;
const BLEND_STEP = 0.05;
const LARGEST_BRUSH = 1 / 4; // of the drawing
const MAX_SEED = 2 ** 32 - 1;
const OVERLAY = 50; // percent, of its key
const PATIENCE_MS = 1000; // waiting is said after that

const at = (id) => document.getElementById(id);
const say = (text, bad) => note(at("notes"), text, bad);
const buttonOf = (action) => document.querySelector(`[data-action="${action}"]`);

const state = {
  hello: null, // what the server said of its network
  id: 1, // of the chosen class
  tool: "brush",
  taking: null, // the view whose label map becomes the drawing when it has come
  awaited: undefined, // id of the question that the page waits for
  patience: null, // timer after which it says so
};

// ---------------------------------------------------------------------------- server

const receivers = {
  hello, error,
  picture: (header, bytes) => scenes.answer(header, bytes),
  drawing: (_header, bytes) => board.whenFree(() => work.change({ ids: bytes, scene: null })),
  session: (header, bytes) => board.whenFree(() => openedSession(header, bytes)),
  file: (header, bytes) => files.deliver(header, bytes),
  progress: (header) => downloads.progress(header),
  canceled: (header) => downloads.ended(header.id),
};
const channel = new Channel((header, bytes) => receivers[header.type](header, bytes), connected);

function connected(open, reason) {
  at("status").textContent = open ? "" : `${reason || "no connection to the server"}; trying again…`;
  at("status").classList.toggle("bad", !open);
  if (open) return;
  state.taking = null;
  scenes.disconnect();
  downloads.endAll();
}

function hello(header, bytes) {
  const before = state.hello;
  if (!before) {
    begin(header, bytes);
  } else if (JSON.stringify({ ...before, network: "" }) !== JSON.stringify({ ...header, network: "" })) {
    say("The server shows another network now, which this drawing does not fit. Reload the page to begin anew.", true);
  } else {
    state.hello = header;
    if (before.network !== header.network && scenes.shown) work.forgotten();
    else scenes.refresh(); // what was drawn meanwhile
  }
}

function begin(header, example) {
  state.hello = header;
  const { resolution, classes, orbit, front, cfg, data_type } = header;
  const colors = Uint32Array.from(classes, ({ color }) => packed(color));
  at("network").textContent = `${cfg}, ${data_type === "edge" ? "edges" : `${classes.length} classes`}, ${resolution} pixels`;
  const drawing = new Drawing(resolution);
  board.use(drawing, colors);
  stage.use(orbit, front, resolution, colors);
  work.use(drawing, { ...front });
  at("overlay").width = at("overlay").height = resolution;
  at("size").max = Math.round(resolution * LARGEST_BRUSH);
  setSize(Math.max(1, Math.round(resolution / (data_type === "edge" ? 64 : 16))));
  fillPalette(at("classes"), classes, setClass);
  setClass(1);
  if (example.length) {
    drawing.ids.set(example);
    work.edit();
  }
  showWork();
  document.body.dataset.ready = "true";
}

function error(header) {
  downloads.ended(header.id);
  if (header.lost) {
    say("The server does not know this object any more: it is made again from the drawing.");
    work.forgotten();
  } else {
    say(files.named(header), true);
  }
  scenes.refuse(header.id);
  if (scenes.failed) state.taking = null;
}

// ---------------------------------------------------------------------------- what is shown

const stage = new Stage(at("orbit"), at("image"), at("labels"), () => {
  if (state.taking && !same(state.taking, stage.view)) state.taking = null;
  showPlaces();
  scenes.refresh();
});
const scenes = new Scenes(channel, stage, picture, showWaiting, (run) => board.whenFree(run));

const board = new Board(at("drawing"), at("cursor"), tools, {
  ended: (before) => work.stroked(before),
  picked(id) {
    setClass(id);
    if (state.tool === "pick") setTool("brush");
  },
});

const work = new Work(board, stage, scenes, () => at("keep-style").checked, showWork);
const downloads = new Downloads(at("progress-row"), at("progress"));
const files = new Files(channel, work, scenes, stage, downloads, say);

const results = new History(at("strip"), (result) => work.change(result), (first, second) => {
  at("blend").disabled = !(first && second);
});

function picture(header, bytes, made) {
  const count = state.hello.resolution ** 2;
  const ids = bytes.slice(3 * count, 4 * count);
  stage.show(bytes.subarray(0, 3 * count), ids);
  if (made) work.made(header.scene);
  at("empty").hidden = true;
  at("timing").textContent = `${Math.round(header.ms)} ms`;
  Object.assign(at("orbit").dataset, { id: header.id, scene: header.scene, quality: header.quality, view: JSON.stringify(header.view) });
  showOverlay();
  if (header.quality !== "full" || scenes.making) return;
  if (bytes.length > 4 * count) work.change({ ids: bytes.slice(4 * count) }); // what a blend looks like is its drawing
  if (state.taking && same(state.taking, header.view) && !board.stroke) take(ids, header.view);
  results.add(work.snapshot(), at("image"));
}

function showWaiting() {
  at("orbit").dataset.busy = scenes.busy;
  const awaited = scenes.asked?.id;
  if (awaited === state.awaited) return;
  state.awaited = awaited;
  clearTimeout(state.patience);
  if (awaited) state.patience = setTimeout(() => (at("status").textContent = "rendering…"), PATIENCE_MS);
  else if (channel.isOpen) at("status").textContent = "";
}

function showWork() {
  state.taking = null;
  at("seed").value = work.seed;
  showPlaces();
  showOverlay();
  showEnabled();
}

function showEnabled() {
  const object = Boolean(scenes.scene || scenes.making);
  const able = {
    undo: work.undo.past.length, redo: work.undo.future.length, clear: board.ids.some(Boolean),
    "edit-here": object, "new-style": object, save: object || at("save-what").value.startsWith("drawing"),
  };
  for (const [action, possible] of Object.entries(able)) buttonOf(action).disabled = !possible;
}

function showPlaces() {
  at("place").textContent = inWords(work.place);
  at("seen-from").textContent = `${inWords(stage.view)}${stage.view.zoom === 1 ? "" : `, ${stage.view.zoom.toFixed(2)}×`}`;
  drawCompass(at("compass"), work.place, stage.view);
}

// The image over the drawing, where it was rendered from the drawing's place.
function showOverlay() {
  const fits = Boolean(scenes.shown && same(scenes.shown.view, work.place));
  at("overlay").hidden = !fits;
  at("overlay").style.opacity = at("overlay-share").value / 100;
  if (fits) at("overlay").getContext("2d").drawImage(at("image"), 0, 0);
}

// ---------------------------------------------------------------------------- tools

function tools() {
  const blending = work.before && scenes.busy; // the drawing is about to become another
  return blending ? null : { tool: state.tool, size: Number(at("size").value), id: state.id };
}

function press(buttons, pressed) {
  for (const button of buttons) button.setAttribute("aria-pressed", String(pressed(button)));
}

function setTool(tool) {
  state.tool = tool;
  press(at("tool-choice").children, (button) => button.dataset.tool === tool);
}

function setSize(size) {
  at("size").value = size;
  at("size-shown").textContent = `${at("size").value} px`;
}

function scaleSize(factor) {
  const size = Number(at("size").value);
  const scaled = Math.round(size * factor);
  setSize(scaled === size ? size + Math.sign(factor - 1) : scaled);
}

function setClass(id) {
  if (id < 0 || id >= state.hello.classes.length) return;
  state.id = id;
  press(at("classes").children, (button) => Number(button.dataset.id) === id);
  if (state.tool === "eraser") setTool("brush");
}

// ---------------------------------------------------------------------------- scenes

function editFromHere() {
  const here = { ...stage.view, zoom: state.hello.front.zoom }; // the network knows drawings in its own lens only
  state.taking = here;
  stage.look(here, true);
  if (scenes.isShown(here)) take(stage.ids, here);
}

function take(ids, place) {
  state.taking = null;
  work.change({ ids, place });
}

function keepStyle() {
  work.style = at("keep-style").checked ? scenes.scene : null;
}

function newStyle(seed) {
  scenes.whenMade(() => work.change({ seed: seed(), style: null, geometry: scenes.scene, scene: null }));
}

function typedSeed() {
  return Math.min(Math.max(Math.trunc(at("seed").valueAsNumber) || 0, 0), MAX_SEED);
}

function blend(quality) {
  const { first, second } = results;
  if (!first || !second) return;
  results.mark(null);
  if (quality === "preview") stage.stir();
  work.blend(first.scene, second.scene, Number(at("blend").value), quality);
}

function moveBlend(by) {
  if (at("blend").disabled) return;
  at("blend").value = Number(at("blend").value) + by;
  blend("full");
}

function openedSession(header, bytes) {
  at("keep-style").checked = header.keep_style;
  stage.view = stage.within(header.view);
  if (!header.scene) say("This session was saved with other weights: the object is made anew from its drawing.");
  const { place, seed, scene } = header;
  work.change({ ids: bytes, place, seed, scene, style: scene });
  work.saved = work.changes;
}

// ---------------------------------------------------------------------------- buttons and keys

const actions = {
  "tool-brush": () => setTool("brush"),
  "tool-eraser": () => setTool("eraser"),
  "tool-fill": () => setTool("fill"),
  "tool-line": () => setTool("line"),
  "tool-pick": () => setTool("pick"),
  smaller: () => scaleSize(1 / SIZE_STEP),
  larger: () => scaleSize(SIZE_STEP),
  class: (event) => setClass(Number(event.key)),
  "class-before": () => setClass(state.id - 1),
  "class-after": () => setClass(state.id + 1),
  undo: () => work.step(true),
  redo: () => work.step(false),
  clear: () => work.change({ ids: new Uint8Array(board.ids.length), scene: null }),
  open: () => at("file").click(),
  turn(event) {
    const [right, up] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    stage.turn(right * TURN_STEP_RAD, up * TURN_STEP_RAD, !event.repeat);
  },
  nearer: (event) => stage.zoomBy(ZOOM_STEP, !event.repeat),
  farther: (event) => stage.zoomBy(1 / ZOOM_STEP, !event.repeat),
  reset: () => stage.look(state.hello.front, true),
  swap() {
    at("reveal").value = at("reveal").value > 50 ? 0 : 100;
    stage.reveal(at("reveal").value);
  },
  overlay() {
    at("overlay-share").value = at("overlay-share").value > 0 ? 0 : OVERLAY;
    showOverlay();
  },
  "edit-here": editFromHere,
  "keep-style"() {
    at("keep-style").checked = !at("keep-style").checked;
    keepStyle();
  },
  "new-style": () => newStyle(() => (work.seed + 1) % (MAX_SEED + 1)),
  "result-before": () => results.step(-1),
  "result-after": () => results.step(1),
  end: () => results.nextEnd(),
  "towards-first": () => moveBlend(-BLEND_STEP),
  "towards-second": () => moveBlend(BLEND_STEP),
  save: () => files.save(at("save-what").value),
  "save-session": () => files.save("session"),
  cancel: () => channel.send("cancel"),
  help: () => (at("help").open ? at("help").close() : at("help").showModal()),
};

function act(action, event) {
  if (board.stroke && action === "cancel") board.abort();
  else if (state.hello && !board.stroke && !buttonOf(action)?.disabled) actions[action](event);
}

setTool("brush");
fillHelp(at("keys"));
listen(act);
new Lens(at("frame"), at("sheet"));
for (const button of document.querySelectorAll("[data-action]")) button.addEventListener("click", (event) => act(button.dataset.action, event));
for (const button of at("tool-choice").children) button.addEventListener("click", () => setTool(button.dataset.tool));
at("size").addEventListener("input", () => setSize(at("size").value));
at("keep-style").addEventListener("change", keepStyle);
at("seed").addEventListener("change", () => {
  const seed = typedSeed();
  if (scenes.scene || scenes.making) newStyle(() => seed);
  else work.seed = seed;
});
at("reveal").addEventListener("input", () => stage.reveal(at("reveal").value));
at("overlay-share").addEventListener("input", showOverlay);
at("blend").addEventListener("input", () => blend("preview"));
at("blend").addEventListener("change", () => blend("full"));
at("save-what").addEventListener("change", showEnabled);
at("file").addEventListener("change", () => {
  files.open(at("file").files[0]);
  at("file").value = ""; // so that the same file can be chosen again
});
at("help").addEventListener("click", (event) => {
  if (event.target === at("help")) at("help").close(); // beside what it holds
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", name === "dragover");
    if (name === "drop") files.open(event.dataTransfer.files[0]);
  });
}
window.addEventListener("beforeunload", (event) => {
  if (work.unsaved) event.preventDefault();
});
