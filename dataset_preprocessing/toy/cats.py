"""Heads of cat-like creatures from signed distance functions.

Classes: 0 background, 1 head, 2 ears, 3 eyes, 4 muzzle and nose, 5 body.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dataset_preprocessing.toy import sdf
from dataset_preprocessing.toy.scene import Surface, Waves, mix, smooth_step
from dataset_preprocessing.toy.sdf import Array, vector

CLASSES = ("background", "head", "ears", "eyes", "muzzle and nose", "body")
HEAD, EARS, EYES, MUZZLE, BODY = range(1, 6)

COATS = [  # linear light: base, light parts (muzzle, chest), dark marks
    ((0.50, 0.22, 0.07), (0.85, 0.68, 0.50), (0.26, 0.09, 0.02)),  # red
    ((0.22, 0.20, 0.18), (0.72, 0.69, 0.64), (0.04, 0.035, 0.03)),  # gray tabby
    ((0.20, 0.13, 0.07), (0.60, 0.48, 0.34), (0.03, 0.02, 0.012)),  # brown tabby
    ((0.78, 0.76, 0.72), (0.88, 0.86, 0.83), (0.45, 0.40, 0.36)),  # white
    ((0.035, 0.033, 0.035), (0.06, 0.055, 0.055), (0.015, 0.015, 0.015)),  # black
    ((0.035, 0.033, 0.035), (0.85, 0.84, 0.82), (0.015, 0.015, 0.015)),  # black and white
    ((0.15, 0.17, 0.21), (0.22, 0.24, 0.28), (0.08, 0.09, 0.12)),  # blue
    ((0.68, 0.55, 0.40), (0.80, 0.72, 0.60), (0.13, 0.08, 0.05)),  # cream
]
IRISES = [(0.60, 0.38, 0.05), (0.25, 0.42, 0.08), (0.10, 0.34, 0.22), (0.12, 0.36, 0.70), (0.50, 0.20, 0.03)]
NOSES = [(0.55, 0.22, 0.20), (0.30, 0.10, 0.08), (0.03, 0.025, 0.025)]


@dataclass(frozen=True)
class CatShape:
    """Lengths in units of `size`, which is in world units; angles in rad; the head's middle is the origin."""

    size: float
    head_width: float
    head_height: float
    head_depth: float
    cheek_size: float
    cheek_drop: float
    ear_height: float
    ear_width: float
    ear_spread_rad: float  # from the top of the head outwards
    ear_lean_rad: float  # of the ear itself, outwards
    ear_turn_rad: float  # openings turned outwards
    eye_size: float
    eye_spread_rad: float
    eye_lift_rad: float
    eye_slant_rad: float
    eye_opening: float  # height over width
    muzzle_size: float
    muzzle_length: float
    nose_size: float
    chin_size: float
    neck_width: float
    shoulder_width: float


SHAPE_RANGES = CatShape(
    size=(1.25, 1.42),
    head_width=(0.150, 0.176),
    head_height=(0.134, 0.155),
    head_depth=(0.130, 0.150),
    cheek_size=(0.055, 0.085),
    cheek_drop=(0.030, 0.060),
    ear_height=(0.085, 0.150),
    ear_width=(0.055, 0.078),
    ear_spread_rad=(0.62, 0.88),
    ear_lean_rad=(0.05, 0.50),
    ear_turn_rad=(0.0, 0.45),
    eye_size=(0.037, 0.047),
    eye_spread_rad=(0.42, 0.52),
    eye_lift_rad=(0.08, 0.20),
    eye_slant_rad=(0.05, 0.35),
    eye_opening=(0.62, 0.95),
    muzzle_size=(0.036, 0.048),
    muzzle_length=(0.0, 0.035),
    nose_size=(0.018, 0.026),
    chin_size=(0.026, 0.038),
    neck_width=(0.095, 0.140),
    shoulder_width=(0.20, 0.27),
)


def _draw(rng: np.random.Generator) -> CatShape:
    return CatShape(**{name: float(rng.uniform(*limits)) for name, limits in vars(SHAPE_RANGES).items()})


def _color(rng: np.random.Generator, choices: list, spread: float = 0.15) -> Array:
    chosen = np.asarray(choices[rng.integers(len(choices))])
    tint = np.exp(rng.normal(0, spread / 2, 3) + rng.normal(0, spread))
    return np.asarray(chosen * tint, np.float32)[:, None]


