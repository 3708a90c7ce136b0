// A small plan of the scene from above: from where one paints, and from where one looks.

const RADIUS = 20;
const BAR_X = 33; // of the scale of heights, right of the plan

export const yaw = (view) => view.azimuth - Math.PI / 2;
// Polar is uniform in height: the height's sine is linear in it.
export const pitch = (view) => Math.asin(1 - (2 * view.polar) / Math.PI);

export function inWords(view) {
  const degrees = (radians) => Math.round((radians * 180) / Math.PI);
  const turned = ((degrees(yaw(view)) + 540) % 360) - 180;
  const [side, height] = [turned, degrees(pitch(view))];
  const words = [side && `${Math.abs(side)}° ${side > 0 ? "right" : "left"}`, height && `${Math.abs(height)}° ${height > 0 ? "up" : "down"}`];
  return `from ${words.filter(Boolean).join(", ") || "the front"}`;
}

export function drawCompass(svg, place, view) {
  const node = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const marks = (of, kind, radius) => [
    node("circle", { class: kind, r: radius, cx: RADIUS * Math.sin(yaw(of)), cy: RADIUS * Math.cos(yaw(of)) }),
    node("circle", { class: kind, r: radius, cx: BAR_X, cy: -RADIUS * Math.sin(pitch(of)) }),
  ];
  svg.replaceChildren(
    node("circle", { class: "ground", r: RADIUS }),
    node("path", { class: "object", d: "M-6,-6 H6 L0,9 Z" }), // its tip is the object's front
    node("path", { class: "ground", d: `M${BAR_X},${-RADIUS} V${RADIUS}` }),
    ...marks(place, "place", 4),
    ...marks(view, "view", 5),
  );
  svg.setAttribute("aria-label", `Painting ${inWords(place)}; looking ${inWords(view)}`);
}
