"""HTTP and WebSocket of the editor: one page, its few files, and a channel for messages. Nothing else is served."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from applications.editor.guard import HEADERS, Guard, Place
from applications.editor.protocol import MAX_MESSAGE_BYTES, MessageError, pack, read_message
from applications.editor.requests import Requests
from applications.editor.studio import Studio
from applications.editor.worker import Page, Worker, failure, report_crash

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MAX_PAGES = 32
MAX_UNSENT = 64  # replies that a page has not taken; it is cut off then
TRY_AGAIN_LATER, TOO_SLOW = 1013, 1008  # WebSocket close codes


def make_server(app: ASGIApp) -> uvicorn.Server:
    """To be run on the sockets of `listen`. Compression would cost more time than pixels on this machine's wire."""
    limit = 2 * MAX_MESSAGE_BYTES  # what is above ours is refused with a reason, what is above this cut off
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", ws_max_size=limit, ws_per_message_deflate=False))


def create_app(studio: Studio, names: Sequence[str], place: Place, example: bytes | None = None) -> ASGIApp:
    """The editor of one network as an ASGI application.

    Args:
        names: of the classes. place: where it will be served.
        example: file of the drawing that a page opens with; None: an empty one.
    """
    worker, requests = Worker(), Requests(studio)
    greeting = requests.greeting(list(names), example)
    open_pages: set[Page] = set()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()

    async def channel(websocket: WebSocket) -> None:
        await websocket.accept()
        if len(open_pages) >= MAX_PAGES:
            await websocket.close(TRY_AGAIN_LATER, f"{MAX_PAGES} pages are open already")
            return
        connection = Connection(websocket)
        open_pages.add(connection.page)
        try:
            connection.send(greeting)
            await connection.serve(worker, requests)
        finally:
            open_pages.discard(connection.page)
            worker.forget(connection.page)

    routes = [Route(path, _file(content, kind)) for path, content, kind in _static_files()]
    app = Starlette(routes=[*routes, WebSocketRoute("/channel", channel)], lifespan=lifespan)
    return Guard(app, place)


def _static_files() -> list[tuple[str, bytes, str]]:
    """Path, content and media type of each file of the page: read once, so that no path of a client is ever opened."""
    kinds = [(path, MEDIA_TYPES.get(path.suffix)) for path in STATIC.iterdir()]
    files = [(f"/{path.name}", path.read_bytes(), kind) for path, kind in kinds if kind]
    (index,) = (content for path, content, _ in files if path == "/index.html")
    return [("/", index, "text/html"), *files]


def _file(content: bytes, kind: str):
    async def respond(_request: Request) -> Response:
        return Response(content, media_type=kind, headers=HEADERS)

    return respond


class Connection:
    """One page's WebSocket."""

    def __init__(self, websocket: WebSocket):
        self.websocket = websocket
        self.loop = asyncio.get_running_loop()
        self.unsent: asyncio.Queue[bytes] = asyncio.Queue()
        self.page = Page(self._send_from_any_thread)

    def send(self, reply: bytes) -> None:
        self.unsent.put_nowait(reply)

    def _send_from_any_thread(self, reply: bytes) -> None:
        with suppress(RuntimeError):  # the loop has ended, and the page with it
            self.loop.call_soon_threadsafe(self.send, reply)

    async def serve(self, worker: Worker, requests: Requests) -> None:
        """Until the page goes, or takes nothing any more."""
        async with _background(self._send_all()):
            with suppress(WebSocketDisconnect):
                while self.unsent.qsize() < MAX_UNSENT:
                    frame = await self._receive()
                    try:
                        self._take(frame, worker, requests)
                    except MessageError as error:
                        self.send(pack(type="error", id=error.id, reason=str(error)))
                    except Exception as error:  # whatever one message does, the page and the others go on
                        report_crash()
                        self.send(failure(None, error))
                await self.websocket.close(TOO_SLOW, "too many replies were not taken")

    def _take(self, frame: bytes | None, worker: Worker, requests: Requests) -> None:
        if frame is None:
            raise MessageError("expected a binary message, got text")
        message = read_message(frame, requests.studio.bounds)
        if message.kind == "cancel":
            worker.cancel(self.page)
        else:
            worker.submit(self.page, *requests.task(self.page, message))

    async def _receive(self) -> bytes | None:
        message = await self.websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        return message.get("bytes")

    async def _send_all(self) -> None:
        with suppress(WebSocketDisconnect, RuntimeError):  # gone while a reply was on its way
            while True:
                await self.websocket.send_bytes(await self.unsent.get())


@asynccontextmanager
async def _background(work) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
