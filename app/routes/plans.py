"""`/v1/plans`: from a pilot and a budget of rollouts per step to rollouts per prompt and γ."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.bodies import described, read_body
from app.examples import PLAN_EXAMPLES
from app.pilots import with_pilot
from app.planning import Planning, plan
from app.pool import Pool
from app.problems import SOLVE_PROBLEMS, documented
from app.schemas.plans import PlanAnswer, PlanRequest

__all__ = ["DOCUMENTED", "router"]

router = APIRouter(prefix="/v1/plans", tags=["plans"])

DOCUMENTED = (PlanRequest,)


@router.post(
    "",
    summary="Plan a budget",
    response_class=Response,
    responses={
        200: {"model": PlanAnswer, "description": "The plan; infeasible and uninformative ones too"},
        **documented(SOLVE_PROBLEMS),
    },
    openapi_extra=described(PlanRequest, PLAN_EXAMPLES),
)
async def create(request: Request) -> Response:
    """How many rollouts per prompt and which γ, for a number of rollouts per step; what other splits would cost.

    Deterministic: the same question has the same answer.
    """
    asked = await with_pilot(await read_body(request, PlanRequest), request.app.state.store)
    planning = Planning.of(asked, request.app.state.settings)
    pool: Pool = request.app.state.pool
    return Response(await pool.solve(planning.milliseconds, plan, planning), media_type="application/json")
