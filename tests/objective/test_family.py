"""The family's closed forms against literal sums and 50-digit arithmetic. Shapes: P pass rates, G values of γ."""

from fractions import Fraction
from math import comb

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml

SIZES = [1, 2, 3, 8, 17, 64, 65, 66, 1024, 65_536]
GAMMAS = [0, 1e-300, 1e-12, 1e-8, 0.5, 1, 1.5, 2, 5, 19.7, 20]
PASS_RATES = [0, 5e-324, 1e-300, 1e-12, 1e-6, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.49, 0.5, 0.7, 0.9, 1 - 1e-6, 1]

gammas = st.one_of(st.floats(0, 20), st.floats(0, 2), st.sampled_from(GAMMAS))
pass_rates = st.one_of(st.floats(0, 1), st.floats(-14, 0).map(lambda x: 10**x), st.sampled_from(PASS_RATES))


@pytest.fixture(autouse=True)
def _fifty_digits():
    with mpmath.workdps(50):
        yield


def relative_error(value, exact) -> float:
    return float(abs(mpmath.mpf(float(value)) / exact - 1))


def rising_coefficient(gamma, m):
    """c_m = (γ)_m / m!."""
    return mpmath.rf(mpmath.mpf(gamma), m) / mpmath.factorial(m)


def literal_truncated_weight(gamma, num_rollouts, order, k):
    """Σ_{m ≤ min(M−1, N−K)} c_m C(N−K,m) / C(N−1,m), App. C; ratios of neighboring terms instead of factorials."""
    g, c, ratio, total = mpmath.mpf(gamma), mpmath.mpf(1), mpmath.mpf(1), mpmath.mpf(0)
    for m in range(min(order, num_rollouts - k + 1)):
        total += c * ratio
        if m < num_rollouts - k:
            c *= (g + m) / (m + 1)
            ratio *= mpmath.mpf(num_rollouts - k - m) / (num_rollouts - 1 - m)
    return total


# --- the weight ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rollouts", SIZES)
def test_weight_equals_the_literal_sum(num_rollouts, literal_weight):
    weights = rl2ml.objective_weight(np.array(PASS_RATES)[:, None], np.array(GAMMAS), num_rollouts)
    for row, p in zip(weights, PASS_RATES, strict=True):
        for weight, gamma in zip(row, GAMMAS, strict=True):
            exact = literal_weight(p, gamma, num_rollouts)
            assert relative_error(weight, exact) <= 1e-12, (p, gamma)


@pytest.mark.parametrize("num_rollouts", [1, 2, 8, 64, 1024])
@pytest.mark.parametrize("gamma", [1e-8, 0.5, 1, 5, 20])
@pytest.mark.parametrize("nudge", [1 - 1e-9, 1, 1 + 1e-9])
def test_weight_is_exact_on_both_sides_of_the_switch_of_formulas(num_rollouts, gamma, nudge, literal_weight):
    p = min((gamma + 1) / (num_rollouts + gamma) * nudge, 1.0)  # E2 below, E1 above
    exact = literal_weight(p, gamma, num_rollouts)
    assert relative_error(rl2ml.objective_weight(p, gamma, num_rollouts), exact) <= 1e-12


@settings(max_examples=200, deadline=None)
@given(p=pass_rates, gamma=gammas, num_rollouts=st.integers(1, 400))
def test_weight_equals_the_literal_sum_anywhere(literal_weight, p, gamma, num_rollouts):
    assert (
        relative_error(rl2ml.objective_weight(p, gamma, num_rollouts), literal_weight(p, gamma, num_rollouts)) < 1e-12
    )


@pytest.mark.parametrize("gamma", [1e-12, 0.5, 1, 1.5, 19.7])
@pytest.mark.parametrize("p", [1e-12, 1e-3, 0.3, 0.9])
@pytest.mark.parametrize("num_rollouts", [1, 2, 17, 64])
def test_closed_form_and_positive_series_are_the_sum(gamma, p, num_rollouts, literal_weight):
    # E1: p^−γ I_p(γ, N). E2: β_0 (1−p)^N ₂F₁(γ+N, 1; γ+1; p). Both in 50 digits: the identities, not their code.
    g, x, n = mpmath.mpf(gamma), mpmath.mpf(p), num_rollouts
    exact = literal_weight(p, gamma, num_rollouts)
    closed = x**-g * mpmath.betainc(g, n, 0, x, regularized=True)
    largest = mpmath.gamma(n + g) / (mpmath.gamma(n) * mpmath.gamma(1 + g))
    series = largest * (1 - x) ** n * mpmath.hyp2f1(g + n, 1, g + 1, x)
    assert abs(closed / exact - 1) < 1e-30
    assert abs(series / exact - 1) < 1e-30


