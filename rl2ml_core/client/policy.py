"""When a call is repeated and after which wait, and what is known of the service's health. No input or output here."""

import random
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, TypeVar

import httpx

from rl2ml_core.checks import finite_number, integer
from rl2ml_core.client.calls import Call
from rl2ml_core.client.errors import ServiceDown, ServiceError, ServiceUnavailable

__all__ = ["Health", "Outcome", "Retries", "content_of", "settle", "understood"]

T = TypeVar("T")

#: What an attempt ends with.
Outcome: TypeAlias = "httpx.Response | httpx.RequestError"

_FIRST_WAIT: Final = 0.2  # seconds; doubled every time
_LONGEST_WAIT: Final = 5.0
#: After a failure of the whole service, how long it is left alone: training must not wait for it window after window.
_LEFT_ALONE: Final = 15.0
_TOO_SLOW, _TOO_MANY, _SERVER_ERROR = 408, 429, 500
#: The same request would take as long again.
_HOPELESS = ("deadline-exceeded",)
#: Nothing was sent, so that even what must not happen twice may be tried again.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Retries:
    """How often and how long a call is tried.

    Args:
        most: attempts after the first.
        patience: seconds after which no further attempt begins, waits that the service asks for included.

    Raises:
        InvalidInput: a value outside its range.
    """

    most: int = 3
    patience: float = 30.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "most", integer(self.most, "retries", minimum=0, maximum=100))
        object.__setattr__(self, "patience", finite_number(self.patience, "patience", minimum=0))

    def wait(self, call: Call, attempt: int, elapsed: float, outcome: Outcome) -> float | None:
        """Seconds until the next attempt; None where the outcome stands.

        Args:
            attempt: how many were made.
            elapsed: seconds since the first began.
        """
        if attempt > self.most or not _is_worth_another(call, outcome):
            return None
        # Full jitter: many jobs that lost one service must not come back at one moment.
        backoff = random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (attempt - 1)))  # noqa: S311
        asked = _asked_for(outcome)
        wait = backoff if asked is None else asked + backoff
        return wait if elapsed + wait <= self.patience else None


@dataclass
class Health:
    """Whether the service answered last, and what was said of it."""

    left_alone_until: float = field(default=0.0)
    warned: set[str] = field(default_factory=set)

    @property
    def is_out(self) -> bool:
        """Whether it failed so lately that it is not asked again yet."""
        return time.monotonic() < self.left_alone_until

    def check(self, address: str) -> None:
        """Whether to ask.

        Raises:
            ServiceDown: it failed a moment ago.
        """
        if self.is_out:
            raise ServiceDown(f"{address} failed a moment ago")

    def failed(self) -> None:
        self.left_alone_until = time.monotonic() + _LEFT_ALONE

    def answered(self) -> None:
        self.left_alone_until = 0.0

    def warn(self, message: str, stacklevel: int = 2, *, kind: str = "down") -> None:
        """Say it, unless something of its kind was said before."""
        if kind not in self.warned:
            self.warned.add(kind)
            warnings.warn(message, ServiceUnavailable, stacklevel=stacklevel + 1)


def settle(outcome: Outcome, address: str, health: Health) -> httpx.Response:
    """The response that is an answer.

    Raises:
        ServiceDown: no connection, 5xx, 429, or 408 where the body was too slow.
        ServiceError: any other refusal.
    """
    if isinstance(outcome, httpx.RequestError):
        health.failed()
        raise ServiceDown(f"{address} cannot be reached ({type(outcome).__name__})") from outcome
    if _is_failure(outcome):
        health.failed()
    else:
        health.answered()
    if outcome.is_success:
        return outcome
    problem = _problem(outcome)
    said = problem.get("title") or outcome.reason_phrase or "no reason"
    errors = problem.get("errors")
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    where = f" ({first.get('pointer')}: {first.get('detail')})" if first else ""
    detail = f": {problem['detail']}" if problem.get("detail") else ""
    kind = ServiceDown if _is_failure(outcome) else ServiceError
    raise kind(f"{address} answered {outcome.status_code}, {said}{detail}{where}", outcome.status_code, problem)


def content_of(response: httpx.Response, address: str) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        ServiceDown: something else than this service answered.
    """
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ServiceDown(f"{address} answered with something else than this service would", response.status_code)
    return content


def understood(made: Callable[[Mapping[str, Any]], T], content: Mapping[str, Any], address: str) -> T:
    """An answer as a value.

    Raises:
        ServiceDown: it is not one of this service, or of a version that this one does not understand.
    """
    try:
        return made(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServiceDown(f"{address} answered with something else than this service would") from error


def _is_failure(response: httpx.Response) -> bool:
    return response.status_code >= _SERVER_ERROR or response.status_code in (_TOO_MANY, _TOO_SLOW)


def _is_worth_another(call: Call, outcome: Outcome) -> bool:
    if isinstance(outcome, httpx.RequestError):
        return call.repeatable or isinstance(outcome, _NOT_SENT)
    if outcome.status_code == _TOO_MANY:
        return True  # refused before anything was done
    name = str(_problem(outcome).get("type", "")).rpartition(":")[2]
    return call.repeatable and _is_failure(outcome) and name not in _HOPELESS


def _asked_for(outcome: Outcome) -> float | None:
    """Retry-After in seconds; its other form, a date, is left to the backoff."""
    value = "" if isinstance(outcome, httpx.RequestError) else outcome.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) <= 6 else None


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        content = response.json()
    except ValueError:  # a proxy's page
        return {}
    return content if isinstance(content, dict) else {}
