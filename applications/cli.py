"""Options that the command lines of applications share, and reading what they name.

This module does not import PyTorch, which takes seconds: functions import the modules that need it, so that help and
errors in options are printed at once, and a message says what is being loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dnnlib.choices import CONFIG_NAMES, FITS, MAX_SEED, PRECISIONS
from dnnlib.cli import InputError, echo, option_group, user_errors
from dnnlib.outputs import Outputs
from dnnlib.util import cached_path, check_outdir, open_url

if TYPE_CHECKING:  # these import PyTorch
    from torch import Tensor

    from inference.projection import Projection
    from training.data.dataset import PosedImageDataset
    from training.data.label_maps import LabelMapOptions
    from training.networks.generator import TriPlane

ASSETS = Path(__file__).parent / "assets"
# The trained network that is part of the repository.
DEFAULT_CFG = "seg2cat"
DEFAULT_NETWORK = Path(__file__).parents[1] / "checkpoints" / "toy_seg2cat.safetensors"
# Largest number of seeds in one range; a larger one is most likely a typing error.
MAX_SEEDS = 100_000

# --------------------------------------------------------------------------- option types


class Seeds(click.ParamType):
    """A seed, or a range of seeds such as 0-3, as a range object."""

    name = "seed"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> range:
        """Convert the text of one value."""
        # The number of digits is bounded because Python refuses to convert very long ones.
        match = re.fullmatch(r"([0-9]{1,20})(?:-([0-9]{1,20}))?", value)
        if not match:
            self.fail(f"{value}: expected a whole number from 0 to {MAX_SEED}, or a range like 0-3", param, ctx)

        # A single seed is a range of one.
        first = int(match[1])
        last = int(match[2] or match[1])
        if last > MAX_SEED:
            self.fail(f"{value}: the largest seed is {MAX_SEED}", param, ctx)
        if not first <= last < first + MAX_SEEDS:
            self.fail(f"{value}: expected the smaller seed first and at most {MAX_SEEDS} seeds", param, ctx)
        return range(first, last + 1)


def unique_seeds(_ctx: click.Context, _param: click.Parameter, ranges: tuple[range, ...]) -> list[int]:
    """Return each seed of the ranges once, in their order (a callback of click)."""
    # A dict keeps the order of insertion, a set does not.
    return list(dict.fromkeys(seed for seeds in ranges for seed in seeds))


class Directory(click.Path):
    """Path of a directory that need not exist yet."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Convert the text of the value."""
        # Path("") is the current directory: an unset shell variable would fill it with files.
        if not str(value):
            self.fail("expected the name of a directory, such as . for the current one", param, ctx)
        return Path(super().convert(value, param, ctx))


# --------------------------------------------------------------------------- options


def option(name: str, kind: Any, default: Any, text: str, **extra: Any) -> Callable:
    """Declare an option that shows its default in --help, unless that is None."""
    return click.option(f"--{name}", type=kind, default=default, help=text, show_default=default is not None, **extra)


def seeds_option(result: str) -> Callable:
    """Declare the option of several seeds; `result` names what is made for each."""
    return click.option("--random_seed", "seeds", type=Seeds(), callback=unique_seeds, multiple=True,
                        help="Seeds of the latent code, numbers and ranges such as 0 1 5-8; one "
                        f"{result} for each.  [default: 0, or none if there is a --style]")  # fmt: skip


def style_option(text: str, **extra: Any) -> Callable:
    """Declare the option of photos in place of seeds; `text` says what is made."""
    return click.option("--style", metavar="PHOTO", help=f"{text} Needs a network with a style encoder; the largest "
                        "square about the photo's center is used. Or files that project_photo.py made of photos, "
                        ".safetensors, with any network.", **extra)  # fmt: skip


# Options and groups of options, as decorators; `option_group` keeps them together in --help.
outdir_option = click.option("--outdir", required=True, metavar="DIR", type=Directory(),
                             help="Directory to write to; created if missing.")  # fmt: skip
NETWORK_HELP = "Weights: a .pt or .safetensors file of this project, or a published pickle."
cfg_option = option("cfg", click.Choice(CONFIG_NAMES), None, "Configuration that the network was trained with.  "
                    "[default: read from the weights]")  # fmt: skip
