"""Procedural cars: convex bodies with rounded edges, four wheels, painted details.

The nose points to +z. Parts are finer than the classes of a label map: their boundaries make the edge drawing. The left
half (x >= 0) defines both.
"""

from __future__ import annotations

import math

import numpy as np

from dataset_preprocessing.toy import sdf
from dataset_preprocessing.toy.scene import Surface, mix, sample_shape, smooth_step
from dataset_preprocessing.toy.sdf import Array, vector

PARTS = (
    *("background", "front", "hood", "front door", "rear door", "rear", "roof", "glass", "tire", "rim"),
    *("headlight", "tail light", "grille", "trim", "plate", "mirror", "spoiler"),
)
(FRONT, HOOD, FRONT_DOOR, REAR_DOOR, REAR, ROOF, GLASS, TIRE, RIM) = range(1, 10)
(HEADLIGHT, TAIL_LIGHT, GRILLE, TRIM, PLATE, MIRROR, SPOILER) = range(10, 17)

# World units; puts the middle of the car near the origin, at which the cameras look.
AXLE_HEIGHT = -0.10

# Radii of a wheel arch and of a rim over that of the wheel.
ARCH_RATIO = 1.16
RIM_RATIO = 0.66

# Albedo in linear light.
PAINTS = [
    *[(0.55, 0.02, 0.02), (0.02, 0.07, 0.40), (0.70, 0.70, 0.70), (0.05, 0.05, 0.055), (0.30, 0.31, 0.33)],
    *[(0.03, 0.22, 0.08), (0.75, 0.50, 0.03), (0.60, 0.18, 0.02), (0.04, 0.28, 0.36), (0.32, 0.26, 0.18)],
]

# Ranges of the shape parameters: lengths in world units, slopes as tangents; z is 0 in the middle of the car.
SHAPE_RANGES = {
    # Body.
    "length": (0.76, 0.86),
    "width": (0.32, 0.37),
    "belt": (0.09, 0.11),  # height of the body's upper edge over the axles
    "clearance": (-0.03, -0.02),  # height of the body's lower edge over the axles
    # Cabin.
    "roof": (0.088, 0.11),  # height of the cabin over the belt
    "cowl": (0.14, 0.20),  # z of the lower edge of the windscreen
    "tail": (-0.36, -0.30),  # z of the lower edge of the rear window
    "windscreen": (0.9, 1.4),  # slope: run over rise
    "rear_window": (0.5, 1.0),  # slope: run over rise
    # Slopes and bevels.
    "hood_drop": (0.06, 0.16),  # slope of the hood
    "deck_drop": (0.0, 0.06),  # slope of the trunk lid
    "tumblehome": (0.18, 0.34),  # inward slope of the side windows
    "nose_bevel": (0.3, 0.8),
    "plan_bevel": (0.30, 0.50),  # corners as seen from above
    "rounding": (0.006, 0.013),  # radius of edges
    # Wheels, and the distances of the axles from the ends of the car.
    "wheel_radius": (0.066, 0.076),
    "wheel_width": (0.022, 0.028),
    "front_overhang": (0.12, 0.15),
    "rear_overhang": (0.13, 0.16),
}

