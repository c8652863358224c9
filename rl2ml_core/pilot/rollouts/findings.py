"""What would mislead: said with counts and an example each. What the histogram itself shows is said elsewhere."""

from collections.abc import Mapping, Sequence

from rl2ml_core.pilot.diagnostics import Diagnostic
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.rollouts.engine import Engine, Tally
from rl2ml_core.pilot.rollouts.format import Scan
from rl2ml_core.pilot.rollouts.result import FileReport, Step

__all__ = ["look"]


def look(
    engine: Engine,
    scans: Mapping[str, Scan],
    tallies: Mapping[str, Tally],
    reports: Sequence[FileReport],
    pilot: PilotHistogram,
    steps: Sequence[Step] | None,
    merge_steps: bool,
) -> list[Diagnostic]:
    return []