def test_weight_by_hand():
    # γ = 2, N = 3, p = 1/2: c = 1, 2, 3, so w = 1 + 2/2 + 3/4 = 2.75.
    assert rl2ml.objective_weight(0.5, 2, 3) == pytest.approx(2.75, rel=1e-14)
    # γ = 1 is MaxRL: Σ_{m<N} (1−p)^m = (1 − (1−p)^N)/p; N = 4, p = 1/4: (1 − 81/256)·4 = 175/64.
    assert rl2ml.objective_weight(0.25, 1, 4) == pytest.approx(175 / 64, rel=1e-14)


def test_weight_is_exactly_one_for_plain_rl_for_one_rollout_and_for_sure_success():
    assert np.all(rl2ml.objective_weight(PASS_RATES, 0, 65_536) == 1)
    np.testing.assert_allclose(rl2ml.objective_weight(np.array(PASS_RATES)[:, None], GAMMAS, 1), 1, rtol=1e-13)
    np.testing.assert_allclose(rl2ml.objective_weight(1, GAMMAS, 65_536), 1, rtol=1e-13)


@pytest.mark.parametrize(("num_rollouts", "order"), [(8, 1), (8, 3), (64, 63), (65_536, 7)])
def test_truncated_weight_is_the_weight_of_a_smaller_group(num_rollouts, order):
    p, g = np.array(PASS_RATES)[:, None], np.array(GAMMAS)
    truncated = rl2ml.objective_weight(p, g, num_rollouts, order)
    assert np.array_equal(truncated, rl2ml.objective_weight(p, g, order))


@settings(max_examples=200, deadline=None)
@given(p=pass_rates, other=pass_rates, gamma=gammas, more=gammas, num_rollouts=st.sampled_from(SIZES))
def test_weight_decreases_in_the_pass_rate_and_grows_with_gamma(p, other, gamma, more, num_rollouts):
    rounding = 1 + 1e-12
    low, high = rl2ml.objective_weight([max(p, other), min(p, other)], gamma, num_rollouts)
    assert 1 / rounding <= low <= high * rounding
    assert high <= rl2ml.success_weights(gamma, num_rollouts)[0] * rounding
    lesser, greater = rl2ml.objective_weight(p, sorted([gamma, more]), num_rollouts)
    assert lesser <= greater * rounding


