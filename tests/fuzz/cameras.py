"""Read cameras from files with odd and hostile contents, and report each that is neither right nor refused.

    PYTHONPATH=.:tests python tests/fuzz/cameras.py [--number 60] [--seed 0] [--all]

Each file is a change of one whose poses are known. It passes if it is refused in lines of printable characters, or if
all cameras come out as the formulas below say: changes that alter no camera may be read, all others must be refused.
None may take more than 30 s of processor time or 2 GB.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from harness import Case, arguments, judge, refusal

from dataset_preprocessing.camera_world import crop_camera
from dataset_preprocessing.cameras import match_cameras, read_cameras

COUNT = 4
SIZE = (60, 40)
FOCAL = 75.0
# World with z up and front -y to y up and front +z.
TURN = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
TOLERANCE = 1e-6

Change = Callable[[dict, Random], object]  # changes the content in place, or returns another one


def content() -> dict[str, Any]:
    """Return a transforms.json of COUNT cameras on a circle, OpenGL axes, z up."""
    frames = []
    for number in range(COUNT):
        angle = 0.4 * number
        forward = np.array([-math.sin(angle), math.cos(angle), 0.0])  # of the camera
        right = np.array([forward[1], -forward[0], 0.0])
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([right, [0, 0, 1], -forward], 1)
        matrix[:3, 3] = -3 * forward
        frames.append({"file_path": f"images/{number}.png", "transform_matrix": matrix.tolist()})
    return {"w": SIZE[0], "h": SIZE[1], "fl_x": FOCAL, "fl_y": FOCAL, "cx": 30.0, "cy": 20.0, "frames": frames}


def expected(frames: list[dict]) -> dict[str, np.ndarray]:
    """Return the poses, 25, of the center squares by image, from the formulas of both conventions."""
    poses = {}
    for frame in frames:
        matrix = np.array(frame["transform_matrix"]) @ np.diag([1.0, -1, -1, 1])  # y down, z forward
        cam2world = np.eye(4)
        cam2world[:3] = TURN @ matrix[:3]
        side = min(SIZE)
        intrinsics = [FOCAL / side, 0, 0.5, 0, FOCAL / side, 0.5, 0, 0, 1]
        poses[Path(frame["file_path"]).stem] = np.concatenate([cam2world.ravel(), intrinsics])
    return poses


# --------------------------------------------------------------------------- changes


def any_frame(content: dict, rng: Random) -> dict:
    return rng.choice(content["frames"])


def cell(content: dict, rng: Random, value: Any) -> None:
    any_frame(content, rng)["transform_matrix"][rng.randrange(4)][rng.randrange(4)] = value


ODD = (None, True, "1", [], {}, [1], "nan", math.nan, math.inf, -math.inf, 1e300, 10**400, "\x1b[2J\n")

# Changes that leave all cameras as they are.
HARMLESS: dict[str, Change] = {
    "unknown keys": lambda c, r: c.update(aabb_scale=16, scale=0.3, offset=[1, 2, 3], note="\x1b]0;x\x07"),
    "zero distortion": lambda c, r: c.update(k1=0, k2=0.0, p1=None, is_fisheye=False, camera_model="OPENCV"),
    "windows names": lambda c, r: [f.update(file_path=f["file_path"].replace("/", "\\")) for f in c["frames"]],
    "dot names": lambda c, r: [f.update(file_path="./" + f["file_path"]) for f in c["frames"]],
    "absolute names": lambda c, r: [f.update(file_path="/photos/" + f["file_path"]) for f in c["frames"]],
    "no endings": lambda c, r: [f.update(file_path=f["file_path"][:-4]) for f in c["frames"]],
    "intrinsics in each frame": lambda c, r: [
        f.update({key: c[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")}) for f in c["frames"]
    ],
    "no center": lambda c, r: (c.pop("cx"), c.pop("cy")),
    "no fl_y": lambda c, r: c.pop("fl_y"),
    "field of view": lambda c, r: (
        [c.pop(key) for key in ("fl_x", "fl_y", "cx", "cy")],
        c.update(camera_angle_x=2 * math.atan(SIZE[0] / 2 / FOCAL)),
    ),
    "other order": lambda c, r: r.shuffle(c["frames"]),
    "whole numbers": lambda c, r: c.update(fl_x=75, fl_y=75, cx=30, cy=20),
    "more frames": lambda c, r: c["frames"].append({**c["frames"][0], "file_path": "images/other.png"}),
    "a scaled copy": lambda c, r: c.update(w=600, h=400, fl_x=750, fl_y=750, cx=300, cy=200),
    "normalized names": lambda c, r: [f.update(file_path="images//" + f["file_path"][7:]) for f in c["frames"]],
}

# Changes after which some camera is unknown or another one.
HARMFUL: dict[str, Change] = {
    "no frames": lambda c, r: c.update(frames=r.choice([[], None, {}, "x", [[]], [None]])),
    "a frame that is none": lambda c, r: c["frames"].append(r.choice([None, 3, "x", [], {}])),
    "no name": lambda c, r: any_frame(c, r).update(file_path=r.choice([None, 3, [], {}])),
    "an odd name": lambda c, r: any_frame(c, r).update(file_path=r.choice(["", "\x1b[2J\n", "x" * 100_000, "\ud800"])),
    "two cameras of one image": lambda c, r: c["frames"].append(copy.deepcopy(c["frames"][0])),
    "no matrix": lambda c, r: any_frame(c, r).pop("transform_matrix"),
    "an odd matrix": lambda c, r: any_frame(c, r).update(transform_matrix=r.choice(ODD)),
    "an odd cell": lambda c, r: cell(c, r, r.choice(ODD)),
    "three rows": lambda c, r: any_frame(c, r)["transform_matrix"].pop(),
    "a flat matrix": lambda c, r: any_frame(c, r).update(transform_matrix=[1.0] * 16),
    "deep matrix": lambda c, r: any_frame(c, r).update(transform_matrix=[c["frames"][0]["transform_matrix"]]),
    "an odd focal length": lambda c, r: c.update(fl_x=r.choice((*ODD[1:], 0, -1, 1e-9))),
    "normalized focal length": lambda c, r: c.update(fl_x=1.25, fl_y=1.25),
    "an odd width": lambda c, r: c.update(w=r.choice((*ODD[1:], 0, -60, 0.001))),
    "another shape": lambda c, r: c.update(w=40, h=60),
    "odd pixels": lambda c, r: c.update(fl_y=150),
    "an odd center": lambda c, r: c.update(cx=r.choice(ODD[1:])),
    "distortion": lambda c, r: c.update({r.choice(("k1", "k4", "p2", "is_fisheye", "omega", "skew")): 0.1}),
    "odd distortion": lambda c, r: c.update(k1=r.choice(("x", [0.1], {"a": 1}, math.nan, [[0]]))),
    "another lens": lambda c, r: c.update(camera_model=r.choice(("OPENCV_FISHEYE", "EQUIRECTANGULAR", 3, [], "\n"))),
    "no size": lambda c, r: c.pop(r.choice(("w", "h"))),
    "not an object": lambda c, r: r.choice(([], [[]], "x", 3, True)),
    "both formats": lambda c, r: c.update(labels=r.choice((None, [], [["images/0.png", [1] * 25]], 3))),
}


def verdict(text: str, harmless: bool, poses: dict[str, np.ndarray], folder: str) -> str:
    """Read a file and compare the cameras of the images with the expected ones."""
    path = Path(folder, "cameras.json")
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    names = [f"{stem}.png" for stem in poses]
    try:
        cameras, _ = read_cameras(path)
        found = {name: match_cameras(names, cameras)[name] for name in names}
        read = {name: crop_camera(cameras[matches[0]], *SIZE) for name, matches in found.items() if len(matches) == 1}
    except ValueError as error:
        return f"WRONG: {error}" if harmless and not str(error).isprintable() else refusal(error)

    # An image without exactly one camera is refused by the caller.
    if len(read) < len(names):
        return "WRONG: no camera" if harmless else "refused: no camera"
    same = all(np.allclose(read[f"{stem}.png"], pose, atol=TOLERANCE) for stem, pose in poses.items())
    return "same" if same else "WRONG: other cameras"


def cases(number: int, rng: Random, folder: str) -> Iterator[Case]:
    """Yield files, harmless and harmful changes in turn, and a few files that are no JSON of cameras."""
    poses = expected(content()["frames"])
    broken = {
        "empty": "", "binary": "\x00\x01", "cut": json.dumps(content())[:200], "nested": "[" * 200_000,
        "long numbers": '{"frames": [' + "1" * 5_000_000 + "]}",
        "many frames": '{"frames": [' + "{}," * 300_000 + "{}]}",
        "repeated keys": '{"frames": [], "frames": []}',
    }  # fmt: skip
    for name, text in broken.items():
        yield name, lambda text=text: verdict(text, False, poses, folder)
    for count in range(number - len(broken)):
        harmless = count % 3 == 0
        kinds = HARMLESS if harmless else HARMFUL
        name = rng.choice(list(kinds))
        changed = content()
        other = kinds[name](changed, rng)
        text = json.dumps(other if name == "not an object" else changed)
        yield name, lambda text=text, harmless=harmless: verdict(text, harmless, poses, folder)


if __name__ == "__main__":
    options = arguments(__doc__, 60)
    with tempfile.TemporaryDirectory() as folder:
        is_right = judge(cases(options.number, Random(options.seed), folder), options.all)
    sys.exit(not is_right)
