"""Procedural heads of cat-like animals.

Classes: 0 background, 1 head, 2 ears, 3 eyes, 4 muzzle and nose, 5 body (published cats have 3 and 4
swapped). Only the half x >= 0 (the viewer's right) is modeled; the other half is its mirror image.
"""

from __future__ import annotations

import math

import numpy as np

from dataset_preprocessing.toy import sdf
from dataset_preprocessing.toy.scene import Surface, Waves, mix, sample_shape, smooth_step
from dataset_preprocessing.toy.sdf import Array, vector

HEAD, EARS, EYES, MUZZLE, BODY = range(1, 6)

# Albedo in linear light: base, light fur (muzzle, chest), dark marks.
COATS = [
    ((0.50, 0.22, 0.07), (0.85, 0.68, 0.50), (0.26, 0.09, 0.02)),  # red
    ((0.22, 0.20, 0.18), (0.72, 0.69, 0.64), (0.04, 0.035, 0.03)),  # gray tabby
    ((0.20, 0.13, 0.07), (0.60, 0.48, 0.34), (0.03, 0.02, 0.012)),  # brown tabby
    ((0.78, 0.76, 0.72), (0.88, 0.86, 0.83), (0.45, 0.40, 0.36)),  # white
    ((0.035, 0.033, 0.035), (0.06, 0.055, 0.055), (0.015, 0.015, 0.015)),  # black
    ((0.035, 0.033, 0.035), (0.85, 0.84, 0.82), (0.015, 0.015, 0.015)),  # black and white
    ((0.15, 0.17, 0.21), (0.22, 0.24, 0.28), (0.08, 0.09, 0.12)),  # blue
    ((0.68, 0.55, 0.40), (0.80, 0.72, 0.60), (0.13, 0.08, 0.05)),  # cream
]

# Colors of the other materials, in linear light too.
IRISES = [(0.60, 0.38, 0.05), (0.25, 0.42, 0.08), (0.10, 0.34, 0.22), (0.12, 0.36, 0.70), (0.50, 0.20, 0.03)]
NOSES = [(0.55, 0.22, 0.20), (0.30, 0.10, 0.08), (0.03, 0.025, 0.025)]
INNER_EARS = [(0.62, 0.32, 0.28), (0.50, 0.26, 0.22)]

# Ranges of the shape parameters. Lengths are multiples of `size`; the origin is the center of the head.
SHAPE_RANGES = {
    "size": (1.25, 1.42),  # world units
    # Head, with cheeks that are this much below its center.
    "head_width": (0.150, 0.176),
    "head_height": (0.134, 0.155),
    "head_depth": (0.130, 0.150),
    "cheek_size": (0.055, 0.085),
    "cheek_drop": (0.030, 0.060),
    # Ears.
    "ear_height": (0.085, 0.150),
    "ear_width": (0.055, 0.078),
    "ear_spread_rad": (0.62, 0.88),  # position on the head, from the top outwards
    "ear_lean_rad": (0.05, 0.50),  # tilt of the ear itself, outwards
    "ear_turn_rad": (0.0, 0.45),  # opening turned outwards
    # Eyes: radius, direction from the center of the head, and the opening between the lids.
    "eye_size": (0.037, 0.047),
    "eye_spread_rad": (0.42, 0.52),
    "eye_lift_rad": (0.08, 0.20),
    "eye_slant_rad": (0.05, 0.35),
    "eye_opening": (0.62, 0.95),  # height over width
    # Muzzle: radius of a whisker pad, and how far it is in front of the head.
    "muzzle_size": (0.036, 0.048),
    "muzzle_length": (0.0, 0.035),
    "nose_size": (0.018, 0.026),
    "chin_size": (0.026, 0.038),
    # Body: radii.
    "neck_width": (0.095, 0.140),
    "shoulder_width": (0.20, 0.27),
}


def _tinted(rng: np.random.Generator, choices: list, spread: float = 0.15) -> Array:
    """Choose a color and vary it: 3,1."""
    # Factors about 1: half of the spread in each channel (hue), all of it in common (brightness).
    color = np.asarray(choices[rng.integers(len(choices))])
    tint = np.exp(rng.normal(0, spread / 2, 3) + rng.normal(0, spread))
    return np.asarray(color * tint, np.float32)[:, None]


