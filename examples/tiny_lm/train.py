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

import argparse
import copy
import csv
import functools
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

MISSING = [name for name in ("torch", "matplotlib") if importlib.util.find_spec(name) is None]
if MISSING:
    raise SystemExit(f"This example needs {' and '.join(MISSING)}: pip install 'rl2ml[training,plot]'")

import numpy as np  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from tiny_transformer import TinyTransformer, response_log_probs, response_mask, sample  # noqa: E402
from torch import Tensor  # noqa: E402

import rl2ml_core as rl2ml  # noqa: E402
from rl2ml_core.training import RL2MLLoss, group_advantages  # noqa: E402

HERE = Path(__file__).resolve().parent
SEPARATOR, END, PAD = "=", ".", " "
VOCABULARY = "0123456789" + SEPARATOR + END + PAD
LEAST_DIGITS, MOST_DIGITS = 3, 12
WIDTH = MOST_DIGITS + 1  # of a padded prompt with its separator, and of a padded answer with its end
KS = (1, 8)
# Every use of randomness has a stream of its own, so that one may change without moving the others.
STREAMS = {"held_out": 0, "weights": 1, "supervised": 2, "pilot": 3, "training": 4, "evaluation": 5}

Objectives = dict[str, rl2ml.Objective | str]
Progress = Callable[[str, int], Callable[[], None]]


@dataclass(frozen=True)
class Settings:
    """How much of everything. The supervised steps decide how good the policy is that reinforcement learning meets."""

    most_digits: int = MOST_DIGITS
    supervised_steps: int = 110
    supervised_batch: int = 128
    supervised_rate: float = 3e-3
    pilot_prompts: int = 128
    pilot_rollouts: int = 8
    steps: int = 200  # of reinforcement learning, per arm
    prompts_per_step: int = 32
    rollouts_per_prompt: int = 8
    step_length: float = 0.06  # ℓ of the step rule
    held_out_prompts: int = 300
    held_out_rollouts: int = 32


# Short prompts, which a policy learns to sort sooner.
QUICK = Settings(
    most_digits=5,
    supervised_steps=60,
    supervised_batch=64,
    supervised_rate=6e-3,
    pilot_prompts=64,
    steps=4,
    held_out_prompts=64,
    held_out_rollouts=16,
)


# ---- the task ----


def answer(prompt: str) -> str:
    return "".join(sorted(prompt.rstrip(SEPARATOR))) + END


def verify(prompt: str, completion: str) -> bool:
    """Exact match, END included: an answer that does not stop is wrong."""
    return completion == answer(prompt)


def draw_prompts(
    count: int, most_digits: int, rng: np.random.Generator, without: frozenset[str] = frozenset()
) -> list[str]:
    """Prompts of 3 to `most_digits` digits, every length as likely as the next."""
    prompts: list[str] = []
    while len(prompts) < count:
        digits = rng.integers(0, 10, size=rng.integers(LEAST_DIGITS, most_digits + 1))
        prompt = "".join(map(str, digits)) + SEPARATOR
        if prompt not in without:
            prompts.append(prompt)
    return prompts


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


def stream(seed: int, name: str, step: int = 0) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, STREAMS[name], step])


def torch_noise(seed: int, name: str, step: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(int(stream(seed, name, step).generate_state(1)[0]))


def supervised_start(
    settings: Settings, seed: int, without: frozenset[str], tick: Callable[[], None]
) -> TinyTransformer:
    """A policy trained by maximum likelihood on right answers: Adam, its rate rising briefly and then falling to 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(stream(seed, "weights").generate_state(1)[0]))
        model = TinyTransformer(len(VOCABULARY), 2 * WIDTH - 1)
    rng = np.random.default_rng(stream(seed, "supervised"))
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(settings.supervised_steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.supervised_rate * min(1, (step + 1) / 20) * (1 - step / settings.supervised_steps)
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


@torch.no_grad()
def step_of_length(parameters: Sequence[Tensor], length: float) -> None:
    """θ ← θ − ℓ g/‖g‖: the step rule. Where no group has anything to teach g is 0, and so is the step."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])).item()
    if norm > 0:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=length / norm)


# ---- evaluation ----


def pass_at_k(counts: NDArray[np.int64], rollouts: int, k: int) -> NDArray[np.float64]:
    """The unbiased estimate 1 − C(n−c, k)/C(n, k) of each prompt's pass@k from c of n rollouts, [P]."""
    values = [1 - math.comb(rollouts - c, k) / math.comb(rollouts, k) for c in range(rollouts + 1)]
    return np.array(values)[counts]


