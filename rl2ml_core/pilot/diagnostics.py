"""Health checks: each a code, a level and one sentence; and what a pilot says against a prior. E26.

Shapes: C cells, R distinct numbers of rollouts, B classes of prompts.
"""

import math
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rl2ml_core.checks import Array
from rl2ml_core.objective.population import BetaPrior
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.prior import FittedPrior, log_law, log_likelihood

__all__ = [
    "LEAST_PROMPTS",
    "Diagnostic",
    "contradicts",
    "filtered_groups",
    "misfit",
    "pilot_diagnostics",
    "set_by_prior",
]

#: 64 prompts × 8 rollouts already reach the floor that model error sets (docs/decisions.md).
_ENOUGH_PROMPTS = 64


#: With less weight than this, resampling prompts means nothing: no intervals are given.
LEAST_PROMPTS = 2.0

#: χ² with two degrees of freedom exceeds it once in a thousand pilots.
CONTRADICTION: Final = 2 * math.log(1000)
#: Exceeded by 0.03 % of pilots that do come from a Beta distribution, by 1 % at the worst of 245 kinds (E26).
MISFIT: Final = 4.0
#: A million prompts tell differences that do not matter. Where fewer than this share of them would have to change their
#: counts nothing is said: fewer than 2 · share² nats a prompt (Pinsker's inequality), or a χ² below 4 · share².
_IMMATERIAL = 0.05
#: Groups that would be expected where none is: by chance once in exp(6) = 400 pilots.
_SURELY_SOME = 6.0
#: Rates and numbers of rollouts go together this far by chance once in 100 pilots; below a correlation of 0.1 it hardly
#: biases.
_SURELY_RELATED, _LEAST_CORRELATION = 2.6, 0.1

# Ten classes tell two or three kinds of prompts from one; with twenty, 64 prompts are too few for each.
_CLASSES = 10
_LEAST_EXPECTED = 2.0  # prompts of a class: rarer ones would rule the variance
_CERTAIN = 1e-6  # of a variance: two classes of even odds have 1.5; below, a prompt's class follows from its n
_LAW_VALUES = 1 << 15  # of all laws together, shortest first: milliseconds. Prompts with more rollouts are left out.


@dataclass(frozen=True)
class Diagnostic:
    """A finding: `code` is stable, `level` is info, warning or error, `detail` is for people."""

    code: str
    level: str
    detail: str

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def pilot_diagnostics(pilot: PilotHistogram, prior: BetaPrior | None, fitted: FittedPrior) -> list[Diagnostic]:
    """What a pilot itself shows, whatever the metric.

    Args:
        pilot: the histogram.
        prior: the prior that was stated; None where none was, or where it is the fitted one.
        fitted: `fit_prior(pilot)`.
    """
    found = []
    prompts = pilot.total_prompts
    if prompts < _ENOUGH_PROMPTS:
        found.append(
            Diagnostic("small_pilot", "warning", f"{prompts:g} prompts; {_ENOUGH_PROMPTS} or more are recommended.")
        )
    all_fail = 1 - pilot.prompts_with_success / prompts
    all_pass = 1 - pilot.prompts_with_failure / prompts
    if all_fail > 0.5:
        detail = f"{all_fail:.0%} of the prompts have no success; more rollouts per prompt would place them."
        found.append(Diagnostic("mostly_all_fail", "warning", detail))
    if all_pass > 0.5:
        detail = f"{all_pass:.0%} of the prompts have no failure: little is left to learn from them."
        found.append(Diagnostic("mostly_all_pass", "warning", detail))
    found += _unequal_rollouts(pilot, fitted.prior)
    found += filtered_groups(pilot, fitted.prior)
    if prior is not None:
        ratio = contradicts(pilot, prior, fitted)
        if ratio > max(CONTRADICTION, 4 * _IMMATERIAL**2 * prompts):
            detail = (
                f"The counts contradict {_named(prior)}: {_named(fitted.prior)} fits them better (likelihood-ratio "
                f'statistic {ratio:,.0f}, {CONTRADICTION:.0f} by chance once in 1000); use prior "empirical_bayes".'
            )
            found.append(Diagnostic("prior_contradicted", "warning", detail))
    excess, deviation = _pearson(pilot, fitted.prior)
    if excess > max(MISFIT * deviation, 4 * _IMMATERIAL**2 * prompts):
        detail = (
            f"No Beta distribution fits these counts: the best, {_named(fitted.prior)}, is off by "
            f"{excess / deviation:.3g} standard deviations, and intervals may be too narrow."
        )
        found.append(Diagnostic("prior_misfit", "warning", detail))
    return found


