"""What the applications share: command line, device, network, camera, scenes, films."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from camera_utils import CAMERAS, front_pose
from dnnlib.cli import InputError, user_errors
from dnnlib.util import check_outdir
from inference.latents import latent
from inference.video import VideoWriter
from torch_utils.devices import choose_device
from torch_utils.host_memory import keep_freed_memory
from torch_utils.precision import PRECISIONS, has_fast, set_precision
from training.data.dataset import PUBLISHED, PosedImageDataset
from training.data.label_maps import label_map_from_dataset, read_label_map, resize_label_map
from training.networks.configs import CONFIGS, RAW_RESOLUTION, RENDERING
from training.networks.generator import TriPlane
from training.weights.snapshot import UNTRAINED, load_network_pkl

ASSETS = Path(__file__).parent / "assets"
DEFAULT_CFG = "seg2cat"  # of the trained network that comes with the repository:
DEFAULT_NETWORK = Path(__file__).parents[1] / "checkpoints" / "toy_seg2cat.safetensors"
MAX_SEED = 2**32 - 1  # of numpy's RandomState
MAX_SEEDS = 100_000  # in one call; more is a slip of the keyboard
RADIUS_TOLERANCE = 0.2  # between a network's own cameras and the config's, as a share of the radius

# --------------------------------------------------------------------------- command line


class Seeds(click.ParamType):
    """A seed, or a range of seeds like 0-3, as a range object."""

    name = "seed"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> range:
        match = re.fullmatch(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", value)
        if not match:
            self.fail(f"{value}: expected a whole number from 0 to {MAX_SEED}, or a range like 0-3", param, ctx)
        first, last = int(match[1]), int(match[2] or match[1])
        if last > MAX_SEED:
            self.fail(f"{value}: the largest seed is {MAX_SEED}", param, ctx)
        if not first <= last < first + MAX_SEEDS:
            self.fail(f"{value}: expected the smaller seed first and at most {MAX_SEEDS} seeds", param, ctx)
        return range(first, last + 1)


def all_seeds(_ctx: click.Context, _param: click.Parameter, ranges: tuple[range, ...]) -> list[int]:
    """Each seed once, in the order in which they were given."""
    return list(dict.fromkeys(seed for seeds in ranges for seed in seeds))


class Folder(click.Path):
    """Of a folder that need not be there yet."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        if not str(value):
            self.fail("expected the name of a folder; . is this one", param, ctx)
        return Path(super().convert(value, param, ctx))


FOLDER = Folder()
DEVICE_OPTIONS = (
    click.option("--device", metavar="NAME", help="cuda, cuda:1, mps, cpu.  [default: the first that is there]"),
    click.option(
        "--precision",
        type=click.Choice(PRECISIONS),
        default="auto",
        show_default=True,
        help="auto: float16 on CUDA where the weights' own settings say so, float32 elsewhere.",
    ),
)
MODEL_OPTIONS = (
    click.option("--network", required=True, metavar="FILE|URL", help="Weights: ours, or the authors' pickle."),
    click.option("--outdir", required=True, metavar="DIR", type=FOLDER, help="Made if it is not there."),
    click.option("--cfg", required=True, type=click.Choice(list(CONFIGS)), help="What the network was trained for."),
    *DEVICE_OPTIONS,
)


def _decorated(command: Callable, options: tuple[Callable, ...]) -> Callable:
    for option in reversed(options):
        command = option(command)
    return command


def device_options(command: Callable) -> Callable:
    """The options that choose where and how to compute."""
    return _decorated(command, DEVICE_OPTIONS)


def model_options(command: Callable) -> Callable:
    """The options by which every application finds its network and its place to write."""
    return _decorated(command, MODEL_OPTIONS)


def seeds_option(what: str) -> Callable:
    """The option of the seeds, for each of which an application makes `what`."""
    return click.option(
        "--random_seed",
        "seeds",
        type=Seeds(),
        callback=all_seeds,
        multiple=True,
        default=["0"],
        show_default=True,
        help=f"One {what} for each: numbers and ranges, like 0 1 or 0-3.",
    )


INPUT_OPTIONS = (
    click.option("--input", "input_file", metavar="FILE", help="Label map: class ids, colors or a drawing."),
    click.option("--input_id", type=click.IntRange(0), metavar="N", help="Sample N of a data set, with its pose."),
    click.option("--data_dir", metavar="DIR", help="Folder of the published data set of --cfg.  [default: data/]"),
    click.option("--data", metavar="ZIP|DIR", help="Data set of --input_id: images and poses ..."),
    click.option("--mask_data", metavar="ZIP|DIR", help="... and label maps."),
)


def input_options(command: Callable) -> Callable:
    """The options by which every application finds its label map; `read_input` takes their values."""
    return _decorated(command, INPUT_OPTIONS)


@dataclass(frozen=True)
class Input:
    """A label map to make things of.

    Args:
        name: part of the names of what is written.
        label_map: 1,1,H,W. pose: 1,25, or None where only the front view makes sense.
    """

    name: str
    label_map: Tensor
    pose: Tensor | None


