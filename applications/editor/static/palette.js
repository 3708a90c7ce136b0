// The class palette: one button for each class with its color, name and key.

const DIGIT_KEYS = 10; // classes 0 to 9 have a key
const MAX_ONE_COLUMN = 10; // more classes are shown in two columns

export function fillPalette(container, classes, onSelect) {
  container.classList.toggle("two-columns", classes.length > MAX_ONE_COLUMN);
  container.replaceChildren(...classes.map((entry, id) => createButton(entry, id, onSelect)));
}

function createButton({ name, color }, id, onSelect) {
  const button = document.createElement("button");
  Object.assign(button, { type: "button", title: `${id}: ${name}` });
  button.dataset.id = id;

  const swatch = document.createElement("i");
  swatch.style.background = `rgb(${color.join()})`;
  const label = Object.assign(document.createElement("span"), { textContent: name });
  const key = Object.assign(document.createElement("kbd"), { textContent: id });
  button.append(swatch, label, ...(id < DIGIT_KEYS ? [key] : []));
  button.addEventListener("click", () => onSelect(id));
  return button;
}
