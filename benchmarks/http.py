"""What the service sustains on one core: requests per second, latency, predictions, and the cost of refusing.

`python benchmarks/http.py` takes about a minute, `--quick` a third of it. The service runs as `python -m app` on one
core, this client on another. Connections are kept alive, every body is another question (so nothing is answered from
memory), and the same server's /healthz in the same run is what the rates are held against: it shows the part that HTTP
itself takes.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.pop(0)  # this folder: its http.py would hide Python's own http
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

import numpy as np

import rl2ml_core as rl2ml
from app.analyzing import Inquiry
from app.schemas.estimators import AnalysisRequest
from app.schemas.recommendations import RecommendationRequest
from app.settings import Settings
from app.solving import Question
from benchmarks.loopback import Connection, forget_peak, peak_megabytes, percentile, service

CONNECTIONS = (1, 4, 16)
PILOT_PROMPTS, PILOT_ROLLOUTS, ROLLOUTS = 256, 16, 8
PATH, ANALYSES = "/v1/recommendations", "/v1/estimators/analyses"


# ---- the questions ----


def pilots(rng: np.random.Generator, cells: int | None = None) -> Iterator[list[dict[str, int]]]:
    """Histograms without end, each another one: of 256 prompts × 16 rollouts, or with as many cells as asked."""
    while True:
        if cells is None:
            rates = rng.beta(0.4, 0.9, PILOT_PROMPTS)
            prompts = np.bincount(rng.binomial(PILOT_ROLLOUTS, rates), minlength=PILOT_ROLLOUTS + 1)
        else:
            prompts = rng.integers(1, 1000, cells)
        n = prompts.size - 1
        yield [
            {"num_rollouts": n, "num_successes": k, "num_prompts": int(count)}
            for k, count in enumerate(prompts)
            if count
        ]


def question(pilot: list[dict[str, int]], rollouts: int = ROLLOUTS, **options: object) -> bytes:
    body = {"pilot": {"cells": pilot}, "metric": "pass@8", "budget": {"num_rollouts": rollouts}, **options}
    return json.dumps(body, separators=(",", ":")).encode()


def analysis(pilot: list[dict[str, int]] | None, rollouts: int, estimator: object) -> bytes:
    known = {} if pilot is None else {"pilot": {"cells": pilot}}
    return json.dumps({"estimator": estimator, "num_rollouts": rollouts, **known}, separators=(",", ":")).encode()


def post(body: bytes, path: str = PATH) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


HEALTH = b"GET /healthz HTTP/1.1\r\nHost: b\r\n\r\n"


# ---- load ----


async def load(
    address: tuple[str, int], connections: int, requests: Iterator[bytes], seconds: float
) -> tuple[float, list[float]]:
    """Requests per second and each one's milliseconds, over so many connections at once."""
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(Connection, *address))[1] for _ in range(connections)]
    taken: list[float] = []

    async def keep_asking(connection: Connection, until: float) -> None:
        while (start := time.perf_counter()) < until:
            status, _ = await connection.ask(next(requests))
            taken.append((time.perf_counter() - start) * 1e3)
            assert status == 200, status

    try:
        for phase in (min(0.3, seconds / 4), seconds):  # the first warms up
            taken.clear()
            start = time.perf_counter()
            await asyncio.gather(*(keep_asking(connection, start + phase) for connection in made))
            elapsed = time.perf_counter() - start
    finally:
        for connection in made:
            connection.close()
    return len(taken) / elapsed, taken


# ---- what is measured ----


async def measure_rates(address: tuple[str, int], seconds: float) -> dict[tuple[str, int], tuple[float, float, float]]:
    """(kind, connections) → requests per second, p50, p99."""
    rng = np.random.default_rng(1)
    kinds: dict[str, Callable[[list[dict[str, int]], int], bytes]] = {
        "bootstrap 0": lambda pilot, seed: post(question(pilot, uncertainty={"bootstrap": 0, "seed": seed})),
        "default": lambda pilot, seed: post(question(pilot, uncertainty={"seed": seed})),
    }
    found: dict[tuple[str, int], tuple[float, float, float]] = {}
    print(f"\n{'request':<14}{'connections':>12}{'per second':>12}{'of healthz':>12}{'p50 ms':>10}{'p99 ms':>10}")
    for connections in CONNECTIONS:
        for kind in ("healthz", *kinds):
            if kind == "healthz":
                requests: Iterator[bytes] = itertools.repeat(HEALTH)
            else:
                # Made beforehand: the client shall not be what is slow. The seed tells equal histograms apart.
                first = int(rng.integers(1 << 40))
                most = int(seconds * 3000)
                made = [kinds[kind](pilot, first + i) for i, pilot in enumerate(itertools.islice(pilots(rng), most))]
                requests = iter(made)
            rate, taken = await load(address, connections, requests, seconds)
            found[kind, connections] = rate, percentile(taken, 0.5), percentile(taken, 0.99)
            share = f"{rate / found['healthz', connections][0]:>11.0%} "
            print(
                f"{kind:<14}{connections:>12}{rate:>12,.0f}{share}"
                f"{found[kind, connections][1]:>10.2f}{found[kind, connections][2]:>10.2f}"
            )
    return found


