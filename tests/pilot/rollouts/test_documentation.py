"""docs/rollouts.md and the page of every tool: statement, formats and codes are those there are, output is printed."""

import re
import shlex
from pathlib import Path

import pytest

from rl2ml_core.pilot.rollouts import FORMATS, sql

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "rollouts.md").read_text()
SOURCES = "".join(path.read_text() for path in (ROOT / "rl2ml_core" / "pilot" / "rollouts").glob("*.py"))


def test_the_statement_is_the_published_one():
    (shown,) = re.findall(r"```sql\n(.*?)\n```", TEXT, re.DOTALL)
    assert shown == sql.published()


def test_every_finding_is_explained():
    section = TEXT.split("## What would mislead")[1].split("## ")[0]
    listed = set(re.findall(r"`(\w+)`", section))
    made = set(re.findall(r"""Diagnostic\(\s*"(\w+)\"""", SOURCES)) | set(
        re.findall(r"""_said\(\s*"(\w+)\"""", SOURCES)
    )
    assert made <= listed
    # `filtered_groups` is of the pilot's own diagnostics; three are named by why a rollout was left out.
    elsewhere = {"filtered_groups", "errored_rollouts", "empty_rollouts", "unscored_rollouts"}
    assert all(f'"{code}"' in SOURCES for code in listed - elsewhere)


def test_every_format_has_its_row():
    shown = {
        "verl": "verl",
        "trl": "TRL",
        "skyrl": "SkyRL",
        "lm_eval": "lm-evaluation-harness",
        "inspect": "inspect-ai",
        "verifiers": "verifiers",
        "traces": "traces.jsonl",
        "tinker": "tinker-cookbook",
        "plain": "tables",
    }
    assert set(FORMATS) == set(shown)
    section = TEXT.split("## Where each tool's dump lies")[1].split("## ")[0]
    assert all(title in section for title in shown.values())


PAGES = sorted((ROOT / "docs" / "rollouts").glob("*.md"))


def test_every_tool_has_a_page():
    linked = set(re.findall(r"\]\(rollouts/([\w-]+)\.md\)", TEXT))
    assert linked == {page.stem for page in PAGES}
    for page in PAGES:
        for target in re.findall(r"\]\((\S+?\.md)", page.read_text()):
            assert (page.parent / target).is_file(), (page.name, target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_transcripts_are_what_is_printed(page, dumps, monkeypatch):
    from typer.testing import CliRunner

    from rl2ml_core.cli.commands import app

    monkeypatch.chdir(dumps)
    monkeypatch.setenv("COLUMNS", "110")
    shown = re.findall(r"```console\n\$ (rl2ml [^\n]*)\n(.+?)```", page.read_text(), re.DOTALL)
    for command, expected in [(command, output) for command, output in shown if not output.startswith("$")]:
        done = CliRunner().invoke(app, shlex.split(command)[1:])
        assert done.exit_code == 0, done.output
        assert [line.rstrip() for line in done.output.rstrip().splitlines()] == expected.rstrip().splitlines()
