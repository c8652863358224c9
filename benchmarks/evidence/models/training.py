"""A supervised start, a pilot, reinforcement learning with an arm, and evaluation: one code path for every arm.

Arms of a block share the start's weights, the prompts of every step and the noise that rollouts are drawn with; their
first steps have the same rollouts. Shapes: P prompts, N rollouts each, T characters.
"""

import copy
import hashlib
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import rl2ml_core as rl2ml
from benchmarks.evidence.models.runs import Run, read_run, run_files, what_of, write_run
from benchmarks.evidence.models.settings import Arm, Block, Rule, Setting, Size
from benchmarks.evidence.models.tasks import END, PAD, TASKS, Example, Task, draw_examples
from examples.tiny_lm.tiny_transformer import (
    TinyTransformer,
    response_log_probs,
    response_mask,
    sample,
    step_of_length,
)
from rl2ml_core.training import RL2MLLoss, ScoreSketches, group_advantages, measure_geometry

__all__ = ["Start", "objectives_of", "reinforce", "run_block", "start_of"]

# Every use of randomness has a stream of its own, so that one may change without moving the others.
_STREAMS = {"held_out": 0, "weights": 1, "supervised": 2, "check": 3, "pilot": 4, "training": 5, "evaluation": 6}
_PROMPTS_AT_ONCE = 32

Objective = rl2ml.Objective | str
#: The objective of the first window, and from a window's counts that of the next.
Objectives = tuple[Objective, Callable[[rl2ml.PilotHistogram], Objective] | None]


@dataclass(frozen=True, eq=False)
class Start:
    """What the arms of a block begin from."""

    task: Task
    setting: Setting
    seed: int
    size: Size
    model: TinyTransformer
    supervised_steps: int
    held_out: list[str]
    pilot_prompts: list[str]
    pilot_responses: Tensor  # [P, N, T]
    pilot_rewards: Tensor  # [P, N]

    @property
    def pilot(self) -> rl2ml.PilotHistogram:
        return rl2ml.PilotHistogram.from_counts(self.pilot_rewards.sum(1).int().numpy(), self.size.pilot_rollouts)

    @cached_property
    def measured_scores(self) -> rl2ml.ScoreModel | None:
        """κ from the pilot's own rollouts; None where they are too few to tell it from 0."""
        model, sketches = copy.deepcopy(self.model), []
        collector = ScoreSketches(model)
        for start in range(0, len(self.pilot_prompts), _PROMPTS_AT_ONCE):
            part = slice(start, start + _PROMPTS_AT_ONCE)
            responses = self.pilot_responses[part]
            mask = response_mask(responses, self.task.vocabulary.index(END))
            with collector:
                log_probs = response_log_probs(model, encode_prompts(self.task, self.pilot_prompts[part]), responses)
            sketches.append(collector.sketches((log_probs * mask).sum(-1)).view(*responses.shape[:2], -1))
        try:
            return measure_geometry(torch.cat(sketches), self.pilot_rewards).score_model()
        except rl2ml.InvalidInput:
            return None


# ---- characters and rewards ----


def _encode(task: Task, texts: Sequence[str]) -> Tensor:
    places = {character: place for place, character in enumerate(task.vocabulary)}
    return torch.tensor([[places[character] for character in text] for text in texts])


def encode_prompts(task: Task, prompts: Sequence[str]) -> Tensor:
    """[P, L], padded on the left so that the separator is always last."""
    return _encode(task, [prompt.rjust(task.prompt_width, PAD) for prompt in prompts])


def encode_responses(task: Task, responses: Sequence[str]) -> Tensor:
    """One response per prompt, [P, 1, T]."""
    return _encode(task, [response.ljust(task.response_width, PAD) for response in responses])[:, None]


def rewards_of(task: Task, prompts: Sequence[str], responses: Tensor) -> Tensor:
    """1 for every right response and 0 for every wrong one, [P, N]."""
    rewards = []
    for prompt, group in zip(prompts, responses.tolist(), strict=True):
        texts = ("".join(task.vocabulary[token] for token in tokens).partition(END) for tokens in group)
        rewards.append([float(task.verify(prompt, text + end)) for text, end, _ in texts])
    return torch.tensor(rewards)


# ---- the start ----


def _stream(setting: Setting, seed: int, use: str, step: int = 0) -> np.random.SeedSequence:
    """Settings are independent of each other, too."""
    return np.random.SeedSequence([seed, zlib.crc32(setting.name.encode()), _STREAMS[use], step])


