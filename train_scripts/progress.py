"""Show how a training run progresses: held-out samples as each of its snapshots renders them."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone without installing
from dataset_preprocessing.contact_sheet import CaptionedImage, image_sheet
from dnnlib.cli import Command, InputError, option_group, overwrite_option, user_errors
from dnnlib.outputs import Outputs
from dnnlib.util import atomic_write
from inference import Scene, load_generator
from training.data.dataset import PosedImageDataset
from training.data.label_maps import draw_label_map, label_map_from_dataset
from training.run_dir import read_options

# Samples are taken from as many objects.
ROWS = 4


def snapshots_of(run_dir: Path, count: int) -> list[Path]:
    """Return up to `count` snapshots, evenly spaced, the first and the last included.

    Raises:
        InputError: the run has none.
    """
    paths = sorted(run_dir.glob("network-snapshot-*.pkl"))
    if not paths:
        raise InputError(f"{run_dir}: no network-snapshot-*.pkl")
    last = max(count - 1, 1)
    return [paths[number] for number in sorted({round(i * (len(paths) - 1) / last) for i in range(count)})]


def progress_rows(dataset: PosedImageDataset, snapshots: list[Path], rows: int = ROWS) -> list[list[CaptionedImage]]:
    """Render the first view of each of some objects with every snapshot, and another view with the last one."""
    # The first two views of evenly spaced objects.
    first = [dataset.views_of(index)[0] for index in range(0, len(dataset), max(len(dataset) // rows, 1))][:rows]
    views = [dataset.views_of(index)[:2] for index in first]
    cells: list[list[CaptionedImage]] = [[] for _ in views]
    for number, path in enumerate(snapshots):
        G = load_generator(path)
        kimg = int(path.stem.rpartition("-")[2])
        for row, indices in zip(cells, views, strict=True):
            sample = dataset[indices[0]]
            label_map = label_map_from_dataset(sample["mask"], G.data_type)[None]
            photo = Image.fromarray(sample["image"].transpose(1, 2, 0))
            if not row:
                row += [("label map", Image.fromarray(draw_label_map(label_map, G.data_type)[0])), ("photo", photo)]

            # With the photo's style where the network can read it.
            style = {"style": photo} if G.style_encoder is not None else {}
            scene = Scene.from_label_map(G, label_map, pose=sample["pose"], **style)
            row.append((f"{kimg} kimg", Image.fromarray(scene.render(pose=sample["pose"]).image)))

            # Another view, beside the photo from there.
            if number == len(snapshots) - 1 and len(indices) > 1:
                other = dataset[indices[1]]
                row.append(("another view", Image.fromarray(scene.render(pose=other["pose"]).image)))
                row.append(("photo from there", Image.fromarray(other["image"].transpose(1, 2, 0))))
    return cells


@click.command(cls=Command)
@option_group(
    "Input",
    click.option("--run", "run_dir", type=click.Path(path_type=Path), required=True, help="Directory of the run."),
    click.option("--data", required=True, help="Images and poses, zip or directory; best of objects not trained on."),
    click.option("--mask_data", required=True, help="Their label maps."),
    click.option("--snapshots", type=click.IntRange(1, 20), default=6, show_default=True, help="Number of columns."),
)
@option_group("Output", click.option("--out", type=click.Path(path_type=Path), required=True, help="PNG to write."))
@overwrite_option
def main(run_dir: Path, data: str, mask_data: str, snapshots: int, out: Path, outputs: Outputs) -> None:
    """Render held-out samples with snapshots of a run, side by side.

    \b
    Example:
      python train_scripts/progress.py --run runs/00000-... --data data/toy/cats_128_test.zip \\
          --mask_data data/toy/cats_128_test_label.zip --out progress.png
    """
    outputs.claim(out)
    with user_errors("--run"):
        options = read_options(run_dir)
    with user_errors("--data"):
        dataset = PosedImageDataset(data, mask_data, options.data.data_type)
    sheet = image_sheet(progress_rows(dataset, snapshots_of(run_dir, snapshots)))
    with atomic_write(out) as file:
        sheet.save(file, format="png")


if __name__ == "__main__":
    main()
