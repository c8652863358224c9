"""The client for event loops: `Client`, awaited."""

import asyncio
import itertools
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from rl2ml_core.client import calls
from rl2ml_core.client.answers import Page, PilotAnswer, RecommendationAnswer, RunAnswer, WindowAnswer
from rl2ml_core.client.calls import Call, Options
from rl2ml_core.client.errors import ServiceDown
from rl2ml_core.client.policy import Health, Outcome, Retries, content_of, settle, understood
from rl2ml_core.client.shared import headers_of, instead, timeouts
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.controller import ControllerSettings
from rl2ml_core.selection.metrics import Metric

__all__ = ["AsyncClient"]

T = TypeVar("T")


class AsyncClient:
    """The service at an address, as `Client`. Belongs to one event loop; close it, or use it in an `async with` block.

    Args:
        url: of the service, with its path prefix if it has one.
        key: an API key, where the service asks for one.
        timeout: seconds that one attempt may take to send, and then to answer.
        retries: attempts after the first, of what may safely be repeated.
        patience: seconds after which no further attempt begins.
        fallback: whether `recommend` is answered by this process while the service is down.
        transport: of httpx, in the place of sockets.

    Raises:
        InvalidInput: a value outside its range, or a key that is no text of a header.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout: float = 10.0,
        retries: int = 3,
        patience: float = 30.0,
        fallback: bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url, self.fallback = url.rstrip("/"), fallback
        self.health = Health()
        self._retries = Retries(retries, patience)
        self._http = httpx.AsyncClient(
            base_url=self.url, headers=headers_of(key), timeout=timeouts(timeout), transport=transport
        )

    async def recommend(
        self, pilot: PilotHistogram | str, metric: Metric | str, num_rollouts: int, **options: Unpack[Options]
    ) -> RecommendationAnswer:
        """From a pilot to the objective to train with; the options are those of `rl2ml_core.recommend`.

        Raises:
            ServiceError: refused; ServiceDown where nothing can take the service's place.
            InvalidInput: values that the core refuses or that do not go over the wire.
        """
        call = calls.recommendation(pilot, metric, num_rollouts, options)
        try:
            if self.fallback:
                self.health.check(self.url)
            return RecommendationAnswer("service", await self._content(call))
        except ServiceDown as error:
            if not self.fallback:
                raise
            return instead(error, self.health, pilot, metric, num_rollouts, options)

    async def create_run(
        self, settings: ControllerSettings, pilot: PilotHistogram | str | None = None, *, key: str | None = None
    ) -> RunAnswer:
        """A run before its first window. The same key gives the same run again.

        Raises:
            ServiceError: refused; ServiceDown as well where the service is down.
            InvalidInput: settings that do not go over the wire.
        """
        return await self._answer(RunAnswer.of, calls.create_run(settings, pilot, key or uuid.uuid4().hex))

    async def put_window(self, run: str, index: int, window: PilotHistogram | None) -> WindowAnswer:
        """The success counts of a window → what to train the next one with.

        Raises:
            ServiceError: refused; its `expected_index` says which window the run takes, where it is another.
        """
        return await self._answer(WindowAnswer.of, calls.put_window(run, index, window))

    async def rewind(self, run: str, to_index: int) -> RunAnswer:
        """Back to before a window, for a trainer that resumes from a checkpoint.

        Raises:
            ServiceError: as `put_window`.
        """
        return await self._answer(RunAnswer.of, calls.rewind(run, to_index))

    async def run(self, run: str) -> RunAnswer:
        """A run as it stands.

        Raises:
            ServiceError: no such run of this key; or the service is down.
        """
        return await self._answer(RunAnswer.of, calls.run(run))

    async def runs(self, *, limit: int | None = None, cursor: str | None = None) -> Page[dict[str, Any]]:
        """A page of this key's runs, as docs/rest.md describes them.

        Raises:
            ServiceError: a wrong cursor or limit; or the service is down.
        """
        return await self._answer(Page.of, calls.runs(limit, cursor))

    async def windows(self, run: str, *, limit: int | None = None, cursor: str | None = None) -> Page[dict[str, Any]]:
        """A page of a run's windows, as docs/rest.md describes them.

        Raises:
            ServiceError: as `runs`, or no such run of this key.
        """
        return await self._answer(Page.of, calls.windows(run, limit, cursor))

    async def delete_run(self, run: str) -> None:
        """Remove a run with its windows.

        Raises:
            ServiceError: no such run of this key; or the service is down.
        """
        await self._send(calls.delete_run(run))

    async def pilots(self, table: str | Path | bytes, media_type: str | None = None) -> PilotAnswer:
        """Upload a table of counts or rollouts, a file or its bytes.

        Raises:
            ServiceError: refused; or the service is down.
            InvalidInput: the media type is not known.
            OSError: a file that cannot be read.
        """
        return await self._answer(PilotAnswer.of, calls.upload(table, media_type))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _answer(self, made: Callable[[Mapping[str, Any]], T], call: Call) -> T:
        return understood(made, await self._content(call), self.url)

    async def _content(self, call: Call) -> dict[str, Any]:
        return content_of(await self._send(call), self.url)

    async def _send(self, call: Call) -> httpx.Response:
        """The answer to a call, repeated as often as is safe and worth it."""
        began = time.monotonic()
        for attempt in itertools.count(1):
            outcome = await self._attempt(call)
            wait = self._retries.wait(call, attempt, time.monotonic() - began, outcome)
            if wait is None:
                break
            await asyncio.sleep(wait)
        return settle(outcome, self.url, self.health)

    async def _attempt(self, call: Call) -> Outcome:
        try:
            return await self._http.request(call.method, call.path, content=call.body, headers=dict(call.headers))
        except httpx.RequestError as error:
            return error
