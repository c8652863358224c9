"""`rl2ml plan` and `rl2ml pilot-size`: what they print, save and draw."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import rl2ml_core as rl2ml
from rl2ml_core.cli.commands import app

ROOT = Path(__file__).resolve().parents[2]
PILOT = ROOT / "examples" / "addition" / "pilot.csv"
USUAL = ("plan", str(PILOT), "--metric", "pass@8", "--rollouts-per-step", "512")
SIZE = ("pilot-size", str(PILOT), "--metric", "pass@8", "-n", "8")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "120", "NO_COLOR": "1"})


def answer(*arguments: object) -> dict:
    done = run(*arguments, "--format", "json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def complaint(*arguments: object) -> str:
    done = run(*arguments)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture(scope="module")
def pilot() -> rl2ml.PilotHistogram:
    return rl2ml.read_pilot(PILOT)


def test_text_says_the_sentence_first_and_marks_the_best(pilot):
    plan = rl2ml.plan_budget(pilot, "pass@8", 512)
    recommended = rl2ml.recommend(pilot, "pass@8", plan.num_rollouts, bootstrap=0)
    done = run(*USUAL)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == plan.summary
    (marked,) = [line.split() for line in done.stdout.splitlines() if line.strip().startswith("→")]
    assert marked[1:5] == [str(plan.num_rollouts), str(plan.best.prompts_per_step), f"{plan.best.gamma:.2f}", "best"]
    # The γ that is handed out is recommend's, and the plan's own is said beside it.
    assert f"{recommended.gamma:.2f}, by criterion lookahead" in done.stdout
    assert f"(best for one step: {plan.best.gamma:.2f})" in done.stdout
    for n in (1, 2, 4, 16, 32, 64):
        assert f" {n} " in done.stdout


def test_json_is_the_librarys_answer_with_the_recommendation(pilot):
    found = answer(*USUAL, "--bootstrap", 0)
    plan = rl2ml.plan_budget(pilot, "pass@8", 512, bootstrap=0)
    recommended = rl2ml.recommend(pilot, "pass@8", plan.num_rollouts, bootstrap=0).to_dict()
    assert found.pop("recommendation")["gamma"] == recommended["gamma"]
    pilots = rl2ml.plan_pilot(pilot, "pass@8", plan.num_rollouts, more_prompts=[], more_rollouts=[])
    assert found.pop("pilot")["expected_regret"] == pilots.expected_regret
    assert found == json.loads(json.dumps(plan.to_dict()))


def test_options_reach_the_library(pilot):
    options = ("--choose-from", "4,8,16", "--prompt-cost", 0.5, "--prompts", 300, "--cosine", 0.05, "--kappa", 0.3)
    options += ("--gamma-range", 0.2, 1.5, "--baseline", "leave_one_out", "--prior", "1,1", "--seed", 3, "--level", 0.8)
    options += ("--least-pass-rate", 0.05, "--tail", 0.5, "--largest-scale", 3, "--bootstrap", 50)
    found = answer(*USUAL, *options)
    assert found.pop("recommendation")["gamma"] <= 1.5
    assert found.pop("pilot")["status"] == "enough"
    expected = rl2ml.plan_budget(
        pilot, "pass@8", 512, choices=[4, 8, 16], prompt_cost=0.5, num_prompts=300, cosine=0.05,
        score_model=rl2ml.ScoreModel(0.3), gamma_min=0.2, gamma_max=1.5, baseline="leave_one_out",
        prior=rl2ml.BetaPrior(1, 1), seed=3, level=0.8, demands=rl2ml.Demands(0.05, 0.5, 3), bootstrap=50,
    )  # fmt: skip
    assert found == json.loads(json.dumps(expected.to_dict()))


def test_the_objective_is_saved_for_the_planned_number(tmp_path, pilot):
    done = run(*USUAL, "--bootstrap", 0, "-o", tmp_path / "objective.json")
    plan = rl2ml.plan_budget(pilot, "pass@8", 512, bootstrap=0)
    saved = rl2ml.Objective.load(tmp_path / "objective.json")
    assert saved.num_rollouts == plan.num_rollouts
    assert "Saved" in done.stdout


def test_demands_bound_the_gamma_that_is_handed_out():
    found = answer(*USUAL, "--bootstrap", 0, "--least-pass-rate", 0.02, "--tail", 0.3)
    assert found["recommendation"]["gamma"] <= found["best"]["largest_gamma"] < 1


def test_a_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    assert run(*USUAL, "--plot", tmp_path / "frontier.svg").exit_code == 0
    assert "<svg" in (tmp_path / "frontier.svg").read_text()[:600]
    assert "must end in .png, .svg, .pdf" in complaint(*USUAL, "--plot", tmp_path / "frontier.jpeg")


def test_what_cannot_be_planned_exits_with_three():
    done = run("plan", PILOT, "--metric", "pass@8", "--rollouts-per-step", 4, "--choose-from", "8,16")
    assert done.exit_code == 3
    assert "raise rollouts_per_step to 8, or allow 4 rollouts per prompt" in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--choose-from", "4,x"), "--choose-from must be whole numbers"),
        (("--cosine", "2"), "cosine must be a finite number at least 0 and at most 1"),
        (("--judged-on", "paper"), "judged_on must be one of"),
    ],
)
def test_wrong_options_are_one_line(options, said):
    assert said in complaint(*USUAL, *options)


def test_pilot_size_has_a_row_per_size(pilot):
    plan = rl2ml.plan_pilot(pilot, "pass@8", 8, target=0.001)
    done = run(*SIZE, "--target", 0.001)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == plan.summary
    for size in plan.sizes:
        assert size.words in done.stdout
    assert answer(*SIZE, "--target", 0.001) == json.loads(json.dumps(plan.to_dict()))


def test_pilot_size_takes_a_guess():
    found = answer("pilot-size", "--guess", 0.1, "--metric", "pass@8", "-n", 8, "--kappa", 0.2)
    expected = rl2ml.plan_pilot(rl2ml.guessed_prior(0.1), "pass@8", 8, score_model=rl2ml.ScoreModel(0.2))
    assert found == json.loads(json.dumps(expected.to_dict()))
    asked = ("--more-prompts", "20,40", "--pilot-rollouts", 4)
    sizes = answer("pilot-size", "--guess", 0.1, "--metric", "pass@8", "-n", 8, *asked)["sizes"]
    assert [(size["prompts"], size["rollouts"]) for size in sizes] == [(20, 4), (40, 4)]


def test_pilot_size_needs_one_of_both():
    for arguments in (("pilot-size", "--metric", "pass@8", "-n", 8), (*SIZE, "--guess", 0.1)):
        assert "give a pilot or --guess, one of them" in complaint(*arguments)


# --- docs/planning.md -------------------------------------------------------------------------------------------------

DOCUMENT = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
MATHS = ROOT.parent / "shared" / "data" / "pilots" / "dsr1209_qwen25math1.5b_first4epochs_n32.csv"
SHOWN = re.findall(r"^\$ rl2ml (plan .*|pilot-size .*)\n((?:(?!\$ |```).*\n)*)", DOCUMENT, re.MULTILINE)


def test_the_document_shows_every_kind_of_answer():
    assert len(SHOWN) == 5


@pytest.mark.parametrize(("command", "printed"), SHOWN, ids=[command for command, _ in SHOWN])
def test_the_documents_transcripts_are_what_is_printed(command, printed):
    if "maths.csv" in command and not MATHS.is_file():
        pytest.skip(f"{MATHS} is absent")
    done = run(*(str(MATHS) if word == "maths.csv" else word for word in command.split()))
    assert printed.strip()
    assert [line.split() for line in printed.splitlines() if line.strip()] == [
        line.split() for line in done.stdout.splitlines() if line.strip()
    ]


def test_the_documents_python_runs(capsys):
    exec(compile(re.search(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)[1], "planning.md", "exec"), {})  # our own text
    assert "rollouts per step" in capsys.readouterr().out


def test_the_documents_figures_are_there():
    for figure in re.findall(r"\]\((planning/\w+\.png)\)", DOCUMENT):
        assert (ROOT / "docs" / figure).is_file()
