"""`python -m app`: serve on HOST and PORT; with --demo, ask for one recommendation and print it."""

import argparse
import csv
import gc
import http.client
import json
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import uvicorn
from pydantic import ValidationError

from app.settings import Settings

_METRIC, _ROLLOUTS = {"name": "pass_at_k", "k": 8}, 8
_BACKLOG = 2048  # uvicorn's own


def main() -> None:
    """Serve until INT or TERM, then exit 0."""
    parser = argparse.ArgumentParser(prog="python -m app", description="The RL2ML service.")
    parser.add_argument("--demo", type=Path, metavar="PILOT.CSV", help="post this pilot once, print the answer")
    demo = parser.parse_args().demo
    if demo is not None and not demo.is_file():
        parser.error(f"no such file: {demo}")
    settings = _settings()
    from app.main import create_app  # only now: it reads the settings too, for `uvicorn app.main:app`

    listener = _listen(settings)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            log_level="info" if settings.access_log else "warning",
            access_log=settings.access_log,
            server_header=False,
            root_path=settings.root_path,
            limit_concurrency=settings.max_connections,
            timeout_graceful_shutdown=settings.graceful_seconds,
        )
    )
    # What start-up made stays for good: without it every full collection is shorter, and the slowest requests faster.
    gc.collect()
    gc.freeze()
    # uvicorn stops on these, then raises them again: a stop that was asked for is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    print(f"RL2ML serves http://{shown}:{port} (OpenAPI: /openapi.json). Stop with Ctrl-C.", flush=True)
    if demo is not None:
        threading.Thread(target=_show, args=(server, host, port, demo), daemon=True).start()
    server.run(sockets=[listener])


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name = str(found["loc"][0]).upper()
        name = name if name in ("HOST", "PORT") else f"RL2ML_{name.removeprefix('RL2ML_')}"
        sys.exit(f"Cannot start with {name}={found['input']}: {found['msg']}.")


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


def _show(server: uvicorn.Server, host: str, port: int, demo: Path) -> None:
    """Post the demo pilot to our own address and print the recommendation."""
    while not server.started:
        time.sleep(0.02)
        if server.should_exit:
            return
    with demo.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    pilot = {name: [int(row[name]) for row in rows] for name in ("num_successes", "num_rollouts")}
    question = {"pilot": pilot, "metric": _METRIC, "budget": {"num_rollouts": _ROLLOUTS}}
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request("POST", "/v1/recommendations", json.dumps(question), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200:
        print(f"The demo failed: {answer.get('detail') or answer.get('errors')}", file=sys.stderr, flush=True)
        return
    table = answer["objective"]["advantages"]
    print(f"\nPosted {demo}: {len(rows)} prompts, judged by pass@8, trained with {_ROLLOUTS} rollouts per prompt.")
    print(f"\n  {answer['summary']}\n")
    print("  advantages by success count 0..8")
    for side in ("success", "failure"):
        print(f"    {side}: " + " ".join("    –" if x is None else f"{x:5.2f}" for x in table[side]))
    address = f"http://{host}:{port}/v1/recommendations/{answer['id']}"
    print(f"\n  The whole answer: curl {address}", flush=True)


if __name__ == "__main__":
    main()
