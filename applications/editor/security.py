"""Listening socket of the editor, and Host and Origin checks against DNS rebinding and CSRF."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose

# Host names of a server on a loopback address.
LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
# Address and port that are assigned to no machine (RFC 5737).
UNROUTED_ADDRESS = ("192.0.2.1", 9)
# The page loads nothing from other hosts, and cannot be embedded in other pages.
SECURITY_HEADERS = {
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
    """Open a listening socket; port 0 selects any free port.

    Raises:
        OSError: the address is invalid or not of this machine, or the port is in use.
    """
    # getaddrinfo takes an empty host as any address, ends a name at a null character, and raises UnicodeError for very
    # long labels.
    if not host or "\0" in host:
        raise OSError(None, "not a valid address")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except UnicodeError as error:
        raise OSError(None, "not a valid address") from error

    # `::` includes IPv4.
    dualstack = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    return socket.create_server(address[:2], family=family, dualstack_ipv6=dualstack)


class ServerAddress:
    """Address that the server listens on, and the host names that requests may use for it.

    Args:
        host: as the user gave it, a name or an address.
        address: the IP address that the socket is bound to.
    """

    def __init__(self, host: str, address: str):
        # The address without an IPv6 zone.
        self.address = ipaddress.ip_address(address.partition("%")[0])

        # A wildcard address is not a usable host name; `accepts` handles IP addresses in that case.
        self.names = set() if self.is_wildcard else {host.lower(), str(self.address)}
        if self.is_wildcard or self.address.is_loopback:
            self.names.update(LOOPBACK_NAMES)

    @property
    def is_wildcard(self) -> bool:
        """Whether it means all addresses of this machine, such as 0.0.0.0."""
        return self.address.is_unspecified

    @property
    def is_public(self) -> bool:
        """Whether other machines can connect."""
        return not self.address.is_loopback

    def accepts(self, host: str) -> bool:
        """Return whether a Host header (in lower case, with or without port) is a name of this server.

        A wildcard server accepts any IP address, but no names except those of loopback: a name could belong to a
        foreign site that resolves it to this machine (DNS rebinding).
        """
        # Remove the port; IPv6 addresses are in brackets.
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if name in self.names:
            return True

        # Any address, but no other name.
        with suppress(ValueError):
            return self.is_wildcard and bool(ipaddress.ip_address(name))
        return False

    def urls(self, port: int) -> list[str]:
        """Return the URLs of the page: for this machine, and if other machines can connect, for them."""
        # The wildcard address itself cannot be opened; IPv6 addresses are in brackets.
        hosts = ["localhost", *_network_address()] if self.is_wildcard else [str(self.address)]
        return [f"http://{f'[{host}]' if ':' in host else host}:{port}/" for host in hosts]


def _network_address() -> list[str]:
    """Return a list with this machine's address in its network, or an empty list."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        # Connecting a UDP socket selects a route, but sends nothing.
        connection.connect(UNROUTED_ADDRESS)
        return [connection.getsockname()[0]]
    return []


class OriginCheck:
    """ASGI middleware that rejects requests which pages of other sites could have caused (DNS rebinding, CSRF).

    Host must be a name of this server, and Origin the same host. Browsers do not restrict WebSockets to the same
    origin, so these must have an Origin; plain HTTP may lack it, as it does when a browser opens the page.

    Args:
        app: the application to protect.
        address: the server's address.
    """

    def __init__(self, app: ASGIApp, address: ServerAddress):
        self.app = app
        self.address = address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # The third type, "lifespan", starts and stops the server.
        reason = self._rejection(scope) if scope["type"] in ("http", "websocket") else None
        if reason is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await PlainTextResponse(reason, status_code=403, headers=SECURITY_HEADERS)(scope, receive, send)
        else:
            await WebSocketClose(reason=reason)(scope, receive, send)

    def _rejection(self, scope: Scope) -> str | None:
        """Return why a request is rejected, or None."""
        # Host, against DNS rebinding.
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if not self.address.accepts(host):
            return f"host {host[:60]!r} is not a name of this server"

        # Origin, against CSRF.
        origin = headers.get("origin")
        if origin is None and scope["type"] == "http":
            return None
        if origin not in (f"http://{host}", f"https://{host}"):
            return f"requests from other sites are rejected (origin {origin and origin[:60]!r})"
        return None
