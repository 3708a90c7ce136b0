"""The smallest runs of the training command: random pictures of 128 pixels, networks with a handful of channels."""

import copy
from pathlib import Path

import numpy as np
import torch
from click.testing import CliRunner
from small_data import image_files, label_files, name_of, png, write_zip

import train
from training.networks import registry
from training.options import TrainingOptions
from training.state import load_state
from training.weights.snapshot import save_snapshot

SMALL = {
    "cfg": "afhq", "semantic_channels": 4, "render_mask": True, "dis_mask": True, "gpus": 1, "batch": 2,
    "mbstd_group": 1, "gamma": 1, "random_c_prob": 0.5, "lambda_lpips": 0, "lambda_l1": 1, "cbase": 512, "cmax": 8,
    "encoder_width": 0.02, "sr_width": 0.0625, "plane_resolution": 64, "depth_resolution": 4,
    "neural_rendering_resolution_initial": 8, "workers": 0, "grid": "1x1", "device": "cpu",
}  # fmt: skip


def small_data(folder: Path, count: int = 5, size: int = 128, classes: int = 4, edges: bool = False) -> dict[str, Path]:
    """A data set as options of the command."""
    labels = edge_files(count, size) if edges else label_files(count, size, classes)
    return {
        "data": write_zip(folder / "pictures.zip", image_files(count, size)),
        "mask_data": write_zip(folder / "labels.zip", labels),
    }


def edge_files(count: int, size: int) -> dict[str, bytes]:
    """Drawings: white, a tenth of the rows dark."""
    rng = np.random.default_rng(3)
    dark = rng.random((count, size, 1)) < 0.1
    drawings = np.where(dark, 40, 255).astype(np.uint8).repeat(size, axis=2)
    return {name_of(i): png(drawing) for i, drawing in enumerate(drawings)}


def arguments(options: dict) -> list[str]:
    """As words of a command line; None leaves an option out."""
    return [f"--{name}={value}" for name, value in options.items() if value is not None]


def run(*words: str, **options):
    """What the command does in this process."""
    return CliRunner().invoke(train.main, [*words, *arguments(options)])


def trained(**options) -> Path:
    """The folder of a run that ended well."""
    result = run(**options)
    if result.exit_code:
        raise AssertionError(result.output) from result.exception
    return max(Path(options.get("outdir") or Path(options["continue"]).parent).iterdir())


def tensors(state: object, name: str = "") -> dict[str, torch.Tensor | float]:
    """Every leaf of nested data, by its path."""
    if isinstance(state, dict | list):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for key, value in items for k, v in tensors(value, f"{name}.{key}").items()}
    return {name: state}


def final_state(folder: Path) -> dict[str, torch.Tensor | float]:
    """All numbers of a run's newest state but the seconds that it took."""
    state = load_state(folder)
    leaves = tensors(state)
    del leaves[".progress.seconds"]
    return leaves


def differences(a: dict, b: dict) -> list[str]:
    """Names under which two states do not hold the same, bit for bit."""
    assert a.keys() == b.keys()
    equal = {k: torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a}
    return [name for name, same in equal.items() if not same]


def eg3d_like(path: Path, options: TrainingOptions) -> Path:
    """Weights of an EG3D model as small as the run's: a generator without label maps, a color discriminator."""
    (_, G), (name, D) = (copy.deepcopy(options.networks[key]) for key in ("G", "D"))
    G["mapping_kwargs"] = {"num_layers": 2}
    plain = registry.construct(
        "TriPlaneGenerator", {k: v for k, v in G.items() if k not in ("semantic_channels", "data_type")}
    )
    save_snapshot(path, {"G": plain, "D": registry.construct(name, D), "G_ema": plain})
    return path
