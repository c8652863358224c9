"""The README shows what is printed: its transcripts are run again."""

import json
import re
from pathlib import Path

import pytest

import rl2ml_core as rl2ml

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def words(line: str) -> str:
    return " ".join(line.split())


def transcript(command: str) -> list[str]:
    """The lines printed after a command, up to the next prompt or the mark of a cut."""
    block = README[README.index(command) :].splitlines()[1:]
    end = next(i for i, line in enumerate(block) if line.startswith(("$", "…", "```")))
    return [words(line) for line in block[:end] if line.strip()]


def test_the_command_lines_transcript_is_what_it_prints(monkeypatch):
    runner = pytest.importorskip("typer.testing").CliRunner()
    from rl2ml_core.cli.commands import app

    monkeypatch.setenv("COLUMNS", "120")
    pilot = str(ROOT / "examples/addition/pilot.csv")
    done = runner.invoke(app, ["recommend", pilot, "--metric", "pass@8", "--rollouts-per-prompt", "8"])
    printed = [words(line) for line in done.stdout.splitlines()]
    shown = transcript("$ rl2ml recommend pilot.csv")
    assert len(shown) > 10
    assert set(shown) <= set(printed)


@pytest.mark.parametrize(
    "command",
    [
        "rl2ml compare pilot.csv --metric pass@8 --rollouts-per-prompt 8",
        "rl2ml analyze grpo --rollouts-per-prompt 8 --pilot pilot.csv",
    ],
)
def test_transcripts_of_trainers_are_what_is_printed(command, monkeypatch):
    runner = pytest.importorskip("typer.testing").CliRunner()
    from rl2ml_core.cli.commands import app

    monkeypatch.setenv("COLUMNS", "120")
    pilot = str(ROOT / "examples/addition/pilot.csv")
    arguments = [pilot if word == "pilot.csv" else word for word in command.split()[1:]]
    printed = [words(line) for line in runner.invoke(app, arguments).stdout.splitlines()]
    shown = transcript(f"$ {command}")
    assert len(shown) > 10
    assert set(shown) <= set(printed)


@pytest.mark.parametrize("command", re.findall(r"^\$ (rl2ml (?:plan|pilot-size) .*)$", README, re.MULTILINE))
def test_sentences_of_plans_are_what_is_printed(command, monkeypatch, tmp_path):
    runner = pytest.importorskip("typer.testing").CliRunner()
    from rl2ml_core.cli.commands import app

    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.chdir(tmp_path)
    pilot = str(ROOT / "examples/addition/pilot.csv")
    arguments = [pilot if word == "pilot.csv" else word for word in command.partition(" #")[0].split()[1:]]
    assert transcript(f"$ {command}") == [words(runner.invoke(app, arguments).stdout.splitlines()[0])]


def test_the_demos_transcript_is_what_the_library_gives():
    pilot = rl2ml.read_pilot(ROOT / "examples/addition/pilot.csv")
    found = rl2ml.recommend(pilot, "pass@8", 8)
    shown = transcript("$ make run")
    assert words(found.summary) in shown
    table = found.objective.table(8)
    assert "success: – " + " ".join(f"{x:.2f}" for x in table.success[1:]) in shown
    assert "failure: " + " ".join(f"{x:.2f}" for x in table.failure[:-1]) + " –" in shown


def test_the_curl_example_is_a_request_that_the_service_takes():
    schemas = pytest.importorskip("app.schemas.recommendations")
    body = re.search(r"-d '(\{.*?\})'\n", README, re.DOTALL).group(1)
    assert schemas.RecommendationRequest.model_validate(json.loads(body)).budget.num_rollouts == 4


def test_the_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    exec(compile(code, "README.md", "exec"), {})  # our own text
    assert capsys.readouterr().out.strip()
    assert rl2ml.Objective.load("objective.json").num_rollouts == 16
