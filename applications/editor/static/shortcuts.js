// Keyboard shortcuts, and the dialog that lists them.

// AltGr, with which some keyboard layouts type brackets, is no modifier although browsers report it as Ctrl+Alt.
const unmodified = (event) => event.getModifierState("AltGraph") || !(event.ctrlKey || event.metaKey || event.altKey);
const plain = (key) => (event) => unmodified(event) && event.key.toLowerCase() === key;
const ctrl = (key, shift = false) => (event) =>
  (event.ctrlKey || event.metaKey) && event.shiftKey === shift && event.key.toLowerCase() === key;
const either = (...tests) => (event) => tests.some((test) => test(event));
const digit = (event) => unmodified(event) && /^[0-9]$/.test(event.key);
const arrow = (event) => unmodified(event) && /^Arrow/.test(event.key);

// [keys in the list (none: listed in the row above), description, action, test of a keyboard event]
export const SHORTCUTS = [
  [["B"], "Brush", "tool-brush", plain("b")],
  [["E"], "Eraser", "tool-eraser", plain("e")],
  [["F"], "Fill", "tool-fill", plain("f")],
  [["L"], "Line", "tool-line", plain("l")],
  [["P"], "Pick a class from the drawing", "tool-pick", plain("p")],
  [["M"], "Symmetric strokes on or off", "toggle-symmetric", plain("m")],
  [["[", "]"], "Smaller or larger brush", "smaller-brush", plain("[")],
  [[], "", "larger-brush", plain("]")],
  [["0", "…", "9"], "Select class 0 to 9", "select-class", digit],
  [[",", "."], "Previous or next class", "previous-class", plain(",")],
  [[], "", "next-class", plain(".")],
  [["Ctrl+Z"], "Undo", "undo", ctrl("z")],
  [["Ctrl+Shift+Z", "Ctrl+Y"], "Redo", "redo", either(ctrl("z", true), ctrl("y"))],
  [["Delete"], "Clear the drawing", "clear", plain("delete")],
  [["O"], "Open a label map or session", "open", plain("o")],
  [["←", "→", "↑", "↓"], "Rotate the object", "rotate", arrow],
  [["+", "−"], "Zoom in or out", "zoom-in", either(plain("+"), plain("="))],
  [[], "", "zoom-out", plain("-")],
  [["R", "Home"], "Reset the view", "reset-view", either(plain("home"), plain("r"))],
  [["Z"], "Show the whole drawing", "reset-drawing-zoom", plain("z")],
  [["X"], "Switch between image and labels", "toggle-labels", plain("x")],
  [["V"], "Show or hide the overlay", "toggle-overlay", plain("v")],
  [["Enter"], "Edit from here", "edit-here", plain("enter")],
  [["K"], "Keep style on or off", "toggle-keep-style", plain("k")],
  [["N"], "New style", "new-style", plain("n")],
  [["I"], "Style of a photo", "choose-photo", plain("i")],
  [["PgUp", "PgDn"], "Previous or next result", "previous-result", plain("pageup")],
  [[], "", "next-result", plain("pagedown")],
  [["A"], "Mark this result as A, the next as B", "mark-endpoint", plain("a")],
  [["<", ">"], "Blend towards A or B", "blend-to-first", plain("<")],
  [[], "", "blend-to-second", plain(">")],
  [["S"], "Open the menu of files to save", "open-save-menu", plain("s")],
  [["Ctrl+S"], "Save the session", "save-session", ctrl("s")],
  [["Esc"], "Cancel a stroke, video or mesh", "cancel", plain("escape")],
  [["?"], "Show these shortcuts", "help", plain("?")],
];

// Actions that repeat while their key is held.
const REPEATED = /^((smaller|larger)-brush|(previous|next)-.*|undo|redo|rotate|zoom-.*|blend-.*)$/;

// Whether a key press belongs to the input field that has the focus.
function isTyped(event) {
  const field = event.target.closest("input");
  if (!field || field.type === "checkbox") return false;
  if (ctrl("s")(event)) return false;
  if (field.type === "range") return unmodified(event) && /^(arrow|home|end|page)/i.test(event.key);
  return field.type === "number" || unmodified(event);
}

// Call runAction(action, event) for each shortcut.
export function listenForShortcuts(runAction) {
  document.addEventListener("keydown", (event) => {
    if (isTyped(event) || event.target.closest("[popover]")) return;
    if (event.key === "Enter" && event.target.closest("button")) return; // Enter presses the button
    const [, , action] = SHORTCUTS.find(([, , , matches]) => matches(event)) ?? [];
    if (!action || (event.target.closest("dialog") && action !== "help")) return;

    event.preventDefault();
    if (!event.repeat || REPEATED.test(action)) runAction(action, event);
  });

  // A control used with a pointer gives up the focus, so that shortcuts work again; one reached by Tab keeps it.
  const releaseFocus = (field) => field?.matches(":focus-visible") || field?.blur();
  document.addEventListener("click", ({ target }) => releaseFocus(target.closest("button, input:not([type=number])")));
}

export function fillShortcutList(list) {
  for (const [keys, description] of SHORTCUTS.filter(([shownKeys]) => shownKeys.length)) {
    const term = Object.assign(document.createElement("dt"), { textContent: description });
    const definition = document.createElement("dd");
    definition.append(...keys.map((key) => Object.assign(document.createElement("kbd"), { textContent: key })));
    const row = document.createElement("div");
    row.append(term, definition);
    list.append(row);
  }
}
