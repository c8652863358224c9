"""Errors as `application/problem+json` (RFC 9457): a published list of types, at most 20 pointers, no echo of input."""

import json
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from rl2ml_core.errors import InvalidInput, RL2MLError

__all__ = [
    "MEDIA_TYPE",
    "PROBLEM_TYPES",
    "SOLVE_PROBLEMS",
    "STORE_PROBLEMS",
    "Problem",
    "documented",
    "from_invalid_input",
    "from_validation",
    "in_a_group",
    "install",
]

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20
_MOST_LISTED = 1_000  # listing errors costs a kilobyte each, however few are kept
_LONGEST_DETAIL = 300

#: name → (status, title). The type's URI is `urn:rl2ml:problem:` and the name.
PROBLEM_TYPES = {
    "malformed-json": (400, "The body is not JSON"),
    "malformed-table": (400, "The table did not arrive whole"),
    "unauthorized": (401, "The request needs an API key"),
    "not-found": (404, "No such resource"),
    "method-not-allowed": (405, "The resource does not take this method"),
    "request-timeout": (408, "The body took too long to arrive"),
    "window-conflict": (409, "The run takes another window"),
    "body-too-large": (413, "The body exceeds the size limit"),
    "unsupported-media-type": (415, "The body must be of a type taken here, and uncompressed"),
    "invalid-request": (422, "The request is not valid"),
    "limit-exceeded": (422, "The request exceeds a limit of this service"),
    "idempotency-key-reused": (422, "The idempotency key was used with another request"),
    "too-many-requests": (429, "Too many requests"),
    "internal-error": (500, "The service failed"),
    "overloaded": (503, "Too many solves are under way"),
    "deadline-exceeded": (503, "The solve took longer than this service allows"),
    "not-ready": (503, "The service is not ready"),
    "store-busy": (503, "The store is busy"),
    "store-unavailable": (503, "The store cannot be reached"),
    "storage-full": (507, "The store is full"),
}
#: Statuses of whatever takes a body and solves, as the OpenAPI document describes them.
SOLVE_PROBLEMS = {
    400: "Not JSON",
    413: "Body too large",
    415: "Not uncompressed application/json",
    422: "Not valid, or beyond a limit",
    503: "Overloaded, or past the deadline",
}
#: And of whatever writes to the store.
STORE_PROBLEMS = {503: "Overloaded, past the deadline, or the store is busy or away", 507: "The store is full"}
_BY_STATUS = {404: "not-found", 405: "method-not-allowed", 413: "body-too-large", 415: "unsupported-media-type"}

# What a pointer may repeat of a request: names that could be ours. Anything else is left out.
_HARMLESS = re.compile(r"[a-z][a-z0-9_]{0,39}")
#: Below it all names are the client's own: no pointer goes further.
_GROUPS = "groups"