async def measure_predictions(address: tuple[str, int], quick: bool) -> None:
    rng = np.random.default_rng(2)
    none = {"uncertainty": {"bootstrap": 0}}
    stated = {"prior": {"alpha": 1, "beta": 1}}
    asked: list[tuple[str, int | None, int, dict[str, object]]] = [
        ("17 cells, N = 8, no draws", None, 8, none),
        ("17 cells, N = 8", None, 8, {}),
        ("17 cells, N = 8, stated prior", None, 8, stated),
        ("17 cells, N = 8, minimum variance", None, 8, {"estimator": {"baseline": "minimum_variance"}}),
        ("17 cells, N = 8, Eq. 4", None, 8, {"search": {"criterion": "paper"}}),
        ("129 cells, N = 64", 129, 64, {}),
        ("129 cells, N = 64, γ up to 20", 129, 64, {"search": {"gamma_max": 20.0}}),
        ("129 cells, N = 64, log-success", 129, 64, {"metric": "log:0.01"}),
        ("2,000 cells, N = 256", 2000, 256, {}),
        ("10,001 cells, N = 8", 10_001, 8, {}),
        ("10,001 cells, N = 8, stated prior", 10_001, 8, stated),
        ("9 cells, N = 65,536", 9, 65_536, {}),
    ]
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, *address)

    async def measure(name: str, path: str, bodies: Iterator[bytes], predict: Callable[[bytes], float]) -> None:
        taken, predicted = [], 0.0
        for body in itertools.islice(bodies, 3 if quick else 6):
            predicted = predict(body)
            start = time.perf_counter()
            status, _ = await connection.ask(post(body, path))
            taken.append((time.perf_counter() - start) * 1e3)
            assert status == 200, status
        measured = statistics.median(taken[1:])  # the first may have started a child
        where = "here" if predicted <= Settings().inline_milliseconds else "pool"
        print(f"{name:<40}{where:>6}{predicted:>14.1f}{measured:>13.1f}{measured / predicted:>20.2f}")

    def of_a_question(body: bytes) -> float:
        return Question.of(RecommendationRequest.model_validate_json(body), Settings()).milliseconds

    def of_an_analysis(body: bytes) -> float:
        return Inquiry.of(AnalysisRequest.model_validate_json(body), Settings()).milliseconds

    print(f"\n{'one at a time':<40}{'where':>6}{'predicted ms':>14}{'measured ms':>13}{'measured/predicted':>20}")
    for name, cells, n, options in asked[: 10 if quick else None]:
        bodies = (question(pilot, n, **options) for pilot in pilots(rng, cells))
        await measure(name, PATH, bodies, of_a_question)
    for groups in (2, 12):
        parts = pilots(rng)
        bodies = (
            json.dumps(
                {
                    "pilot": {"groups": {f"source {i}": {"cells": next(parts)} for i in range(groups)}},
                    "metric": "pass@8",
                    "budget": {"num_rollouts": 8},
                }
            ).encode()
            for _ in itertools.count()
        )
        await measure(f"{groups} groups of 17 cells, N = 8", PATH, bodies, of_a_question)
    analyzed: list[tuple[str, int | None, int, object]] = [
        ("analysis: GRPO, N = 8", 0, 8, "grpo"),
        ("analysis: GRPO, N = 8, 17 cells", None, 8, "grpo"),
        ("analysis: minimum variance, 129 cells", 129, 64, {"gamma": 1, "baseline": "minimum_variance"}),
        ("analysis: GRPO, N = 128", 0, 128, "grpo"),
        ("analysis: GRPO, N = 1,024, 17 cells", None, 1024, "grpo"),
        ("analysis: GRPO, N = 8, 10,001 cells", 10_001, 8, "grpo"),
        ("analysis: GRPO, N = 65,536", 0, 65_536, "grpo"),
    ]
    for name, cells, n, estimator in analyzed[: 6 if quick else None]:
        bodies = (analysis(None if cells == 0 else pilot, n, estimator) for pilot in pilots(rng, cells or None))
        await measure(name, ANALYSES, bodies, of_an_analysis)
    connection.close()


