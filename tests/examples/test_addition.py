"""The addition example: its gradients, its sampler, its verifier, and the pilot that ships with it."""

import csv
import hashlib
import importlib.util
import json
import shlex
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "addition"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pilot", FOLDER / "make_pilot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


addition = load()


def read(folder: Path) -> tuple[list[tuple[str, int, int]], dict]:
    with (folder / "pilot.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == ["prompt_id", "num_successes", "num_rollouts"]
        rows = [(row["prompt_id"], int(row["num_successes"]), int(row["num_rollouts"])) for row in reader]
    return rows, json.loads((folder / "pilot.json").read_text(encoding="utf-8"))


def check_well_formed(folder: Path) -> None:
    rows, sidecar = read(folder)
    assert sidecar["sha256"] == hashlib.sha256((folder / "pilot.csv").read_bytes()).hexdigest()
    assert len({prompt for prompt, _, _ in rows}) == len(rows) == sidecar["num_prompts"]
    for prompt, successes, rollouts in rows:
        assert all(operand == str(int(operand)) and int(operand) < 10_000 for operand in prompt.split("+"))
        assert 0 <= successes <= rollouts == sidecar["num_rollouts"]
    counts = np.array([successes for _, successes, _ in rows])
    assert sidecar["mean_success"] == pytest.approx(counts.mean() / sidecar["num_rollouts"], abs=1e-4)
    assert sidecar["all_fail_share"] == pytest.approx((counts == 0).mean(), abs=1e-4)
    assert sidecar["all_pass_share"] == pytest.approx((counts == sidecar["num_rollouts"]).mean(), abs=1e-4)


@pytest.fixture(scope="module")
def shipped_problems() -> tuple[list[str], list[str]]:
    sidecar = read(FOLDER)[1]
    stream = np.random.SeedSequence(sidecar["training"]["seed"]).spawn(3)[0]
    return addition.draw_problems(sidecar["num_prompts"], np.random.default_rng(stream))


@pytest.fixture(scope="module")
def short_policy(shipped_problems):
    """A quarter of the shipped pretraining: enough to have learned something, quick enough for a test."""
    return addition.train(shipped_problems[1], 2000, np.random.default_rng(11))[0]


def test_gradients_match_central_differences():
    rng = np.random.default_rng(5)
    params = addition.initialize(rng, hidden=8)
    for name in ("b1", "b2", "b3"):  # zero biases would leave their part of the forward pass untested
        params[name] = rng.normal(size=params[name].shape)
    written = [("47+386=", ""), ("47+386=", "43"), ("9+8=", "17"), ("9999+9999=", "19998"), ("0+120=", "1")]
    windows = np.array([addition.encode(prompt, answer) for prompt, answer in written])
    targets = rng.integers(len(addition.VOCABULARY), size=len(windows))
    _, gradients = addition.loss_and_gradients(params, windows, targets)
    assert gradients.keys() == params.keys()

    step, worst = 1e-5, 0.0
    for name, value in params.items():
        assert value.dtype == np.float64
        assert gradients[name].shape == value.shape
        assert np.abs(gradients[name]).max() > 1e-3
        for index in np.ndindex(value.shape):
            kept = value[index]
            value[index] = kept + step
            above = addition.loss_and_gradients(params, windows, targets)[0]
            value[index] = kept - step
            below = addition.loss_and_gradients(params, windows, targets)[0]
            value[index] = kept
            numeric, exact = (above - below) / (2 * step), gradients[name][index]
            # Rounding alone is about 1e-11 here, so entries below 1e-4 are held to an absolute error instead.
            worst = max(worst, abs(numeric - exact) / max(abs(numeric), abs(exact), 1e-4))
    assert worst <= 1e-6


def test_window_keeps_operands_and_answer_in_place():
    assert "".join(addition.VOCABULARY[i] for i in addition.encode("47+386=", "43")) == "  47 38643   "


@pytest.mark.parametrize(("prompt", "completion"), [("47+386=", "433."), ("0+0=", "0."), ("9999+9999=", "19998.")])
def test_verifier_accepts_the_sum(prompt, completion):
    assert addition.verify(prompt, completion)


@pytest.mark.parametrize(
    "completion", ["432.", "433", "0433.", "433. ", " 433.", "4 33.", "43.", "334.", ".", "", "433.."]
)
def test_verifier_rejects_anything_else(completion):
    assert not addition.verify("47+386=", completion)


def probability(params, prompt: str, completion: str) -> float:
    """A completion's probability by the chain rule, from the forward pass alone."""
    windows = np.array([addition.encode(prompt, completion[:i]) for i in range(len(completion))])
    tokens = [addition.VOCABULARY.index(character) for character in completion]
    return float(np.exp(addition.forward(params, windows)[-1][np.arange(len(tokens)), tokens].sum()))


def test_sampler_draws_from_the_policy(short_policy):
    prompt, rollouts = "47+386=", 20_000
    drawn = addition.sample(short_policy, prompt, rollouts, np.random.default_rng(21))
    # The completions to compare come from another stream: picking the frequent ones here would favor the lucky.
    compared = set(addition.sample(short_policy, prompt, 200, np.random.default_rng(22)))
    assert len(compared) >= 5
    covered = 0.0
    for completion in compared:
        expected = probability(short_policy, prompt, completion)
        covered += expected
        tolerance = 5 * np.sqrt(expected * (1 - expected) / rollouts) + 2 / rollouts
        assert drawn.count(completion) / rollouts == pytest.approx(expected, abs=tolerance)
    assert 0.5 < covered <= 1 + 1e-9
    first = np.array([sum(text.startswith(c) for text in drawn) for c in addition.VOCABULARY]) / rollouts
    expected_first = np.array([probability(short_policy, prompt, c) for c in addition.VOCABULARY])
    assert expected_first.sum() == pytest.approx(1)
    np.testing.assert_allclose(first, expected_first, atol=5 * 0.5 / np.sqrt(rollouts))


def test_sampler_stops_at_end(short_policy):
    for text in addition.sample(short_policy, "1234+8766=", 500, np.random.default_rng(3)):
        assert text.count(addition.END) == 1 if text.endswith(addition.END) else addition.END not in text
        assert len(text) == addition.ANSWER_LENGTH or text.endswith(addition.END)


def test_held_out_prompts_never_appear_in_training(shipped_problems):
    held_out, training = shipped_problems
    assert len(training) == addition.TRAINING_SUMS
    assert not {frozenset(addition.operands(p)) for p in held_out} & {frozenset(addition.operands(p)) for p in training}


def test_shipped_pilot_matches_its_sidecar(shipped_problems):
    check_well_formed(FOLDER)
    rows, sidecar = read(FOLDER)
    assert [f"{prompt}=" for prompt, _, _ in rows] == shipped_problems[0]
    assert sidecar["training"]["sums"] == addition.TRAINING_SUMS
    assert sidecar["temperature"] == addition.TEMPERATURE == 1


def test_shipped_pilot_looks_like_a_pilot():
    sidecar = read(FOLDER)[1]
    assert 0.2 <= sidecar["mean_success"] <= 0.4
    assert 0.25 <= sidecar["all_fail_share"] <= 0.45
    assert 0 < sidecar["all_pass_share"] <= 0.15


def test_shorter_training_agrees_on_what_is_hard(short_policy):
    # The full run takes longer than a test should. A quarter of it, from another seed, must already find the same
    # prompts easy: that fails if the shipped counts are shuffled, shifted or another verifier's.
    rows, sidecar = read(FOLDER)
    rng = np.random.default_rng(31)
    short = [
        sum(addition.verify(f"{p}=", t) for t in addition.sample(short_policy, f"{p}=", 16, rng)) for p, _, _ in rows
    ]
    assert 0.02 < np.mean(short) / 16 < sidecar["mean_success"]
    correlation = np.corrcoef(short, [successes for _, successes, _ in rows])[0, 1]
    assert correlation > 0.2  # chance alone has a standard deviation of 0.06


def test_quick_run_writes_both_files_and_repeats_itself(tmp_path, capsys):
    arguments = ["--steps", "30", "--prompts", "12", "--rollouts", "5", "--seed", "4"]
    for name in ("first", "second"):
        addition.main([*arguments, "--output-dir", str(tmp_path / name)])
        check_well_formed(tmp_path / name)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 30/30" in captured.err
    assert "sampled 12/12" in captured.err
    assert (tmp_path / "first" / "pilot.csv").read_bytes() == (tmp_path / "second" / "pilot.csv").read_bytes()
    sidecar = read(tmp_path / "first")[1]
    assert sidecar["num_rollouts"] == 5
    assert sidecar["training"]["steps"] == 30
    assert shlex.split(sidecar["command"])[2:] == arguments


def test_defaults_are_the_shipped_command(tmp_path, monkeypatch):
    monkeypatch.setattr(addition, "train", lambda prompts, steps, rng: (addition.initialize(rng), 0.0))
    addition.main(["--output-dir", str(tmp_path)])
    assert read(tmp_path)[1]["command"] == read(FOLDER)[1]["command"]


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--prompts", "0"], ["--rollouts", "-1"], ["--seed", "-1"]])
def test_impossible_settings_are_refused(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        addition.main([*arguments, "--output-dir", str(tmp_path)])
    assert refused.value.code == 2
    assert "start at 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