# Ranges of each style that differ from SHAPE_RANGES.
STYLES = {
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


def _color(rgb: Array | tuple) -> Array:
    return np.asarray(rgb, np.float32).reshape(3, 1)


class Car:
    """Random car.

    Args:
        rng: random generator that determines style, shape, paint and light.
    """

    velvet = 0.0

    def __init__(self, rng: np.random.Generator):
        self.style = list(STYLES)[rng.integers(len(STYLES))]
        ranges = SHAPE_RANGES | STYLES[self.style]
        self.shape = sample_shape(rng, ranges)

        # Ranges of cowl and tail are those of a car of common length.
        scale = ranges["length"][1] / SHAPE_RANGES["length"][1]
        self.shape.cowl *= scale
        self.shape.tail *= scale

        # Geometry, from large to small; then colors. The order of the random numbers determines every car.
        self._build_body()
        self._build_cabin()
        self._place_details()
        self._paint(rng)

        # The lamp is above the horizon, on any side.
        azimuth = rng.uniform(0, 2 * math.pi)
        elevation = rng.uniform(0.9, 1.8)
        self.light = sdf.unit(vector([math.sin(azimuth), elevation, math.cos(azimuth)]))

    # ----------------------------------------------------------------------- anatomy

    def _build_body(self) -> None:
        """Build the body up to the belt: a box with slanted and beveled faces."""
        s = self.shape
        self.half_length = half = s.length / 2
        self.half_width = wide = s.width / 2
        self.top = top = AXLE_HEIGHT + s.belt
        self.low = low = AXLE_HEIGHT + s.clearance

        # Half-spaces as outward normal and a point on the plane. The sides lean inwards above and below the axles; nose
        # and tail are beveled above, below and, by the corners, as seen from above.
        self.body = sdf.ConvexSolid(
            {
                "top": ((0, 1, 0), (0, top, 0)),
                "bottom": ((0, -1, 0), (0, low, 0)),
                "side": ((1, 0.10, 0), (wide, AXLE_HEIGHT + 0.04, 0)),
                "sill": ((1, -0.35, 0), (wide, AXLE_HEIGHT + 0.00, 0)),
                "nose": ((0, 0.10, 1), (0, AXLE_HEIGHT + 0.03, half)),
                "tail": ((0, 0.06, -1), (0, AXLE_HEIGHT + 0.03, -half)),
                "lower nose": ((0, -s.nose_bevel, 1), (0, low + 0.035, half)),
                "lower tail": ((0, -0.5, -1), (0, low + 0.045, -half)),
                "hood": ((0, 1, s.hood_drop), (0, top + 0.004, s.cowl)),
                "deck": ((0, 1, -s.deck_drop), (0, top + 0.004, s.tail)),
                "front corner": ((s.plan_bevel, 0, 1), (wide * 0.62, 0, half)),
                "rear corner": ((s.plan_bevel, 0, -1), (wide * 0.70, 0, -half)),
                "upper nose": ((0, 1, s.nose_bevel), (0, low + 0.10, half)),
            }
        )

    def _build_cabin(self) -> None:
        """Build the cabin: a frustum from inside the body to the roof, which slopes down to both ends."""
        s = self.shape
        roof = self.top + s.roof

        # The floor is inside the body, so that the union has no gap; slopes are run over rise.
        self.cabin = sdf.ConvexSolid(
            {
                "roof": ((0, 1, 0), (0, roof, 0)),
                "floor": ((0, -1, 0), (0, self.top - 0.05, 0)),
                "side": ((1, s.tumblehome, 0), (self.half_width - 0.012, self.top, 0)),
                "windscreen": ((0, s.windscreen, 1), (0, self.top, s.cowl)),
                "rear window": ((0, s.rear_window, -1), (0, self.top, s.tail)),
                "roof front": ((0, 1, 0.10), (0, roof + 0.002, 0.02)),
                "roof rear": ((0, 1, -0.07), (0, roof + 0.002, -0.08)),
            }
        )

    def _place_details(self) -> None:
        """Place wheels, pillar, mirror and spoiler, and set the bounding box."""
        s = self.shape

        # Wheels, small enough for their arches to stay below the body's upper edge.
        self.axles = (self.half_length - s.front_overhang, -self.half_length + s.rear_overhang)  # z
        self.hub_x = self.half_width - s.wheel_width - 0.002
        room = [(self._body_top(z) - AXLE_HEIGHT - 0.014) / ARCH_RATIO for z in self.axles]
        self.wheel_radius = min(s.wheel_radius, *room)

        # z of the pillar between the doors, near the middle of the cabin, and of the end of the rear door, which leaves
        # room for the rear wheel.
        self.pillar = (s.cowl + s.tail) / 2 + 0.02 - 0.25 * s.windscreen * s.roof * 0.5
        self.door_end = max(self.axles[1] + 0.5 * self.wheel_radius, s.tail)

        # Mirror beside the foot of the windscreen, spoiler over the rear edge.
        self.mirror = vector([self.half_width + 0.012, self.top + 0.018, s.cowl - s.windscreen * 0.022 - 0.02])
        self.spoiler = vector([0.0, self.top + 0.035, -self.half_length + 0.05])

        # Bounding box about the origin, with a margin for the mirrors at the sides.
        half_height = max(AXLE_HEIGHT + s.belt + s.roof, self.wheel_radius - AXLE_HEIGHT) + 0.02
        self.half_size = vector([self.half_width + 0.04, half_height, self.half_length + 0.02])

    def _body_top(self, z: float) -> float:
        """Return the height of the body over a wheel at z."""
        # Each plane normal . x = offset, solved for y at the hub's x and at z; the lowest upper plane bounds the body.
        normals = self.body.normals
        upper = normals[:, 1] > 0.1
        remainder = self.body.offsets - normals[:, 0] * np.float32(self.hub_x) - normals[:, 2] * np.float32(z)
        return float((remainder[upper] / normals[upper, 1]).min())

    def _nearest_axle(self, z: Array) -> Array:
        """Return z of the nearest axle, M."""
        front, rear = self.axles
        return np.where(np.abs(z - front) < np.abs(z - rear), front, rear)

    def _wheels(self, folded: Array) -> tuple[Array, Array]:
        """Return distances M to the wheels and to the arches around them."""
        s = self.shape
        x, y, z = folded

        # Coordinates from the nearest hub, for front and rear wheels are equal.
        local = np.stack([x - self.hub_x, y - AXLE_HEIGHT, (z - self._nearest_axle(z)).astype(np.float32)])

        # Wheel: a cylinder with rounded edges, smaller by the radius of the edges, hollowed by a flat dish outside.
        center = np.zeros(3, np.float32)
        wheel = sdf.cylinder_x(local, center, self.wheel_radius - 0.006, s.wheel_width - 0.006) - 0.006
        dish = sdf.cylinder_x(local, vector([s.wheel_width, 0, 0]), self.wheel_radius * RIM_RATIO, 0.006)

        # The arch is deeper than the wheel is wide, so that the cut reaches through the side of the body.
        arch = sdf.cylinder_x(local, vector([0.03, 0, 0]), self.wheel_radius * ARCH_RATIO, s.wheel_width + 0.034)
        return np.maximum(wheel, -dish), arch

    def _spoiler(self, folded: Array) -> Array:
        """Return the distance M to the wing (a box with rounded edges) on its two supports (boxes)."""
        # The distance to a box is at least the largest of the distances to its faces (exact inside, a bound outside).
        x, y, z = folded - self.spoiler[:, None]
        wing = np.maximum(np.maximum(x - self.half_width * 0.86, np.abs(y) - 0.002), np.abs(z) - 0.022) - 0.004
        support_x = np.abs(x - self.half_width * 0.6) - 0.004
        support = np.maximum(np.maximum(support_x, np.abs(y + 0.022) - 0.022), np.abs(z) - 0.012)
        return np.minimum(wing, support)

    def _solids(self, folded: Array) -> dict[str, Array]:
        """Return the distance M to each solid before blending; `folded` are points 3,M with x >= 0."""
        wheels, arches = self._wheels(folded)
        solids = {
            "body": sdf.smooth_difference(self.body.distance(folded, self.shape.rounding), arches, 0.006),
            "cabin": self.cabin.distance(folded, self.shape.rounding),
            "wheels": wheels,
            "mirror": sdf.ellipsoid(folded, self.mirror, vector([0.020, 0.013, 0.009])),
        }
        if self.has_spoiler:
            solids["spoiler"] = self._spoiler(folded)
        return solids

    def distance(self, points: Array) -> Array:
        """Return the signed distance M of points 3,M."""
        # Body and cabin blend into each other; wheels and details keep sharp seams.
        solids = self._solids(sdf.fold(points))
        shell = sdf.smooth_union(solids.pop("body"), solids.pop("cabin"), 0.008)
        return np.minimum.reduce([shell, *solids.values()])

    # ----------------------------------------------------------------------- parts

    def parts(self, points: Array) -> Array:
        """Return part ids M (uint8) of points 3,M on the surface."""
        # The solid that a point is on is the nearest one.
        folded = sdf.fold(points)
        solids = self._solids(folded)
        nearest = np.stack(list(solids.values())).argmin(0)  # M

        # Each solid divides its surface into parts; mirror and spoiler are one part each.
        divide = {"body": self._body_parts, "cabin": self._cabin_parts, "wheels": self._wheel_parts}
        parts = np.where(nearest == list(solids).index("mirror"), MIRROR, SPOILER).astype(np.uint8)
        for number, name in enumerate(solids):
            if name in divide:
                chosen = np.flatnonzero(nearest == number)
                parts[chosen] = divide[name](folded.take(chosen, axis=1))
        return parts

    def _wheel_parts(self, folded: Array) -> Array:
        # The rim is the disk in the middle of the outer side; the tire is all around it and on the inner side.
        x, y, z = folded
        radius = np.hypot(y - AXLE_HEIGHT, z - self._nearest_axle(z))
        is_rim = (radius < RIM_RATIO * self.wheel_radius) & (x > self.hub_x)
        return np.where(is_rim, RIM, TIRE).astype(np.uint8)

    def _cabin_parts(self, folded: Array) -> Array:
        """Return glass on windows, away from their edges and from the pillar between the doors; roof elsewhere."""
        # On the surface the largest plane distance is 0, that of the face; the second one is near 0 at an edge.
        distances = self.cabin.plane_distances(folded)  # K,M
        face = distances.argmax(0)
        second = np.sort(distances, axis=0)[-2]

        # Around the windows remain frames, and the seam to the body.
        _, y, z = folded
        is_window = self.cabin.is_face(face, "side", "windscreen", "rear window")
        is_side = self.cabin.is_face(face, "side")
        glass = (second < -0.016) & (y > self.top + 0.006) & is_window

        # The pillar; a van has no side windows behind it.
        glass &= ~(is_side & (np.abs(z - self.pillar) < 0.008))
        if self.style == "van":
            glass &= ~(is_side & (z < self.pillar))
        return np.where(glass, GLASS, ROOF).astype(np.uint8)

    def _body_parts(self, folded: Array) -> Array:
        """Divide the body into panels, trim, lamps, grille and plate; later ones cover earlier ones."""
        cowl = self.shape.cowl
        x, y, z = folded

        # The face a point is on has the largest plane distance (0 on the surface).
        face = self.body.plane_distances(folded).argmax(0)

        # Panels from front to rear.
        parts = np.select([z > cowl, z > self.pillar, z > self.door_end], [FRONT, FRONT_DOOR, REAR_DOOR], REAR)
        if self.two_doors:
            parts[parts == REAR_DOOR] = REAR
        is_hood = self.body.is_face(face, "top", "hood", "upper nose") & (z > cowl) & (x < self.half_width * 0.8)
        parts[is_hood] = HOOD

        # Trim along the sill and, on some cars, along the doors.
        is_strip = self.has_trim & (np.abs(y - AXLE_HEIGHT - 0.045) < 0.005) & self.body.is_face(face, "side")
        parts[(y < self.low + 0.022) | is_strip] = TRIM

        # Lamps, grille and plate.
        is_front = self.body.is_face(face, "nose", "lower nose", "front corner", "upper nose", "hood")
        self._mark_front(parts, x, y, (z > self.half_length * 0.80) & is_front)
        is_rear = z < -self.half_length * 0.86
        parts[is_rear & (x > self.half_width * 0.52) & (np.abs(y - self.top + 0.035) < self.lamp_height)] = TAIL_LIGHT
        is_tail = is_rear & self.body.is_face(face, "tail")
        parts[is_tail & (x < 0.045) & (np.abs(y - self.top + 0.045) < 0.012)] = PLATE
        return parts.astype(np.uint8)

    def _mark_front(self, parts: Array, x: Array, y: Array, is_front: Array) -> None:
        """Mark headlights and grille in `parts` M."""
        # Lamps: a disk, or a strip that rises outwards.
        height = AXLE_HEIGHT + 0.035
        if self.round_lamps:
            is_lamp = np.hypot(x - self.half_width * 0.68, y - height) < self.lamp_height * 1.3
        else:
            slanted = np.abs(y - height - 0.1 * (x - self.half_width * 0.7))
            is_lamp = (slanted < self.lamp_height) & (x > self.half_width * 0.52)

        # The grille between them first, as lamps may overlap it.
        parts[is_front & (x < self.half_width * 0.42) & (np.abs(y - height + 0.008) < 0.017)] = GRILLE
        parts[is_front & is_lamp] = HEADLIGHT

    # ----------------------------------------------------------------------- colors

    def _paint(self, rng: np.random.Generator) -> None:
        """Sample colors and details."""
        # One of the paints, varied in brightness and, less, in hue. No paint reflects all light.
        tint = np.exp(rng.normal(0, 0.15) + rng.normal(0, 0.08, 3))
        self.paint = _color(np.clip(np.asarray(PAINTS[rng.integers(len(PAINTS))]) * tint, 0, 0.85))

        # Every fifth car has a roof of another color.
        two_tone = rng.random() < 0.2
        self.roof_paint = _color(PAINTS[rng.integers(len(PAINTS))]) if two_tone else self.paint

        # Other materials: grays, and bluish glass.
        self.glass = _color(np.array([0.025, 0.032, 0.04]) * rng.uniform(0.6, 2.5))
        self.rim = _color(np.full(3, rng.uniform(0.12, 0.6)))
        self.trim = _color(np.full(3, rng.uniform(0.015, 0.06)))
        self.grille = _color(np.full(3, rng.uniform(0.01, 0.12)))
        self.tire = _color((0.014, 0.014, 0.015))

        # Details, with the share of cars that have them.
        self.spoke_count = int(rng.integers(4, 9))
        self.round_lamps = bool(rng.random() < 0.3)
        self.lamp_height = float(rng.uniform(0.012, 0.02))
        self.has_spoiler = bool(rng.random() < (0.6 if self.style == "sports" else 0.1))
        self.has_trim = bool(rng.random() < 0.5)
        self.two_doors = self.style in ("sports", "pick-up") or bool(rng.random() < 0.2)

    def surface(self, points: Array, normals: Array, parts: Array) -> Surface:
        """Return the material of points 3,M on the surface, with normals 3,M and part ids M."""
        # Tables of color (3,parts) and gloss by part. Those that do not have the paint:
        colors = np.repeat(self.paint, len(PARTS), axis=1)
        gloss = np.full(len(PARTS), 0.35, np.float32)
        materials = {
            ROOF: (self.roof_paint, 0.35),
            GLASS: (self.glass, 0.9),
            TIRE: (self.tire, 0.02),
            RIM: (self.rim, 0.3),
            HEADLIGHT: (_color((0.80, 0.82, 0.75)), 0.8),
            TAIL_LIGHT: (_color((0.45, 0.01, 0.01)), 0.6),
            GRILLE: (self.grille, 0.2),
            TRIM: (self.trim, 0.05),
            PLATE: (_color((0.7, 0.7, 0.66)), 0.1),
        }
        for part, (part_color, part_gloss) in materials.items():
            colors[:, part] = part_color[:, 0]
            gloss[part] = part_gloss

        # Glossy parts reflect a bright sky above and dark ground below.
        albedo = self._add_spokes(colors.take(parts, axis=1), points, parts)
        reflection = gloss[parts] * (0.10 + 0.24 * smooth_step(normals[1], -0.1, 0.9))
        return Surface(albedo + reflection * (parts != TIRE) * 0.5, gloss[parts])

    def _add_spokes(self, albedo: Array, points: Array, parts: Array) -> Array:
        """Darken the gaps between the spokes of rims in albedo 3,M."""
        # Polar coordinates about the hub; the radius is 1 at the tread.
        _, y, z = points
        axle = self._nearest_axle(z)
        angle = np.arctan2(y - AXLE_HEIGHT, z - axle)
        radius = np.hypot(y - AXLE_HEIGHT, z - axle) / self.wheel_radius

        # Gaps where the cosine is negative, between the hub and the outer ring of the rim.
        gap = smooth_step(np.cos(self.spoke_count * angle), 0.0, -0.3) * smooth_step(radius, 0.18, 0.24)
        gap = gap * smooth_step(radius, 0.60, 0.55)
        return mix(albedo, self.tire, gap * (parts == RIM))

    def background(self, directions: Array) -> Array:
        """Return white 3,M, as in the published data set of cars, for directions 3,M."""
        return np.ones_like(directions)
