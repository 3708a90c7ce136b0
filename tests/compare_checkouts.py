"""Check that two checkouts give the same numbers, bit for bit: the demo's images, and weights after 8 iterations.

    python tests/compare_checkouts.py BEFORE AFTER

BEFORE and AFTER are folders with a checkout each, for example one of `git worktree add ../before HEAD~1`. Both are run
with this Python on this machine; equal numbers across machines are not expected.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

IMAGES = (".png", ".gif")
ITERATIONS, BATCH = 8, 4
TOY = "toy --kind cats --resolution 128 --number 6 --held-out 0 --workers 0"
TRAIN = """
--cfg=afhq --semantic_channels=6 --render_mask=True --dis_mask=True --gpus=1 --mbstd-group=2 --gamma=1
--lambda_lpips=0 --lambda_l1=1 --lambda_cross_view=0.1 --random_c_prob=0.5 --aug=ada --density_reg=0.25
--cbase=1024 --cmax=16 --encoder_width=0.05 --sr_width=0.125 --plane_resolution=64 --depth_resolution=8
--neural_rendering_resolution_initial=32 --workers=0 --grid=2x1 --device=cpu --snap=1 --keep_states=1 --seed=3
"""


def run(checkout: Path, *command: str) -> None:
    """Run a script of a checkout with one thread, so that sums have one order."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)


def images(folder: Path) -> dict[str, bytes]:
    """Content of every image file below a folder, by its path there."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix in IMAGES]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def leaves(value: object, name: str = "") -> dict[str, object]:
    """Flatten nested dicts and lists to values by their path."""
    if not isinstance(value, dict | list):
        return {name: value}
    found: dict[str, object] = {}
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        found |= leaves(item, f"{name}/{key}")
    return found


def train(checkout: Path, data: Path, outdir: Path) -> dict[str, object]:
    """Train a small model for ITERATIONS iterations; every number of its final state, by its path."""
    files = (f"--data={data}.zip", f"--mask_data={data}_label.zip")
    length = (f"--batch={BATCH}", f"--kimg={ITERATIONS * BATCH / 1000}", f"--tick={ITERATIONS * BATCH / 1000}")
    run(checkout, "train.py", f"--outdir={outdir}", *files, *length, *TRAIN.split())

    (state,) = outdir.glob("*/training-state-*.pt")
    numbers = leaves(torch.load(state, weights_only=True))
    return {name: value for name, value in numbers.items() if not name.endswith("/seconds")}


def report(what: str, before: dict, after: dict) -> bool:
    """Print how many entries of two dicts are equal, and the names of those that are not."""
    names = sorted(before.keys() | after.keys())
    different = []
    for name in names:
        a, b = before.get(name), after.get(name)
        equal = torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
        if not equal:
            different.append(name)
    print(f"{what}: {len(names) - len(different)} of {len(names)} equal", *different[:20], sep="\n  ")
    return not different


def main() -> None:
    """Run both checkouts and compare what they wrote; exit code 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    checkouts = [folder.resolve() for folder in vars(parser.parse_args()).values()]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(checkouts[0], "dataset_tool.py", *TOY.split(), f"--outdir={folder}/data")
        data = next(path for path in (folder / "data").glob("*.zip") if not path.stem.endswith("_label"))
        data = data.with_suffix("")

        demos, states = [], []
        for number, checkout in enumerate(checkouts):
            run(checkout, "applications/demo.py", "--outdir", f"{folder}/demo{number}")
            demos.append(images(folder / f"demo{number}"))
            states.append(train(checkout, data, folder / f"run{number}"))

        same_images = report("images of the demo", *demos)
        same_numbers = report(f"state after {ITERATIONS} iterations", *states)
    sys.exit(not (same_images and same_numbers))


if __name__ == "__main__":
    main()
