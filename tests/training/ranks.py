"""One of two processes that train together: `python ranks.py RANK DIRECTORY`. Writes what it found as JSON.

Run by test_ranks.py. The processes meet over a file and the loopback interface, so no port is needed. Gradients are
averaged over ranks, as data-parallel training does.
"""

import json
import math
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from conftest import TabularPolicy
from torch.nn.parallel import DistributedDataParallel

import rl2ml_core as rl2ml
from rl2ml_core.training import AdvantageScale, RL2MLLoss, group_advantages

RANKS = 2
LOSS = RL2MLLoss()
PILOT = rl2ml.PilotHistogram.from_counts([0, 1, 0, 3, 8, 5, 2, 0], 8)
OBJECTIVE = rl2ml.Objective(0.6, "bayes", PILOT)


def averaged(gradient):
    dist.all_reduce(gradient)
    return gradient / RANKS


def rows_of(rank, order):
    """A rank's share of the rows: the first third, or the rest."""
    cut = len(order) // 3
    return order[:cut] if rank == 0 else order[cut:]


def exactness(rank, sharded):
    """Largest |averaged gradient − ∇J|/|∇J| over γ, baselines and N: all groups at once, each weighing its chance."""
    worst = 0.0
    policy = TabularPolicy()
    for num_rollouts in (1, 2, 3, 6):
        groups = policy.groups(num_rollouts)
        chances = policy.chances()[groups].prod(1).detach()
        order = torch.randperm(groups.numel(), generator=torch.Generator().manual_seed(num_rollouts))
        for gamma in (0.0, 0.3, 1.0, 1.7):
            for baseline in rl2ml.BASELINES:
                needs_pilot = baseline in ("bayes", "minimum_variance")
                objective = rl2ml.Objective(gamma, baseline, PILOT if needs_pilot else None)
                if sharded:
                    where = rows_of(rank, order)
                    ids = where // num_rollouts
                    responses = groups.flatten()[where]
                    found = group_advantages(
                        objective,
                        policy.rewards[responses],
                        ids,
                        process_group=dist.group.WORLD,
                        dtype=torch.float64,
                    )
                    weights = chances[ids]
                else:
                    responses, weights = groups[rank::RANKS], chances[rank::RANKS, None]
                    found = group_advantages(objective, policy.rewards[responses], dtype=torch.float64)
                loss = LOSS(
                    policy.log_probs()[responses],
                    policy.mask[responses],
                    found.advantages * weights,
                    num_responses=num_rollouts / RANKS,
                )
                gradient = averaged(-torch.autograd.grad(loss, policy.logits)[0])
                target = policy.objective_gradient(gamma, num_rollouts - (baseline == "group_centered"))
                error = (gradient - target).norm().item()
                worst = max(worst, error / target.norm().item() if error else 0.0)
    return worst


def make_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Embedding(7, 5), torch.nn.Linear(5, 7)).double()


