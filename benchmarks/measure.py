"""Time as ratios within interleaved pairs, and memory in a process of its own: what several benchmarks measure by."""

import ctypes
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def fix_malloc(mmap_threshold: int, trim_threshold: int) -> None:
    """Above the first, blocks are mapped and returned when freed; the heap keeps as much as the second."""
    libc = ctypes.CDLL(None)
    if not (libc.mallopt(_M_MMAP_THRESHOLD, mmap_threshold) and libc.mallopt(_M_TRIM_THRESHOLD, trim_threshold)):
        raise OSError("mallopt refused the thresholds")


@dataclass(frozen=True)
class Ratio:
    """Seconds of the first and the second function, and the median of second/first within pairs with its quartiles."""

    first: float
    second: float
    median: float
    quartiles: tuple[float, float]


def compare(first: Callable[[], object], second: Callable[[], object], pairs: int, warm_up: int = 1) -> Ratio:
    """Calls in pairs whose order flips, after some that do not count."""

    def seconds(function: Callable[[], object]) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    for _ in range(warm_up):
        first(), second()
    a, b = [], []
    for i in range(pairs):
        if i % 2:
            a.append(seconds(first))
            b.append(seconds(second))
        else:
            b.append(seconds(second))
            a.append(seconds(first))
    ratios = sorted(y / x for x, y in zip(a, b, strict=True))
    quartiles = ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]
    return Ratio(statistics.median(a), statistics.median(b), statistics.median(ratios), quartiles)


def peak_memory(run: Callable[[], object]) -> int:
    """Peak kB of a call beyond what is resident before it, of a process that returns all it frees (`fix_malloc`)."""

    def resident(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1])

    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before
