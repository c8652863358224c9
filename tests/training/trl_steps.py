"""Optimizer steps of `RL2MLTrainer` on one of several processes: `python trl_steps.py RANK RANKS DIRECTORY`.

Run by test_trl.py. Compares the gradients that reach the optimizer with the estimator's definition, computed in float64
from the completions and rewards that were drawn, one response at a time, without padding; writes what it found as JSON.
The processes meet over a file and the loopback interface.
"""

import json
import math
import os
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from datasets import Dataset
from tiny_language_model import make_model, make_tokenizer
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

import rl2ml_core as rl2ml
from rl2ml_core.training.trl import RL2MLConfig, RL2MLController, RL2MLTrainer

RANK, RANKS, DIRECTORY = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
ROLLOUTS, LONGEST = 4, 6
# Two ranks draw 2 · 3 · 2 = 12 rows, 6 each: the second of the three groups spans both. One rank draws as many.
ROWS_PER_BATCH, ACCUMULATION = {1: (6, 2), 2: (3, 2)}[RANKS]
OBJECTIVE = rl2ml.Objective(0.6, "bayes", rl2ml.PilotHistogram.from_counts([0, 1, 0, 3, 8, 5, 2, 0], 8))
TOKENIZER = make_tokenizer()


def even(completions, **_):
    """Whether a response's characters sum to an even number; responses that start with 7 cannot be judged."""
    return [None if text.startswith("7") else float(sum(map(ord, text)) % 2 == 0) for text in completions]


def graded_on_the_last_rank(completions, **_):
    """0.25 for a response of the last rank, 0 elsewhere."""
    return [0.25 if RANK == RANKS - 1 and i == 0 else 0.0 for i in range(len(completions))]


class Recorder(TrainerCallback):
    """Gradients and weights at each optimizer step, before either is changed."""

    def __init__(self):
        self.gradients, self.weights = [], []

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        model = getattr(model, "module", model)
        self.gradients.append({name: p.grad.double().clone() for name, p in model.named_parameters()})
        self.weights.append({name: p.detach().double().clone() for name, p in model.named_parameters()})


def watched(trainer):
    """A trainer that keeps each batch that was drawn: completions of this rank, rewards of all."""

    class Watched(trainer):
        def _calculate_rewards(self, *given, **named):
            self.rewards = super()._calculate_rewards(*given, **named)
            return self.rewards

        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            rewards = [None if math.isnan(x) else x for x in self.rewards[:, 0].tolist()]
            self.drawn.append((rows_of(output), rewards))
            return output

    return Watched


def gathered(values):
    """Rows of all ranks, in their order."""
    if RANKS == 1:
        return values
    parts = [None] * RANKS
    dist.all_gather_object(parts, values)
    return [row for part in parts for row in part]


def rows_of(output):
    """Each row's prompt and completion as lists of tokens."""
    pairs = []
    for prompt, kept, completion, mask in zip(
        output["prompt_ids"], output["prompt_mask"], output["completion_ids"], output["completion_mask"], strict=True
    ):
        pairs.append((prompt[kept.bool()].tolist(), completion[mask.bool()].tolist()))
    return pairs


def literal_advantages(rewards):
    """From the objective's tables, group by group."""
    advantages = []
    for first in range(0, len(rewards), ROLLOUTS):
        group = rewards[first : first + ROLLOUTS]
        valid = [reward for reward in group if reward is not None]
        for reward in group:
            if reward is None:
                advantages.append(0.0)
            else:
                table = OBJECTIVE.table(len(valid))
                advantages.append(float((table.success if reward else table.failure)[int(sum(valid))]))
    return advantages


