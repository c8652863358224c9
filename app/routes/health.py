"""Is the process alive, can it do its work, and what are its numbers?"""

import asyncio
import time
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

import rl2ml_core as rl2ml
from app.metrics import MEDIA_TYPE, Metrics
from app.pool import Pool
from app.problems import Problem, documented
from app.store import Store

__all__ = ["Readiness", "router"]

router = APIRouter(tags=["operations"])

#: Seconds that a finding counts: probes are open to everyone, and each costs a solve and a transaction.
_COUNTS: Final = 1.0
#: A child takes about a second to start.
_POOL_SECONDS: Final = 5.0
#: The maximum of the readiness problem; a test holds it against a fine grid.
SELF_SOLVE_GAMMA: Final = 1.283269616


class Readiness:
    """Whether the store, the pool and the solver work: found at most once a second, however many ask."""

    def __init__(self, store: Store, pool: Pool) -> None:
        self._store, self._pool = store, pool
        self._found: Problem | None = None
        self._until = 0.0
        self._finding = asyncio.Lock()

    async def check(self) -> None:
        """Nothing, if all of it works.

        Raises:
            Problem: "not-ready", or what the store says.
        """
        async with self._finding:
            if time.monotonic() >= self._until:
                try:
                    self._solve()
                    await self._store.check()
                    await self._pool.ping(_POOL_SECONDS)
                    self._found = None
                except Problem as problem:
                    self._found = problem
                self._until = time.monotonic() + _COUNTS
        if self._found is not None:
            raise self._found

    def _solve(self) -> None:
        pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])
        gamma = rl2ml.recommend(pilot, "pass@8", 4, criterion="rms_gain", bootstrap=0).gamma
        if gamma is None or abs(gamma - SELF_SOLVE_GAMMA) > 1e-6:
            raise Problem("not-ready", "the self-solve gave another number")


@router.get("/", include_in_schema=False)
async def index() -> dict[str, str]:
    return {"service": "rl2ml", "version": rl2ml.__version__, "openapi": "openapi.json", "docs": "docs"}


@router.get("/healthz", summary="Alive")
async def healthz() -> dict[str, str]:
    """The process answers. Nothing else is checked."""
    return {"status": "ok"}


@router.get("/readyz", summary="Ready", responses=documented({503: "Not ready"}))
async def readyz(request: Request) -> dict[str, str]:
    """The store answers, the pool has a living process, and a known problem gives its known answer."""
    readiness: Readiness = request.app.state.readiness
    await readiness.check()
    return {"status": "ready", "version": rl2ml.__version__}


@router.get(
    "/metrics",
    summary="Numbers for Prometheus",
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The text exposition format"},
        **documented({401: "From elsewhere than this machine, without an API key", 429: "Too many requests"}),
    },
)
async def metrics(request: Request) -> Response:
    """Requests by route, solves, the pool and problems. Needs an API key from elsewhere than this machine."""
    found: Metrics = request.app.state.metrics
    return Response(found.text(), headers={"Content-Type": MEDIA_TYPE})
