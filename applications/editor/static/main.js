// Entry point of the page: connects the modules, handles server messages, and defines what buttons and shortcuts do.

import { Channel } from "./channel.js";
import { describeView, drawCompass, yaw } from "./compass.js";
import { describeNetwork } from "./description.js";
import { Downloads } from "./downloads.js";
import { Drawing } from "./drawing.js";
import { DrawingCanvas, packColor } from "./drawing_canvas.js";
import { EditorState } from "./editor_state.js";
import { fillExamples } from "./examples.js";
import { Files } from "./files.js";
import { Notifications } from "./notifications.js";
import { fillPalette } from "./palette.js";
import { RenderClient, sameView } from "./render_client.js";
import { ResultStrip } from "./results.js";
import { fillShortcutList, listenForShortcuts } from "./shortcuts.js";
import { StrokeCheck } from "./stroke_check.js";
import { Viewer } from "./viewer.js";
import { CanvasZoom } from "./zoom.js";

const ROTATION_STEP_RAD = Math.PI / 36; // of an arrow key
const ZOOM_STEP = 1.1;
const BRUSH_STEP = 1.2;
const BLEND_STEP = 0.05;
const MAX_BRUSH = 1 / 4; // of the drawing's side
const DEFAULT_BRUSH = { seg: 1 / 16, edge: 1 / 64 }; // of the drawing's side
const MAX_SEED = 2 ** 32 - 1;
const MAX_SINE = 1e-3; // of the yaw of a drawing from the front or from behind
const DEFAULT_OVERLAY = 50; // percent
const PATIENCE_MS = 1000; // "Rendering…" appears after this

const byId = (id) => document.getElementById(id);
const actionButton = (action) => document.querySelector(`[data-action="${action}"]`);

const ui = {
  hello: null, // first message of the server: the network and its limits
  classId: 1, // selected class
  tool: "brush",
  viewToEdit: null, // after "Edit from here": the view whose label map becomes the drawing once it is rendered
  requestId: undefined, // id of the request in flight
  patienceTimer: null,
};

// ------------------------------------------------------------------------------------------------ server messages

const handlers = {
  hello: handleHello,
  error: handleError,
  image: (header, bytes) => renderer.handleImage(header, bytes),
  drawing: (_header, bytes) => canvas.whenIdle(() => state.change({ ids: bytes, scene: null })),
  session: (header, bytes) => canvas.whenIdle(() => restoreSession(header, bytes)),
  photo: (header) => canvas.whenIdle(() => setStyle({ photo: { name: header.photo, label: files.nameOf(header.id) } })),
  file: (header, bytes) => files.handleFile(header, bytes),
  progress: (header) => downloads.showProgress(header),
  canceled: (header) => downloads.finish(header.id),
  labels: (header, bytes) => strokeCheck.handleLabels(header, bytes),
};
const channel = new Channel(handleMessage, handleConnectionChange);
const notifications = new Notifications(byId("notifications"));
const showNotification = (text, isError = false) => notifications.show(text, isError, channel.lastId);

function handleMessage(header, bytes) {
  if (header.type !== "error") notifications.handleSuccess(header.id ?? Infinity); // "hello" has no id
  handlers[header.type](header, bytes);
}

function handleConnectionChange(isOpen, reason) {
  byId("status").textContent = isOpen ? "" : `${reason || "Not connected to the server"}. Reconnecting…`;
  byId("status").classList.toggle("error", !isOpen);
  if (isOpen) return;

  ui.viewToEdit = null;
  renderer.handleDisconnect();
  downloads.finishAll();
}

function handleHello(header, bytes) {
  const previous = ui.hello;
  if (!previous) {
    initialize(header, bytes);
    return;
  }

  // Reconnected: the drawing still fits if everything but the weights, and the photo to start with, is the same.
  const others = { name: "", network: "", photo: null };
  const [before, after] = [previous, header].map((hello) => JSON.stringify({ ...hello, ...others }));
  if (before !== after) {
    showNotification("The server now runs a different network. Reload the page to start over.", true);
    return;
  }
  ui.hello = header;
  byId("network").textContent = byId("network").title = describeNetwork(header);
  if (previous.network !== header.network && renderer.shown) state.handleLostScenes();
  else renderer.update(); // sends what was drawn in the meantime
}

