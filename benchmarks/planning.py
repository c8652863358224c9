"""How long plans take, next to exhaustive search and to pilots that are solved one by one; and that none is missed.

`python benchmarks/planning.py` prints it in under a minute; `--quick` is a smoke test. One BLAS thread. Ratios are of
interleaved pairs in this run.

- a plan: the best (N, γ) of N = 1 to 64 with its sensitivity, with and without 200 draws of ranges.
- exhaustive search: every N from 1 to 64 on 2,001 values of γ, the same criterion, each N by moments of its own.
- a pilot's plan: eight larger pilots, 1,000 draws of each.
- one by one: the same expected regret after as many prompts again, by 60 pilots that `recommend` answers.
"""

import argparse
import os
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

import numpy as np

import rl2ml_core as rl2ml
from benchmarks.measure import compare
from rl2ml_core.checks import Array
from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.objective.population import Population
from rl2ml_core.pilot.prior import prior_at
from rl2ml_core.selection.batches import BatchMoments, gain_per_length, slopes
from rl2ml_core.selection.criteria import RmsGain
from rl2ml_core.selection.lookahead import JUDGED_ON, KAPPAS
from rl2ml_core.selection.paths import COSINES
from rl2ml_core.selection.planning import NUM_PROMPTS

METRIC, BUDGET, LARGEST = rl2ml.PassAtK(8), 512, 64
GAMMAS = np.linspace(0, 2, 2001)
PILOTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "pilots"
EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "addition" / "pilot.csv"
PLAN_BUDGET_MS, PILOT_BUDGET_MS = 100, 200


def exhaustive(pilot: rl2ml.PilotHistogram, gammas: Array = GAMMAS) -> Array:
    """Mean shares of the best gain, [N, G]."""
    people = pilot.population("empirical_bayes")
    slope = float(people.weights @ slopes(people, METRIC) / people.weights.sum())
    terms = [
        BatchMoments.of_population(people, METRIC, n).largest.terms(*Estimator.named("bayes", n, people).tables(gammas))
        for n in range(1, LARGEST + 1)
    ]
    shares: Array = np.zeros((LARGEST, gammas.size))
    for kappa, (rho, weight) in product(KAPPAS, zip(COSINES, JUDGED_ON["either"], strict=True)):
        gains = np.array(
            [
                gain_per_length(of_n[:, 0], slope, kappa, rho, NUM_PROMPTS, BUDGET // n)
                for n, of_n in enumerate(terms, start=1)
            ]
        )
        shares += weight / len(KAPPAS) * gains / gains.max()
    return shares


def one_by_one(pilot: rl2ml.PilotHistogram, pilots: int) -> float:
    """Expected regret after as many prompts again, κ known: each pilot sampled, fitted and answered."""
    rng, fitted, known = np.random.default_rng(0), pilot.fitted_prior, rl2ml.ScoreModel(0.1, 0)
    k = pilot.num_successes.astype(float)
    lost = []
    for _ in range(pilots):
        weights = rng.standard_gamma(pilot.num_prompts)
        pull = rng.standard_normal(2) * np.sqrt(np.diag(fitted.penalty))
        moved = fitted.covariance @ ((weights - pilot.num_prompts) @ fitted.scores + pull)
        truth = Population(k, pilot.num_rollouts - k, weights, prior_at(fitted.coordinates + moved))
        cell = rng.choice(k.size, int(pilot.total_prompts), p=weights / weights.sum())
        rates = rng.beta(truth.shape_success[cell], truth.shape_failure[cell])
        n = int(pilot.num_rollouts[0])
        grown = pilot + rl2ml.PilotHistogram.from_counts(rng.binomial(n, rates), n)
        answer = rl2ml.recommend(grown, METRIC, 8, criterion="rms_gain", score_model=known, bootstrap=0)
        criterion = RmsGain(truth, METRIC, 8)
        tables = Estimator.named("bayes", 8, grown.population("empirical_bayes"))
        gamma = 1.0 if answer.gamma is None else answer.gamma
        values = criterion.combine(criterion.totals(*tables.tables(np.append(GAMMAS, gamma))), known.kappa)
        lost.append(1 - values[-1] / values.max())
    return float(np.mean(lost))


def row(name: str, ours: Callable[[], object], other: Callable[[], object], pairs: int, budget: float) -> None:
    ratio = compare(ours, other, pairs)
    first, second = 1e3 * ratio.first, 1e3 * ratio.second
    low, high = ratio.quartiles
    verdict = "ok  " if first <= budget else "over"
    print(f"  {verdict}{name:<46}{first:8.1f} ms  {second:9.1f} ms  {ratio.median:7.2f} [{low:.2f}, {high:.2f}]")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    quick = parser.parse_args().quick
    paths = [EXAMPLE] if quick or not PILOTS.is_dir() else [EXAMPLE, *sorted(PILOTS.glob("*.csv"))]
    pairs = 2 if quick else 7
    worst = 0.0
    print(
        f"at most {PLAN_BUDGET_MS} ms a plan, {PILOT_BUDGET_MS} ms a pilot's plan; beside it the other's time, and the "
        "median ratio with its quartiles\n"
    )
    for path in paths:
        pilot = rl2ml.read_pilot(path)
        print(f"{path.stem}: {pilot.total_prompts:g} prompts, {pilot.num_cells} cells")
        shares = exhaustive(pilot)
        plan = rl2ml.plan_budget(pilot, METRIC, BUDGET, bootstrap=0)
        if plan.best is None:
            print(f"  {plan.summary}")
            continue
        own = exhaustive(pilot, np.append(GAMMAS, plan.best.gamma))[plan.best.num_rollouts - 1, -1]
        worst = max(worst, float(shares.max() / own - 1))
        row(
            "a plan : exhaustive search",
            lambda pilot=pilot: rl2ml.plan_budget(pilot, METRIC, BUDGET, bootstrap=0),
            lambda pilot=pilot: exhaustive(pilot),
            pairs,
            PLAN_BUDGET_MS,
        )
        row(
            "a plan with 200 draws : exhaustive search",
            lambda pilot=pilot: rl2ml.plan_budget(pilot, METRIC, BUDGET),
            lambda pilot=pilot: exhaustive(pilot),
            pairs,
            PLAN_BUDGET_MS,
        )
        row(
            "a pilot's plan : 60 pilots one by one",
            lambda pilot=pilot: rl2ml.plan_pilot(pilot, METRIC, 8),
            lambda pilot=pilot: one_by_one(pilot, 4 if quick else 60),
            2 if quick else 3,
            PILOT_BUDGET_MS,
        )
    print(f"\nexhaustive search beats the plan by at most {max(worst, 0.0):.1e} of the criterion")
    return 0 if worst <= 1e-6 else 1


if __name__ == "__main__":
    sys.exit(main())
