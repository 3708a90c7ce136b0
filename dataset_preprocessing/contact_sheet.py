"""Overview images: captioned images in rows, samples of a data set, and the distribution of its cameras."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from camera_utils import view_angles
from training.data.dataset import PosedImageDataset
from training.data.label_maps import colorize

# Height in pixels of an image and of the caption below.
CELL = 128
CAPTION = 16

# Weight of the label colors over the image.
LABEL_OPACITY = 0.6

CaptionedImage = tuple[str, Image.Image]


def image_sheet(rows: Sequence[Sequence[CaptionedImage]], size: int = CELL) -> Image.Image:
    """Arrange images in rows, each resized to `size` pixels and above its caption."""
    # As wide as the longest row; cells without an image stay white.
    height = size + CAPTION
    sheet = Image.new("RGB", (size * max(map(len, rows)), height * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (caption, image) in enumerate(row):
            sheet.paste(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS), (x * size, y * height))
            draw.text((x * size + 3, y * height + size + 1), caption, fill="black")
    return sheet


def contact_sheet(dataset: PosedImageDataset, indices: list[int], columns: int = 4) -> Image.Image:
    """Show samples in rows: image, label map over the image (or edge drawing), yaw and pitch in degrees."""
    rows = []
    for start in range(0, len(indices), columns):
        samples = [_captioned_images(dataset, index) for index in indices[start : start + columns]]
        rows.append([image for sample in samples for image in sample])
    return image_sheet(rows)


def _captioned_images(dataset: PosedImageDataset, index: int) -> list[CaptionedImage]:
    """Return image and label map of a sample."""
    # Image, with its number and the angles of its pose.
    sample = dataset[index]
    image = sample["image"].transpose(1, 2, 0)  # R,R,3
    caption = f"#{index}"
    if dataset.has_labels:
        yaw, pitch = (math.degrees(angle.item()) for angle in view_angles(torch.from_numpy(sample["pose"])[None]))
        caption += f"  yaw {yaw:+.0f}  pitch {pitch:+.0f}"
    images = [(caption, Image.fromarray(image))]

    # Label map: blended with the image, which shows whether both fit; drawings as they were, dark on white.
    if "mask" in sample:
        mask = sample["mask"][0]  # R,R
        if dataset.data_type == "seg":
            drawing = LABEL_OPACITY * colorize(mask) + (1 - LABEL_OPACITY) * image
        else:
            drawing = 255 - mask
        images.append(("", Image.fromarray(np.round(drawing).astype(np.uint8))))
    return images


def pose_coverage(poses: np.ndarray, size: tuple[int, int] = (720, 360)) -> Image.Image:
    """Plot yaw (left to right, -180 to 180 degrees) and pitch (90 at the top) of poses N,25 as dots.

    Args:
        poses: N,25.
        size: width and height of the plot in pixels.
    """
    width, height = size
    plot = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(plot)

    # Grid lines and labels every 45 degrees.
    for degrees in range(-180, 181, 45):
        x = (degrees + 180) / 360 * (width - 1)
        draw.line([(x, 0), (x, height)], fill="#dddddd")
        draw.text((x + 2, height - 12), str(degrees), fill="#888888")
    for degrees in range(-90, 91, 45):
        y = (90 - degrees) / 180 * (height - 1)
        draw.line([(0, y), (width, y)], fill="#dddddd")
        draw.text((2, y + 1), str(degrees), fill="#888888")

    # A dot for each camera; the front (0, 0) is in the middle.
    yaw, pitch = view_angles(torch.from_numpy(poses))
    xs = (yaw / math.pi + 1) / 2 * (width - 1)
    ys = (0.5 - pitch / math.pi) * (height - 1)
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        draw.ellipse([x - 1.5, y - 1.5, x + 1.5, y + 1.5], fill="#1f5fbf")
    return plot
