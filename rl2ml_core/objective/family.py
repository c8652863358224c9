"""The RL2ML family of objectives: J_{γ,N}, its weight on a pass rate, and the coefficients of its estimators.

γ is the family parameter, **not** a discount factor: γ = 0 is plain RL (pass@1), γ = 1 is maximum likelihood truncated
at the rollout budget (MaxRL), γ > 1 goes beyond. Shapes: P pass rates, G values of γ, N rollouts per prompt, M ≤ N the
truncation order. Every function takes scalars or arrays that broadcast and computes in float64.

Source: Zheng, "RL2ML", arXiv:2605.30154, §3 and App. C; closed forms in `docs/equations.md`.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, gammaln
from scipy.special import gamma as gamma_function

from rl2ml_core.checks import Array, finite_array, integer

__all__ = [
    "MAX_GAMMA",
    "MAX_ROLLOUTS",
    "log_gamma_ratios",
    "objective_value",
    "objective_weight",
    "success_weights",
    "update_scales",
]

#: Beyond γ = 20 the largest success weight at N = 65,536 nears 1e78 and no published use exists.
MAX_GAMMA = 20.0
#: The range over which the closed forms are tested against 50-digit arithmetic.
MAX_ROLLOUTS = 65_536

# Above it Stirling's series with three terms is exact to 1e-17 (its fourth is 1/(1680 x⁷)).
_STIRLING_ABOVE = 64
_VALUES_AT_ONCE = 1 << 20
_KEPT_ROLLOUTS = 4096


def objective_weight(
    pass_rate: npt.ArrayLike, gamma: npt.ArrayLike, num_rollouts: int, order: int | None = None
) -> Array:
    """Population weight w_{γ,N}(p) (or w_{γ,M}): the objective's gradient is w(p) ∇p. Prop. 3.1.

    w_{γ,N}(p) = Σ_{m<N} c_m (1−p)^m = p^−γ I_p(γ, N), with c_m = (γ)_m / m! and I the regularised incomplete beta
    function. Relative error ≤ 1e-12 for N ≤ 65,536, γ ∈ [0, 20] and p ∈ [0, 1].

    Args:
        pass_rate: success probabilities p ∈ [0, 1], any shape.
        gamma: γ ∈ [0, 20], any shape that broadcasts with `pass_rate`.
        num_rollouts: N, rollouts per prompt in training.
        order: M ≤ N, the truncation order; N when None.

    Returns:
        The weights, of the broadcast shape; between 1 and β_0.

    Raises:
        InvalidInput: a value outside these ranges.
    """
    terms = float(_order(num_rollouts, order))
    p, g = np.broadcast_arrays(finite_array(pass_rate, "pass_rate", minimum=0, maximum=1), _gamma(gamma))
    weight = np.ones(p.shape)
    # Where p is small p^−γ · I_p becomes ∞·0; there the positive series of the same function converges in a few dozen
    # terms (docs/equations.md, E2). γ = 0 is exactly 1 and stays so.
    small = (p * (terms + g) <= g + 1) & (p < 0.5) & (g > 0)
    large = ~small & (g > 0)
    weight[large] = p[large] ** -g[large] * betainc(g[large], terms, p[large])
    weight[small] = _weight_series(p[small], g[small], terms)
    return weight


def success_weights(gamma: npt.ArrayLike | float, num_rollouts: int, order: int | None = None) -> Array:
    """Success weights β_{K−1}, K = 1..N, of the direct estimator ĝ = (1/N) Σ β_{K−1} r_i S_i. §3.2.1 and App. C.

    Untruncated, β_{K−1} = Γ(N+γ)Γ(K) / (Γ(N)Γ(K+γ)), relative error ≤ 1e-12 for N ≤ 65,536 and γ ∈ [0, 20].

    Args:
        gamma: γ ∈ [0, 20], any shape [...].
        num_rollouts: N.
        order: M ≤ N; N when None.

    Returns:
        Array [..., N], the last axis K = 1..N; decreasing, ending at 1.

    Raises:
        InvalidInput: a value outside these ranges.
    """
    order = _order(num_rollouts, order)
    if isinstance(gamma, float) and num_rollouts <= _KEPT_ROLLOUTS:
        return _kept_success_weights(gamma, num_rollouts, order).copy()
    return _success_weights(_gamma(gamma), num_rollouts, order)


def _success_weights(g: Array, num_rollouts: int, order: int) -> Array:
    logs = log_gamma_ratios(g, num_rollouts)
    weights = np.exp(logs[..., -1:] - logs)
    if order < num_rollouts:
        _truncate(weights, g, order)
    return weights


@lru_cache(maxsize=64)
def _kept_success_weights(gamma: float, num_rollouts: int, order: int) -> Array:
    """The last ones asked for one by one: a table, its update scales and its file share them."""
    return _success_weights(_gamma(gamma), num_rollouts, order)


def update_scales(gamma: npt.ArrayLike, num_rollouts: int, order: int | None = None) -> Array:
    """Update scales α_K = (K/N) β_{K−1}, K = 1..N: the length of a group's update by its success count. §3.2.1.

    Increasing and below 1 for γ < 1, constant 1 at γ = 1, decreasing and above 1 for γ > 1 (untruncated).
    Arguments, shape [..., N] and errors as `success_weights`.
    """
    return success_weights(gamma, num_rollouts, order) * (np.arange(1, num_rollouts + 1) / num_rollouts)


def objective_value(
    pass_rate: npt.ArrayLike, gamma: npt.ArrayLike, num_rollouts: int, order: int | None = None
) -> Array:
    """The objective J_{γ,N}(p) = Σ_{k=1}^N (c_{k−1}/k) pass@k(p): zero at p = 0, its derivative is w_{γ,N}. §3.

    Arguments, broadcasting and errors as `objective_weight`. Costs O(N) per value: a sum of non-negative terms.
    """
    terms = _order(num_rollouts, order)
    p, g = np.broadcast_arrays(finite_array(pass_rate, "pass_rate", minimum=0, maximum=1), _gamma(gamma))
    value = np.empty(p.size)
    k = np.arange(1, terms + 1)
    rows = max(1, _VALUES_AT_ONCE // terms)
    for start in range(0, p.size, rows):
        block = slice(start, start + rows)
        with np.errstate(divide="ignore"):  # log1p(−1) = −∞ is meant: pass@k(1) = 1
            pass_at_k = -np.expm1(k * np.log1p(-p.ravel()[block, None]))
        coefficients = np.ones((pass_at_k.shape[0], terms))
        gammas = g.ravel()[block]
        # c_m = (γ/m) Γ(m+γ) / (Γ(1+γ)Γ(m))
        logs = log_gamma_ratios(gammas, terms)[:, : terms - 1]
        coefficients[:, 1:] = gammas[:, None] / k[:-1] * np.exp(logs - logs[:, :1])
        value[block] = np.einsum("pk,pk->p", coefficients / k, pass_at_k)
    return value.reshape(p.shape)


def log_gamma_ratios(gamma: Array, num_rollouts: int) -> Array:
    """log Γ(K+γ)/Γ(K) for K = 1..N, [..., N], with absolute error near 1e-14 (differences of gammaln lose 1e-10).

    Up to 64 by the recurrence from K = 1, above by the difference of two Stirling series, in which the large parts
    cancel on paper instead of in floating point.
    """
    g = gamma[..., None]
    head = min(num_rollouts, _STIRLING_ABOVE)
    logs = np.empty((*gamma.shape, num_rollouts))
    logs[..., 0] = gammaln(1 + gamma)
    logs[..., 1:head] = np.log1p(g / np.arange(1, head))
    np.cumsum(logs[..., :head], axis=-1, out=logs[..., :head])
    if num_rollouts > head:
        logs[..., head:] = _stirling_ratio(np.arange(head + 1.0, num_rollouts + 1), g)
    return logs


def _stirling_ratio(x: Array | float, g: Array) -> Array:
    """log Γ(x+γ)/Γ(x) for x > 64."""
    ratio: Array = (x + g - 0.5) * np.log1p(g / x) + g * (np.log(x) - 1) + _stirling_tail(x + g) - _stirling_tail(x)
    return ratio


def _stirling_tail(x: Array | float) -> Array:
    z = x**-2.0
    tail: Array = (1 / 12 - z * (1 / 360 - z / 1260)) / x
    return tail


def _weight_series(p: Array, g: Array, terms: float) -> Array:
    """w = β_0 (1−p)^N Σ_j ((γ+N)_j/(γ+1)_j) p^j, for p(N+γ) ≤ γ+1 and p < ½, where its ratios fall from 1 to p."""
    term = np.ones(p.shape)
    total = np.ones(p.shape)
    j = 0
    while term.size and term.max() > 1e-17:  # every total is at least 1
        term *= (g + terms + j) * p / (g + 1 + j)
        total += term
        j += 1
    # β_0 = Γ(N+γ) / (Γ(N)Γ(1+γ)); shifted so that Stirling's series applies from N = 1.
    steps = np.arange(_STIRLING_ABOVE + 1)
    log_ratio = _stirling_ratio(terms + steps.size, g) - np.log1p(g[..., None] / (terms + steps)).sum(-1)
    largest = np.exp(log_ratio) / gamma_function(1 + g)
    weight: Array = largest * np.exp(terms * np.log1p(-p)) * total
    return weight


def _truncate(weights: Array, gamma: Array, order: int) -> None:
    """Overwrite β_{K−1}, K ≤ N−M, with the truncated Σ_{m<M} c_m C(N−K,m)/C(N−1,m); larger K have no term to lose.

    f_{K+1} = (K f_K + M(N−M)/(N−K) · T_M(K)) / (K+γ), T_M(K) = c_M C(N−K,M)/C(N−1,M): all terms positive, so the
    recurrence is stable upwards. docs/equations.md, E5.
    """
    num_rollouts = weights.shape[-1]
    logs = log_gamma_ratios(gamma, order)
    value = np.exp(logs[..., -1] - logs[..., 0])  # f_1 = Σ_{m<M} c_m = β_0 at N = M
    last_term = gamma / order * value  # T_M(1) = c_M
    for k in range(1, num_rollouts - order + 1):
        weights[..., k - 1] = value
        value = (k * value + order * (num_rollouts - order) / (num_rollouts - k) * last_term) / (k + gamma)
        last_term = last_term * (num_rollouts - k - order) / (num_rollouts - k)


def _gamma(gamma: npt.ArrayLike) -> Array:
    return finite_array(gamma, "gamma", minimum=0, maximum=MAX_GAMMA)


def _order(num_rollouts: int, order: int | None) -> int:
    num_rollouts = integer(num_rollouts, "num_rollouts", minimum=1, maximum=MAX_ROLLOUTS)
    return num_rollouts if order is None else integer(order, "order", minimum=1, maximum=num_rollouts)
