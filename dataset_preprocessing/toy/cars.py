"""Procedural cars from signed distance functions: convex bodies with rounded edges, four wheels, painted details.

The nose points to +z. Parts are finer than a label map needs: their boundaries make the edge drawing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dataset_preprocessing.toy import sdf
from dataset_preprocessing.toy.scene import Surface, mix, smooth_step
from dataset_preprocessing.toy.sdf import Array, vector

PARTS = (
    *("background", "front", "hood", "front door", "rear door", "rear", "roof", "glass", "tire", "rim"),
    *("headlight", "tail light", "grille", "trim", "plate", "mirror", "spoiler"),
)
(FRONT, HOOD, FRONT_DOOR, REAR_DOOR, REAR, ROOF, GLASS, TIRE, RIM) = range(1, 10)
(HEADLIGHT, TAIL_LIGHT, GRILLE, TRIM, PLATE, MIRROR, SPOILER) = range(10, 17)

ARCH = 1.16  # radius of a wheel's arch over that of the wheel

PAINTS = [  # linear light
    *[(0.55, 0.02, 0.02), (0.02, 0.07, 0.40), (0.70, 0.70, 0.70), (0.05, 0.05, 0.055), (0.30, 0.31, 0.33)],
    *[(0.03, 0.22, 0.08), (0.75, 0.50, 0.03), (0.60, 0.18, 0.02), (0.04, 0.28, 0.36), (0.32, 0.26, 0.18)],
]


@dataclass(frozen=True)
class CarShape:
    """Lengths in world units, slopes as tangents; z counts from the middle of the car."""

    length: float
    width: float
    belt: float  # height of the body's upper edge over the axles' plane
    clearance: float
    roof: float  # height of the cabin over the belt
    cowl: float  # z where the windscreen starts
    tail: float  # z where the rear window ends
    windscreen: float  # slope: run over rise
    rear_window: float
    hood_drop: float  # slope of the hood
    deck_drop: float
    tumblehome: float  # lean of the side windows
    nose_bevel: float
    plan_bevel: float  # corners seen from above
    rounding: float
    wheel_radius: float
    wheel_width: float
    front_overhang: float
    rear_overhang: float


STYLES = {  # ranges that differ from the common ones below
    "saloon": {"tail": (-0.33, -0.27), "rear_window": (0.7, 1.2)},
    "hatchback": {"length": (0.64, 0.74), "tail": (-0.36, -0.33), "rear_window": (0.25, 0.6)},
    "estate": {"tail": (-0.41, -0.39), "rear_window": (0.15, 0.4), "roof": (0.105, 0.125)},
    "off-roader": {"belt": (0.115, 0.135), "roof": (0.11, 0.13), "tail": (-0.41, -0.39), "rear_window": (0.05, 0.2)}
    | {"wheel_radius": (0.080, 0.092), "clearance": (-0.005, 0.01), "windscreen": (0.3, 0.6)},
    "sports": {"belt": (0.075, 0.09), "roof": (0.072, 0.085), "windscreen": (1.3, 1.7), "rear_window": (1.2, 1.8)}
    | {"cowl": (0.08, 0.14), "clearance": (-0.035, -0.025), "nose_bevel": (0.9, 1.4)},
    "van": {"cowl": (0.26, 0.32), "roof": (0.15, 0.17), "tail": (-0.42, -0.40), "rear_window": (0.0, 0.1)}
    | {"windscreen": (0.5, 0.8), "hood_drop": (0.3, 0.45)},
    "pick-up": {"tail": (-0.10, -0.04), "rear_window": (0.0, 0.15), "belt": (0.11, 0.13), "wheel_radius": (0.08, 0.09)}
    | {"clearance": (-0.01, 0.01), "length": (0.82, 0.88)},
}
COMMON = {
    "length": (0.76, 0.86),
    "width": (0.32, 0.37),
    "belt": (0.09, 0.11),
    "clearance": (-0.03, -0.02),
    "roof": (0.088, 0.11),
    "cowl": (0.14, 0.20),
    "tail": (-0.36, -0.30),
    "windscreen": (0.9, 1.4),
    "rear_window": (0.5, 1.0),
    "hood_drop": (0.06, 0.16),
    "deck_drop": (0.0, 0.06),
    "tumblehome": (0.18, 0.34),
    "nose_bevel": (0.3, 0.8),
    "plan_bevel": (0.30, 0.50),
    "rounding": (0.006, 0.013),
    "wheel_radius": (0.066, 0.076),
    "wheel_width": (0.022, 0.028),
    "front_overhang": (0.12, 0.15),
    "rear_overhang": (0.13, 0.16),
}


class Car:
    """One car; everything about it follows from `rng`."""

    velvet = 0.0

    def __init__(self, rng: np.random.Generator):
        self.style = list(STYLES)[rng.integers(len(STYLES))]
        ranges = COMMON | STYLES[self.style]
        scale = ranges["length"][1] / COMMON["length"][1] if "length" in STYLES[self.style] else 1.0
        drawn = {name: float(rng.uniform(*ranges[name])) for name in COMMON}
        for name in ("cowl", "tail"):  # the ranges are those of a car of common length
            drawn[name] *= scale
        self.shape = CarShape(**drawn)
        self._build()
        self._paint(rng)
        side, up = rng.uniform(0, 2 * math.pi), rng.uniform(0.9, 1.8)
        self.light = sdf.unit(vector([math.sin(side), up, math.cos(side)]))

    def _build(self) -> None:
        s = self.shape
        half, wide = s.length / 2, s.width / 2
        self.base = -0.10  # height of the axles; the car's middle is about the origin
        top, low = self.base + s.belt, self.base + s.clearance
        bevel = 0.10  # height above the low edge where nose and tail are longest
        planes = [  # normal (x as |x|, y, z), a point on the plane
            ((0, 1, 0), (0, top, 0)),
            ((0, -1, 0), (0, low, 0)),
            ((1, 0.10, 0), (wide, self.base + 0.04, 0)),
            ((1, -0.35, 0), (wide, self.base + 0.00, 0)),
            ((0, 0.10, 1), (0, self.base + 0.03, half)),
            ((0, 0.06, -1), (0, self.base + 0.03, -half)),
            ((0, -s.nose_bevel, 1), (0, low + 0.035, half)),
            ((0, -0.5, -1), (0, low + 0.045, -half)),
            ((0, 1, s.hood_drop), (0, top + 0.004, s.cowl)),
            ((0, 1, -s.deck_drop), (0, top + 0.004, s.tail)),
            ((s.plan_bevel, 0, 1), (wide * 0.62, 0, half)),
            ((s.plan_bevel, 0, -1), (wide * 0.70, 0, -half)),
            ((0, 1, s.nose_bevel), (0, low + bevel, half)),
        ]
        self.body = _solid(planes)
        glass_top = top + s.roof
        cabin = [
            ((0, 1, 0), (0, glass_top, 0)),
            ((0, -1, 0), (0, top - 0.05, 0)),
            ((1, s.tumblehome, 0), (wide - 0.012, top, 0)),
            ((0, s.windscreen, 1), (0, top, s.cowl)),
            ((0, s.rear_window, -1), (0, top, s.tail)),
            ((0, 1, 0.10), (0, glass_top + 0.002, 0.02)),
            ((0, 1, -0.07), (0, glass_top + 0.002, -0.08)),
        ]
        self.cabin = _solid(cabin)
        self.axles = half - s.front_overhang, -half + s.rear_overhang
        self.hub_x = wide - s.wheel_width - 0.002
        self.wheel_radius = min([s.wheel_radius, *((self._deck(z) - self.base - 0.014) / ARCH for z in self.axles)])
        self.pillar = (s.cowl + s.tail) / 2 + 0.02 - 0.25 * s.windscreen * s.roof * 0.5
        self.top, self.low, self.half, self.wide = top, low, half, wide
        lift = max(self.base + s.belt + s.roof, self.wheel_radius - self.base) + 0.02
        self.half_size = vector([wide + 0.04, lift, half + 0.02])
        self.mirror = vector([wide + 0.012, top + 0.018, s.cowl - s.windscreen * 0.022 - 0.02])
        self.spoiler = vector([0.0, top + 0.035, -half + 0.05])

    def _deck(self, z: float) -> float:
        """Height of the body over a wheel."""
        normals, offsets = self.body
        upper = normals[:, 1] > 0.1
        reach = offsets - normals[:, 0] * np.float32(self.hub_x) - normals[:, 2] * np.float32(z)
        return float((reach[upper] / normals[upper, 1]).min())

    def _paint(self, rng: np.random.Generator) -> None:
        tint = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.08, 3))
        self.paint = _color(np.clip(np.asarray(PAINTS[rng.integers(len(PAINTS))]) * tint, 0, 0.85))
        two_tone = rng.random() < 0.2
        self.roof_paint = _color(PAINTS[rng.integers(len(PAINTS))]) if two_tone else self.paint
        self.glass = _color(np.array([0.025, 0.032, 0.04]) * rng.uniform(0.6, 2.5))
        self.rim = _color(np.full(3, rng.uniform(0.12, 0.6)))
        self.trim = _color(np.full(3, rng.uniform(0.015, 0.06)))
        self.grille = _color(np.full(3, rng.uniform(0.01, 0.12)))
        self.tire = _color((0.014, 0.014, 0.015))
        self.lamps = _color((0.80, 0.82, 0.75)), _color((0.45, 0.01, 0.01))
        self.spokes = int(rng.integers(4, 9))
        self.round_lamps = bool(rng.random() < 0.3)
        self.lamp_height = float(rng.uniform(0.012, 0.02))
        self.has_spoiler = bool(rng.random() < (0.6 if self.style == "sports" else 0.1))
        self.has_trim = bool(rng.random() < 0.5)
        self.two_doors = self.style in ("sports", "pick-up") or bool(rng.random() < 0.2)

    # ----------------------------------------------------------------------- shape

    def _wheels(self, folded: Array) -> tuple[Array, Array]:
        """Distances to the wheels and to the hollows around them."""
        s = self.shape
        x, y, z = folded
        along = np.where(np.abs(z - self.axles[0]) < np.abs(z - self.axles[1]), self.axles[0], self.axles[1])
        local = np.stack([x - self.hub_x, y - self.base, (z - along).astype(np.float32)])
        middle = np.zeros(3, np.float32)
        wheel = sdf.wheel(local, middle, self.wheel_radius - 0.006, s.wheel_width - 0.006) - 0.006
        dish = sdf.wheel(local, vector([s.wheel_width, 0, 0]), self.wheel_radius * 0.66, 0.006)
        hollow = sdf.wheel(local, vector([0.03, 0, 0]), self.wheel_radius * ARCH, s.wheel_width + 0.034)
        return np.maximum(wheel, -dish), hollow

    def _solids(self, folded: Array) -> dict[str, Array]:
        s = self.shape
        wheels, hollow = self._wheels(folded)
        solids = {
            "body": sdf.carve(sdf.rounded_max(sdf.faces(folded, *self.body), s.rounding), hollow, 0.006),
            "cabin": sdf.rounded_max(sdf.faces(folded, *self.cabin), s.rounding),
            "wheels": wheels,
            "mirror": sdf.ellipsoid(folded, self.mirror, vector([0.020, 0.013, 0.009])),
        }
        if self.has_spoiler:
            solids["spoiler"] = self._spoiler(folded)
        return solids

    def _spoiler(self, folded: Array) -> Array:
        x, y, z = folded - self.spoiler[:, None]
        wing = np.maximum(np.maximum(x - self.wide * 0.86, np.abs(y) - 0.002), np.abs(z) - 0.022) - 0.004
        stand = np.maximum(
            np.maximum(np.abs(x - self.wide * 0.6) - 0.004, np.abs(y + 0.022) - 0.022), np.abs(z) - 0.012
        )
        return np.minimum(wing, stand)

    def distance(self, points: Array) -> Array:
        solids = self._solids(sdf.fold(points))
        paintwork = sdf.blend(solids.pop("body"), solids.pop("cabin"), 0.008)
        return np.minimum.reduce([paintwork, *solids.values()])

    # ----------------------------------------------------------------------- parts

    def parts(self, points: Array) -> Array:
        folded = sdf.fold(points)
        solids = self._solids(folded)
        names = list(solids)
        owner = np.stack([solids[name] for name in names]).argmin(0)
        part = np.zeros(points.shape[1], np.uint8)
        rules = {"body": self._body_part, "cabin": self._cabin_part, "wheels": self._wheel_part}
        for number, name in enumerate(names):
            chosen = np.flatnonzero(owner == number)
            if name in rules:
                part[chosen] = rules[name](folded.take(chosen, axis=1))
            else:
                part[chosen] = MIRROR if name == "mirror" else SPOILER
        return part

    def _wheel_part(self, folded: Array) -> Array:
        x, y, z = folded
        along = np.where(np.abs(z - self.axles[0]) < np.abs(z - self.axles[1]), self.axles[0], self.axles[1])
        radius = np.hypot(y - self.base, z - along)
        return np.where((radius < 0.66 * self.wheel_radius) & (x > self.hub_x), RIM, TIRE).astype(np.uint8)

    def _cabin_part(self, folded: Array) -> Array:
        """Glass where a face is far enough from its other faces and from the pillar between the doors."""
        distances = sdf.faces(folded, *self.cabin)
        face = distances.argmax(0)
        others = np.sort(distances, axis=0)[-2]
        _, y, z = folded
        glass = (others < -0.016) & (y > self.top + 0.006) & np.isin(face, (2, 3, 4))
        glass &= ~((face == 2) & (np.abs(z - self.pillar) < 0.008))
        if self.style == "van":
            glass &= ~((face == 2) & (z < self.pillar))
        return np.where(glass, GLASS, ROOF).astype(np.uint8)

    def _body_part(self, folded: Array) -> Array:
        s = self.shape
        x, y, z = folded
        face = sdf.faces(folded, *self.body).argmax(0)
        part = np.select([z > s.cowl, z > self.pillar, z > self._door_end()], [FRONT, FRONT_DOOR, REAR_DOOR], REAR)
        if self.two_doors:
            part[(part == REAR_DOOR)] = REAR
        part[np.isin(face, (0, 8, 12)) & (z > s.cowl) & (x < self.wide * 0.8)] = HOOD
        part[(y < self.low + 0.022) | (self.has_trim & (np.abs(y - self.base - 0.045) < 0.005) & (face == 2))] = TRIM
        ahead, behind = z > self.half * 0.80, z < -self.half * 0.86
        self._paint_front(part, x, y, ahead & np.isin(face, (4, 6, 10, 12, 8)))
        lamps = behind & (x > self.wide * 0.52) & (np.abs(y - self.top + 0.035) < self.lamp_height)
        part[lamps] = TAIL_LIGHT
        part[behind & (face == 5) & (x < 0.045) & (np.abs(y - self.top + 0.045) < 0.012)] = PLATE
        return part.astype(np.uint8)

    def _door_end(self) -> float:
        return max(self.axles[1] + 0.5 * self.wheel_radius, self.shape.tail)

    def _paint_front(self, part: Array, x: Array, y: Array, ahead: Array) -> None:
        """Mark lamps and grille in `part`."""
        height = self.base + 0.035
        if self.round_lamps:
            lamps = np.hypot(x - self.wide * 0.68, y - height) < self.lamp_height * 1.3
        else:
            lamps = (np.abs(y - height - 0.1 * (x - self.wide * 0.7)) < self.lamp_height) & (x > self.wide * 0.52)
        part[ahead & (x < self.wide * 0.42) & (np.abs(y - height + 0.008) < 0.017)] = GRILLE
        part[ahead & lamps] = HEADLIGHT

    # ----------------------------------------------------------------------- looks

    def surface(self, points: Array, normals: Array, parts: Array) -> Surface:
        looks = {  # part -> color, gloss; all other parts have the paint
            ROOF: (self.roof_paint, 0.35),
            GLASS: (self.glass, 0.9),
            TIRE: (self.tire, 0.02),
            RIM: (self.rim, 0.3),
            HEADLIGHT: (self.lamps[0], 0.8),
            TAIL_LIGHT: (self.lamps[1], 0.6),
            GRILLE: (self.grille, 0.2),
            TRIM: (self.trim, 0.05),
            PLATE: (_color((0.7, 0.7, 0.66)), 0.1),
        }
        table = np.repeat(self.paint, len(PARTS), axis=1)
        gloss = np.full(len(PARTS), 0.35, np.float32)
        for part, (color, shine) in looks.items():
            table[:, part], gloss[part] = color[:, 0], shine
        albedo = self._spokes(table.take(parts, axis=1), points, parts)
        # what shines also shows a bright sky from above and a dark ground
        sky = gloss[parts] * (0.10 + 0.24 * smooth_step(normals[1], -0.1, 0.9))
        return Surface(albedo + sky * (parts != TIRE) * 0.5, gloss[parts])

    def _spokes(self, albedo: Array, points: Array, parts: Array) -> Array:
        _, y, z = points
        along = np.where(np.abs(z - self.axles[0]) < np.abs(z - self.axles[1]), self.axles[0], self.axles[1])
        angle = np.arctan2(y - self.base, z - along)
        radius = np.hypot(y - self.base, z - along) / self.wheel_radius
        gap = smooth_step(np.cos(self.spokes * angle), 0.0, -0.3) * smooth_step(radius, 0.18, 0.24)
        gap = gap * smooth_step(radius, 0.60, 0.55)
        return mix(albedo, self.tire, gap * (parts == RIM))

    def background(self, directions: Array) -> Array:
        return np.ones_like(directions)  # white, as in the published car set


def _solid(planes: list[tuple[tuple, tuple]]) -> tuple[Array, Array]:
    """Unit normals K,3 and offsets K of planes given by a normal and a point."""
    normals = sdf.unit(np.array([normal for normal, _ in planes], np.float32), axis=1)
    return normals, (normals * np.array([point for _, point in planes], np.float32)).sum(1)


def _color(rgb: Array | tuple) -> Array:
    return np.asarray(rgb, np.float32).reshape(3, 1)