# --- success weights and update scales -------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rollouts", SIZES)
def test_success_weights_equal_the_ratio_of_gamma_functions(num_rollouts):
    weights = rl2ml.success_weights(GAMMAS, num_rollouts)
    assert weights.shape == (len(GAMMAS), num_rollouts)
    # All K where few, else both ends, the recurrence's hand-over at 64 and the middle.
    many = {1, 2, 3, 10, 62, 63, 64, 65, 66, 67, 100, 1000, num_rollouts // 2, num_rollouts - 1, num_rollouts}
    counts = range(1, num_rollouts + 1) if num_rollouts <= 66 else sorted(k for k in many if 1 <= k <= num_rollouts)
    for row, gamma in zip(weights, GAMMAS, strict=True):
        g = mpmath.mpf(gamma)
        scale = mpmath.loggamma(num_rollouts + g) - mpmath.loggamma(num_rollouts)
        for k in counts:
            exact = mpmath.exp(scale + mpmath.loggamma(k) - mpmath.loggamma(k + g))
            assert relative_error(row[k - 1], exact) <= 1e-12, (gamma, k)


def test_success_weights_by_hand():
    # γ = 1: β_{K−1} = N/K. γ = 2, N = 3: Γ(5)Γ(K)/(Γ(3)Γ(K+2)) = 12/(K(K+1)) = 6, 2, 1. γ = 0: all 1.
    np.testing.assert_allclose(rl2ml.success_weights(1, 4), [4, 2, 4 / 3, 1], rtol=1e-14)
    np.testing.assert_allclose(rl2ml.success_weights(2, 3), [6, 2, 1], rtol=1e-14)
    np.testing.assert_array_equal(rl2ml.success_weights(0, 5), 1)


@pytest.mark.parametrize("gamma", [0, 0.5, 1.7, 5])
@pytest.mark.parametrize("p", [0.01, 0.3, 0.9])
@pytest.mark.parametrize(("num_rollouts", "order"), [(1, None), (7, None), (7, 3), (20, 19), (20, 1)])
def test_success_weights_are_unbiased_for_the_weight(gamma, p, num_rollouts, order, literal_weight):
    # Theorem 3.2: E[(1/N) Σ β_{K−1} r_i S_i] = w ∇p, so w = Σ_m β_m C(N−1,m) p^m (1−p)^(N−1−m).
    x = mpmath.mpf(p)
    weights = rl2ml.success_weights(gamma, num_rollouts, order)
    law = [comb(num_rollouts - 1, m) * x**m * (1 - x) ** (num_rollouts - 1 - m) for m in range(num_rollouts)]
    mean = mpmath.fsum(mpmath.mpf(float(b)) * chance for b, chance in zip(weights, law, strict=True))
    assert relative_error(mean, literal_weight(p, gamma, order or num_rollouts)) < 1e-13


@pytest.mark.parametrize(
    ("num_rollouts", "orders", "tolerance"),
    [
        (2, (1, 2), 1e-12),
        (3, (1, 2, 3), 1e-12),
        (8, (1, 3, 7, 8), 1e-12),
        (17, (1, 2, 9, 16), 1e-12),
        (64, (1, 5, 63), 1e-12),
        (66, (2, 65), 1e-12),
        (1024, (1, 8, 100, 1023), 1e-12),
        # The recurrence of E5 takes N − M roundings.
        (65_536, (2, 64), 3e-12),
    ],
)
def test_truncated_success_weights_equal_the_literal_sum(num_rollouts, orders, tolerance):
    for order in orders:
        edges = {1, 2, 3, num_rollouts // 2, num_rollouts - order, num_rollouts - order + 1, num_rollouts}
        counts = range(1, num_rollouts + 1) if num_rollouts <= 66 else sorted(edges)
        for gamma in (0, 1e-300, 1e-8, 0.5, 1, 1.7, 20):
            weights = rl2ml.success_weights(gamma, num_rollouts, order)
            for k in counts:
                exact = literal_truncated_weight(gamma, num_rollouts, order, k)
                assert relative_error(weights[k - 1], exact) <= tolerance, (order, gamma, k)


@settings(max_examples=60, deadline=None)
@given(gamma=st.fractions(0, 20, max_denominator=50), num_rollouts=st.integers(1, 12), data=st.data())
def test_truncated_success_weights_equal_exact_fractions(gamma, num_rollouts, data):
    order = data.draw(st.integers(1, num_rollouts))
    weights = rl2ml.success_weights(float(gamma), num_rollouts, order)
    c = [Fraction(1)]
    for m in range(num_rollouts):
        c.append(c[-1] * (gamma + m) / (m + 1))
    for k in range(1, num_rollouts + 1):
        terms = range(min(order - 1, num_rollouts - k) + 1)
        exact = sum(c[m] * Fraction(comb(num_rollouts - k, m), comb(num_rollouts - 1, m)) for m in terms)
        assert weights[k - 1] == pytest.approx(float(exact), rel=1e-12)


def test_full_order_is_no_truncation():
    for n in SIZES[:-1]:
        assert np.array_equal(rl2ml.success_weights(GAMMAS, n, n), rl2ml.success_weights(GAMMAS, n))


@pytest.mark.parametrize("num_rollouts", SIZES)
def test_update_scales_grow_by_k_plus_one_over_k_plus_gamma(num_rollouts):
    scales = rl2ml.update_scales(GAMMAS, num_rollouts)
    k = np.arange(1, num_rollouts)
    expected = (k + 1) / (k + np.array(GAMMAS)[:, None])  # α_{K+1}/α_K
    np.testing.assert_allclose(scales[:, 1:] / scales[:, :-1], expected, rtol=1e-12)
    np.testing.assert_allclose(scales[:, -1], 1, rtol=1e-15)  # α_N = β_{N−1} = 1


def test_regimes():
    subcritical, boundary, supercritical = rl2ml.update_scales([0.5, 1, 1.5], 16)
    assert np.all(np.diff(subcritical) > 0)
    assert np.all(subcritical[:-1] < 1)
    np.testing.assert_allclose(boundary, 1, rtol=1e-14)
    assert np.all(np.diff(supercritical) < 0)
    assert np.all(supercritical[:-1] > 1)


def test_the_first_update_scale_does_not_bound_a_truncated_one():
    # γ = 1.7, M = 8, N = 16: α_1 = 1.49, yet the largest is 2.25.
    scales = rl2ml.update_scales(1.7, 16, 8)
    assert scales[0] == pytest.approx(1.49, abs=0.005)
    assert scales.max() == pytest.approx(2.25, abs=0.005)


# --- the objective ---------------------------------------------------------------------------------------------------


def literal_objective(p, gamma, num_terms):
    """J = Σ_k (c_{k−1}/k) pass@k."""
    x = mpmath.mpf(p)
    terms = (rising_coefficient(gamma, k - 1) / k * (1 - (1 - x) ** k) for k in range(1, num_terms + 1))
    return mpmath.fsum(terms)


@pytest.mark.parametrize("num_rollouts", [1, 2, 3, 17, 65])
@pytest.mark.parametrize("gamma", [0, 1e-300, 1e-8, 0.5, 1, 2, 19.7])
def test_objective_equals_the_literal_sum(num_rollouts, gamma):
    values = rl2ml.objective_value(PASS_RATES, gamma, num_rollouts)
    assert values[0] == 0
    for value, p in zip(values[1:], PASS_RATES[1:], strict=True):
        with mpmath.workdps(400 if p < 1e-20 else 50):  # 1 − (1−p)^k cancels
            exact = literal_objective(p, gamma, num_rollouts)
        # Each term may lose the denormal digits that float64 does not have: p = 5e-324.
        assert abs(mpmath.mpf(float(value)) - exact) <= 1e-12 * exact + num_rollouts * 5e-324, p


@pytest.mark.parametrize(("gamma", "num_rollouts"), [(0.5, 1024), (1, 1024), (20, 1024), (1.5, 65_536), (20, 65_536)])
def test_objective_of_large_groups_equals_a_running_sum(gamma, num_rollouts, literal_value):
    value = rl2ml.objective_value(0.001, gamma, num_rollouts)
    assert relative_error(value, literal_value(0.001, gamma, num_rollouts)) <= 1e-12


@pytest.mark.parametrize("num_rollouts", [1, 2, 8, 33])
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 1.5, 7])
@pytest.mark.parametrize("p", [1e-6, 0.2, 0.8])
def test_the_weight_is_the_derivative_of_the_objective(num_rollouts, gamma, p):
    # Central difference of the literal sum: error h²/6 · J''' with h = 1e-15 is far below 1e-13.
    h, x = mpmath.mpf("1e-15"), mpmath.mpf(p)
    slope = (literal_objective(x + h, gamma, num_rollouts) - literal_objective(x - h, gamma, num_rollouts)) / (2 * h)
    assert relative_error(rl2ml.objective_weight(p, gamma, num_rollouts), slope) < 1e-12