def contradicts(pilot: PilotHistogram, prior: BetaPrior, fitted: FittedPrior) -> float:
    """How much better the fitted prior explains a pilot than a stated one: 2 (log L(fitted) − log L(prior)), ≥ 0. E26.

    If the stated prior holds, χ² with two degrees of freedom at most (the fit gives way to its hyperprior).
    """
    return max(2 * (fitted.log_likelihood - log_likelihood(pilot, prior)), 0.0)


def misfit(pilot: PilotHistogram, prior: BetaPrior) -> float:
    """How far a pilot's histogram is from a prior's beta-binomial laws: (X² − E X²)/√Var X². E26.

    X² is Pearson's statistic of up to ten classes of prompts, by where k stands in the law of its n, so that prompts of
    all n count together; its mean and variance are exact for any number of prompts. 0 where there is nothing to tell:
    one rollout per prompt, or a single class.
    """
    excess, deviation = _pearson(pilot, prior)
    return excess / deviation if deviation else 0.0


def _pearson(pilot: PilotHistogram, prior: BetaPrior) -> tuple[float, float]:
    """X² − E X² and √Var X² of `misfit`; zeros where there is nothing to tell."""
    rollouts, which = np.unique(pilot.num_rollouts, return_inverse=True)
    sizes = rollouts + 1
    ends = np.cumsum(sizes)
    kept = int(np.searchsorted(ends, _LAW_VALUES, side="right"))
    first = int(rollouts[0] == 1)
    if first >= kept:
        return 0.0, 0.0
    # The laws of all n, one after the other.
    starts, total = (ends - sizes)[:kept], int(ends[kept - 1])
    row = np.repeat(np.arange(kept), sizes[:kept])
    k = np.arange(total) - starts[row]
    law = np.exp(log_law(k, rollouts[row] - k, prior))
    # A count's class goes by the middle of its step in the distribution function.
    below = np.cumsum(law) - law / 2
    middle = below - (below[starts] - law[starts] / 2)[row]
    label = np.clip((middle * _CLASSES).astype(np.int64), 0, _CLASSES - 1)
    shares = np.bincount(row * _CLASSES + label, law, minlength=kept * _CLASSES).reshape(kept, _CLASSES)
    cells = (which >= first) & (which < kept)
    which, weights = which[cells], pilot.num_prompts[cells]
    prompts = np.bincount(which, weights, minlength=kept).astype(np.float64, copy=False)
    observed = np.bincount(label[starts[which] + pilot.num_successes[cells]], weights, minlength=_CLASSES)
    merged = _merge_classes((prompts @ shares).tolist())
    if merged.shape[1] == 1:
        return 0.0, 0.0
    mean, variance = _pearson_moments(prompts, shares @ merged)
    if variance < _CERTAIN:
        return 0.0, 0.0
    expected = prompts @ shares @ merged
    return float(((observed @ merged - expected) ** 2 / expected).sum()) - mean, math.sqrt(variance)


def _merge_classes(expected: list[float]) -> Array:
    """Neighboring classes put together until each expects a prompt: an indicator matrix [classes, B]."""
    label, labels, mass, left = 0, [], 0.0, sum(expected)
    for share in expected:
        if min(mass, left) >= _LEAST_EXPECTED:
            label, mass = label + 1, 0.0
        labels.append(label)
        mass, left = mass + share, left - share
    return np.eye(label + 1)[labels]


def _pearson_moments(prompts: Array, shares: Array) -> tuple[float, float]:
    """Mean and variance of X² = Σ_b (O_b − E_b)²/E_b for independent prompts, exactly. E26.

    Args:
        prompts: prompts with each number of rollouts, [R].
        shares: probability of each class for them, [R, B]; E = prompts @ shares > 0.
    """
    expected = prompts @ shares
    scaled = shares / np.sqrt(expected)  # of O_b/√E_b, so that X² is a squared length
    covariance = np.diag(expected) / expected - (scaled * prompts[:, None]).T @ scaled
    mean = float(np.trace(covariance))
    # Each prompt's own squared length, then the products of two prompts.
    own = (1 - 2 * shares) / expected
    of_one = ((shares * own**2).sum(axis=1) - (shares * own).sum(axis=1) ** 2) @ prompts
    squared = (scaled**2).sum(axis=1) ** 2 + (scaled**2 * (1 - 2 * shares) / expected).sum(axis=1)
    of_two = 2 * ((covariance**2).sum() - squared @ prompts)
    return mean, float(of_one + of_two)


