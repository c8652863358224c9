"""Is the process alive, and can it solve?"""

from fastapi import APIRouter

import rl2ml_core as rl2ml
from app.problems import Problem, documented

__all__ = ["router"]

router = APIRouter(tags=["operations"])


@router.get("/", include_in_schema=False)
async def index() -> dict[str, str]:
    return {"service": "rl2ml", "version": rl2ml.__version__, "openapi": "openapi.json"}


@router.get("/healthz", summary="Alive")
async def healthz() -> dict[str, str]:
    """The process answers. Nothing else is checked."""
    return {"status": "ok"}


@router.get("/readyz", summary="Ready", responses=documented({503: "Not ready"}))
async def readyz() -> dict[str, str]:
    """The service can solve: a small known problem gives its known answer."""
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])
    gamma = rl2ml.recommend(pilot, "pass@8", 4, criterion="rms_gain", bootstrap=0).gamma
    if gamma is None or abs(gamma - SELF_SOLVE_GAMMA) > 1e-6:
        raise Problem("not-ready", "the self-solve gave another number")
    return {"status": "ready", "version": rl2ml.__version__}


#: The maximum of the readiness problem; a test holds it against a fine grid.
SELF_SOLVE_GAMMA = 1.283269616
