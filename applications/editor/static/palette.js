// One button for each class: its colour, its name, its key.

const KEYS = 10; // digits
const ONE_COLUMN = 10; // more classes stand in two

export function fillPalette(box, classes, choose) {
  box.classList.toggle("many", classes.length > ONE_COLUMN);
  box.replaceChildren(...classes.map(({ name, colour }, id) => {
    const button = document.createElement("button");
    const [swatch, label, key] = ["i", "span", "kbd"].map((tag) => document.createElement(tag));
    Object.assign(button, { type: "button", title: `${id}: ${name}` });
    button.dataset.id = id;
    swatch.style.background = `rgb(${colour.join()})`;
    label.textContent = name;
    key.textContent = id;
    button.append(swatch, label, ...(id < KEYS ? [key] : []));
    button.addEventListener("click", () => choose(id));
    return button;
  }));
}
