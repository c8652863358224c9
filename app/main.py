"""The application: `uvicorn app.main:app`, or `create_app(settings)` with settings of your own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.types import ASGIApp, Receive, Scope, Send

import rl2ml_core as rl2ml
from app import logs, problems
from app.guards import Guards, SecurityHeaders
from app.keys import KeyRing
from app.metrics import Metrics
from app.openapi import add_guards
from app.pool import Pool
from app.routes import docs, estimators, health, page, pilots, plans, recommendations, runs
from app.runs import Runs
from app.schemas.common import ProblemDocument
from app.settings import Settings
from app.store import Store

__all__ = ["app", "create_app"]

_DESCRIPTION = """From a small pilot (how often did each prompt succeed?), the metric you are judged on and the rollouts
you can afford per prompt to the objective to train with. γ (`gamma`) is the objective's parameter, no discount factor:
0 is RL (pass@1), 1 is maximum likelihood. Errors are `application/problem+json`."""

#: Uploads that may arrive while the pool is at work on others: each takes a file and a client's time.
_UPLOADS_WAITING = 3


class Service(FastAPI):
    """An application with layers around all of it, its own answer to failures included."""

    layers: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.layers or super().__call__)(scope, receive, send)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service with given settings (default: from the environment)."""
    chosen = settings or Settings()
    metrics = Metrics()
    pool, store = Pool(chosen, metrics), Store(chosen)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        logs.configure(requests=chosen.access_log)
        yield
        await service.state.recommendations.saved()
        pool.close()
        await asyncio.to_thread(store.close)
        metrics.close()

    service = Service(
        title="RL2ML",
        version=rl2ml.__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # both would load scripts from a CDN
        redoc_url=None,
        # Exporters by the usual OTEL_* variables. No logs: theirs would carry messages that quote requests.
        telemetry={"auto_configure": chosen.telemetry, "logs": False},
    )
    service.state.settings = chosen
    service.state.pool = pool
    service.state.store = store
    service.state.metrics = metrics
    service.state.readiness = health.Readiness(store, pool)
    service.state.recommendations = recommendations.Recommendations(chosen, pool, store)
    service.state.uploads = asyncio.Semaphore(chosen.pool_workers + _UPLOADS_WAITING)
    service.state.runs = Runs(chosen, pool, store)
    problems.install(service)
    for routes in (health, page, docs, recommendations, runs, pilots, estimators, plans):
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
                        *runs.DOCUMENTED,
                        *estimators.DOCUMENTED,
                        *plans.DOCUMENTED,
                        ProblemDocument,
                    )
                ],
                ref_template="#/components/schemas/{model}",
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
            add_guards(document)
            service.openapi_schema = document
        return service.openapi_schema

    service.openapi = openapi  # type: ignore[method-assign]
    guarded = Guards(super(Service, service).__call__, chosen, KeyRing(store, chosen.key_seconds))
    service.layers = logs.Observed(SecurityHeaders(guarded), metrics)  # their order: see guards.py
    return service


app = create_app()
