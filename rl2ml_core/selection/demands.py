"""Which γ keep the weight of hard prompts and bound that of lone successes, for each number of rollouts per prompt.

The two bounds of `truncation_window` with M = N: both the missing tail and α_1 grow with γ, so each N has a largest γ.
Shapes: I numbers of rollouts. Source: docs/equations.md, E41.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import betaincc, gammaln

from rl2ml_core.checks import Array, finite_number
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.truncation import needed_order

__all__ = ["Demands"]

_ROUNDING = 1e-12  # as in `objective.truncation`
_HALVINGS = 60


@dataclass(frozen=True)
class Demands:
    """What an objective must keep, whatever it gains.

    Args:
        least_pass_rate: p_min ∈ [1e-12, 1], the hardest prompts that must count; None where none are demanded.
        tail: δ ∈ [1e-12, 1], the share of their weight p^−γ that may be missing.
        largest_scale: A_max > 0, the bound on α_1, the update scale of a lone success; None for none.

    Raises:
        InvalidInput: a value outside its range.
    """

    least_pass_rate: float | None = None
    tail: float = 0.1
    largest_scale: float | None = None

    def __post_init__(self) -> None:
        bounds = {"least_pass_rate": (1e-12, 1.0), "tail": (1e-12, 1.0)}
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, finite_number(value, f"demands.{name}", minimum=least, maximum=most))
        if self.largest_scale is not None:
            scale = finite_number(self.largest_scale, "demands.largest_scale", above=0)
            object.__setattr__(self, "largest_scale", scale)
        if self.least_pass_rate is None and self.largest_scale is None:
            raise InvalidInput("demands need a least_pass_rate or a largest_scale; got neither", field="demands")

    def tails(self, gamma: Array | float, orders: npt.NDArray[np.int64]) -> Array:
        """The missing tail at the least pass rate for orders [I] (0 where none is demanded): I_{1−p}(M, γ)."""
        g = np.broadcast_to(np.asarray(gamma, float), orders.shape)
        if self.least_pass_rate is None:
            return np.zeros(orders.shape)
        return np.where(g > 0, betaincc(np.where(g > 0, g, 1), orders, self.least_pass_rate), 0.0)

    def scales(self, gamma: Array | float, num_rollouts: npt.NDArray[np.int64], orders: npt.NDArray[np.int64]) -> Array:
        """α_1 = Γ(M+γ)/(Γ(M) Γ(1+γ))/N for each N and its order, [I]."""
        logs = gammaln(orders + gamma) - gammaln(orders) - gammaln(1.0 + np.asarray(gamma))
        return np.asarray(np.exp(logs) / num_rollouts)

    def largest_gamma(
        self, num_rollouts: npt.NDArray[np.int64], orders: npt.NDArray[np.int64], low: float, high: float
    ) -> Array:
        """The largest γ within [low, high] that meets the demands for each N, [I]; NaN where none does."""

        def met(gamma: Array | float) -> npt.NDArray[np.bool_]:
            few = self.tails(gamma, orders) <= self.tail * (1 + _ROUNDING)
            bound = np.inf if self.largest_scale is None else self.largest_scale * (1 + _ROUNDING)
            return np.asarray(few & (self.scales(gamma, num_rollouts, orders) <= bound))

        good, bad = np.full(orders.shape, low), np.full(orders.shape, high)
        for _ in range(_HALVINGS):
            middle = (good + bad) / 2
            within = met(middle)
            good, bad = np.where(within, middle, good), np.where(within, bad, middle)
        good = np.where(met(high), high, good)
        return np.where(met(low), good, np.nan)

    def what_to_relax(
        self, num_rollouts: npt.NDArray[np.int64], orders: npt.NDArray[np.int64], low: float, high: float
    ) -> str:
        """Which demand keeps every N from meeting them all at γ = low, and by how much."""
        tails, scales = self.tails(low, orders), self.scales(low, num_rollouts, orders)
        kept, light = tails <= self.tail, scales <= (self.largest_scale or np.inf)
        ways = []
        if self.least_pass_rate is not None and not kept.all() and light.any():
            ways.append(f"tail to {_up(float(tails[light].min())):g} (asked: {self.tail:g})")
        if self.largest_scale is not None and not light.all() and kept.any():
            ways.append(f"largest_scale to {_up(float(scales[kept].min())):g} (asked: {self.largest_scale:g})")
        if self.least_pass_rate is not None and not kept.any() and light.any():
            needed = needed_order(low, self.least_pass_rate, self.tail)
            enough = np.array([needed])
            if self.scales(low, enough, enough)[0] <= (self.largest_scale or np.inf):
                ways.append(f"the rollouts per prompt to {needed:,} (most: {int(num_rollouts.max()):,})")
        below = self.largest_gamma(num_rollouts, orders, 0.0, high)
        if low > 0 and not np.isnan(below).all():
            ways.append(f"gamma_min to {np.floor(float(np.nanmax(below)) * 100) / 100:g} (asked: {low:g})")
        if not ways:  # neither alone can be met
            least = int(np.argmin(tails))
            tail, scale = _up(float(tails[least])), _up(float(scales[least]))
            return f"relax both: tail to {tail:g} (asked: {self.tail:g}) and largest_scale to {scale:g}"
        return "relax one of: " + "; ".join(ways)


def _up(value: float) -> float:
    """Two digits, rounded up, so that what is advised suffices."""
    if value <= 0:
        return value
    unit = 10.0 ** (np.floor(np.log10(value)) - 1)
    return float(np.ceil(value / unit * (1 - _ROUNDING)) * unit)
