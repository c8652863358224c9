"""Numbers for Prometheus. Every label's values are a list of ours: nothing of a request makes a new time series."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from starlette.types import Scope

import rl2ml_core as rl2ml
from app.problems import PROBLEM_TYPES

__all__ = ["MEDIA_TYPE", "Metrics", "route_of", "shared_numbers"]

MEDIA_TYPE: Final = CONTENT_TYPE_LATEST
#: Where several workers put their numbers, so that each tells those of all. Read by the client library when it loads.
_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """What one application counts."""

    def __init__(self) -> None:
        _forget_the_dead()
        # One of its own: several applications in a process, as in tests, do not share their numbers.
        self._registry = CollectorRegistry()
        ours: dict[str, Any] = {"registry": None if _FOLDER in os.environ else self._registry}
        gauge: dict[str, Any] = {**ours, "multiprocess_mode": "livesum"}
        self._requests = Counter("rl2ml_requests", "Answers", ["method", "route", "status"], **ours)
        self._seconds = Histogram(
            "rl2ml_request_seconds", "Time to the end of an answer", ["method", "route"], buckets=_SECONDS, **ours
        )
        self._in_progress = Gauge("rl2ml_requests_in_progress", "Requests under way", **gauge)
        self._problems = Counter("rl2ml_problems", "Problems answered, the store's among them", ["type"], **ours)
        self._solves = Counter("rl2ml_solves", "Solves, by place and outcome", ["place", "outcome"], **ours)
        self._solve_seconds = Histogram(
            "rl2ml_solve_seconds", "Time of a solve; in the pool, waiting included", ["place"], buckets=_SECONDS, **ours
        )
        self._jobs = Gauge("rl2ml_pool_jobs", "Solves in the pool, waiting ones included", **gauge)
        self._rebuilt = Counter("rl2ml_pool_rebuilds", "Pools given up for a dead child or a missed deadline", **ours)
        about = Gauge("rl2ml_info", "Versions", ["version", "method_version"], **{**ours, "multiprocess_mode": "max"})
        about.labels(rl2ml.__version__, str(rl2ml.METHOD_VERSION)).set(1)
        # From the start on, so that a first failure is an increase.
        for name in PROBLEM_TYPES:
            self._problems.labels(name)

    @contextmanager
    def in_progress(self) -> Iterator[None]:
        """While a request is under way."""
        self._in_progress.inc()
        try:
            yield
        finally:
            self._in_progress.dec()

    def answered(self, scope: Scope, status: int, seconds: float, problem: str | None) -> None:
        """A request that is over; a status of 0 is a client that left before it was answered."""
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = route_of(scope)
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        if problem in PROBLEM_TYPES:
            self._problems.labels(problem).inc()

    def solved(self, place: str, outcome: str, seconds: float) -> None:
        """A solve that ended: "inline" or "pool", with "ok" or what went wrong."""
        self._solves.labels(place, outcome).inc()
        self._solve_seconds.labels(place).observe(seconds)

    def pool_jobs(self, jobs: int) -> None:
        """How many solves are in the pool."""
        self._jobs.set(jobs)

    def pool_rebuilt(self) -> None:
        """A pool was given up."""
        self._rebuilt.inc()

    def text(self) -> bytes:
        """All numbers, of all workers where they share a folder."""
        registry = self._registry
        if _FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    def close(self) -> None:
        """This process counts no more."""
        if _FOLDER in os.environ:
            mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]


@contextmanager
def shared_numbers() -> Iterator[None]:
    """A folder for the numbers of workers that start meanwhile, unless the environment names one."""
    if _FOLDER in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="rl2ml-numbers-") as folder:
        os.environ[_FOLDER] = folder
        try:
            yield
        finally:
            del os.environ[_FOLDER]


def _forget_the_dead() -> None:
    """What workers that were killed had under way: nobody else takes it back."""
    for path in Path(os.environ[_FOLDER]).glob("gauge_live*_*.db") if _FOLDER in os.environ else ():
        process = int(path.stem.rpartition("_")[2])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            mark_process_dead(process)  # type: ignore[no-untyped-call]
        except PermissionError:  # somebody's, so alive
            pass


def route_of(scope: Scope) -> str:
    """The template of the route that a request took, "none" where it took none."""
    return str(getattr(scope.get("route"), "path", None) or "none")
