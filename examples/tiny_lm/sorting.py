"""What the scripts of this folder share: sorting digits, how much of everything, pass@k, and the output.

Nothing here knows a model or a trainer. P prompts, N rollouts.
"""

import argparse
import csv
import functools
import importlib.util
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import rl2ml_core as rl2ml

SEPARATOR, END = "=", "."
LEAST_DIGITS, MOST_DIGITS = 3, 12
WIDTH = MOST_DIGITS + 1  # of a padded prompt with its separator, and of a padded answer with its end
KS = (1, 8)
# Every use of randomness has a stream of its own, so that one may change without moving the others.
STREAMS = {"held_out": 0, "weights": 1, "supervised": 2, "pilot": 3, "training": 4, "evaluation": 5}

Progress = Callable[[str, int], Callable[[], None]]


@dataclass(frozen=True)
class Amounts:
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
    held_out_prompts: int = 300
    held_out_rollouts: int = 32


# Short prompts, which a policy learns to sort sooner.
FEW: dict[str, Any] = {
    "most_digits": 5,
    "supervised_steps": 60,
    "supervised_batch": 64,
    "supervised_rate": 6e-3,
    "pilot_prompts": 64,
    "steps": 4,
    "held_out_prompts": 64,
    "held_out_rollouts": 16,
}


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


def stream(seed: int, name: str, step: int = 0) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, STREAMS[name], step])


def number(seed: int, name: str, step: int = 0) -> int:
    """A stream's first number, to seed generators of other libraries with."""
    return int(stream(seed, name, step).generate_state(1)[0])


def supervised_rate(amounts: Amounts, step: int) -> float:
    """Rises briefly, and then falls to 0."""
    return amounts.supervised_rate * min(1, (step + 1) / 20) * (1 - step / amounts.supervised_steps)


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


# ---- what the scripts write and print ----


def write_pilot(path: Path, successes: NDArray[np.int64], rollouts: int) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["prompt_id", "num_successes", "num_rollouts"])
        writer.writerows((prompt, count, rollouts) for prompt, count in enumerate(successes.tolist()))


def table_of(objective: rl2ml.Objective | str, num_rollouts: int) -> dict[str, list[float]]:
    known = isinstance(objective, str)
    table = rl2ml.known_table(objective, num_rollouts) if known else objective.table(num_rollouts)
    return {"success": table.success.tolist(), "failure": table.failure.tolist()}


def print_pilot(pilot: rl2ml.PilotHistogram, successes: NDArray[np.int64], rollouts: int, summary: str) -> None:
    print(
        f"\nPilot: {len(successes)} prompts × {rollouts} rollouts, mean pass rate "
        f"{pilot.mean_pass_rate:.3f}, all-fail {np.mean(successes == 0):.0%}, "
        f"all-pass {np.mean(successes == rollouts):.0%}.\n{summary}\n",
        flush=True,
    )


def write_results(output: Path, results: dict[str, Any], title: str) -> None:
    """results.json and plot.png."""
    text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    (output / "results.json").write_text(text, encoding="utf-8")
    plot(
        output / "plot.png",
        results,
        f"Sorting digits, held-out prompts: {title}. One seed ({results['seed']}): an example.",
    )


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


def report(results: dict[str, Any], output: Path) -> None:
    """The table of a run and what to think of it."""
    dead = results["zero_advantage_groups"]
    width = max(22, *(len(name) + 2 for name in results["differences"]))
    print(f"\n  {'':<{width}}{'pass@1':>16}{'pass@8':>18}{'groups unused':>18}")
    for name, metrics in (results["policies"] | results["differences"]).items():
        sign = "+" if name in results["differences"] else ""
        cells = "".join(f"{m['mean']:>{sign}10.3f} ± {m['standard_error']:.3f}" for m in metrics.values())
        unused = f"{dead[name]:>16.0%}" if name in dead else ""
        if name == next(iter(results["differences"])):
            print()
        print(f"  {name:<{width}}{cells}{unused}")
    print(f"""
± is one standard error over the {results["settings"]["held_out_prompts"]} held-out prompts. Seeds differ as well.
One seed of one small task: an example of how the parts fit, not evidence for any objective.
Wrote pilot.csv, objective.json, results.json and plot.png to {output} in {results["seconds"]:.0f} s.""")


# ---- the command line ----


def arguments(argv: list[str] | None, description: str, output: str) -> argparse.Namespace:
    """The command line of a script whose results go to build/`output`."""
    parser = argparse.ArgumentParser(description=description)
    folder = Path(__file__).resolve().parents[2] / "build" / output
    parser.add_argument("--output", type=Path, default=folder, help="%(default)s")
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
    return args


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A way to announce a stage and its number of ticks. An interruption is no traceback."""
    try:
        with _bars_or_lines() as stage:
            yield stage
    except KeyboardInterrupt:
        print("Interrupted: no results.", file=sys.stderr)
        raise SystemExit(130) from None  # as shells count it


@contextmanager
def _bars_or_lines() -> Iterator[Progress]:
    """A bar on a terminal, else a line when a stage is done."""
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
