"""What dropped groups and means over tokens do to the effective weight: the tables of docs/filters.md.

`python benchmarks/filters.py` prints them as they stand there, for groups of 8. Nothing is drawn: weights of dropped
groups are those of the table that a filter leaves (E6, E20), and means over tokens are summed over all success counts.

The baseline "bayes" is that of a pilot with uniform pass rates. The toy of the last table has responses whose length is
decided by their reward alone: all that a mean over tokens could be misled by.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from math import comb
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

import rl2ml_core as rl2ml

NUM_ROLLOUTS = 8
PASS_RATES = (0.01, 0.1, 0.5, 0.9)
GAMMAS = (0.0, 0.5, 1.0)
UNIFORM = rl2ml.Population([0.0], [0.0], [1.0], rl2ml.BetaPrior(1, 1))
#: Which groups of equal rewards are dropped: those without a success, those without a failure.
FILTERS = {"all-fail": (True, False), "all-success": (False, True), "both": (True, True)}
#: What is shown of each baseline: "score" loses nothing to all-success groups, "none" nothing to all-fail groups.
SHOWN = (
    ("bayes", "all-fail"),
    ("bayes", "all-success"),
    ("bayes", "both"),
    ("score", "all-fail"),
    ("none", "all-success"),
)

# The toy of means over tokens: γ = .5 on prompts of this pass rate, tokens of a success and of a failure.
TOY_GAMMA, TOY_RATE, TOY_TOKENS = 0.5, 0.05, (5, 20)
TOY_GROUPS = (1, 8, 64)
TOY_BASELINES = ("leave_one_out", "bayes", "score")


def table_of(gamma: float, baseline: str, *, filter_groups: bool = False) -> rl2ml.AdvantageTable:
    return rl2ml.rl2ml_table(gamma, NUM_ROLLOUTS, baseline, UNIFORM, filter_groups=filter_groups)


def left_by(table: rl2ml.AdvantageTable, dropped: str) -> rl2ml.AdvantageTable:
    """The table that a filter leaves: dropped groups have no advantage. E20."""
    success, failure = table.success.copy(), table.failure.copy()
    all_fail, all_success = FILTERS[dropped]
    if all_fail:
        failure[0] = 0
    if all_success:
        success[-1] = 0
    return rl2ml.AdvantageTable(success, failure)


def kept_share(pass_rate: float, dropped: str) -> float:
    """The chance that a group is kept."""
    all_fail, all_success = FILTERS[dropped]
    return 1 - all_fail * (1 - pass_rate) ** NUM_ROLLOUTS - all_success * pass_rate**NUM_ROLLOUTS


def law_of(num_rollouts: int) -> list[float]:
    """P(K = 0..n) of the toy's prompts."""
    return [comb(num_rollouts, k) * TOY_RATE**k * (1 - TOY_RATE) ** (num_rollouts - k) for k in range(num_rollouts + 1)]


def toy_weight(baseline: str, num_groups: int | None) -> float:
    """The toy's weight where a step's loss divides by the tokens of all its groups (None: each by its response's).

    The mean score is ∇p/p of a success and −∇p/(1−p) of a failure. The divisor's mean is multiplied back: it is a
    constant, and only what its spread does is left.
    """
    n, p, table = NUM_ROLLOUTS, TOY_RATE, table_of(TOY_GAMMA, baseline)
    per_success, per_failure = TOY_TOKENS
    mean_length = per_success * p + per_failure * (1 - p)
    others = [] if num_groups is None else law_of((num_groups - 1) * n)
    weight = 0.0
    for k, chance in enumerate(law_of(n)):
        of_success, of_failure = k / n * table.success[k] / p, (n - k) / n * table.failure[k] / (1 - p)
        if num_groups is None:
            weight += chance * mean_length * (of_success / per_success - of_failure / per_failure)
            continue
        rows = num_groups * n
        tokens = [per_success * (k + m) + per_failure * (rows - k - m) for m in range(len(others))]
        inverse = sum(q / t for q, t in zip(others, tokens, strict=True))
        weight += chance * (of_success - of_failure) * inverse * mean_length * rows
    return weight


def show(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as the docs have it."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")


def numbers(values: Iterable[float]) -> list[str]:
    return [f"{value:.2f}" for value in values]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    rates = [f"p = {rate:g}" for rate in PASS_RATES]

    print(f"effective weight w(p), N = {NUM_ROLLOUTS}")
    rows = []
    for gamma in GAMMAS:
        own = table_of(gamma, "leave_one_out").weight(PASS_RATES)
        rows.append([f"{gamma:g}", "any", "nothing", *numbers(own)])
        for baseline, dropped in SHOWN:
            left = left_by(table_of(gamma, baseline), dropped).weight(PASS_RATES)
            rows.append([f"{gamma:g}", f"`{baseline}`", dropped, *numbers(left)])
    show(["γ", "baseline", "dropped", *rates], rows)

    print("\nrefilled batches: what one kept group feels, with `filter_groups=True` and both kinds dropped")
    rows = [["chance to be kept", *numbers(kept_share(p, "both") for p in PASS_RATES)]]
    for gamma in GAMMAS:
        weights = left_by(table_of(gamma, "bayes", filter_groups=True), "both").weight(PASS_RATES)
        shares = [kept_share(p, "both") for p in PASS_RATES]
        rows.append([f"weight per kept group, γ = {gamma:g}", *numbers(weights / shares)])
    show(["", *rates], rows)

    success, failure = TOY_TOKENS
    print(
        f"\nmeans over tokens, γ = {TOY_GAMMA:g}, p = {TOY_RATE:g}, {success} tokens a success and {failure} a failure"
    )
    rows = [["a constant", *numbers(table_of(TOY_GAMMA, b).weight([TOY_RATE]).item() for b in TOY_BASELINES)]]
    for groups in reversed(TOY_GROUPS):
        name = f"the tokens of a step of {groups} group{'s' if groups > 1 else ''}"
        rows.append([name, *numbers(toy_weight(b, groups) for b in TOY_BASELINES)])
    rows.append(["each response's own tokens", *numbers(toy_weight(b, None) for b in TOY_BASELINES)])
    show(["the loss divides by", *(f"`{b}`" for b in TOY_BASELINES)], rows)


if __name__ == "__main__":
    main()
