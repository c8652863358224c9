"""What the client raises, and what it warns of.

RL2MLError
└── ServiceError            the service refused: the problem that it answered with
    └── ServiceDown         it cannot be reached, or keeps failing, and nothing can take its place
UserWarning
└── ServiceUnavailable      the solver in this process took its place, or its decisions differ from ours
"""

from typing import Any

from rl2ml_core.errors import RL2MLError

__all__ = ["ServiceDown", "ServiceError", "ServiceUnavailable"]


class ServiceError(RL2MLError):
    """A request that the service refused.

    Attributes:
        status: of HTTP; 0 where there was no answer.
        type: the problem's name, such as "invalid-request"; "" where the answer was no problem of this service.
        problem: the whole problem document.
    """

    def __init__(self, message: str, status: int = 0, problem: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem or {}
        self.type = str(self.problem.get("type", "")).rpartition(":")[2]

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.status, self.problem)

    @property
    def expected_index(self) -> int | None:
        """The window that a run takes next, where another was put."""
        found = self.problem.get("expected_index")
        return found if isinstance(found, int) else None


class ServiceDown(ServiceError):
    """The service cannot be reached, or keeps answering 5xx, 429 or 408."""


class ServiceUnavailable(UserWarning):
    """The solver in this process decides: until the service is back, said once per client; or from now on, per run."""
