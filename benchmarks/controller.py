"""What a step of the controller costs beside a bare `recommend`, and how well its γ follows a policy that improves.

`python benchmarks/controller.py` prints both; `--quick` is a smoke test. One BLAS thread.

How it follows: prompts of Beta(.3, 1.5) and of the harder Beta(.1, 3) whose logits rise by the same amount with every
window; windows of groups of 8 drawn from them, γ by the criterion `rms_gain`, judged by `--metric`, after a pilot of 64
prompts. Lost is the share of the true criterion of the next window, that of its best γ and baseline from all its
prompts being the whole, averaged over windows; moves and path (Σ|Δγ|) are counts and lengths per run.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

import numpy as np

import rl2ml_core as rl2ml
from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.selection.controller import ControllerSettings, replay, start, step
from rl2ml_core.selection.criteria import RmsGain

GROUP = 8
KAPPA = rl2ml.ScoreModel().kappa
GAMMAS = np.linspace(0, 2, 81)
POLICIES = {"Beta(.3, 1.5)": (0.3, 1.5), "Beta(.1, 3)": (0.1, 3.0)}
PROMPTS, WINDOWS, PILOT = 20_000, 25, 64

PILOTS_OWN = "pilot's objective"  # throughout: its γ and its baseline
RULES = {
    "as it is": {},
    "always moves": {"hysteresis": 0.0, "bootstrap": 0},
    "by the loss alone": {"bootstrap": 0},
    "by the draws alone": {"hysteresis": 1.0},
    "half-life 1": {"half_life": 1.0},
    "half-life 4": {"half_life": 4.0},
    "half-life 8": {"half_life": 8.0},
    "steps of .05": {"max_step": 0.05},
    "steps of any length": {"max_step": 2.0},
    "never moves": {"min_prompts": 1e8},
    PILOTS_OWN: {},
}


def best_of(function: Callable[[], object], repeats: int) -> float:
    best = np.inf
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - began)
    return best


def time_one(metric: str, num_rollouts: int, repeats: int) -> tuple[float, float]:
    """Seconds of `recommend` and of `step` from the same counts."""
    p = pass_rates("Beta(.3, 1.5)", 0.0, 0)[:256]
    counts = np.random.default_rng(num_rollouts).binomial(num_rollouts, p)

    def window() -> rl2ml.PilotHistogram:
        return rl2ml.PilotHistogram.from_counts(counts, num_rollouts)  # anew, with nothing computed yet

    state, _ = start(ControllerSettings(metric, num_rollouts, criterion="rms_gain"), window())
    bare = best_of(lambda: rl2ml.recommend(window(), metric, num_rollouts, criterion="rms_gain"), repeats)
    return bare, best_of(lambda: step(state, window()), repeats)


@lru_cache
def pass_rates(policy: str, drift: float, window: int) -> np.ndarray:
    p = np.clip(np.random.default_rng(1).beta(*POLICIES[policy], PROMPTS), 1e-6, 1 - 1e-6)
    return p / (p + (1 - p) * np.exp(-drift * window))


@lru_cache
def truth(metric: str, policy: str, drift: float, window: int) -> tuple[RmsGain, float]:
    """The criterion on all prompts of a window, as 200 quantiles, and its maximum."""
    people = rl2ml.Population.from_pass_rates(
        np.quantile(pass_rates(policy, drift, window), (np.arange(200) + 0.5) / 200)
    )
    criterion = RmsGain(people, rl2ml.parse_metric(metric), GROUP)
    tables = Estimator.named("bayes", GROUP, people).tables(GAMMAS)
    return criterion, float(criterion.combine(criterion.totals(*tables), KAPPA).max())


def follow(name: str, metric: str, policy: str, drift: float, size: int, runs: int) -> tuple[float, float, float]:
    """Share lost, moves and path."""
    settings = ControllerSettings(metric, GROUP, criterion="rms_gain", **RULES[name])
    lost, moves, path = [], 0, 0.0
    for run in range(runs):
        rng = np.random.default_rng(run)

        def draw(window: int, prompts: int, rng: np.random.Generator = rng) -> rl2ml.PilotHistogram:
            p = rng.choice(pass_rates(policy, drift, window), prompts)
            return rl2ml.PilotHistogram.from_counts(rng.binomial(GROUP, p), GROUP)

        pilot = draw(0, PILOT)
        states = replay(settings, pilot, [draw(window, size) for window in range(WINDOWS)])
        if name == PILOTS_OWN:
            states = states[:1] * len(states)
        for window, state in enumerate(states):
            criterion, best = truth(metric, policy, drift, window)
            table = state.decision.objective.table(GROUP)
            value = criterion.combine(criterion.totals(table.success[None], table.failure[None]), KAPPA)
            lost.append(1 - float(value[0]) / best)
        moves += sum(state.decision.moved for state in states)
        path += float(np.abs(np.diff([state.gamma for state in states])).sum())
    return float(np.mean(lost)), moves / runs, path / runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test: fewer repeats and runs")
    parser.add_argument("--metric", default="pass@8", help="what is judged, as recommend takes it")
    given = parser.parse_args()
    quick, metric = given.quick, given.metric

    print("milliseconds, 256 groups a window, 200 draws, best of several")
    within = True
    for n in (8, 16, 64):
        bare, whole = time_one(metric, n, 5 if quick else 50)
        within &= n > 16 or whole <= 0.01
        print(f"  N = {n:<4} recommend {bare * 1e3:6.2f}   step {whole * 1e3:6.2f}")
    print(f"  target: a step at N = 16 within 10 ms: {'ok' if within else 'MISSED'}")

    runs, sizes = (1, (32,)) if quick else (8, (16, 64, 256))
    print(f"\nlost, moves and path of a run of {WINDOWS} windows judged by {metric}, mean of {runs}")
    for policy in POLICIES:
        for drift in (0.1,) if quick else (0.0, 0.03, 0.1, 0.3):
            for size in sizes:
                print(f"\n{policy}, logits rise by {drift:g} a window of {size} groups")
                for name in RULES:
                    lost, moves, path = follow(name, metric, policy, drift, size, runs)
                    print(f"  {name:<20} {lost:7.2%} {moves:6.1f} {path:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
