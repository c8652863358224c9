"""Runs and pilots as orchestrators use them: windows per second and their latency, memory over time, large uploads.

`python benchmarks/service.py` takes about a minute, `--quick` a third of it; `--soak 600` puts 100 windows a second for
ten minutes and prints how memory grows. The service runs as `python -m app` on SQLite in a temporary folder, and this
client beside it: all on the cores of this machine. What rates are held against is the same server's /healthz. Runs
choose γ by `rms_gain`, where nothing else is said: by the default, the lookahead, a window is a solve of a tenth of a
second and more, and what is measured is the solver.

Two ways to ask: "closed" puts the next window of a connection as soon as the last one was answered, which shows what
the service can do, and latencies are then 32 divided by the rate; "paced" puts so many a second whatever the answers
do, as trainers would, and counts every latency from when a window was due.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.pop(0)  # this folder: its http.py would hide Python's own http
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

import http.client

import numpy as np

from benchmarks.loopback import Connection, children, forget_peak, megabytes, peak_megabytes, percentile, service

CONNECTIONS, GROUPS, ROLLOUTS = 32, 64, 8
RATE_GOAL, LATENCY_GOAL = 200, 50.0
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: b\r\n\r\n"
Address = tuple[str, int]


# ---- requests ----


def request(method: str, path: str, body: bytes, media_type: str = "application/json") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: b\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def create_run(address: Address, criterion: str = "rms_gain") -> str:
    connection = http.client.HTTPConnection(*address, timeout=60)
    body = json.dumps({"metric": "pass@8", "budget": {"num_rollouts": ROLLOUTS}, "search": {"criterion": criterion}})
    connection.request("POST", "/v1/runs", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    assert answer.status == 201, content
    return str(content["id"])


def window_bodies(count: int) -> list[bytes]:
    """Windows of a policy that gets better; runs take turns with them."""
    rng = np.random.default_rng(0)
    skill = rng.normal(-2, 2, GROUPS)
    made = []
    for i in range(count):
        rates = 1 / (1 + np.exp(-skill - 3 * (i / count)))
        counts = rng.binomial(ROLLOUTS, rates).tolist()
        made.append(json.dumps({"num_rollouts": ROLLOUTS, "num_successes": counts}).encode())
    return made


BODIES = window_bodies(400)


def windows_of(run: str) -> Iterator[bytes]:
    for index in itertools.count():
        yield request("PUT", f"/v1/runs/{run}/windows/{index}", BODIES[index % len(BODIES)])


# ---- load ----


@asynccontextmanager
async def connected(address: Address, count: int) -> AsyncIterator[list[Connection]]:
    loop = asyncio.get_running_loop()
    made = [(await loop.create_connection(Connection, *address))[1] for _ in range(count)]
    try:
        yield made
    finally:
        for connection in made:
            connection.close()


async def closed(address: Address, requests: list[Iterator[bytes]], seconds: float) -> tuple[float, list[float]]:
    """Requests per second and each one's milliseconds; a connection asks as soon as it was answered."""
    taken: list[float] = []

    async def keep_asking(connection: Connection, asked: Iterator[bytes], until: float) -> None:
        while (start := time.perf_counter()) < until:
            status, _ = await connection.ask(next(asked))
            taken.append((time.perf_counter() - start) * 1e3)
            assert status in (200, 201), status

    async with connected(address, len(requests)) as made:
        for phase in (min(2.0, seconds / 2), seconds):  # the first warms up
            taken.clear()
            start = time.perf_counter()
            await asyncio.gather(
                *(keep_asking(one, asked, start + phase) for one, asked in zip(made, requests, strict=True))
            )
            elapsed = time.perf_counter() - start
    return len(taken) / elapsed, taken


async def paced(
    address: Address, requests: list[Iterator[bytes]], rate: float, seconds: float, warm_up: float = 2.0
) -> tuple[float, list[float]]:
    """So many a second, over all connections in turn: the rate reached, and milliseconds since each was due."""
    taken: list[float] = []
    every = len(requests) / rate
    start = time.perf_counter() + 0.1

    async def keep_pace(place: int, connection: Connection, asked: Iterator[bytes]) -> None:
        for turn in itertools.count():
            due = start + (turn + place / len(requests)) * every
            if due - start > warm_up + seconds:
                return
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            status, _ = await connection.ask(next(asked))
            assert status in (200, 201), status
            if due - start > warm_up:
                taken.append((time.perf_counter() - due) * 1e3)

    async with connected(address, len(requests)) as made:
        await asyncio.gather(
            *(keep_pace(i, one, asked) for i, (one, asked) in enumerate(zip(made, requests, strict=True)))
        )
    return len(taken) / (time.perf_counter() - start - warm_up), taken


# ---- what is measured ----


def show(name: str, rate: float, taken: list[float], health: float | None = None) -> None:
    share = "" if health is None else f"{rate / health:>11.1%}"
    p50, p99 = percentile(taken, 0.5), percentile(taken, 0.99)
    print(f"{name:<34}{rate:>12,.0f}{share:>12}{p50:>10.2f}{p99:>10.2f}{max(taken):>10.2f}", flush=True)


