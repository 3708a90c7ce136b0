"""One network and what has been made with it: drawings to scenes, scenes to pictures. For one thread only."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from applications.editor.protocol import SCENE_NAME_LENGTH, Bounds, Orbit, UnknownScene, View
from camera_utils import CAMERAS, CameraPreset, pose_at
from inference.latents import latent
from training.data.label_maps import draw_image, to_uint8
from training.networks.generator import TriPlane

SCENES_KEPT = 4096  # as ws: 30 to 60 KB each
PLANES_KEPT = 12  # 25 MB each in the published models
DRAWINGS_KEPT = 12  # as the encoder's result: 14 KB each
SWING = 2  # how far a page may turn, relative to the published film of the configuration
POLE_MARGIN_RAD = 0.12  # in polar; nearer to the poles a drag spins the picture
ZOOM = (0.75, 3.0)
PREVIEW_SHRINK = 2  # of the rendering resolution, while a page is dragged
LINE_BELOW = 128  # gray of a rendered edge map that counts as line


class Recent:
    """What was made last, by key; the longest unused is forgotten first."""

    def __init__(self, size: int):
        self.size, self.items = size, OrderedDict[Hashable, Any]()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self.items:
            self.items[key] = make()
        self.items.move_to_end(key)
        while len(self.items) > self.size:
            self.items.popitem(last=False)
        return self.items[key]


@dataclass(frozen=True)
class Picture:
    """What a page is shown: colors uint8 R,R,3 and class ids (edges: 0 background, 1 line) uint8 R,R."""

    colors: np.ndarray
    ids: np.ndarray


def orbit_of(preset: CameraPreset) -> Orbit:
    """How far a page may turn the object of a configuration."""
    half = math.pi / 2
    pitch = min(SWING * preset.pitch_rad, half - POLE_MARGIN_RAD)
    yaw = min(SWING * preset.yaw_rad, math.pi)
    azimuth = (-math.pi, math.pi) if preset.full_turn else (half - yaw, half + yaw)
    return Orbit(azimuth, (half - pitch, half + pitch), ZOOM, preset.full_turn)


class Studio:
    """A generator with its scenes.

    A scene is its ws, and its name is a digest of them, so that pages which make the same scene share its planes.
    """

    def __init__(self, G: TriPlane, cfg: str):
        self.G, self.cfg, self.preset = G, cfg, CAMERAS[cfg]
        self.device = next(G.parameters()).device
        classes = G.semantic_channels if G.data_type == "seg" else 2
        self.bounds = Bounds(G.img_resolution, classes, orbit_of(self.preset))
        self.scenes, self.planes, self.drawings = Recent(SCENES_KEPT), Recent(PLANES_KEPT), Recent(DRAWINGS_KEPT)

    @property
    def network_name(self) -> str:
        """Digest of the decoder, a few thousand numbers that every step of training changes."""
        parts = [t.cpu().numpy().tobytes() for t in self.G.decoder.state_dict().values()]
        return hashlib.sha256(b"".join(parts)).hexdigest()[:SCENE_NAME_LENGTH]

    @property
    def ws_shape(self) -> tuple[int, int]:
        """Of one scene: num_ws and w_dim (both trunks' where there are two)."""
        return self.G.num_ws, self.G.w_dim * (2 if self.G.architecture.split else 1)

    def pose(self, view: View) -> Tensor:
        """1,25: on the network's own orbit, with the configuration's lens times the zoom."""
        pose = pose_at(self.preset, view.azimuth, view.polar, **self.G.orbit, device=self.device)
        pose[:, [16, 20]] *= view.zoom  # both focal lengths
        return pose

    # ----------------------------------------------------------------------- scenes

    def add(self, ws: Tensor) -> str:
        """Name of the scene of ws 1,num_ws,w_dim."""
        ws = ws.float().cpu().contiguous()
        name = hashlib.sha256(ws.numpy().tobytes()).hexdigest()[:SCENE_NAME_LENGTH]
        return self.scenes.get(name, lambda: (name, ws))[0]

    def ws(self, scene: str) -> Tensor:
        """1,num_ws,w_dim on the CPU.

        Raises:
            UnknownScene: it was never made here, or too long ago.
        """

        def unknown() -> Any:
            raise UnknownScene("the server does not know this object any more")

        return self.scenes.get(scene, unknown)[1]

    def edit(self, drawing: np.ndarray, place: View, seed: int, style: str | None, geometry: str | None) -> str:
        """The scene of a drawing (R,R class ids) seen from `place`.

        Args:
            style, geometry: scenes that give the texture or the form in place of the drawing with this seed.
        """
        encoded = self.drawings.get(drawing.tobytes(), lambda: self.G.encode({"mask": self._label_map(drawing)}))
        z = latent(seed, self.G.z_dim).to(self.device)
        ws = self.G.mapping(z, self.pose(place), encoded=encoded).cpu()
        form = ws if geometry is None else self.ws(geometry)
        texture = ws if style is None else self.ws(style)
        return self.add(self._joined(form, texture))

    def blend(self, first: str, second: str, share: float) -> str:
        """The scene between two, `share` (0 to 1) of the way to the second."""
        return self.add(torch.lerp(self.ws(first), self.ws(second), share))

    def _joined(self, form: Tensor, texture: Tensor) -> Tensor:
        """The ws of one scene up to the geometry layer and another's from there on."""
        if self.G.architecture.split:  # trunks of their own, color first: texture is all of the first
            color = self.G.w_dim
            return torch.cat([texture[..., :color], form[..., color:]], dim=-1)
        layer = self.G.backbone.mapping.geometry_layer
        return torch.cat([form[:, :layer], texture[:, layer:]], dim=1)

    def _label_map(self, drawing: np.ndarray) -> Tensor:
        ids = torch.from_numpy(drawing.astype(np.int64))[None, None].to(self.device)
        return ids if self.G.data_type == "seg" else 1 - 2 * ids.float()

    # ----------------------------------------------------------------------- pictures

    def scene_planes(self, scene: str) -> Tensor:
        """1,3,32,P,P on the network's device, kept for the next picture."""
        return self.planes.get(scene, lambda: self.G.planes(self.ws(scene).to(self.device), noise_mode="const"))

    def picture(self, scene: str, view: View, quality: str) -> Picture:
        """A scene seen from somewhere; a preview renders fewer rays and enlarges them without super-resolution."""
        full, r = quality == "full", self.G.neural_rendering_resolution
        names = ("image", "semantic") if full else ("image_raw", "semantic_raw")
        out = self.G.synthesis(
            self.ws(scene).to(self.device),
            self.pose(view),
            r if full else r // PREVIEW_SHRINK,
            noise_mode="const",
            planes=self.scene_planes(scene),
            jitter=False,
            outputs=names,
        )
        image, semantic = (out[name] if full else self._enlarged(out[name]) for name in names)
        return Picture(draw_image(image)[0], self._ids(semantic))

    def _enlarged(self, raw: Tensor) -> Tensor:
        return F.interpolate(raw.float(), size=self.bounds.resolution, mode="bilinear", align_corners=False)

    def _ids(self, semantic: Tensor) -> np.ndarray:
        if self.G.data_type == "seg":
            return semantic[0].argmax(0).to(torch.uint8).cpu().numpy()
        return (to_uint8(semantic)[0, 0] < LINE_BELOW).to(torch.uint8).cpu().numpy()
