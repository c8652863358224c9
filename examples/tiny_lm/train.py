"""Reinforcement learning of a tiny transformer with a recommended objective, next to GRPO and RLOO, on a CPU.

The task is to sort digits: the prompt "40731=" wants "01347" and the end. Longer prompts are harder, and the verifier
is an exact string match. The script

1. trains a transformer of about 100,000 parameters from scratch on examples, and stops early: a mid-level policy;
2. samples a pilot from it and counts successes (pilot.csv);
3. asks `rl2ml_core.recommend` for an objective (objective.json);
4. trains three copies of the policy with `group_advantages` and `RL2MLLoss`: the recommended objective, GRPO and RLOO;
5. samples all four policies on held-out prompts, and reports pass@1 and pass@8 (results.json, plot.png).

**The step rule** is the same for all three: plain gradient steps of one length, θ ← θ − ℓ g/‖g‖, without momentum.
Under one fixed learning rate the objective with the largest advantages would win by longer steps alone. The arms also
share their initial weights, their prompts, the number of rollouts and the noise that rollouts are drawn with.

Left out on purpose: a KL penalty, clipping and several updates per batch, because they would act on the objectives
unequally; and a second seed. One seed is an example, not evidence.

    python examples/tiny_lm/train.py --help
"""

import copy
import functools
import importlib.util
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MISSING = [name for name in ("torch", "matplotlib") if importlib.util.find_spec(name) is None]
if MISSING:
    raise SystemExit(f"This example needs {' and '.join(MISSING)}: pip install 'rl2ml[training,plot]'")

import numpy as np  # noqa: E402
import sorting  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from sorting import END, FEW, SEPARATOR, WIDTH, Amounts, Progress, answer, draw_prompts, stream, verify  # noqa: E402
from tiny_transformer import TinyTransformer, response_log_probs, response_mask, sample, step_of_length  # noqa: E402
from torch import Tensor  # noqa: E402

import rl2ml_core as rl2ml  # noqa: E402
from rl2ml_core.training import RL2MLLoss, group_advantages  # noqa: E402

PAD = " "
VOCABULARY = "0123456789" + SEPARATOR + END + PAD

Objectives = dict[str, rl2ml.Objective | str]


@dataclass(frozen=True)
class Settings(Amounts):
    step_length: float = 0.06  # ℓ of the step rule


QUICK = Settings(**FEW)


# ---- the task, in tokens ----


def encode_prompts(prompts: Sequence[str]) -> Tensor:
    """[P, L], padded on the left so that the separator is always last."""
    return torch.tensor([[VOCABULARY.index(c) for c in prompt.rjust(WIDTH, PAD)] for prompt in prompts])


def encode_answers(prompts: Sequence[str]) -> Tensor:
    """The right responses, [P, 1, T]."""
    return torch.tensor([[[VOCABULARY.index(c) for c in answer(prompt).ljust(WIDTH, PAD)]] for prompt in prompts])


def decode(response: Sequence[int]) -> str:
    """The text of a response up to and including its end."""
    text, stop, _ = "".join(VOCABULARY[token] for token in response).partition(END)
    return text + stop


def rewards_of(prompts: Sequence[str], responses: Tensor) -> Tensor:
    """1 for every right response and 0 for every wrong one, [P, N]."""
    pairs = zip(prompts, responses.tolist(), strict=True)
    return torch.tensor([[float(verify(prompt, decode(tokens))) for tokens in group] for prompt, group in pairs])


# ---- the three ways to use the policy ----


