"""Where the editor listens, under which names it is found there, and whom it answers."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ELSEWHERE = ("192.0.2.1", 9)  # of no machine (RFC 5737): asked only for the address by which this one would send there
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
    if not host or "\0" in host:
        raise OSError(None, "that is no address")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except UnicodeError as error:
        raise OSError(None, "that is no address") from error
    both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()  # `::` is IPv4 too
    return socket.create_server(address[:2], family=family, dualstack_ipv6=both)


class Place:
    """A host as it was asked for, and the address that it turned out to be."""

    def __init__(self, host: str, address: str):
        self.address = ipaddress.ip_address(address.partition("%")[0])
        own = () if self.any else (host.lower(), str(self.address))
        self.names = {*own, *(LOOPBACK if self.any or self.address.is_loopback else ())}

    @property
    def any(self) -> bool:
        """Whether it stands for all addresses of this machine."""
        return self.address.is_unspecified

    @property
    def is_open_to_others(self) -> bool:
        """Whether other machines may reach it."""
        return not self.address.is_loopback

    def knows(self, host: str) -> bool:
        """Whether a Host header (lower case) names it: on all addresses by any address, but by no strange name."""
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name in self.names:
            return True
        with suppress(ValueError):
            return self.any and bool(ipaddress.ip_address(name))
        return False

    def urls(self, port: int) -> list[str]:
        """What to type into a browser: on this machine, and where all may reach it, on others."""
        hosts = ["localhost", *_own_address()] if self.any else [str(self.address)]
        return [f"http://{f'[{host}]' if ':' in host else host}:{port}/" for host in hosts]


def _own_address() -> list[str]:
    """The address under which other machines know this one, if it has a network; nothing is sent to find out."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.connect(ELSEWHERE)
        return [line.getsockname()[0]]
    return []


class Guard:
    """Refuses requests that another site's page could have caused, by the names of host and origin.

    A browser sends the name under which it found the server; a foreign site that points a name of its own at this
    machine (DNS rebinding) sends that one. WebSockets are open to pages of every site unless the origin is checked.
    """

    def __init__(self, app: ASGIApp, place: Place):
        self.app, self.place = app, place

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
        if not self.place.knows(host):
            return f"this server does not answer to the name {host[:60]!r}"
        if origin is None and scope["type"] == "http":
            return None  # what a browser sends to open a page
        if origin not in (f"http://{host}", f"https://{host}"):
            return f"requests of another site are refused (origin {origin and origin[:60]!r})"
        return None
