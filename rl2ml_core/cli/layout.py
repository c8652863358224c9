"""The few shapes that answers are printed in, and how their numbers are written."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import rl2ml_core as rl2ml
from rl2ml_core.pilot.diagnostics import Diagnostic

__all__ = ["Marked", "fields", "marked", "signed_percent", "table", "unit_of_gains"]

_MARKS = {"info": ("·", "dim"), "warning": ("!", "yellow"), "error": ("✗", "red")}


@dataclass(frozen=True)
class Marked:
    """A sentence after a mark: where lines are wrapped its later lines stand below its first, beside the mark."""

    mark: str
    style: str
    text: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.no_wrap:
            yield Text(f"{self.mark} {self.text}", style=self.style)
            return
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(no_wrap=True, style=self.style)
        grid.add_column(style=self.style)
        grid.add_row(Text(self.mark), Text(self.text))
        yield grid


def marked(found: Iterable[Diagnostic]) -> list[RenderableType]:
    """Findings, each after the mark of its level."""
    return [Marked(*_MARKS[one.level], one.detail) for one in found]


def fields(rows: Iterable[tuple[str, str]]) -> RenderableType:
    """Names and values."""
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for name, value in rows:
        grid.add_row(Text(name), Text(value))
    return _indented(grid)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]], words: int = 0, gap: int = 3) -> RenderableType:
    """Rows under titles; the first `words` columns hold words, which may be wrapped, the others numbers."""
    grid = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    height = max(title.count("\n") for title in titles)
    for i, title in enumerate(titles):
        lowered = "\n" * (height - title.count("\n")) + title
        grid.add_column(Text(lowered), justify="left" if i < words else "right", no_wrap=i >= words)
    for row in rows:
        grid.add_row(*map(Text, row))
    return _indented(grid)


def signed_percent(share: float) -> str:
    """A gain: +26.7%, whole percents where there are many, and no negative zero."""
    digits = 1 if abs(share) < 1 else 0
    return f"{round(share, 2 + digits) + 0.0:+.{digits}%}"


def _indented(grid: Table) -> RenderableType:
    return Padding(grid, (0, 0, 0, 2), expand=False)


def unit_of_gains(answer: rl2ml.Recommendation) -> str:
    """What a recommendation's gains are measured by."""
    return "over a training run" if answer.looks_ahead else "per step of equal length"
