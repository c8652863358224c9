"""`/v1/pilots`: tables of counts or rollouts, uploaded once and named by id from then on."""

import hashlib
import json
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.answers import as_json
from app.pool import Pool
from app.problems import STORE_PROBLEMS, Problem, documented
from app.schemas.pilots import PilotAnswer
from app.settings import Settings
from app.store import Store
from app.stored_content import add_pilot
from app.uploads import FORMATS, counted, received

__all__ = ["router"]

router = APIRouter(prefix="/v1/pilots", tags=["pilots"])

_EXAMPLES = {
    "text/csv": "num_successes,num_rollouts\n0,8\n3,8\n",
    "application/jsonl": '{"prompt_id": "a", "reward": 0}\n{"prompt_id": "a", "reward": 1}\n',
}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "columns num_successes and num_rollouts, a row per prompt; or prompt_id and reward (0 or 1), a "
        "row per rollout",
        "content": {
            kind: {"schema": {"type": "string"}, "example": _EXAMPLES[kind]}
            if kind in _EXAMPLES
            else {"schema": {"type": "string", "format": "binary"}}
            for kind in FORMATS
        },
    }
}


@router.post(
    "",
    summary="Upload a pilot",
    status_code=201,
    response_class=Response,
    responses={
        201: {"model": PilotAnswer, "description": "The pilot, as its histogram"},
        200: {"model": PilotAnswer, "description": "The same pilot was uploaded before, in whatever form"},
        **documented(
            {
                400: "The body ended early",
                413: "Body too large",
                415: "Not an uncompressed table",
                422: "Not valid, or beyond a limit",
            }
            | STORE_PROBLEMS
        ),
    },
    openapi_extra=_BODY,
)
async def upload(request: Request) -> Response:
    """A table of counts or rollouts; what is kept is its histogram. The id is a hash of that.

    The table's rows are read as they come and forgotten; any other column is left unread.
    """
    state = request.app.state
    settings: Settings = state.settings
    pool: Pool = state.pool
    store: Store = state.store
    if state.uploads.locked():
        raise Problem("overloaded", "too many uploads are under way", headers={"Retry-After": "1"})
    async with state.uploads, received(request, settings) as (path, kind):
        # Whatever its size: decoding belongs into a process that strangers' files may end.
        beyond = settings.inline_milliseconds + 1
        cells = await pool.solve(beyond, counted, path, kind, settings.max_pilot_rows, settings.max_cells)
    text = json.dumps(cells, separators=(",", ":"))
    identity = f"pilot_{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    is_new = await store.writing(add_pilot, identity, text, settings.store_entries)
    names = ("num_rollouts", "num_successes", "num_prompts")
    content = {
        "id": identity,
        "num_prompts": sum(prompts for _, _, prompts in cells),
        "cells": [dict(zip(names, cell, strict=True)) for cell in cells],
    }
    return Response(as_json(content), 201 if is_new else 200, media_type="application/json")
