"""`/v1/recommendations`: from a pilot to the objective to train with."""

import asyncio
import logging
import re
from collections import OrderedDict
from typing import Annotated, Final

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from app.answers import conditional
from app.bodies import described, read_body
from app.examples import REQUEST_EXAMPLES
from app.pilots import with_pilot
from app.pool import Pool
from app.problems import SOLVE_PROBLEMS, STORE_PROBLEMS, Problem, documented
from app.schemas.recommendations import RecommendationAnswer, RecommendationRequest
from app.settings import Settings
from app.solving import Question, answer
from app.store import Store
from app.stored_content import add_recommendations, find_recommendation

__all__ = ["DOCUMENTED", "Recommendations", "router"]

router = APIRouter(prefix="/v1/recommendations", tags=["recommendations"])

DOCUMENTED = (RecommendationRequest,)

_LOG = logging.getLogger(__name__)
_ID: Final = re.compile("rec_[0-9a-f]{32}")
#: Answers waiting to be written; what comes beyond is kept in memory alone.
_MOST_UNSAVED: Final = 200


class Recommendations:
    """Answers by id, the newest kept within a number of bytes; the same question is solved once at a time."""

    def __init__(self, settings: Settings, pool: Pool, store: Store) -> None:
        self._settings, self._pool, self._store = settings, pool, store
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._under_way: dict[str, asyncio.Task[bytes]] = {}
        self._unsaved: dict[str, bytes] = {}
        self._saving: asyncio.Task[None] | None = None

    async def of(self, question: Question) -> tuple[str, bytes]:
        """The answer's id and JSON."""
        identity = question.id
        known = self._recent(identity)
        if known is not None:
            return identity, known
        if not self._pool.takes(question.milliseconds):
            body = self._pool.here(answer, question, identity)
            self._keep(identity, body)
            return identity, body
        if identity not in self._under_way:
            task = asyncio.create_task(self._pool.run(answer, question, identity))
            self._under_way[identity] = task
            task.add_done_callback(lambda done: self._finish(identity, done))
        # Shielded: a client that leaves must not take the answer from those who wait for it too.
        try:
            return identity, await asyncio.shield(self._under_way[identity])
        except asyncio.CancelledError:
            # The server stops and waits no longer: say so, rather than nothing.
            raise Problem("not-ready", "the service is stopping") from None

    async def get(self, identity: str) -> bytes | None:
        """The JSON kept for an id, here or in the store.

        Raises:
            Problem: those of the store.
        """
        known = self._recent(identity) or self._unsaved.get(identity)
        if known is not None or not self._store.is_lasting or not _ID.fullmatch(identity):
            return known
        return await self._store.reading(find_recommendation, identity)

    async def saved(self) -> None:
        """Wait until what is to be kept is in the store, or could not be."""
        if self._saving is not None:
            await self._saving

    def _recent(self, identity: str) -> bytes | None:
        if identity in self._kept:
            self._kept.move_to_end(identity)
        return self._kept.get(identity)

    def _finish(self, identity: str, task: "asyncio.Task[bytes]") -> None:
        del self._under_way[identity]
        if not task.cancelled() and task.exception() is None:
            self._keep(identity, task.result())

    def _keep(self, identity: str, body: bytes) -> None:
        if self._store.is_lasting and len(self._unsaved) < _MOST_UNSAVED:
            self._unsaved[identity] = body
            if self._saving is None:
                self._saving = asyncio.create_task(self._save())
        self._kept[identity] = body
        self._bytes += len(body)
        while self._kept and (
            len(self._kept) > self._settings.cache_entries or self._bytes > self._settings.cache_bytes
        ):
            self._bytes -= len(self._kept.popitem(last=False)[1])

    async def _save(self) -> None:
        """Behind the answers, in batches. Answers can be computed again, so the store's troubles are not theirs."""
        try:
            while self._unsaved:
                batch = dict(self._unsaved)
                try:
                    await self._store.writing(add_recommendations, batch, self._settings.store_entries)
                except Exception as error:  # noqa: BLE001
                    _LOG.warning("recommendations were not kept: %s", error)
                for identity in batch:
                    del self._unsaved[identity]
        finally:
            self._saving = None


@router.post(
    "",
    summary="Recommend an objective",
    response_class=Response,
    responses={
        200: {"model": RecommendationAnswer, "description": "The recommendation; flat and uninformative ones too"},
        **documented(SOLVE_PROBLEMS),
    },
    openapi_extra=described(RecommendationRequest, REQUEST_EXAMPLES),
)
async def create(request: Request) -> Response:
    """From a pilot, a metric and a budget to the γ, the table of advantages and how sure they are.

    Deterministic: the same question has the same `id` and answer, whichever form its pilot takes.
    """
    asked = await with_pilot(await read_body(request, RecommendationRequest), request.app.state.store)
    question = Question.of(asked, request.app.state.settings)
    recommendations: Recommendations = request.app.state.recommendations
    identity, content = await recommendations.of(question)
    location = f"{request.scope.get('root_path', '')}/v1/recommendations/{identity}"
    return Response(
        content,
        media_type="application/json",
        headers={"Content-Location": location, "ETag": f'"{identity}"'},
    )


@router.get(
    "/{identity}",
    summary="A recommendation given before",
    response_class=Response,
    responses={
        200: {"model": RecommendationAnswer, "description": "The recommendation"},
        304: {"description": "Not modified"},
        **documented({404: "Not kept", 422: "Not valid", 503: STORE_PROBLEMS[503]}),
    },
)
async def read(request: Request, identity: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    """As long as it is kept. An id names its content, so a known ETag answers 304."""
    recommendations: Recommendations = request.app.state.recommendations
    content = await recommendations.get(identity)
    if content is None:
        raise Problem("not-found")
    return conditional(content, identity, if_none_match)
