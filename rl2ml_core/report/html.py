"""The report: scripts and styles inlined, what they draw as JSON beside them. All numbers are made here."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from html import escape
from pathlib import Path
from typing import Any, Final

from rl2ml_core.objective.analysis import analyze
from rl2ml_core.objective.catalog import KNOWN_TRAINERS
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.recommend import Recommendation

__all__ = ["ASSETS", "report_html"]

_FOLDER: Final = Path(__file__).resolve().parent / "assets"
#: The files of the views, which the service's page uses too: its name → where it is.
ASSETS: Final[Mapping[str, Path]] = {
    **{name: _FOLDER / "uplot" / name for name in ("uPlot.iife.min.js", "uPlot.min.css")},
    **{name: _FOLDER / name for name in ("style.css", "plots.js", "views.js", "report.html")},
}
_STYLES: Final = ("uPlot.min.css", "style.css")
_SCRIPTS: Final = ("uPlot.iife.min.js", "plots.js", "views.js")
_PLACE: Final = re.compile(r"\{\{(\w+)\}\}")


def report_html(found: Recommendation, pilot: PilotHistogram, current: str | float = "grpo") -> str:
    """A self-contained HTML document: the answer, what it rests on, and every view of the service's page.

    Args:
        found: a recommendation.
        pilot: what it was made from.
        current: the trainer that it was compared with, a catalog name or a γ.

    Returns:
        HTML that opens from a file, offline; its policy allows no request.
    """
    name = KNOWN_TRAINERS[current].label if isinstance(current, str) else f"γ = {current:g}"
    data = {
        "recommendation": found.to_dict(),
        "cells": [list(cell) for cell in pilot.cells()],
        "trainer": name,
        "analyses": list(_analyses(found, pilot, current)),
    }
    values = {
        "title": escape(found.summary),
        "styles": "\n".join(map(_read, _STYLES)),
        "scripts": "\n".join(map(_read, _SCRIPTS)),
        "data": json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
    }
    return _PLACE.sub(lambda place: values[place[1]], _read("report.html"))


def _analyses(found: Recommendation, pilot: PilotHistogram, current: str | float) -> Iterator[dict[str, Any]]:
    """What the views compare: the choice, both ends, and all known trainers that the group size allows."""
    if found.objective is None or found.gamma is None:
        return
    n, baseline = found.objective.num_rollouts, found.objective.baseline
    assert n is not None
    members = (
        (found.gamma, {"label": f"γ = {found.gamma:.3g}", "color": "main", "compared": True, "is_choice": True}),
        (0.0, {"label": "RL (γ = 0)", "color": "rl", "compared": True, "hidden": True}),
        (1.0, {"label": "max. likelihood (γ = 1)", "color": "ml", "compared": True, "hidden": True}),
    )
    for gamma, shown in members:
        yield analyze(gamma, n, pilot, baseline=baseline).to_dict() | shown
    if not isinstance(current, str):
        shown = {"label": f"γ = {current:g}", "color": "now", "compared": True, "is_current": True}
        yield analyze(current, n, pilot, baseline=baseline).to_dict() | shown
    for name, trainer in KNOWN_TRAINERS.items():
        if trainer.least_rollouts <= n:
            own = name == current
            shown = {"label": trainer.label, "color": "now", "compared": own, "is_current": own}
            yield analyze(name, n, pilot).to_dict() | shown


@cache
def _read(name: str) -> str:
    return ASSETS[name].read_text(encoding="utf-8")