def mean_and_error(values: NDArray[np.float64]) -> dict[str, float]:
    """Mean over prompts and its standard error."""
    return {"mean": float(values.mean()), "standard_error": float(values.std(ddof=1) / math.sqrt(len(values)))}


def summarize(counts: dict[str, NDArray[np.int64]], rollouts: int, lengths: NDArray[np.int64]) -> dict[str, Any]:
    """pass@1 and pass@8 of every policy, by length too, and differences of the recommended arm from the others.

    Differences are taken prompt by prompt: what makes a prompt hard for all policies cancels from their errors.
    """
    values = {name: {f"pass@{k}": pass_at_k(c, rollouts, k) for k in KS} for name, c in counts.items()}
    policies = {
        name: {
            metric: mean_and_error(v)
            | {"by_length": {str(digits): float(v[lengths == digits].mean()) for digits in np.unique(lengths)}}
            for metric, v in of_policy.items()
        }
        for name, of_policy in values.items()
    }
    differences = {
        f"recommended − {name}": {
            metric: mean_and_error(values["recommended"][metric] - of_policy[metric]) for metric in of_policy
        }
        for name, of_policy in values.items()
        if name != "recommended"
    }
    return {"policies": policies, "differences": differences}


def print_table(summary: dict[str, Any], dead: dict[str, float]) -> None:
    print(f"\n  {'':<22}{'pass@1':>16}{'pass@8':>18}{'groups unused':>18}")
    for name, metrics in (summary["policies"] | summary["differences"]).items():
        sign = "+" if name in summary["differences"] else ""
        cells = "".join(f"{m['mean']:>{sign}10.3f} ± {m['standard_error']:.3f}" for m in metrics.values())
        unused = f"{dead[name]:>16.0%}" if name in dead else ""
        if name == next(iter(summary["differences"])):
            print()
        print(f"  {name:<22}{cells}{unused}")


