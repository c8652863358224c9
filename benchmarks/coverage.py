"""Does the interval of the predicted gain over γ = 1 hold the true gain as often as it says?

`python benchmarks/coverage.py` prints the shares for pilots drawn from known populations and from the pass rates of
real pilots, with the share of answers that warn about their prior; `--quick` is a smoke test. A repeat draws prompts
from the population and rollouts for each, asks for a recommendation, and values the table it ships, and that of γ = 1,
on the population itself. κ is drawn log-uniformly from [0.01, 1] in every repeat and not told, as the default request
assumes.

Real pilots: rollouts are drawn with replacement from the measured ones, so that k/n are the true pass rates.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

import numpy as np

import rl2ml_core as rl2ml
from rl2ml_core.selection.criteria import RmsGain

PILOTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "pilots"
NUM_ROLLOUTS = 8
METRICS = ("pass@1", "pass@8")
LEVEL = 0.9
WARNINGS = ("prior_sensitive", "prior_contradicted", "prior_misfit", "prior_unidentified", "prior_dominated")
PRIORS = {"fitted": "empirical_bayes", "Beta(1,1)": rl2ml.BetaPrior(1, 1)}
#: Prompts and rollouts per prompt of the pilots that are drawn.
SIZES = ((64, 8), (256, 8), (1024, 8), (256, 16))
#: Populations that the prior family holds for, one that it does not, and real ones with their rollouts per prompt.
BETAS = {"Beta(1, 1)": (1, 1), "Beta(0.3, 1.5)": (0.3, 1.5), "Beta(0.5, 0.5)": (0.5, 0.5), "Beta(3, 2)": (3, 2)}
TWO_POINTS = ("half at .05, half at .9", [0.05, 0.9])
REAL = {
    "deepscaler uniform, n = 128": "deepscaler_qwen25math7b_n128_uniform",
    "deepscaler hard, n = 128": "deepscaler_qwen25math7b_n128_hard_extreme",
    "game of 24, n = 100": "tot_game24_gpt4_cot_n100",
    "AIME 2024, n = 50": "aime2024_llama3b_rg_step400_n50",
    "DSR-sub, n = 32": "dsr1209_qwen25math1.5b_first4epochs_n32",
}


class Case(NamedTuple):
    """A population that pilots are drawn from."""

    name: str
    population: rl2ml.Population
    holds: bool | None  # whether the population is in the prior family; None where nobody knows

    def draw(self, prompts: int, rollouts: int, rng: np.random.Generator) -> rl2ml.PilotHistogram:
        """A pilot of that many prompts and rollouts each."""
        if self.population.prior is None:
            weights = self.population.weights
            p = rng.choice(self.population.pass_rates, prompts, p=weights / weights.sum())
        else:
            p = rng.beta(self.population.prior.alpha, self.population.prior.beta, prompts)
        return rl2ml.PilotHistogram.from_counts(rng.binomial(rollouts, p), rollouts)


def cases() -> Iterator[Case]:
    for name, (a, b) in BETAS.items():
        yield Case(name, rl2ml.Population([0.0], [0.0], [1.0], rl2ml.BetaPrior(a, b)), True)
    name, rates = TWO_POINTS
    yield Case(name, rl2ml.Population.from_pass_rates(rates), False)
    if not PILOTS.is_dir():
        print("../shared/data/pilots is absent: no real pilots")
        return
    for name, file in REAL.items():
        pilot = rl2ml.read_pilot(PILOTS / f"{file}.csv")
        yield Case(name, pilot.population("plug_in"), None)


class Outcome(NamedTuple):
    """Of one repeat: was the true gain inside, below or above the interval, its width, and was there a warning?"""

    side: int  # 0 inside, −1 the truth is below, 1 above
    width: float
    warned: bool


def repeat(
    case: Case, metric: str, prior: object, prompts: int, rollouts: int, rng: np.random.Generator
) -> Outcome | None:
    """One pilot; None where nothing is recommended."""
    pilot = case.draw(prompts, rollouts, rng)
    kappa = float(np.exp(rng.uniform(np.log(0.01), 0)))
    seed = int(rng.integers(2**32))
    answer = rl2ml.recommend(pilot, metric, NUM_ROLLOUTS, criterion="rms_gain", prior=prior, seed=seed, level=LEVEL)
    interval = answer.gain_intervals["maxrl"]
    if interval is None or answer.objective is None:
        return None
    shipped = answer.objective.table(NUM_ROLLOUTS)
    at_one = rl2ml.rl2ml_table(1.0, NUM_ROLLOUTS, "bayes", answer.objective.population)
    criterion = RmsGain(case.population, rl2ml.parse_metric(metric), NUM_ROLLOUTS)
    ours, theirs = (
        float(criterion.combine(criterion.totals(table.success[None], table.failure[None]), kappa)[0])
        for table in (shipped, at_one)
    )
    gain = ours / theirs - 1
    side = -1 if gain < interval.lower else int(gain > interval.upper)
    warned = any(found.code in WARNINGS for found in answer.diagnostics)
    return Outcome(side, interval.upper - interval.lower, warned)


class Row(NamedTuple):
    """Shares over the repeats of one setting."""

    name: str
    in_family: bool  # whether the answer's prior family holds the population
    covered: float
    warned: float


def rows(repeats: int, sizes: tuple[tuple[int, int], ...]) -> Iterator[Row]:
    """Every setting in turn, printed on the way."""
    columns = ("covered", "below", "above", "width", "warned")
    print(f"{'population':<28}{'pilot':>8}  {'metric':<8}{'prior':<10}" + "".join(f"{name:>8}" for name in columns))
    for i, case in enumerate(cases()):
        for prompts, rollouts in sizes:
            for metric in METRICS:
                for label, prior in PRIORS.items():
                    rng = np.random.default_rng([i, prompts, rollouts])
                    found = [repeat(case, metric, prior, prompts, rollouts, rng) for _ in range(repeats)]
                    kept = [outcome for outcome in found if outcome is not None]
                    if not kept:
                        continue
                    sides = np.array([outcome.side for outcome in kept])
                    width = np.median([outcome.width for outcome in kept])
                    warned = float(np.mean([outcome.warned for outcome in kept]))
                    shares = [np.mean(sides == 0), np.mean(sides < 0), np.mean(sides > 0), width, warned]
                    name = f"{case.name:<28}{f'{prompts}×{rollouts}':>8}  {metric:<8}{label:<10}"
                    print(name + "".join(f"{share:>8.1%}" for share in shares), flush=True)
                    holds = bool(case.holds) and (label == "fitted" or case.name == "Beta(1, 1)")
                    yield Row(" ".join(name.split()), holds, float(shares[0]), warned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test")
    parser.add_argument("--repeats", type=int, default=400, help="pilots drawn per row")
    chosen = parser.parse_args()
    repeats, sizes = (4, SIZES[:1]) if chosen.quick else (chosen.repeats, SIZES)
    began = time.perf_counter()
    print(
        f"shares of {repeats} repeats: the true gain over γ = 1 within the {LEVEL:.0%} interval, below it, above it; "
        f"the interval's median width; a warning about the prior. N = {NUM_ROLLOUTS}\n"
    )
    found = list(rows(repeats, sizes))
    holds = [row for row in found if row.in_family]
    covered = np.array([row.covered for row in holds])
    print(
        f"\nwhere the prior family holds ({len(holds)} rows): covered {covered.mean():.1%} on average, "
        f"{covered.min():.1%} to {covered.max():.1%}; warned {np.mean([row.warned for row in holds]):.1%}"
    )
    low = [row for row in found if not row.in_family and row.covered < 0.85]
    silent = [row for row in low if row.warned < 0.5]
    loud = len(low) - len(silent)
    print(f"elsewhere {len(low)} rows cover less than 85 %; {loud} of them warn in half the repeats or more")
    for row in silent:
        print(f"  no warning: {row.name}, covered {row.covered:.1%}, warned {row.warned:.1%}")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