model_options = option_group(
    "Model", click.option("--network", required=True, metavar="FILE|URL", help=NETWORK_HELP), cfg_option
)
device_options = option_group(
    "Device",
    option("device", str, None, "cuda, cuda:1, mps or cpu.  [default: the first available of cuda, mps, cpu]",
           metavar="NAME"),
    option("precision", click.Choice(PRECISIONS), "auto", "Number type of convolutions. auto: float16 on CUDA where "
           "the weights' own settings ask for it, float32 elsewhere."),
)  # fmt: skip
# How files of label maps are read.
LABEL_MAP_OPTIONS = (
    option("classes", click.Path(path_type=Path, exists=True, dir_okay=False), None, "JSON file that maps class ids or "
           'colors in label maps to those of the network, for instance {"17": 1, "#ff0000": 2}.', metavar="FILE"),
    option("ignore", click.IntRange(0, 255), None, "Class id of pixels without a class, which become background, 0; "
           "often 255.", metavar="ID"),
    option("fit", click.Choice(FITS), None, "Make label maps square that are not: pad them with background, or crop to "
           "the center."),
)  # fmt: skip
input_options = option_group(
    "Input",
    click.option("--input", "input_files", metavar="FILE|DIR", multiple=True, help="Label maps, files or directories "
                 "of them: PNGs of class ids or palette colors; for networks of edges drawings, dark on white."),
    *LABEL_MAP_OPTIONS,
    option("input_id", click.IntRange(0), None, "Label map and camera pose of sample N of a data set, in place of "
           "--input.", metavar="N"),
    option("data_dir", str, None, "Directory that holds the published data set of --cfg, for --input_id.  "
           "[default: data/]", metavar="DIR"),
    option("data", str, None, "Images and poses of another data set, for --input_id.", metavar="ZIP|DIR"),
    option("mask_data", str, None, "Label maps that belong to --data.", metavar="ZIP|DIR"),
)  # fmt: skip

# --------------------------------------------------------------------------- label maps


# A ConfigError about a label map is about a sample: files are named by their path.
FIELDS = {"label_map": "input_id"}


@dataclass(frozen=True)
class Input:
    """A label map to make scenes of.

    Args:
        name: used in the names of output files.
        label_map: 1,1,R,R as the network takes it.
        pose: 1,25, or None for the front.
    """

    name: str
    label_map: Tensor
    pose: Tensor | None


@dataclass(frozen=True)
class InputOptions:
    """Values of `input_options`: label maps in files, or a sample of a data set."""

    input_files: tuple[str, ...]
    input_id: int | None
    data_dir: str | None
    data: str | None
    mask_data: str | None
    classes: Path | None
    ignore: int | None
    fit: str | None

    @property
    def are_several(self) -> bool:
        """Whether the names of all output files carry that of their input: for a directory, or several values."""
        return len(self.input_files) > 1 or any(Path(path).is_dir() for path in self.input_files)

    def check(self) -> dict[str, Path | None]:
        """Check what can be checked without the network, whose weights can be a long download.

        Returns:
            The names of all inputs, and their files; a sample of a data set has none, its name is its number.
        Raises:
            InputError: options that do not go together, or no such file.
        """
        # Exactly one source.
        if bool(self.input_files) == (self.input_id is not None):
            got = "both" if self.input_files else "none"
            raise InputError(f"--input, --input_id: expected one of them, got {got}")

        # Options that would have no effect are rejected.
        check_data_options(self.data, self.mask_data, self.data_dir)
        if self.input_files:
            if self.data or self.data_dir:
                raise InputError("--data, --mask_data, --data_dir: go with --input_id, not with --input")
            check_class_table(self.classes)
            return name_files(chain.from_iterable(map(find_images, self.input_files)))
        if (self.classes, self.ignore, self.fit) != (None, None, None):
            raise InputError("--classes, --ignore, --fit: go with --input, not with --input_id")
        return {str(self.input_id): None}

    def label_map_options(self) -> LabelMapOptions:
        """Return how files are read; InputError if the table of classes is invalid."""
        return label_map_options(self.classes, self.ignore, self.fit)

    def read(self, G: TriPlane, cfg: str, sources: Mapping[str, Path | None]) -> Iterator[Input]:
        """Read the label maps one by one, as they are asked for.

        Args:
            G: the generator that takes them.
            cfg: its configuration.
            sources: result of `check`.
        Raises:
            InputError, ConfigError: one cannot be read, or is not a label map of this network.
        """
        options = self.label_map_options()
        check_label_map_options(options, G.data_type)
        for name, path in sources.items():
            if path is None:
                yield self._read_sample(G, cfg)
            else:
                yield read_label_map_file("--input", path, G, options, name)

    def _read_sample(self, G: TriPlane, cfg: str) -> Input:
        import torch

        from inference.inputs import to_label_map
        from training.data.label_maps import label_map_from_dataset

        # Open the data set.
        dataset = open_dataset(self.data, self.mask_data, self.data_dir, cfg, G.data_type)
        if self.input_id >= len(dataset):
            raise InputError(f"--input_id {self.input_id}: {dataset.name} has samples 0 to {len(dataset) - 1}")

        # Read the sample. Data sets store edge maps inverted.
        with user_errors("--input_id"):
            sample = dataset[self.input_id]
        label_map = to_label_map(label_map_from_dataset(sample["mask"], G.data_type)[None], G)
        return Input(str(self.input_id), label_map, torch.from_numpy(sample["pose"])[None])


