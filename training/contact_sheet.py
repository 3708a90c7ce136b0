"""Pictures about a data set: samples side by side, and where its cameras stand."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw

from camera_utils import view_angles
from training.dataset import PosedImageDataset
from training.label_maps import colourise

CELL = 128  # pixels per picture
LABEL_OPACITY = 0.6


def contact_sheet(dataset: PosedImageDataset, indices: list[int], columns: int = 4) -> Image.Image:
    """Rows of samples: image, label map over the image (edges: the stored drawing), yaw and pitch in degrees."""
    cells = [_cell(dataset, index) for index in indices]
    width, height = cells[0].size
    sheet = Image.new("RGB", (width * columns, height * math.ceil(len(cells) / columns)), "white")
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % columns * width, number // columns * height))
    return sheet


def _cell(dataset: PosedImageDataset, index: int) -> Image.Image:
    sample = dataset[index]
    image = sample["image"].transpose(1, 2, 0)
    pictures = [image]
    if "mask" in sample:
        ids = sample["mask"][0]
        if dataset.data_type == "seg":
            over = LABEL_OPACITY * colourise(ids) + (1 - LABEL_OPACITY) * image
            pictures.append(over.round().astype(np.uint8))
        else:
            pictures.append(np.repeat(255 - ids[..., None], 3, axis=2))
    cell = Image.new("RGB", (CELL * len(pictures) + 4, CELL + 16), "white")
    for number, picture in enumerate(pictures):
        cell.paste(Image.fromarray(picture).resize((CELL, CELL), Image.Resampling.LANCZOS), (number * CELL, 0))
    text = f"#{index}"
    if dataset.has_labels:
        yaw, pitch = (math.degrees(a.item()) for a in view_angles(torch.from_numpy(sample["pose"])[None]))
        text += f"  yaw {yaw:+.0f}  pitch {pitch:+.0f}"
    ImageDraw.Draw(cell).text((2, CELL + 2), text, fill="black")
    return cell


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