def make_batch():
    """Four groups of four responses: tokens, mask, rewards (one is missing), ids."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(7, (16, 6), generator=generator)
    mask = torch.arange(6) < torch.randint(1, 7, (16, 1), generator=generator)
    rewards = torch.randint(2, (16,), generator=generator).double()
    rewards[5] = math.nan
    return tokens, mask, rewards, [f"prompt-{i // 4}" for i in range(16)]


def response_loss(model, tokens, mask, advantages, num_responses=None):
    log_probs = model(tokens).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
    return LOSS(log_probs, mask, advantages, num_responses=num_responses)


def data_parallel(rank, cut, parts):
    """Relative difference of DDP's gradient from one process's; rank 0 has `cut` of 16 rows, in micro-batches."""
    tokens, mask, rewards, ids = make_batch()
    # Every group has rows on both ranks.
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    mine = (order[:cut] if rank == 0 else order[cut:]).tolist()
    whole = group_advantages(OBJECTIVE, rewards, ids, dtype=torch.float64)
    part = group_advantages(
        OBJECTIVE, rewards[mine], [ids[i] for i in mine], process_group=dist.group.WORLD, dtype=torch.float64
    )
    assert torch.equal(part.advantages, whole.advantages[mine])
    single = make_model()
    response_loss(single, tokens, mask, whole.advantages).backward()
    model = DistributedDataParallel(make_model())
    chunks = torch.tensor(mine).tensor_split(parts)
    places = torch.arange(len(mine)).tensor_split(parts)
    given = None if parts == 1 and cut == 8 else 16 / RANKS
    for i, (rows, place) in enumerate(zip(chunks, places, strict=True)):
        model.require_backward_grad_sync = i == parts - 1
        response_loss(model, tokens[rows], mask[rows], part.advantages[place], given).backward()
    pairs = zip(single.parameters(), model.parameters(), strict=True)
    return max(((a.grad - b.grad).norm() / a.grad.norm()).item() for a, b in pairs)


def groups_of_all_ranks(rank):
    """What each rank is told of groups that it holds in part, or not at all."""
    ids, rewards = [["b", "a", "b"], []][rank], [[1, 0, 0], []][rank]
    found = group_advantages(OBJECTIVE, torch.tensor(rewards).float(), ids, process_group=dist.group.WORLD)
    alone = {"ids": list(found.ids), "successes": found.num_successes.tolist(), "rows": len(found.advantages)}
    ids, rewards = [[7, 3, 7], [3, 9, 3, 3]][rank], [[1, 0, 0], [1, 1, math.nan, 0]][rank]
    rest = group_advantages(OBJECTIVE, rewards, torch.tensor(ids), process_group=dist.group.WORLD, dtype=torch.float64)
    return {
        "alone": alone,
        "ids": list(rest.ids),
        "successes": rest.num_successes.tolist(),
        "sizes": rest.num_rollouts.tolist(),
        "advantages": rest.advantages.tolist(),
        "pass_rate": rest.metrics()["pass_rate"],
    }


def shaping(rank):
    """The shaping term of rows whose group spans the ranks."""
    rewards = {"correct": [[1, 0], [0, 1]][rank], "format": [[1, 4], [0, 3]][rank]}
    arguments = {"correctness": "correct", "dtype": torch.float64, "process_group": dist.group.WORLD}
    plain = group_advantages(OBJECTIVE, {"correct": rewards["correct"]}, [0, 0], **arguments)
    found = group_advantages(OBJECTIVE, rewards, [0, 0], shaping={"format": 0.5}, **arguments)
    return (found.advantages - plain.advantages).tolist()


def message_of(*arguments, **options):
    try:
        group_advantages(*arguments, process_group=dist.group.WORLD, **options)
    except rl2ml.InvalidInput as error:
        return str(error)
    return "no error"


def errors(rank):
    """What each rank raises where one of them, or the groups of both, are wrong: none is left waiting."""
    return {
        "binary": message_of(OBJECTIVE, [[1.0, 0.0], [1.0, 0.5]][rank], ["a", "b"]),
        "shape": message_of(OBJECTIVE, [1.0, 0.0], ["a", "b", "c"][: 2 + rank]),
        "empty": message_of(OBJECTIVE, [[1.0, math.nan], [0.0, math.nan]][rank], ["a", "b"]),
        "table": message_of(rl2ml.known_table("grpo", 2), [1.0, 0.0], ["a", "a"]),
        "both": message_of(OBJECTIVE, [[2.0, 0.0], [1.0, 3.0]][rank], ["a", "b"]),
        "no ids": message_of(OBJECTIVE, [[1.0, 0.0]]),
    }


def scale(rank):
    """A multiplier over ranks with other rewards."""
    rewards = torch.tensor([[[1.0, 0, 0, 0]], [[0.0, 0, 1, math.nan]]])
    together, single = AdvantageScale("grpo"), AdvantageScale("grpo")
    objective = rl2ml.Objective(1.0, "score")
    for _ in range(3):
        together.step(group_advantages(objective, rewards[rank]), process_group=dist.group.WORLD)
        single.step(group_advantages(objective, rewards.flatten(0, 1)))
    return {"together": together.multiplier, "single": single.multiplier, "state": together.state_dict()}


def main() -> None:
    rank, directory = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group(
        "gloo",
        init_method=f"file://{directory / 'store'}",
        rank=rank,
        world_size=RANKS,
        timeout=timedelta(seconds=90),
    )
    found = {
        "sharded groups": exactness(rank, sharded=True),
        "whole groups": exactness(rank, sharded=False),
        "even ranks": data_parallel(rank, 8, 1),
        "uneven ranks": data_parallel(rank, 5, 1),
        "accumulation": data_parallel(rank, 5, 2),
        "groups": groups_of_all_ranks(rank),
        "shaping": shaping(rank),
        "errors": errors(rank),
        "scale": scale(rank),
    }
    (directory / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
