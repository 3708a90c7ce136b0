"""Toy data sets: sample objects and poses, render them in worker processes, and write zips."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from camera_utils import CARS, CATS, CameraPreset, pose_at
from dataset_preprocessing.toy.cars import Car
from dataset_preprocessing.toy.cats import Cat
from dataset_preprocessing.toy.drawing import edge_drawing
from dataset_preprocessing.toy.render import Rendering, render
from dataset_preprocessing.toy.scene import Scene
from dnnlib.errors import ConfigError
from torch_utils.processes import exit_with_parent
from training.data.archive import write_archive
from training.data.depth_maps import DEPTH_FILE, DEPTH_SCALE
from training.data.image_io import encode_png
from training.data.pose_files import POSES_FILE

# World units of one level of the 16-bit depth images, so 16 bits reach 6.5; objects are 1 in size, 1.7 to 2.7 away.
DEPTH_UNIT = 1e-4

# Largest angles of cats in rad.
MAX_CAT_YAW = 0.75
MAX_CAT_PITCH = 0.35

# Splits: part of the random seed, so that held-out objects never occur in training.
TRAIN = 0
HELD_OUT = 1

# Variables with which the libraries below NumPy choose their number of threads.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class ToyKind:
    """Kind of object, and how it is photographed and labeled.

    Attributes:
        scene: class of the object.
        preset: cameras.
        data_type: "seg" or "edge".
        sample_angles: samples yaw and pitch in rad.
        label_map: converts a rendering to a label map, uint8 R,R.
        sample_wide_angles: like `sample_angles`, for wide views; None if all views are wide.
    """

    scene: type
    preset: CameraPreset
    data_type: str
    sample_angles: Callable[[np.random.Generator], tuple[float, float]]
    label_map: Callable[[Rendering], np.ndarray]
    sample_wide_angles: Callable[[np.random.Generator], tuple[float, float]] | None = None


def _sample_cat_angles(rng: np.random.Generator) -> tuple[float, float]:
    """Sample mostly frontal views, as in posed data sets of faces."""
    # Clipped, because large angles are very rare in such data sets.
    yaw = rng.normal(0, 0.30)
    pitch = rng.normal(0.02, 0.14)
    return float(np.clip(yaw, -MAX_CAT_YAW, MAX_CAT_YAW)), float(np.clip(pitch, -MAX_CAT_PITCH, MAX_CAT_PITCH))


def _sample_wide_cat_angles(rng: np.random.Generator) -> tuple[float, float]:
    """Sample views from the side as often as frontal ones."""
    yaw = rng.uniform(-MAX_CAT_YAW, MAX_CAT_YAW)
    pitch = rng.normal(0.02, 0.16)
    return yaw, float(np.clip(pitch, -MAX_CAT_PITCH, MAX_CAT_PITCH))


def _sample_car_angles(rng: np.random.Generator) -> tuple[float, float]:
    """Sample uniformly on the sphere between pitch 0 and 50 degrees."""
    # By Archimedes, the height (sine of the pitch) is uniform.
    return rng.uniform(-math.pi, math.pi), math.asin(rng.uniform(0.0, math.sin(math.radians(50))))


# Cats are labeled by their parts, cars by drawings of the boundaries of theirs, as in the published data sets.
KINDS = {
    "cats": ToyKind(Cat, CATS, "seg", _sample_cat_angles, lambda rendering: rendering.parts, _sample_wide_cat_angles),
    "cars": ToyKind(Car, CARS, "edge", _sample_car_angles, edge_drawing),
}


@dataclass(frozen=True)
class RenderJob:
    """Everything that determines the images of one archive, apart from the number of objects.

    Attributes:
        kind: one of KINDS.
        resolution: R.
        views: poses per object.
        seed: random seed.
        split: TRAIN or HELD_OUT.
        depth: render depth images too.
        wide_views: how many of the poses, the last ones, are wide views.
    Raises:
        ConfigError: more wide views than views, or wide views of a kind that has none.
    """

    kind: str
    resolution: int
    views: int
    seed: int
    split: int = TRAIN
    depth: bool = False
    wide_views: int = 0

    def __post_init__(self):
        if self.wide_views and KINDS[self.kind].sample_wide_angles is None:
            raise ConfigError("wide_views", self.wide_views, "0", f"all views of {self.kind} are wide")
        if not 0 <= self.wide_views <= self.views:
            raise ConfigError("wide_views", self.wide_views, f"0 to {self.views}, the number of views")


@dataclass(frozen=True)
class View:
    """Rendered view of an object: pose (25 numbers) and encoded images."""

    pose: list[float]
    image: bytes
    label_map: bytes
    depth: bytes | None


def sample_object(job: RenderJob, number: int) -> tuple[Scene, list[np.ndarray]]:
    """Sample an object and its poses (float32 25 each) from the job's seed and the object's number."""
    # A generator for each object, so that objects can be rendered in any order.
    rng = np.random.default_rng([job.seed, job.split, number])
    kind = KINDS[job.kind]
    scene = kind.scene(rng)

    # EG3D's polar angle is linear in the height, see camera_utils.
    poses = []
    for view in range(job.views):
        is_wide = view >= job.views - job.wide_views
        yaw, pitch = (kind.sample_wide_angles if is_wide else kind.sample_angles)(rng)
        polar = math.pi / 2 * (1 - math.sin(pitch))
        poses.append(pose_at(kind.preset, math.pi / 2 + yaw, polar)[0].numpy())
    return scene, poses


def render_object(job: RenderJob, number: int) -> list[View]:
    """Render and encode all views of one object."""
    scene, poses = sample_object(job, number)
    views = []
    for pose in poses:
        rendering = render(scene, pose, job.resolution)

        # Encoded here, in the worker: compressed images are also cheaper to send.
        depth = encode_png((rendering.depth / DEPTH_UNIT).round().astype(np.uint16)) if job.depth else None
        label_map = encode_png(KINDS[job.kind].label_map(rendering))
        views.append(View([round(float(x), 7) for x in pose], encode_png(rendering.image), label_map, depth))
    return views


def write_toy(
    job: RenderJob,
    objects: int,
    stem: Path,
    workers: int = 0,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[Path]:
    """Render objects into STEM.zip, STEM_label.zip and, with depth, STEM_depth.zip.

    The files appear complete or not at all, and have the same bytes for any number of workers. View v of object n is
    image n * views + v; with several views, dataset.json also holds the groups of images of the same object.

    Args:
        job: what to render.
        objects: number of objects.
        stem: path of the archives without "_label.zip" and the like.
        workers: worker processes; 0 renders in this process. Memory holds at most two objects per worker.
        progress: wraps the loop over objects, for a progress bar.
    Returns:
        Paths of the archives.
    Raises:
        OSError: a file cannot be written, or a worker was killed.
    """
    # One archive for each kind of image.
    paths = archive_paths(job, stem)
    labels = []
    with ExitStack() as stack:
        rendered = stack.enter_context(closing(_render_objects(job, objects, workers)))
        add_to_images, add_to_label_maps, *add_depths = [stack.enter_context(write_archive(path)) for path in paths]

        # Images with the same name in all archives.
        for views in progress(rendered):
            for view in views:
                name = image_name(len(labels))
                add_to_images(name, view.image)
                add_to_label_maps(name, view.label_map)
                for add_to_depths in add_depths:
                    add_to_depths(name, view.depth)
                labels.append([name, view.pose])

        # Poses, images of the same object, and the unit of depth.
        content = {"labels": labels}
        if job.views > 1:
            names = [name for name, _ in labels]
            content["objects"] = [names[start : start + job.views] for start in range(0, len(names), job.views)]
        add_to_images(POSES_FILE, json.dumps(content))
        for add_to_depths in add_depths:
            meaning = "distance along the ray through the pixel's center, 0 where nothing is"
            add_to_depths(DEPTH_FILE, json.dumps({DEPTH_SCALE: DEPTH_UNIT, "meaning": meaning}))
    return paths


def archive_paths(job: RenderJob, stem: Path) -> list[Path]:
    """Return the paths of the archives that `write_toy` writes."""
    suffixes = ["", "_label", "_depth"] if job.depth else ["", "_label"]
    return [stem.with_name(f"{stem.name}{suffix}.zip") for suffix in suffixes]


def image_name(number: int) -> str:
    """Return the name of an image in its archive; a directory holds a thousand."""
    return f"{number // 1000:05d}/img{number:08d}.png"


# --------------------------------------------------------------------------- worker processes


def _render_objects(job: RenderJob, objects: int, workers: int) -> Iterator[list[View]]:
    """Yield the views of each object in order, rendered here (workers 0) or in worker processes.

    Raises:
        ChildProcessError: a worker was killed.
    """
    if not workers:
        yield from map(partial(render_object, job), range(objects))
        return

    # Started processes rather than forked ones: a fork would copy the state of this process's threads.
    other_processes = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=exit_with_parent)
    submit = partial(pool.submit, render_object, job)
    numbers = iter(range(objects))
    try:
        # Two objects per worker are submitted ahead; submitting the first ones starts the workers.
        with _worker_environment():
            pending = deque(map(submit, islice(numbers, 2 * workers)))
        while pending:
            yield pending.popleft().result()
            pending.extend(map(submit, islice(numbers, 1)))
    except BrokenProcessPool as error:
        raise ChildProcessError("a rendering process was killed; if memory ran out, use fewer workers") from error
    finally:
        # All is rendered, or the rest is no longer needed: do not wait for objects that are being rendered.
        for process in set(multiprocessing.active_children()) - other_processes:
            process.terminate()
        pool.shutdown(cancel_futures=True)


@contextmanager
def _worker_environment() -> Iterator[None]:
    """Processes started in this block use one thread each (they share the cores) and ignore Ctrl-C.

    Ctrl-C reaches all processes of a terminal, and each worker would print a traceback; the parent ends them instead.
    """
    environment = dict(os.environ)
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))

    # Windows has no signal masks.
    has_masks = hasattr(signal, "pthread_sigmask")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if has_masks else None
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)

        # A SIGINT received meanwhile is delivered now.
        if has_masks:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
