"""The exceptions RL2ML raises.

RL2MLError
├── InvalidInput (also a ValueError)     a value the mathematics has no meaning for: "got …, expected …"
│   └── InvalidTable                     a pilot file or rows that cannot be read as counts, with file and row
│       └── UnknownLayout                its columns or fields are of no kind that is known
└── MissingExtra (also an ImportError)   an optional dependency; the message holds the pip command that helps

Expected outcomes (a flat criterion, an answer at a bound) are never exceptions: see `Recommendation.status`.
"""

__all__ = ["InvalidInput", "InvalidTable", "MissingExtra", "RL2MLError", "UnknownLayout"]


class RL2MLError(Exception):
    """Everything RL2ML raises on purpose."""


class InvalidInput(RL2MLError, ValueError):
    """A value outside the domain of what was asked."""

    def __init__(self, message: str, *, field: str | None = None, index: int | None = None) -> None:
        super().__init__(message)
        #: The argument the message is about and the row of it, where there is one: the service makes a pointer of them.
        self.field, self.index = field, index

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by Exception's own pickling, and errors cross process pools.
        return _rebuild, (type(self), str(self), self.field, self.index)


class InvalidTable(InvalidInput):
    """A pilot table that cannot be read as success counts."""


class UnknownLayout(InvalidTable):
    """A table or dump whose columns or fields are of no kind that is known: it may be of another."""


class MissingExtra(RL2MLError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(f"{purpose} needs an optional dependency: pip install 'rl2ml[{extra}]'")
        self.purpose, self.extra = purpose, extra

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.purpose, self.extra)


def _rebuild(cls: type[InvalidInput], message: str, field: str | None, index: int | None) -> InvalidInput:
    return cls(message, field=field, index=index)