def test_objective_by_hand():
    # γ = 1, N = 2, p = 1/2: pass@1 + pass@2/2 = 1/2 + 3/8 = 7/8. γ = 0: pass@1 alone.
    assert rl2ml.objective_value(0.5, 1, 2) == pytest.approx(0.875, rel=1e-14)
    assert rl2ml.objective_value(0.3, 0, 9) == pytest.approx(0.3, rel=1e-14)


@settings(max_examples=150, deadline=None)
@given(p=pass_rates, other=pass_rates, gamma=gammas, more=gammas, num_rollouts=st.integers(1, 300))
def test_objective_grows_with_the_pass_rate_and_with_gamma(p, other, gamma, more, num_rollouts):
    rounding = 1 + 1e-12
    low, high = rl2ml.objective_value(sorted([p, other]), gamma, num_rollouts)
    assert 0 <= low <= high * rounding
    lesser, greater = rl2ml.objective_value(p, sorted([gamma, more]), num_rollouts)
    assert lesser <= greater * rounding


@pytest.mark.parametrize("gamma", [0.5, 1, 2])
def test_long_objectives_differ_like_the_untruncated_one(gamma):
    # φ_γ(p) = (p^(1−γ) − 1)/(1−γ), log p at γ = 1; the neglected weight at p ≥ .1 is of order .9^65536 = 1e-2999.
    def phi(p):
        return np.log(p) if gamma == 1 else (p ** (1 - gamma) - 1) / (1 - gamma)

    low, high = rl2ml.objective_value([0.1, 0.8], gamma, 65_536)
    assert high - low == pytest.approx(phi(0.8) - phi(0.1), rel=1e-9)