def torch_noise(seed: int, name: str, step: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(sorting.number(seed, name, step))


def supervised_start(
    settings: Settings, seed: int, without: frozenset[str], tick: Callable[[], None]
) -> TinyTransformer:
    """A policy trained by maximum likelihood on right answers: Adam, its rate rising briefly and then falling to 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sorting.number(seed, "weights"))
        model = TinyTransformer(len(VOCABULARY), 2 * WIDTH - 1)
    rng = np.random.default_rng(stream(seed, "supervised"))
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(settings.supervised_steps):
        for group in optimizer.param_groups:
            group["lr"] = sorting.supervised_rate(settings, step)
        prompts = draw_prompts(settings.supervised_batch, settings.most_digits, rng, without)
        responses = encode_answers(prompts)
        mask = response_mask(responses, VOCABULARY.index(END))
        log_probs = response_log_probs(model, encode_prompts(prompts), responses)
        optimizer.zero_grad()
        (-log_probs[mask].mean()).backward()
        optimizer.step()
        tick()
    return model


def count_successes(
    model: TinyTransformer, prompts: Sequence[str], rollouts: int, noise: torch.Generator, tick: Callable[[], None]
) -> NDArray[np.int64]:
    """How many of its rollouts are right, per prompt, [P]."""
    counts = []
    for start in range(0, len(prompts), 32):
        part = prompts[start : start + 32]
        responses, _ = sample(model, encode_prompts(part), rollouts, WIDTH, noise)
        counts.append(rewards_of(part, responses).sum(1).long().numpy())
        tick()
    return np.concatenate(counts)


def reinforce(
    initial: TinyTransformer,
    objective: rl2ml.Objective | str,
    settings: Settings,
    seed: int,
    without: frozenset[str],
    tick: Callable[[], None],
) -> tuple[TinyTransformer, list[dict[str, float]]]:
    """Train a copy of the policy with an objective; returns it and what `GroupAdvantages.metrics` said at each step."""
    model = copy.deepcopy(initial)
    parameters = list(model.parameters())
    loss_of = RL2MLLoss()
    # What differs between arms is the objective: prompts and noise follow from the seed and the step.
    rng = np.random.default_rng(stream(seed, "training"))
    history = []
    for step in range(settings.steps):
        prompts = draw_prompts(settings.prompts_per_step, settings.most_digits, rng, without)
        read = encode_prompts(prompts)
        noise = torch_noise(seed, "training", step)
        responses, _ = sample(model, read, settings.rollouts_per_prompt, WIDTH, noise)
        groups = group_advantages(objective, rewards_of(prompts, responses))
        history.append(groups.metrics())
        mask = response_mask(responses, VOCABULARY.index(END))
        model.zero_grad()
        loss_of(response_log_probs(model, read, responses), mask, groups.advantages).backward()
        step_of_length(parameters, settings.step_length)
        tick()
    return model, history


# ---- the whole of it ----


def run(settings: Settings, seed: int, metric: str, output: Path, progress: Progress) -> dict[str, Any]:
    """All five steps of the module's docstring; returns what results.json holds."""
    seconds = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)  # first, so that a folder that cannot be written to is known at once
    drawn = functools.partial(draw_prompts, most_digits=settings.most_digits)
    held_out = drawn(settings.held_out_prompts, rng=np.random.default_rng(stream(seed, "held_out")))
    without = frozenset(held_out)
    initial = supervised_start(settings, seed, without, progress("supervised start", settings.supervised_steps))

    prompts = drawn(settings.pilot_prompts, rng=np.random.default_rng(stream(seed, "pilot")), without=without)
    tick = progress("pilot", math.ceil(len(prompts) / 32))
    successes = count_successes(initial, prompts, settings.pilot_rollouts, torch_noise(seed, "pilot"), tick)
    sorting.write_pilot(output / "pilot.csv", successes, settings.pilot_rollouts)
    pilot = rl2ml.read_pilot(output / "pilot.csv")
    recommendation = rl2ml.recommend(pilot, metric, settings.rollouts_per_prompt, current="grpo")
    if recommendation.objective is None:
        raise SystemExit(recommendation.summary)
    recommendation.objective.save(output / "objective.json")
    sorting.print_pilot(pilot, successes, settings.pilot_rollouts, recommendation.summary)

    objectives: Objectives = {"recommended": recommendation.objective, "GRPO": "grpo", "RLOO": "rloo"}
    policies, history = {"before": initial}, {}
    for name, objective in objectives.items():
        tick = progress(f"training, {name}", settings.steps)
        policies[name], history[name] = reinforce(initial, objective, settings, seed, without, tick)
    counts = {}
    for name, policy in policies.items():
        tick = progress(f"evaluation, {name}", math.ceil(len(held_out) / 32))
        noise = torch_noise(seed, "evaluation")
        counts[name] = count_successes(policy, held_out, settings.held_out_rollouts, noise, tick)

    lengths = np.array([len(prompt) - len(SEPARATOR) for prompt in held_out])
    summary = sorting.summarize(counts, settings.held_out_rollouts, lengths)
    dead = {name: float(np.mean([step["zero_advantage_groups"] for step in steps])) for name, steps in history.items()}
    results = {
        "seed": seed,
        "metric": metric,
        "settings": asdict(settings),
        "parameters": sum(parameter.numel() for parameter in initial.parameters()),
        "pilot": {"cells": pilot.cells(), "mean_pass_rate": pilot.mean_pass_rate},
        "gamma": recommendation.gamma,
        "summary": recommendation.summary,
        "tables": {
            name: sorting.table_of(objective, settings.rollouts_per_prompt) for name, objective in objectives.items()
        },
        **summary,
        "zero_advantage_groups": dead,
        "training_pass_rate": {name: [step["pass_rate"] for step in steps] for name, steps in history.items()},
        "versions": {"torch": torch.__version__, "rl2ml": rl2ml.__version__},
        "seconds": round(time.perf_counter() - seconds, 1),
    }
    sorting.write_results(output, results, f"{settings.steps} steps of equal length")
    return results


def main(argv: list[str] | None = None) -> None:
    args = sorting.arguments(argv, "Supervised start, pilot, recommendation, training, evaluation.", "tiny_lm")
    torch.set_num_threads(args.threads)
    with sorting.progress_bars() as progress:
        results = run(QUICK if args.quick else Settings(), args.seed, args.metric, args.output, progress)
    sorting.report(results, args.output)


if __name__ == "__main__":
    main()
