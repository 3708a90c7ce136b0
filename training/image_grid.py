"""Image grids of a run in progress: samples of the data set, and the generator's renderings of their label maps."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from camera_utils import CAMERAS, front_pose, path_poses
from training.data.dataset import PosedImageDataset
from training.data.label_maps import colorize, draw_image, draw_semantic, label_map_from_dataset
from training.networks.generator import TriPlane
from training.networks.style_encoder import NUM_CODES, StyleEncoder

# Views of an orbit, and number of samples of the grid's first row that are shown in orbits.
ORBIT_VIEWS = 6
ORBIT_SAMPLES = 4

# Independent of the run's seed, so that grids of several runs show the same samples.
GRID_SEED = 0

# H,W or H,W,3 uint8 by file name without extension.
Images = dict[str, np.ndarray]


class ImageGrid:
    """Grids of the same samples and latent codes at every snapshot.

    Args:
        dataset: samples are shuffled with GRID_SEED; they repeat if it has fewer than the grid.
        size: number of columns and rows.
        cfg: name of the camera preset for the front view and the orbit.
        device: of the generator.
        batch: samples rendered at once.
    """

    def __init__(self, dataset: PosedImageDataset, size: tuple[int, int], cfg: str, device: torch.device, batch: int):
        self.columns, rows = size
        self.preset = CAMERAS[cfg]
        self.data_type = dataset.data_type
        self.device = device
        self.batch = batch

        # The first samples of a random order, as published; repeated if there are too few.
        order = np.arange(len(dataset))
        np.random.RandomState(GRID_SEED).shuffle(order)
        samples = [dataset[int(i)] for i in np.resize(order, self.columns * rows)]

        # As stored, 8 bits per pixel, since a grid can have hundreds of images.
        self.images = np.stack([sample["image"] for sample in samples]).transpose(0, 2, 3, 1)  # N,H,W,3
        self.masks = np.stack([sample["mask"] for sample in samples])  # N,1,H,W as stored
        self.poses = torch.from_numpy(np.stack([sample["pose"] for sample in samples]))  # N,25

    def real_images(self) -> Images:
        """Return grids of the samples themselves: "reals" and, of their label maps, "mask"."""
        # Edges are stored with lines bright, and shown dark on white.
        masks = self.masks[:, 0]
        label_images = colorize(masks) if self.data_type == "seg" else 255 - masks
        return {"reals": _tile(self.images, self.columns), "mask": _tile(label_images, self.columns)}

    @torch.no_grad()
    def render(self, G: TriPlane, kimg: int, E: StyleEncoder | None = None) -> Images:
        """Render the samples' label maps from their own poses, from the front, and a few of them in an orbit.

        Args:
            G: the generator.
            kimg: thousands of images that it was trained with, for the names.
            E: style encoder; with it, the samples of every second row have the style of their own photos.
        Returns:
            Grids "fakesNNNNNN" and "fakes_frontNNNNNN", each with suffixes (_raw, _depth, ...); "fakes_turnNNNNNN".
        """
        # Latent codes, cameras, and settings without randomness.
        z = self._latents(G.z_dim, E)  # N,z_dim
        front = front_pose(self.preset, **G.orbit, device=self.device)  # 1,25
        orbit = path_poses("orbit", self.preset, ORBIT_VIEWS, **G.orbit, device=self.device).split(1)
        orbit_samples = min(ORBIT_SAMPLES, self.columns)
        render = partial(G.synthesis, noise_mode="const", jitter=False)

        # Outputs of each batch.
        own_views = []
        front_views = []
        orbit_views = []
        for start in range(0, len(z), self.batch):
            # Tri-planes of the scenes.
            chosen = slice(start, start + self.batch)
            pose = self.poses[chosen].to(self.device)
            mask = label_map_from_dataset(self.masks[chosen], self.data_type).to(self.device)
            ws = G.mapping(z[chosen], pose, {"mask": mask, "pose": pose})
            planes = G.planes(ws, noise_mode="const")

            # From the samples' own poses and from the front.
            own_views.append(_to_images(render(ws, pose, planes=planes), self.data_type))
            front_views.append(_to_images(render(ws, front.expand_as(pose), planes=planes), self.data_type))

            # The first samples from all around.
            if start < orbit_samples:
                few = slice(orbit_samples - start)
                views = []
                for view_pose in orbit:
                    view_pose = view_pose.expand_as(pose[few])
                    out = render(ws[few], view_pose, planes=planes[few], outputs={"image"})
                    views.append(draw_image(out["image"]))
                orbit_views.append(np.stack(views, axis=1))  # n,ORBIT_VIEWS,H,W,3

        # One grid per output; opacity is shown from the samples' own poses only.
        images = {}
        for suffix in own_views[0]:
            images[f"fakes{kimg:06d}{suffix}"] = self._join(own_views, suffix)
            if suffix != "_weight":
                images[f"fakes_front{kimg:06d}{suffix}"] = self._join(front_views, suffix)

        # One row per sample of the orbit.
        orbits = np.concatenate(orbit_views)
        images[f"fakes_turn{kimg:06d}"] = _tile(orbits.reshape(-1, *orbits.shape[2:]), ORBIT_VIEWS)
        return images

    def _latents(self, z_dim: int, E: StyleEncoder | None) -> Tensor:
        """Return z (N,z_dim) of all samples: random, but those of the photos in rows 0, 2, 4, ... if there is an E."""
        generator = torch.Generator().manual_seed(GRID_SEED)
        z = torch.randn(len(self.poses), z_dim, generator=generator).to(self.device)
        if E is None:
            return z
        z = E.sample_codes(torch.randint(NUM_CODES, (len(z),), generator=generator).to(self.device), z)

        # The same batches as for rendering bound the memory.
        rows = torch.arange(len(z)) // self.columns
        for chosen in (rows % 2 == 0).nonzero().flatten().split(self.batch):
            photo = torch.from_numpy(self.images[chosen.numpy()]).permute(0, 3, 1, 2).to(self.device) / 127.5 - 1
            z[chosen], _ = E(photo)
        return z

    def _join(self, batches: list[Images], suffix: str) -> np.ndarray:
        """Tile the images of all batches that have this suffix."""
        return _tile(_to_uint8(np.concatenate([images[suffix] for images in batches])), self.columns)


def _tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Tile N,H,W or N,H,W,3 into one image, row by row."""
    n, height, width, *colors = images.shape

    # rows,columns,H,W to rows,H,columns,W.
    grid = images.reshape(n // columns, columns, height, width, *colors).swapaxes(1, 2)
    return grid.reshape(n // columns * height, columns * width, *colors)


def _to_images(out: dict[str, Tensor], data_type: str) -> Images:
    """Convert rendered outputs to arrays by file name suffix: N,H,W,3 or N,H,W uint8, but float for the depth."""
    images = {
        "": draw_image(out["image"]),
        "_raw": draw_image(out["image_raw"]),
        "_depth": -out["image_depth"][:, 0].float().cpu().numpy(),  # near is bright
    }
    # Label maps, if the generator renders them.
    if "semantic" in out:
        images["_semantic"] = draw_semantic(out["semantic"], data_type)
        images["_semantic_raw"] = draw_semantic(out["semantic_raw"], data_type)
    # Opacity of the foreground, if there is a background model.
    if "weight" in out:
        images["_weight"] = (out["weight"][:, 0].clamp(0, 1) * 255).to(torch.uint8).cpu().numpy()
    return images


def _to_uint8(values: np.ndarray) -> np.ndarray:
    """Scale floats from their range over the whole grid to [0, 255], non-finite ones as 0; return uint8 unchanged."""
    if values.dtype == np.uint8:
        return values
    values = np.nan_to_num(values, nan=0, posinf=0, neginf=0)
    low = values.min()
    high = values.max()
    return ((values - low) / max(high - low, 1e-8) * 255).astype(np.uint8)
