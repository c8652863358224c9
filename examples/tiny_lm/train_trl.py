"""The task of train.py in TRL: the recommended objective and GRPO through `RL2MLTrainer`, and TRL's own GRPO.

The script

1. trains a Llama of about 100,000 parameters from scratch on examples, and stops early: a mid-level policy;
2. samples a pilot from it and counts successes (pilot.csv);
3. asks `rl2ml_core.recommend` for an objective (objective.json);
4. trains three copies: `RL2MLTrainer` with that file, `RL2MLTrainer` with "grpo", and TRL's `GRPOTrainer`;
5. samples all four policies on held-out prompts, and reports pass@1 and pass@8 (results.json, plot.png).

**The step rule** is AdamW at one constant rate for every arm, without clipping: Adam's steps do not depend on the scale
of advantages, and max_grad_norm, 1 by default, would shorten the steps of the larger ones. All arms draw the same
prompts in the same order, and the rollouts of their first step are the same.

    python examples/tiny_lm/train_trl.py --help
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

MISSING = [name for name in ("torch", "trl", "matplotlib") if importlib.util.find_spec(name) is None]
if MISSING:
    raise SystemExit(f"This example needs {' and '.join(MISSING)}: pip install 'rl2ml[trl,plot]'")

import numpy as np  # noqa: E402
import sorting  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from sorting import END, FEW, SEPARATOR, WIDTH, Amounts, Progress, draw_prompts, number, stream, verify  # noqa: E402
from tiny_llama import make_tokenizer, sample, supervised_start  # noqa: E402

import rl2ml_core as rl2ml  # noqa: E402
from rl2ml_core.training.trl import RL2MLConfig, RL2MLTrainer  # noqa: E402

TOKENIZER = make_tokenizer("0123456789" + SEPARATOR, END)


@dataclass(frozen=True)
class Settings(Amounts):
    supervised_steps: int = 90
    steps: int = 120
    learning_rate: float = 1e-4  # of reinforcement learning


QUICK = Settings(**FEW)


def correct(prompts: Sequence[str], completions: Sequence[str], **_: Any) -> list[float]:
    """TRL's reward function. Completions come without their end; one that never ended is too long to be right."""
    return [float(verify(prompt, text + END)) for prompt, text in zip(prompts, completions, strict=True)]


# ---- training with TRL ----


