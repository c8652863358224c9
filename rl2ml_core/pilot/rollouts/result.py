"""What was read: the pilot, and everything said about it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rl2ml_core.files import write_atomically
from rl2ml_core.pilot.diagnostics import Diagnostic
from rl2ml_core.pilot.histogram import PilotHistogram

__all__ = ["FileReport", "Rollouts", "Step"]

#: Of saved pilots.
SCHEMA = 1


@dataclass(frozen=True)
class FileReport:
    """What became of a file's rows: `used` were counted, the others `skipped` by reason.

    A file that was not read at all has no rows, and `note` says why.
    """

    path: str
    format: str
    rows: int = 0
    used: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "skipped": dict(self.skipped)}


@dataclass(frozen=True)
class Step:
    """What a training step sampled; `step` is None for rows that do not say theirs."""

    step: int | None
    prompts: int
    rollouts: int
    successes: int


@dataclass(frozen=True)
class Rollouts:
    """A pilot from dumps of rollouts.

    Args:
        pilot: how many prompts had k successes in n rollouts.
        findings: what would mislead.
        files: a report of each, in natural order.
        steps: per training step, where the dumps have steps; else None.
        success: the rule that decided, as text.
        rollouts: how many were counted.
        successes: how many of them succeeded.
    """

    pilot: PilotHistogram
    findings: tuple[Diagnostic, ...]
    files: tuple[FileReport, ...]
    steps: tuple[Step, ...] | None
    success: str
    rollouts: int
    successes: int

    @property
    def prompts(self) -> int:
        """Prompts in the pilot; one that was visited at two steps counts twice, unless steps were merged."""
        return int(self.pilot.total_prompts)

    @property
    def formats(self) -> dict[str, int]:
        """Files read, by format."""
        read = [one.format for one in self.files if one.rows]
        return {name: read.count(name) for name in sorted(set(read))}

    @property
    def skipped(self) -> dict[str, int]:
        """Rows that were not counted, by reason, over all files."""
        reasons = sorted({reason for one in self.files for reason in one.skipped})
        return {reason: sum(one.skipped.get(reason, 0) for one in self.files) for reason in reasons}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, as `save` writes it."""
        return {
            "schema": SCHEMA,
            "cells": [[n, k, int(prompts)] for n, k, prompts in self.pilot.cells()],
            "source": {
                "success": self.success,
                "prompts": self.prompts,
                "rollouts": self.rollouts,
                "successes": self.successes,
                "formats": self.formats,
                "skipped": self.skipped,
                "files": [one.to_dict() for one in self.files],
                "steps": None if self.steps is None else [asdict(one) for one in self.steps],
            },
            "findings": [one.to_dict() for one in self.findings],
        }

    def save(self, path: str | Path) -> None:
        """Writes the pilot for `read_pilot`, whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        write_atomically(Path(path), json.dumps(self.to_dict(), indent=1, ensure_ascii=True) + "\n")
