"""What a choice loses against the best: pure functions of gains, made fair by halves of the seeds.

The best γ (or arm, or rate) is chosen on one half of the seeds, and it and every other choice are scored on the other
half; both ways, averaged. Scored on the seeds that chose it, the best would look better than it is. Shapes: R rates,
A arms, G values of γ, S seeds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rl2ml_core.checks import Array

#: Standard errors by which the best gain must exceed zero for anything to be divided by it.
CLEAR = 3.0


@dataclass(frozen=True, eq=False)
class Half:
    """Mean gains of the arms, [A]: where the best is chosen, and where all are scored, with standard errors there."""

    choosing: Array
    scoring: Array
    error: Array


def halves(gains: Array) -> Iterator[Half]:
    """Both ways of splitting gains [R, A, S] into even and odd seeds; every arm's rate is chosen, too."""
    for first in (0, 1):
        choosing, scoring = gains[..., first::2], gains[..., 1 - first :: 2]
        rate = choosing.mean(axis=-1).argmax(axis=0)[None, :, None]
        chosen = np.take_along_axis(choosing, rate, axis=0)[0]
        scored = np.take_along_axis(scoring, rate, axis=0)[0]
        error = scored.std(axis=-1, ddof=1) / np.sqrt(scored.shape[-1])
        yield Half(chosen.mean(axis=-1), scored.mean(axis=-1), error)


def is_clear(split: Sequence[Half], arms: Sequence[int] | slice = slice(None)) -> bool:
    """Whether the best of the arms gains, on both halves."""
    for half in split:
        best = half.choosing[arms].argmax()
        if not half.scoring[arms][best] > CLEAR * half.error[arms][best]:
            return False
    return True


def gamma_regrets(split: Sequence[Half], arms: Sequence[int], gammas: Array, chosen: Array) -> Array:
    """Share of the best γ's gain that the chosen ones [...] lose; gains are interpolated linearly between `gammas`."""
    lost = [
        1 - np.interp(chosen, gammas, half.scoring[arms]) / half.scoring[arms][half.choosing[arms].argmax()]
        for half in split
    ]
    return np.asarray(np.mean(lost, axis=0))


def gain_at(split: Sequence[Half], arms: Sequence[int], gammas: Array, chosen: Array) -> float:
    """Mean gain of the chosen γ, over the chosen and the halves."""
    return float(np.mean([np.interp(chosen, gammas, half.scoring[arms]) for half in split]))


def best_gain(split: Sequence[Half], arms: Sequence[int] | slice = slice(None)) -> float:
    """Mean gain of the best of the arms."""
    return float(np.mean([half.scoring[arms][half.choosing[arms].argmax()] for half in split]))


@dataclass(frozen=True)
class Summary:
    """Of one number per case: mean with its interval, 90th percentile, worst, share above a tenth."""

    cases: int
    mean: float
    lower: float
    upper: float
    p90: float
    worst: float
    above_tenth: float


def summarize(values: Array, clusters: Array, draws: int = 2000, level: float = 0.9) -> Summary | None:
    """Of `values` [cases]; whole clusters [cases] are resampled. NaN are left out; None where nothing is left."""
    kept = np.isfinite(values)
    if not kept.any():
        return None
    values, clusters = values[kept], clusters[kept]
    names, which = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(which, values), np.bincount(which)
    times = np.random.default_rng(0).multinomial(names.size, np.full(names.size, 1 / names.size), size=draws)
    means = (times @ sums) / (times @ counts)
    lower, upper = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Summary(
        cases=values.size,
        mean=float(values.mean()),
        lower=float(lower),
        upper=float(upper),
        p90=float(np.quantile(values, 0.9)),
        worst=float(values.max()),
        above_tenth=float((values > 0.1).mean()),
    )