def test_truncated_objective_is_the_objective_of_a_smaller_group():
    p, g = np.array(PASS_RATES)[:, None], np.array(GAMMAS)
    assert np.array_equal(rl2ml.objective_value(p, g, 64, 5), rl2ml.objective_value(p, g, 5))


# --- shapes and errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [rl2ml.objective_weight, rl2ml.objective_value])
def test_pass_rates_and_gammas_broadcast(function):
    p, g = np.linspace(0, 1, 5), np.array([0, 0.5, 1])
    grid = function(p[:, None], g[None, :], 4)
    assert grid.shape == (5, 3)
    assert grid.dtype == np.float64
    for i, j in np.ndindex(5, 3):
        assert grid[i, j] == function(p[i], g[j], 4)
    assert np.shape(function(0.5, 1, 4)) == ()
    assert function(np.empty((0, 3)), 1, 4).shape == (0, 3)
    assert np.array_equal(function([0.1, 0.2], 1, 4), function(np.array([0.1, 0.2]), [1, 1], np.int32(4)))


@pytest.mark.parametrize("function", [rl2ml.success_weights, rl2ml.update_scales])
def test_success_counts_are_the_last_axis(function):
    values = function([[0, 0.5, 1], [2, 3, 20]], 70)
    assert values.shape == (2, 3, 70)
    assert np.array_equal(values[1, 0], function(2, 70))
    assert function(1, 1).tolist() == [1]


FUNCTIONS = [
    lambda gamma=1.0, num_rollouts=8, order=None: rl2ml.objective_weight(0.5, gamma, num_rollouts, order),
    lambda gamma=1.0, num_rollouts=8, order=None: rl2ml.objective_value(0.5, gamma, num_rollouts, order),
    rl2ml.success_weights,
    rl2ml.update_scales,
]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": -1e-9}, r"gamma must be finite and within \[0, 20\]; got -1e-09"),
        ({"gamma": 20.001}, r"gamma must .* got 20.001"),
        ({"gamma": float("nan")}, r"gamma must .* got nan"),
        ({"gamma": [0.5, float("inf")]}, r"gamma must .* got inf at index 1"),
        ({"gamma": "one"}, "gamma must be numbers"),
        ({"num_rollouts": 0}, "num_rollouts must be an integer from 1 to 65536; got 0"),
        ({"num_rollouts": -3}, "num_rollouts must .* got -3"),
        ({"num_rollouts": 65_537}, "num_rollouts must .* got 65537"),
        ({"num_rollouts": True}, "num_rollouts must .* got True"),
        ({"num_rollouts": 2.5}, "num_rollouts must .* got 2.5"),
        ({"num_rollouts": 8.0}, "num_rollouts must .* got 8.0"),
        ({"num_rollouts": "8"}, "num_rollouts must .* got '8'"),
        ({"order": 9}, "order must be an integer from 1 to 8; got 9"),
        ({"order": 0}, "order must .* got 0"),
        ({"order": True}, "order must .* got True"),
    ],
)
def test_values_outside_the_domain_are_refused(function, arguments, message):
    with pytest.raises(rl2ml.InvalidInput, match=message) as refused:
        function(**{"gamma": 1.0, "num_rollouts": 8, **arguments})
    assert refused.value.field in (*arguments, None)


@pytest.mark.parametrize("function", [rl2ml.objective_weight, rl2ml.objective_value])
@pytest.mark.parametrize("p", [-1e-300, 1 + 1e-15, float("nan"), float("-inf")])
def test_pass_rates_outside_zero_and_one_are_refused(function, p):
    with pytest.raises(rl2ml.InvalidInput, match="pass_rate must be finite and within") as refused:
        function([0.5, p], 1, 8)
    assert "at index 1" in str(refused.value)
    assert refused.value.field == "pass_rate"
