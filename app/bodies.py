"""Reading a request's body: JSON, uncompressed, never more than the limit, and of its schema."""

from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from app.problems import Problem, from_validation
from app.schemas.common import TAGS
from app.settings import Settings

__all__ = ["described", "read_body", "read_json", "too_large", "uncompressed"]

S = TypeVar("S", bound=BaseModel)

#: What a cell is written with. A flood of names or brackets would cost up to a kilobyte each to refuse one by one.
_CELL_MARKS = ((b'"', 6), (b"{", 1), (b"[", 1))
_OTHER_MARKS = 2_000


def described(schema: type[BaseModel], examples: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A body that is read by hand, for the OpenAPI document; `app.main` adds its schema."""
    content = {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}, "examples": examples}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


async def read_body(request: Request, schema: type[S]) -> S:
    """The body as a value of its schema.

    Raises:
        Problem: 400, 413, 415 or 422.
    """
    settings: Settings = request.app.state.settings
    body = await read_json(request, settings.max_body_bytes)
    if any(body.count(mark) > per_cell * settings.max_cells + _OTHER_MARKS for mark, per_cell in _CELL_MARKS):
        raise Problem("limit-exceeded", f"more names or brackets than a pilot of {settings.max_cells:,} cells needs")
    try:
        # In two steps: validating JSON directly copies the whole input for every error and every choice of a union.
        return schema.model_validate(from_json(body, allow_inf_nan=False))
    except ValidationError as error:
        raise from_validation(error, TAGS) from None
    except ValueError as error:
        raise Problem("malformed-json", str(error)) from None


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
    uncompressed(request)
    refusal = too_large(request, limit)
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise refusal
            chunks.append(chunk)
    except ClientDisconnect:
        raise Problem("malformed-json", "the body ended early") from None
    return b"".join(chunks)


def uncompressed(request: Request) -> None:
    """Refuse a compressed body.

    Raises:
        Problem: 415.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Problem("unsupported-media-type", "compressed bodies are not taken")


def too_large(request: Request, limit: int) -> Problem:
    """What to raise once a body turns out to exceed the limit, in bytes.

    Raises:
        Problem: 413 where it says so itself.
    """
    refusal = Problem("body-too-large", f"at most {limit} bytes", headers={"Connection": "close"})
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise refusal
    return refusal
