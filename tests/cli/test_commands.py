"""`rl2ml` as people and scripts use it: output, exit codes, and errors in one line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

import rl2ml_core as rl2ml
from rl2ml_core.cli.commands import app

ROOT = Path(__file__).resolve().parents[2]
PILOT = ROOT / "examples" / "addition" / "pilot.csv"
USUAL = ("recommend", str(PILOT), "--metric", "pass@8", "--rollouts-per-prompt", "8")
QUICK = (*USUAL, "--bootstrap", "0")
HANG = 60


def run(*arguments: object, width: int = 100, given: str | None = None) -> Result:
    return CliRunner().invoke(
        app, [str(a) for a in arguments], input=given, env={"COLUMNS": str(width), "NO_COLOR": "1"}
    )


def answer(*arguments: object, given: str | None = None) -> dict:
    done = run(*arguments, "--format", "json", given=given)
    assert done.exit_code == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def complaint(*arguments: object, given: str | None = None) -> str:
    """The one line that an error is."""
    done = run(*arguments, given=given)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert "Traceback" not in line
    return line


@pytest.fixture(scope="module")
def pilot() -> rl2ml.PilotHistogram:
    return rl2ml.read_pilot(PILOT)


# --- recommend --------------------------------------------------------------------------------------------------------


def test_text_says_the_sentence_first_then_the_numbers(pilot):
    expected = rl2ml.recommend(pilot, "pass@8", 8)
    done = run(*USUAL)
    assert done.exit_code == 0
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == expected.summary
    assert "256 prompts, mean pass rate 0.328, all-fail 38%, all-pass 5%" in done.stdout
    assert re.search(rf"γ +{expected.gamma:.4f} ", done.stdout)
    low, high = expected.interval.lower, expected.interval.upper
    assert re.search(rf"90% interval +{low:.2f} to {high:.2f} ", done.stdout)
    assert f"{expected.expected_regret:.2%} of the criterion" in done.stdout
    assert f"× {expected.learning_rate.multiplier:.3g} of the one tuned for grpo" in done.stdout
    table = expected.objective.table(8)
    for k in range(9):
        (row,) = [line.split() for line in lines if re.match(rf" +{k}( |$)", line)]
        sides = [f"{table.success[k]:+.4f}"] * (k > 0) + [f"{table.failure[k]:+.4f}"] * (k < 8)
        assert row == [str(k), *sides]


def test_json_is_the_librarys_answer(pilot):
    assert answer(*USUAL) == json.loads(json.dumps(rl2ml.recommend(pilot, "pass@8", 8).to_dict()))


def test_json_is_one_line():
    done = run(*QUICK, "--format", "json")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--current", "rloo"], {"current": "rloo"}),
        (["--current", "0.5"], {"current": 0.5}),
        (["--current", "1"], {"current": 1}),
        (["--kappa", "0.3"], {"score_model": rl2ml.ScoreModel(0.3)}),
        (["--gamma-range", "0.5", "4"], {"gamma_min": 0.5, "gamma_max": 4}),
        (["--baseline", "leave_one_out"], {"baseline": "leave_one_out"}),
        (["--prior", "0.5,2"], {"prior": rl2ml.BetaPrior(0.5, 2)}),
        (["--prior", "1,1"], {"prior": rl2ml.BetaPrior(1, 1)}),
        (["--prior", "plug_in"], {"prior": "plug_in"}),
        (["--order", "4"], {"order": 4}),
        (["--filter-groups"], {"filter_groups": True}),
        (["--sampled", "temperature=0.6, policy=sft-3"], {"sampled": rl2ml.Conditions(0.6, "sft-3")}),
        (
            ["--sampled", "step=0", "--training", "step=7"],
            {"sampled": rl2ml.Conditions(step=0), "training": rl2ml.Conditions(step=7)},
        ),
        (["--criterion", "paper", "--variance-penalty", "0.05"], {"criterion": "paper", "variance_penalty": 0.05}),
        (["--criterion", "rms_gain"], {"criterion": "rms_gain", "look_ahead": True}),
        (
            ["--criterion", "lookahead", "--judged-on", "held_out"],
            {"criterion": "lookahead", "judged_on": "held_out"},
        ),
        (["--bootstrap", "30", "--seed", "7", "--level", "0.5"], {"bootstrap": 30, "seed": 7, "level": 0.5}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_option_reaches_the_library(pilot, arguments, options):
    usual = rl2ml.recommend(pilot, "pass@8", 8, bootstrap=0).to_dict()
    expected = rl2ml.recommend(pilot, "pass@8", 8, **({"bootstrap": 0} | options)).to_dict()
    assert expected != usual
    assert answer(*QUICK, *arguments) == json.loads(json.dumps(expected))


def test_a_second_opinion_comes_with_the_answer(tmp_path):
    path = tmp_path / "pilot.csv"
    cells = [(0, 60), (1, 20), (2, 10), (7, 5), (8, 9)]
    rows = [f"{k},8,{'hard' if k < 3 else 'easy'}" for k, prompts in cells for _ in range(prompts)]
    path.write_text("num_successes,num_rollouts,source\n" + "\n".join(rows) + "\n", encoding="utf-8")
    asked = ["recommend", path, "-m", "pass@1", "-n", 16, "--kappa", 1, "--bootstrap", 0, "--criterion", "rms_gain"]

    def opinions(answer):
        return [row["detail"] for row in answer["diagnostics"] if row["code"] == "lookahead_disagrees"]

    (opinion,) = opinions(answer(*asked))
    assert opinion.startswith("Over a predicted training run")
    assert not opinions(answer(*asked, "--criterion", "lookahead"))
    grouped = answer(*asked, "--group-by", "source")
    assert opinions(grouped["joint"]) == [opinion]
    assert not any(opinions(group["recommendation"]) for group in grouped["groups"])


def test_the_default_prior_is_the_librarys():
    assert answer(*QUICK) == answer(*QUICK, "--prior", "empirical_bayes")


@pytest.mark.parametrize("metric", ["pass@1", "log:0.01", "0.5*pass@1+0.5*pass@16"])
def test_metrics(pilot, metric):
    expected = rl2ml.recommend(pilot, metric, 8, bootstrap=0)
    assert answer("recommend", PILOT, "-m", metric, "-n", 8, "--bootstrap", 0)["gamma"] == expected.gamma


@pytest.mark.parametrize("name", ["--rollouts-per-prompt", "--num-generations", "-n"])
def test_names_of_the_group_size(pilot, name):
    found = answer("recommend", PILOT, "--metric", "pass@8", name, "4", "--bootstrap", "0")
    assert found["objective"]["num_rollouts"] == 4


def as_jsonl(pilot: rl2ml.PilotHistogram) -> str:
    rows = [{"num_successes": k, "num_rollouts": n, "weight": w} for n, k, w in pilot.cells()]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "tsv"])
def test_standard_input(pilot, kind):
    text = PILOT.read_text()
    given = {"csv": text, "tsv": text.replace(",", "\t"), "jsonl": as_jsonl(pilot)}[kind]
    expected = answer(*QUICK)
    assert answer("recommend", "-", *QUICK[2:], given=given) == expected


def test_rollout_tables(tmp_path):
    rollouts = tmp_path / "rollouts.csv"
    rows = [f"p{prompt},{int(attempt < prompt)}" for prompt in range(5) for attempt in range(4)]
    rollouts.write_text("prompt_id,reward\n" + "\n".join(rows) + "\n")
    found = answer("recommend", rollouts, *QUICK[2:])
    assert found["objective"]["population"]["cells"] == [[4, k, 1] for k in range(5)]


def test_output_is_an_objective_that_loads(tmp_path, pilot):
    path = tmp_path / "objective.json"
    done = run(*QUICK, "-o", path, width=1000)
    assert done.exit_code == 0
    loaded = rl2ml.Objective.load(path)
    expected = rl2ml.recommend(pilot, "pass@8", 8, bootstrap=0).objective
    assert loaded.gamma == expected.gamma
    np.testing.assert_array_equal(loaded.table(5).success, expected.table(5).success)
    assert done.stdout.splitlines()[-1] == f"Saved {path}. The table for another group size: rl2ml table {path} -n 16"


def test_output_goes_with_json_too(tmp_path):
    path = tmp_path / "objective.json"
    found = answer(*QUICK, "--output", path)
    assert json.loads(path.read_text()) == found["objective"]


def test_flat_is_an_answer(tmp_path):
    path = tmp_path / "pilot.csv"
    path.write_text("num_successes,num_rollouts\n" + "1,1000\n" * 50 + "2,1000\n" * 50)
    done = run("recommend", path, "-m", "pass@8", "-n", 4, "--criterion", "rms_gain")
    assert done.exit_code == 0
    assert "keep the γ you have" in done.stdout
    assert re.search(r"status +flat", done.stdout)
    assert "What to do: " in done.stdout


@pytest.mark.parametrize("successes", [0, 8])
def test_pilot_that_tells_nothing(tmp_path, successes):
    path, saved = tmp_path / "pilot.csv", tmp_path / "objective.json"
    path.write_text("num_successes,num_rollouts\n" + f"{successes},8\n" * 64)
    done = run("recommend", path, *QUICK[2:], "-o", saved)
    assert done.exit_code == 3
    assert done.stdout.startswith("No recommendation: ")
    assert "What to do: " in done.stdout
    assert done.stderr == ""
    assert not saved.exists()
    done = run("recommend", path, *QUICK[2:], "--format", "json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["status"] == "uninformative"


@pytest.mark.parametrize("options", [[], ["--prior", "1,1"]])
def test_text_names_the_prior_and_what_others_would_say(pilot, options):
    chosen = {"prior": rl2ml.BetaPrior(1, 1)} if options else {}
    expected = rl2ml.recommend(pilot, "pass@8", 8, bootstrap=0, **chosen)
    prior = expected.objective.population.prior
    done = run(*QUICK, *options)
    assert re.search(rf"prior +Beta\({prior.alpha:.3g}, {prior.beta:.3g}\) on pass rates", done.stdout)
    others = ", ".join(f"{row.name}: {row.gamma:.2f}" for row in expected.prior_sensitivity)
    assert len(expected.prior_sensitivity) == 3
    assert re.search(rf"γ under other priors +{others}", done.stdout)
    for found in expected.diagnostics:
        assert f"{'·' if found.level == 'info' else '!'} {found.detail}" in done.stdout.splitlines()


def test_raw_rates_have_no_prior():
    assert re.search(r"prior +none: raw k/n", run(*QUICK, "--prior", "plug_in").stdout)


def test_conditions_that_differ_are_said():
    done = run(*QUICK, "--sampled", "temperature=0.6", "--training", "temperature=1.0")
    assert "! The pilot was sampled at temperature 0.6, training samples at 1: success rates differ." in done.stdout


def test_no_gain_is_negative_zero():
    for name in ("dr_grpo", "1"):
        assert "-0.0%" not in run(*USUAL, "--current", name).stdout


def test_filtered_groups_have_no_advantage_in_the_table(tmp_path):
    path = tmp_path / "objective.json"
    done = run(*QUICK, "--filter-groups", "-o", path)
    for shown in (done, run("table", path, "-n", 8)):
        rows = [line.split() for line in shown.stdout.splitlines() if re.match(r" +[08] +[-+\d]", line)]
        assert rows == [["0", "0"], ["8", "0"]]


# --- recommend, by groups -------------------------------------------------------------------------------------------

LONG = "a data source whose name is far longer than a table has room for"


@pytest.fixture(scope="module")
def grouped(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    rows = [("easy", k) for k in rng.binomial(8, rng.beta(4, 2, 200))]
    rows += [(LONG, k) for k in rng.binomial(8, rng.beta(0.3, 3, 200))]
    path = tmp_path_factory.mktemp("grouped") / "pilot.csv"
    path.write_text("source,num_successes,num_rollouts\n" + "".join(f"{name},{k},8\n" for name, k in rows))
    return path


def test_groups_as_json_are_the_librarys_answer(grouped):
    found = answer("recommend", grouped, *USUAL[2:], "--group-by", "source", "--seed", 3, "--level", 0.8)
    pilots = rl2ml.read_pilot_groups(grouped, "source")
    expected = rl2ml.recommend_groups(pilots, "pass@8", 8, seed=3, level=0.8)
    assert found == json.loads(json.dumps(expected.to_dict()))
    assert [group["name"] for group in found["groups"]] == ["easy", LONG]


def test_groups_in_text_follow_the_joint_answer(grouped):
    done = run("recommend", grouped, *USUAL[2:], "--group-by", "source")
    assert done.exit_code == 0
    pilots = rl2ml.read_pilot_groups(grouped, "source")
    expected = rl2ml.recommend_groups(pilots, "pass@8", 8)
    joint, _, groups = done.stdout.partition("\nGroups. ")
    alone = run("recommend", grouped, *USUAL[2:]).stdout
    assert [line.rstrip() for line in joint.splitlines()] == [line.rstrip() for line in alone.splitlines()]
    assert groups.splitlines()[0] == expected.summary
    rows = [line for line in groups.splitlines() if re.match("  (easy|a data)", line)]
    for row, group, name in zip(rows, expected.groups, ["easy", f"{LONG[:23]}…"], strict=True):
        own, apart = group.recommendation, group.difference
        near = own.near_optimal.rounded()
        assert row.split() == [
            *name.split(),
            "200",
            f"{own.gamma:.2f}",
            f"{own.interval.lower:.2f}–{own.interval.upper:.2f}",
            f"{near[0]:.2f}–{near[1]:.2f}",
            *f"{apart.lower:.2f} to {apart.upper:.2f}".split(),
            f"{group.loss_of_joint:.1%}",
        ]


def test_groups_without_draws_or_answers(tmp_path):
    path = tmp_path / "pilot.csv"
    rows = "".join(f"some,{k},8\n" for k in range(9)) + "none,0,8\n" * 9
    path.write_text("source,num_successes,num_rollouts\n" + rows)
    done = run("recommend", path, *QUICK[2:], "--group-by", "source")
    assert done.exit_code == 0
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("  none ")]
    assert row == ["none", "9", "–", "–", "–", "–", "–"]


def test_groups_go_with_output(grouped, tmp_path):
    path = tmp_path / "objective.json"
    arguments = ("recommend", grouped, *QUICK[2:], "--group-by", "source")
    assert run(*arguments, "-o", path).exit_code == 0
    assert json.loads(path.read_text()) == answer(*arguments)["joint"]["objective"]


def test_groups_that_tell_nothing(tmp_path):
    path = tmp_path / "pilot.csv"
    path.write_text("source,num_successes,num_rollouts\n" + "a,0,8\nb,0,8\n" * 32)
    assert run("recommend", path, *QUICK[2:], "--group-by", "source").exit_code == 3


def test_groups_from_standard_input(grouped):
    arguments = (*QUICK[2:], "--group-by", "source")
    assert answer("recommend", "-", *arguments, given=grouped.read_text()) == answer("recommend", grouped, *arguments)


def test_a_missing_column_of_groups():
    line = complaint(*QUICK, "--group-by", "source")
    assert f"{PILOT}: expected a column 'source' with each row's group; found prompt_id, num_successes" in line


# --- compare --------------------------------------------------------------------------------------------------------

COMPARE = ("compare", *USUAL[1:], "--bootstrap", "20")


def test_comparison_as_json_is_the_librarys(pilot):
    expected = rl2ml.compare(pilot, "pass@8", 8, bootstrap=20)
    assert answer(*COMPARE) == json.loads(json.dumps(expected.to_dict()))


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--trainers", "grpo, rloo,0.5"], {"trainers": ["grpo", "rloo", 0.5]}),
        (["--trainers", "1"], {"trainers": [1]}),
        (["--baseline", "leave_one_out"], {"baseline": "leave_one_out"}),
        (["--kappa", "0.3"], {"score_model": rl2ml.ScoreModel(0.3)}),
        (["--gamma-range", "0.5", "4"], {"gamma_min": 0.5, "gamma_max": 4}),
        (["--prior", "0.5,2"], {"prior": rl2ml.BetaPrior(0.5, 2)}),
        (["--order", "4", "--filter-groups"], {"order": 4, "filter_groups": True}),
        (["--criterion", "paper", "--variance-penalty", "0.05"], {"criterion": "paper", "variance_penalty": 0.05}),
        (["--bootstrap", "30", "--seed", "7", "--level", "0.5"], {"bootstrap": 30, "seed": 7, "level": 0.5}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_option_of_the_comparison_reaches_the_library(pilot, arguments, options):
    usual = rl2ml.compare(pilot, "pass@8", 8, bootstrap=20).to_dict()
    expected = rl2ml.compare(pilot, "pass@8", 8, **({"bootstrap": 20} | options)).to_dict()
    assert expected != usual
    assert answer(*COMPARE, *arguments) == json.loads(json.dumps(expected))


def test_comparison_in_text(pilot):
    expected = rl2ml.compare(pilot, "pass@8", 8)
    done = run("compare", *USUAL[1:], width=80)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == expected.summary
    titles = lines.index(next(line for line in lines if line.startswith("  trainer ")))
    rows = lines[titles + 1 : titles + 2 + len(expected.trainers)]
    assert re.fullmatch(
        rf"  recommended +γ = {expected.recommendation.gamma:.4g}, order 8 +"
        rf"{expected.recommended.noise_to_signal:.1f} +0% *",
        rows[0],
    )
    for row, trainer in zip(rows[1:], expected.trainers, strict=True):
        assert len(row) <= 80
        assert row.startswith(f"  {trainer.label} ")
        where = trainer.interval
        signs = [f"{x:+.0%}" if abs(x) >= 1 else f"{x:+.1%}" for x in (trainer.gain_of_recommended, *ends(where))]
        assert row.endswith(f"{signs[1][:-1]} to {signs[2]}")
        assert f" {signs[0]} " in row
        assert f" {trainer.analysis.dead_group_share:.0%} " in row
        if trainer.surprise:
            assert f"· {trainer.label}: {trainer.surprise}" in lines
    assert re.search(r"\n  MaxRL as shipped +γ = 1, order 7 ", done.stdout)
    assert re.search(r"\n  PKPO +pass@8 ", done.stdout)
    assert re.search(r"\n  RLOO +plain RL ", done.stdout)
    assert re.search(r"\n  GRPO +≈ γ = 0\.\d\d \(0\.99\d\) ", done.stdout)
    assert any("Order N−1" in line for line in lines if line.startswith("· MaxRL as shipped"))
    assert any("Easy prompts weigh more again" in line for line in lines if line.startswith("· GRPO"))
    warned = any(found.level != "info" for found in expected.recommendation.diagnostics)
    assert ("about this pilot: rl2ml recommend says which." in done.stdout) is warned


def ends(interval) -> tuple[float, float]:
    return interval.lower, interval.upper


def test_comparison_without_draws_has_no_intervals():
    done = run(*COMPARE, "--bootstrap", "0", "--trainers", "rloo")
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("  RLOO ")]
    assert row[-1] == "–"


def test_trainers_that_cannot_be_used_are_named_with_the_reason():
    done = run("compare", PILOT, "-m", "pass@8", "-n", 1)
    assert done.exit_code == 0
    (line,) = [line for line in done.stdout.splitlines() if "Left out" in line]
    assert line.startswith("· Left out: rloo, grpo, ")
    assert line.endswith(" (needs at least 2 rollouts per prompt).")
    assert "\n  REINFORCE " in done.stdout


def test_comparison_on_a_pilot_that_tells_nothing(tmp_path):
    path = tmp_path / "pilot.csv"
    path.write_text("num_successes,num_rollouts\n" + "0,8\n" * 64)
    done = run("compare", path, *USUAL[2:])
    assert done.exit_code == 3
    assert done.stdout.startswith("No recommendation: ")
    assert "recommended " not in done.stdout.partition("trainer ")[2].partition("RLOO")[0]
    (row,) = [line.split() for line in done.stdout.splitlines() if line.startswith("  RLOO ")]
    assert row[-2:] == ["–", "–"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trainers", "grpo,ppo"], "grpo, dr_grpo"),
        (["--trainers", ""], "grpo, dr_grpo"),
        (["--trainers", "grpo,-1"], "trainers must be a finite number"),
        (["--trainers", "nan"], "trainers must be a finite number"),
        (["--prior", "1"], "ALPHA,BETA"),
        (["--metric", "accuracy"], "pass@8"),
        (["--order", "9"], "order"),
        (["--kappa", "2"], "kappa"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_of_the_comparison(arguments, words):
    assert words in complaint(*COMPARE, *arguments)


def test_comparison_of_no_file():
    assert complaint("compare", "nowhere.csv", *QUICK[2:]) == "Error: No such file or directory: nowhere.csv"


# --- analyze --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        (["grpo"], {"trainer": "grpo"}),
        (["pkpo", "--parameter", "k=4"], {"trainer": "pkpo", "k": 4}),
        (["f_grpo", "-p", "gamma_f=1.5", "-p", "base=rloo"], {"trainer": "f_grpo", "gamma_f": 1.5, "base": "rloo"}),
        (["grpo", "-p", " std = population "], {"trainer": "grpo", "std": "population"}),
        (["0.5"], {"trainer": 0.5}),
        (
            ["2", "--baseline", "score", "--order", "4", "--filter-groups"],
            {"trainer": 2, "baseline": "score", "order": 4, "filter_groups": True},
        ),
        (["rloo", "--kappa", "0.3"], {"trainer": "rloo", "score_model": rl2ml.ScoreModel(0.3)}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_analysis_as_json_is_the_librarys(arguments, call):
    expected = rl2ml.analyze(num_rollouts=8, **call).to_dict()
    assert answer("analyze", *arguments, "-n", 8) == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    ("prior", "used"),
    [(None, "empirical_bayes"), ("plug_in", "plug_in"), ("0.5,2", rl2ml.BetaPrior(0.5, 2))],
)
def test_analysis_on_a_pilot(pilot, prior, used):
    expected = rl2ml.analyze("maxrl", 8, pilot.population(used)).to_dict()
    options = [] if prior is None else ["--prior", prior]
    assert answer("analyze", "maxrl", "-n", 8, "--pilot", PILOT, *options) == json.loads(json.dumps(expected))


def test_analysis_in_text():
    expected = rl2ml.analyze("dapo", 8)
    done = run("analyze", "dapo", "-n", 8)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines[0] == expected.sentence
    for p, weight, kept in zip(expected.pass_rates, expected.weights, expected.kept_weights, strict=True):
        assert f"{p:g} {weight:.3g} {kept:.3g}" in lines
    for line in (
        "optimizes exactly no member of the family, nor pass@k",
        f"nearest γ {expected.nearest.gamma:.2f} (cosine 0.998 for uniform pass rates)",
        f"noise per signal {expected.noise_to_signal:.1f} in a group of 8 "
        f"(E‖ĝ‖² = {expected.energy:.3g}, ‖E ĝ‖² = {expected.signal:.3g})",
        # Of uniform pass rates every success count is as likely: 1/9 of groups each.
        "all-fail groups 11.1% of all, without advantages",
        "all-pass groups 11.1% of all, without advantages",
        "dead groups 22.2% of all",
        "kept groups 77.8% of all, 10.3 rollouts for each",
        "parameters std = sample, epsilon = 1e-06",
        "source arXiv:2503.14476",
    ):
        assert line in lines


def test_analysis_says_which_groups_carry_advantages():
    done = run("analyze", "maxrl", "-n", 8)
    assert "11.1% of all, with advantages" in done.stdout
    assert re.search(r"optimizes exactly +γ = 1, order 8 *\n", done.stdout)
    assert "kept groups" not in done.stdout
    assert "per kept group" not in done.stdout
    mixed = run("analyze", "pass_at_k_training", "-n", 8).stdout
    assert re.search(r"dead groups +\d+\.\d% of all \(\d+\.\d% with mixed rewards\)", mixed)


def test_analysis_of_a_trainer_without_a_gradient():
    done = run("analyze", "1", "-n", 1, "--baseline", "group_centered")
    assert done.exit_code == 0
    assert "nothing is learned" in done.stdout
    assert re.search(r"noise per signal +no signal", done.stdout)


@pytest.mark.parametrize("n", [8, 12])
@pytest.mark.parametrize("options", [[], ["--filter-groups"], ["--baseline", "none", "--prior", "plug_in"]])
def test_a_saved_objective_is_analyzed_on_its_own_pilot(tmp_path, options, n):
    path = tmp_path / "objective.json"
    assert run(*QUICK, *options, "-o", path).exit_code == 0
    saved = rl2ml.Objective.load(path)
    expected = rl2ml.analyze(saved.table(n), n, saved.population).to_dict()
    found = answer("analyze", path, "-n", n)
    assert found["label"] == f"RL2ML ({saved.baseline})"
    assert found["name"] == "objective.json"
    assert found["sentence"].startswith(f"RL2ML ({saved.baseline}) optimizes γ = ")
    drops = rl2ml.analyze(saved.gamma, n, saved.population, order=8, filter_groups=True)
    if saved.filter_groups:
        assert found["kept_share"] == pytest.approx(drops.kept_share)
        np.testing.assert_allclose(found["kept_weights"], drops.kept_weights)
    of_sentence = ("name", "label", "sentence", "kept_share", "kept_weights", "rollouts_per_kept_group")
    expected = json.loads(json.dumps({key: value for key, value in expected.items() if key not in of_sentence}))
    assert {key: value for key, value in found.items() if key not in of_sentence} == expected


def test_a_saved_objective_keeps_its_table_on_other_prompts(saved, grouped):
    objective = rl2ml.Objective.load(saved)
    found = answer("analyze", saved, "-n", 8, "--pilot", grouped)
    assert found["advantages"]["success"][1:] == objective.table(8).success[1:].tolist()
    people = rl2ml.read_pilot(grouped).population()
    assert found["energy"] == rl2ml.analyze(objective.table(8), 8, people).energy


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ppo", "-n", 8], "grpo, dr_grpo"),
        (["ppo", "-n", 8], "objective.json; got 'ppo'"),
        (["nan", "-n", 8], "finite"),
        (["21", "-n", 8], "at most 20"),
        (["rloo", "-n", 1], "at least 2 rollouts"),
        (["grpo", "-n", 8, "-p", "k=4"], "grpo takes std, epsilon; got k"),
        (["rloo", "-n", 8, "-p", "k=4"], "rloo takes no parameters; got k"),
        (["grpo", "-n", 8, "-p", "std=both"], "sample, population"),
        (["pkpo", "-n", 8, "-p", "k=9"], "k must be an integer from 1 to 8"),
        (["pkpo", "-n", 8, "-p", "k=4.5"], "k must be an integer"),
        (["pkpo", "-n", 8, "-p", "k"], "NAME=VALUE"),
        (["pkpo", "-n", 8, "-p", "k="], "NAME=VALUE"),
        (["pkpo", "-n", 8, "-p", "k=4", "-p", "k=5"], "once"),
        (["grpo", "-n", 8, "--baseline", "bayes"], "grpo takes std, epsilon; got baseline"),
        (["grpo", "-n", 8, "--filter-groups"], "got filter_groups"),
        (["1", "-n", 8, "--baseline", "bayes"], "needs a population"),
        (["1", "-n", 8, "--order", "9"], "order"),
        (["1", "-n", 8, "-p", "k=4"], "a γ takes baseline, order, filter_groups; got k"),
        (["grpo", "-n", 8, "--kappa", "2"], "kappa"),
        (["grpo", "-n", 8, "--pilot", "nowhere.csv"], "nowhere.csv"),
        (["grpo", "-n", 8, "--pilot", PILOT, "--prior", "1"], "ALPHA,BETA"),
        (["nowhere.json", "-n", 8], "No such file or directory: nowhere.json"),
        ([PILOT, "-n", 8], "not JSON"),
    ],
    ids=lambda value: " ".join(map(str, value)).replace(str(PILOT), "PILOT") if isinstance(value, list) else "",
)
def test_bad_analyses(arguments, words):
    assert words in complaint("analyze", *arguments)


def test_a_saved_objective_takes_no_estimator(saved):
    assert "takes no baseline" in complaint("analyze", saved, "-n", 8, "--baseline", "none")
    assert "takes no k" in complaint("analyze", saved, "-n", 8, "-p", "k=4")


def test_analyze_alone_helps_and_lists_trainers_with_their_parameters():
    done = run("analyze", width=1000)
    assert "Usage" in done.output
    shown = re.sub(r"[\s│]+", " ", run("analyze", "--help", width=1000).output)
    for name, trainer in rl2ml.KNOWN_TRAINERS.items():
        assert f"{name}: {trainer.title}." in shown
        for parameter, meant in trainer.parameters.items():
            assert f"{parameter} ({meant.meaning}" in shown


# --- truncation -----------------------------------------------------------------------------------------------------

TRUNCATION = ("truncation", "--gamma", "1", "-n", "16", "--least-pass-rate", "0.2")


def test_truncation_as_json_is_the_librarys():
    expected = rl2ml.truncation_window(1, 16, least_pass_rate=0.2, tail=0.1, largest_scale=4)
    assert answer(*TRUNCATION) == json.loads(json.dumps(expected.to_dict()))
    other = rl2ml.truncation_window(1.5, 32, least_pass_rate=0.1, tail=0.05, largest_scale=9)
    options = ("--gamma", 1.5, "-n", 32, "--least-pass-rate", 0.1, "--tail", 0.05, "--largest-scale", 9)
    assert answer("truncation", *options) == json.loads(json.dumps(other.to_dict()))


def test_truncation_in_text():
    window = rl2ml.truncation_window(1, 16, least_pass_rate=0.2, tail=0.1, largest_scale=4)
    done = run(*TRUNCATION)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == window.sentence
    assert re.search(rf"needed for the tail +M ≥ {window.needed} ", done.stdout)
    assert re.search(rf"allowed by the scale +M ≤ {window.affordable} *\n", done.stdout)
    assert re.search(rf"at the lower end +M = {window.lower}: ", done.stdout)
    assert re.search(rf"at the upper end +M = {window.upper}: ", done.stdout)


def test_truncation_without_a_feasible_order():
    done = run("truncation", "--gamma", 1, "-n", 16, "--least-pass-rate", 0.01)
    assert done.exit_code == 0
    assert done.stdout.startswith("No order is feasible: ")
    assert "at the upper end" not in done.stdout
    none = run(*TRUNCATION, "--largest-scale", 0.01)
    assert re.search(r"allowed by the scale +none", none.stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--gamma", "21"], "gamma"),
        (["--least-pass-rate", "2"], "least_pass_rate"),
        (["--tail", "0"], "tail"),
        (["--largest-scale", "0"], "largest_scale"),
    ],
)
def test_bad_truncations(arguments, words):
    assert words in complaint(*TRUNCATION, *arguments)


# --- wrong usage and data ---------------------------------------------------------------------------------------------


def test_missing_file():
    assert complaint("recommend", "nowhere.csv", *QUICK[2:]) == "Error: No such file or directory: nowhere.csv"


def test_folder_instead_of_a_file(tmp_path):
    folder = tmp_path / "pilot.csv"
    folder.mkdir()
    assert "no files in" in complaint("recommend", folder, *QUICK[2:])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("a,b\n1,2\n", "expected columns num_successes and num_rollouts"),
        ("num_successes,num_rollouts\n", "no rows"),
        ("num_successes,num_rollouts\n1,8\n9,8\n", "row 3: num_successes must not exceed num_rollouts"),
        ("num_successes,num_rollouts\n1,8\nx,8\n", "row 3: num_successes must be a number"),
        ("num_successes,num_rollouts\n1,8\n1\n", "line 3 has 1 fields"),
        ("prompt_id,reward\na,0.5\n", "reward must be 0 or 1"),
    ],
)
def test_bad_tables(tmp_path, text, words):
    path = tmp_path / "pilot.csv"
    path.write_text(text)
    line = complaint("recommend", path, *QUICK[2:])
    assert str(path) in line
    assert words in line


def test_bad_standard_input():
    assert "standard input" in complaint("recommend", "-", *QUICK[2:], given="a,b\n1,2\n")


def test_unknown_file_ending(tmp_path):
    path = tmp_path / "pilot.xlsx"
    path.write_bytes(b"PK")
    assert ".csv" in complaint("recommend", path, *QUICK[2:])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metric", "accuracy"], "pass@8"),
        (["--metric", "pass@0"], "1 to 1000000"),
        (["--prior", "1"], "ALPHA,BETA"),
        (["--prior", "1,2,3"], "ALPHA,BETA"),
        (["--prior", "0,1"], "prior.alpha"),
        (["--prior", "nan,1"], "prior.alpha"),
        (["--current", "ppo"], "grpo"),
        (["--current", "-1"], "current"),
        (["--current", "nan"], "current"),
        (["--baseline", "mean"], "leave_one_out"),
        (["--kappa", "0"], "kappa"),
        (["--kappa", "2"], "kappa"),
        (["--order", "9"], "order"),
        (["--sampled", "0.6"], "temperature=0.6"),
        (["--training", "temperature=hot"], "temperature"),
        (["--gamma-range", "2", "1"], "gamma_min"),
        (["--gamma-range", "0", "21"], "gamma_max"),
        (["--criterion", "gain"], "rms_gain"),
        (["--variance-penalty", "0.1"], "paper"),
        (["--level", "1.5"], "level"),
        (["--bootstrap", "1000000"], "bootstrap"),
        (["--output", "/nonexistent/objective.json"], "/nonexistent/objective.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options(arguments, words):
    assert words in complaint(*USUAL, *arguments)  # of an option given twice the last one counts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Usage"),
        (("recommend",), "PILOT"),
        (USUAL[:4], "--rollouts-per-prompt"),
        ((*USUAL[:2], "-n", "8"), "--metric"),
        ((*USUAL, "--nonsense"), "--nonsense"),
        ((*USUAL, "-n", "0"), "--rollouts-per-prompt"),
        ((*USUAL, "-n", "65537"), "--rollouts-per-prompt"),
        ((*USUAL, "-n", "many"), "--rollouts-per-prompt"),
        ((*USUAL, "--format", "xml"), "--format"),
        ((*USUAL, "--bootstrap", "-1"), "--bootstrap"),
        (("suggest",), "suggest"),
        (("table", "objective.json"), "--rollouts-per-prompt"),
        (("analyze",), "Usage"),
        (("analyze", "grpo"), "--rollouts-per-prompt"),
        (("compare",), "pilot"),
        (("compare", str(PILOT), "-n", "8"), "--metric"),
        ((*USUAL, "--order", "0"), "--order"),
        (("truncation", "-n", "8", "--gamma", "1"), "--least-pass-rate"),
    ],
    ids=lambda value: " ".join(Path(word).name for word in value) if isinstance(value, tuple) else "",
)
def test_wrong_usage(arguments, words):
    done = run(*arguments)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert words in done.output
    assert "Traceback" not in done.output
    assert words == "Usage" or done.stdout == "", "errors belong on standard error"


# --- table ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory, pilot) -> Path:
    path = tmp_path_factory.mktemp("saved") / "objective.json"
    rl2ml.recommend(pilot, "pass@8", 8, bootstrap=0).objective.save(path)
    return path


@pytest.mark.parametrize("n", [1, 4, 8, 16])
def test_table_for_any_group_size(saved, n):
    objective = rl2ml.Objective.load(saved)
    done = run("table", saved, "-n", n)
    assert done.exit_code == 0
    assert done.stdout.startswith(f"γ = {objective.gamma:.4g} (bayes baseline, truncation order {min(8, n)})")
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r" +\d", line)]
    assert [int(row[0]) for row in rows] == list(range(n + 1))
    assert float(rows[1][1]) == pytest.approx(objective.table(n).success[1], abs=1e-4)
    assert float(rows[0][1]) == pytest.approx(objective.table(n).failure[0], abs=1e-4)


def test_long_table_shows_its_ends(saved):
    done = run("table", saved, "-n", 100)
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r" +(\d|⋮)", line)]
    shown = [row[0] for row in rows]
    assert shown.count("⋮") == 1
    assert len(shown) <= 18
    assert (shown[0], shown[-1]) == ("0", "100")
    numbers = [int(k) for k in shown if k != "⋮"]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("n", [15, 16, 17, 18])
def test_table_near_the_length_that_is_cut(saved, n):
    done = run("table", saved, "-n", n)
    shown = [line.split()[0] for line in done.stdout.splitlines() if re.match(r" +(\d|⋮)", line)]
    assert [k for k in shown if k != "⋮"] == [str(k) for k in range(n + 1) if n <= 16 or str(k) in shown]
    assert (n > 16) == ("⋮" in shown)
    assert len(shown) <= 18


def test_table_as_json(saved):
    done = run("table", saved, "-n", 5, "--format", "json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == rl2ml.Objective.load(saved).to_dict(5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{}", "schema"),
        ('{"schema": 99}', "schema 1"),
        ('{"schema": 1}', "incomplete"),
        ("[1]", "objective"),
        ('{"schema": 1, "gamma": -1, "baseline": "none"}', "gamma"),
    ],
)
def test_table_of_something_else(tmp_path, text, words):
    path = tmp_path / "objective.json"
    path.write_text(text)
    line = complaint("table", path, "-n", 4)
    assert words in line
    assert str(path) in line


def test_table_of_nothing():
    assert complaint("table", "nowhere.json", "-n", 4) == "Error: No such file or directory: nowhere.json"


def test_table_of_a_binary_file(tmp_path):
    path = tmp_path / "objective.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert "not JSON" in complaint("table", path, "-n", 4)


# --- help, versions, terminals ----------------------------------------------------------------------------------------


def test_version():
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"rl2ml {rl2ml.__version__}\n")


def test_every_command_and_option_is_in_the_help():
    commands = get_command(app).commands
    every = ["recommend", "pilot", "plan", "pilot-size", "compare", "analyze", "truncation", "table", "report"]
    assert list(commands) == every
    overview = run("--help", width=200)
    assert overview.exit_code == 0
    for name, command in commands.items():
        assert re.search(rf"\b{name} +\w", overview.stdout), "no sentence about it"
        shown = run(name, "--help", width=200).stdout
        assert f"Example: rl2ml {name} " in shown
        for parameter in command.params:
            if parameter.name == "help":
                continue
            assert parameter.help, f"{name} {parameter.name} has no help"
            for spelled in parameter.opts if parameter.param_type_name == "option" else [parameter.name]:
                assert spelled in shown, f"{name} {spelled}"


def test_names_in_the_help_are_the_librarys():
    for command in ("recommend", "compare", "analyze"):
        shown = re.sub(r"[\s│]+", " ", run(command, "--help", width=1000).stdout)
        assert ", ".join(rl2ml.KNOWN_TRAINERS) in shown
        assert ", ".join(rl2ml.BASELINES) in shown


@pytest.mark.parametrize("width", [20, 40, 200])
def test_terminals_of_any_width(saved, width, pilot):
    assert run("--help", width=width).exit_code == 0
    assert run("recommend", "--help", width=width).exit_code == 0
    done = run(*USUAL, width=width)
    assert done.exit_code == 0
    table = rl2ml.recommend(pilot, "pass@8", 8, bootstrap=0).objective.table(8)
    tail = done.stdout.partition("Advantages in a group")[2]
    if width >= 40:
        assert done.stdout.startswith("Train with γ = ")
        assert all(f"{value:+.4f}" in tail for value in table.success[1:])
    assert run("table", saved, "-n", 100, width=width).exit_code == 0
    for arguments in ((*COMPARE, "--trainers", "grpo,rloo"), ("analyze", "dapo", "-n", 8), TRUNCATION):
        for also in ([], ["--help"]):
            assert run(*arguments, *also, width=width).exit_code == 0


# --- as a process -----------------------------------------------------------------------------------------------------


def run_process(*arguments: str, given: str = "", python: tuple[str, ...] = ("-m", "rl2ml_core.cli"), **variables: str):
    return subprocess.run(
        [sys.executable, *python, *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
        input=given,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=HANG,
    )


def test_process_reads_a_pipe_and_writes_json():
    done = run_process("recommend", "-", *QUICK[2:], "--format", "json", given=PILOT.read_text())
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == answer(*QUICK)


def test_process_says_errors_in_one_line():
    done = run_process("recommend", "nowhere.csv", *QUICK[2:])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "Error: No such file or directory: nowhere.csv\n"


@pytest.mark.parametrize("name", ["typer", "rich"])
def test_without_its_extra_the_way_to_get_it_is_named(name):
    script = f"""