def plot(path: Path, summary: dict[str, Any], title: str) -> None:
    """pass@1 and pass@8 before and after, with standard errors, and pass@8 by the length of the prompt."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # A figure without pyplot needs no display and leaves no state behind.
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 3.8), layout="constrained")
        axes = figure.subplots(1, 3, width_ratios=[1, 1, 1.5])
        policies = summary["policies"]
        colors = dict(zip(policies, ("#888888", "#0072b2", "#d55e00", "#009e73"), strict=True))
        markers = dict(zip(policies, "sovD", strict=True))
        for axis, metric in zip(axes, (f"pass@{k}" for k in KS), strict=False):
            for place, (name, metrics) in enumerate(policies.items()):
                mean, error = metrics[metric]["mean"], metrics[metric]["standard_error"]
                axis.errorbar(place, mean, error, fmt=markers[name], color=colors[name], capsize=4)
                axis.annotate(f"{mean:.3f}", (place, mean), (6, 2), textcoords="offset points", va="bottom")
            axis.axhline(policies["before"][metric]["mean"], color=colors["before"], linewidth=0.8, linestyle=":")
            axis.set_xticks(range(len(policies)), list(policies), rotation=20, ha="right", rotation_mode="anchor")
            axis.set_xlim(-0.5, len(policies) - 0.1)
            axis.set_title(f"{metric} (bars: ± one standard error)", fontsize=10)
        for name, metrics in policies.items():
            by_length = metrics["pass@8"]["by_length"]
            style = {"color": colors[name], "marker": markers[name], "markersize": 4, "linewidth": 1.2}
            axes[2].plot([int(digits) for digits in by_length], list(by_length.values()), label=name, **style)
        axes[2].set_title("pass@8 by length of the prompt", fontsize=10)
        axes[2].set_xticks([int(digits) for digits in policies["before"]["pass@8"]["by_length"]])
        axes[2].set_xlabel("digits to sort")
        axes[2].set_ylim(0, 1.03)
        axes[2].legend(frameon=False)
        figure.suptitle(title, fontsize=10)
        figure.savefig(path, dpi=130)


# ---- the whole of it ----


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A way to announce a stage and its number of ticks: a bar on a terminal, else a line when it is done."""
    if sys.stderr.isatty() and importlib.util.find_spec("rich") is not None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = (TextColumn("{task.description:<30}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        # Bars capture what is printed so as to stay below it; what is piped elsewhere must pass them by.
        with Bars(*columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()) as bars:

            def stage(name: str, total: int) -> Callable[[], None]:
                return functools.partial(bars.advance, bars.add_task(name, total=total))

            yield stage
        return

    def line(name: str, total: int) -> Callable[[], None]:
        done, started = 0, time.perf_counter()

        def tick() -> None:
            nonlocal done
            done += 1
            if done == total:
                print(f"{name:<30} {time.perf_counter() - started:5.1f} s", file=sys.stderr, flush=True)

        return tick

    yield line


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
    write_pilot(output / "pilot.csv", prompts, successes, settings.pilot_rollouts)
    pilot = rl2ml.read_pilot(output / "pilot.csv")
    recommendation = rl2ml.recommend(pilot, metric, settings.rollouts_per_prompt, current="grpo")
    if recommendation.objective is None:
        raise SystemExit(recommendation.summary)
    recommendation.objective.save(output / "objective.json")
    print(
        f"\nPilot: {len(prompts)} prompts × {settings.pilot_rollouts} rollouts, mean pass rate "
        f"{pilot.mean_pass_rate:.3f}, all-fail {np.mean(successes == 0):.0%}, "
        f"all-pass {np.mean(successes == settings.pilot_rollouts):.0%}.\n{recommendation.summary}\n",
        flush=True,
    )

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
    summary = summarize(counts, settings.held_out_rollouts, lengths)
    dead = {name: float(np.mean([step["zero_advantage_groups"] for step in steps])) for name, steps in history.items()}
    results = {
        "seed": seed,
        "metric": metric,
        "settings": asdict(settings),
        "parameters": sum(parameter.numel() for parameter in initial.parameters()),
        "pilot": {"cells": pilot.cells(), "mean_pass_rate": pilot.mean_pass_rate},
        "gamma": recommendation.gamma,
        "summary": recommendation.summary,
        "tables": {name: table_of(objective, settings.rollouts_per_prompt) for name, objective in objectives.items()},
        **summary,
        "zero_advantage_groups": dead,
        "training_pass_rate": {name: [step["pass_rate"] for step in steps] for name, steps in history.items()},
        "versions": {"torch": torch.__version__, "rl2ml": rl2ml.__version__},
        "seconds": round(time.perf_counter() - seconds, 1),
    }
    (output / "results.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    title = f"Sorting digits, held-out prompts: {settings.steps} steps of equal length. One seed ({seed}): an example."
    plot(output / "plot.png", summary, title)
    return results


def table_of(objective: rl2ml.Objective | str, num_rollouts: int) -> dict[str, list[float]]:
    known = isinstance(objective, str)
    table = rl2ml.known_table(objective, num_rollouts) if known else objective.table(num_rollouts)
    return {"success": table.success.tolist(), "failure": table.failure.tolist()}


def write_pilot(path: Path, prompts: Sequence[str], successes: NDArray[np.int64], rollouts: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["prompt_id", "num_successes", "num_rollouts"])
        writer.writerows(zip(range(len(prompts)), successes.tolist(), [rollouts] * len(prompts), strict=True))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Supervised start, pilot, recommendation, training, evaluation.")
    parser.add_argument("--output", type=Path, default=HERE.parents[1] / "build" / "tiny_lm", help="%(default)s")
    parser.add_argument("--seed", type=int, default=0, help="seed of every draw (%(default)s)")
    parser.add_argument("--metric", default="pass@8", help="what the recommendation is for (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a few steps of everything: a check that it runs")
    # The matrices are small: a second thread brings little on idle cores and costs a lot on busy ones.
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s)")
    args = parser.parse_args(argv)
    if args.seed < 0 or args.threads < 1:
        parser.error("--seed starts at 0, --threads at 1")
    try:
        rl2ml.parse_metric(args.metric)
    except rl2ml.InvalidInput as error:
        parser.error(f"--metric: {error}")

    torch.set_num_threads(args.threads)
    try:
        with progress_bars() as progress:
            results = run(QUICK if args.quick else Settings(), args.seed, args.metric, args.output, progress)
    except KeyboardInterrupt:
        print("Interrupted: no results.", file=sys.stderr)
        raise SystemExit(130) from None  # as shells count it
    print_table(results, results["zero_advantage_groups"])
    print(f"""
± is one standard error over the {results["settings"]["held_out_prompts"]} held-out prompts. Seeds differ as well.
One seed of one small task: an example of how the parts fit, not evidence for any objective.
Wrote pilot.csv, objective.json, results.json and plot.png to {args.output} in {results["seconds"]:.0f} s.""")


if __name__ == "__main__":
    main()
