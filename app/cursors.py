"""Pages of lists that grow meanwhile: a cursor says after which item to go on, not how many to skip."""

import base64
import binascii
import json
from collections.abc import Callable
from typing import Final, TypeVar

from app.problems import Problem

__all__ = ["cursor_of", "page", "place_of"]

T = TypeVar("T")
P = TypeVar("P", int, str)

_LARGEST: Final = 2**63 - 1
#: Bytes after which a page ends: a list of the largest windows must not become the largest answer.
_MOST_BYTES: Final = 4 << 20


def cursor_of(place: tuple[int, int] | tuple[int, str]) -> str:
    """The cursor that goes on after a place."""
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).rstrip(b"=").decode()


def place_of(cursor: str | None, kind: type[P]) -> tuple[int, P] | None:
    """The place that a cursor names: a number, and a number or a text.

    Raises:
        Problem: "invalid-request" for what is no cursor of this list.
    """
    if cursor is None:
        return None
    try:
        place = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        place = None
    if isinstance(place, list) and [type(part) for part in place] == [int, kind]:
        first, second = place
        numbers = [part for part in place if isinstance(part, int)]
        if all(0 <= part <= _LARGEST for part in numbers) and (kind is int or str(second).isalnum()):
            return first, second
    raise Problem("invalid-request", errors=[("#/query/cursor", "expected a next_cursor of this list")])


def page(items: list[T], limit: int, text: Callable[[T], bytes], place: Callable[[T], str]) -> bytes:
    """Items as JSON, where one more than the limit was asked for to know whether there are more."""
    parts: list[bytes] = []
    size = 0
    for item in items[:limit]:
        if parts and size > _MOST_BYTES:
            break
        parts.append(text(item))
        size += len(parts[-1])
    more = len(parts) < len(items)
    following = json.dumps(place(items[len(parts) - 1]) if more and parts else None).encode()
    return b'{"items":[' + b",".join(parts) + b'],"next_cursor":' + following + b"}"
