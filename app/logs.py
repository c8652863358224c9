"""Structured logs: JSON off a terminal, an event a line, with the request's id, never a body or a header's value."""

import logging
import re
import secrets
import sys
import time
import traceback
from typing import Any, Final

import structlog
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import EventDict, Processor

from app.metrics import Metrics, route_of
from app.problems import Problem

__all__ = ["Observed", "configure"]

#: What an id of somebody else's may look like, so that it can't break a line, a terminal or a query.
_HARMLESS_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_SERVER_ERROR: Final = 500

_SHARED: Final[tuple[Processor, ...]] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
)
# Over the standard library's: an application that nobody serves, as in tests, says nothing below a warning.
_logger = logging.getLogger("rl2ml")
_log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    _logger,
    processors=[structlog.stdlib.filter_by_level, *_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    wrapper_class=structlog.stdlib.BoundLogger,
)


def configure(*, requests: bool, json: bool | None = None) -> None:
    """Send all logs, the server's too, through one formatter to standard error.

    Args:
        requests: a line for every request.
        json: None: unless standard error is a terminal.
    """
    if json is None:
        json = not sys.stderr.isatty()
    shown: Processor = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[_without_messages, structlog.stdlib.ProcessorFormatter.remove_processors_meta, shown],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _logger.setLevel(logging.INFO if requests else logging.WARNING)


class Observed:
    """Gives every request an id, logs and counts it, and answers for failures that nobody caught."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        identity = given if _HARMLESS_ID.fullmatch(given) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = identity
        status, began = 0, time.perf_counter()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", identity.encode())]
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=identity), self._metrics.in_progress():
            try:
                await self._app(scope, receive, sending)
            except Exception as error:  # noqa: BLE001  the server would write its message, which may quote a body
                # The application has answered 500 already, unless it had begun another answer.
                _log.error("failed", error=type(error).__name__, where=_places(error), route=route_of(scope))
                state["problem"] = "internal-error"
                if not status:
                    await Problem("internal-error").response()(scope, receive, sending)
            seconds = time.perf_counter() - began
            self._metrics.answered(scope, status, seconds, state.get("problem"))
            _log.info(
                "request",
                method=str(scope["method"])[:16],
                path=str(scope["path"])[:200],
                route=route_of(scope),
                status=status,
                milliseconds=round(1e3 * seconds, 2),
                owner=state.get("owner"),
                problem=state.get("problem"),
            )


def _places(error: BaseException) -> list[str]:
    """Where it was raised, innermost last; with the places of what caused it, but nobody's values."""
    found: list[str] = []
    chain: BaseException | None = error
    while chain is not None and len(found) < 100:
        frames = traceback.extract_tb(chain.__traceback__)[-12:]
        found[:0] = [f"{type(chain).__name__} {frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    return found


def _without_messages(_: Any, __: str, event: EventDict) -> EventDict:
    """Exceptions of other loggers as types and places: their messages may quote what was sent."""
    info = event.pop("exc_info", None)
    record = event.get("_record")
    info = info or getattr(record, "exc_info", None)
    if isinstance(info, BaseException):
        error: BaseException | None = info
    else:
        error = info[1] if isinstance(info, tuple) else sys.exc_info()[1] if info else None
    if error is not None:
        event["error"] = type(error).__name__
        event["where"] = _places(error)
    return event
