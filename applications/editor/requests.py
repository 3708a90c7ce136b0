"""Handlers of the messages of a page, which run as jobs of the worker."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from applications.editor.classes import colorize_ids, mirror_ids
from applications.editor.examples import Example
from applications.editor.model import EditorModel
from applications.editor.protocol import CameraView, Message, MessageError, Reply, pack
from applications.editor.session_file import (
    Session,
    drawing_png,
    read_drawing_file,
    read_photo_file,
    read_session,
    write_session,
)
from applications.editor.worker import Client, Job, Priority, Task
from dnnlib.choices import FPS, PATH_FRAMES
from inference.mesh.triangles import Mesh, check_libraries
from inference.scene import MESH_RESOLUTION
from inference.video import check_video_format, open_video
from training.data.image_io import encode_png

# The front of the object, where the page starts.
FRONT = CameraView(np.pi / 2, np.pi / 2)
# Frames of a video between two progress messages.
FRAMES_PER_PROGRESS = 5
# Priority of each message type; all others are FILE.
PRIORITIES = {
    "edit": Priority.SCENE,
    "blend": Priority.SCENE,
    "render": Priority.VIEW,
    "save_video": Priority.SLOW_FILE,
    "save_mesh": Priority.SLOW_FILE,
}


class RequestHandler:
    """Jobs for the messages of pages: one method per message type, with the message's fields as arguments.

    Args:
        model: the network to edit with.
    """

    def __init__(self, model: EditorModel):
        self.model = model
        self.data_type = model.G.data_type

    def create_task(self, client: Client, message: Message) -> Task:
        """Return the task of a message; nothing is computed yet."""
        # `message.kind` is a key of MESSAGES, so this reaches no other attribute.
        job = getattr(self, message.kind)(client, **message.values)
        return Task(message.id, job, PRIORITIES.get(message.kind, Priority.FILE), message.size)

    def hello(
        self, name: str, class_names: list[str], examples: Sequence[Example], photo: tuple[str, str] | None
    ) -> bytes:
        """Encode the first message to a page: the network, its limits, and what to start with; see `create_app`."""
        # Drawings, one after the other, and classes in the order of their ids.
        limits = self.model.limits
        drawings = [read_drawing_file(example.content, self.data_type, limits) for example in examples]
        colors = colorize_ids(np.arange(limits.classes), self.data_type).tolist()
        rows = zip(class_names, colors, mirror_ids(class_names), strict=True)

        return pack(
            b"".join(drawing.tobytes() for drawing in drawings),
            type="hello",
            name=name,
            cfg=self.model.cfg,
            network=self.model.digest,
            data_type=self.data_type,
            resolution=limits.resolution,
            classes=[{"name": text, "color": color, "mirror": mirror} for text, color, mirror in rows],
            examples=[asdict(example.view) for example in examples],
            limits=asdict(limits.orbit),
            photos=self.model.encodes_photos,
            photo=photo and {"label": photo[0], "name": photo[1]},
            front=asdict(FRONT),
        )

    # ----------------------------------------------------------------------- images

    def edit(self, client: Client, view: CameraView, quality: str, **scene: Any) -> Job:
        """Make the scene of a drawing and render it; `scene` holds the arguments of `EditorModel.edit`."""
        start = time.perf_counter()
        yield self._image(client, self.model.edit(**scene), view, quality, start)

    def render(self, client: Client, scene: str | None, view: CameraView, quality: str) -> Job:
        """Render a scene."""
        yield self._image(client, self._scene_name(client, scene), view, quality, time.perf_counter())

    def labels(self, client: Client, scene: str | None, view: CameraView) -> Job:
        """Render the class ids of a scene, without showing it."""
        _, ids = self.model.render(self._scene_name(client, scene), view, "full")
        yield Reply("labels", payload=ids.tobytes())

    def blend(self, client: Client, drawing_view: CameraView, view: CameraView, quality: str, **scenes: Any) -> Job:
        """Make the blend of two scenes and render it; `scenes` holds the arguments of `EditorModel.blend`.

        A full image is followed by the class ids seen from `drawing_view`.
        """
        start = time.perf_counter()
        scene = self.model.blend(**scenes)

        # The drawing that fits the blend; not for previews, while the slider moves.
        drawing = self.model.render(scene, drawing_view, "full")[1].tobytes() if quality == "full" else b""
        yield self._image(client, scene, view, quality, start, drawing)

    def _image(
        self, client: Client, scene: str, view: CameraView, quality: str, start: float, drawing: bytes = b""
    ) -> Reply:
        # Later requests of this page may name its newest scene as null.
        colors, ids = self.model.render(scene, view, quality)
        client.scene = scene

        # Rendering time with everything before it, which the page shows and bases the next quality on.
        ms = round(1e3 * (time.perf_counter() - start), 1)
        fields = {"scene": scene, "view": asdict(view), "quality": quality, "ms": ms}
        return Reply("image", fields, colors.tobytes() + ids.tobytes() + drawing)

    @staticmethod
    def _scene_name(client: Client, scene: str | None) -> str:
        # Before its first image, a page has no newest scene.
        name = scene or client.scene
        if name is None:
            raise MessageError("There is nothing to render yet. Draw something first.")
        return name

    # ----------------------------------------------------------------------- opening

    def open_drawing(self, _client: Client, content: bytes) -> Job:
        """Read a label map from an image file."""
        options = self.model.label_map_options
        yield Reply("drawing", payload=read_drawing_file(content, self.data_type, self.model.limits, options).tobytes())

    def open_session(self, _client: Client, content: bytes) -> Job:
        """Read a session file; its scene is available if it was made with the same weights."""
        session = read_session(content, self.model.cfg, self.data_type, self.model.limits)

        # With other weights ws and z are meaningless: the page requests a scene from the drawing and the seed.
        scene = photo = None
        if session.network == self.model.digest:
            # The digest is not a proof: a file can be edited.
            if session.ws.shape[1:] != self.model.ws_shape:
                raise MessageError("damaged session: ws_shape is not that of this network")
            if session.photo is not None and session.photo.shape[1] != self.model.G.z_dim:
                raise MessageError("damaged session: photo_float32 is not a z of this network")
            scene = self.model.add(session.ws)
            photo = None if session.photo is None else self.model.add_photo(session.photo)

        # The page restores its state from these fields.
        views = {"drawing_view": asdict(session.drawing_view), "view": asdict(session.view)}
        fields = {"scene": scene, "seed": session.seed, "photo": photo, "keep_style": session.keep_style, **views}
        yield Reply("session", fields, session.drawing.tobytes())

    def open_photo(self, _client: Client, content: bytes) -> Job:
        """Read a photo, whose style later edits can name."""
        yield Reply("photo", {"photo": self.model.encode_photo(read_photo_file(content))})

    # ----------------------------------------------------------------------- saving

    def save_session(self, client: Client, scene: str | None, photo: str | None, **page_state: Any) -> Job:
        """Write a session file; `page_state` holds the fields of a Session that the page knows."""
        # The ws are stored too, because the server may have dropped the scene when the session is opened.
        ws = self.model.ws(self._scene_name(client, scene))
        z = None if photo is None else self.model.photo(photo)
        session = Session(cfg=self.model.cfg, network=self.model.digest, ws=ws, photo=z, **page_state)
        yield self._file("session.json", write_session(session, self.data_type))

    def save_image(self, client: Client, scene: str | None, view: CameraView) -> Job:
        """Write the full image of a view."""
        colors, _ = self.model.render(self._scene_name(client, scene), view, "full")
        yield self._file("color.png", encode_png(colors))

    def save_labels(self, client: Client, scene: str | None, view: CameraView, png_format: str) -> Job:
        """Write the rendered label map of a view."""
        _, ids = self.model.render(self._scene_name(client, scene), view, "full")
        yield from self.save_drawing(client, png_format, ids)

    def save_drawing(self, _client: Client, png_format: str, drawing: np.ndarray) -> Job:
        """Write a drawing, R,R uint8 class ids."""
        # Ids can be opened again without loss; colors are for people.
        if png_format == "ids":
            yield self._file("label_ids.png", drawing_png(drawing, self.data_type))
        else:
            yield self._file("label.png", encode_png(colorize_ids(drawing, self.data_type)))

    def save_video(self, client: Client, scene: str | None, video_format: str) -> Job:
        """Write the camera path of the published videos; other clients run after each frame."""
        # Fail early where the encoder is not installed.
        with _errors_for_user():
            check_video_format(video_format)

        # The encoder writes to a path, so the file passes through a temporary directory.
        model_scene = self.model.scene(self._scene_name(client, scene))
        views = model_scene.views(model_scene.path(), ("image",))
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / f"video.{video_format}"
            with open_video(path, FPS) as write:
                for number, view in enumerate(views, 1):
                    write(view.image)
                    # None is a pause without a message.
                    is_due = number % FRAMES_PER_PROGRESS == 0
                    yield Reply("progress", {"done": number / PATH_FRAMES}) if is_due else None
            yield self._file(path.name, path.read_bytes())

    def save_mesh(self, client: Client, scene: str | None, mesh_format: str) -> Job:
        """Write a mesh; other clients run after each step of its extraction."""
        # Meshes of classes have the colors of the page's labels, those of edges the colors of the image.
        color = "shown_label" if self.data_type == "seg" else "image"
        model_scene = self.model.scene(self._scene_name(client, scene))

        # Errors for the user: libraries that are not installed, or a scene without a surface.
        with _errors_for_user():
            check_libraries()
            mesh = yield from _with_progress(model_scene.mesh_steps(MESH_RESOLUTION, "auto", color))

        # The library writes to a path whose suffix selects the format.
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / f"mesh.{mesh_format}"
            mesh.export(path)
            yield self._file(path.name, path.read_bytes())

    def _file(self, name: str, content: bytes) -> Reply:
        # The page adds the configuration and the seed to the name.
        return Reply("file", {"name": name}, content)


def _with_progress(steps: Generator[float, None, Mesh]) -> Generator[Reply, None, Mesh]:
    """Run a mesh extraction, report the share of the work that is done after each step, and return the mesh."""
    try:
        while True:
            yield Reply("progress", {"done": next(steps)})
    except StopIteration as end:
        return end.value


@contextmanager
def _errors_for_user() -> Iterator[None]:
    """Show a ValueError (a missing optional dependency, a scene without surface) to the user as it is."""
    try:
        yield
    except ValueError as error:
        raise MessageError(str(error)) from error
