"""Heavy solves in processes of their own: bounded, with a deadline, rebuilt when a child dies."""

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Final, ParamSpec, TypeVar

from app.metrics import Metrics
from app.problems import Problem
from app.settings import Settings

__all__ = ["Pool"]

P = ParamSpec("P")
T = TypeVar("T")

#: After its children were told to end; it takes milliseconds.
_ENDING_SECONDS: Final = 2.0


class Pool:
    """A process pool that starts with its first job."""

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self._settings = settings
        self._metrics = metrics or Metrics()
        self._executor: ProcessPoolExecutor | None = None
        self._jobs = 0

    def takes(self, milliseconds: float) -> bool:
        """Whether a solve predicted to take so long is for the pool, not for this process."""
        return milliseconds > self._settings.inline_milliseconds

    @property
    def jobs(self) -> int:
        """Solves under way or waiting."""
        return self._jobs

    async def solve(self, milliseconds: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of a module here where that is predicted to be short, else as `run` does.

        Raises:
            Problem: as `run`; "not-ready" when the service stops meanwhile.
        """
        if not self.takes(milliseconds):
            return self.here(function, *args, **kwargs)
        try:
            return await self.run(function, *args, **kwargs)
        except asyncio.CancelledError:
            # The server stops and waits no longer: say so, rather than nothing.
            raise Problem("not-ready", "the service is stopping") from None

    def here(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in this process, and count it."""
        began, outcome = time.perf_counter(), "refused"
        try:
            result = function(*args, **kwargs)
            outcome = "ok"
            return result
        finally:
            self._metrics.solved("inline", outcome, time.perf_counter() - began)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of a module in a child process.

        Raises:
            Problem: "overloaded" when the queue is full or children keep dying, "deadline-exceeded".
        """
        if self._jobs >= self._settings.pool_workers + self._settings.pool_queue:
            raise Problem("overloaded", headers={"Retry-After": "1"})
        self._count(1)
        began, outcome = time.perf_counter(), "failed"
        jobs: list[Future[T]] = []
        try:
            async with asyncio.timeout(self._settings.solve_seconds):
                try:
                    result = await self._submit(jobs, function, *args, **kwargs)
                except BrokenProcessPool:
                    # A child was killed. The pool is useless from then on, so the job gets one more try in a new one.
                    result = await self._submit(jobs, function, *args, **kwargs)
            outcome = "ok"
            return result
        except BrokenProcessPool:
            raise Problem("overloaded", headers={"Retry-After": "5"}) from None
        except TimeoutError:
            outcome = "late"
            if not jobs[-1].cancelled():
                self._give_up()  # a running child can't be cancelled
            raise Problem("deadline-exceeded") from None
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except Problem:
            outcome = "refused"
            raise
        finally:
            self._count(-1)
            self._metrics.solved("pool", outcome, time.perf_counter() - began)

    async def ping(self, seconds: float) -> None:
        """Whether a child answers; one that is at work does, and the deadline of its job watches over it.

        Raises:
            Problem: "not-ready" when none does in time.
        """
        if self._jobs:
            return
        try:
            async with asyncio.timeout(seconds):
                await self.run(os.getpid)
        except (TimeoutError, Problem):
            raise Problem("not-ready", "no process of the pool answers", headers={"Retry-After": "1"}) from None

    def close(self) -> None:
        """End the children."""
        executor = self._executor
        # Python ends it at exit, too, and fails with a traceback where that meets the end that it comes to by itself.
        ending: threading.Thread | None = getattr(executor, "_executor_manager_thread", None)
        self._discard()
        if ending is not None:
            ending.join(_ENDING_SECONDS)

    async def _submit(self, jobs: "list[Future[T]]", function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Submit a job, add it to the list, and wait for it."""
        if self._executor is None:
            # spawn: a fork of a process with threads may hang.
            self._executor = ProcessPoolExecutor(
                self._settings.pool_workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
            )
        executor = self._executor
        try:
            jobs.append(executor.submit(function, *args, **kwargs))
            return await asyncio.wrap_future(jobs[-1])
        except BrokenProcessPool:
            if self._executor is executor:
                self._give_up()
            raise

    def _count(self, change: int) -> None:
        self._jobs += change
        self._metrics.pool_jobs(self._jobs)

    def _give_up(self) -> None:
        self._metrics.pool_rebuilt()
        self._discard()

    def _discard(self) -> None:
        executor, self._executor = self._executor, None
        if executor is None:
            return
        # A future that was cancelled cannot be told that its pool broke, and the attempt would keep it from all others:
        # one that nobody waits for takes the news in its place.
        for item in list((getattr(executor, "_pending_work_items", None) or {}).values()):
            if item.future.cancelled():
                item.future = Future()
        children = list((getattr(executor, "_processes", None) or {}).values())
        executor.shutdown(wait=False)  # jobs of others break with their children, and are tried again
        for child in children:
            child.terminate()


def _begin() -> None:
    """What a child does first."""
    # Ctrl-C reaches the whole group; the parent ends its children itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that was killed ended nobody, and a child would wait for its jobs for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
