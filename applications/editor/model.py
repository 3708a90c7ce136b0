"""The network of the editor with caches of encoded drawings and scenes. For use in one thread."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from applications.editor.protocol import (
    NAME_LENGTH,
    CameraView,
    MessageError,
    NetworkLimits,
    OrbitLimits,
    UnknownPhotoError,
    UnknownSceneError,
)
from camera_utils import CAMERAS, CameraPreset, pose_at, view_angles
from inference.generator import network_digest
from inference.latents import latent_ws, style_latents, style_mask
from inference.projection import Projection, ws_shape
from inference.scene import Scene
from training.data.label_maps import AS_STORED, LabelMapOptions, draw_image, to_uint8
from training.networks.generator import TriPlane

# Cache sizes. Ws take 30 to 60 KB per scene, z 2 KB per photo, the tri-planes of the published models 25 MB, encoder
# outputs 14 KB.
MAX_WS = 4096
MAX_PHOTOS = 1024
MAX_SCENES = 12
MAX_ENCODED = 12
# Largest rotation, relative to the camera path of the published video.
ORBIT_SCALE = 2
# Closest approach to the poles in polar; nearer, dragging spins the image.
POLE_MARGIN_RAD = 0.12
ZOOM_RANGE = (0.75, 3.0)
# Downscaling of the neural rendering resolution for previews: a quarter of the rays.
PREVIEW_DOWNSCALE = 2
# Gray value of a rendered edge map below which a pixel is line.
LINE_BELOW = 128


def orbit_limits(preset: CameraPreset) -> OrbitLimits:
    """Return how far the page can rotate the object of a configuration."""
    # Both angles are pi / 2 at the front. Cars turn all the way round, faces and cats to either side.
    front = math.pi / 2
    pitch = min(ORBIT_SCALE * preset.pitch_rad, math.pi / 2 - POLE_MARGIN_RAD)
    yaw = min(ORBIT_SCALE * preset.yaw_rad, math.pi)
    azimuth = (-math.pi, math.pi) if preset.full_turn else (front - yaw, front + yaw)
    return OrbitLimits(azimuth, (front - pitch, front + pitch), ZOOM_RANGE, preset.full_turn)


class NamedTensors:
    """Tensors on the CPU by a digest of their values; the least recently used ones are dropped.

    Args:
        limit: number of tensors that are kept.
        unknown: returns the error for a name that is not there.
    """

    def __init__(self, limit: int, unknown: Callable[[], MessageError]):
        self.limit = limit
        self.unknown = unknown
        self._tensors: OrderedDict[str, Tensor] = OrderedDict()

    def add(self, tensor: Tensor) -> str:
        """Store a tensor of any shape and return its name."""
        tensor = tensor.float().cpu().contiguous()
        name = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:NAME_LENGTH]

        # Store it as the most recently used entry, and drop the least recently used one.
        self._tensors[name] = tensor
        self._tensors.move_to_end(name)
        if len(self._tensors) > self.limit:
            self._tensors.popitem(last=False)
        return name

    def get(self, name: str) -> Tensor:
        """Return a tensor in its shape.

        Raises:
            MessageError: there is none; see `unknown`.
        """
        if name not in self._tensors:
            raise self.unknown()
        self._tensors.move_to_end(name)
        return self._tensors[name]


class EditorModel:
    """A generator and the scenes that were made with it.

    A scene is named by a digest of its ws, so pages that make the same scene share its tri-planes.

    Args:
        G: the generator.
        cfg: configuration of its cameras, a key of CAMERAS.
        label_map_options: how image files of drawings are read.
    """

    def __init__(self, G: TriPlane, cfg: str, label_map_options: LabelMapOptions = AS_STORED):
        self.G = G
        self.cfg = cfg
        self.label_map_options = label_map_options
        self.preset = CAMERAS[cfg]
        self.device = next(G.parameters()).device

        # Edges are drawn with two classes, although the network has one label channel.
        classes = G.semantic_channels if G.data_type == "seg" else 2
        self.limits = NetworkLimits(G.img_resolution, classes, orbit_limits(self.preset))

        # Caches that drop the least recently used entry. Scene objects hold their tri-planes.
        self._ws = NamedTensors(MAX_WS, partial(UnknownSceneError, "The server no longer has this object"))
        self._projections: dict[str, Projection] = {}
        self._photos = NamedTensors(MAX_PHOTOS, partial(UnknownPhotoError, "The server no longer has this photo"))
        self.scene = lru_cache(MAX_SCENES)(self._scene)
        self.encode = lru_cache(MAX_ENCODED)(self._encode)

    @property
    def digest(self) -> str:
        """Digest of the network's weights."""
        return network_digest(self.G)

    @property
    def ws_shape(self) -> tuple[int, int]:
        """Shape num_ws,w_dim of a scene's ws; networks with two backbones concatenate both along w_dim."""
        return ws_shape(self.G)

    def pose(self, view: CameraView) -> Tensor:
        """Return the pose (1,25) of a view, on the network's own orbit."""
        pose = pose_at(self.preset, view.azimuth, view.polar, **self.G.orbit, device=self.device)
        # Zooming multiplies the focal lengths fx and fy of the intrinsics.
        pose[:, [16, 20]] *= view.zoom
        return pose

    # ----------------------------------------------------------------------- scenes

    def add(self, ws: Tensor) -> str:
        """Store ws (1,num_ws,w_dim) and return the name of their scene."""
        return self._ws.add(ws)

    def ws(self, name: str) -> Tensor:
        """Return the ws (1,num_ws,w_dim, on the CPU) of a scene.

        Raises:
            UnknownSceneError: the scene is not in the cache.
        """
        return self._ws.get(name)

    @property
    def encodes_photos(self) -> bool:
        """Whether styles can come from photos."""
        return self.G.style_encoder is not None

    @torch.inference_mode()
    def encode_photo(self, photo: Tensor) -> str:
        """Encode a photo (1,3,H,H in [-1, 1]) and return the name of its style.

        Raises:
            ConfigError: the network has no style encoder.
        """
        return self.add_photo(style_latents(self.G, photo))

    def add_photo(self, z: Tensor) -> str:
        """Store z (1,z_dim) of a photo and return its name."""
        return self._photos.add(z)

    def add_projection(self, projection: Projection) -> str:
        """Keep the projection of a photo as the style of its z, and return the name of that photo."""
        name = self.add_photo(projection.z)
        self._projections[name] = projection
        return name

    def projected_view(self, projection: Projection) -> CameraView:
        """Return the view that a projected photo is seen from, within the limits of the page."""
        yaw, pitch = (angle.item() for angle in view_angles(projection.pose))
        wanted = {
            "azimuth": math.pi / 2 + yaw,
            "polar": math.pi / 2 * (1 - math.sin(pitch)),
            "zoom": projection.pose[0, 16].item() / self.preset.focal_norm,
        }
        limits = {name: getattr(self.limits.orbit, name) for name in wanted}
        return CameraView(**{name: min(max(value, limits[name][0]), limits[name][1]) for name, value in wanted.items()})

    def photo(self, name: str) -> Tensor:
        """Return z (1,z_dim, on the CPU) of a photo.

        Raises:
            UnknownPhotoError: the photo is not in the cache.
        """
        return self._photos.get(name)

    def edit(
        self,
        drawing: np.ndarray,
        drawing_view: CameraView,
        seed: int,
        style: str | None,
        geometry: str | None,
        photo: str | None = None,
    ) -> str:
        """Make the scene of a drawing and return its name.

        Args:
            drawing: R,R uint8 class ids.
            drawing_view: the view that the drawing is seen from.
            seed: of the latent code z.
            style: scene whose texture replaces that of the seed, or None.
            geometry: scene whose geometry replaces that of the drawing, or None.
            photo: photo whose style takes the place of the seed's, or None.
        """
        # The scene of the drawing itself.
        encoded = self.encode(drawing.tobytes())
        if photo in self._projections:
            ws = self._projections[photo].ws(self.G, encoded).cpu()
        else:
            z = style_latents(self.G, [seed]) if photo is None else self.photo(photo).to(self.device)
            ws = latent_ws(self.G, encoded, self.pose(drawing_view), z).cpu()

        # Take texture or geometry from another scene.
        geometry_ws = ws if geometry is None else self.ws(geometry)
        texture_ws = ws if style is None else self.ws(style)
        return self.add(self._combine(geometry_ws, texture_ws))

    def blend(self, first: str, second: str, weight: float) -> str:
        """Interpolate the ws of two scenes and return the new scene's name; `weight` of the second is in [0, 1]."""
        return self.add(torch.lerp(self.ws(first), self.ws(second), weight))

    def _combine(self, geometry: Tensor, texture: Tensor) -> Tensor:
        """Take the ws of the geometry layers from one scene and those of the texture layers from another."""
        return torch.where(style_mask(self.G), texture, geometry)

    def _scene(self, name: str) -> Scene:
        # Tri-planes are computed when the scene is first rendered, and kept with it.
        return Scene(self.G, self.ws(name).to(self.device), self.cfg)

    def _encode(self, drawing: bytes) -> Tensor:
        """Run the label map encoder on a drawing, R*R bytes of class ids."""
        size = self.limits.resolution
        ids = np.frombuffer(drawing, np.uint8).astype(np.int64).reshape(1, 1, size, size)
        label_map = torch.from_numpy(ids).to(self.device)  # 1,1,R,R

        # Edge maps have 1 for background and -1 for lines.
        return self.G.encode({"mask": label_map if self.G.data_type == "seg" else 1 - 2 * label_map.float()})

    # ----------------------------------------------------------------------- images

    def render(self, name: str, view: CameraView, quality: str) -> tuple[np.ndarray, np.ndarray]:
        """Render a scene.

        Args:
            name: of the scene.
            view: the camera.
            quality: "full", or "preview": fewer rays, and bilinear upsampling in place of super-resolution.
        Returns:
            Colors R,R,3 uint8 and class ids R,R uint8 (edges: 0 background, 1 line).
        """
        scene = self.scene(name)
        pose = self.pose(view)

        # The full image is that of the Python API; previews skip super-resolution, most of the cost.
        if quality == "full":
            tensors = scene.render(pose=pose, outputs=("image", "semantic")).tensors
            image = tensors["image"]  # 1,3,R,R
            semantic = tensors["semantic"]  # 1,S,R,R
        else:
            # Half as many rays per side, without jitter: the same view gives the same pixels.
            r = self.G.neural_rendering_resolution // PREVIEW_DOWNSCALE
            names = ("image_raw", "semantic_raw")
            tensors = self.G.synthesis(
                scene.ws, pose, r, noise_mode="const", planes=scene.planes, jitter=False, outputs=names
            )
            image = self._upsample(tensors["image_raw"])
            semantic = self._upsample(tensors["semantic_raw"])

        return draw_image(image)[0], self._class_ids(semantic)

    def _upsample(self, raw: Tensor) -> Tensor:
        return F.interpolate(raw.float(), size=self.limits.resolution, mode="bilinear", align_corners=False)

    def _class_ids(self, semantic: Tensor) -> np.ndarray:
        """Convert rendered labels 1,S,R,R to class ids R,R uint8."""
        # An edge map is a gray image, from which the page needs background or line.
        if self.G.data_type == "seg":
            return semantic[0].argmax(0).to(torch.uint8).cpu().numpy()
        return (to_uint8(semantic)[0, 0] < LINE_BELOW).to(torch.uint8).cpu().numpy()
