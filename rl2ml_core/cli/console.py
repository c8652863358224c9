"""How commands write: answers on standard output, for people or programs; errors and progress on standard error."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType

import rl2ml_core as rl2ml

__all__ = ["WRONG", "clear_errors", "progress", "show", "show_json"]

WRONG = 2


def show(*parts: RenderableType) -> None:
    """For people: a terminal gets sentences wrapped at words; elsewhere each stays one line, to be searched or cut."""
    console = Console(highlight=False)
    console.soft_wrap = not console.is_terminal
    for part in parts:
        console.print(part)


def show_json(content: Mapping[str, Any]) -> None:
    """For programs, in one line."""
    typer.echo(json.dumps(content, allow_nan=False, ensure_ascii=False))


@contextmanager
def clear_errors() -> Iterator[None]:
    """Say what is wrong with usage or data in one line, without a traceback."""
    try:
        yield
    except (rl2ml.RL2MLError, OSError) as error:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)
        typer.echo(f"Error: {reason}", err=True)
        raise typer.Exit(WRONG) from None


@contextmanager
def progress(what: str) -> Iterator[None]:
    """A spinner on standard error, for people only."""
    if not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status(what):
        yield
