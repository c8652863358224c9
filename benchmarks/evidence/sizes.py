"""How the step sizes of `settings.py` were chosen: `python -m benchmarks.evidence.sizes` prints them.

Of each environment and step rule the size, among 1, 2 and 5 × 10^k, with which γ = 1 (the middle of the grid, with the
default baseline, at N = 8) closes nearest to 60 % of its headroom in pass@1 by the last step, on prompts of uniform
pass rates; 35 % in the noisiest, where larger steps lose to noise what they win (47 % at best). Such prompts are easier
than most settings' and belong to none, so that nothing held out is looked at; nor are other arms. sgd has the size of
rms, from which it differs by the running mean square.
The second share is the median over the difficulties that are not held out.
"""

from collections.abc import Iterable

import numpy as np

from benchmarks.evidence.arms import ARMS
from benchmarks.evidence.difficulties import UNIFORM
from benchmarks.evidence.environments import ENVIRONMENTS
from benchmarks.evidence.run import run_setting
from benchmarks.evidence.settings import DIFFICULTIES, FULL, HELD_OUT, Setting

TARGET, NOISY_TARGET = 0.6, 0.35
SIZES = tuple(digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 5))
#: Where the search starts.
FIRST = {"normalized": 0.5, "rms": 5.0, "adam": 0.02}


def closed(environment: str, step: str, size: float, difficulties: Iterable[str] = (UNIFORM,)) -> float:
    """Median share of the headroom that is closed."""
    arm = [next(arm for arm in ARMS if arm.name == "bayes 1")]
    shares = []
    for difficulty in difficulties:
        result = run_setting(Setting(environment, difficulty, 8, step), FULL, size, arm)
        start = result["start"][:, 0, 0].mean()
        shares.append((result["reached"][0, 0, :, -1, 0, 0].mean() - start) / (1 - start))
    return float(np.median(shares))


def main() -> None:
    for environment in ENVIRONMENTS:
        tuned = [difficulty for difficulty in DIFFICULTIES if (environment, difficulty) not in HELD_OUT]
        target = NOISY_TARGET if ENVIRONMENTS[environment].noise > 10 else TARGET
        for step, first in FIRST.items():
            at = SIZES.index(first)
            found = {at: closed(environment, step, SIZES[at])}
            direction = 1 if found[at] < target else -1
            while direction * (target - found[at]) > 0:  # more closes more: walk until the target is passed
                at += direction
                found[at] = closed(environment, step, SIZES[at])
            best = min(found, key=lambda i: abs(found[i] - target))
            elsewhere = closed(environment, step, SIZES[best], tuned)
            print(f"{environment:<14} {step:<11} {SIZES[best]:<6g} {found[best]:4.0%} {elsewhere:4.0%}", flush=True)


if __name__ == "__main__":
    main()
