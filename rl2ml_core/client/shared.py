"""What both clients do alike: headers, timeouts, and the answer that this process gives in the service's place."""

from collections.abc import Mapping
from typing import Any, Final

import httpx

from rl2ml_core.checks import finite_number
from rl2ml_core.client.answers import RecommendationAnswer
from rl2ml_core.client.errors import ServiceDown
from rl2ml_core.client.policy import Health
from rl2ml_core.errors import InvalidInput
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.metrics import Metric
from rl2ml_core.selection.recommend import recommend
from rl2ml_core.version import __version__

__all__ = ["headers_of", "instead", "taking_over", "timeouts"]

#: Seconds to connect: whoever is there accepts at once.
_CONNECT: Final = 3.0


def headers_of(key: str | None) -> dict[str, str]:
    """What every request carries.

    Raises:
        InvalidInput: a key that no header can hold.
    """
    headers = {"Accept": "application/json", "User-Agent": f"rl2ml/{__version__}"}
    if key is not None:
        if not key.isascii() or not key.isprintable() or " " in key or not key:
            raise InvalidInput("key must be of printable ASCII without spaces; got something else", field="key")
        headers["Authorization"] = f"Bearer {key}"
    return headers


def timeouts(seconds: float) -> httpx.Timeout:
    """Of one attempt.

    Raises:
        InvalidInput: no positive number.
    """
    seconds = finite_number(seconds, "timeout", above=0)
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT))


def taking_over(error: ServiceDown) -> str:
    """The warning's sentence."""
    return f"{error}. The solver in this process decides until the service is back; this is said once."


def instead(
    error: ServiceDown,
    health: Health,
    pilot: PilotHistogram | str,
    metric: Metric | str,
    num_rollouts: int,
    options: Mapping[str, Any],
) -> RecommendationAnswer:
    """This process's own answer, with a warning.

    Raises:
        ServiceDown: the pilot is with the service alone.
        InvalidInput: as `rl2ml_core.recommend`.
    """
    if isinstance(pilot, str):
        raise error
    health.warn(taking_over(error), stacklevel=3)
    return RecommendationAnswer("local", recommend(pilot, metric, num_rollouts, **options).to_dict())