function initialize(header, exampleIds) {
  ui.hello = header;
  const { resolution, classes, limits, front, data_type } = header;
  byId("network").textContent = byId("network").title = describeNetwork(header);
  files.cfg = header.cfg;

  // Canvases and state.
  const colors = Uint32Array.from(classes, ({ color }) => packColor(color));
  const drawing = new Drawing(resolution);
  canvas.configure(drawing, colors);
  viewer.configure(limits, front, resolution, colors);
  state.configure(drawing, { ...front });
  byId("overlay").width = byId("overlay").height = resolution;

  // Tools.
  byId("size").max = Math.round(resolution * MAX_BRUSH);
  setBrushSize(Math.max(1, Math.round(resolution * DEFAULT_BRUSH[data_type])));
  fillPalette(byId("classes"), classes, setClass);
  setClass(1);

  // Styles come from photos only if the network encodes them.
  actionButton("choose-photo").hidden = actionButton("choose-photo").disabled = !header.photos;
  state.photo = header.photo;

  const examples = fillExamples(byId("example-row"), header.examples, exampleIds, resolution, colors, openExample);
  byId("examples").hidden = !examples.length;
  if (examples.length) {
    drawing.ids.set(examples[0].ids);
    state.drawingView = examples[0].drawingView;
    state.computeScene();
  }
  showLabelShare();
  showState();
  document.body.dataset.ready = "true";
}

function handleError(header) {
  downloads.finish(header.id);
  if (header.unknown_scene) {
    showNotification("The server no longer has this object. It is being rendered again from the drawing.");
    state.handleLostScenes();
  } else if (header.unknown_photo) {
    showNotification("The server no longer has the photo. The style comes from the seed; choose the photo again to use it.");
    state.handleLostPhoto();
  } else {
    showNotification(files.describeError(header), true);
  }
  renderer.handleError(header.id);
  if (renderer.failed) ui.viewToEdit = null;
}

function restoreSession(header, bytes) {
  byId("keep-style").checked = header.keep_style;
  viewer.view = viewer.clampView(header.view);
  if (!header.scene) {
    showNotification("This session was saved with different weights. Its object is being rendered again from the drawing.");
  }
  const { drawing_view: drawingView, seed, scene } = header;
  const photo = header.photo && { name: header.photo, label: "of the session" };
  state.change({ ids: bytes, drawingView, seed, photo, scene, style: scene });
  state.savedCount = state.changeCount;
}

// ------------------------------------------------------------------------------------------------ modules and display

const viewer = new Viewer(byId("viewer"), byId("image"), byId("labels"), () => {
  // Rotating on cancels "Edit from here".
  if (ui.viewToEdit && !sameView(ui.viewToEdit, viewer.view)) ui.viewToEdit = null;
  showViews();
  renderer.update();
});
const renderer = new RenderClient(channel, viewer, {
  onImage: showImage,
  onChange: showBusy,
  whenIdle: (callback) => canvas.whenIdle(callback),
});
const canvas = new DrawingCanvas(byId("drawing"), byId("cursor"), getTool, {
  onStroke: (idsBefore) => state.commitStroke(idsBefore),
  onPick(id) {
    setClass(id);
    if (ui.tool === "pick") setTool("brush");
  },
  onMove: showBrushPosition,
});
const state = new EditorState(canvas, viewer, renderer, () => byId("keep-style").checked, showState);
const strokeCheck = new StrokeCheck(channel, showNotification);
const downloads = new Downloads(byId("progress-row"), byId("progress"));
const files = new Files(channel, state, renderer, viewer, downloads, showNotification);
const results = new ResultStrip(byId("results"), (result) => state.change(result), showBlend);
const drawingZoom = new CanvasZoom(byId("frame"), byId("zoom-layer"), (scale) => showZoom("drawing-zoom", scale));

