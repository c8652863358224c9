"""The tiny transformer example in TRL, in a few steps and a process of its own, as its users start it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rl2ml_core as rl2ml

pytest.importorskip("trl", reason="trl is not installed: TRAINING=1 make test")
matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed: TRAINING=1 make test")

# One worker: another one would run it anew.
pytestmark = pytest.mark.xdist_group("tiny_lm_trl")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "tiny_lm" / "train_trl.py"
ARMS = ["recommended", "GRPO", "stock GRPO"]
STEPS = 4


def start(code_or_script, *arguments, folder):
    """Run from an empty folder, which is also the home of whoever runs it."""
    environment = os.environ | {"HOME": str(folder), "OMP_NUM_THREADS": "1"}
    environment["MPLCONFIGDIR"] = matplotlib.get_cachedir()  # whose list of fonts takes a while to make
    command = [sys.executable, *code_or_script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=240)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder with the results, the results, what was printed, and the folder that it was started in."""
    here, output = tmp_path_factory.mktemp("here") / "empty", tmp_path_factory.mktemp("there") / "tiny_lm_trl"
    here.mkdir()
    done = start([str(SCRIPT)], "--quick", "--output", str(output), folder=here)
    assert done.returncode == 0, done.stderr
    return output, json.loads((output / "results.json").read_text(encoding="utf-8")), done, here


def test_writes_what_it_says_and_nothing_else(quick):
    output, _, _, here = quick
    assert {path.name for path in output.iterdir()} == {"pilot.csv", "objective.json", "results.json", "plot.png"}
    assert list(here.iterdir()) == []


def test_prints_a_table_and_neither_logs_nor_warnings(quick):
    _, results, done, _ = quick
    assert results["summary"] in done.stdout
    assert "not evidence" in done.stdout
    # A line per stage, as there is no terminal to draw bars on: start, pilot, three trainings, four evaluations.
    assert len(done.stderr.splitlines()) == 9
    assert len(done.stdout.splitlines()) < 25


def test_rates_are_shares(quick):
    results = quick[1]
    assert 50_000 < results["parameters"] < 150_000
    assert list(results["policies"]) == ["before", *ARMS]
    for metrics in results["policies"].values():
        assert list(metrics) == ["pass@1", "pass@8"]
        for metric in metrics.values():
            assert 0 < metric["mean"] < 1
            assert 0 < metric["standard_error"] < 0.1
            assert all(0 <= value <= 1 for value in metric["by_length"].values())
    assert list(results["training_pass_rate"]) == ARMS
    for rates in results["training_pass_rate"].values():
        assert len(rates) == STEPS
        assert all(0 <= rate <= 1 for rate in rates)
    assert all(0 <= share <= 1 for share in results["zero_advantage_groups"].values())


def test_trains_with_the_objective_that_was_saved(quick):
    output, results, _, _ = quick
    objective = rl2ml.Objective.load(output / "objective.json")
    assert results["objectives"] == {"recommended": objective.to_dict(), "GRPO": "grpo"}
    assert objective.gamma == results["gamma"]


def test_pilot_is_what_was_counted(quick):
    output, results, _, _ = quick
    pilot = rl2ml.read_pilot(output / "pilot.csv")
    assert pilot.total_prompts == results["settings"]["pilot_prompts"]
    assert results["pilot"]["cells"] == [list(cell) for cell in pilot.cells()]


def test_arms_begin_alike_and_end_apart(quick):
    results = quick[1]
    assert len({rates[0] for rates in results["training_pass_rate"].values()}) == 1
    assert results["policies"]["recommended"] != results["policies"]["GRPO"]


def test_grpo_through_the_adapter_is_grpo(quick):
    same = quick[1]["GRPO − stock GRPO"]
    assert same["steps_alike"] == STEPS
    # Four steps of AdamW move a weight by up to 4 · 1e-4; rounding is a thousandth of that.
    assert same["largest_difference_of_a_weight"] < 1e-6


def test_says_what_is_missing(tmp_path):
    code = "import sys; sys.modules['trl'] = None; sys.argv = ['train_trl.py']; import runpy; "
    code += f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    done = start(["-c", code], folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "This example needs trl: pip install 'rl2ml[trl,plot]'\n"
