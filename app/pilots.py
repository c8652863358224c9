"""Pilots that were uploaded, by id."""

import json
from typing import TypeVar

from app.problems import Problem
from app.schemas.common import PilotReference
from app.schemas.estimators import AnalysisRequest
from app.schemas.plans import PlanRequest
from app.schemas.recommendations import RecommendationRequest
from app.schemas.runs import RunRequest
from app.store import Store
from app.stored_content import find_pilot
from rl2ml_core.pilot.histogram import PilotHistogram

__all__ = ["with_pilot"]

R = TypeVar("R", AnalysisRequest, PlanRequest, RecommendationRequest, RunRequest)


async def with_pilot(request: R, store: Store) -> R:
    """The request with the counts of the pilot that it names by id, where it does.

    Raises:
        Problem: "invalid-request" where no such pilot is kept, and those of the store.
    """
    if not isinstance(request.pilot, PilotReference):
        return request
    cells = await store.reading(find_pilot, request.pilot.id)
    if cells is None:
        raise Problem("invalid-request", errors=[("#/pilot/id", "no such pilot is kept: upload it again")])
    return request.model_copy(update={"pilot": PilotHistogram.from_cells(json.loads(cells))})