def _noise(setting: Setting, seed: int, use: str, step: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(int(_stream(setting, seed, use, step).generate_state(1)[0]))


def _prompts(examples: Sequence[Example]) -> list[str]:
    return [prompt for prompt, _ in examples]


def roll_out(
    task: Task, model: TinyTransformer, prompts: Sequence[str], rollouts: int, noise: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Responses [P, N, T] and their rewards [P, N]."""
    parts = [prompts[start : start + _PROMPTS_AT_ONCE] for start in range(0, len(prompts), _PROMPTS_AT_ONCE)]
    drawn = [sample(model, encode_prompts(task, part), rollouts, task.response_width, noise)[0] for part in parts]
    rewards = [rewards_of(task, part, responses) for part, responses in zip(parts, drawn, strict=True)]
    return torch.cat(drawn), torch.cat(rewards)


def start_of(setting: Setting, seed: int, size: Size) -> Start:
    """Train on right answers until the setting's pass rate, and sample a pilot. Held-out prompts are in neither."""
    task = TASKS[setting.task]
    held_out = _prompts(
        draw_examples(task, size.held_out_prompts, np.random.default_rng(_stream(setting, seed, "held_out")))
    )
    without = frozenset(held_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(_stream(setting, seed, "weights").generate_state(1)[0]))
        model = TinyTransformer(len(task.vocabulary), task.prompt_width + task.response_width - 1, size.width)
    steps = _supervise(task, model, setting, seed, size, without)
    rng = np.random.default_rng(_stream(setting, seed, "pilot"))
    prompts = _prompts(draw_examples(task, size.pilot_prompts, rng, without))
    pilot = roll_out(task, model, prompts, size.pilot_rollouts, _noise(setting, seed, "pilot"))
    return Start(task, setting, seed, size, model, steps, held_out, prompts, *pilot)


def _supervise(
    task: Task, model: TinyTransformer, setting: Setting, seed: int, size: Size, without: frozenset[str]
) -> int:
    """Adam at a rate that rises over 20 steps. Returns the number of steps."""
    rng = np.random.default_rng(_stream(setting, seed, "supervised"))
    checked = draw_examples(task, 128, np.random.default_rng(_stream(setting, seed, "check")), without)
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(1, setting.most_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = setting.supervised_rate * min(1, step / 20)
        examples = draw_examples(task, size.supervised_batch, rng, without)
        responses = encode_responses(task, [answer for _, answer in examples])
        mask = response_mask(responses, task.vocabulary.index(END))
        log_probs = response_log_probs(model, encode_prompts(task, _prompts(examples)), responses)
        optimizer.zero_grad()
        (-log_probs[mask].mean()).backward()
        optimizer.step()
        if step % size.check_every == 0:
            _, rewards = roll_out(task, model, _prompts(checked), 4, _noise(setting, seed, "check", step))
            if rewards.mean() >= setting.pass_rate:
                return step
    return setting.most_steps


# ---- arms ----


def objectives_of(arm: Arm, start: Start) -> tuple[Objectives, dict[str, Any]]:
    """What an arm trains with, and what is to be said about it."""
    n = start.size.rollouts_per_prompt
    if arm.trainer is not None:
        return (arm.trainer, None), {}
    if arm.gamma is not None:
        return (rl2ml.Objective(arm.gamma, "bayes", start.pilot), None), {"gamma": arm.gamma}
    if arm.controlled_for is not None:
        state, decision = rl2ml.start_controller(rl2ml.ControllerSettings(arm.controlled_for, n), start.pilot)
        gammas = [decision.gamma]

        def after(window: rl2ml.PilotHistogram) -> Objective:
            nonlocal state
            state, made = rl2ml.step_controller(state, window)
            gammas.append(made.gamma)
            return made.objective

        return (decision.objective, after), {"gamma": decision.gamma, "gammas": gammas}
    assert arm.recommended_for is not None
    scores = start.measured_scores if arm.kappa == "measured" else None
    found = rl2ml.recommend(start.pilot, arm.recommended_for, n, score_model=scores)
    said = {"gamma": found.gamma, "status": found.status}
    if arm.kappa == "measured":
        said["kappa"] = None if scores is None else [scores.kappa, scores.kappa_spread]
    # Only a hopeless pilot has no answer; what the controller begins with is then as good as any.
    return (found.objective or rl2ml.Objective(1.0, "leave_one_out"), None), said


def _table_of(objective: Objective, num_rollouts: int) -> list[list[float]]:
    known = isinstance(objective, str)
    table = rl2ml.known_table(objective, num_rollouts) if known else objective.table(num_rollouts)
    return [table.success[1:].tolist(), table.failure[:-1].tolist()]


# ---- reinforcement learning ----


def reinforce(start: Start, objectives: Objectives, rule: Rule) -> tuple[TinyTransformer, dict[str, Any]]:
    """Train a copy of the start's model; returns it and what happened."""
    objective, after_window = objectives
    task, size, without = start.task, start.size, frozenset(start.held_out)
    model = copy.deepcopy(start.model)
    parameters = list(model.parameters())
    adam = torch.optim.Adam(parameters, lr=rule.size) if rule.name == "adam" else None
    loss_of, end = RL2MLLoss(), task.vocabulary.index(END)
    # What differs between arms is the objective: prompts and noise follow from setting, seed and step.
    rng = np.random.default_rng(_stream(start.setting, start.seed, "training"))
    first, windows, unused = "", [], []
    window: rl2ml.PilotHistogram | None = None
    for step in range(size.steps):
        prompts = _prompts(draw_examples(task, size.prompts_per_step, rng, without))
        read = encode_prompts(task, prompts)
        noise = _noise(start.setting, start.seed, "training", step)
        responses, _ = sample(model, read, size.rollouts_per_prompt, task.response_width, noise)
        if step == 0:
            first = hashlib.sha256(responses.numpy().tobytes()).hexdigest()[:16]
        groups = group_advantages(objective, rewards_of(task, prompts, responses))
        unused.append(groups.metrics()["zero_advantage_groups"])
        model.zero_grad()
        log_probs = response_log_probs(model, read, responses)
        loss_of(log_probs, response_mask(responses, end), groups.advantages).backward()
        if adam is None:
            step_of_length(parameters, rule.size)
        else:
            adam.step()
        counts = groups.histogram()
        window = counts if window is None else window + counts
        if (step + 1) % size.steps_per_window == 0:
            windows.append(window.mean_pass_rate)
            if after_window is not None and step + 1 < size.steps:
                objective = after_window(window)
            window = None
    happened = {
        "first_rollouts": first,
        "training_pass_rates": [round(rate, 4) for rate in windows],  # by window
        "zero_advantage_groups": round(float(np.mean(unused)), 4),
    }
    return model, happened


def _evaluate(start: Start, model: TinyTransformer) -> list[int]:
    """Successes of every held-out prompt, with the same noise for every policy of the block."""
    noise = _noise(start.setting, start.seed, "evaluation")
    _, rewards = roll_out(start.task, model, start.held_out, start.size.held_out_rollouts, noise)
    return rewards.sum(1).int().tolist()


# ---- a block ----


def run_block(folder: Path, block: Block) -> None:
    """Train what is missing of a block. Arms whose tables are equal are trained once."""
    torch.set_num_threads(1)
    files = run_files(folder, block)
    finished = {run: read_run(path, block, run) for run, path in files.items()}
    if all(finished.values()):
        return
    began = time.process_time()
    start = start_of(block.setting, block.seed, block.size)
    if finished[None] is None:
        content = {
            "what": what_of(block, None),
            "successes": _evaluate(start, start.model),
            "supervised_steps": start.supervised_steps,
            "pilot": {"cells": start.pilot.cells(), "mean_pass_rate": start.pilot.mean_pass_rate},
            "cpu_seconds": round(time.process_time() - began, 2),
        }
        write_run(files[None], content)
    for run in block.runs:
        if finished[run] is not None:
            continue
        began = time.process_time()
        rule, arm = run
        objectives, said = objectives_of(arm, start)
        table = _table_of(objectives[0], block.size.rollouts_per_prompt) if objectives[1] is None else None
        alike = None if table is None else _alike(finished, rule, table)
        if alike is None:
            model, happened = reinforce(start, objectives, rule)
            happened["successes"] = _evaluate(start, model)
        else:
            happened = {name: alike[name] for name in _MEASURED} | {"same_as": alike["what"]["arm"]["name"]}
        seconds = round(time.process_time() - began, 2)
        finished[run] = {"what": what_of(block, run), **said, "table": table, **happened, "cpu_seconds": seconds}
        write_run(files[run], finished[run])


_MEASURED = ("first_rollouts", "training_pass_rates", "zero_advantage_groups", "successes")


def _alike(finished: dict[Run, dict[str, Any] | None], rule: Rule, table: list[list[float]]) -> dict[str, Any] | None:
    """A finished run under the same rule with the same table throughout."""
    for run, content in finished.items():
        if run is not None and content is not None and run[0] == rule and content["table"] == table:
            return content
    return None
