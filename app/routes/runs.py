"""`/v1/runs`: γ over a training run, window by window."""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import Response

from app.answers import conditional
from app.bodies import described, read_body
from app.cursors import cursor_of, page, place_of
from app.examples import REWIND_EXAMPLES, RUN_EXAMPLES, WINDOW_EXAMPLES
from app.owners import owner_of
from app.pilots import with_pilot
from app.problems import SOLVE_PROBLEMS, STORE_PROBLEMS, documented
from app.runs import Put, Runs
from app.schemas.runs import (
    MAX_INDEX,
    RewindRequest,
    RunAnswer,
    RunRequest,
    RunsAnswer,
    WindowAnswer,
    WindowRequest,
    WindowsAnswer,
)
from app.stepping import Start, window_of
from app.stored_runs import Decided, Past, StoredRun, Summary

__all__ = ["DOCUMENTED", "router"]

router = APIRouter(prefix="/v1/runs", tags=["runs"])

DOCUMENTED = (RunRequest, WindowRequest, RewindRequest)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_SUCH = {404: "No such run of this key"}
_CONFLICT = {409: "The run takes another window: `expected_index`"}
_CHANGED = documented(SOLVE_PROBLEMS | STORE_PROBLEMS | _NO_SUCH | _CONFLICT)
_READ = documented({503: STORE_PROBLEMS[503]} | _NO_SUCH | {422: "Not valid"})
_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "Not modified"}}

IfNoneMatch = Annotated[str | None, Header()]
Limit = Annotated[int, Query(ge=1, le=100, description="items of a page, at most")]
Cursor = Annotated[str | None, Query(max_length=200, description="the `next_cursor` of the page before")]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="names the run among the owner's own, so that asking again gives the same run",
    ),
]


@router.post(
    "",
    summary="Create a run",
    status_code=201,
    response_class=Response,
    responses={
        201: {"model": RunAnswer, "description": "The run, with the decision to train its first window with"},
        200: {"model": RunAnswer, "description": "The run that was created with this key, as it stands"},
        **documented(SOLVE_PROBLEMS | STORE_PROBLEMS),
    },
    openapi_extra=described(RunRequest, RUN_EXAMPLES),
)
async def create(request: Request, idempotency_key: Key = None) -> Response:
    """From a metric, a budget and, if there is one, a pilot to the objective of the first window."""
    asked = await with_pilot(await read_body(request, RunRequest), request.app.state.store)
    start_of = Start.of(asked, request.app.state.settings)
    is_new, run = await _runs(request).create(owner_of(request), start_of, idempotency_key)
    location = f"{request.scope.get('root_path', '')}/v1/runs/{run.summary.id}"
    headers = {"Location": location} if is_new else {"Content-Location": location}
    return Response(_run(run), 201 if is_new else 200, headers=headers, media_type="application/json")


@router.get(
    "",
    summary="Runs, the newest first",
    response_class=Response,
    responses={
        200: {"model": RunsAnswer, "description": "A page"},
        **_MODIFIED,
        **documented({422: "Not valid", 503: STORE_PROBLEMS[503]}),
    },
)
async def list_all(
    request: Request, limit: Limit = 20, cursor: Cursor = None, if_none_match: IfNoneMatch = None
) -> Response:
    """The runs of this key. Runs that are created meanwhile do not disturb the pages that follow."""
    found = await _runs(request).newest(owner_of(request), limit + 1, place_of(cursor, str))
    return _tagged(page(found, limit, _summary, lambda run: cursor_of((run.created, run.id[4:]))), if_none_match)


@router.get(
    "/{identity}",
    summary="A run as it stands",
    response_class=Response,
    responses={200: {"model": RunAnswer, "description": "The run"}, **_MODIFIED, **_READ},
)
async def read(request: Request, identity: str, if_none_match: IfNoneMatch = None) -> Response:
    """With the decision to train the next window with."""
    return _tagged(_run(await _runs(request).get(owner_of(request), identity)), if_none_match)


@router.delete(
    "/{identity}",
    summary="Delete a run",
    status_code=204,
    response_class=Response,
    responses={
        204: {"description": "It is gone, with its windows"},
        **documented(STORE_PROBLEMS | _NO_SUCH | {422: "Not valid"}),
    },
)
async def delete(request: Request, identity: str) -> Response:
    """With its windows. Its idempotency key is free again."""
    await _runs(request).delete(owner_of(request), identity)
    return Response(status_code=204)