def read_label_map_file(option: str, path: Path | str, G: TriPlane, options: LabelMapOptions, name: str = "") -> Input:
    """Read a label map for a generator; files have no pose, so it is seen from the front.

    Args:
        option: that names the file, for messages.
        path: the file.
        G: the generator.
        options: how label maps are read.
        name: of the input.
    Raises:
        InputError, ConfigError: it cannot be read, or is not a label map of this network.
    """
    from inference.inputs import to_label_map

    with user_errors(option):
        return Input(name, to_label_map(path, G, options), None)


def find_images(path: str) -> list[Path]:
    """Return the images in a directory, in the order of their names, or the file itself.

    Raises:
        InputError: no such file, or no image.
    """
    # Path("") is the current directory: an unset shell variable would take all images there.
    if not path:
        raise InputError("--input: expected the name of a file or directory, got an empty one")
    if not Path(path).is_dir():
        check_is_file("--input", path)
        return [Path(path)]

    from training.data.image_io import IMAGE_ENDINGS

    # Directories inside are not searched. Hidden files are of systems, such as those that macOS puts beside others.
    with user_errors("--input"):
        files = sorted(file for file in Path(path).iterdir() if file.is_file() and not file.name.startswith("."))
    images = [file for file in files if file.name.lower().endswith(IMAGE_ENDINGS)]
    if not images:
        raise InputError(f"--input {path}: holds no images ({', '.join(IMAGE_ENDINGS)})")
    if len(files) > len(images):
        first = next(file for file in files if file not in images)
        echo(f"--input {path}: {len(files) - len(images)} other files are not read, such as {first.name}", err=True)
    return images


def name_files(files: Iterable[Path]) -> dict[str, Path]:
    """Return files by their names without ending, which output files carry; InputError if two have the same."""
    names: dict[str, Path] = {}
    for file in files:
        if file.stem in names:
            raise InputError(
                f"--input {names[file.stem]} {file}: have the same name, which names the files; rename one"
            )
        names[file.stem] = file
    return names


def check_is_file(option: str, path: str) -> None:
    """Check that an option names a file; opening it would wait for a writer where it is a named pipe.

    Raises:
        InputError: there is no such file, or it is a directory or a device.
    """
    if not Path(path).is_file():
        raise InputError(f"{option} {path}: no such file")


def check_data_options(data: str | None, mask_data: str | None, data_dir: str | None) -> None:
    """Check that the options that name a data set go together.

    Raises:
        InputError: they do not.
    """
    if (data is None) != (mask_data is None) or (data and data_dir):
        raise InputError("--data, --mask_data: expected both, without --data_dir")


def open_dataset(
    data: str | None, mask_data: str | None, data_dir: str | None, cfg: str, data_type: str
) -> PosedImageDataset:
    """Open the data set of --data and --mask_data, by default the published one of a configuration.

    Raises:
        InputError: it cannot be opened, or there is none for this configuration.
    """
    from training.data.dataset import PUBLISHED, PosedImageDataset

    # Networks with other classes or cameras than the published ones have no published data set.
    if not data and cfg not in PUBLISHED:
        raise InputError("--data: no published data set fits this network; give --data and --mask_data")

    # Errors name the option that says where the data is.
    with user_errors("--data" if data else "--data_dir"):
        return PosedImageDataset(data, mask_data, data_type) if data else PUBLISHED[cfg].open(data_dir or "data")


def check_class_table(classes: Path | None) -> None:
    """Check the table of --classes, if there is one, without importing PyTorch; InputError if it is invalid."""
    from training.data.class_tables import read_class_table

    with user_errors("--classes"):
        if classes is not None:
            read_class_table(classes)


