"""docs/rollouts.md: its statement is the published one, its formats and codes those there are."""

import re
from pathlib import Path

from rl2ml_core.pilot.rollouts import FORMATS, sql

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "rollouts.md").read_text()
SOURCES = "".join(path.read_text() for path in (ROOT / "rl2ml_core" / "pilot" / "rollouts").glob("*.py"))


def test_the_statement_is_the_published_one():
    (shown,) = re.findall(r"```sql\n(.*?)\n```", TEXT, re.DOTALL)
    assert shown == sql.published()


def test_every_finding_is_explained():
    section = TEXT.split("## What would mislead")[1].split("## ")[0]
    codes = set(re.findall(r"`(\w+)`", section))
    made = {name for name in re.findall(r'"([a-z]+(?:_[a-z]+)+|duplicates)"', SOURCES) if name in codes}
    assert codes - made <= {"filtered_groups"}  # of the pilot's own diagnostics


def test_every_format_has_its_row():
    names = {"verl": "verl", "trl": "TRL", "skyrl": "SkyRL", "lm_eval": "lm-evaluation-harness", "inspect": "inspect-ai",
             "verifiers": "verifiers", "traces": "traces.jsonl", "tinker": "tinker-cookbook", "plain": "tables"}  # fmt: skip
    formats = set(FORMATS) if not isinstance(FORMATS, dict) else set(FORMATS)
    assert {getattr(one, "name", one) for one in formats} == set(names)
    section = TEXT.split("## Where each tool's dump lies")[1].split("## ")[0]
    assert all(shown in section for shown in names.values())
