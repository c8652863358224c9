"""Whether the policy moved over the steps that were read: a trend of success rates, prompts being clusters.

Shapes: U visits of prompts at steps, G prompts.
"""

import math
from dataclasses import dataclass
from typing import Final

from scipy.special import stdtr

from rl2ml_core.pilot.rollouts.engine import Engine

__all__ = ["Drift", "drift"]

#: Two-sided. Of dumps whose policy stands still 1 in 1000 is told to move; 3 in 1000 with one prompt at each of 40
#: steps, where few visits at the ends decide (20,000 simulated dumps of each of nine kinds, 2,000 of the two largest).
_LEVEL: Final = 1e-3
#: Below it the mixture of policies is as good as one: no recommendation turns on five points.
_MATERIAL: Final = 0.05
#: With fewer prompts the variance is a guess.
_LEAST_PROMPTS: Final = 10

#: Visits: x is the step, r the share of successes. One row per (step, prompt).
_VISITS = """\
SELECT CAST(step AS DOUBLE) AS x, prompt, CAST(num_successes AS DOUBLE) / num_rollouts AS r
FROM {visits} WHERE step IS NOT NULL"""


@dataclass(frozen=True)
class Drift:
    """A trend: the success rate as fitted at the first and at the last step, and its p-value."""

    first: float
    last: float
    p_value: float

    @property
    def material(self) -> bool:
        return self.p_value < _LEVEL and abs(self.last - self.first) >= _MATERIAL


def drift(engine: Engine) -> Drift | None:
    """The least-squares trend of success rates over steps; None where there are too few steps or prompts to tell.

    Its variance is the clustered one, Σ_g (Σ_{u in g} x_u e_u)² / (Σ x²)², times G/(G − 2); visits to one prompt go
    together, and prompts are as different as they are.
    """
    visits = _VISITS.format(visits=engine.partials.counted("step", "prompt"))
    ((count, low, high, x_mean, r_mean, spread),) = engine.rows(
        f"SELECT count(*), min(x), max(x), avg(x), avg(r), var_pop(x) * count(*) FROM ({visits})"
    )
    if not count or low == high or not spread:
        return None
    centered = f"x - CAST({x_mean!r} AS DOUBLE)"
    ((product,),) = engine.rows(f"SELECT sum(({centered}) * r) FROM ({visits})")
    slope = product / spread
    residual = f"r - CAST({r_mean!r} AS DOUBLE) - CAST({slope!r} AS DOUBLE) * ({centered})"
    clusters = f"SELECT sum(({centered}) * ({residual})) AS s FROM ({visits}) GROUP BY prompt"
    ((prompts, squares),) = engine.rows(f"SELECT count(*), sum(s * s) FROM ({clusters})")
    if prompts < _LEAST_PROMPTS:
        return None
    deviation = math.sqrt(squares * prompts / (prompts - 2)) / spread
    # Rates without any spread: every prompt always the same, or moved in step.
    statistic = abs(slope) / deviation if deviation > 1e-12 * abs(slope) else math.inf if slope else 0.0
    p_value = 2 * float(stdtr(prompts - 2, -statistic))
    return Drift(r_mean + slope * (low - x_mean), r_mean + slope * (high - x_mean), p_value)
