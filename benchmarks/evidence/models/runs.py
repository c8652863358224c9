"""Files of runs: where they are, what they are of, and how they come to be. Nothing here needs torch."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.evidence.models.settings import VERSION, Arm, Block, Rule
from rl2ml_core.version import METHOD_VERSION

__all__ = ["BEFORE", "Run", "read_run", "run_files", "what_of", "write_run"]

#: What tables call the start.
BEFORE = "before"

Run = tuple[Rule, Arm] | None  # None: the start's own evaluation


def run_files(folder: Path, block: Block) -> dict[Run, Path]:
    """Where each run of a block is kept, that of the start first."""
    home = folder / block.setting.name / str(block.seed)
    files: dict[Run, Path] = {None: home / f"{BEFORE}.json"}
    for rule, arm in block.runs:
        files[rule, arm] = home / f"{rule.name}-{rule.size:g}" / f"{arm.name.replace(' ', '_')}.json"
    return files


def what_of(block: Block, run: Run) -> dict[str, Any]:
    """All that a run's result depends on, as JSON: a file that says otherwise is another run's."""
    rule, arm = run or (None, None)
    what = {
        "version": VERSION,
        "setting": asdict(block.setting),
        "seed": block.seed,
        "size": asdict(block.size),
        "rule": None if rule is None else asdict(rule),
        "arm": None if arm is None else asdict(arm),
    }
    if arm is not None and (arm.recommended_for or arm.controlled_for):
        what["method"] = METHOD_VERSION  # another version may recommend another γ
    return json.loads(json.dumps(what))


def read_run(path: Path, block: Block, run: Run) -> dict[str, Any] | None:
    """A finished run; None where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content if content["what"] == what_of(block, run) else None


def write_run(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
