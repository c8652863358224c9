"""Who may ask, how often, and how many at once: refused before the application sees the request.

Layers around the application, as pure ASGI, from the outside in (`app.main` puts them together):

1. `app.logs.Observed`: an id for the request, its line in the log, its numbers; failures that nobody caught;
2. `SecurityHeaders`: on every answer, refusals too;
3. `Guards`: requests at once, the key, the rate, and how long a body may take;
4. the application.
"""

import asyncio
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.keys import KeyRing
from app.problems import Problem
from app.settings import Settings

__all__ = ["Buckets", "Guards", "SecurityHeaders", "is_loopback", "path_of"]

#: For orchestrators' probes: without a key and without limits.
_PROBES: Final = ("/healthz", "/readyz")
#: What the service is, which its source tells too: without a key.
_PUBLIC: Final = ("/", "/openapi.json", "/docs")
_PUBLIC_FOLDER: Final = "/docs/"
_METRICS: Final = "/metrics"
#: A proxy's marks: behind one, whoever connects from this machine need not be on it.
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
#: Callers whose rates are kept; the one longest unheard of goes first.
_MOST_CALLERS: Final = 10_000
_NETWORK: Final = 64  # bits of an IPv6 address that name a household, all of whose addresses are one caller

#: Nothing of an answer is a page, but for /docs, which loads its own files and asks its own service.
_POLICY: Final = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_DOCS_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class SecurityHeaders:
    """What browsers are told, on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = path_of(scope)
        policy = _DOCS_POLICY if path == "/docs" or path.startswith(_PUBLIC_FOLDER) else _POLICY
        added = [*_HEADERS, (b"content-security-policy", policy.encode())]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        await self._app(scope, receive, sending)


class Guards:
    """Answers 401, 408 and 429; what passes has `state.owner`, the key's id or None."""

    def __init__(self, app: ASGIApp, settings: Settings, keys: KeyRing) -> None:
        self._app, self._settings, self._keys = app, settings, keys
        self._buckets = Buckets(settings.requests_per_second, settings.request_burst)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or path_of(scope) in _PROBES:
            await self._app(scope, receive, send)
            return
        if self._in_flight >= self._settings.max_in_flight:
            await self._refuse("too-many-requests", scope, receive, send, retry_after=1)
            return
        self._in_flight += 1
        try:
            await self._pass(scope, receive, send)
        finally:
            self._in_flight -= 1

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            owner, allowed = await self._identify(scope)
        except Problem as problem:
            await self._answer(problem, scope, receive, send)
            return
        # Before a wrong key is told so: whoever guesses is held to a rate as well.
        wait = self._buckets.take(owner or _address(scope))
        if wait > 0:
            await self._refuse("too-many-requests", scope, receive, send, retry_after=wait)
        elif not allowed:
            headers = {"WWW-Authenticate": 'Bearer realm="rl2ml"'}
            await self._answer(Problem("unauthorized", headers=headers), scope, receive, send)
        else:
            scope.setdefault("state", {})["owner"] = owner
            await self._app(scope, _within(receive, self._settings.body_seconds), send)

    async def _identify(self, scope: Scope) -> tuple[str | None, bool]:
        """The key's id, and whether the request may pass."""
        path, headers = path_of(scope), Headers(scope=scope)
        given = headers.get("authorization")
        if given is not None:
            scheme, _, key = given.partition(" ")
            owner = await self._keys.owner_of(key.strip()) if scheme.lower() == "bearer" else None
            return owner, owner is not None
        if path in _PUBLIC or path.startswith(_PUBLIC_FOLDER):
            return None, True
        if path == _METRICS:
            return None, is_loopback(_host(scope, "client")) and not any(name in headers for name in _FORWARDED)
        if self._settings.allow_anonymous:
            return None, True
        # Reached from outside, whatever started the server, or made to ask for keys by having one.
        outside = _host(scope, "server")
        return None, (is_loopback(outside) or not _is_address(outside)) and not await self._keys.has_any()

    async def _refuse(self, name: str, scope: Scope, receive: Receive, send: Send, *, retry_after: float) -> None:
        seconds = str(max(1, math.ceil(retry_after)))
        await self._answer(Problem(name, headers={"Retry-After": seconds}), scope, receive, send)

    async def _answer(self, problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["problem"] = problem.name
        await problem.response()(scope, receive, send)


class Buckets:
    """A token bucket for each caller.

    Args:
        rate: tokens a second; 0 for no limit.
        burst: what a bucket holds.
        clock: seconds.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> float:
        """Take a token: 0, or the seconds until there is one."""
        if not self._rate:
            return 0.0
        now = self._clock()
        tokens, since = self._left.pop(caller, (float(self._burst), now))
        tokens = min(self._burst, tokens + self._rate * (now - since))
        wait = max(0.0, (1 - tokens) / self._rate)
        self._left[caller] = (tokens if wait else tokens - 1, now)
        if len(self._left) > _MOST_CALLERS:
            self._left.popitem(last=False)
        return wait


def _within(receive: Receive, seconds: float) -> Callable[[], Awaitable[Message]]:
    """What is received, the whole body within some seconds: a slow client must not hold a place for ever.

    Raises:
        Problem: "request-timeout", where the application reads.
    """
    deadline: float | None = None
    complete = False

    async def timed() -> Message:
        nonlocal deadline, complete
        if complete:  # from here on it waits for the client to leave
            return await receive()
        deadline = deadline or asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise Problem("request-timeout", headers={"Connection": "close"}) from None
        complete = not message.get("more_body", False)
        return message

    return timed


def path_of(scope: Scope) -> str:
    """The path below the prefix that a proxy adds."""
    path, prefix = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(prefix) if prefix and path.startswith(f"{prefix}/") else path


def is_loopback(host: str | None) -> bool:
    """Whether an address is of this machine alone."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


def _is_address(host: str | None) -> bool:
    try:
        ipaddress.ip_address(host or "")
    except ValueError:
        return False  # a socket in the file system
    return True


def _host(scope: Scope, side: str) -> str | None:
    found = scope.get(side)
    return None if not found else str(found[0])


def _address(scope: Scope) -> str:
    """Who calls without a key: an address, or the network of one."""
    host = _host(scope, "client") or "unknown"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(address) >> _NETWORK << _NETWORK, _NETWORK)))
    return str(address)
