// One button for each class: its color, its name, its key.

const KEYS = 10; // digits
const ONE_COLUMN = 10; // more classes stand in two

export function fillPalette(box, classes, choose) {
  box.classList.toggle("many", classes.length > ONE_COLUMN);
  box.replaceChildren(...classes.map(({ name, color }, id) => {
    const button = document.createElement("button");
    const [swatch, label, key] = ["i", "span", "kbd"].map((tag) => document.createElement(tag));
    Object.assign(button, { type: "button", title: `${id}: ${name}` });
    button.dataset.id = id;
    swatch.style.background = `rgb(${color.join()})`;
    label.textContent = name;
    key.textContent = id;
    button.append(swatch, label, ...(id < KEYS ? [key] : []));
    button.addEventListener("click", () => choose(id));
    return button;
  }));
}
