"""HTTP and WebSocket of the editor: one page, its few files, and a channel for messages. Nothing else is served."""

from __future__ import annotations

import asyncio
import ipaddress
import mimetypes
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketClose, WebSocketDisconnect

from applications.editor.protocol import MAX_MESSAGE_BYTES, MessageError, pack, read_message
from applications.editor.requests import Requests
from applications.editor.studio import Studio
from applications.editor.worker import Page, Worker

STATIC = Path(__file__).parent / "static"
MAX_PAGES = 32
MAX_UNSENT = 64  # replies that a page has not taken; it is cut off then
LOOPBACK = ("127.0.0.1", "localhost", "::1")
TRY_AGAIN_LATER, TOO_SLOW = 1013, 1008  # WebSocket close codes
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one.

    Raises:
        OSError: no such address here, or the port is in use.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def page_address(host: str, port: int) -> str:
    """What to type into a browser on this machine."""
    named = "localhost" if _is_any(host) else host
    return f"http://{f'[{named}]' if ':' in named else named}:{port}/"


def is_open_to_others(host: str) -> bool:
    """Whether other machines may reach a server on this address."""
    return host not in LOOPBACK


def _is_any(host: str) -> bool:
    """Whether the host stands for all addresses of this machine."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_unspecified
    return False


class Guard:
    """Refuses requests that another site's page could have caused, by the names of host and origin.

    A browser sends the name under which it found the server; a foreign site that points a name of its own at this
    machine (DNS rebinding) sends that one. WebSockets are open to pages of every site unless the origin is checked.

    Args:
        host: what the server listens on: the names it answers to are this and, on loopback, the loopback's. On all
            addresses, any address (not name) will do, and localhost.
    """

    def __init__(self, app: ASGIApp, host: str):
        self.app = app
        self.any = _is_any(host)
        self.names = {host.lower(), *(LOOPBACK if self.any or not is_open_to_others(host) else ())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or (reason := self.refusal(scope)) is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await PlainTextResponse(reason, status_code=403, headers=HEADERS)(scope, receive, send)
        else:
            await WebSocketClose(reason=reason)(scope, receive, send)

    def refusal(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if not self._knows(host):
            return f"this server does not answer to the name {host[:60]!r}"
        if origin is None and scope["type"] == "http":
            return None  # what a browser sends to open a page
        if origin not in (f"http://{host}", f"https://{host}"):
            return f"requests of another site are refused (origin {origin and origin[:60]!r})"
        return None

    def _knows(self, host: str) -> bool:
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name in self.names:
            return True
        with suppress(ValueError):
            return self.any and bool(ipaddress.ip_address(name))
        return False


def make_server(app: ASGIApp) -> uvicorn.Server:
    """To be run on the sockets of `listen`. Compression would cost more time than pixels on this machine's wire."""
    limit = 2 * MAX_MESSAGE_BYTES  # what is above ours is refused with a reason, what is above this cut off
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", ws_max_size=limit, ws_per_message_deflate=False))


def create_app(studio: Studio, names: Sequence[str], host: str) -> ASGIApp:
    """The editor of one network as an ASGI application; `names` are those of the classes."""
    worker, requests = Worker(), Requests(studio)
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
            connection.send(requests.greeting(list(names)))
            await connection.serve(worker, requests)
        finally:
            open_pages.discard(connection.page)
            worker.forget(connection.page)

    routes = [Route(path, _file(content, kind)) for path, content, kind in _static_files()]
    app = Starlette(routes=[*routes, WebSocketRoute("/channel", channel)], lifespan=lifespan)
    return Guard(app, host)


def _static_files() -> list[tuple[str, bytes, str]]:
    """Path, content and media type of each file of the page: read once, so that no path of a client is ever opened."""
    files = [(f"/{path.name}", path.read_bytes(), mimetypes.guess_type(path.name)[0]) for path in STATIC.iterdir()]
    (index,) = (content for path, content, _ in files if path == "/index.html")
    return [("/", index, "text/html"), *((path, content, kind) for path, content, kind in files if kind)]


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
        self.page = Page(self._send_from_worker)

    def send(self, reply: bytes) -> None:
        self.unsent.put_nowait(reply)

    def _send_from_worker(self, reply: bytes) -> None:
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
                await self.websocket.close(TOO_SLOW, "too many replies were not taken")

    def _take(self, frame: bytes | None, worker: Worker, requests: Requests) -> None:
        if frame is None:
            raise MessageError("expected a binary message, got text")
        message = read_message(frame, requests.studio.bounds)
        if message.kind == "cancel":
            for id in worker.cancel_files(self.page):
                self.send(pack(type="error", id=id, reason="cancelled"))
        else:
            worker.submit(self.page, *requests.job(self.page, message))

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
