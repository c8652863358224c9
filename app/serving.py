"""Listening and serving: one process, or several workers on one socket."""

import gc
import os
import signal
import socket
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, Final

import uvicorn
from uvicorn.supervisors import Multiprocess

from app import keys
from app.demo import show
from app.guards import is_loopback
from app.metrics import shared_numbers
from app.problems import PROBLEM_TYPES, Problem
from app.settings import Settings
from app.store import NewerSchema, Store

__all__ = ["serve"]

_BACKLOG: Final = 2048  # uvicorn's own


def serve(settings: Settings, demo: Path | None) -> None:
    """Serve until INT or TERM, then exit 0; with a pilot, ask for one recommendation and print it."""
    if settings.workers > 1 and settings.database_url is None:
        sys.exit("Cannot serve with several workers on SQLite: set RL2ML_DATABASE_URL to a PostgreSQL database.")
    if settings.telemetry:
        _check_telemetry()
    _check_store(settings)
    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    if not is_loopback(host) and not settings.allow_anonymous:
        _check_keys(settings)
    shown = f"[{host}]" if ":" in host else host
    # uvicorn stops on these, then raises them again: a stop that was asked for is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    said = f"RL2ML serves http://{shown}:{port} (docs: /docs, OpenAPI: /openapi.json). Stop with Ctrl-C."
    if settings.workers > 1:
        print(said, flush=True)
        with shared_numbers():
            # Each worker makes an application of its own from the same environment.
            config = uvicorn.Config("app.main:app", workers=settings.workers, **_options(settings))
            Multiprocess(config, sockets=[listener]).run()
        return
    from app.main import create_app  # only now: it reads the settings too, for `uvicorn app.main:app`

    server = uvicorn.Server(uvicorn.Config(create_app(settings), **_options(settings)))
    # What start-up made stays for good: without it every full collection is shorter, and the slowest requests faster.
    gc.collect()
    gc.freeze()
    print(said, flush=True)
    if demo is not None:
        threading.Thread(target=show, args=(server, host, port, demo), daemon=True).start()
    server.run(sockets=[listener])


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "log_level": "warning",
        "log_config": None,  # ours takes the server's lines too
        "access_log": False,
        "server_header": False,
        "root_path": settings.root_path,
        "limit_concurrency": settings.max_connections,
        "timeout_graceful_shutdown": settings.graceful_seconds,
    }


def _check_telemetry() -> None:
    """FastAPI would serve on without it, with a warning at most."""
    try:
        missing = any(
            find_spec(name) is None for name in ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
        )
    except ModuleNotFoundError:
        missing = True
    if missing:
        sys.exit("Cannot send telemetry: install what sends it with `pip install 'rl2ml[otel]'`.")
    if not any(f"OTEL_EXPORTER_OTLP_{signal}ENDPOINT" in os.environ for signal in ("", "TRACES_", "METRICS_")):
        sys.exit(
            "Cannot send telemetry: set OTEL_EXPORTER_OTLP_ENDPOINT to a collector, such as http://127.0.0.1:4318."
        )


def _check_store(settings: Settings) -> None:
    """Bring the store up to date before anyone is served; one that is away may come back."""
    try:
        store = Store(settings)
    except ValueError as error:
        sys.exit(f"Cannot use the store: {error}.")
    try:
        if store.is_lasting:
            store.open()
    except NewerSchema as error:
        sys.exit(f"Cannot use the store: {error}.")
    except Problem as error:
        print(f"{PROBLEM_TYPES[error.name][1]}. Until it can be used, what needs it is answered 503.", file=sys.stderr)
    finally:
        store.close()


def _check_keys(settings: Settings) -> None:
    """No stranger reaches a service without keys, unless that is what was asked for."""
    store = Store(settings)
    try:
        good = store.is_lasting and any(key.revoked is None for key in keys.listed(store))
    except (Problem, NewerSchema) as error:
        sys.exit(f"Cannot read the API keys: {error.detail if isinstance(error, Problem) else error}.")
    finally:
        store.close()
    if not good:
        sys.exit(
            f"Cannot listen on {settings.host} without an API key: make one with `python -m app keys create NAME` "
            "(with RL2ML_DATA_FOLDER or RL2ML_DATABASE_URL set), or set RL2ML_ALLOW_ANONYMOUS=1 to let everyone in."
        )


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(_BACKLOG)  # whoever reads the address may connect at once
    except OSError as error:
        listener.close()
        sys.exit(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}. "
            f"Choose another port, for example PORT={min(settings.port + 1, 65535)}."
        )
    return listener


def _leave(_: int, __: FrameType | None) -> None:
    sys.exit(0)