def refused_bodies() -> dict[str, bytes]:
    size = Settings().max_body_bytes - 200
    head = b'{"metric":"pass@8","budget":{"num_rollouts":4},"pilot":'

    def many(item: bytes) -> bytes:
        return b"[" + b",".join([item] * (size // (len(item) + 1))) + b"]"

    names = b",".join(b'"%05x":0' % i for i in range(size // 10))
    few_names = b",".join(b'"%05x":0' % i for i in range(55_000))
    return {
        "no JSON": b"{",
        "one wrong field": head + b'{"cells":[]}}',
        "cells that are numbers": head + b'{"cells":' + many(b"0") + b"}}",
        "cells that are empty": head + b'{"cells":' + many(b"{}") + b"}}",
        "rates beyond one": head + b'{"pass_rates":' + many(b"2") + b"}}",
        "more rates than allowed": head + b'{"pass_rates":' + many(b"0.5") + b"}}",
        "a million unknown things": b'{"unknown":' + many(b"0") + b"}",
        "200,000 unknown names": b"{" + names + b"}",
        "as many unknown names as are read": b"{" + few_names + b"}",
        "nested without end": b"[" * size,
        "larger than allowed": b" " * (size + 1000),
    }


async def measure_refusals(address: tuple[str, int], process: int) -> None:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, *address)
    status, _ = await connection.ask(post(question(next(pilots(np.random.default_rng(3))))))
    assert status == 200, status
    connection.close()
    exact = forget_peak(process)
    print(f"\n{'refused':<36}{'body kB':>9}{'status':>8}{'seconds':>9}{'answer B':>10}{'more MB':>9}")
    before = peak_megabytes(process)
    for name, body in refused_bodies().items():
        if forget_peak(process):
            before = peak_megabytes(process)
        _, connection = await loop.create_connection(Connection, *address)
        start = time.perf_counter()
        status, length = await connection.ask(post(body))
        seconds = time.perf_counter() - start
        connection.close()
        grown = peak_megabytes(process) - before
        print(f"{name:<36}{len(body) / 1e3:>9,.0f}{status:>8}{seconds:>9.3f}{length:>10,}{grown:>9.0f}")
        assert 400 <= status < 500, status
    if not exact:
        print("(The kernel does not let the peak be reset: MB are since the first row.)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test: too short for conclusions")
    quick = parser.parse_args().quick
    cores = sorted(os.sched_getaffinity(0))
    server, client = (cores[0], cores[-1]) if len(cores) > 1 else (None, None)
    if client is not None:
        os.sched_setaffinity(0, {client})
    print(
        f"{platform.machine()}, {len(cores)} cores (load {os.getloadavg()[0]:.1f}), one BLAS thread; "
        f"Python {platform.python_version()}, numpy {np.__version__}, rl2ml {rl2ml.__version__}"
    )
    print(
        "Service on one core, client on another."
        if client is not None
        else "One core for service and client together: rates are about half of the service's own."
    )
    print(f"Pilots of {PILOT_PROMPTS} prompts × {PILOT_ROLLOUTS} rollouts, judged by pass@8, N = {ROLLOUTS}.")
    with service(server) as (address, process):
        found = asyncio.run(measure_rates(address, 0.5 if quick else 4.0))
        asyncio.run(measure_predictions(address, quick))
    with service(server) as (address, process):
        asyncio.run(measure_refusals(address, process))

    bare = max(found["bootstrap 0", connections][0] for connections in CONNECTIONS)
    default = max(found["default", connections][0] for connections in CONNECTIONS)
    slowest = found["default", 1][2]
    print("\ntargets")
    for text, value, met in (
        ("bootstrap 0: at least 700 per second and core", f"{bare:,.0f}", bare >= 700),
        ("default: at least 150 per second and core", f"{default:,.0f}", default >= 150),
        ("default, one connection: p99 within 15 ms", f"{slowest:.1f} ms", slowest <= 15),
    ):
        print(f"  {'ok' if met else 'MISSED':<8}{text:<50}{value}")


if __name__ == "__main__":
    main()
