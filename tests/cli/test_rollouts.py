"""`rl2ml pilot` and `rl2ml recommend` on dumps of rollouts."""

import json
from pathlib import Path

import pytest

pytest.importorskip("duckdb", reason="needs the extra `ingest`")
from typer.testing import CliRunner

import rl2ml_core as rl2ml
from rl2ml_core.cli.commands import app

#: Prompts and their scores at one step: none, some and all succeed.
GROUPS = {"2+2=": [1, 1, 1, 1], "7*8=": [0, 1, 0, 0], "13*17=": [0, 0, 0, 0], "3-1=": [1, 1, 0, 1]}


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


@pytest.fixture
def folder(tmp_path):
    """What verl dumps: a file per step."""
    for step in (1, 2):
        rows = [
            {"input": prompt, "output": f"{i}", "gts": "", "score": float(score), "step": step}
            for prompt, scores in GROUPS.items()
            for i, score in enumerate(scores)
        ]
        (tmp_path / f"{step}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_folder_becomes_a_pilot(folder, tmp_path):
    saved = tmp_path / "saved" / "pilot.json"
    saved.parent.mkdir()
    done = run("pilot", folder, "--steps", "0:2", "-o", saved)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("4 prompts, 16 rollouts, 50.0% successes")
    assert any(line.split()[:3] == ["0", "%", "1"] for line in lines)
    assert any(line.split()[:3] == ["100", "%", "1"] for line in lines)
    assert f"rl2ml recommend {saved}" in lines[-1]
    assert rl2ml.read_pilot(saved).cells() == [(4, 0, 1), (4, 1, 1), (4, 3, 1), (4, 4, 1)]
    # All steps: a prompt at two steps is seen twice, and the steps are shown.
    both = run("pilot", folder)
    assert "8 prompts, 32 rollouts" in both.stdout
    assert "step" in both.stdout
    merged = run("pilot", folder, "--merge-steps", "--format", "json")
    assert json.loads(merged.stdout)["cells"] == [[8, 0, 1], [8, 2, 1], [8, 6, 1], [8, 8, 1]]


def test_recommend_takes_dumps_as_they_are(folder):
    asked = ("-m", "pass@4", "-n", 8, "--bootstrap", 0)
    direct = run("recommend", folder, *asked)
    assert direct.exit_code == 0, direct.stderr
    pilot = rl2ml.read_rollouts(folder).pilot
    expected = rl2ml.recommend(pilot, "pass@4", 8, bootstrap=0)
    assert direct.stdout.splitlines()[0] == expected.summary
    files = run("recommend", *sorted(folder.glob("*.jsonl")), *asked)
    assert files.stdout == direct.stdout
    # A single file that is no table of counts is one, too.
    single = run("recommend", folder / "1.jsonl", *asked, "--format", "json")
    one = rl2ml.recommend(rl2ml.read_rollouts(folder / "1.jsonl").pilot, "pass@4", 8, bootstrap=0)
    assert json.loads(single.stdout)["gamma"] == one.gamma


def test_what_would_mislead_is_said(folder):
    row = {"input": "9-9=", "output": "0", "score": 0.25, "step": 1}
    with (folder / "1.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    refused = run("pilot", folder)
    assert refused.exit_code == 2
    assert "scores are not all 0 or 1" in refused.stderr
    done = run("pilot", folder, "--success", "score >= 1")
    assert done.exit_code == 0
    assert "score >= 1" in done.stdout
    assert "! " in done.stdout
    (folder / "1.jsonl").write_text("{broken\n")
    assert "1.jsonl" in run("pilot", folder).stderr
    kept = run("pilot", folder, "--skip-bad")
    assert kept.exit_code == 0
    assert "1.jsonl" in kept.stdout or "left out" in kept.stdout


def test_wrong_paths_and_uses(tmp_path, folder):
    assert run("pilot", tmp_path / "nothing.jsonl").exit_code == 2
    done = run("recommend", folder, folder, "-m", "pass@4", "-n", 8, "--group-by", "source")
    assert done.exit_code == 2
    assert "--group-by reads one table" in done.stderr
    wrong = run("recommend", tmp_path / "nothing.csv", "-m", "pass@4", "-n", 8)
    assert "nothing.csv" in wrong.stderr


def test_real_dumps(real_dumps):
    done = run("recommend", real_dumps / "trl", "-m", "pass@4", "-n", 6, "--bootstrap", 0)
    assert done.exit_code == 0, done.stderr
    assert "40 prompts" in done.stdout


@pytest.fixture
def real_dumps():
    found = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "dumps"
    if not found.is_dir():
        pytest.skip("../shared is absent")
    return found