@router.put(
    "/{identity}/windows/{index}",
    summary="Put a window's success counts",
    status_code=201,
    response_class=Response,
    responses={
        201: {"model": WindowAnswer, "description": "It was taken: the decision to train the next window with"},
        200: {"model": WindowAnswer, "description": "The same was put before, and this is what was answered"},
        **_CHANGED,
    },
    openapi_extra=described(WindowRequest, WINDOW_EXAMPLES),
)
async def put(request: Request, identity: str, index: Annotated[int, Path(ge=0, le=MAX_INDEX)]) -> Response:
    """Windows come in order, from 0 on. Putting one again is safe, and gives the same bytes."""
    window = window_of(await read_body(request, WindowRequest), request.app.state.settings)
    taken = await _runs(request).put(owner_of(request), identity, index, window)
    return Response(_window(taken), 201 if taken.is_new else 200, media_type="application/json")


@router.get(
    "/{identity}/windows",
    summary="A run's windows, in the order in which they were put",
    response_class=Response,
    responses={200: {"model": WindowsAnswer, "description": "A page"}, **_MODIFIED, **_READ},
)
async def history(
    request: Request, identity: str, limit: Limit = 20, cursor: Cursor = None, if_none_match: IfNoneMatch = None
) -> Response:
    """Those that a rewind gave up as well: they are `superseded`, and of an earlier `generation`."""
    found = await _runs(request).history(owner_of(request), identity, limit + 1, place_of(cursor, int))
    content = page(found, limit, _past, lambda window: cursor_of((window.generation, window.number)))
    return _tagged(content, if_none_match)


@router.post(
    "/{identity}/rewinds",
    summary="Rewind a run",
    response_class=Response,
    responses={200: {"model": RunAnswer, "description": "The run as it then stands"}, **_CHANGED},
    openapi_extra=described(RewindRequest, REWIND_EXAMPLES),
)
async def rewind(request: Request, identity: str) -> Response:
    """For a trainer that resumes from a checkpoint: `to_index` is the window that comes next again.

    The controller is as it was before that window; what was put since stays in the history. Nothing changes where the
    run takes that window next anyway.
    """
    asked = await read_body(request, RewindRequest)
    run = await _runs(request).rewind(owner_of(request), identity, asked.to_index)
    return Response(_run(run), media_type="application/json")


def _runs(request: Request) -> Runs:
    runs: Runs = request.app.state.runs
    return runs


def _tagged(content: bytes, if_none_match: str | None) -> Response:
    # A private cache may keep it, but must ask again: a run goes on.
    tag = hashlib.sha256(content).hexdigest()[:32]
    return conditional(content, tag, if_none_match, **{"Cache-Control": "private, no-cache"})


def _time(microseconds: int) -> str:
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _object(**fields: str) -> bytes:
    """An object of fields that are JSON already."""
    return ("{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}").encode()


def _fields(run: Summary) -> dict[str, str]:
    return {
        "id": f'"{run.id}"',
        "created": f'"{_time(run.created)}"',
        "generation": str(run.generation),
        "index": str(run.next_number),
        "settings": run.settings,
    }


def _summary(run: Summary) -> bytes:
    return _object(**_fields(run))


def _run(run: StoredRun) -> bytes:
    return _object(**_fields(run.summary), decision=_decision(run.last))


def _decision(decided: Decided) -> str:
    """With its objective, which is kept apart."""
    return f'{decided.decision[:-1]},"objective":{decided.objective}}}'


def _window(taken: Put) -> bytes:
    return _object(
        run=f'"{taken.run}"',
        index=str(taken.number),
        generation=str(taken.generation),
        num_prompts=json.dumps(taken.num_prompts),
        decision=_decision(taken.after),
    )


def _past(window: Past) -> bytes:
    return _object(
        index=str(window.number),
        generation=str(window.generation),
        superseded=json.dumps(bool(window.superseded)),
        put=f'"{_time(window.put)}"',
        cells=window.cells,
        decision=window.decision,
    )
