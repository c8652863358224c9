"""Training tiny transformers: verifiers, arms that begin alike, statistics over seeds, and a quick run that resumes."""

import dataclasses
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")

ROOT = Path(__file__).resolve().parents[2]

# One worker: another one would make the quick run anew.
pytestmark = pytest.mark.xdist_group("evidence_models")


@pytest.fixture(scope="module", autouse=True)
def checkout():
    """The benchmarks are no installed package: they are imported from the checkout."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT)
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


def modules():
    from benchmarks.evidence.models import report, settings, tasks, training

    return report, settings, tasks, training


def examples_of(name, count=200, seed=0):
    tasks = modules()[2]
    return tasks.TASKS[name], tasks.draw_examples(tasks.TASKS[name], count, np.random.default_rng(seed))


# ---- tasks ----


@pytest.mark.parametrize("name", ["sorting", "addition", "target"])
def test_right_answers_are_right_and_all_fits(name):
    task, examples = examples_of(name, 2000)
    for prompt, answer in examples:
        assert task.verify(prompt, answer)
        assert len(prompt) <= task.prompt_width
        assert len(answer) <= task.response_width
        assert set(prompt + answer) <= set(task.vocabulary)
    assert len(set(task.vocabulary)) == len(task.vocabulary)
    # The windows are no longer than they must be.
    assert max(len(prompt) for prompt, _ in examples) == task.prompt_width
    assert max(len(answer) for _, answer in examples) == task.response_width


@pytest.mark.parametrize("name", ["sorting", "addition", "target"])
@given(seed=st.integers(0, 10**6), data=st.data())
def test_an_answer_with_another_character_is_judged_by_its_meaning(name, seed, data):
    task, [(prompt, answer)] = examples_of(name, 1, seed)
    place = data.draw(st.integers(0, len(answer) - 1))
    changed = answer[:place] + data.draw(st.sampled_from(task.vocabulary)) + answer[place + 1 :]
    # What follows an end is not part of the response.
    changed = "".join(changed.partition(".")[:2])
    assert task.verify(prompt, changed) == judged(name, prompt, changed)
    for longer in (answer + ".", answer[:-1], "", ".", " " + answer, answer[:-1] + " ."):
        assert not task.verify(prompt, longer)


def judged(name, prompt, response):
    """The same by other means."""
    body, end = response[:-1], response[-1:]
    if name == "sorting":
        return end == "." and list(body) == sorted(prompt[:-1])
    if name == "addition":
        return end == "." and body.isdigit() and body[::-1] == str(sum(int(part) for part in prompt[:-1].split("+")))
    numbers, target = prompt[:-1].split(":")
    if end != "." or not re.fullmatch(r"\d([-+*]\d)*", body) or sorted(body[::2]) != sorted(numbers):
        return False
    return eval(body) == int(target)


@given(st.text("0123456789+-*", min_size=0, max_size=9))
def test_values_of_expressions(expression):
    value = modules()[2].value_of(expression)
    well_formed = re.fullmatch(r"\d([-+*]\d)*", expression) is not None
    assert value == (eval(expression) if well_formed else None)


def test_a_target_has_several_right_answers():
    task, _ = examples_of("target", 1)
    assert all(task.verify("235:11=", right) for right in ("3*2+5.", "5+2*3.", "2*3+5."))
    for wrong in ("2+3+5.", "5+6.", "2*3+5", "2*3+5+0.", "11.", "(2*3)+5.", "2*3+5=11.", "2*3*5.", "2*5+3."):
        assert not task.verify("235:11=", wrong)


def test_sums_begin_with_their_last_digit():
    task, examples = examples_of("addition", 500)
    assert task.verify("   99+  901=", "0001.")
    assert not task.verify("   99+  901=", "1000.")
    assert {len(prompt) for prompt, _ in examples} == {task.prompt_width}  # numbers have fixed places


def test_held_out_prompts_are_not_drawn():
    tasks = modules()[2]
    task, examples = examples_of("sorting", 300)
    held_out = frozenset(prompt for prompt, _ in examples)
    drawn = tasks.draw_examples(task, 3000, np.random.default_rng(1), held_out)
    assert not held_out & {prompt for prompt, _ in drawn}


# ---- arms ----


@pytest.fixture(scope="module")
def start(checkout):
    """An untrained policy that is right now and then: whatever begins with an even character is."""
    _, settings, _, training = modules()
    size = settings.Size(width=16, steps=2, prompts_per_step=4, steps_per_window=1, held_out_prompts=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "rewards_of", even)
        yield training.start_of(settings.Setting("sorting", "none", 0.0, 1e-3, 10), 5, size)


def even(_task, _prompts, responses):
    return (responses[..., 0] % 2 == 0).float()


def test_supervised_training_stops_at_its_pass_rate(start):
    assert start.supervised_steps == start.size.check_every
    assert 0 < start.pilot.mean_pass_rate < 1


def test_arms_begin_with_the_same_rollouts(start, monkeypatch):
    _, settings, _, training = modules()
    monkeypatch.setattr(training, "rewards_of", even)
    before = [parameter.clone() for parameter in start.model.parameters()]
    seen, ends = [], []
    for rule in (settings.Rule("normalized", 0.3), settings.Rule("adam", 1e-3)):
        for arm in settings.ARMS:
            model, happened = training.reinforce(start, training.objectives_of(arm, start)[0], rule)
            seen.append(happened["first_rollouts"])
            ends.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert len(set(seen)) == 1
    # The start is nobody's to change, and arms end apart.
    assert all(torch.equal(a, b) for a, b in zip(before, start.model.parameters(), strict=True))
    assert not torch.equal(ends[0], ends[2])


def test_normalized_steps_have_one_length(start, monkeypatch):
    _, settings, _, training = modules()
    monkeypatch.setattr(training, "rewards_of", even)
    begin = torch.cat([parameter.detach().flatten() for parameter in start.model.parameters()])
    for arm in (settings.GRPO, settings.RLOO, settings.Arm("γ = 1.5", gamma=1.5)):
        once = dataclasses.replace(start, size=settings.Size(width=16, steps=1, prompts_per_step=4))
        model, _ = training.reinforce(once, training.objectives_of(arm, once)[0], settings.Rule("normalized", 0.3))
        moved = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]) - begin
        assert moved.norm().item() == pytest.approx(0.3, rel=1e-3)


def test_what_arms_train_with(start):
    _, settings, _, training = modules()
    arms = {arm.name: training.objectives_of(arm, start) for arm in settings.ARMS}
    for metric in ("pass@1", "pass@8"):
        (objective, after), said = arms[f"recommended for {metric}"]
        assert after is None
        assert objective.to_dict() == rl2ml.recommend(start.pilot, metric, 8).objective.to_dict()
        assert said["gamma"] == objective.gamma
    (objective, after), said = arms["controller for pass@8"]
    assert objective.gamma == rl2ml.recommend(start.pilot, "pass@8", 8).gamma
    after(start.pilot)
    assert len(said["gammas"]) == 2
    assert arms["GRPO"][0] == ("grpo", None)
    assert (arms["γ = 1"][0][0].gamma, arms["γ = 1"][0][0].baseline) == (1.0, "bayes")


def test_measured_kappa_reaches_the_recommendation(start, monkeypatch):
    _, settings, _, training = modules()
    gammas = []
    for kappa in (0.01, 1.0):
        monkeypatch.setitem(vars(start), "measured_scores", rl2ml.ScoreModel(kappa, 0.2))
        said = training.objectives_of(settings.MEASURED_8, start)[1]
        assert said["kappa"] == [kappa, 0.2]
        gammas.append(said["gamma"])
    assert gammas[0] < gammas[1]
    monkeypatch.setitem(vars(start), "measured_scores", None)  # too few rollouts
    said = training.objectives_of(settings.MEASURED_8, start)[1]
    assert said == {**training.objectives_of(settings.RECOMMENDED_8, start)[1], "kappa": None}


def test_kappa_is_that_of_the_scores(start):
    """Against exact scores of the same rollouts, one backward pass each."""
    from examples.tiny_lm.tiny_transformer import response_log_probs, response_mask
    from rl2ml_core.training import measure_geometry

    training = modules()[3]
    _, _, tasks, _ = modules()
    task, model = start.task, start.model
    scores = []
    for prompt, responses in zip(start.pilot_prompts, start.pilot_responses, strict=True):
        read = training.encode_prompts(task, [prompt])
        for response in responses:
            one = response[None, None]
            mask = response_mask(one, task.vocabulary.index(tasks.END))
            log_prob = (response_log_probs(model, read, one) * mask).sum()
            found = torch.autograd.grad(log_prob, list(model.parameters()))
            scores.append(torch.cat([gradient.flatten() for gradient in found]))
    exact = measure_geometry(torch.stack(scores).view(*start.pilot_rewards.shape, -1), start.pilot_rewards, exact=True)
    measured = start.measured_scores
    assert measured is not None
    # The sketch alone is between them: some 256 coordinates, whose share of the error is below the spread.
    assert measured.kappa == pytest.approx(min(exact.kappa.value, 1), rel=3 * measured.kappa_spread)


def test_grpo_has_the_advantages_of_trl():
    # As TRL's GRPOTrainer has them with scale_rewards="group": the deviation is the sample's.
    from rl2ml_core.training import group_advantages

    rewards = torch.tensor(list(itertools.product([0.0, 1.0], repeat=8)))
    theirs = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    assert torch.allclose(group_advantages("grpo", rewards).advantages, theirs, rtol=1e-5, atol=1e-6)


# ---- statistics ----


def test_pass_at_k_is_the_share_of_subsets_with_a_success():
    report = modules()[0]
    for rollouts, k in ((5, 1), (6, 3), (8, 8)):
        literal = [
            np.mean([any(subset) for subset in itertools.combinations([1] * c + [0] * (rollouts - c), k)])
            for c in range(rollouts + 1)
        ]
        assert report.pass_at_k(np.arange(rollouts + 1), rollouts, k) == pytest.approx(literal, abs=1e-15)


def test_differences_are_paired_by_seed():
    report = modules()[0]
    # Differences .1, .2, .3: mean .2, deviation .1, error .1/√3; t at .975 with 2 degrees of freedom is 4.3027.
    found = report.difference([0.2, 0.5, 1.0], [0.1, 0.3, 0.7])
    assert found["mean"] == pytest.approx(0.2)
    assert found["standard_error"] == pytest.approx(0.1 / 3**0.5)
    assert found["interval"] == pytest.approx([0.2 - 4.30265 * 0.0577350, 0.2 + 4.30265 * 0.0577350], abs=1e-6)
    assert report.verdict(found) == "level"
    assert report.verdict(report.difference([0.2, 0.31, 0.4], [0.1, 0.2, 0.3])) == "better"
    assert report.verdict(report.difference([0.1, 0.2, 0.3], [0.2, 0.31, 0.4])) == "worse"
    assert report.verdict(report.difference([0.1], [0.2])) == "one seed"


def test_means_over_settings_add_their_errors():
    report = modules()[0]
    one, two = report.difference([0.2, 0.5, 1.0], [0.1, 0.3, 0.7]), report.difference([0.0, 0.2, 0.1], [0.0, 0.0, 0.0])
    both = report.mean_over_settings([one, two])
    # Both have variance .01/3: error √(.02/3)/2, and equal variances with 2 + 2 degrees of freedom keep all 4.
    assert both["mean"] == pytest.approx(0.15)
    assert both["standard_error"] == pytest.approx((0.02 / 3) ** 0.5 / 2)
    assert both["degrees_of_freedom"] == pytest.approx(4)
    alone = report.mean_over_settings([one])
    assert alone["interval"] == pytest.approx(one["interval"])


@pytest.mark.parametrize("plan", ["FULL", "QUICK", "TUNING"])
def test_plans_name_each_run_once(plan):
    from benchmarks.evidence.models import runs

    settings = modules()[1]
    plan = getattr(settings, plan)
    blocks = list(plan.blocks())
    files = [path for block in blocks for path in runs.run_files(Path(), block).values()]
    assert len(files) == len(set(files)) > 0
    assert not set(settings.TUNING.seeds) & set(settings.FULL.seeds)
    assert len(blocks) == len(plan.seeds) * len(plan.settings)


# ---- the whole of it ----


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The folder and what was printed."""
    folder = tmp_path_factory.mktemp("models")
    return folder, run(folder)


