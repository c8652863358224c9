"""`/`: the page for people, from files of our own; programs that ask for anything but HTML get an index in JSON."""

from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

import rl2ml_core as rl2ml
from app.files import served
from rl2ml_core.report import ASSETS

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_FOLDER: Final = Path(__file__).resolve().parent.parent / "web"
_INDEX: Final = {"index.html": _FOLDER / "index.html"}
_FILES: Final = {**ASSETS, **{name: _FOLDER / name for name in ("page.css", "main.js", "count.js", "example.json")}}
#: The page changes with the version alone, but nobody should see an old one after an upgrade.
_ASK_AGAIN: Final = {"Cache-Control": "no-cache", "Vary": "Accept, Accept-Encoding"}


@router.get("/")
async def page(request: Request) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return served(request, _INDEX, "index.html", **_ASK_AGAIN)
    index = {"service": "rl2ml", "version": rl2ml.__version__, "openapi": "openapi.json", "docs": "docs"}
    return JSONResponse(index, headers={"Vary": "Accept"})


@router.get("/web/{name}")
async def file(request: Request, name: str) -> Response:
    return served(request, _FILES, name, **{"Cache-Control": "no-cache"})