function showImage(header, bytes, isNewScene) {
  // The message holds RGB, class ids, and for a blend the class ids seen from the drawing's view.
  const count = ui.hello.resolution ** 2;
  const ids = bytes.slice(3 * count, 4 * count);
  viewer.showImage(bytes.subarray(0, 3 * count), ids);
  if (isNewScene) state.handleNewScene(header.scene);

  byId("placeholder").hidden = true;
  byId("timing").textContent = `${Math.round(header.ms)} ms`;
  const { id, scene, quality, view } = header;
  Object.assign(byId("viewer").dataset, { id, scene, quality, view: JSON.stringify(view) });
  showOverlay();
  if (quality !== "full" || renderer.sceneRequest) return;

  // The label map becomes the drawing after a blend, and after "Edit from here".
  if (bytes.length > 4 * count) state.change({ ids: bytes.slice(4 * count) });
  if (ui.viewToEdit && sameView(ui.viewToEdit, view) && !canvas.stroke) useLabelMap(ids, view);
  results.add(state.snapshot(), byId("image"));
}

function showBusy() {
  byId("viewer").dataset.busy = renderer.busy;
  const requestId = renderer.inFlight?.id;
  if (requestId === ui.requestId) return;

  ui.requestId = requestId;
  clearTimeout(ui.patienceTimer);
  if (requestId) ui.patienceTimer = setTimeout(() => (byId("status").textContent = "Rendering…"), PATIENCE_MS);
  else if (channel.isOpen) byId("status").textContent = "";
}

function showState() {
  ui.viewToEdit = null;
  byId("seed").value = state.seed;
  showPhoto();
  showViews();
  showOverlay();
  updateButtons();
}

function updateButtons() {
  const hasScene = Boolean(renderer.scene || renderer.sceneRequest);
  const enabled = {
    undo: state.history.undoStack.length,
    redo: state.history.redoStack.length,
    clear: canvas.committedIds.some(Boolean),
    "edit-here": hasScene,
    "new-style": hasScene,
  };
  for (const [action, isEnabled] of Object.entries(enabled)) actionButton(action).disabled = !isEnabled;
  for (const item of byId("save-menu").children) item.disabled = !hasScene && !item.dataset.save.startsWith("drawing");
}

function showPhoto() {
  const button = actionButton("choose-photo");
  button.textContent = state.photo ? `Photo ${state.photo.label}` : "Photo…";
  setPressed([button], () => Boolean(state.photo));
}

function showViews() {
  byId("drawing-view").textContent = describeView(state.drawingView);
  byId("object-view").textContent = describeView(viewer.view);
  showZoom("object-zoom", viewer.view.zoom);
  showSymmetry();
  drawCompass(byId("compass"), state.drawingView, viewer.view);
}

// The button that shows a zoom factor and resets it.
function showZoom(id, factor) {
  byId(id).hidden = factor === 1;
  byId(id).textContent = `${factor.toFixed(2)}× Reset`;
}

function showLabelShare() {
  const share = byId("label-share").value;
  viewer.revealLabels(share);
  byId("label-value").textContent = share > 0 ? `${share}%` : "off";
}

// The slider to blend with takes the place of a hint once two results are chosen.
function showBlend(first, second) {
  const isReady = Boolean(first && second);
  byId("blend-row").hidden = !isReady;
  byId("blend-hint").hidden = isReady;
  const weight = Number(byId("blend").value);
  byId("blend-first").textContent = `${Math.round(100 * (1 - weight))}%`;
  byId("blend-second").textContent = `${Math.round(100 * weight)}%`;
}

// Where the keyboard has moved the brush, and the class there.
function showBrushPosition(position) {
  const [x, y] = position?.map(Math.floor) ?? [];
  const name = position && ui.hello.classes[canvas.drawing.classAt(x, y)].name;
  const text = canvas.stroke ? `painting at ${x}, ${y}` : `${x}, ${y}: ${name}`;
  byId("brush-position").textContent = position ? text : "";
}

// Lay the image over the drawing, if both have the same view.
function showOverlay() {
  const fits = Boolean(renderer.shown && sameView(renderer.shown.view, state.drawingView));
  byId("overlay").hidden = !fits;
  const opacity = byId("overlay-opacity").value;
  byId("overlay").style.opacity = opacity / 100;
  byId("overlay-value").textContent = opacity > 0 ? (fits || !renderer.shown ? `${opacity}%` : "hidden") : "off";
  if (fits) byId("overlay").getContext("2d").drawImage(byId("image"), 0, 0);
}

// ------------------------------------------------------------------------------------------------ drawing tools

function getTool() {
  const isBlending = state.beforeBlend && renderer.busy; // the drawing is about to be replaced
  if (isBlending) return null;
  const mirrorId = isSymmetric() ? ui.hello.classes[ui.classId].mirror : null;
  return { tool: ui.tool, size: Number(byId("size").value), id: ui.classId, mirrorId };
}

