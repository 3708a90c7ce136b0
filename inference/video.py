"""Films of a scene: its views rendered a few at a time, each frame handed to the encoder as it comes."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, TracebackType
from typing import BinaryIO

import numpy as np
import torch
from PIL import GifImagePlugin, Image
from torch import Tensor

from dnnlib.util import atomic_write
from training.networks.generator import TriPlane

# Pixels rendered at a time, enough to keep a device busy: four views of 512x512 there. A CPU is busy with one.
CPU_PIXELS = 2**16
DEVICE_PIXELS = 2**20
RAW_PIXEL_COST = 4  # a pixel of the raw image, a ray, weighs as much as so many pixels of the final one

FPS = 60  # of a published film
GIF_COLORS = 256
GIF_SAMPLED_SIDE = 128  # pixels of a frame's side that choose its colors
GIF_STEP_MS = 10  # delays are whole numbers of this
GIF_SHORTEST = 2  # steps; most viewers slow a delay of one step down to ten frames a second
GIF_LOOP = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00"  # for ever
H264_QUALITY = "18"  # constant rate factor: little to be seen of the compression
BT709 = 1  # ITU-T H.273's number for it, of primaries, transfer and matrix alike
LIMITED_RANGE = 1  # libav's number for luma from 16 to 235

Append = Callable[[np.ndarray], None]

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
    """What `G.synthesis` gives for each pose, N = 1, without chance; rendered only as far as it is asked for.

    Args:
        ws: 1,num_ws,w_dim for one scene seen from everywhere, or F,num_ws,w_dim for a scene of its own in each view.
        planes: what `G.planes` gave for these ws; None computes them, once for one scene.
        poses: F,25.
        batch: views rendered at a time; None for as many as run well. The pictures do not depend on it.
        outputs: names of the images, as `G.synthesis` takes them.
    Raises:
        ValueError: neither one ws nor one for each pose.
    """
    if len(ws) not in (1, len(poses)):
        raise ValueError(f"ws: expected 1 or {len(poses)} for {len(poses)} poses, got {len(ws)}")
    if planes is None and len(ws) == 1:
        planes = G.planes(ws, noise_mode="const")
    step = batch or views_at_once(G, poses.device)
    for start in range(0, len(poses), step):
        part = slice(start, start + step)
        own_ws, scene = (x if x is None or len(x) == 1 else x[part] for x in (ws, planes))
        scene = G.planes(own_ws, noise_mode="const") if scene is None else scene
        out = G.synthesis(own_ws, poses[part], planes=scene, noise_mode="const", jitter=False, outputs=outputs)
        for view in range(len(poses[part])):
            yield {name: values[view : view + 1] for name, values in out.items()}


def views_at_once(G: TriPlane, device: torch.device) -> int:
    """How many views of this generator to render in one go."""
    if G.ray_options().auto:
        return 1  # rays that miss the scene depend on the other rays of the call
    cost = max(G.img_resolution**2, RAW_PIXEL_COST * G.neural_rendering_resolution**2)
    return max(1, (CPU_PIXELS if device.type == "cpu" else DEVICE_PIXELS) // cost)


# --------------------------------------------------------------------------- frames to file


class VideoWriter:
    """Context manager that writes a film frame by frame; memory does not grow with their number.

    The file gets its name when the block ends well, and only then; whatever else happens leaves nothing.

    Args:
        path: ends in .gif (256 colors a frame, delays in steps of 10 ms and at least 20 ms: 50 frames a second at
            most) or .mp4 (H.264; odd sizes are made even by repeating the last row or column).
        fps: frames a second.
    Raises:
        ValueError: another ending, or .mp4 without PyAV.
    """

    def __init__(self, path: str | os.PathLike[str], fps: int):
        self.path, self.fps = Path(path), fps
        check_video_format(self.path.suffix.removeprefix("."))
        self._shape: tuple[int, ...] | None = None

    def __enter__(self) -> VideoWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            file = stack.enter_context(atomic_write(self.path))
            self._append = stack.enter_context(ENCODERS[self.path.suffix.removeprefix(".")](file, self.fps))
            stack.push(self._refuse_empty)
            self._unwind = stack.pop_all()
        return self

    def write(self, frame: np.ndarray) -> None:
        """Encode a frame, uint8 H,W,3; ValueError if it is none, or not of the first one's size."""
        expected = frame.shape if self._shape is None else self._shape
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or frame.shape != expected:
            wanted = "H,W,3" if self._shape is None else self._shape
            raise ValueError(f"frame: expected uint8 {wanted}, got {frame.dtype} {frame.shape}")
        self._shape = frame.shape
        self._append(frame)

    def __exit__(self, *exception: object) -> bool | None:
        return self._unwind.__exit__(*exception)

    def _refuse_empty(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None and self._shape is None:
            raise ValueError(f"{self.path}: no frame was written")


def check_video_format(name: str) -> None:
    """ValueError unless films of this kind ("gif", "mp4") can be written here."""
    if name not in ENCODERS:
        raise ValueError(f"film: expected {' or '.join(ENCODERS)}, got {name!r}")
    if name == "mp4":
        _pyav()


def _pyav() -> ModuleType:
    try:
        import av  # here, for it is an extra
    except ImportError as error:
        raise ValueError('mp4: needs PyAV, which is not installed; pip install -e ".[video]"') from error
    return av


def gif_delay(frame: int, fps: int) -> int:
    """Steps of 10 ms that a frame stays: rounded so that the film as a whole runs right, never below the shortest."""
    steps = 1000 / GIF_STEP_MS / fps
    return max(GIF_SHORTEST, round((frame + 1) * steps) - round(frame * steps))


@contextmanager
def _gif(file: BinaryIO, fps: int) -> Iterator[Append]:
    """Frames with a palette each. Pillow and imageio can write these films too, but keep all frames to the end."""
    frame_number = 0

    def append(frame: np.ndarray) -> None:
        nonlocal frame_number
        if frame_number == 0:
            height, width = frame.shape[:2]
            file.write(struct.pack("<6sHHBBB", b"GIF89a", width, height, 0, 0, 0) + GIF_LOOP)
        duration = gif_delay(frame_number, fps) * GIF_STEP_MS
        blocks = GifImagePlugin.getdata(_with_palette(frame), duration=duration, include_color_table=True)
        file.write(b"".join(blocks))
        frame_number += 1

    yield append
    file.write(b";")


def _with_palette(frame: np.ndarray) -> Image.Image:
    """Exact where 256 colors are enough (label maps, drawings), else by a median cut.

    The cut looks at every pixel of a small frame and at some of a large one: 20 ms for 512x512 pixels, where all of
    them take 120 ms for 2 dB more. Undithered: noise that changes from frame to frame flickers.
    """
    picture = Image.fromarray(frame)
    if not picture.getcolors(GIF_COLORS):
        step = math.ceil(max(frame.shape) / GIF_SAMPLED_SIDE)
        sampled = Image.fromarray(np.ascontiguousarray(frame[::step, ::step]))
        cut = sampled.quantize(GIF_COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        return cut if step == 1 else picture.quantize(palette=cut, dither=Image.Dither.NONE)
    numbers = frame @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    colors = np.unique(numbers)
    exact = Image.fromarray(np.searchsorted(colors, numbers).astype(np.uint8))
    exact.putpalette(colors.astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes())
    return exact


@contextmanager
def _mp4(file: BinaryIO, fps: int) -> Iterator[Append]:
    """H.264 as every player knows it: yuv420p, and the index in front so that it plays while it loads."""
    av = _pyav()
    name = f"file:{file.name}"  # else what stands before a colon is taken for a protocol
    with av.open(name, "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": H264_QUALITY})
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED_RANGE

        def append(frame: np.ndarray) -> None:
            height, width = frame.shape[:2]
            even = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            if not codec.is_open:  # the first frame says the size
                stream.height, stream.width = even.shape[:2]
            picture = av.VideoFrame.from_ndarray(even, format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace=BT709)))

        yield append
        container.mux(stream.encode())


ENCODERS = {"gif": _gif, "mp4": _mp4}
