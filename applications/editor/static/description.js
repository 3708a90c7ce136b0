// The line that says which network this is and what it can do.

import { pitch, yaw } from "./compass.js";

export function describeNetwork({ name, data_type, resolution, classes, limits, photos }) {
  const input = data_type === "edge" ? "edge drawings" : `label maps of ${classes.length} classes`;
  const style = photos ? "a seed or a photo" : "a seed";
  const output = `${resolution}-pixel images, ${describeOrbit(limits)}, in the style of ${style}`;
  return `${name} turns ${input} into objects: ${output}`;
}

function describeOrbit({ azimuth, polar, full_turn }) {
  const degrees = (radians) => Math.round((radians * 180) / Math.PI);
  const sides = full_turn ? "from all sides" : `up to ${degrees(yaw({ azimuth: azimuth[1] }))}° sideways`;
  return `${sides} and ${degrees(pitch({ polar: polar[0] }))}° up or down`;
}