class Problem(Exception):
    """An answer other than success."""

    def __init__(
        self,
        name: str,
        detail: str | None = None,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: dict[str, str] | None = None,
        members: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(name)
        self.name, self.detail, self.errors, self.headers = name, detail, errors, headers
        self.members = members or {}  # of this type alone

    def response(self) -> Response:
        status, title = PROBLEM_TYPES[self.name]
        content: dict[str, Any] = {"type": f"urn:rl2ml:problem:{self.name}", "title": title, "status": status}
        if self.detail:
            content["detail"] = self.detail[:_LONGEST_DETAIL]
        content.update(self.members)
        if self.errors:
            content["errors"] = [
                {"pointer": pointer, "detail": detail[:_LONGEST_DETAIL]} for pointer, detail in self.errors[:MAX_ERRORS]
            ]
        # ASCII: a lone surrogate in a detail must not make the answer unsendable.
        body = json.dumps(content, ensure_ascii=True).encode("ascii")
        return Response(body, status, headers=self.headers, media_type=MEDIA_TYPE)


def from_validation(error: ValidationError, tags: frozenset[str]) -> Problem:
    """The problem of a body that does not fit its schema; `tags` are union members, no part of the document's path."""
    if error.error_count() > _MOST_LISTED:
        return Problem("invalid-request", f"{error.error_count()} errors, too many to list")
    found = error.errors(include_url=False, include_input=False)
    errors = []
    for item in found[:MAX_ERRORS]:
        path = [part for part in item["loc"] if part not in tags]
        errors.append(_of_a_group(path, _message(item)) if _GROUPS in path[:-1] else (_pointer(path), _message(item)))
    return Problem("invalid-request", errors=errors)


def _of_a_group(path: Sequence[Any], message: str) -> tuple[str, str]:
    """Pointer and detail, with the place within the group in the detail."""
    end = path.index(_GROUPS) + 1
    return _pointer(path[:end]), in_a_group(_pointer(path[end + 1 :]).removeprefix("#/"), message)


def in_a_group(place: str, message: str) -> str:
    """What is wrong at a place (such as `cells/3`) of a group whose name is not repeated."""
    return f"{place} of a group: {message}" if place != "#" else f"a group's name or content: {message}"


def _message(item: ErrorDetails) -> str:
    """What is wrong, without what was sent."""
    kind = item["type"]
    if kind == "extra_forbidden":
        return "unknown field"
    if kind in ("model_type", "dict_type"):
        return "expected an object"
    if kind == "union_tag_invalid":
        expected = str(item["ctx"]["expected_tags"]).removesuffix(", 'metric:text'")
        return f"name must be one of {expected.replace('prior:', '')}"
    if kind == "union_tag_not_found":
        return "expected an object with a name, or text such as pass@8"
    return item["msg"].removeprefix("Value error, ").replace("Dictionary", "Object")


def from_invalid_input(error: InvalidInput, pointers: Mapping[str, str]) -> Problem:
    """The problem of values that the mathematics refuses; `pointers` says where each argument stands in the body."""
    pointer = pointers.get(error.field or "", "#")
    if error.index is not None and pointer != "#":
        pointer = f"{pointer}/{error.index}"
    return Problem("invalid-request", errors=[(pointer, _expectation(error))])


def _expectation(error: RL2MLError) -> str:
    """The core's message, "expected …; got …", without what was got."""
    return str(error).partition("; got ")[0]


def documented(descriptions: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """Statuses answered with a problem, for the OpenAPI document."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {status: {"description": text, "content": content} for status, text in descriptions.items()}


def install(app: FastAPI) -> None:
    """Answer every error of `app` as a problem."""

    def answer(request: Request, problem: Problem) -> Response:
        request.state.problem = problem.name  # for the log and the numbers
        return problem.response()

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> Response:
        return answer(request, error)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        name = _BY_STATUS.get(error.status_code)
        if name is None:
            name = "internal-error" if error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid-request"
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers |= _allowed(app, request)
        return answer(request, Problem(name, headers=headers or None))

    @app.exception_handler(RequestValidationError)
    async def _request(request: Request, error: RequestValidationError) -> Response:
        # Only paths and queries come here; bodies are validated by the routes that read them.
        errors = [(_pointer(item["loc"]), str(item["msg"])) for item in error.errors()[:MAX_ERRORS]]
        return answer(request, Problem("invalid-request", errors=errors))

    @app.exception_handler(RL2MLError)
    async def _core(request: Request, error: RL2MLError) -> Response:
        return answer(request, Problem("invalid-request", _expectation(error)))

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, _: Exception) -> Response:
        return answer(request, Problem("internal-error"))


def _allowed(app: FastAPI, request: Request) -> dict[str, str]:
    """Every method of the path: the router names those of the first operation that it finds."""
    scope = request.scope
    path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))
    for template, operations in app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template)), path):
            return {"Allow": ", ".join(sorted(method.upper() for method in operations))}
    return {}


def _pointer(path: Sequence[Any]) -> str:
    """A JSON pointer as far as the path is made of indices and harmless names."""
    parts = []
    for part in path:
        if not isinstance(part, int) and not _HARMLESS.fullmatch(str(part)):
            break
        parts.append(str(part))
    return "#" + "".join(f"/{part}" for part in parts)
