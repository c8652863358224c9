"""Reading a request's body: JSON, uncompressed, and never more than the limit."""

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.problems import Problem

__all__ = ["read_json"]


async def read_json(request: Request, limit: int) -> bytes:
    """The body's bytes, refused before they are kept when too many, compressed or of another type.

    The framework's own limit answers in plain text, and its own parsing lets NaN through; hence by hand.

    Raises:
        Problem: 413 or 415; 400 when the client leaves in the middle.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise Problem("unsupported-media-type", "send Content-Type: application/json")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem("unsupported-media-type", "compressed bodies are not taken")
    too_large = Problem("body-too-large", f"at most {limit} bytes", headers={"Connection": "close"})
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise too_large
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large
            chunks.append(chunk)
    except ClientDisconnect:
        raise Problem("malformed-json", "the body ended early") from None
    return b"".join(chunks)