// Only from the front and from behind, the object's left and right side are mirror images in the drawing.
function isSymmetric() {
  return byId("symmetric").checked && !byId("symmetric").disabled;
}

function showSymmetry() {
  byId("symmetric").disabled = Math.abs(Math.sin(yaw(state.drawingView))) > MAX_SINE;
  byId("axis").hidden = !isSymmetric();
}

function setPressed(buttons, isPressed) {
  for (const button of buttons) button.setAttribute("aria-pressed", String(isPressed(button)));
}

function setTool(tool) {
  ui.tool = tool;
  setPressed(byId("tool-choice").children, (button) => button.dataset.tool === tool);
}

function setBrushSize(size) {
  byId("size").value = size;
  byId("size-value").textContent = `${byId("size").value} px`;
}

function scaleBrushSize(factor) {
  const size = Number(byId("size").value);
  const scaled = Math.round(size * factor);
  setBrushSize(scaled === size ? size + Math.sign(factor - 1) : scaled);
}

function setClass(id) {
  if (id < 0 || id >= ui.hello.classes.length) return;
  ui.classId = id;
  setPressed(byId("classes").children, (button) => Number(button.dataset.id) === id);
  if (ui.tool === "eraser") setTool("brush");
}

// ------------------------------------------------------------------------------------------------ scenes

// "Edit from here": the label map of the current view becomes the drawing.
function editFromHere() {
  const view = { ...viewer.view, zoom: ui.hello.front.zoom }; // the network was trained on drawings at this zoom only
  ui.viewToEdit = view;
  viewer.setView(view, true);
  if (renderer.isShown(view)) useLabelMap(viewer.ids, view);
}

function useLabelMap(ids, drawingView) {
  ui.viewToEdit = null;
  strokeCheck.start(state.snapshot());
  state.change({ ids, drawingView });
}

function openExample(example) {
  if (canvas.stroke) return;
  viewer.view = viewer.clampView(example.drawingView);
  state.change({ ...example, scene: null });
}

function updateKeptStyle() {
  state.style = byId("keep-style").checked ? renderer.scene : null;
}

// Compute a new texture for the current geometry. getSource() returns its {seed} or {photo}, once the current scene is
// ready.
function newStyle(getSource) {
  renderer.whenReady(() => {
    state.change({ photo: null, ...getSource(), style: null, geometry: renderer.scene, scene: null });
  });
}

// Use a {seed} or a {photo} for the current scene, or for the first one.
function setStyle(source) {
  if (renderer.scene || renderer.sceneRequest) newStyle(() => source);
  else Object.assign(state, { photo: null, ...source });
  showPhoto();
}

function setSeed() {
  setStyle({ seed: Math.min(Math.max(Math.trunc(byId("seed").valueAsNumber) || 0, 0), MAX_SEED) });
}

function blend(quality) {
  const { first, second } = results;
  if (!first || !second) return;
  showBlend(first, second);
  results.highlight(null);
  if (quality === "preview") viewer.startMoving();
  state.blend(first.scene, second.scene, Number(byId("blend").value), quality);
}

function moveBlend(step) {
  if (byId("blend-row").hidden) return;
  byId("blend").value = Number(byId("blend").value) + step;
  blend("full");
}

// ------------------------------------------------------------------------------------------------ actions

