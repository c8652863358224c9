"""`/v1/estimators`: the trainers and baselines that are known, and what any of them really optimizes."""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

import rl2ml_core as rl2ml
from app.analyzing import Inquiry, analysis
from app.answers import as_json, conditional
from app.bodies import described, read_body
from app.examples import ANALYSIS_EXAMPLES
from app.pilots import with_pilot
from app.pool import Pool
from app.problems import SOLVE_PROBLEMS, documented
from app.schemas.estimators import AnalysisAnswer, AnalysisRequest, EstimatorsAnswer

__all__ = ["DOCUMENTED", "router"]

router = APIRouter(prefix="/v1/estimators", tags=["estimators"])

DOCUMENTED = (AnalysisRequest,)

_CATALOG = as_json(
    {
        "trainers": [
            {
                "name": name,
                "label": trainer.label,
                "title": trainer.title,
                "source": trainer.source,
                "least_rollouts": trainer.least_rollouts,
                "drops_equal_groups": trainer.drops_equal_groups,
                "note": trainer.note,
                "parameters": [
                    {"name": parameter, "default": known.default, "meaning": known.meaning}
                    for parameter, known in trainer.parameters.items()
                ],
            }
            for name, trainer in rl2ml.KNOWN_TRAINERS.items()
        ],
        "baselines": [{"name": name, "description": description} for name, description in rl2ml.BASELINES.items()],
    }
)
_TAG = hashlib.sha256(_CATALOG).hexdigest()[:32]
_FRESH = "public, max-age=3600"  # it changes with releases alone


@router.get(
    "",
    summary="Known trainers and baselines",
    response_class=Response,
    responses={
        200: {"model": EstimatorsAnswer, "description": "The catalog"},
        304: {"description": "Not modified"},
        **documented({422: "Not valid"}),
    },
)
async def catalog(if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """What can be asked about by name, with parameters and sources."""
    return conditional(_CATALOG, _TAG, if_none_match, **{"Cache-Control": _FRESH})


@router.post(
    "/analyses",
    summary="Analyze a trainer",
    response_class=Response,
    responses={200: {"model": AnalysisAnswer, "description": "The analysis"}, **documented(SOLVE_PROBLEMS)},
    openapi_extra=described(AnalysisRequest, ANALYSIS_EXAMPLES),
)
async def analyze(request: Request) -> Response:
    """What a trainer really optimizes, how noisy it is and which groups it learns nothing from.

    A known trainer, a member of the family or a table of advantages; on a pilot, or for uniform pass rates.
    """
    asked = await with_pilot(await read_body(request, AnalysisRequest), request.app.state.store)
    inquiry = Inquiry.of(asked, request.app.state.settings)
    pool: Pool = request.app.state.pool
    return Response(await pool.solve(inquiry.milliseconds, analysis, inquiry), media_type="application/json")