def run(folder, *arguments):
    command = [sys.executable, "benchmarks/evidence/models/run.py", "--quick", "--output", str(folder), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, done.stderr


def test_quick_run(quick):
    settings = modules()[1]
    folder, (printed, said) = quick
    assert "38 of 38 runs" in said
    assert "no evidence" in printed
    [results] = folder.glob("*/results.json")
    summary = json.loads(results.read_text(encoding="utf-8"))
    assert summary["version"] == settings.VERSION
    assert len(summary["settings"]) == 4  # three tasks, sorting under two rules
    for found in summary["settings"].values():
        assert found["seeds"] == [0, 1]
        for by_metric in found["policies"].values():
            assert 0 <= by_metric["pass@1"]["mean"] <= by_metric["pass@8"]["mean"] <= 1
    policies = list(summary["settings"]["sorting-weak, normalized 0.1"]["policies"])
    assert policies == ["before", *(arm.name for arm in settings.ARMS)]


def test_quick_arms_begin_alike(quick):
    first = {}
    for path in quick[0].glob("*/*/*/*/*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        what = content["what"]
        first.setdefault((what["setting"]["task"], what["seed"]), set()).add(content["first_rollouts"])
    assert len(first) == 6
    assert {len(rollouts) for rollouts in first.values()} == {1}
    assert len(set.union(*first.values())) == 6


def test_resumes(quick):
    folder, (printed, _) = quick
    [lost, kept] = sorted(folder.glob("*/sorting-weak/0/normalized-*/[GR]*O.json"))
    before, stamp = json.loads(lost.read_text(encoding="utf-8")), kept.stat().st_mtime_ns
    lost.unlink()
    again, said = run(folder)
    assert "37 of 38 runs" in said
    assert again == printed
    assert kept.stat().st_mtime_ns == stamp
    after = json.loads(lost.read_text(encoding="utf-8"))
    assert {**after, "cpu_seconds": 0} == {**before, "cpu_seconds": 0}
    # Nothing is left to train, and nothing is loaded into further processes.
    assert run(folder, "--report") == (printed, "")


def test_other_settings_are_other_runs(quick):
    from benchmarks.evidence.models.runs import read_run

    settings = modules()[1]
    [path] = quick[0].glob("*/sorting-weak/0/before.json")
    block = next(iter(settings.QUICK.blocks()))
    assert read_run(path, block, None) is not None
    other = settings.Block(block.setting, block.seed, block.runs, settings.Size())
    assert read_run(path, other, None) is None


@pytest.mark.parametrize("arguments", [["--processes", "0"], ["--quick", "--tune"]])
def test_arguments_are_checked(arguments, capsys):
    from benchmarks.evidence.models import run as script

    with pytest.raises(SystemExit) as stop:
        script.main(arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_says_when_there_is_nothing_to_report(tmp_path):
    from benchmarks.evidence.models import run as script

    with pytest.raises(SystemExit, match="No block of runs is finished"):
        script.main(["--report", "--output", str(tmp_path)])
