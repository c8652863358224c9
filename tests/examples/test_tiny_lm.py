"""The tiny transformer example: its verifier, its sampler, its step rule, and the whole of it in a few steps."""

import contextlib
import importlib.util
import io
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: TRAINING=1 make test")

# One worker: another one would train the policy anew.
pytestmark = pytest.mark.xdist_group("tiny_lm")

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "tiny_lm"
ARMS = ["recommended", "GRPO", "RLOO"]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up, and the script imports the others by name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tiny():
    """The model's module and the script's, both gone from `sys.modules` afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names = ("sorting", "tiny_transformer", "train")
    yield [load(name) for name in names][1:]
    torch.set_num_threads(threads)
    for name in names:
        del sys.modules[name]


@pytest.fixture(scope="module")
def sorting(tiny):
    """What the folder's scripts share."""
    return tiny[1].sorting


@pytest.fixture(scope="module")
def model(tiny):
    return tiny[0], tiny[1], policy(tiny)


def policy(tiny, seed=3):
    transformer, train = tiny
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformer.TinyTransformer(len(train.VOCABULARY), 2 * train.WIDTH - 1)


def tick():
    """Progress that nobody watches."""


def silent(_name, _total):
    return tick


# ---- the task ----


def test_verifier_wants_the_digits_sorted_and_the_end(sorting):
    assert sorting.answer("40731=") == "01347."
    assert sorting.verify("40731=", "01347.")
    assert sorting.verify("0900=", "0009.")
    for wrong in ("01347", "0137.", "01374.", "013477.", " 01347.", "01347. ", "", "."):
        assert not sorting.verify("40731=", wrong)


def test_rewards_of_tokens_are_the_verifier_of_their_text(tiny):
    _, train = tiny
    right = train.encode_answers(["210="])[0, 0]
    after_the_end = right.clone()
    after_the_end[4:] = 7  # what follows the end is no part of the response
    wrong = right.clone()
    wrong[0] = 5
    endless = torch.full_like(right, 1)
    responses = torch.stack([right, after_the_end, wrong, endless])[None]
    assert train.decode(right.tolist()) == train.decode(after_the_end.tolist()) == "012."
    assert train.rewards_of(["210="], responses).tolist() == [[1, 1, 0, 0]]


def test_prompts_are_graded_and_avoid_the_held_out(tiny, sorting):
    _, train = tiny
    held_out = frozenset(sorting.draw_prompts(300, sorting.MOST_DIGITS, np.random.default_rng(0)))
    prompts = sorting.draw_prompts(2000, sorting.MOST_DIGITS, np.random.default_rng(1), held_out)
    assert not held_out & set(prompts)
    assert {len(prompt) - 1 for prompt in prompts} == set(range(sorting.LEAST_DIGITS, sorting.MOST_DIGITS + 1))
    encoded = train.encode_prompts(prompts)
    assert encoded.shape == (2000, train.WIDTH)
    assert (encoded[:, -1] == train.VOCABULARY.index(sorting.SEPARATOR)).all()


