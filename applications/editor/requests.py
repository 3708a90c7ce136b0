"""What each message of a page asks for, as jobs for the worker."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from applications.editor.classes import paint
from applications.editor.protocol import Message, MessageError, View, pack
from applications.editor.session_file import (
    Session,
    drawing_png,
    read_drawing_file,
    read_session,
    write_session,
)
from applications.editor.studio import Picture, Studio
from applications.editor.worker import FILE, LONG_FILE, LOOK, SCENE, Job, Page, Task
from camera_utils import orbit_positions, path_poses
from inference.mesh.extraction import extraction_steps
from inference.mesh.triangles import check_libraries
from inference.video import VideoWriter, check_video_format, render_views
from training.data.image_io import encode_png
from training.data.label_maps import draw_image

FRONT = View(np.pi / 2, np.pi / 2)
FILM_FRAMES = 120  # of the published film
FILM_FPS = 60
PROGRESS_FRAMES = 5  # a page hears of a film this often
MESH_RESOLUTION = 256  # samples along an edge of the box; the published 512 takes minutes on a CPU

LANES = {"edit": SCENE, "blend": SCENE, "look": LOOK, "save_film": LONG_FILE, "save_mesh": LONG_FILE}  # others: FILE


class Requests:
    """Jobs of one studio. A job runs in the worker's thread, piece by piece."""

    def __init__(self, studio: Studio):
        self.studio = studio
        self.data_type = studio.G.data_type

    def task(self, page: Page, message: Message) -> tuple[str, Task]:
        """Lane and task of a message; nothing of its job has run."""
        make: Callable[..., Job] = getattr(self, message.kind)
        job = make(page, message.id, **message.values)
        return LANES.get(message.kind, FILE), Task(message.id, job, message.size)

    def greeting(self, names: list[str], example: bytes | None) -> bytes:
        """What a page must know before anything else, and the drawing that it opens with."""
        bounds = self.studio.bounds
        drawing = b"" if example is None else read_drawing_file(example, self.data_type, bounds).tobytes()
        colors = paint(np.arange(bounds.classes), self.data_type).tolist()
        return pack(
            drawing,
            type="hello",
            cfg=self.studio.cfg,
            network=self.studio.network_name,
            data_type=self.data_type,
            resolution=bounds.resolution,
            classes=[{"name": name, "color": color} for name, color in zip(names, colors, strict=True)],
            orbit=asdict(bounds.orbit),
            front=asdict(FRONT),
        )

    # ----------------------------------------------------------------------- pictures

    def edit(
        self,
        page: Page,
        id: int,
        place: View,
        seed: int,
        style: str | None,
        geometry: str | None,
        view: View,
        quality: str,
        drawing: np.ndarray,
    ) -> Job:
        start = time.perf_counter()
        scene = self.studio.edit(drawing, place, seed, style, geometry)
        yield self._picture(page, id, scene, view, quality, start)

    def look(self, page: Page, id: int, scene: str | None, view: View, quality: str) -> Job:
        start = time.perf_counter()
        yield self._picture(page, id, self._scene(page, scene), view, quality, start)

    def blend(
        self, page: Page, id: int, first: str, second: str, share: float, place: View, view: View, quality: str
    ) -> Job:
        """After a full picture come the class ids that the blend shows to who stands where the drawing is made."""
        start = time.perf_counter()
        scene = self.studio.blend(first, second, share)
        seen_from_place = self.studio.picture(scene, place, "full") if quality == "full" else None
        yield self._picture(page, id, scene, view, quality, start, seen_from_place)

    def _picture(
        self, page: Page, id: int, scene: str, view: View, quality: str, start: float, extra: Picture | None = None
    ) -> bytes:
        picture = self.studio.picture(scene, view, quality)
        page.scene = scene
        ms = round(1e3 * (time.perf_counter() - start), 1)
        header = {"type": "picture", "id": id, "scene": scene, "view": asdict(view), "quality": quality, "ms": ms}
        ids = [picture.ids] if extra is None else [picture.ids, extra.ids]
        return pack(picture.colors.tobytes() + b"".join(x.tobytes() for x in ids), **header)

    @staticmethod
    def _scene(page: Page, scene: str | None) -> str:
        found = scene or page.scene
        if found is None:
            raise MessageError("there is nothing to look at yet: draw something first")
        return found

    # ----------------------------------------------------------------------- opening

    def open_drawing(self, page: Page, id: int, content: bytes) -> Job:
        drawing = read_drawing_file(content, self.data_type, self.studio.bounds)
        yield pack(drawing.tobytes(), type="drawing", id=id)

    def open_session(self, page: Page, id: int, content: bytes) -> Job:
        session = read_session(content, self.studio.cfg, self.data_type, self.studio.bounds)
        same = session.network == self.studio.network_name
        if same and session.ws.shape[1:] != self.studio.ws_shape:
            raise MessageError("damaged session: its scene does not fit this network")
        header: dict[str, Any] = {
            "scene": self.studio.add(session.ws) if same else None,  # None: to be made anew from the drawing
            "place": asdict(session.place),
            "view": asdict(session.view),
            "seed": session.seed,
            "keep_style": session.keep_style,
        }
        yield pack(session.drawing.tobytes(), type="session", id=id, **header)

    # ----------------------------------------------------------------------- saving

    def save_session(
        self,
        page: Page,
        id: int,
        scene: str | None,
        place: View,
        seed: int,
        keep_style: bool,
        view: View,
        drawing: np.ndarray,
    ) -> Job:
        ws = self.studio.ws(self._scene(page, scene))
        session = Session(self.studio.cfg, self.studio.network_name, drawing, place, seed, keep_style, view, ws)
        yield self._file(id, "session.json", write_session(session, self.data_type))

    def save_image(self, page: Page, id: int, scene: str | None, view: View) -> Job:
        picture = self.studio.picture(self._scene(page, scene), view, "full")
        yield self._file(id, "color.png", encode_png(picture.colors))

    def save_labels(self, page: Page, id: int, scene: str | None, view: View, png_form: str) -> Job:
        picture = self.studio.picture(self._scene(page, scene), view, "full")
        yield from self.save_drawing(page, id, png_form, picture.ids)

    def save_drawing(self, page: Page, id: int, png_form: str, drawing: np.ndarray) -> Job:
        if png_form == "ids":
            yield self._file(id, "label_ids.png", drawing_png(drawing, self.data_type))
        else:
            yield self._file(id, "label.png", encode_png(paint(drawing, self.data_type)))

    def save_film(self, page: Page, id: int, scene: str | None, film_form: str) -> Job:
        with _said_to_page():
            check_video_format(film_form)
        studio, name = self.studio, self._scene(page, scene)
        poses = path_poses("orbit", studio.preset, FILM_FRAMES, **studio.G.orbit, device=studio.device)
        views = render_views(studio.G, studio.ws(name).to(studio.device), studio.scene_planes(name), poses)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"film.{film_form}"
            with VideoWriter(path, FILM_FPS) as film:
                for number, out in enumerate(views, 1):
                    film.write(draw_image(out["image"])[0])
                    report = number % PROGRESS_FRAMES == 0
                    yield pack(type="progress", id=id, done=number / FILM_FRAMES) if report else None
            yield self._file(id, path.name, path.read_bytes())

    def save_mesh(self, page: Page, id: int, scene: str | None, mesh_form: str) -> Job:
        with _said_to_page():
            check_libraries()
        G, planes = self.studio.G, self.studio.scene_planes(self._scene(page, scene))
        color = "shown_label" if self.data_type == "seg" else "image"
        cameras = orbit_positions(self.studio.preset, **G.orbit)
        steps = extraction_steps(G, planes, MESH_RESOLUTION, threshold="auto", color=color, cameras=cameras)
        mesh = None
        while mesh is None:
            with _said_to_page():
                try:
                    done = next(steps)
                except StopIteration as end:
                    mesh = end.value
            yield pack(type="progress", id=id, done=done)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"mesh.{mesh_form}"
            mesh.export(path)
            yield self._file(id, path.name, path.read_bytes())

    def _file(self, id: int, name: str, content: bytes) -> bytes:
        return pack(content, type="file", id=id, name=f"{self.studio.cfg}_{name}")


@contextmanager
def _said_to_page() -> Iterator[None]:
    """What cannot be done (an extra that is not installed, a scene without surface) goes to the page as it is."""
    try:
        yield
    except ValueError as error:
        raise MessageError(str(error)) from error
