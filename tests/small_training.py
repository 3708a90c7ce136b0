"""Small training runs for tests: random images of 128 pixels, networks of a few channels."""

import copy
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner
from small_data import image_files, label_files, name_of, png, write_zip

import train
from training.networks import registry
from training.options import TrainingOptions
from training.train_state import load_state
from training.weights.snapshot import save_snapshot

SMALL = {
    "cfg": "afhq", "semantic_channels": 4, "render_mask": True, "dis_mask": True, "gpus": 1, "batch": 2,
    "mbstd_group": 1, "gamma": 1, "random_c_prob": 0.5, "lambda_lpips": 0, "lambda_l1": 1, "cbase": 512, "cmax": 8,
    "encoder_width": 0.02, "sr_width": 0.0625, "plane_resolution": 64, "depth_resolution": 4,
    "neural_rendering_resolution_initial": 8, "workers": 0, "grid": "1x1", "device": "cpu",
}  # fmt: skip


def small_data(
    directory: Path, count: int = 5, size: int = 128, classes: int = 4, edges: bool = False
) -> dict[str, Path]:
    """Write a data set, and return it as options of train.py."""
    labels = edge_files(count, size) if edges else label_files(count, size, classes)
    return {
        "data": write_zip(directory / "pictures.zip", image_files(count, size)),
        "mask_data": write_zip(directory / "labels.zip", labels),
    }


def edge_files(count: int, size: int) -> dict[str, bytes]:
    """Return edge maps as PNG files: white with a tenth of the rows dark."""
    rng = np.random.default_rng(3)
    dark = rng.random((count, size, 1)) < 0.1
    edges = np.where(dark, 40, 255).astype(np.uint8).repeat(size, axis=2)  # N,H,W
    return {name_of(i): png(edge_map) for i, edge_map in enumerate(edges)}


def arguments(options: dict) -> list[str]:
    """Return options as command line arguments, without those that are None."""
    return [f"--{name}={value}" for name, value in options.items() if value is not None]


def run(*words: str, **options):
    """Run train.py in this process, and return click's result."""
    return CliRunner().invoke(train.main, [*words, *arguments(options)])


def trained(**options) -> Path:
    """Run train.py successfully, and return the run directory."""
    result = run(**options)
    if result.exit_code:
        raise AssertionError(result.output) from result.exception
    return max(Path(options.get("outdir") or Path(options["continue"]).parent).iterdir())


def tensors(state: object, name: str = "") -> dict[str, torch.Tensor | float]:
    """Flatten nested dicts and lists to values by their path."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, value in items for k, v in tensors(value, f"{name}.{key}").items()}
    return {name: state}


def final_state(directory: Path) -> dict[str, torch.Tensor | float]:
    """Return all values of a run's newest state except the training time."""
    state = load_state(directory)
    values = tensors(state)
    del values[".progress.seconds"]
    return values


def differences(a: dict, b: dict) -> list[str]:
    """Return the names of values that are not bit for bit equal."""
    assert a.keys() == b.keys()
    different = []
    for name, value in a.items():
        equal = torch.equal(value, b[name]) if isinstance(value, torch.Tensor) else value == b[name]
        if not equal:
            different.append(name)
    return different


def eg3d_like(path: Path, options: TrainingOptions) -> Path:
    """Write weights like EG3D's, with the sizes of these options: G without label maps, one discriminator."""
    _, G_kwargs = copy.deepcopy(options.networks["G"])
    G_kwargs["mapping_kwargs"] = {"num_layers": 2}
    del G_kwargs["semantic_channels"], G_kwargs["data_type"]
    G = registry.construct("TriPlaneGenerator", G_kwargs)
    D = registry.construct(*options.networks["D"])
    save_snapshot(path, {"G": G, "D": D, "G_ema": G})
    return path
