"""Pictures in rows over their captions, samples of a data set so, and where its cameras stand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from camera_utils import view_angles
from training.data.dataset import PosedImageDataset
from training.data.label_maps import colorize

CELL, CAPTION = 128, 16  # pixels of a picture, and of the line under it
LABEL_OPACITY = 0.6

CaptionedImage = tuple[str, Image.Image]


def image_sheet(rows: Sequence[Sequence[CaptionedImage]], size: int = CELL) -> Image.Image:
    """All pictures in rows, each `size` pixels wide and high, over its caption."""
    height = size + CAPTION
    sheet = Image.new("RGB", (size * max(map(len, rows)), height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (caption, picture) in enumerate(row):
            sheet.paste(picture.convert("RGB").resize((size, size), Image.Resampling.LANCZOS), (x * size, y * height))
            draw.text((x * size + 3, y * height + size + 1), caption, fill="black")
    return sheet


def contact_sheet(dataset: PosedImageDataset, indices: list[int], columns: int = 4) -> Image.Image:
    """Rows of samples: image, label map over the image (edges: the stored drawing), yaw and pitch in degrees."""
    rows = [indices[start : start + columns] for start in range(0, len(indices), columns)]
    return image_sheet([[picture for index in row for picture in _pictures(dataset, index)] for row in rows])


def _pictures(dataset: PosedImageDataset, index: int) -> list[CaptionedImage]:
    sample = dataset[index]
    image = sample["image"].transpose(1, 2, 0)
    caption = f"#{index}"
    if dataset.has_labels:
        yaw, pitch = (math.degrees(a.item()) for a in view_angles(torch.from_numpy(sample["pose"])[None]))
        caption += f"  yaw {yaw:+.0f}  pitch {pitch:+.0f}"
    pictures = [(caption, Image.fromarray(image))]
    if "mask" in sample:
        ids = sample["mask"][0]
        over = LABEL_OPACITY * colorize(ids) + (1 - LABEL_OPACITY) * image if dataset.data_type == "seg" else 255 - ids
        pictures.append(("", Image.fromarray(np.round(over).astype(np.uint8))))
    return pictures


def pose_coverage(poses: np.ndarray, size: tuple[int, int] = (720, 360)) -> Image.Image:
    """Yaw (left to right, -180 to 180 degrees) against pitch (90 at the top) of N,25 poses, a dot each."""
    width, height = size
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for degrees in range(-180, 181, 45):
        x = (degrees + 180) / 360 * (width - 1)
        draw.line([(x, 0), (x, height)], fill="#dddddd")
        draw.text((x + 2, height - 12), str(degrees), fill="#888888")
    for degrees in range(-90, 91, 45):
        y = (90 - degrees) / 180 * (height - 1)
        draw.line([(0, y), (width, y)], fill="#dddddd")
        draw.text((2, y + 1), str(degrees), fill="#888888")
    yaws, pitches = view_angles(torch.from_numpy(poses))
    xs = (yaws / math.pi + 1) / 2 * (width - 1)
    ys = (0.5 - pitches / math.pi) * (height - 1)
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        draw.ellipse([x - 1.5, y - 1.5, x + 1.5, y + 1.5], fill="#1f5fbf")
    return picture
