"""Files of pages, read once: under an ETag, compressed for who takes that, from a fixed list of names."""

import gzip
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Final

from fastapi import Request
from fastapi.responses import Response

from app.answers import conditional
from app.problems import Problem

__all__ = ["served"]

_MEDIA_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".json": "application/json",
}


def served(request: Request, files: Mapping[str, Path], name: str, **headers: str) -> Response:
    """A file by its name.

    Raises:
        Problem: "not-found".
    """
    if name not in files:
        raise Problem("not-found")
    packed = "gzip" in request.headers.get("accept-encoding", "")
    content, tag = _content(files[name], packed)
    headers = {"Cache-Control": "public, max-age=3600", "Vary": "Accept-Encoding"} | headers
    if packed:
        headers["Content-Encoding"] = "gzip"
    response = conditional(content, tag, request.headers.get("if-none-match"), **headers)
    response.headers["Content-Type"] = _MEDIA_TYPES[files[name].suffix]
    return response


@lru_cache(maxsize=64)
def _content(path: Path, packed: bool) -> tuple[bytes, str]:
    content = path.read_bytes()
    if packed:
        content = gzip.compress(content, mtime=0)
    return content, hashlib.sha256(content).hexdigest()[:32]
