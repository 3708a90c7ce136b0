"""Pictures of a run in progress: a grid of samples as data, as the generator draws them, from the front, in a turn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from camera_utils import CAMERAS, front_pose, path_poses
from training.data.dataset import PosedImageDataset
from training.data.label_maps import colorize, draw_image, draw_semantic, label_map_from_dataset
from training.networks.generator import TriPlane

TURN_VIEWS = 6
TURN_SAMPLES = 4  # of the grid's first row
GRID_SEED = 0  # whatever the run's seed is: grids of several runs show the same samples

Pictures = dict[str, np.ndarray]  # H,W or H,W,3 uint8 by the ending of the file's name


class ImageGrid:
    """The same samples and z at every snapshot.

    Args:
        size: pictures across and down; samples repeat where the data set has fewer.
        cfg: whose camera looks from the front and turns.
        batch: pictures rendered at once.
    """

    def __init__(self, dataset: PosedImageDataset, size: tuple[int, int], cfg: str, device: torch.device, batch: int):
        self.columns, self.rows = size
        self.preset, self.data_type, self.device, self.batch = CAMERAS[cfg], dataset.data_type, device, batch
        order = np.arange(len(dataset))
        np.random.RandomState(GRID_SEED).shuffle(order)
        samples = [dataset[int(i)] for i in np.resize(order, self.columns * self.rows)]
        self.images = np.stack([sample["image"] for sample in samples]).transpose(0, 2, 3, 1)  # N,H,W,3
        self.masks = np.stack([sample["mask"] for sample in samples])  # N,1,H,W as stored
        self.poses = torch.from_numpy(np.stack([sample["pose"] for sample in samples]))

    def data(self) -> Pictures:
        """The samples themselves: "reals", "mask"."""
        ids = self.masks[:, 0]
        drawn = colorize(ids) if self.data_type == "seg" else 255 - ids
        return {"reals": self._tile(self.images), "mask": self._tile(drawn)}

    @torch.no_grad()
    def draw(self, G: TriPlane, number: int) -> Pictures:
        """The generator's: "fakesNNNNNN" with endings (_raw, _depth, ...), "fakes_front...", "fakes_turn..."."""
        own, front, turn = {}, {}, []
        turning = min(TURN_SAMPLES, self.columns)
        z = torch.randn(len(self.poses), G.z_dim, generator=torch.Generator().manual_seed(GRID_SEED))
        ahead = front_pose(self.preset, **G.orbit, device=self.device)
        around = path_poses("orbit", self.preset, TURN_VIEWS, **G.orbit, device=self.device).split(1)
        for start in range(0, len(z), self.batch):
            chosen = slice(start, start + self.batch)
            pose = self.poses[chosen].to(self.device)
            mask = label_map_from_dataset(self.masks[chosen], self.data_type).to(self.device)
            ws = G.mapping(z[chosen].to(self.device), pose, {"mask": mask, "pose": pose})
            scene = {"noise_mode": "const", "planes": G.planes(ws, noise_mode="const"), "jitter": False}
            _collect(own, G.synthesis(ws, pose, **scene), self.data_type)
            _collect(front, G.synthesis(ws, ahead.expand_as(pose), **scene), self.data_type)
            if start < turning:
                few = slice(turning - start)
                scene |= {"planes": scene["planes"][few], "outputs": {"image"}}
                views = [G.synthesis(ws[few], view.expand_as(pose[few]), **scene)["image"] for view in around]
                turn.append(np.stack([draw_image(view) for view in views], axis=1))  # N,views,H,W,3
        front.pop("_weight", None)
        pictures = {f"fakes{number:06d}{ending}": self._tile(_drawn(parts)) for ending, parts in own.items()}
        pictures |= {f"fakes_front{number:06d}{ending}": self._tile(_drawn(parts)) for ending, parts in front.items()}
        shown = np.concatenate(turn)
        return pictures | {f"fakes_turn{number:06d}": _tiled(shown.reshape(-1, *shown.shape[2:]), TURN_VIEWS)}

    def _tile(self, pictures: np.ndarray) -> np.ndarray:
        return _tiled(pictures, self.columns)


def _tiled(pictures: np.ndarray, columns: int) -> np.ndarray:
    """N,H,W or N,H,W,3 to one picture, row by row."""
    n, height, width, *colors = pictures.shape
    grid = pictures.reshape(n // columns, columns, height, width, *colors).swapaxes(1, 2)
    return grid.reshape(n // columns * height, columns * width, *colors)


def _collect(parts: dict[str, list], out: dict[str, Tensor], data_type: str) -> None:
    """Append what a synthesis gave, as pictures where one sample's needs no other's, by the file's ending."""
    drawn = {"": draw_image(out["image"]), "_raw": draw_image(out["image_raw"])}
    drawn["_depth"] = -out["image_depth"][:, 0].float().cpu().numpy()  # near is bright
    if "semantic" in out:
        drawn["_semantic"] = draw_semantic(out["semantic"], data_type)
        drawn["_semantic_raw"] = draw_semantic(out["semantic_raw"], data_type)
    if "weight" in out:
        drawn["_weight"] = (out["weight"][:, 0].clamp(0, 1) * 255).to(torch.uint8).cpu().numpy()
    for ending, pictures in drawn.items():
        parts.setdefault(ending, []).append(pictures)


def _drawn(parts: list[np.ndarray]) -> np.ndarray:
    """Join; numbers are stretched over their own range, those that are not finite become 0."""
    values = np.concatenate(parts)
    if values.dtype == np.uint8:
        return values
    values = np.nan_to_num(values, nan=0, posinf=0, neginf=0)
    low, high = values.min(), values.max()
    return ((values - low) / max(high - low, 1e-8) * 255).astype(np.uint8)