class Cat:
    """One creature; everything about it follows from `rng`."""

    half_size = vector([0.42, 0.82, 0.45])
    velvet = 0.35

    def __init__(self, rng: np.random.Generator):
        self.shape = _draw(rng)
        self._place()
        self._paint(rng)
        side, up = rng.uniform(-0.9, 0.9), rng.uniform(0.35, 0.95)
        self.light = sdf.unit(vector([math.sin(side), up, math.cos(side)]))

    def _place(self) -> None:
        s = self.shape
        self.head_radii = vector([s.head_width, s.head_height, s.head_depth])
        self.cheek = vector([s.head_width * 0.62, -s.cheek_drop, s.head_depth * 0.30])
        front = s.head_depth + s.muzzle_length - 0.012
        low = -0.30 * s.head_height
        self.pad = vector([s.muzzle_size * 0.66, low - 0.016, front - s.muzzle_size * 0.62])
        self.chin = vector([0.0, low - 0.050, front - s.muzzle_size * 0.95])
        self.bridge = vector([0.0, 0.26 * s.head_height, s.head_depth * 0.965 - 0.012])
        self.nose = vector([0.0, low + 0.022, front - 0.003])
        self.nose_radii = vector([1.15, 0.80, 0.80]) * s.nose_size
        self.bridge_end = self.nose - vector([0.0, 0.004, 0.016])
        yaw, lift = s.eye_spread_rad, s.eye_lift_rad
        outward = vector([math.sin(yaw) * math.cos(lift), math.sin(lift), math.cos(yaw) * math.cos(lift)])
        self.eye = outward * self.head_radii * (1 - 0.62 * s.eye_size / s.head_depth)
        # eyes look forward and a little outwards; across and up span the opening between the lids
        self.gaze = sdf.unit(vector([0.30, 0.02, 1.0]))
        across = sdf.unit(np.cross(vector([0.0, 1, 0]), self.gaze))
        up = np.cross(self.gaze, across)
        slant = s.eye_slant_rad
        self.eye_across = math.cos(slant) * across + math.sin(slant) * up
        self.eye_up = math.cos(slant) * up - math.sin(slant) * across
        spread, lean, turn = s.ear_spread_rad, s.ear_lean_rad, s.ear_turn_rad
        foot = vector([math.sin(spread) * s.head_width, math.cos(spread) * s.head_height, -0.1 * s.head_depth])
        self.ear_foot = foot * 0.86
        ear_up = sdf.unit(vector([math.sin(lean), math.cos(lean), -0.12]))
        ear_front = vector([math.sin(turn), 0.0, math.cos(turn)])
        ear_front = sdf.unit(ear_front - ear_front.dot(ear_up) * ear_up)
        self.ear_axes = np.stack([np.cross(ear_up, ear_front), ear_up, ear_front])
        self.neck = vector([0.0, -0.20, -0.07]), vector([0.0, -0.36, -0.12])
        self.shoulders = vector([0.0, -0.40, -0.12])
        self.shoulder_radii = vector([s.shoulder_width, 0.17, 0.17])

    def _paint(self, rng: np.random.Generator) -> None:
        base, light, dark = (np.asarray(c) for c in COATS[rng.integers(len(COATS))])
        tint = np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.05, 3))
        self.base, self.light_fur, self.dark = (
            np.asarray(np.clip(c * tint, 0, 0.92), np.float32)[:, None] for c in (base, light, dark)
        )
        self.stripes = float(rng.choice([0.0, rng.uniform(0.4, 1.0)], p=[0.35, 0.65]))
        self.stripe_count = float(rng.uniform(13, 20))
        self.patches = float(rng.choice([0.0, 1.0], p=[0.7, 0.3]))
        self.points = float(rng.choice([0.0, rng.uniform(0.5, 0.9)], p=[0.8, 0.2]))  # dark ears and muzzle
        self.blaze = float(rng.choice([0.0, rng.uniform(0.012, 0.04)], p=[0.5, 0.5]))  # light stripe on the brow
        self.iris, self.nose_color = _color(rng, IRISES), _color(rng, NOSES)
        self.pupil_color = np.full((3, 1), 0.006, np.float32)
        self.pupil = float(rng.uniform(0.16, 0.55))
        self.inner_ear = _color(rng, [(0.62, 0.32, 0.28), (0.50, 0.26, 0.22)])
        self.fur, self.patch_field = Waves(rng, 10, 90, 260), Waves(rng, 5, 8, 22)
        self.sky = np.asarray(rng.uniform(0.05, 0.75, (2, 3)) ** 1.5, np.float32)
        self.sky = self.sky * 0.55 + self.sky.mean(1, keepdims=True) * 0.45  # rooms are seldom gaudy
        self.sky_field = Waves(rng, 4, 4, 12)

    # ----------------------------------------------------------------------- shape

    def _ear(self, points: Array) -> tuple[Array, Array]:
        """Distances to the ear's outer leaf and to the hollow in its front."""
        s = self.shape
        local = self.ear_axes @ (points - self.ear_foot[:, None])
        outer = sdf.leaf(local, s.ear_height, s.ear_width, 0.55)
        hollow_at = local - vector([0.0, -0.012, s.ear_width * 0.46])[:, None]
        return outer, sdf.leaf(hollow_at, s.ear_height * 0.90, s.ear_width * 0.78, 0.60)

    def _solids(self, points: Array) -> dict[int, Array]:
        """Part -> distance, before blending; `points` are folded to x >= 0."""
        s = self.shape
        head = sdf.ellipsoid(points, np.zeros(3, np.float32), self.head_radii)
        head = sdf.blend(head, sdf.sphere(points, self.cheek, s.cheek_size), 0.05)
        outer, hollow = self._ear(points)
        muzzle = sdf.blend(
            sdf.sphere(points, self.pad, s.muzzle_size), sdf.sphere(points, self.chin, s.chin_size), 0.02
        )
        muzzle = sdf.blend(muzzle, sdf.capsule(points, self.bridge, self.bridge_end, 0.026), 0.02)
        muzzle = sdf.blend(muzzle, sdf.ellipsoid(points, self.nose, self.nose_radii), 0.006)
        body = sdf.capsule(points, *self.neck, s.neck_width)
        body = sdf.blend(body, sdf.ellipsoid(points, self.shoulders, self.shoulder_radii), 0.08)
        eye = sdf.sphere(points, self.eye, s.eye_size)
        return {HEAD: head, EARS: sdf.carve(outer, hollow, 0.008), EYES: eye, MUZZLE: muzzle, BODY: body}

    def distance(self, points: Array) -> Array:
        solids = self._solids(sdf.fold(points / self.shape.size))
        solid = sdf.blend(solids[HEAD], solids[MUZZLE], 0.022)
        solid = sdf.blend(solid, solids[EARS], 0.016)
        solid = sdf.blend(solid, solids[BODY], 0.035)
        return np.minimum(solid, solids[EYES]) * self.shape.size

    def parts(self, points: Array) -> Array:
        folded = sdf.fold(points / self.shape.size)
        solids = self._solids(folded)
        part = (np.stack([solids[k] for k in (HEAD, EARS, EYES, MUZZLE, BODY)]).argmin(0) + 1).astype(np.uint8)
        across, up, _ = self._on_eye(folded)
        lid = (part == EYES) & (self._opening(across, up) > 0)
        return np.where(lid, np.uint8(HEAD), part)

    def _on_eye(self, folded: Array) -> tuple[Array, Array, Array]:
        """Coordinates on the eyeball over its radius: across, up, towards the gaze."""
        offset = (folded - self.eye[:, None]) / self.shape.eye_size
        return self.eye_across @ offset, self.eye_up @ offset, self.gaze @ offset

    def _opening(self, across: Array, up: Array) -> Array:
        """Negative between the lids, positive on them: an almond."""
        return np.abs(up) - self.shape.eye_opening * (1 - (across / 0.98) ** 2)

    # ----------------------------------------------------------------------- looks

    def surface(self, points: Array, normals: Array, parts: Array) -> Surface:
        points = points / self.shape.size
        folded = sdf.fold(points)
        albedo = self._coat(points, folded, parts)
        gloss = np.zeros(points.shape[1], np.float32)
        outer, hollow = self._ear(folded)
        inside = (parts == EARS) * smooth_step(hollow, 0.006, 0.001) * smooth_step(outer, -0.001, -0.006)
        albedo = mix(albedo, self.inner_ear, inside * 0.85)
        albedo, gloss = self._nose_and_mouth(folded, parts, albedo, gloss)
        eyes = parts == EYES
        across, up, ahead = self._on_eye(folded)
        rim = smooth_step(np.abs(self._opening(across, up)), 0.22, 0.04) * ((across**2 + up**2 < 1.6) & (ahead > 0))
        near_eye = sdf.sphere(folded, self.eye, self.shape.eye_size) < 0.003
        albedo = mix(albedo, self.dark * 0.5, rim * near_eye * ~eyes)
        albedo = np.where(eyes, self._eye_color(across, up), albedo)
        return Surface(albedo, np.where(eyes, 0.9, gloss))

    def _coat(self, points: Array, folded: Array, parts: Array) -> Array:
        x, y, z = folded
        base = self.base
        if self.patches:
            base = mix(base, self.light_fur, smooth_step(self.patch_field(points), 0.1, 0.3))
        # stripes fan out from between the eyes, as on a tabby's face
        angle = np.arctan2(y - 0.02, x + 0.25 * np.maximum(0.15 - z, 0))
        stripe = np.sin(self.stripe_count * angle + 2.2 * self.fur(points * 0.25))
        away = smooth_step(np.hypot(x, y - 0.02), 0.035, 0.10)
        body_stripe = np.sin(70 * (y + 0.35 * z) + 2 * self.fur(points * 0.25))
        stripe = np.where(parts == BODY, body_stripe, stripe * away)
        fur = mix(base, self.dark, self.stripes * smooth_step(stripe, 0.15, 0.75) * (parts != MUZZLE))
        dark_points = self.points * ((parts == EARS) + (parts == MUZZLE) * smooth_step(y, 0.05, -0.02))
        light = (parts == MUZZLE) * smooth_step(y, 0.03, -0.03) + (parts == BODY) * smooth_step(x, 0.12, 0.03)
        light = light + (parts == HEAD) * smooth_step(y, -0.06, -0.10)
        if self.blaze:
            light = light + smooth_step(x, self.blaze, self.blaze * 0.5) * (z > 0) * (parts != BODY)
        fur = mix(fur, self.light_fur, np.clip(light, 0, 1) * 0.9)
        fur = mix(fur, self.dark, np.clip(dark_points, 0, 1))
        return fur * (1 + 0.16 * self.fur(points))

    def _nose_and_mouth(self, folded: Array, parts: Array, albedo: Array, gloss: Array) -> tuple[Array, Array]:
        x, y, z = folded
        s = self.shape
        nose = sdf.ellipsoid(folded, self.nose, self.nose_radii)
        # wide above, a point below: the triangle of a cat's nose
        tip = (self.nose[1] + 0.8 * s.nose_size - y) / (1.6 * s.nose_size)
        on_nose = smooth_step(nose, 0.0035, 0.001) * smooth_step(x - s.nose_size * (1.15 - 0.85 * tip), 0.002, -0.002)
        low = self.nose[1] - s.nose_size * 0.7
        corner = self.pad[1] - 0.55 * s.muzzle_size
        seam = smooth_step(x, 0.0035, 0.0015) * (y < low) * (y > corner)
        curve = corner + 2.2 * (x - 0.5 * s.muzzle_size) ** 2 / s.muzzle_size
        smile = smooth_step(np.abs(y - curve), 0.004, 0.0015)
        smile = smile * (x < s.muzzle_size * 1.15)
        line = np.maximum(seam, smile) * (parts == MUZZLE) * (z > self.chin[2])
        albedo = mix(albedo, self.dark * 0.35 + 0.01, line * 0.85)
        return mix(albedo, self.nose_color, on_nose), np.maximum(gloss, on_nose * 0.25)

    def _eye_color(self, across: Array, up: Array) -> Array:
        radius = np.hypot(across, up)
        iris = self.iris * (0.55 + 0.75 * smooth_step(radius, 0.95, 0.25))
        iris = mix(iris, self.iris * 0.15, smooth_step(radius, 0.84, 0.96))
        slit = (across / self.pupil) ** 2 + (up / 0.72) ** 2
        return mix(iris, self.pupil_color, smooth_step(slit, 1.15, 0.85))

    def background(self, directions: Array) -> Array:
        return mix(self.sky[0][:, None], self.sky[1][:, None], np.clip(0.5 + 0.6 * self.sky_field(directions), 0, 1))