import sys


class Without:
    def find_spec(self, module, *_):
        if module.partition(".")[0] == {name!r}:
            raise ModuleNotFoundError(f"No module named {{module!r}}", name=module)


sys.meta_path.insert(0, Without())
from rl2ml_core.cli import main

main()
"""
    done = run_process("--version", python=("-c", script))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "pip install 'rl2ml[cli]'" in line


def test_a_broken_library_is_not_mistaken_for_a_missing_extra():
    script = """
import sys

sys.modules["numpy"] = None
from rl2ml_core.cli import main

main()
"""
    done = run_process("--version", python=("-c", script))
    assert done.returncode == 1
    assert "numpy" in done.stderr
    assert "pip install" not in done.stderr


def test_output_in_a_plain_locale():
    done = run_process(*QUICK, PYTHONIOENCODING="utf-8", LC_ALL="C", TERM="dumb", COLUMNS="40")
    assert done.returncode == 0, done.stderr
    assert "Train with γ = " in done.stdout
    assert "\x1b" not in done.stdout, "no colors into a pipe"


def run_in_terminal(*arguments: str, width: int) -> str:
    """Both outputs on one terminal, as a person sees them at the end."""
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    variables = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "rl2ml_core.cli", *arguments],
        cwd=ROOT,
        env=variables | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": "1"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # how Linux says that nobody writes any more
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait(HANG) == 0
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.decode().replace("\r\n", "\n"))


def test_a_terminal_gets_sentences_wrapped_at_words_and_progress(pilot):
    written = run_in_terminal(*USUAL, width=80)
    assert "Reading " in written
    assert "Choosing γ …" in written
    expected = rl2ml.recommend(pilot, "pass@8", 8)
    lines = written[written.index("Train with") :].splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert " ".join(" ".join(lines[:2]).split()) == expected.summary
    # Later lines of a finding stand below its first, beside the mark.
    found = next(found for found in expected.diagnostics if len(found.detail) > 80)
    at = next(i for i, line in enumerate(lines) if line.startswith(("· ", "! ")) and line[2:30] in found.detail)
    assert lines[at + 1].startswith("  ")
    assert " ".join(f"{lines[at][2:]} {lines[at + 1]}".split()) in found.detail


def test_comparing_shows_progress_on_a_terminal():
    written = run_in_terminal(*map(str, COMPARE), "--trainers", "grpo,rloo", width=100)
    assert "Comparing trainers …" in written


def test_closed_pipe_is_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "rl2ml_core.cli", *QUICK, "--format", "json"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout
    process.stdout.close()  # as `| head -0` does
    _, err = process.communicate(timeout=HANG)
    assert b"Traceback" not in err
