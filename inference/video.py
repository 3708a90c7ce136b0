"""Videos: views of a scene rendered a few at a time, and frames encoded one by one."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import numpy as np
import torch
from PIL import GifImagePlugin, Image
from torch import Tensor

from dnnlib.util import atomic_write
from training.networks.generator import TriPlane

# Pixels rendered at a time, enough to use a device fully: four views of 512x512 on a GPU, one on a CPU.
CPU_PIXELS = 2**16
DEVICE_PIXELS = 2**20
# Cost of a pixel of the raw image, which is a ray, relative to one of the final image.
RAW_PIXEL_COST = 4

GIF_COLORS = 256
# Pixels on a side of the subsampled frame that the palette is computed from.
GIF_SAMPLED_SIDE = 128
# Unit of the delays between frames.
GIF_STEP_MS = 10
# Shortest delay: most viewers play a delay of one step at ten frames per second.
GIF_MIN_STEPS = 2
# Application extension: repeat without end.
GIF_LOOP = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"
# Constant rate factor; compression is hardly visible.
H264_QUALITY = "18"
# BT.709 in ITU-T H.273; the number is the same for primaries, transfer function and matrix.
BT709 = 1
# Luma from 16 to 235, in libav.
LIMITED_RANGE = 1

Append = Callable[[np.ndarray], None]  # adds a frame H,W,3 uint8

# --------------------------------------------------------------------------- scene to frames


@torch.inference_mode()
def render_views(
    G: TriPlane,
    ws: Tensor,
    planes: Tensor | None,
    poses: Tensor,
    batch: int | None = None,
    outputs: Collection[str] | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Render a view per pose, deterministically, only as far as the iterator is consumed.

    Args:
        G: the generator.
        ws: 1,num_ws,w_dim for one scene seen from everywhere, or N,num_ws,w_dim for a different scene in each view.
        planes: tri-planes of the scene, 1,3,C,P,P; None computes them. Only with one scene.
        poses: N,25.
        batch: views rendered at a time, None for a number that suits the device. The images do not depend on it.
        outputs: names of the images, see `G.synthesis`.
    Yields:
        Outputs of `G.synthesis` for one pose, N = 1.
    Raises:
        ValueError: `ws` has neither one entry nor one for each pose.
    """
    # One scene: compute its planes once.
    if len(ws) not in (1, len(poses)):
        raise ValueError(f"ws: expected 1 or {len(poses)} for {len(poses)} poses, got {len(ws)}")
    if planes is None and len(ws) == 1:
        planes = G.planes(ws, noise_mode="const")

    # Render batch by batch, and hand out the views one by one.
    step = batch or views_at_once(G, poses.device)
    for start in range(0, len(poses), step):
        part = slice(start, start + step)
        part_ws = ws if len(ws) == 1 else ws[part]
        part_planes = G.planes(part_ws, noise_mode="const") if planes is None else planes
        out = G.synthesis(part_ws, poses[part], planes=part_planes, noise_mode="const", jitter=False, outputs=outputs)
        for view in range(len(poses[part])):
            yield {name: values[view : view + 1] for name, values in out.items()}


