// What each key does, and the overlay that says so.

// AltGr, by which some keyboards type brackets, counts as no modifier though browsers report it as Ctrl+Alt.
const bare = (event) => event.getModifierState("AltGraph") || !(event.ctrlKey || event.metaKey || event.altKey);
const plain = (key) => (event) => bare(event) && event.key.toLowerCase() === key;
const command = (key, shift = false) => (event) =>
  (event.ctrlKey || event.metaKey) && event.shiftKey === shift && event.key.toLowerCase() === key;
const either = (...tests) => (event) => tests.some((test) => test(event));

// [keys as they are shown (none: with the row above), what they do, action, does the event match]
export const KEYS = [
  [["B"], "brush", "tool-brush", plain("b")],
  [["E"], "eraser", "tool-eraser", plain("e")],
  [["F"], "fill", "tool-fill", plain("f")],
  [["L"], "line", "tool-line", plain("l")],
  [["P"], "pick a class from the drawing", "tool-pick", plain("p")],
  [["[", "]"], "smaller, larger brush", "smaller", plain("[")],
  [[], "", "larger", plain("]")],
  [["0", "…", "9"], "class of this number", "class", (event) => plain(event.key)(event) && /^[0-9]$/.test(event.key)],
  [[",", "."], "class before, class after", "class-before", plain(",")],
  [[], "", "class-after", plain(".")],
  [["Ctrl+Z"], "undo", "undo", command("z")],
  [["Ctrl+Shift+Z", "Ctrl+Y"], "redo", "redo", either(command("z", true), command("y"))],
  [["Delete"], "clear the drawing", "clear", plain("delete")],
  [["O"], "open a label map or a session", "open", plain("o")],
  [["←", "→", "↑", "↓"], "turn the object", "turn", (event) => plain(event.key.toLowerCase())(event) && /^Arrow/.test(event.key)],
  [["+", "−"], "nearer, farther", "nearer", either(plain("+"), plain("="))],
  [[], "", "farther", plain("-")],
  [["R", "Home"], "reset the view", "reset", either(plain("home"), plain("r"))],
  [["X"], "image or label map", "swap", plain("x")],
  [["V"], "image over the drawing, or not", "overlay", plain("v")],
  [["Enter"], "edit from here", "edit-here", plain("enter")],
  [["K"], "keep style, or not", "keep-style", plain("k")],
  [["N"], "new style", "new-style", plain("n")],
  [["PgUp", "PgDn"], "result before, result after", "result-before", plain("pageup")],
  [[], "", "result-after", plain("pagedown")],
  [["A"], "this result is A, the next is B", "end", plain("a")],
  [["<", ">"], "towards A, towards B", "towards-first", plain("<")],
  [[], "", "towards-second", plain(">")],
  [["S"], "save what is chosen", "save", plain("s")],
  [["Ctrl+S"], "save the session", "save-session", command("s")],
  [["Esc"], "give up a stroke, a film or a mesh", "cancel", plain("escape")],
  [["?"], "these keys", "help", plain("?")],
];

// A key that is held does these again and again.
const REPEATED = /^(smaller|larger|class-.*|undo|redo|turn|nearer|farther|result-.*|towards-.*)$/;

// Whether a key belongs to the field in which it is pressed.
function isTyped(event) {
  const field = event.target.closest("input, select");
  if (!field || field.type === "checkbox") return false;
  if (command("s")(event)) return false;
  if (field.type === "range") return bare(event) && /^(arrow|home|end|page)/i.test(event.key);
  return field.type === "number" || bare(event);
}

// Calls act(action, event) for every key that means something where the focus is.
export function listen(act) {
  document.addEventListener("keydown", (event) => {
    if (isTyped(event)) return;
    if (event.key === "Enter" && event.target.closest("button")) return; // it presses the button
    const [, , action] = KEYS.find(([, , , matches]) => matches(event)) ?? [];
    if (!action || (event.target.closest("dialog") && action !== "help")) return;
    event.preventDefault();
    if (!event.repeat || REPEATED.test(action)) act(action, event);
  });
  // What a pointer has set gives the keys back to the page; what the Tab key has reached stays in focus.
  const leave = (field) => field?.matches(":focus-visible") || field?.blur();
  document.addEventListener("click", ({ target }) => leave(target.closest("button, input:not([type=number])")));
  document.addEventListener("change", ({ target }) => leave(target.closest("select")));
}

export function fillHelp(list) {
  for (const [keys, meaning] of KEYS.filter(([shown]) => shown.length)) {
    const [row, term, shown] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
    term.textContent = meaning;
    shown.append(...keys.map((key) => Object.assign(document.createElement("kbd"), { textContent: key })));
    row.append(term, shown);
    list.append(row);
  }
}
