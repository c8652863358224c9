"""Pilots from dumps of rollouts: what was read, what it says and what would mislead, as text."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

import rl2ml_core as rl2ml
from rl2ml_core.cli.console import progress
from rl2ml_core.cli.layout import fields, marked, table
from rl2ml_core.errors import UnknownLayout
from rl2ml_core.pilot.rollouts import Step

__all__ = ["findings_text", "pilot_of", "reading", "rollouts_text"]

_BINS, _WIDTH = 10, 40
_MOST_FILES, _MOST_STEPS = 8, 12


@contextmanager
def reading() -> Iterator[Callable[[int, int], None] | None]:
    """A bar of bytes read on standard error, for people only."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = TextColumn("Reading"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def pilot_of(
    paths: Sequence[str], success: str | None, steps: str | None, kind: str | None
) -> tuple[rl2ml.PilotHistogram, rl2ml.Rollouts | None]:
    """A pilot from a table, or from what trainers and evaluators dump where it is none; with all that dumps say.

    Raises:
        InvalidInput, MissingExtra, OSError: as `read_pilot` and `read_rollouts`.
    """
    alone = len(paths) == 1 and not (success or steps or kind)
    refused: rl2ml.InvalidTable | None = None
    if alone and (paths[0] == "-" or not Path(paths[0]).is_dir()):
        try:
            with progress(f"Reading {paths[0]} …"):
                return rl2ml.read_pilot(paths[0]), None
        except rl2ml.InvalidTable as error:
            if paths[0] == "-" or not Path(paths[0]).is_file():
                raise
            refused = error
    try:
        with reading() as bar:
            found = rl2ml.read_rollouts(paths, format=kind, success=success, steps=steps, progress=bar)
    except rl2ml.InvalidTable as error:
        # What is no dump either, or is a table with a mistake in it, was refused as a table.
        if refused is not None and (isinstance(error, UnknownLayout) or not isinstance(refused, UnknownLayout)):
            raise refused from None
        raise
    except rl2ml.MissingExtra:
        if refused is not None:
            raise refused from None
        raise
    return found.pilot, found


def rollouts_text(found: rl2ml.Rollouts) -> RenderableType:
    """What was read, the pass rates as a histogram, steps, and findings."""
    rate = found.successes / found.rollouts if found.rollouts else 0.0
    formats = ", ".join(f"{count} {name}" for name, count in found.formats.items())
    head = (
        f"{found.prompts:,} prompts, {found.rollouts:,} rollouts, {rate:.1%} successes "
        f"({found.success}) from {len(found.files):,} file{'s' * (len(found.files) != 1)}."
    )
    rows = [("formats", formats)]
    rows += [("left out", f"{count:,} rows: {reason}") for reason, count in found.skipped.items()]
    unread = [one for one in found.files if one.note]
    rows += [("not read", f"{one.path}: {one.note}") for one in unread[:_MOST_FILES]]
    if len(unread) > _MOST_FILES:
        rows.append(("not read", f"and {len(unread) - _MOST_FILES} more"))
    parts: list[RenderableType] = [Text(head, style="bold"), Text(""), fields(rows), Text(""), _histogram(found.pilot)]
    if found.steps is not None and len(found.steps) > 1:
        parts += [Text(""), _by_step(found.steps)]
    return Group(*parts, *findings_text(found))


def findings_text(found: rl2ml.Rollouts) -> list[RenderableType]:
    """What would mislead, each marked by its level, after an empty line."""
    return [Text(""), *marked(found.findings)] if found.findings else []


def _histogram(pilot: rl2ml.PilotHistogram) -> RenderableType:
    """Prompts by success rate: none, all, and tenths between."""
    rates = pilot.num_successes / pilot.num_rollouts
    between = (rates > 0) & (rates < 1)
    tenths, _ = np.histogram(rates[between], _BINS, (0, 1), weights=pilot.num_prompts[between])
    labels = ["0 %", *(f"{10 * i} to {10 * i + 10} %" for i in range(_BINS)), "100 %"]
    counts = [float(pilot.num_prompts[rates == 0].sum()), *tenths.tolist(), float(pilot.num_prompts[rates == 1].sum())]
    most = max(counts)
    lines = [f"  {'success rate':>13}  {'prompts':>9}"]
    for label, count in zip(labels, counts, strict=True):
        lines.append(f"  {label:>13}  {count:>9,.0f}  {'█' * round(_WIDTH * count / most)}".rstrip())
    return Text("\n".join(lines))


def _by_step(steps: Sequence[Step]) -> RenderableType:
    """Pass rates over training, some of the steps where there are many."""
    shown = [steps[i] for i in sorted({round(i) for i in np.linspace(0, len(steps) - 1, _MOST_STEPS).tolist()})]
    rows = [
        ("?" if one.step is None else str(one.step), f"{one.prompts:,}", f"{one.successes / max(one.rollouts, 1):.1%}")
        for one in shown
    ]
    return table(("step", "prompts", "successes"), rows, gap=2)
