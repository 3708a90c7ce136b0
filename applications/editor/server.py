"""Web server of the editor: the static files of the page, and a WebSocket for messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from applications.editor.examples import Example
from applications.editor.model import EditorModel
from applications.editor.protocol import MAX_MESSAGE_BYTES, MessageError, pack, read_message
from applications.editor.requests import RequestHandler
from applications.editor.security import SECURITY_HEADERS, OriginCheck, ServerAddress
from applications.editor.worker import Client, Worker, report_exception

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Pages that may be open at once; each costs memory for its requests and replies.
MAX_PAGES = 32
# Replies waiting to be sent to a page; more close its connection.
MAX_UNSENT = 64
# WebSocket close codes (RFC 6455).
POLICY_VIOLATION = 1008
TRY_AGAIN_LATER = 1013


def make_server(app: ASGIApp) -> uvicorn.Server:
    """Return a server for the sockets of `listen`."""
    # Twice our own limit, so that slightly too large messages are answered and only larger ones are cut off.
    max_size = 2 * MAX_MESSAGE_BYTES
    # No compression, which takes longer than sending pixels within one machine.
    config = uvicorn.Config(app, log_level="warning", ws_max_size=max_size, ws_per_message_deflate=False)
    return uvicorn.Server(config)


def create_app(
    model: EditorModel,
    class_names: Sequence[str],
    address: ServerAddress,
    examples: Sequence[Example] = (),
    photo: tuple[str, str] | None = None,
    name: str = "network",
) -> ASGIApp:
    """Create the ASGI application of the editor.

    Args:
        model: the network to edit with.
        class_names: one per class.
        address: the address that it is served at.
        examples: drawings to start from; a page opens with the first, or with an empty drawing.
        photo: label and name (`EditorModel.encode_photo`) of the photo whose style a page starts with; None for a seed.
        name: of the network, as the page shows it.
    """
    # One worker and one network for all pages.
    worker = Worker()
    handler = RequestHandler(model)
    hello = handler.hello(name, list(class_names), examples, photo)
    clients: set[Client] = set()

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        worker.start()
        yield
        worker.stop()

    async def channel(websocket: WebSocket) -> None:
        # A close reason reaches the page only after the connection is accepted.
        await websocket.accept()
        if len(clients) >= MAX_PAGES:
            await websocket.close(TRY_AGAIN_LATER, f"The server's limit of {MAX_PAGES} open pages is reached")
            return

        # The page gets everything it needs to start in one message.
        connection = Connection(websocket)
        clients.add(connection.client)
        try:
            connection.send(hello)
            await connection.serve(worker, handler)
        finally:
            clients.discard(connection.client)
            worker.remove(connection.client)

    app = Starlette(routes=[*_static_routes(), WebSocketRoute("/channel", channel)], lifespan=lifespan)
    return OriginCheck(app, address)


def _static_routes() -> list[Route]:
    """Serve the files of the page from memory, so that no path in a request ever reaches the disk."""
    # Media types are given because the tables of some systems lack JavaScript modules.
    routes = []
    for file in STATIC.iterdir():
        if file.suffix in MEDIA_TYPES:
            response = Response(file.read_bytes(), media_type=MEDIA_TYPES[file.suffix], headers=SECURITY_HEADERS)
            paths = ["/", "/index.html"] if file.name == "index.html" else [f"/{file.name}"]
            routes += [Route(path, response, methods=["GET"]) for path in paths]
    return routes


class Connection:
    """WebSocket connection of a page.

    Args:
        websocket: the accepted WebSocket.
    """

    def __init__(self, websocket: WebSocket):
        self.websocket = websocket
        self.loop = asyncio.get_running_loop()
        # Unbounded, because the rendering thread cannot wait for a slow page; `serve` limits it.
        self.unsent: asyncio.Queue[bytes] = asyncio.Queue()
        self.client = Client(self._send_from_any_thread)

    def send(self, frame: bytes) -> None:
        """Queue a frame; call in the event loop's thread."""
        self.unsent.put_nowait(frame)

    def _send_from_any_thread(self, frame: bytes) -> None:
        # RuntimeError: the event loop has ended, and with it the connection.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.send, frame)

    async def serve(self, worker: Worker, handler: RequestHandler) -> None:
        """Receive messages until the page disconnects or stops reading its replies."""
        # Replies are sent in a separate task, while this one receives.
        sender = asyncio.create_task(self._send_all())
        try:
            while self.unsent.qsize() < MAX_UNSENT:
                frame = await self._receive()
                try:
                    self._submit(frame, worker, handler)
                except MessageError as error:
                    self.send(pack(type="error", id=error.id, reason=str(error)))
                # An unexpected error in one message must not end the connection.
                except Exception as error:
                    self.send(report_exception(None, error))
            await self.websocket.close(POLICY_VIOLATION, "Too many replies were not received")
        except WebSocketDisconnect:
            pass
        finally:
            sender.cancel()
            with suppress(asyncio.CancelledError):
                await sender

    def _submit(self, frame: bytes | None, worker: Worker, handler: RequestHandler) -> None:
        # "cancel" affects other requests at once, so it does not wait in line.
        if frame is None:
            raise MessageError("message: expected binary data, got text")
        message = read_message(frame, handler.model.limits)
        if message.kind == "cancel":
            worker.cancel_slow_files(self.client)
        else:
            worker.submit(self.client, handler.create_task(self.client, message))

    async def _receive(self) -> bytes | None:
        # `receive_bytes` would raise KeyError for a text frame, for which this returns None.
        message = await self.websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        return message.get("bytes")

    async def _send_all(self) -> None:
        # Both exceptions mean that the page has disconnected.
        with suppress(WebSocketDisconnect, RuntimeError):
            while True:
                await self.websocket.send_bytes(await self.unsent.get())
