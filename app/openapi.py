"""What the OpenAPI document says of every operation alike: keys, and the refusals that come before a route."""

from typing import Any

from app.problems import documented

__all__ = ["add_guards"]

_KEY = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, made by `python -m app keys create NAME`. May not be needed on this machine.",
}
_GUARDED = "/v1/"


def add_guards(document: dict[str, Any]) -> None:
    """Add the scheme of keys, 401 and 429 to every guarded operation, and 408 where there is a body."""
    document.setdefault("components", {})["securitySchemes"] = {"key": _KEY}
    statuses = documented({401: "No API key, or none in force", 429: "Too many requests: see Retry-After"})
    late = documented({408: "The body took too long to arrive"})
    for path, operations in document["paths"].items():
        if not path.startswith(_GUARDED):
            continue
        for operation in operations.values():
            operation["security"] = [{}, {"key": []}]
            added = statuses | (late if "requestBody" in operation else {})
            for status, response in added.items():
                operation["responses"].setdefault(str(status), response)