class Ticks(transformers.TrainerCallback):
    """One tick of a progress bar per step."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self.tick = tick

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.tick()


def reinforce(
    initial: Any, objective: str | None, prompts: list[str], settings: Settings, seed: int, output: Path, ticks: Ticks
) -> trl.GRPOTrainer:
    """Train a copy of the policy with an objective: a file, or a known trainer's name. None: with TRL alone."""
    arguments = {
        "output_dir": str(output),
        "seed": number(seed, "training"),
        # A step: all rollouts of so many prompts, in one batch.
        "max_steps": settings.steps,
        "num_generations": settings.rollouts_per_prompt,
        "per_device_train_batch_size": settings.prompts_per_step * settings.rollouts_per_prompt,
        "max_completion_length": WIDTH,
        "shuffle_dataset": False,
        # The step rule. AdamW is the default.
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        # A small model on a CPU.
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        # One bar, and the metrics of every step in trainer.state.log_history.
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
    }
    if objective is None:
        kind, config = trl.GRPOTrainer, trl.GRPOConfig(loss_type="dr_grpo", **arguments)
    else:
        kind, config = RL2MLTrainer, RL2MLConfig(objective=objective, **arguments)
    trainer = kind(
        model=copy.deepcopy(initial),
        reward_funcs=correct,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=TOKENIZER,
        callbacks=[ticks],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return trainer


# ---- before and after ----


def count_successes(
    model: Any, prompts: list[str], rollouts: int, seed: int, tick: Callable[[], None]
) -> NDArray[np.int64]:
    """How many of its rollouts are right, per prompt, [P]."""
    torch.manual_seed(seed)  # transformers draws from the global generator
    counts = []
    for start in range(0, len(prompts), 32):
        part = prompts[start : start + 32]
        texts = sample(model.eval(), TOKENIZER, part, rollouts, WIDTH)
        counts += np.reshape(correct(np.repeat(part, rollouts), texts), (-1, rollouts)).sum(1).tolist()
        tick()
    return np.array(counts, dtype=np.int64)


def run(settings: Settings, seed: int, metric: str, output: Path, progress: Progress) -> dict[str, Any]:
    """All five steps of the module's docstring; returns what results.json holds."""
    seconds = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)  # first, so that a folder that cannot be written to is known at once
    drawn = functools.partial(draw_prompts, most_digits=settings.most_digits)
    held_out = drawn(settings.held_out_prompts, rng=np.random.default_rng(stream(seed, "held_out")))
    without = frozenset(held_out)
    tick = progress("supervised start", settings.supervised_steps)
    initial = supervised_start(TOKENIZER, settings, seed, without, tick)

    prompts = drawn(settings.pilot_prompts, rng=np.random.default_rng(stream(seed, "pilot")), without=without)
    tick = progress("pilot", math.ceil(len(prompts) / 32))
    successes = count_successes(initial, prompts, settings.pilot_rollouts, number(seed, "pilot"), tick)
    sorting.write_pilot(output / "pilot.csv", successes, settings.pilot_rollouts)
    pilot = rl2ml.read_pilot(output / "pilot.csv")
    recommendation = rl2ml.recommend(pilot, metric, settings.rollouts_per_prompt, current="grpo")
    if recommendation.objective is None:
        raise SystemExit(recommendation.summary)
    recommendation.objective.save(output / "objective.json")
    sorting.print_pilot(pilot, successes, settings.pilot_rollouts, recommendation.summary)

    objectives = {"recommended": str(output / "objective.json"), "GRPO": "grpo", "stock GRPO": None}
    rng = np.random.default_rng(stream(seed, "training"))
    prompts = drawn(settings.steps * settings.prompts_per_step, rng=rng, without=without)
    policies, trainers = {"before": initial}, {}
    for name, objective in objectives.items():
        ticks = Ticks(progress(f"training, {name}", settings.steps))
        trainers[name] = reinforce(initial, objective, prompts, settings, seed, output, ticks)
        policies[name] = trainers[name].model
    counts = {}
    for name, policy in policies.items():
        tick = progress(f"evaluation, {name}", math.ceil(len(held_out) / 32))
        counts[name] = count_successes(policy, held_out, settings.held_out_rollouts, number(seed, "evaluation"), tick)

    history = {name: trainer.state.log_history[: settings.steps] for name, trainer in trainers.items()}
    pass_rates = {name: [step["reward"] for step in steps] for name, steps in history.items()}
    # What GRPO cannot use are groups of equal rewards. With an objective they may well carry advantages.
    unused = {name: "rl2ml/zero_advantage_groups" if objectives[name] else "frac_reward_zero_std" for name in history}
    dead = {name: float(np.mean([step[unused[name]] for step in steps])) for name, steps in history.items()}
    apart = np.flatnonzero(np.not_equal(pass_rates["GRPO"], pass_rates["stock GRPO"]))
    weights = [torch.nn.utils.parameters_to_vector(policies[name].parameters()) for name in ("GRPO", "stock GRPO")]
    results = {
        "seed": seed,
        "metric": metric,
        "settings": asdict(settings),
        "parameters": initial.num_parameters(),
        "pilot": {"cells": pilot.cells(), "mean_pass_rate": pilot.mean_pass_rate},
        "gamma": recommendation.gamma,
        "summary": recommendation.summary,
        "objectives": {"recommended": trainers["recommended"].objective.to_dict(), "GRPO": trainers["GRPO"].objective},
        **sorting.summarize(counts, settings.held_out_rollouts, np.array([len(p) - len(SEPARATOR) for p in held_out])),
        "zero_advantage_groups": dead,
        "training_pass_rate": pass_rates,
        "GRPO − stock GRPO": {
            "steps_alike": int(apart[0]) if len(apart) else settings.steps,  # in pass rates
            "largest_difference_of_a_weight": (weights[0] - weights[1]).abs().max().item(),
        },
        "versions": {m.__name__: m.__version__ for m in (torch, transformers, trl)} | {"rl2ml": rl2ml.__version__},
        "seconds": round(time.perf_counter() - seconds, 1),
    }
    sorting.write_results(output, results, f"{settings.steps} steps of AdamW")
    return results


def main(argv: list[str] | None = None) -> None:
    args = sorting.arguments(argv, "The same in TRL: RL2MLTrainer, and GRPOTrainer for comparison.", "tiny_lm_trl")
    torch.set_num_threads(args.threads)
    with sorting.progress_bars() as progress:
        results = run(QUICK if args.quick else Settings(), args.seed, args.metric, args.output, progress)
    sorting.report(results, args.output)
    alike, apart = results["GRPO − stock GRPO"].values()
    print(f"""
GRPO through RL2MLTrainer and TRL's own: the same pass rates for {alike} of {results["settings"]["steps"]} steps,
and weights that differ by {apart:.0e} at most in the end.""")


if __name__ == "__main__":
    main()
