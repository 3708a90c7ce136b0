"""Projection of photos that were never trained on: how well scenes reproduce them, and other views of their objects.

python tests/benchmarks/photo.py --network FILE --data TEST.zip --mask_data TEST_label.zip [--photos 20] [--tune 100]

Prints, for the best of several seeds, for the start, after optimization of the latent code and after tuning of the
weights: PSNR and SSIM at the photo's pose; the same at other poses of the object, of its own pixels too, as
backgrounds differ between views; error of the depth (world units, with TEST_depth.zip); share of the labels that
agree; processor seconds of a photo. With --pose search, poses are found, and their error is printed.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from camera_utils import view_angles
from inference import Scene, load_generator
from inference.projection import Projection
from inference.projector import ProjectionOptions, Projector
from metrics.image_similarity import psnr, ssim
from training.data.dataset import PosedImageDataset
from training.data.depth_maps import DepthImages, find_depth
from training.data.label_maps import draw_image, label_map_from_dataset
from training.patches import DEPTH_EDGE

VIEWS = 5  # of an object: the photo, and four others
SEEDS = 8


@dataclass(frozen=True)
class Views:
    """Views of one object, the photo first: image V,3,R,R; label map V,1,R,R; pose V,25; depth V,1,R,R or None."""

    image: Tensor
    label_map: Tensor
    pose: Tensor
    depth: Tensor | None


def read_views(dataset: PosedImageDataset, depth: DepthImages | None, first: int) -> Views:
    """Read the first views of the object of a sample."""
    numbers = list(dataset.views_of(first))[:VIEWS]
    samples = [dataset[int(i)] for i in numbers]
    image, mask, pose = (torch.stack([torch.as_tensor(s[key]) for s in samples]) for key in ("image", "mask", "pose"))
    depths = None if depth is None else torch.stack([depth.read(dataset, int(i)) for i in numbers])
    return Views(image / 127.5 - 1, label_map_from_dataset(mask, dataset.data_type), pose, depths)


def evaluate(scene: Scene, views: Views) -> tuple[dict[str, float], Tensor]:
    """Compare a scene with all views; also return its images V,3,R,R."""
    rendered = [view.tensors for view in scene.views(views.pose)]
    out = {name: torch.cat([tensors[name] for tensors in rendered]) for name in ("image", "semantic", "image_depth")}
    image = out["image"].clamp(-1, 1)

    # Whole images, and pixels of the object.
    solid = (views.label_map > 0).float() if scene.G.data_type == "seg" else (views.image.amin(1, True) < 0.96).float()
    error = ((image - views.image).square() * solid).sum((1, 2, 3)) / (3 * solid.sum((1, 2, 3)))
    by_view = {
        "psnr": psnr(image, views.image), "object": 10 * torch.log10(4 / error), "ssim": ssim(image, views.image),
    }  # fmt: skip
    result = {f"photo {name}": values[0].item() for name, values in by_view.items()}
    result |= {f"others {name}": values[1:].mean().item() for name, values in by_view.items()}

    # Labels of classes, and depth of smooth surfaces.
    if scene.G.data_type == "seg":
        result["labels"] = (out["semantic"].argmax(1, keepdim=True) == views.label_map).float().mean().item()
    if views.depth is not None:
        factor = views.depth.shape[-1] // out["image_depth"].shape[-1]
        nearest = -F.max_pool2d(-views.depth, factor)
        farthest = F.max_pool2d(views.depth, factor)
        known = (nearest > 0) & (farthest - nearest < DEPTH_EDGE)
        result["depth"] = (out["image_depth"] - F.avg_pool2d(views.depth, factor)).abs()[known].mean().item()
    return result, image


def best_seed(G, views: Views) -> Scene:
    """Return the scene of the seed whose image at the photo's pose is nearest to it."""
    scenes = list(Scene.from_seeds(G, views.label_map[:1], range(SEEDS), views.pose[:1]))
    errors = [(s.render(pose=views.pose[0]).tensors["image"] - views.image[:1]).square().mean().item() for s in scenes]
    return scenes[int(np.argmin(errors))]


def project(projector: Projector, on_phase) -> float:
    """Run a projection, call `on_phase` with the name of each phase and the projection at its end; return seconds."""
    seconds = 0.0
    start = time.process_time()
    for progress in projector.steps():
        if progress.done == progress.total:
            seconds += time.process_time() - start
            on_phase(progress.phase, projector.result(), seconds)
            start = time.process_time()
    return seconds


@click.command()
@click.option("--network", required=True)
@click.option("--data", required=True, help="images of objects with several views each")
@click.option("--mask_data", required=True)
@click.option("--photos", default=20, show_default=True)
@click.option("--steps", default=ProjectionOptions.steps, show_default=True)
@click.option("--tune", default=100, show_default=True)
@click.option("--pose", type=click.Choice(["known", "search"]), default="known", show_default=True)
@click.option("--images", help="file of a picture: photo, seed, start, style, tune; another view and the same of it")
@click.option("--set", "settings", multiple=True, help="another ProjectionOptions value, such as tune_rate=0.002")
def main(network, data, mask_data, photos, steps, tune, pose, images, settings) -> None:
    torch.set_num_threads(1)
    G = load_generator(network, "cpu")
    dataset = PosedImageDataset(data, mask_data, G.data_type)
    depth = find_depth(dataset, None)
    changes = {key: float(value) for key, value in (text.split("=") for text in settings)}
    options = ProjectionOptions(steps=steps, tune=tune, search_pose=pose == "search", **changes)

    results: dict[str, list[dict[str, float]]] = {}
    rows = []
    for first in np.unique(dataset.objects, return_index=True)[1][:photos]:
        views = read_views(dataset, depth, int(first))
        shown = [views.image]

        def add(name: str, scene: Scene, views=views, shown=shown, **more: float) -> None:
            values, image = evaluate(scene, views)
            results.setdefault(name, []).append({**values, **more})
            shown.append(image)

        def on_phase(phase: str, projection: Projection, seconds: float, views=views, add=add) -> None:
            scene = Scene.from_label_map(G, views.label_map[:1], style=projection)
            errors = {}
            if options.search_pose:
                found, true = (torch.stack(view_angles(p))[:, 0] for p in (projection.pose, views.pose[:1]))
                errors["degrees"] = (found - true).abs().max().rad2deg().item()
            add(phase, scene, seconds=seconds, **errors)

        add("seed", best_seed(G, views))
        start_pose = None if options.search_pose else views.pose[0]
        project(Projector(G, views.image[:1], views.label_map[:1], start_pose, options=options), on_phase)
        rows.append(np.concatenate([draw_image(x[[v]])[0] for v in (0, min(2, len(views.pose) - 1)) for x in shown], 1))

        # All so far, as a run can take long.
        for name, values in results.items():
            means = ", ".join(f"{key} {np.mean([v[key] for v in values]):.3f}" for key in values[0])
            click.echo(f"{len(rows)} photos, {name}: {means}")
        if images:
            from PIL import Image

            Image.fromarray(np.concatenate(rows)).save(images)


if __name__ == "__main__":
    main()
