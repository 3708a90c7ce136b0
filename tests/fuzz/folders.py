"""Open data sets with odd names, files and contents, and report each that is neither right nor refused.

    PYTHONPATH=.:tests python tests/fuzz/folders.py [--number 40] [--seed 0] [--all]

Each data set is a change of one whose samples are known, as a directory or as zips. It passes if it is refused in lines
of printable characters, or if all samples are those of the intact one. None may take more than 30 s of processor time
or 2 GB.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
from harness import Case, arguments, judge, refusal
from small_data import COUNT, image_files, label_files, png, write_folder

from training.data.dataset import PosedImageDataset

Files = dict[str, bytes]
Change = Callable[[Files, Files, Random], object]  # changes images (with dataset.json) and label maps in place

ODD_JSON = ([], 3, {"labels": None}, {"labels": {}}, {"labels": [3]})
ODD_NUMBERS = (None, "1", True, 1e300, float("nan"), [])

# --------------------------------------------------------------------------- changes of the contents


def rename(files: Files, new_name: Callable[[str], str]) -> None:
    changed = {new_name(name): content for name, content in files.items()}
    files.clear()
    files.update(changed)


def poses(files: Files, change: Callable[[dict], object]) -> None:
    """Change the contents of dataset.json in place, or replace them by what `change` returns."""
    (name,) = [name for name in files if name.endswith("dataset.json")]
    content = json.loads(files[name])
    other = change(content)
    files[name] = json.dumps(content if other is None else other).encode("utf-8", "surrogatepass")


def first(files: Files) -> str:
    return min(name for name in files if not name.endswith(".json"))


SAME: dict[str, Change] = {
    "nothing": lambda i, m, r: None,
    "a folder around all": lambda i, m, r: [rename(files, lambda name: "my data/" + name) for files in (i, m)],
    "other files": lambda i, m, r: i.update({"README.txt": b"x", "00000/Thumbs.db": b"x", "notes": b"\x1b[2J"}),
    "hidden files": lambda i, m, r: [f.update({".DS_Store": b"x", "00000/._img00000000.png": b"x"}) for f in (i, m)],
    "shadows of macOS": lambda i, m, r: m.update({"__MACOSX/00000/._img00000000.png": b"x"}),
    "more label maps": lambda i, m, r: m.update({"00000/other.png": png(np.zeros((3, 3), np.uint8))}),
    "more poses": lambda i, m, r: poses(i, lambda c: c["labels"].append(["00000/other.png", [0] * 25])),
    "poses in another order": lambda i, m, r: poses(i, lambda c: c["labels"].reverse()),
    "poses of Windows": lambda i, m, r: poses(
        i, lambda c: c.update(labels=[[name.replace("/", "\\"), pose] for name, pose in c["labels"]])
    ),
    "poses with dots": lambda i, m, r: poses(
        i, lambda c: c.update(labels=[["./" + name, pose] for name, pose in c["labels"]])
    ),
    "label maps without folders": lambda i, m, r: rename(m, lambda name: name.split("/")[-1]),
    "endings in capitals": lambda i, m, r: rename(m, lambda name: name.replace(".png", ".PNG")),
}

OTHER: dict[str, Change] = {
    "no dataset.json": lambda i, m, r: i.pop("dataset.json"),
    "damaged JSON": lambda i, m, r: i.update({"dataset.json": i["dataset.json"][: r.randrange(2000)]}),
    "binary JSON": lambda i, m, r: i.update({"dataset.json": r.randbytes(500)}),
    "nested JSON": lambda i, m, r: i.update({"dataset.json": b'{"labels": ' + b"[" * 100_000}),
    "odd JSON": lambda i, m, r: poses(i, lambda c: r.choice(ODD_JSON)),
    "a pose too few": lambda i, m, r: poses(i, lambda c: c["labels"].pop() and None),
    "a pose of 24 numbers": lambda i, m, r: poses(i, lambda c: c["labels"][0][1].pop() and None),
    "an odd number": lambda i, m, r: poses(
        i, lambda c: c["labels"][0][1].__setitem__(r.randrange(25), r.choice(ODD_NUMBERS))
    ),
    "a transposed pose": lambda i, m, r: poses(
        i, lambda c: c["labels"][1].__setitem__(
            1, np.array(c["labels"][1][1][:16]).reshape(4, 4).T.ravel().tolist() + c["labels"][1][1][16:]
        )
    ),
    "two poses of one image": lambda i, m, r: poses(i, lambda c: c["labels"].append(c["labels"][0])),
    "a name with escapes": lambda i, m, r: poses(i, lambda c: c["labels"][0].__setitem__(0, "\x1b[2J\n\ud800.png")),
    "groups of unknown images": lambda i, m, r: poses(i, lambda c: c.update(objects=[["x\x1b.png"]])),
    "odd groups": lambda i, m, r: poses(i, lambda c: c.update(objects=r.choice((3, [3], [[3]], {"a": 1})))),
    "a label map too few": lambda i, m, r: m.pop(first(m)),
    "no label map": lambda i, m, r: m.clear(),
    "no image": lambda i, m, r: [i.pop(name) for name in list(i) if name.endswith(".png")],
    "an empty image": lambda i, m, r: i.update({first(i): b""}),
    "a damaged image": lambda i, m, r: i.update({first(i): i[first(i)][: r.randrange(8, 200)]}),
    "an image of another size": lambda i, m, r: i.update({first(i): png(np.zeros((7, 7, 3), np.uint8))}),
    "a label map of another size": lambda i, m, r: m.update({first(m): png(np.zeros((7, 9), np.uint8))}),
    "a label map in JPEG": lambda i, m, r: m.update({first(m): jpeg()}),
    "a photo as label map": lambda i, m, r: m.update({first(m): i[first(i)]}),
    "two images of one name": lambda i, m, r: i.update({first(i).replace(".png", ".jpg"): jpeg()}),
    "two label maps of one name": lambda i, m, r: m.update({first(m).replace(".png", ".bmp"): m[first(m)]}),
    "huge JSON": lambda i, m, r: i.update({"dataset.json": b'{"labels": [' + b"[]," * 20_000_000 + b"[]]}"}),
}  # fmt: skip


def jpeg() -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(file, "jpeg")
    return file.getvalue()


# --------------------------------------------------------------------------- odd directories and zips


def odd_directory(folder: Path, rng: Random) -> str:
    """Add something to a directory that is no image, and return what."""
    kind = rng.choice(("pipe", "broken link", "loop", "directory in place of an image", "unreadable name", "link"))
    path = folder / "00000" / "img00000009.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "broken link":
        path.symlink_to(folder / "nowhere")
    elif kind == "loop":
        (folder / "again").symlink_to(folder)
    elif kind == "directory in place of an image":
        path.mkdir()
    elif kind == "unreadable name":
        Path(os.fsdecode(os.fsencode(folder) + b"/00000/\xff\x1b.png")).touch()
    else:
        path.symlink_to(folder / "00000" / "img00000000.png")
    return kind


def odd_zip(path: Path, files: Files, rng: Random) -> str:
    """Write a zip in an odd way, and return how."""
    kind = rng.choice(
        ("deflated", "outside", "drive", "twice", "encrypted flag", "cut", "wrong checksum", "bomb", "no zip")
    )
    kinds = zipfile.ZIP_DEFLATED if kind in ("deflated", "bomb") else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kinds) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if kind in ("outside", "drive"):
            archive.writestr("../../evil.png" if kind == "outside" else "C:\\evil.png", b"x")
        if kind == "bomb":
            archive.writestr("00000/img00000007.png", bytes(400_000_000))
        if kind == "twice":
            archive.writestr(zipfile.ZipInfo(first(files)), png(np.zeros((16, 16, 3), np.uint8)))
    data = bytearray(path.read_bytes())
    if kind == "encrypted flag":
        data[data.index(b"PK\x01\x02") + 8] |= 1
    if kind == "cut":
        del data[rng.randrange(len(data)) :]
    if kind == "wrong checksum":
        data[data.index(b"IDAT") + 10] ^= 1
    if kind == "no zip":
        data = bytearray(rng.randbytes(300))
    path.write_bytes(data)
    return kind


# --------------------------------------------------------------------------- verdicts


def samples_of(data: Path, mask_data: Path) -> dict[str, tuple]:
    """Return images, label maps and poses by file name without folders."""
    dataset = PosedImageDataset(data, mask_data, "seg")
    return {
        Path(dataset.get_details(number).name).name: tuple(dataset[number][key] for key in ("image", "mask", "pose"))
        for number in range(len(dataset))
    }


def verdict(data: Path, mask_data: Path, intact: dict[str, tuple]) -> str:
    """Read all samples of a data set and compare them with those of the intact one."""
    try:
        samples = samples_of(data, mask_data)
    except (ValueError, OSError) as error:
        return refusal(error)
    if samples.keys() != intact.keys():
        return f"WRONG: samples {sorted(samples)}"
    same = all(np.array_equal(a, b) for name in samples for a, b in zip(samples[name], intact[name], strict=True))
    return "same" if same else "WRONG: other samples"


def cases(number: int, rng: Random, folder: Path) -> Iterator[Case]:
    """Yield changed data sets, as directories and as zips, and odd directories and zips."""
    data = write_folder(folder / "intact", image_files())
    intact = samples_of(data, write_folder(folder / "intact_labels", label_files()))
    assert len(intact) == COUNT
    changes = list({**SAME, **OTHER}.items())
    for count in range(number):
        place = folder / str(count)
        place.mkdir()
        images, label_maps = image_files(), label_files()
        name = ""
        if count % 4 < 3:
            # Every change, then some again.
            name, change = changes[count % len(changes)] if count < len(changes) else rng.choice(changes)
            change(images, label_maps, rng)
        if rng.random() < 0.5 and name:
            data, mask_data = place / "d.zip", place / "l.zip"
            for path, files in ((data, images), (mask_data, label_maps)):
                with zipfile.ZipFile(path, "w") as archive:
                    for member, content in files.items():
                        archive.writestr(member, content)
        else:
            data, mask_data = write_folder(place / "d", images), write_folder(place / "l", label_maps)
            mask_data.mkdir(exist_ok=True)
        if not name:
            is_zip = rng.random() < 0.5
            name = odd_zip(place / "d.zip", images, rng) if is_zip else odd_directory(data, rng)
            data = place / "d.zip" if is_zip else data
        yield f"{name}, {data.name}", lambda d=data, m=mask_data: verdict(d, m, intact)
        shutil.rmtree(place)


if __name__ == "__main__":
    options = arguments(__doc__, 40)
    with tempfile.TemporaryDirectory() as folder:
        is_right = judge(cases(options.number, Random(options.seed), Path(folder)), options.all)
    sys.exit(not is_right)
