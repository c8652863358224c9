"""The application: `uvicorn app.main:app`, or `create_app(settings)` with settings of your own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

import rl2ml_core as rl2ml
from app import problems
from app.pool import Pool
from app.routes import estimators, health, plans, recommendations
from app.schemas.common import ProblemDocument
from app.settings import Settings

__all__ = ["app", "create_app"]

_DESCRIPTION = """From a small pilot (how often did each prompt succeed?), the metric you are judged on and the rollouts
you can afford per prompt to the objective to train with. γ (`gamma`) is the objective's parameter, no discount factor:
0 is RL (pass@1), 1 is maximum likelihood. Errors are `application/problem+json`."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service with given settings (default: from the environment)."""
    chosen = settings or Settings()
    pool = Pool(chosen)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        pool.close()

    service = FastAPI(
        title="RL2ML",
        version=rl2ml.__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # both would load scripts from a CDN
        redoc_url=None,
    )
    service.state.settings = chosen
    service.state.pool = pool
    service.state.recommendations = recommendations.Recommendations(chosen, pool)
    problems.install(service)
    for routes in (health, recommendations, estimators, plans):
        service.include_router(routes.router)

    def openapi() -> dict[str, Any]:
        if service.openapi_schema is None:
            document = get_openapi(
                title=service.title, version=service.version, description=service.description, routes=service.routes
            )
            # Bodies are read by hand (see bodies.py), so their schemas are added by hand.
            _, schemas = models_json_schema(
                [
                    (model, "validation")
                    for model in (
                        *recommendations.DOCUMENTED,
                        *estimators.DOCUMENTED,
                        *plans.DOCUMENTED,
                        ProblemDocument,
                    )
                ],
                ref_template="#/components/schemas/{model}",
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
            service.openapi_schema = document
        return service.openapi_schema

    service.openapi = openapi  # type: ignore[method-assign]
    return service


app = create_app()