def test_mask_ends_with_the_first_end(tiny):
    transformer, _ = tiny
    responses = torch.tensor([[1, 2, 9, 9, 1], [9, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    assert transformer.response_mask(responses, 9).int().tolist() == [
        [1, 1, 1, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 1, 1, 1, 1],
    ]


# ---- sampling and training read the same policy ----


def test_training_pass_agrees_with_sampling(model, sorting):
    transformer, train, network = model
    prompts = train.encode_prompts(sorting.draw_prompts(16, sorting.MOST_DIGITS, np.random.default_rng(2)))
    responses, chosen = transformer.sample(network, prompts, 4, train.WIDTH, torch.Generator().manual_seed(0))
    assert responses.shape == chosen.shape == (16, 4, train.WIDTH)
    recomputed = transformer.response_log_probs(network, prompts, responses)
    assert recomputed.requires_grad
    assert torch.allclose(recomputed, chosen, rtol=0, atol=1e-5)
    # Characters come one after another: an early one must not change with a later one.
    changed = responses.clone()
    changed[..., -1] = (changed[..., -1] + 1) % len(train.VOCABULARY)
    again = transformer.response_log_probs(network, prompts, changed)
    assert torch.allclose(again[..., :-1], recomputed[..., :-1], rtol=0, atol=1e-5)


def test_samples_follow_the_policy(model):
    transformer, train, network = model
    prompts = train.encode_prompts(["102="])
    count = 20_000
    responses, _ = transformer.sample(network, prompts, count, 1, torch.Generator().manual_seed(1))
    law = network(prompts)[0][0, -1].detach().exp().double()
    shares = torch.bincount(responses.flatten(), minlength=len(law)).double() / count
    # 4.5 standard errors: by chance beyond them for one character in about 10^5.
    assert ((shares - law).abs() < 4.5 * (law * (1 - law) / count).sqrt()).all()


def test_same_noise_gives_the_same_rollouts(model):
    transformer, train, network = model
    prompts = train.encode_prompts(["102=", "98765="])
    one, two, other = (
        transformer.sample(network, prompts, 8, train.WIDTH, torch.Generator().manual_seed(seed))[0]
        for seed in (4, 4, 5)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


# ---- the step rule ----


@pytest.mark.parametrize("objective", ["grpo", "rloo", rl2ml.Objective(1.5)])
def test_every_step_has_the_same_length(model, objective):
    _, train, network = model
    settings = train.Settings(steps=1, prompts_per_step=4, rollouts_per_prompt=4, step_length=0.3)
    # An untrained policy is never right: let everything that begins with an even character be.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "rewards_of", lambda _, responses: (responses[..., 0] % 2 == 0).float())
        trained, history = train.reinforce(network, objective, settings, 0, frozenset(), tick)
    moved = [a - b for a, b in zip(trained.parameters(), network.parameters(), strict=True)]
    assert 0 < history[0]["pass_rate"] < 1
    assert torch.cat([part.detach().flatten() for part in moved]).norm().item() == pytest.approx(0.3, rel=1e-3)


def test_no_step_where_nothing_is_to_be_learned(model):
    _, train, network = model
    settings = train.Settings(steps=2, prompts_per_step=4, rollouts_per_prompt=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "rewards_of", lambda _, responses: torch.zeros(responses.shape[:2]))
        trained, history = train.reinforce(network, "grpo", settings, 0, frozenset(), tick)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), network.parameters(), strict=True))
    assert [step["zero_advantage_groups"] for step in history] == [1, 1]


# ---- evaluation ----


@pytest.mark.parametrize(("rollouts", "k"), [(5, 1), (6, 3), (8, 8)])
def test_pass_at_k_is_the_share_of_subsets_with_a_success(sorting, rollouts, k):
    literal = []
    for successes in range(rollouts + 1):
        rewards = [1] * successes + [0] * (rollouts - successes)
        subsets = list(itertools.combinations(rewards, k))
        literal.append(sum(any(subset) for subset in subsets) / len(subsets))
    estimated = sorting.pass_at_k(np.arange(rollouts + 1), rollouts, k)
    assert estimated == pytest.approx(literal, abs=1e-15)


def test_differences_are_paired(sorting):
    counts = np.array([0, 4, 8, 12])
    summary = sorting.summarize({"before": counts - 0, "recommended": counts + 2}, 16, np.array([3, 3, 4, 4]))
    # Every prompt gains 2 of 16 rollouts, so that the difference has no error though the means have.
    assert summary["differences"]["recommended − before"]["pass@1"] == {
        "mean": pytest.approx(0.125),
        "standard_error": pytest.approx(0, abs=1e-15),
    }
    assert summary["policies"]["before"]["pass@1"]["standard_error"] > 0.1
    assert summary["policies"]["before"]["pass@1"]["by_length"] == {"3": 0.125, "4": 0.625}


# ---- the whole of it ----


@pytest.fixture(scope="module")
def quick(tiny, tmp_path_factory):
    """The folder, the results and what was printed."""
    output = tmp_path_factory.mktemp("tiny_lm")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        tiny[1].main(["--quick", "--output", str(output)])
    return output, json.loads((output / "results.json").read_text(encoding="utf-8")), printed.getvalue()


def test_quick_run_writes_what_it_says(tiny, quick):
    _, train = tiny
    output, results, printed = quick
    assert {path.name for path in output.iterdir()} == {"pilot.csv", "objective.json", "results.json", "plot.png"}
    assert (output / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert results["summary"] in printed
    assert "not evidence" in printed
    assert list(results["policies"]) == ["before", *ARMS]
    for metrics in results["policies"].values():
        assert list(metrics) == ["pass@1", "pass@8"]
        for metric in metrics.values():
            assert 0 < metric["mean"] < 1
            assert 0 < metric["standard_error"] < 0.1
            assert all(0 <= value <= 1 for value in metric["by_length"].values())
        assert metrics["pass@8"]["mean"] > metrics["pass@1"]["mean"]
    for rates in results["training_pass_rate"].values():
        assert len(rates) == train.QUICK.steps
        assert all(0 <= rate <= 1 for rate in rates)


def test_arms_begin_alike(quick):
    first = {rates[0] for rates in quick[1]["training_pass_rate"].values()}
    assert len(first) == 1


def test_pilot_is_what_was_counted(tiny, quick):
    output, results, _ = quick
    pilot = rl2ml.read_pilot(output / "pilot.csv")
    assert pilot.total_prompts == tiny[1].QUICK.pilot_prompts
    assert {n for n, _, _ in pilot.cells()} == {tiny[1].QUICK.pilot_rollouts}
    assert results["pilot"]["cells"] == [list(cell) for cell in pilot.cells()]
    assert results["pilot"]["mean_pass_rate"] == pilot.mean_pass_rate


def test_what_was_saved_is_what_was_trained_with(quick):
    output, results, _ = quick
    objective = rl2ml.Objective.load(output / "objective.json")
    rollouts = results["settings"]["rollouts_per_prompt"]
    assert objective.gamma == results["gamma"]
    tables = {"recommended": objective.table(rollouts)}
    tables |= {name: rl2ml.known_table(name.lower(), rollouts) for name in ARMS[1:]}
    for name, table in tables.items():
        assert results["tables"][name] == {"success": table.success.tolist(), "failure": table.failure.tolist()}


def test_same_seed_same_results(tiny, quick, tmp_path):
    again = tiny[1].run(tiny[1].QUICK, 0, "pass@8", tmp_path, silent)
    assert {**json.loads(json.dumps(again)), "seconds": 0} == {**quick[1], "seconds": 0}
    assert (tmp_path / "pilot.csv").read_bytes() == (quick[0] / "pilot.csv").read_bytes()


def test_says_what_is_missing(tmp_path):
    code = "import sys; sys.modules['matplotlib'] = None; sys.argv = ['train.py']; import runpy; "
    code += f"runpy.run_path({str(FOLDER / 'train.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "This example needs matplotlib: pip install 'rl2ml[training,plot]'\n"


@pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--metric", "pass@zero"], ["--threads", "0"]])
def test_refuses_what_it_cannot_do(tiny, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        tiny[1].main(arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_an_interruption_is_no_traceback(tiny, capsys, monkeypatch, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny[1], "run", interrupted)
    with pytest.raises(SystemExit) as stop:
        tiny[1].main(["--output", str(tmp_path)])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "Interrupted: no results.\n"
