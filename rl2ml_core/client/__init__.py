"""The service's client: recommendations and runs, from this process where the service is away. See docs/client.md.

>>> from rl2ml_core.client import Client
>>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
...     answer = client.recommend(pilot, "pass@8", 8)
"""

from rl2ml_core.errors import MissingExtra

try:
    import httpx as _httpx  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "httpx":
        raise
    raise MissingExtra("The client", "client") from None

from rl2ml_core.client.answers import Page, PilotAnswer, RecommendationAnswer, RunAnswer, WindowAnswer
from rl2ml_core.client.awaiting import AsyncClient
from rl2ml_core.client.blocking import Client
from rl2ml_core.client.errors import ServiceDown, ServiceError, ServiceUnavailable
from rl2ml_core.client.runs import Run

__all__ = [
    "AsyncClient",
    "Client",
    "Page",
    "PilotAnswer",
    "RecommendationAnswer",
    "Run",
    "RunAnswer",
    "ServiceDown",
    "ServiceError",
    "ServiceUnavailable",
    "WindowAnswer",
]
