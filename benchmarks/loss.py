"""What the loss and the advantages cost, next to those that people write by hand and those of TRL and verl.

`python benchmarks/loss.py` prints everything in one run of about a minute; `--quick` is a smoke test. It needs torch
(pip install 'rl2ml[training]').

- One thread. Calls of two functions alternate, in an order that flips from pair to pair, and the median of the ratios
  within pairs is reported. The A/A ratio is that of a function with itself: what differs from 1 there is noise.
- malloc's thresholds are fixed, as glibc moves them while a process runs and a call then pays for fresh pages or not.
- Peak memory: resident pages beyond those before the call, in a process of its own that returns all it frees.

By hand is the shortest masked policy-gradient loss with the same reduction, −mean over responses of A · the masked sum.
TRL's expression and verl's function are written anew from what releases 1.16 and 0.9.1 compute: mean, deviation,
repeat_interleave and a check of zero deviations; and a loop over rows and groups by uid.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
# Runs from a checkout that is not installed; this directory's http.py must not hide the standard library's.
sys.path.pop(0)
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

import rl2ml_core as rl2ml
from benchmarks.measure import Ratio, compare, fix_malloc, peak_memory
from rl2ml_core.training import RL2MLLoss, group_advantages

RESPONSES = TOKENS = 1024
GROUPS, ROLLOUTS = 1024, 16
PAIRS = 400


# ---- timing ----


def spoken(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def show(name: str, ratio: Ratio, first: str) -> None:
    low, high = ratio.quartiles
    spread = f"{ratio.median:8.3f}  [{low:.3f}, {high:.3f}]"
    print(f"  {name:<44}{spoken(ratio.second):>9}  {first} {spoken(ratio.first):>8}  ratio {spread}")


def timed(first: Callable[[], object], second: Callable[[], object], pairs: int) -> Ratio:
    return compare(first, second, pairs, warm_up=max(3, pairs // 20))


# ---- the loss ----


def by_hand(log_probs: torch.Tensor, mask: torch.Tensor, advantages: torch.Tensor) -> torch.Tensor:
    return -((log_probs * mask).sum(1) * advantages).mean()


def make_batch(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log_probs, mask and advantages of responses of 100 to 1,024 tokens."""
    generator = torch.Generator().manual_seed(0)
    log_probs = -torch.rand(RESPONSES, TOKENS, generator=generator)
    lengths = torch.randint(100, TOKENS + 1, (RESPONSES, 1), generator=generator)
    mask = (torch.arange(TOKENS) < lengths).to(dtype)
    return log_probs.requires_grad_(), mask, torch.randn(RESPONSES, generator=generator)


def there_and_back(loss: Callable[..., torch.Tensor], batch: tuple[torch.Tensor, ...]) -> Callable[[], None]:
    """Forward and backward."""
    log_probs, mask, advantages = batch

    def run() -> None:
        log_probs.grad = None
        loss(log_probs, mask, advantages).backward()

    return run


LOSSES = {"by hand": by_hand, "ours": RL2MLLoss(), "ours, check=False": RL2MLLoss(check=False)}
MASKS = {"float mask": torch.float32, "bool mask": torch.bool}


def time_losses(pairs: int) -> dict[tuple[str, str], float]:
    found = {}
    print(f"\nloss, forward and backward, [{RESPONSES}, {TOKENS}], float32")
    for mask, dtype in MASKS.items():
        batch = make_batch(dtype)  # one for all: where tensors lie in memory matters too
        hand = there_and_back(by_hand, batch)
        again = timed(hand, there_and_back(by_hand, batch), pairs)
        show(f"A/A: by hand, {mask}", again, "by hand")
        for name in ("ours", "ours, check=False"):
            ratio = timed(hand, there_and_back(LOSSES[name], batch), pairs)
            found[mask, name] = ratio.median
            show(f"{name}, {mask}", ratio, "by hand")
    return found


