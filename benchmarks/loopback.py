"""The service on this machine's loopback, and a client that costs little: for benchmarks."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ROOT", "Connection", "children", "forget_peak", "megabytes", "peak_megabytes", "percentile", "service"]

ROOT = Path(__file__).resolve().parent.parent
STARTED = re.compile(r"RL2ML serves http://([\d.]+):(\d+) ")


# ---- a client that costs little ----


class Connection(asyncio.Protocol):
    """One kept-alive connection, one request at a time; reads no more of an answer than its status and length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[tuple[int, int]]
        self._received, self._missing, self._status, self._length = bytearray(), -1, 0, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, int]]:
        """Send; the status and the length of the body."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            self._received += data
            end = self._received.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._received[:end].lower()
            start = head.index(b"content-length:") + len(b"content-length:")
            self._status, self._length = int(head[9:12]), int(head[start:].split(b"\r", 1)[0])
            self._missing = self._length - (len(self._received) - end - 4)
            self._received.clear()
        else:
            self._missing -= len(data)
        if self._missing == 0:
            self._missing = -1
            self._answer.set_result((self._status, self._length))

    def connection_lost(self, error: Exception | None) -> None:
        if hasattr(self, "_answer") and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the service closed the connection"))

    def close(self) -> None:
        self._transport.close()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


@contextmanager
def service(core: int | None, **variables: str) -> Iterator[tuple[tuple[str, int], int]]:
    """`python -m app` on a free port of this machine, on one core where one is named: its address and process."""
    ours = ("HOST", "PORT", "RL2ML_")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(ours)}
    pin: Callable[[], None] | None = None if core is None else lambda: os.sched_setaffinity(0, {core})
    process = subprocess.Popen(
        [sys.executable, "-m", "app"],
        cwd=ROOT,
        # No limit per address: there is only one.
        env=kept | {"PORT": "0", "PYTHONPATH": str(ROOT), "RL2ML_REQUESTS_PER_SECOND": "0"} | variables,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=pin,
    )
    try:
        assert process.stdout
        found = STARTED.match(process.stdout.readline())
        if found is None:
            sys.exit("the service did not start")
        yield (found[1], int(found[2])), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def peak_megabytes(process: int) -> float:
    return _status(process, "VmHWM")


def forget_peak(process: int) -> bool:
    """Start the peak of memory anew, where the kernel lets us."""
    try:
        Path(f"/proc/{process}/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def megabytes(process: int) -> float:
    """Resident memory of a process and its children."""
    return sum(_status(one, "VmRSS") for one in (process, *children(process)))


def children(process: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{process}/task").iterdir():
        found += map(int, (thread / "children").read_text().split())
    return found


def _status(process: int, name: str) -> float:
    (kilobytes,) = re.findall(rf"{name}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(kilobytes) / 1024
