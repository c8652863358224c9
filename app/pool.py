"""Heavy solves in processes of their own: bounded, with a deadline, rebuilt when a child dies."""

import asyncio
import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from app.problems import Problem
from app.settings import Settings

__all__ = ["Pool"]

P = ParamSpec("P")
T = TypeVar("T")


class Pool:
    """A process pool that starts with its first job."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._executor: ProcessPoolExecutor | None = None
        self._jobs = 0

    def takes(self, milliseconds: float) -> bool:
        """Whether a solve predicted to take so long is for the pool, not for this process."""
        return milliseconds > self._settings.inline_milliseconds

    async def solve(self, milliseconds: float, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of a module here where that is predicted to be short, else as `run` does.

        Raises:
            Problem: as `run`; "not-ready" when the service stops meanwhile.
        """
        if not self.takes(milliseconds):
            return function(*args, **kwargs)
        try:
            return await self.run(function, *args, **kwargs)
        except asyncio.CancelledError:
            # The server stops and waits no longer: say so, rather than nothing.
            raise Problem("not-ready", "the service is stopping") from None

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of a module in a child process.

        Raises:
            Problem: "overloaded" when the queue is full or children keep dying, "deadline-exceeded".
        """
        if self._jobs >= self._settings.pool_workers + self._settings.pool_queue:
            raise Problem("overloaded", headers={"Retry-After": "1"})
        self._jobs += 1
        try:
            async with asyncio.timeout(self._settings.solve_seconds):
                try:
                    return await self._submit(function, *args, **kwargs)
                except BrokenProcessPool:
                    # A child was killed. The pool is useless from then on, so the job gets one more try in a new one.
                    return await self._submit(function, *args, **kwargs)
        except BrokenProcessPool:
            raise Problem("overloaded", headers={"Retry-After": "5"}) from None
        except TimeoutError:
            self._discard()  # a running child can't be cancelled
            raise Problem("deadline-exceeded") from None
        finally:
            self._jobs -= 1

    def close(self) -> None:
        """End the children."""
        self._discard()

    async def _submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._executor is None:
            # spawn: a fork of a process with threads may hang.
            self._executor = ProcessPoolExecutor(
                self._settings.pool_workers,
                mp_context=multiprocessing.get_context("spawn"),
                # Ctrl-C reaches the whole group; the parent ends its children itself.
                initializer=signal.signal,
                initargs=(signal.SIGINT, signal.SIG_IGN),
            )
        executor = self._executor
        try:
            return await asyncio.wrap_future(executor.submit(function, *args, **kwargs))
        except BrokenProcessPool:
            if self._executor is executor:
                self._discard()
            raise

    def _discard(self) -> None:
        executor, self._executor = self._executor, None
        if executor is None:
            return
        children = list((getattr(executor, "_processes", None) or {}).values())
        executor.shutdown(wait=False)  # jobs of others break with their children, and are tried again
        for child in children:
            child.terminate()
