"""Small data sets on disk for tests: a dict of file contents, written as a zip or as a directory."""

import io
import json
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from camera_utils import CATS, pose_at
from training.data.dataset import PUBLISHED

SIZE = 16
COUNT = 5


def png(pixels, mode=None) -> bytes:
    file = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, "png")
    return file.getvalue()


def gray_png(ids: np.ndarray, bits: int) -> bytes:
    """Encode a gray PNG with 1, 2, 4 or 8 bits per pixel, which PIL cannot write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    places = np.unpackbits(ids[..., None], axis=2)[..., -bits:].reshape(len(ids), -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in places)  # 0: no filter
    header = struct.pack(">IIBBBBB", ids.shape[1], ids.shape[0], bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def name_of(number: int) -> str:
    return f"00000/img{number:08d}.png"


def good_poses(count=COUNT) -> list:
    return [[name_of(i), pose_at(CATS, 1.2 + 0.1 * i, 1.5)[0].tolist()] for i in range(count)]


def dataset_json(labels) -> bytes:
    return json.dumps({"labels": labels}).encode()


def image_files(count=COUNT, size=SIZE) -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    files = {name_of(i): png(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)) for i in range(count)}
    return files | {"dataset.json": dataset_json(good_poses(count))}


def label_files(count=COUNT, size=SIZE, classes=6) -> dict[str, bytes]:
    rng = np.random.default_rng(2)
    return {name_of(i): png(rng.integers(0, classes, (size, size), dtype=np.uint8)) for i in range(count)}


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def write_published_data(directory, cfg, count=COUNT):
    """Write small images and label maps under the file names of a published data set; return the directory."""
    data = PUBLISHED[cfg]
    write_zip(directory / data.images, image_files(count))
    drawings = {name: png(255 - 255 * np.eye(SIZE, k=i, dtype=np.uint8)) for i, name in enumerate(label_files(count))}
    write_zip(directory / data.label_maps, drawings if data.data_type == "edge" else label_files(count))
    return directory