def views_at_once(G: TriPlane, device: torch.device) -> int:
    """Return how many views of a generator to render at a time."""
    if G.ray_options().auto:
        return 1  # rays that miss the scene depend on the other rays of the call
    cost = max(G.img_resolution**2, RAW_PIXEL_COST * G.neural_rendering_resolution**2)
    return max(1, (CPU_PIXELS if device.type == "cpu" else DEVICE_PIXELS) // cost)


# --------------------------------------------------------------------------- frames to file


@contextmanager
def open_video(path: str | os.PathLike[str], fps: int) -> Iterator[Append]:
    """Open a video for writing frame by frame; memory does not grow with their number.

    The file appears when the block ends without an exception; otherwise nothing is left.

    Args:
        path: ends in .gif (256 colors per frame, delays in steps of 10 ms and at least 20 ms: 50 frames per second at
            most) or .mp4 (H.264; odd sizes are made even by repeating the last row or column).
        fps: frames per second.
    Yields:
        Function that encodes a frame, H,W,3 uint8, and raises ValueError for another type, or another shape than that
        of the first frame.
    Raises:
        ValueError: another suffix, .mp4 without PyAV, `fps` not positive, or no frame was written.
    """
    # Fail before any frame is rendered.
    path = Path(path)
    suffix = path.suffix.removeprefix(".")
    check_video_format(suffix)
    if not fps > 0:
        raise ValueError(f"fps: expected a positive number, got {fps}")
    # Frames of an encoder must have one size.
    first_shape = None

    def write(frame: np.ndarray) -> None:
        nonlocal first_shape
        expected = first_shape or frame.shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != expected:
            raise ValueError(f"frame: expected uint8 {first_shape or 'H,W,3'}, got {frame.dtype} {frame.shape}")
        first_shape = frame.shape
        append(frame)

    # The encoder ends before the file gets its name.
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file, ENCODERS[suffix](file, fps) as append:
        yield write
        if first_shape is None:
            raise ValueError(f"{path}: no frame was written")


def check_video_format(name: str) -> None:
    """Check that videos of a format ("gif", "mp4") can be written.

    Raises:
        ValueError: unknown format, or mp4 without PyAV.
    """
    if name not in ENCODERS:
        raise ValueError(f"video format: expected {' or '.join(ENCODERS)}, got {name!r}")
    if name == "mp4":
        _import_av()


def _import_av() -> ModuleType:
    try:
        import av  # an optional dependency
    except ImportError as error:
        raise ValueError('mp4: needs PyAV, which is not installed; pip install -e ".[video]"') from error
    return av


# --------------------------------------------------------------------------- GIF


def gif_delay(frame: int, fps: int) -> int:
    """Return the delay after a frame in steps of 10 ms, rounded so that errors do not add up.

    Above 50 frames per second all delays are the minimum, and the GIF plays slower than `fps`.
    """
    steps = 1000 / GIF_STEP_MS / fps
    return max(GIF_MIN_STEPS, round((frame + 1) * steps) - round(frame * steps))


@contextmanager
def _gif(file: BinaryIO, fps: int) -> Iterator[Append]:
    """Write a GIF with a palette per frame. Pillow's and imageio's own writers keep all frames until the end."""
    frame_number = 0

    def append(frame: np.ndarray) -> None:
        nonlocal frame_number
        # Header with the size, no global palette, and the loop extension.
        if frame_number == 0:
            height, width = frame.shape[:2]
            file.write(struct.pack("<6sHHBBB", b"GIF89a", width, height, 0, 0, 0) + GIF_LOOP)

        # Image blocks with their own palette, from Pillow.
        duration = gif_delay(frame_number, fps) * GIF_STEP_MS
        blocks = GifImagePlugin.getdata(_with_palette(frame), duration=duration, include_color_table=True)
        file.write(b"".join(blocks))
        frame_number += 1

    yield append
    file.write(b";")  # trailer


def _with_palette(frame: np.ndarray) -> Image.Image:
    """Convert a frame (H,W,3 uint8) to a palette: exactly if it has up to 256 colors, else by a median cut.

    The median cut uses every pixel of a small frame and a subsample of a large one: 20 ms for 512x512 pixels, where
    all of them take 120 ms for 2 dB more. There is no dithering, since noise that changes between frames flickers.
    """
    # Median cut; Pillow returns None for more colors than asked for.
    image = Image.fromarray(frame)
    if not image.getcolors(GIF_COLORS):
        step = math.ceil(max(frame.shape) / GIF_SAMPLED_SIDE)
        sampled = Image.fromarray(np.ascontiguousarray(frame[::step, ::step]))
        cut = sampled.quantize(GIF_COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        return cut if step == 1 else image.quantize(palette=cut, dither=Image.Dither.NONE)

    # One number per color, so that the palette is the sorted unique numbers.
    numbers = frame @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)  # H,W
    colors = np.unique(numbers)
    exact = Image.fromarray(np.searchsorted(colors, numbers).astype(np.uint8))
    exact.putpalette(colors.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes())
    return exact


# --------------------------------------------------------------------------- MP4


@contextmanager
def _mp4(file: BinaryIO, fps: int) -> Iterator[Append]:
    """Write H.264 in the form that every player takes: yuv420p, and the index first so that it plays while loading."""
    av = _import_av()
    name = f"file:{file.name}"  # else a colon in the path is taken for a protocol
    with av.open(name, "w", format="mp4", options={"movflags": "faststart"}) as container:
        # Without color tags, players guess the conversion from YUV by the size of the video.
        stream = container.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": H264_QUALITY}
        )
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED_RANGE

        def append(frame: np.ndarray) -> None:
            height, width = frame.shape[:2]
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if not codec.is_open:  # the first frame sets the size
                stream.height, stream.width = even.shape[:2]
            video_frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            container.mux(stream.encode(video_frame.reformat(format="yuv420p", dst_colorspace=BT709)))

        # The encoder looks ahead; flush the frames that it holds back.
        yield append
        container.mux(stream.encode())


ENCODERS = {"gif": _gif, "mp4": _mp4}