def read_input(
    cfg: str,
    input_file: str | None,
    input_id: int | None,
    data_dir: str | None,
    data: str | None,
    mask_data: str | None,
) -> Input:
    """The label map that `input_options` ask for.

    Raises:
        InputError: not exactly one of --input and --input_id, or one that cannot be read.
    """
    config = CONFIGS[cfg]
    if (input_file is None) == (input_id is None):
        raise InputError(f"--input, --input_id: expected one of them, got {'none' if input_file is None else 'both'}")
    if input_id is None:
        if stray := [
            name for name, value in (("data_dir", data_dir), ("data", data), ("mask_data", mask_data)) if value
        ]:
            raise InputError(f"--{stray[0]}: goes with --input_id, not with --input")
        with user_errors("--input"):
            return Input(Path(input_file).stem, read_label_map(input_file, config.data_type, config.channels), None)
    if (data is None) != (mask_data is None) or (data and data_dir):
        raise InputError("--data, --mask_data: expected both, without --data_dir")
    with user_errors("--data" if data else "--data_dir"):
        if data:
            data_set = PosedImageDataset(data, mask_data, config.data_type)
        else:
            data_set = PUBLISHED[cfg].open(data_dir or "data")
    if input_id >= len(data_set):
        raise InputError(f"--input_id {input_id}: {data_set.name} has samples 0 to {len(data_set) - 1}")
    with user_errors("--input_id"):
        sample = data_set[input_id]
    largest = int(sample["mask"].max())
    if config.data_type == "seg" and largest >= config.channels:
        raise InputError(f"--input_id {input_id}: has class {largest}; --cfg {cfg} knows 0 to {config.channels - 1}")
    label_map = label_map_from_dataset(sample["mask"], config.data_type)[None]
    return Input(str(input_id), label_map, torch.from_numpy(sample["pose"])[None])


# --------------------------------------------------------------------------- device and network


def check_places(device: str | None, outdir: Path) -> torch.device:
    """The device to compute on; InputError unless it is there and outdir can be written to."""
    with user_errors("--device"):
        chosen = choose_device(device)
    with user_errors("--outdir"):
        check_outdir(outdir)
    return chosen


def load_generator(network: str, cfg: str, device: torch.device, precision: str) -> TriPlane:
    """G_ema of a weights file, ready to sample in the given precision; says so if it was never trained.

    Raises:
        InputError: file and config that do not go together.
    """
    if not has_fast(precision, device):
        click.echo(f"This CPU has no {precision} convolutions: computing in fp32, which is faster here.")
        precision = "fp32"
    with user_errors("--network"):
        data = load_network_pkl(network, only=("G_ema",))
        check_config(data["G_ema"], network, cfg)
        if not all(values.isfinite().all() for values in data["G_ema"].state_dict().values()):
            raise ValueError(f"{network}: holds weights that are not finite (NaN or infinity); its training diverged")
    if data["extra"].get(UNTRAINED):
        click.echo("This network is untrained: its pictures show nothing real.")
    if device.type == "cpu":
        keep_freed_memory()
    G = data["G_ema"].to(device)
    if "training_options" not in data["extra"]:  # published weights hold what training used last; ours shall use that
        G.neural_rendering_resolution = RAW_RESOLUTION[cfg]
    set_precision(G, precision)
    return G


def check_config(G: torch.nn.Module, network: str, cfg: str) -> None:
    """Refuse a generator that the config does not fit, so that nobody gets pictures of nothing.

    Raises:
        ValueError: which says what the network is, and which configs would fit.
    """
    if not isinstance(G, TriPlane) or not G.conditional or not G.architecture.labels:
        raise ValueError(f"{network}: its G_ema does not make images and label maps from a label map")
    radius = G.rendering_kwargs.get("avg_camera_radius")

    def fits(name: str) -> bool:
        config = CONFIGS[name]
        expected = RENDERING[config.camera]["avg_camera_radius"]
        near = radius is None or abs(radius - expected) <= RADIUS_TOLERANCE * expected
        return near and (G.data_type, G.semantic_channels) == (config.data_type, config.channels)

    if not fits(cfg):
        takes = f"{G.semantic_channels} classes" if G.data_type == "seg" else "edges"
        fitting = [name for name in CONFIGS if fits(name)]
        raise ValueError(
            f"{network}: takes {takes}, seen from {radius} away, which --cfg {cfg} does not; "
            f"it fits {', '.join(fitting) or 'no --cfg'}"
        )


def fit(source: Input, G: TriPlane, cfg: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """Label map 1,1,R,R and pose 1,25 of an input, for this generator: the sample's own pose, or the front."""
    pose = config_front_pose(G, cfg, device) if source.pose is None else source.pose.to(device)
    return resize_label_map(source.label_map, G.img_resolution).to(device), pose


def config_front_pose(G: TriPlane, cfg: str, device: torch.device) -> Tensor:
    """1,25 the front view: the network's own orbit, the config's lens."""
    return front_pose(CAMERAS[cfg], **G.orbit, device=device)


# --------------------------------------------------------------------------- scenes


def scene_ws(G: TriPlane, encoded: Tensor, pose: Tensor, seed: int) -> Tensor:
    """ws 1,num_ws,w_dim of a seed, for a label map that `G.encode` took and a pose 1,25 to condition on."""
    return G.mapping(latent(seed, G.z_dim).to(pose.device), pose, encoded=encoded)


def scene_planes(G: TriPlane, ws: Tensor) -> Tensor:
    """Planes of ws, without chance.

    Raises:
        InputError: they are not finite, so there is nothing to see.
    """
    planes = G.planes(ws, noise_mode="const")
    if not planes.isfinite().all():
        raise InputError("--network: makes scenes that are not finite (NaN or infinity); try --precision fp32")
    return planes


# --------------------------------------------------------------------------- films


def write_videos(frames: Iterable[Mapping[str, np.ndarray]], paths: Mapping[Path, str], fps: int) -> None:
    """Write one frame after the other to several films, which get their names together when all is written.

    Args:
        frames: pictures H,W,3 by what they show. paths: what each film shows.
    """
    with ExitStack() as stack:
        with user_errors("--outdir"):
            writers = [(shown, stack.enter_context(VideoWriter(path, fps))) for path, shown in paths.items()]
        for pictures in frames:
            with user_errors("--outdir"):
                for shown, writer in writers:
                    writer.write(pictures[shown])
        with user_errors("--outdir"):
            stack.pop_all().close()