def label_map_options(classes: Path | None, ignore: int | None, fit: str | None) -> LabelMapOptions:
    """Return the values of LABEL_MAP_OPTIONS; InputError if the table of classes is invalid."""
    from training.data.class_tables import read_class_table
    from training.data.label_maps import LabelMapOptions

    with user_errors("--classes"):
        return LabelMapOptions(None if classes is None else read_class_table(classes), ignore, fit)


def check_label_map_options(options: LabelMapOptions, data_type: str) -> None:
    """Check that options fit the network, whose label maps are classes or drawings; InputError if they do not."""
    if data_type == "edge" and (options.class_table is not None or options.ignore is not None):
        raise InputError("--classes, --ignore: this network takes drawings, which have no classes")


def claim_drawings(
    outputs: Outputs, inputs: Iterable[Input], prefixes: Mapping[str, Path], data_type: str
) -> dict[str, Callable[[], None]]:
    """Announce PREFIX_input.png for every input: its label map as the network takes it.

    All inputs are read, so that an invalid one ends a command before the first is rendered. Only the small files are
    kept: label maps of a large directory would not fit into memory, and are read again when they are rendered.

    Args:
        outputs: of the command.
        inputs: label maps.
        prefixes: path of the drawing without its ending, by name of the input.
        data_type: "seg" or "edge".
    Returns:
        A function for each input by its name, which writes the drawing.
    Raises:
        InputError, ConfigError: an input cannot be read, or a drawing exists with other content.
    """
    from training.data.image_io import encode_png
    from training.data.label_maps import draw_label_map

    write = {}
    for source in inputs:
        drawing = encode_png(draw_label_map(source.label_map, data_type)[0])
        with output_errors():
            write[source.name] = outputs.claim_small(f"{prefixes[source.name]}_input.png", drawing)
    return write


# --------------------------------------------------------------------------- styles


def name_styles(seeds: Sequence[int], photos: Sequence[str]) -> dict[str, int | str]:
    """Return seeds and photos, in this order, by the names they have in file names: SEED, style-STEM.

    Args:
        seeds: different seeds; none stands for seed 0 if there is no photo.
        photos: paths; their content is read by `read_styles`.
    Raises:
        InputError: no such file, or photos of the same name.
    """
    styles: dict[str, int | str] = {str(seed): seed for seed in seeds}
    for photo in photos:
        check_is_file("--style", photo)
        name = f"style-{Path(photo).stem}"
        if name in styles:
            raise InputError(f"--style {styles[name]} {photo}: have the same name, which names the files; rename one")
        styles[name] = photo
    return styles or {"0": 0}


def read_styles(G: TriPlane, styles: Mapping[str, int | str]) -> dict[str, int | Tensor | Projection]:
    """Read the files of `name_styles`, photos 1,3,H,H in [-1, 1] and projections; seeds stay.

    Raises:
        ConfigError: the network has no style encoder, or is not that of a projection.
        InputError: a file is neither.
    """
    from inference.latents import check_style_encoder
    from inference.projection import Projection
    from inference.scene import to_style

    read: dict[str, int | Tensor | Projection] = {}
    for name, source in styles.items():
        if isinstance(source, int):
            read[name] = source
            continue
        with user_errors("--style"):
            style = to_style(source)
        if isinstance(style, Projection):
            style.check(G)
        else:
            check_style_encoder(G)
        read[name] = style
    return read


# --------------------------------------------------------------------------- device, network and output


def announce(network: str, outdir: Path | None = None) -> None:
    """Check that a local weights file can be opened and `outdir` can be written to; then say what is being loaded.

    To be called before anything that imports PyTorch, which takes seconds.

    Raises:
        InputError: they cannot.
    """
    # Downloads begin after all options are checked.
    if cached_path(network) is None:
        with user_errors("--network"):
            open_url(network).close()
    if outdir is not None:
        with user_errors("--outdir"):
            check_outdir(outdir)
    echo(f"Loading {network} ...", err=True)


def load_generator(network: str, cfg: str | None, device: str | None, precision: str) -> TriPlane:
    """Load a generator as `inference.load_generator` does; messages go to the console.

    Raises:
        InputError, ConfigError: no such device, or the file cannot be used, or not with this configuration.
    """
    import inference

    with user_errors("--network"):
        return inference.load_generator(network, device, precision, cfg, notify=echo)


@contextmanager
def output_errors() -> Iterator[None]:
    """Turn an OSError while files are made into an InputError about --outdir."""
    # Re-raised inside `user_errors`, which would also hide ValueErrors of bugs in rendering if it enclosed the block.
    try:
        yield
    except OSError:
        with user_errors("--outdir"):
            raise