async def measure_windows(address: Address, seconds: float) -> None:
    print(f"\n{CONNECTIONS} connections, a run each, windows of {GROUPS} groups of {ROLLOUTS} rollouts")
    print(f"{'':<34}{'per second':>12}{'of healthz':>12}{'p50 ms':>10}{'p99 ms':>10}{'max ms':>10}")
    health, taken = await closed(address, [itertools.repeat(HEALTH) for _ in range(CONNECTIONS)], seconds / 2)
    show("healthz, closed", health, taken)
    requests = [windows_of(create_run(address)) for _ in range(CONNECTIONS)]
    rate, taken = await closed(address, requests, seconds)
    show("windows, closed", rate, taken, health)
    reached, late = await paced(address, requests, RATE_GOAL, seconds)
    show(f"windows, paced at {RATE_GOAL}", reached, late, health)
    few = [windows_of(create_run(address, "lookahead")) for _ in range(2 * (os.cpu_count() or 1))]
    show(f"windows by lookahead, {len(few)} closed", *await closed(address, few, seconds), health)
    good = rate >= RATE_GOAL and percentile(late, 0.99) <= LATENCY_GOAL
    print(f"goal: {RATE_GOAL} a second, p99 {LATENCY_GOAL:g} ms at that pace: {'reached' if good else 'MISSED'}")


async def soak(address: Address, process: int, rate: float, seconds: float) -> None:
    print(f"\nsoak: {rate:g} windows a second for {seconds:g} s; memory of the service with its children")
    requests = [windows_of(create_run(address)) for _ in range(CONNECTIONS)]
    seen: list[tuple[float, float]] = []

    async def watch() -> None:
        start = time.perf_counter()
        while True:
            await asyncio.sleep(1)
            seen.append((time.perf_counter() - start, megabytes(process)))

    watching = asyncio.create_task(watch())
    reached, late = await paced(address, requests, rate, seconds)
    watching.cancel()
    show("windows, paced", reached, late)
    warm = [size for at, size in seen if at < seconds / 5]
    settled, last = max(warm[len(warm) // 2 :]), max(size for _, size in seen[-max(3, len(seen) // 20) :])
    print(
        f"memory: {seen[0][1]:.0f} MB at first, {settled:.0f} MB after a fifth, {last:.0f} MB at the end: "
        f"{last / settled - 1:+.1%} (goal: +5 % at most)"
    )


async def measure_pilots(address: Address, process: int, prompts: int) -> None:
    import pyarrow
    import pyarrow.parquet

    rng = np.random.default_rng(0)
    successes = rng.binomial(16, rng.beta(0.4, 0.9, prompts)).astype(np.int32)
    table = pyarrow.table({"num_successes": successes, "num_rollouts": np.full(prompts, 16, np.int32)})
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table, sink)
    body = request("POST", "/v1/pilots", sink.getvalue().to_pybytes(), "application/vnd.apache.parquet")
    small = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(table.slice(0, 100), small)
    first = request("POST", "/v1/pilots", small.getvalue().to_pybytes(), "application/vnd.apache.parquet")

    health: list[float] = []
    print(f"\n{prompts:,} prompts as Parquet, {len(body) / 1e6:.1f} MB")
    async with connected(address, 2) as (uploading, asking):
        await uploading.ask(first)  # starts a child
        before = megabytes(process)
        can_forget = {forget_peak(one) for one in (process, *children(process))} == {True}

        async def keep_asking() -> None:
            while True:
                start = time.perf_counter()
                await asking.ask(HEALTH)
                health.append((time.perf_counter() - start) * 1e3)
                await asyncio.sleep(0.002)

        watching = asyncio.create_task(keep_asking())
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            status, _ = await uploading.ask(body)
            taken.append(time.perf_counter() - start)
            assert status in (200, 201), status
        watching.cancel()
    peaks = [peak_megabytes(one) for one in (process, *children(process))]
    print(f"seconds: {', '.join(f'{one:.2f}' for one in taken)} (goal: 1)")
    print(
        f"memory: {before:.0f} MB before, at most {sum(peaks):.0f} MB meanwhile{'' if can_forget else ' or before'}; "
        f"the service itself {peaks[0]:.0f} MB, the process that decodes {peaks[-1]:.0f} MB (goal: 300 MB)"
    )
    print(f"/healthz meanwhile: p50 {percentile(health, 0.5):.1f} ms, p99 {percentile(health, 0.99):.1f} ms (goal: 50)")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a third of the time")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="put windows for so long, and watch memory")
    parser.add_argument("--rate", type=float, default=100, help="windows a second of the soak")
    parser.add_argument("--postgres", metavar="URL", help="an empty database, in the place of SQLite")
    parser.add_argument("--only", choices=["windows", "pilots"])
    chosen = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as folder:
        store = {"RL2ML_DATABASE_URL": chosen.postgres} if chosen.postgres else {"RL2ML_DATA_FOLDER": folder}
        with service(None, **store) as (address, process):
            if chosen.soak:
                await soak(address, process, chosen.rate, chosen.soak)
                return
            if chosen.only != "pilots":
                await measure_windows(address, 5 if chosen.quick else 15)
            if chosen.only != "windows":
                await measure_pilots(address, process, 1_000_000)


if __name__ == "__main__":
    asyncio.run(main())
