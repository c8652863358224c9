"""`/docs`: the OpenAPI document as a page, from files of our own: nothing is loaded from elsewhere."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Header
from fastapi.responses import HTMLResponse, Response

from app.answers import conditional
from app.problems import Problem

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_FOLDER: Final = Path(__file__).resolve().parent.parent / "static" / "docs"
_MEDIA_TYPES: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "start.js": "text/javascript",
    "swagger-ui.css": "text/css",
}
#: Without a script or a style in it, so that the policy allows neither. Relative: a proxy's prefix stays.
_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>RL2ML: the REST service</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="docs/swagger-ui.css">
<body>
<main id="docs"></main>
<noscript>This page needs JavaScript. The document itself: <a href="openapi.json">openapi.json</a>.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""


@router.get("/docs")
async def page() -> HTMLResponse:
    return HTMLResponse(_PAGE)


@router.get("/docs/{name}")
async def file(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
    if name not in _MEDIA_TYPES:
        raise Problem("not-found")
    content, tag = _content(name)
    response = conditional(content, tag, if_none_match, **{"Cache-Control": "public, max-age=3600"})
    response.headers["Content-Type"] = f"{_MEDIA_TYPES[name]}; charset=utf-8"
    return response


@cache
def _content(name: str) -> tuple[bytes, str]:
    content = (_FOLDER / name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:32]