def _unequal_rollouts(pilot: PilotHistogram, prior: BetaPrior) -> list[Diagnostic]:
    n, weights = pilot.num_rollouts, pilot.num_prompts
    if n[0] == n[-1]:
        return []
    detail = f"Prompts have {n[0]} to {n[-1]} rollouts"
    size, rate = np.log(n), pilot.num_successes / n - pilot.mean_pass_rate
    size = size - weights @ size / pilot.total_prompts
    common = float(weights @ (size * rate))
    # What it would vary by were rates drawn from the prior whatever n: Var k/n = m(1−m)(1 + (n−1)/(c+1))/n. The
    # pilot's own spread would say too little where successes are rare.
    concentration = prior.alpha + prior.beta
    of_rate = prior.alpha * prior.beta / concentration**2 * (1 + (n - 1) / (concentration + 1)) / n
    chance = math.sqrt(float(weights @ (size**2 * of_rate)))
    correlation = common / math.sqrt(max(float(weights @ size**2) * float(weights @ rate**2), 1e-300))
    if abs(common) > _SURELY_RELATED * chance and abs(correlation) > _LEAST_CORRELATION:
        detail += (
            f", and those with more have {'higher' if correlation > 0 else 'lower'} success rates (correlation "
            f"{correlation:.2f}): where outcomes decide when sampling stops, rates are biased"
        )
    return [Diagnostic("unequal_rollouts", "info", f"{detail}.")]


def filtered_groups(pilot: PilotHistogram, prior: BetaPrior) -> list[Diagnostic]:
    """Whether no prompt has only failures, or none only successes, where such would be expected under a prior."""
    missing = []
    failures = pilot.num_rollouts - pilot.num_successes
    mirrored = BetaPrior(prior.beta, prior.alpha)
    for name, counts, law in (("failures", pilot.num_successes, prior), ("successes", failures, mirrored)):
        if counts.all():
            missing.append((name, _expected_at_zero(pilot, counts, law)))
    total = sum(expected for _, expected in missing)
    if total < _SURELY_SOME:
        return []
    detail = (
        f"No prompt has only {' or only '.join(name for name, _ in missing)}, where some {total:.2g} of "
        f"{pilot.total_prompts:g} would be expected: if such groups were filtered out, success rates are biased."
    )
    return [Diagnostic("filtered_groups", "warning", detail)]


def _expected_at_zero(pilot: PilotHistogram, counts: npt.NDArray[np.int64], prior: BetaPrior) -> float:
    """Prompts expected to have count 0 where none has, by the fitted law; fewer where counts 1 and 2 are rarer, too.

    Where prompts come in a few kinds no Beta law fits, and the best has mass where none is: so the ratios of observed
    to expected prompts at 2 and at 1 are continued to 0, geometrically. E26.
    """

    def expected(count: int) -> float:
        enough = pilot.num_rollouts >= count
        n = pilot.num_rollouts[enough]
        if not n.size:
            return 0.0
        return float(pilot.num_prompts[enough] @ np.exp(log_law(np.full_like(n, count), n - count, prior)))

    def ratio(count: int) -> float:
        return float(pilot.num_prompts[counts == count].sum()) / max(expected(count), 1e-300)

    at_one = ratio(1)
    if at_one == 0:
        return 0.0
    return expected(0) * min(1.0, at_one, at_one**2 / max(ratio(2), 1e-300))


def _named(prior: BetaPrior) -> str:
    return f"Beta({prior.alpha:.3g}, {prior.beta:.3g})"


def set_by_prior(pilot: PilotHistogram) -> str | None:
    """Why the prior, not the data, shapes this pilot's distribution of pass rates; None where it does not."""
    if pilot.num_cells == 1:
        return "every prompt has the same counts"
    if int(pilot.num_rollouts.max()) == 1:
        return "one rollout per prompt shows no spread of pass rates"
    if pilot.total_prompts < LEAST_PROMPTS:
        return f"it stands for {pilot.total_prompts:g} prompts"
    if pilot.prompts_with_both == 0:
        return "no prompt has both successes and failures"
    if pilot.prompts_with_success <= 1:
        return "at most one prompt has a success"
    if pilot.prompts_with_failure <= 1:
        return "at most one prompt has a failure"
    return None
