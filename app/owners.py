"""Whose a request is."""

from fastapi import Request

__all__ = ["owner_of"]


def owner_of(request: Request) -> str | None:
    """The id of the request's API key; None where none was needed."""
    owner: str | None = getattr(request.state, "owner", None)
    return owner
