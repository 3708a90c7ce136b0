"""Toy data sets in zip form: pictures with poses, label maps, and depth for the held-out part."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from camera_utils import CARS, CATS, CameraPreset, pose_at
from dataset_preprocessing.toy.cars import Car
from dataset_preprocessing.toy.cats import Cat
from dataset_preprocessing.toy.drawing import edge_drawing
from dataset_preprocessing.toy.render import Rendering, render
from training.data.archive import ArchiveWriter
from training.data.image_io import encode_png
from training.data.index import POSES_FILE

DEPTH_STEP = 1e-4  # world units of one level of the 16-bit depth pictures
DEPTH_FILE = "depth.json"
TRAIN, HELD_OUT = 0, 1  # parts of the random seed, so that no held-out object is ever trained on


@dataclass(frozen=True)
class Kind:
    """One sort of toy data."""

    scene: type
    preset: CameraPreset
    data_type: str
    angles: Callable[[np.random.Generator], tuple[float, float]]  # draws yaw and pitch, rad
    label_map: Callable[[Rendering], np.ndarray]


def _cat_angles(rng: np.random.Generator) -> tuple[float, float]:
    """As in posed photo sets of faces: mostly from the front."""
    yaw, pitch = rng.normal(0, 0.30), rng.normal(0.02, 0.14)
    return float(np.clip(yaw, -0.75, 0.75)), float(np.clip(pitch, -0.35, 0.35))


def _car_angles(rng: np.random.Generator) -> tuple[float, float]:
    """From everywhere around, from the road up to 50 degrees, evenly over that part of the sphere."""
    return rng.uniform(-math.pi, math.pi), math.asin(rng.uniform(0.0, math.sin(math.radians(50))))


KINDS = {
    "cats": Kind(Cat, CATS, "seg", _cat_angles, lambda seen: seen.parts),
    "cars": Kind(Car, CARS, "edge", _car_angles, edge_drawing),
}


@dataclass(frozen=True)
class RenderJob:
    """What determines every picture of one archive, apart from the object's number."""

    kind: str
    resolution: int
    views: int
    seed: int
    split: int = TRAIN
    depth: bool = False


@dataclass(frozen=True)
class View:
    """One picture, encoded."""

    pose: list[float]
    image: bytes
    label_map: bytes
    depth: bytes | None


def sample_object(job: RenderJob, number: int) -> tuple[object, list[np.ndarray]]:
    """The scene with that number and its poses, 25 float32 each; both follow from the job's seed and the number."""
    rng = np.random.default_rng([job.seed, job.split, number])
    kind = KINDS[job.kind]
    scene = kind.scene(rng)
    angles = [kind.angles(rng) for _ in range(job.views)]
    return scene, [_pose(kind.preset, *pair) for pair in angles]


def _pose(preset: CameraPreset, yaw: float, pitch: float) -> np.ndarray:
    return pose_at(preset, math.pi / 2 + yaw, math.pi / 2 * (1 - math.sin(pitch)))[0].numpy()


def render_object(job: RenderJob, number: int) -> list[View]:
    """All views of one object."""
    scene, poses = sample_object(job, number)
    views = []
    for pose in poses:
        seen = render(scene, pose, job.resolution)
        depth = encode_png((seen.depth / DEPTH_STEP).round().astype(np.uint16)) if job.depth else None
        label_map = encode_png(KINDS[job.kind].label_map(seen))
        views.append(View([round(float(x), 7) for x in pose], encode_png(seen.image), label_map, depth))
    return views


def write_toy(
    job: RenderJob,
    objects: int,
    stem: Path,
    workers: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[Path]:
    """Render `objects` objects into STEM.zip, STEM_label.zip and, with depth, STEM_depth.zip.

    Files appear complete or not at all; the same job gives the same bytes with any number of workers. Only the objects
    in work are in memory. View v of object n is picture n * views + v; dataset.json holds `views` too.
    Raises OSError if a file cannot be written or a worker is killed.
    """
    endings = ["", "_label", "_depth"] if job.depth else ["", "_label"]
    paths = [stem.with_name(f"{stem.name}{ending}.zip") for ending in endings]
    labels = []
    with ExitStack() as stack:
        rendered = stack.enter_context(_rendered(job, objects, workers))
        images, label_maps, *depths = [stack.enter_context(ArchiveWriter(path)) for path in paths]
        for views in progress(rendered):
            for view in views:
                name = image_name(len(labels))
                images.add(name, view.image)
                label_maps.add(name, view.label_map)
                if depths:
                    depths[0].add(name, view.depth)
                labels.append([name, view.pose])
        images.add(POSES_FILE, json.dumps({"labels": labels, "views": job.views}))
        if depths:
            meaning = "distance along the ray through the pixel's center, 0 where nothing is"
            depths[0].add(DEPTH_FILE, json.dumps({"world_units_per_level": DEPTH_STEP, "meaning": meaning}))
    return paths


def image_name(number: int) -> str:
    """Name inside a zip: a thousand pictures to a folder."""
    return f"{number // 1000:05d}/img{number:08d}.png"


@contextmanager
def _rendered(job: RenderJob, objects: int, workers: int) -> Iterator[Iterable[list[View]]]:
    """Views of object after object, in order, made here (workers 0) or in processes."""
    if not workers:
        yield map(partial(render_object, job), range(objects))
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        with _one_thread_each():
            yield _in_order(pool, job, objects, ahead=2 * workers)
    except BaseException:
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()  # nobody waits for what they are rendering
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(pool: ProcessPoolExecutor, job: RenderJob, objects: int, ahead: int) -> Iterator[list[View]]:
    """At most `ahead` objects are in work or wait to be taken; OSError if a process ends before its time."""
    waiting: deque[Future] = deque()
    try:
        for number in range(objects):
            if len(waiting) == ahead:
                yield waiting.popleft().result()
            with _without_interrupts():
                waiting.append(pool.submit(render_object, job, number))
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a rendering process was ended from outside (out of memory? use fewer --workers)"
        ) from error


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes started inside do not see Ctrl-C, at which each would print a traceback; their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # held back here, not lost
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside compute with one thread each: they share the cores already."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