const actions = {
  "tool-brush": () => setTool("brush"),
  "tool-eraser": () => setTool("eraser"),
  "tool-fill": () => setTool("fill"),
  "tool-line": () => setTool("line"),
  "tool-pick": () => setTool("pick"),
  "smaller-brush": () => scaleBrushSize(1 / BRUSH_STEP),
  "larger-brush": () => scaleBrushSize(BRUSH_STEP),
  "select-class": (event) => setClass(Number(event.key)),
  "toggle-symmetric"() {
    if (byId("symmetric").disabled) return;
    byId("symmetric").checked = !byId("symmetric").checked;
    showSymmetry();
  },
  "previous-class": () => setClass(ui.classId - 1),
  "next-class": () => setClass(ui.classId + 1),
  undo: () => state.undo(),
  redo: () => state.redo(),
  clear: () => state.change({ ids: new Uint8Array(canvas.committedIds.length), scene: null }),
  open: () => byId("file").click(),
  rotate(event) {
    const [right, up] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    viewer.rotate(right * ROTATION_STEP_RAD, up * ROTATION_STEP_RAD, !event.repeat);
  },
  "zoom-in": (event) => viewer.zoomBy(ZOOM_STEP, !event.repeat),
  "zoom-out": (event) => viewer.zoomBy(1 / ZOOM_STEP, !event.repeat),
  "reset-view": () => viewer.setView(ui.hello.front, true),
  "reset-zoom": () => viewer.setView({ ...viewer.view, zoom: ui.hello.front.zoom }, true),
  "reset-drawing-zoom": () => drawingZoom.reset(),
  "toggle-labels"() {
    byId("label-share").value = byId("label-share").value > 50 ? 0 : 100;
    showLabelShare();
  },
  "toggle-overlay"() {
    byId("overlay-opacity").value = byId("overlay-opacity").value > 0 ? 0 : DEFAULT_OVERLAY;
    showOverlay();
  },
  "edit-here": editFromHere,
  "toggle-keep-style"() {
    byId("keep-style").checked = !byId("keep-style").checked;
    updateKeptStyle();
  },
  "new-style": () => newStyle(() => ({ seed: (state.seed + 1) % (MAX_SEED + 1) })),
  "choose-photo": () => byId("photo-file").click(),
  "previous-result": () => results.selectNeighbor(-1),
  "next-result": () => results.selectNeighbor(1),
  "mark-endpoint": () => results.markNextEndpoint(),
  "blend-to-first": () => moveBlend(-BLEND_STEP),
  "blend-to-second": () => moveBlend(BLEND_STEP),
  "open-save-menu": () => byId("save-menu").showPopover(),
  "save-session": () => files.save("session"),
  cancel: () => channel.send("cancel"),
  help: () => (byId("help").open ? byId("help").close() : byId("help").showModal()),
};

// Run an action, unless its button is disabled or a stroke is in progress, which only "cancel" affects.
function runAction(action, event) {
  if (canvas.stroke && action === "cancel") canvas.cancelStroke();
  else if (ui.hello && !canvas.stroke && !actionButton(action)?.disabled) actions[action](event);
}

// ------------------------------------------------------------------------------------------------ event listeners

setTool("brush");
fillShortcutList(byId("shortcuts"));
listenForShortcuts(runAction);

for (const button of document.querySelectorAll("[data-action]")) {
  button.addEventListener("click", (event) => runAction(button.dataset.action, event));
}
for (const button of byId("tool-choice").children) {
  button.addEventListener("click", () => setTool(button.dataset.tool));
}
byId("size").addEventListener("input", () => setBrushSize(byId("size").value));
byId("keep-style").addEventListener("change", updateKeptStyle);
byId("seed").addEventListener("change", setSeed);
byId("symmetric").addEventListener("change", showSymmetry);
byId("label-share").addEventListener("input", showLabelShare);
byId("overlay-opacity").addEventListener("input", showOverlay);
byId("blend").addEventListener("input", () => blend("preview"));
byId("blend").addEventListener("change", () => blend("full"));
for (const item of byId("save-menu").children) {
  item.addEventListener("click", () => {
    byId("save-menu").hidePopover();
    files.save(item.dataset.save);
  });
}
for (const [id, type] of [["file", null], ["photo-file", "open_photo"]]) {
  byId(id).addEventListener("change", () => {
    files.open(byId(id).files[0], type);
    byId(id).value = ""; // choosing the same file again is a change, too
  });
}
byId("help").addEventListener("click", (event) => {
  if (event.target === byId("help")) byId("help").close(); // a click outside the dialog's content
});

// Files can be dropped anywhere on the page; photos, on the style.
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    const isPhoto = Boolean(ui.hello?.photos && byId("style").contains(event.target));
    document.body.classList.toggle("dropping", name === "dragover" && !isPhoto);
    document.body.classList.toggle("dropping-photo", name === "dragover" && isPhoto);
    if (name === "drop") files.open(event.dataTransfer.files[0], isPhoto ? "open_photo" : null);
  });
}

// The browser asks before it discards unsaved work.
window.addEventListener("beforeunload", (event) => {
  if (state.hasUnsavedChanges) event.preventDefault();
});
