"""`/docs`: the OpenAPI document as a page, from files of our own: nothing is loaded from elsewhere."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from app.files import served

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_FOLDER: Final = Path(__file__).resolve().parent.parent / "static" / "docs"
_FILES: Final = {name: _FOLDER / name for name in ("swagger-ui-bundle.js", "start.js", "swagger-ui.css")}
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
async def file(request: Request, name: str) -> Response:
    return served(request, _FILES, name)