def memory_of(loss: str, mask: str) -> int:
    """Peak kB of one call beyond what was there before, measured in another process."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", loss, mask], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def print_memory(loss: str, mask: str) -> None:
    fix_malloc(1 << 16, 1 << 16)
    batch = make_batch(MASKS[mask])
    run = there_and_back(LOSSES[loss], batch)
    for _ in range(3):
        run()
    batch[0].grad = None
    print(peak_memory(run))


# ---- the advantages ----


def trl_expression(rewards: torch.Tensor) -> torch.Tensor:
    """Rewards [B], groups one after the other."""
    means = rewards.view(-1, ROLLOUTS).mean(dim=1).repeat_interleave(ROLLOUTS, dim=0)
    deviations = rewards.view(-1, ROLLOUTS).std(dim=1).repeat_interleave(ROLLOUTS, dim=0)
    torch.isclose(deviations, torch.zeros_like(deviations))  # for the share of groups without one
    return (rewards - means) / (deviations + 1e-4)


def verl_function(token_rewards: torch.Tensor, mask: torch.Tensor, uids: np.ndarray) -> torch.Tensor:
    """Rewards and mask [B, T], uids [B]."""
    scores = token_rewards.sum(dim=-1)
    members, means, deviations = defaultdict(list), {}, {}
    with torch.no_grad():
        for i in range(len(scores)):
            members[uids[i]].append(scores[i])
        for uid, group in members.items():
            if len(group) == 1:
                means[uid], deviations[uid] = torch.tensor(0.0), torch.tensor(1.0)
            else:
                stacked = torch.stack(group)
                means[uid], deviations[uid] = torch.mean(stacked), torch.std(stacked)
        for i in range(len(scores)):
            scores[i] = (scores[i] - means[uids[i]]) / (deviations[uids[i]] + 1e-6)
        return scores.unsqueeze(-1) * mask


def time_advantages(pairs: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(1)
    rewards = (torch.rand(GROUPS * ROLLOUTS, generator=generator) < 0.3).float()
    objective = rl2ml.Objective(0.5, "leave_one_out")
    # As verl has them: a text per prompt, repeated, and rows that were reordered since.
    uids = np.repeat(np.array([f"{i:08x}-4a1c-4c1e-9d5e-{i:012x}" for i in range(GROUPS)], object), ROLLOUTS)
    order = torch.randperm(len(rewards), generator=generator)
    shuffled, uids = rewards[order], uids[order.numpy()]
    ids = torch.arange(GROUPS).repeat_interleave(ROLLOUTS)[order]
    token_rewards = shuffled[:, None].clone()  # one token: sums over more cost both the same
    mask = torch.ones_like(token_rewards)

    def dense() -> torch.Tensor:
        return group_advantages(objective, rewards.view(-1, ROLLOUTS)).advantages.view(-1)

    def ragged() -> torch.Tensor:
        found = group_advantages(objective, token_rewards.sum(dim=-1), uids)
        return found.advantages.unsqueeze(-1) * mask

    def by_integers() -> torch.Tensor:
        return group_advantages(objective, shuffled, ids).advantages

    print(f"\nadvantages of {GROUPS:,} groups of {ROLLOUTS}")
    few = max(3, pairs // 40)
    show(
        "A/A: TRL's expression",
        timed(lambda: trl_expression(rewards), lambda: trl_expression(rewards), pairs),
        "TRL ",
    )
    of_trl = timed(lambda: trl_expression(rewards), dense, pairs)
    show("ours, dense", of_trl, "TRL ")
    show("ours, integer ids in any order", timed(lambda: trl_expression(rewards), by_integers, pairs), "TRL ")
    of_verl = timed(lambda: verl_function(token_rewards, mask, uids), ragged, few)
    show("ours, uids in any order", of_verl, "verl")
    # The peers are what they are taken for: GRPO's tables, but for rounding.
    for epsilon, rows, found in (
        (1e-4, slice(None), trl_expression(rewards)),
        (1e-6, order, verl_function(token_rewards, mask, uids)[:, 0]),
    ):
        table = rl2ml.known_table("grpo", ROLLOUTS, epsilon=epsilon)
        expected = group_advantages(table, rewards.view(-1, ROLLOUTS)).advantages.view(-1)[rows]
        assert torch.allclose(found, expected, atol=1e-5)
    return {"TRL": of_trl.median, "verl": of_verl.median}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test: few pairs")
    parser.add_argument("--memory", nargs=2, metavar=("LOSS", "MASK"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        print_memory(*arguments.memory)
        return
    fix_malloc(1 << 25, 1 << 30)
    pairs = 20 if arguments.quick else PAIRS
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, one thread; Python {platform.python_version()}, "
        f"torch {torch.__version__}, rl2ml {rl2ml.__version__}"
    )
    print(
        f"{pairs} interleaved pairs; ratio: median within pairs [quartiles]." + (" Quick." if arguments.quick else "")
    )
    losses = time_losses(pairs)
    print("\npeak memory of the loss, forward and backward, beyond its inputs")
    memory = {}
    for mask in list(MASKS)[: 1 if arguments.quick else None]:
        hand, ours = memory_of("by hand", mask), memory_of("ours", mask)
        memory[mask] = ours / hand
        print(f"  {mask:<44}{ours / 1024:>6.2f} MB  by hand {hand / 1024:>5.2f} MB  ratio {ours / hand:8.3f}")
    advantages = time_advantages(pairs)
    print("\ntargets")
    slowest = max(ratio for (_, name), ratio in losses.items() if name == "ours")
    for text, value, bound in (
        ("loss at most 1.05 × by hand", slowest, 1.05),
        ("peak memory at most 1.05 × by hand", max(memory.values()), 1.05),
        ("advantages at most 1/3 of TRL's expression", advantages["TRL"], 1 / 3),
        ("advantages at most 1/100 of verl's function", advantages["verl"], 1 / 100),
    ):
        print(f"  {'ok' if value <= bound else 'MISSED':<8}{text:<50}{value:.4f}")


if __name__ == "__main__":
    main()
