"""What an answer is sent as: JSON without NaN, and 304 to those who have it already."""

from typing import Any

from fastapi.responses import Response
from pydantic_core import from_json, to_json

__all__ = ["as_json", "conditional"]


def as_json(content: dict[str, Any]) -> bytes:
    """An answer's body; a number that JSON has no word for is a failure of ours."""
    body = to_json(content, inf_nan_mode="constants")
    if b"NaN" in body or b"Infinity" in body:  # looked at closely: a client may call a group so
        try:
            from_json(body, allow_inf_nan=False)
        except ValueError:
            raise ArithmeticError("the answer holds a number that JSON has no word for") from None
    return body


def conditional(content: bytes, tag: str, if_none_match: str | None, **headers: str) -> Response:
    """The content under its ETag, or 304 where the client names that."""
    headers |= {"ETag": f'"{tag}"'}
    if if_none_match is not None and (if_none_match.strip() == "*" or f'"{tag}"' in if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/json", headers=headers)
