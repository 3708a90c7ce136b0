// The row of example drawings.

import { labelImage } from "./drawing_canvas.js";

// `ids` holds the class ids of all examples, one after the other, and `views` where each is seen from.
// onSelect({ids, drawingView}) is called for a click. Returns the examples.
export function fillExamples(row, views, ids, size, colors, onSelect) {
  const count = size * size;
  const examples = views.map((drawingView, i) => ({ ids: ids.slice(i * count, (i + 1) * count), drawingView }));
  row.replaceChildren(...examples.map((example, i) => {
    const button = document.createElement("button");
    const canvas = document.createElement("canvas");
    Object.assign(button, { type: "button", title: `Draw example ${i + 1}` });
    button.setAttribute("aria-label", button.title);
    canvas.width = canvas.height = size;
    canvas.getContext("2d").putImageData(labelImage(example.ids, size, colors), 0, 0);
    button.append(canvas);
    button.addEventListener("click", () => onSelect(example));
    return button;
  }));
  return examples;
}
