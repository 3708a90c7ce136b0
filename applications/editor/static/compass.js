// Map of the views from above: where the drawing is seen from, and where the object is seen from.

const RADIUS = 20;
const HEIGHT_SCALE_X = 33; // position of the vertical scale for heights, right of the map

export const yaw = (view) => view.azimuth - Math.PI / 2;

// `polar` is uniform in height: the sine of the pitch is linear in it.
export const pitch = (view) => Math.asin(1 - (2 * view.polar) / Math.PI);

// A view in words, such as "from 10° right, 5° up".
export function describeView(view) {
  const degrees = (radians) => Math.round((radians * 180) / Math.PI);
  const side = ((degrees(yaw(view)) + 540) % 360) - 180; // in [-180, 180)
  const height = degrees(pitch(view));

  const words = [];
  if (side) words.push(`${Math.abs(side)}° ${side > 0 ? "right" : "left"}`);
  if (height) words.push(`${Math.abs(height)}° ${height > 0 ? "up" : "down"}`);
  return `from ${words.join(", ") || "the front"}`;
}

export function drawCompass(svg, drawingView, objectView) {
  const createNode = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  // Each view is one mark on the map and one on the height scale.
  const createMarks = (view, name, r) => [
    createNode("circle", { class: name, r, cx: RADIUS * Math.sin(yaw(view)), cy: RADIUS * Math.cos(yaw(view)) }),
    createNode("circle", { class: name, r, cx: HEIGHT_SCALE_X, cy: -RADIUS * Math.sin(pitch(view)) }),
  ];

  const title = createNode("title", {});
  title.textContent = "Seen from above: the view of the drawing (dot) and of the object (ring). Right: their heights";
  svg.replaceChildren(
    title,
    createNode("circle", { class: "ground", r: RADIUS }),
    createNode("path", { class: "object", d: "M-6,-6 H6 L0,9 Z" }), // the tip is the front of the object
    createNode("path", { class: "ground", d: `M${HEIGHT_SCALE_X},${-RADIUS} V${RADIUS}` }),
    ...createMarks(drawingView, "drawing-view", 4),
    ...createMarks(objectView, "object-view", 5),
  );
  svg.setAttribute("aria-label", `Drawing seen ${describeView(drawingView)}, object seen ${describeView(objectView)}`);
}