def estimator(model, rows, advantages, divisor):
    """−(1/divisor) Σ_i A_i ∇log π(response i), the loss's gradient by its definition."""
    model.zero_grad()
    for (prompt, completion), advantage in zip(rows, advantages, strict=True):
        tokens = torch.tensor([prompt + completion])
        log_probs = model(tokens).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        score = log_probs.gather(1, torch.tensor(completion)[:, None]).sum()
        (-advantage * score / divisor).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def made(trainer=RL2MLTrainer, config=RL2MLConfig, reward=even, callbacks=(), **settings):
    """A trainer of a model that is the same every time."""
    return trainer(
        model=make_model(TOKENIZER),
        reward_funcs=reward,
        args=config(
            output_dir=str(DIRECTORY / f"out{RANK}"),
            num_generations=ROLLOUTS,
            max_completion_length=LONGEST,
            per_device_train_batch_size=ROWS_PER_BATCH,
            gradient_accumulation_steps=ACCUMULATION,
            learning_rate=1.0,
            max_grad_norm=0.0,
            optim="sgd",
            lr_scheduler_type="constant",
            logging_steps=1,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            seed=5,
            **settings,
        ),
        train_dataset=Dataset.from_dict({"prompt": [f"{i}{j}=" for i in range(4) for j in range(4)]}),
        processing_class=TOKENIZER,
        callbacks=list(callbacks),
    )


def errors(trainer=RL2MLTrainer, steps=3, divisor=LONGEST, **settings):
    """Relative errors of the gradients of a run, a step each, and what the run drew."""
    recorder = Recorder()
    run = made(watched(trainer), callbacks=[recorder], max_steps=steps, **settings)
    run.drawn = []
    run.train()
    reference = make_model(TOKENIZER).double()
    found, norms = [], []
    for (rows, rewards), gradient, weights in zip(run.drawn, recorder.gradients, recorder.weights, strict=True):
        rows = gathered(rows)
        reference.load_state_dict(weights, strict=False)
        expected = estimator(reference, rows, literal_advantages(rewards), len(rows) * divisor)
        difference = math.sqrt(sum((gradient[name] - expected[name]).square().sum().item() for name in expected))
        norms.append(math.sqrt(sum(value.square().sum().item() for value in expected.values())))
        found.append(difference / norms[-1])
    return {
        "errors": found,
        "norms": norms,
        "ranks": run.accelerator.num_processes,
        "drawn": run.drawn,
        "logged": list(run._logs["advantages"]),
        "history": [entry for entry in run.state.log_history if "reward" in entry],
    }


def controlled():
    """γ by step under a controller that closes a window every second step, and what it decided."""
    settings = rl2ml.ControllerSettings("pass@4", ROLLOUTS, min_prompts=2, hysteresis=0.0, bootstrap=0)
    controller = RL2MLController(settings, steps_per_window=2)
    run = made(callbacks=[controller], max_steps=5)
    run.train()
    return {
        "gammas": [entry["rl2ml/gamma"] for entry in run.state.log_history if "rl2ml/gamma" in entry],
        "decision": controller.control.decision.to_dict(),
        "state": controller.control.state_dict(),
    }


def message_of(**arguments):
    try:
        made(objective=OBJECTIVE, max_steps=1, **arguments).train()
    except rl2ml.InvalidInput as error:
        return str(error)
    return "no error"


def main() -> None:
    if RANKS > 1:
        # How launchers tell accelerate; the port is never opened, as the processes meet before.
        os.environ |= {"RANK": str(RANK), "WORLD_SIZE": str(RANKS), "LOCAL_RANK": str(RANK), "ACCELERATE_USE_CPU": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "LOCAL_WORLD_SIZE": str(RANKS)}
        dist.init_process_group(
            "gloo",
            init_method=f"file://{DIRECTORY / 'store'}",
            rank=RANK,
            world_size=RANKS,
            timeout=timedelta(seconds=120),
        )
    found = {"dr_grpo": errors(objective=OBJECTIVE), "controller": controlled()}
    if RANKS == 1:
        found["luspo"] = errors(objective=OBJECTIVE, loss_type="luspo", divisor=1)
        found["luspo, sequence"] = errors(
            objective=OBJECTIVE, loss_type="luspo", importance_sampling_level="sequence", divisor=1
        )
        # What the check must find: the first step draws the same from the same model, whoever trains.
        found["stock"] = errors(GRPOTrainer, steps=1, config=GRPOConfig, loss_type="dr_grpo")
        found["dapo"] = errors(steps=1, objective=OBJECTIVE, loss_type="dapo")
    else:
        found["not binary"] = message_of(reward=graded_on_the_last_rank)
    (DIRECTORY / f"{RANK}.json").write_text(json.dumps(found))
    if RANKS > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