def _zero_or(rng: np.random.Generator, value: float, probability: float) -> float:
    """Return `value` with the given probability, else 0."""
    return float(rng.choice([0.0, value], p=[1 - probability, probability]))


class Cat:
    """Random cat.

    Args:
        rng: random generator that determines shape, coat and light.
    """

    half_size = vector([0.42, 0.82, 0.45])
    velvet = 0.35

    def __init__(self, rng: np.random.Generator):
        # Geometry, then colors. The order of the random numbers determines every cat.
        self.shape = sample_shape(rng, SHAPE_RANGES)
        self._place_face()
        self._place_eyes()
        self._place_ears()
        self._place_body()
        self._paint(rng)

        # The lamp is in front, above, and up to 50 degrees to one side.
        azimuth = rng.uniform(-0.9, 0.9)
        height = rng.uniform(0.35, 0.95)  # tangent of the elevation: 19 to 44 degrees
        self.light = sdf.unit(vector([math.sin(azimuth), height, math.cos(azimuth)]))

    # ----------------------------------------------------------------------- anatomy

    def _place_face(self) -> None:
        """Place the ellipsoids, spheres and capsules of head, cheeks, muzzle and nose."""
        s = self.shape

        # Head: an ellipsoid at the origin, with round cheeks below the middle.
        self.head_radii = vector([s.head_width, s.head_height, s.head_depth])
        self.cheek = vector([s.head_width * 0.62, -s.cheek_drop, s.head_depth * 0.30])

        # Muzzle: whisker pads and chin, with the bridge of the nose above.
        front = s.head_depth + s.muzzle_length - 0.012
        low = -0.30 * s.head_height
        self.pad = vector([s.muzzle_size * 0.66, low - 0.016, front - s.muzzle_size * 0.62])
        self.chin = vector([0.0, low - 0.050, front - s.muzzle_size * 0.95])

        # The tip of the nose sits on the pads; its bridge runs up to between the eyes.
        self.nose = vector([0.0, low + 0.022, front - 0.003])
        self.nose_radii = vector([1.15, 0.80, 0.80]) * s.nose_size
        self.bridge_start = vector([0.0, 0.26 * s.head_height, s.head_depth * 0.965 - 0.012])
        self.bridge_end = self.nose - vector([0.0, 0.004, 0.016])

    def _place_eyes(self) -> None:
        """Place the left eyeball in the surface of the head, and the opening between its lids."""
        s = self.shape

        # In the direction (yaw, lift) from the center of the head, sunk in by most of its radius.
        yaw = s.eye_spread_rad
        lift = s.eye_lift_rad
        outward = vector([math.sin(yaw) * math.cos(lift), math.sin(lift), math.cos(yaw) * math.cos(lift)])
        self.eye = outward * self.head_radii * (1 - 0.62 * s.eye_size / s.head_depth)

        # Eyes look forward and a little outwards; eye_across and eye_up span the opening between the lids.
        self.gaze = sdf.unit(vector([0.30, 0.02, 1.0]))

        # The opening is rotated about the gaze: its outer corner is higher by the slant.
        across = sdf.unit(np.cross(vector([0.0, 1, 0]), self.gaze))
        up = np.cross(self.gaze, across)
        slant = s.eye_slant_rad
        self.eye_across = math.cos(slant) * across + math.sin(slant) * up
        self.eye_up = math.cos(slant) * up - math.sin(slant) * across

    def _place_ears(self) -> None:
        """Place the left ear on the head, and its axes."""
        s = self.shape

        # Base: inside the head, behind its middle.
        spread = s.ear_spread_rad
        base = vector([math.sin(spread) * s.head_width, math.cos(spread) * s.head_height, -0.1 * s.head_depth])
        self.ear_base = base * 0.86

        # Rows: the ear's axes outwards (+x), up and front; the front is made orthogonal to up (Gram-Schmidt).
        ear_up = sdf.unit(vector([math.sin(s.ear_lean_rad), math.cos(s.ear_lean_rad), -0.12]))
        ear_front = vector([math.sin(s.ear_turn_rad), 0.0, math.cos(s.ear_turn_rad)])
        ear_front = sdf.unit(ear_front - ear_front.dot(ear_up) * ear_up)
        self.ear_axes = np.stack([np.cross(ear_up, ear_front), ear_up, ear_front])

    def _place_body(self) -> None:
        """Place neck and shoulders, which go down out of the image."""
        self.neck_start = vector([0.0, -0.20, -0.07])
        self.neck_end = vector([0.0, -0.36, -0.12])
        self.shoulders = vector([0.0, -0.40, -0.12])
        self.shoulder_radii = vector([self.shape.shoulder_width, 0.17, 0.17])

    def _ear(self, points: Array) -> tuple[Array, Array]:
        """Return distances M to the ear's outer leaf and to the hollow in its front."""
        # A leaf, hollowed by a smaller one in front of it.
        s = self.shape
        local = self.ear_axes @ (points - self.ear_base[:, None])
        outer = sdf.leaf(local, s.ear_height, s.ear_width, 0.55)
        hollow_local = local - vector([0.0, -0.012, s.ear_width * 0.46])[:, None]
        return outer, sdf.leaf(hollow_local, s.ear_height * 0.90, s.ear_width * 0.78, 0.60)

    def _solids(self, points: Array) -> dict[int, Array]:
        """Return the distance M to each part before blending; `points` 3,M are folded and divided by `size`."""
        s = self.shape

        # Each part is a union of solids with soft transitions, wide where flesh is soft.
        head = sdf.ellipsoid(points, np.zeros(3, np.float32), self.head_radii)
        head = sdf.smooth_union(head, sdf.sphere(points, self.cheek, s.cheek_size), 0.05)

        # Muzzle: whisker pads, chin, bridge of the nose, tip of the nose.
        pad = sdf.sphere(points, self.pad, s.muzzle_size)
        muzzle = sdf.smooth_union(pad, sdf.sphere(points, self.chin, s.chin_size), 0.02)
        muzzle = sdf.smooth_union(muzzle, sdf.capsule(points, self.bridge_start, self.bridge_end, 0.026), 0.02)
        muzzle = sdf.smooth_union(muzzle, sdf.ellipsoid(points, self.nose, self.nose_radii), 0.006)

        # Body: neck and shoulders.
        body = sdf.capsule(points, self.neck_start, self.neck_end, s.neck_width)
        body = sdf.smooth_union(body, sdf.ellipsoid(points, self.shoulders, self.shoulder_radii), 0.08)

        # Ears with a smooth rim; eyes are plain spheres between the lids.
        outer, hollow = self._ear(points)
        ears = sdf.smooth_difference(outer, hollow, 0.008)
        eyes = sdf.sphere(points, self.eye, s.eye_size)
        return {HEAD: head, EARS: ears, EYES: eyes, MUZZLE: muzzle, BODY: body}

    def distance(self, points: Array) -> Array:
        """Return the signed distance M of points 3,M."""
        # Fur-covered parts blend into each other; the eyes keep a sharp edge. Distances scale with the size.
        solids = self._solids(sdf.fold(points / self.shape.size))
        fur = sdf.smooth_union(solids[HEAD], solids[MUZZLE], 0.022)
        fur = sdf.smooth_union(fur, solids[EARS], 0.016)
        fur = sdf.smooth_union(fur, solids[BODY], 0.035)
        return np.minimum(fur, solids[EYES]) * self.shape.size

    def parts(self, points: Array) -> Array:
        """Return class ids M (uint8) of points 3,M on the surface: the nearest part, lids counting as head."""
        folded = sdf.fold(points / self.shape.size)
        solids = self._solids(folded)
        parts = (np.stack([solids[k] for k in (HEAD, EARS, EYES, MUZZLE, BODY)]).argmin(0) + 1).astype(np.uint8)

        # The eyeball outside the opening is covered by the lids.
        across, up, _ = self._eye_coordinates(folded)
        is_lid = (parts == EYES) & (self._lid(across, up) > 0)
        return np.where(is_lid, np.uint8(HEAD), parts)

    def _eye_coordinates(self, folded: Array) -> tuple[Array, Array, Array]:
        """Return coordinates M relative to the eye's center over its radius: across, up, along the gaze."""
        offset = (folded - self.eye[:, None]) / self.shape.eye_size
        return self.eye_across @ offset, self.eye_up @ offset, self.gaze @ offset

    def _lid(self, across: Array, up: Array) -> Array:
        """Return M, negative in the almond-shaped opening between the lids (two parabolas), positive on the lids."""
        return np.abs(up) - self.shape.eye_opening * (1 - (across / 0.98) ** 2)

    # ----------------------------------------------------------------------- colors

    def _paint(self, rng: np.random.Generator) -> None:
        """Sample the coat, the other colors and the background."""
        # Coat: one tint for its three colors.
        coat = COATS[rng.integers(len(COATS))]
        tint = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 3))
        self.base, self.light_fur, self.dark = (
            np.asarray(np.clip(np.asarray(color) * tint, 0, 0.92), np.float32)[:, None] for color in coat
        )

        # Pattern: strengths in [0, 1], 0 for a cat without it.
        self.stripes = _zero_or(rng, rng.uniform(0.4, 1.0), 0.65)
        self.stripe_count = float(rng.uniform(13, 20))
        self.patches = _zero_or(rng, 1.0, 0.3)

        # Dark ears and muzzle, as of Siamese cats, and a blaze: a light stripe on the forehead.
        self.dark_points = _zero_or(rng, rng.uniform(0.5, 0.9), 0.2)
        self.blaze_width = _zero_or(rng, rng.uniform(0.012, 0.04), 0.5)

        # Eyes, nose and ears; noise of hairs (fine) and of patches (coarse).
        self.iris = _tinted(rng, IRISES)
        self.nose_color = _tinted(rng, NOSES)
        self.pupil_color = np.full((3, 1), 0.006, np.float32)
        self.pupil_width = float(rng.uniform(0.16, 0.55))
        self.inner_ear = _tinted(rng, INNER_EARS)
        self.fur_noise = Waves(rng, 10, 90, 260)
        self.patch_noise = Waves(rng, 5, 8, 22)

        # Background: two colors, desaturated as in most rooms.
        sky = np.asarray(rng.uniform(0.05, 0.75, (2, 3)) ** 1.5, np.float32)
        self.sky = sky * 0.55 + sky.mean(1, keepdims=True) * 0.45
        self.sky_noise = Waves(rng, 4, 4, 12)

    def surface(self, points: Array, normals: Array, parts: Array) -> Surface:
        """Return the material of points 3,M on the surface, with normals 3,M and class ids M."""
        # Noise is not symmetric and takes the unfolded points.
        points = points / self.shape.size
        folded = sdf.fold(points)
        albedo = self._coat(points, folded, parts)

        # Inside of the ears: on the hollow's surface, and not on the rim, where the outer leaf is near.
        outer, hollow = self._ear(folded)
        inside = (parts == EARS) * smooth_step(hollow, 0.006, 0.001) * smooth_step(outer, -0.001, -0.006)
        albedo = mix(albedo, self.inner_ear, inside * 0.85)

        albedo, gloss = self._nose_and_mouth(folded, parts, albedo)

        # Eyes with dark rims on the lids.
        is_eye = parts == EYES
        across, up, ahead = self._eye_coordinates(folded)
        rim = smooth_step(np.abs(self._lid(across, up)), 0.22, 0.04) * ((across**2 + up**2 < 1.6) & (ahead > 0))
        near_eye = sdf.sphere(folded, self.eye, self.shape.eye_size) < 0.003
        albedo = mix(albedo, self.dark * 0.5, rim * near_eye * ~is_eye)
        albedo = np.where(is_eye, self._eye_color(across, up), albedo)
        return Surface(albedo, np.where(is_eye, 0.9, gloss))

    def _coat(self, points: Array, folded: Array, parts: Array) -> Array:
        """Return the color of the fur, 3,M."""
        x, y, z = folded

        # Patches, as of a calico cat.
        base = self.base
        if self.patches:
            base = mix(base, self.light_fur, smooth_step(self.patch_noise(points), 0.1, 0.3))

        # Stripes fan out from between the eyes, as on a tabby's face, and run around the body.
        angle = np.arctan2(y - 0.02, x + 0.25 * np.maximum(0.15 - z, 0))
        face_stripe = np.sin(self.stripe_count * angle + 2.2 * self.fur_noise(points * 0.25))
        away = smooth_step(np.hypot(x, y - 0.02), 0.035, 0.10)
        body_stripe = np.sin(70 * (y + 0.35 * z) + 2 * self.fur_noise(points * 0.25))
        stripe = np.where(parts == BODY, body_stripe, face_stripe * away)
        fur = mix(base, self.dark, self.stripes * smooth_step(stripe, 0.15, 0.75) * (parts != MUZZLE))

        # Light muzzle, chest, chin and blaze.
        light = (parts == MUZZLE) * smooth_step(y, 0.03, -0.03) + (parts == BODY) * smooth_step(x, 0.12, 0.03)
        light = light + (parts == HEAD) * smooth_step(y, -0.06, -0.10)
        if self.blaze_width:
            light = light + smooth_step(x, self.blaze_width, self.blaze_width * 0.5) * (z > 0) * (parts != BODY)
        fur = mix(fur, self.light_fur, np.clip(light, 0, 1) * 0.9)

        # Dark points, and brightness that varies from hair to hair.
        dark_points = self.dark_points * ((parts == EARS) + (parts == MUZZLE) * smooth_step(y, 0.05, -0.02))
        fur = mix(fur, self.dark, np.clip(dark_points, 0, 1))
        return fur * (1 + 0.16 * self.fur_noise(points))

    def _nose_and_mouth(self, folded: Array, parts: Array, albedo: Array) -> tuple[Array, Array]:
        """Paint nose and mouth on albedo 3,M; return the new albedo 3,M and gloss M."""
        x, y, z = folded
        s = self.shape

        # Nose: a triangle on the nose's ellipsoid; its half width shrinks from 1.15 to 0.3 nose sizes downwards.
        nose = sdf.ellipsoid(folded, self.nose, self.nose_radii)
        drop = (self.nose[1] + 0.8 * s.nose_size - y) / (1.6 * s.nose_size)  # 0 above, 1 below
        on_nose = smooth_step(nose, 0.0035, 0.001) * smooth_step(x - s.nose_size * (1.15 - 0.85 * drop), 0.002, -0.002)

        # Mouth: a vertical seam under the nose, and a parabola on either side.
        seam_top = self.nose[1] - s.nose_size * 0.7
        seam_bottom = self.pad[1] - 0.55 * s.muzzle_size
        seam = smooth_step(x, 0.0035, 0.0015) * (y < seam_top) * (y > seam_bottom)
        curve = seam_bottom + 2.2 * (x - 0.5 * s.muzzle_size) ** 2 / s.muzzle_size
        smile = smooth_step(np.abs(y - curve), 0.004, 0.0015)
        smile = smile * (x < s.muzzle_size * 1.15)
        line = np.maximum(seam, smile) * (parts == MUZZLE) * (z > self.chin[2])

        # A wet nose is a little glossy.
        albedo = mix(albedo, self.dark * 0.35 + 0.01, line * 0.85)
        gloss = np.maximum(np.zeros(folded.shape[1], np.float32), on_nose * 0.25)
        return mix(albedo, self.nose_color, on_nose), gloss

    def _eye_color(self, across: Array, up: Array) -> Array:
        """Return the color 3,M of the eyeball: iris, dark rim and slit pupil (an ellipse)."""
        # Iris: bright around the pupil, dark at its rim.
        radius = np.hypot(across, up)
        iris = self.iris * (0.55 + 0.75 * smooth_step(radius, 0.95, 0.25))
        iris = mix(iris, self.iris * 0.15, smooth_step(radius, 0.84, 0.96))

        # The implicit function of the ellipse is 1 on its edge.
        pupil = (across / self.pupil_width) ** 2 + (up / 0.72) ** 2
        return mix(iris, self.pupil_color, smooth_step(pupil, 1.15, 0.85))

    def background(self, directions: Array) -> Array:
        """Return a soft mixture of two colors, 3,M, for directions 3,M."""
        weight = np.clip(0.5 + 0.6 * self.sky_noise(directions), 0, 1)
        return mix(self.sky[0][:, None], self.sky[1][:, None], weight)
