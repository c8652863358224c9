"""Truncation orders against literal sums, exact fractions and finite closed forms."""

import json
import math
from dataclasses import FrozenInstanceError
from fractions import Fraction
from itertools import product

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.objective.truncation import (
    OrderScales,
    affordable_order,
    needed_order,
    truncation_tail,
    truncation_window,
)

GAMMAS = [0, 1e-300, 1e-12, 1e-3, 0.5, 1, 1.7, 2, 5, 19.7, 20]
PASS_RATES = [0, 1e-300, 1e-12, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.9, 1 - 1e-6, 1]
LEAST_PASS_RATES = [1e-12, 1e-8, 1e-4, 0.01, 0.1, 0.3, 0.5, 0.9, 1]
TAILS = [1e-12, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999, 1]

gammas = st.one_of(st.floats(0, 20), st.floats(0, 2), st.sampled_from(GAMMAS))
pass_rates = st.one_of(st.floats(0, 1), st.floats(-14, 0).map(lambda x: 10**x), st.sampled_from(PASS_RATES))
least_pass_rates = st.one_of(st.floats(-12, 0).map(lambda x: 10**x), st.sampled_from(LEAST_PASS_RATES))
tails = st.one_of(st.floats(1e-12, 1), st.sampled_from(TAILS))
scales = st.floats(-5, 3).map(lambda x: 10**x)


@pytest.fixture(autouse=True)
def _sixty_digits():
    with mpmath.workdps(60):
        yield


def exact_tail(pass_rate, gamma, order) -> mpmath.mpf:
    """1 − I_p(γ, M) with enough digits that the difference keeps 30."""
    if gamma == 0:
        return mpmath.mpf(0)
    with mpmath.workdps(400 if gamma < 1e-20 else 60):
        return 1 - mpmath.betainc(mpmath.mpf(gamma), order, 0, mpmath.mpf(pass_rate), regularized=True)


def lone_scale(gamma: Fraction, num_rollouts: int, order: int) -> Fraction:
    """α_1 = (1/N) Σ_{m<M} c_m, c_{m+1} = c_m (γ+m)/(m+1), in exact fractions."""
    term = total = Fraction(1)
    for m in range(order - 1):
        term *= (gamma + m) / (m + 1)
        total += term
    return total / num_rollouts


def lone_scales(gamma: float, num_rollouts: int) -> np.ndarray:
    """The same for M = 1..N in floating point, [N]."""
    m = np.arange(num_rollouts - 1)
    return np.cumsum(np.concatenate([[1.0], np.cumprod((gamma + m) / (m + 1))])) / num_rollouts


# --- the tail --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 8, 64, 1024])
def test_tail_is_what_the_literal_sum_leaves(order, literal_weight):
    found = truncation_tail(np.array(PASS_RATES)[:, None], GAMMAS, order)
    for (i, p), (j, gamma) in product(enumerate(PASS_RATES), enumerate(GAMMAS)):
        with mpmath.workdps(90):
            kept = mpmath.mpf(p) ** mpmath.mpf(gamma) * literal_weight(p, gamma, order)
        if gamma > 0 and p == 0:
            kept = 0  # p^γ
        # The sum carries 96 digits: what is left after 1 − kept is compared down to 1e-80.
        assert abs(mpmath.mpf(float(found[i, j])) - (1 - kept)) <= 1e-12 * (1 - kept) + mpmath.mpf(10) ** -80, (
            p,
            gamma,
        )


@pytest.mark.parametrize("gamma", [1, 2, 5, 20])
@pytest.mark.parametrize("order", [1, 7, 65_536, 10**7, 10**10, 10**13])
def test_tail_of_an_integer_gamma_is_a_finite_sum(gamma, order):
    # Σ_{j<γ} C(M+j−1, j) p^j (1−p)^M: fewer than γ successes before the M-th failure.
    for mean in (1e-3, 0.5, 3, 40):
        p = min(mean / order, 0.99)
        x = mpmath.mpf(p)
        rising = [mpmath.rf(order, j) / mpmath.factorial(j) * x**j for j in range(gamma)]
        exact = mpmath.fsum(rising) * (1 - x) ** order
        assert float(abs(truncation_tail(p, gamma, order) / exact - 1)) < 1e-12, mean


def test_tail_by_hand():
    # γ = 1: (1−p)^M. γ = 2, M = 2, p = 1/2: w = 1 + 2/2 = 2, so 1 − 2/4 = 1/2.
    assert truncation_tail(0.5, 1, 3) == pytest.approx(1 / 8, rel=1e-14)
    assert truncation_tail(0.5, 2, 2) == pytest.approx(1 / 2, rel=1e-14)


def test_tail_at_the_ends():
    assert np.array_equal(truncation_tail(PASS_RATES, 0, 5), np.zeros(len(PASS_RATES)))
    assert np.array_equal(truncation_tail(0, [1e-300, 0.5, 20], 5), np.ones(3))
    assert np.array_equal(truncation_tail(1, GAMMAS, 5), np.zeros(len(GAMMAS)))


def test_tail_broadcasts():
    assert truncation_tail(0.1, 1, 4).shape == ()
    assert truncation_tail([0.1, 0.2], 1, 4).shape == (2,)
    assert truncation_tail(np.full((3, 1), 0.1), [1, 2], 4).shape == (3, 2)
    assert truncation_tail([], 1, 4).shape == (0,)


@settings(max_examples=200, deadline=None)
@given(
    p=pass_rates,
    other=pass_rates,
    gamma=gammas,
    more=gammas,
    order=st.integers(1, 10**9),
    longer=st.integers(1, 10**9),
)
def test_tail_falls_with_pass_rate_and_order_and_grows_with_gamma(p, other, gamma, more, order, longer):
    rounding = 1 + 1e-12
    tail = truncation_tail(p, gamma, order)
    assert 0 <= tail <= 1
    low, high = truncation_tail([max(p, other), min(p, other)], gamma, order)
    assert low <= high * rounding
    assert truncation_tail(p, gamma, order + longer) <= tail * rounding
    lesser, greater = truncation_tail(p, sorted([gamma, more]), order)
    assert lesser <= greater * rounding


# --- the needed order ------------------------------------------------------------------------------------------------


def assert_least(order, gamma, p, tail):
    """The order's tail meets the bound and its predecessor's does not, to 2e-12 of the bound."""
    assert exact_tail(p, gamma, order) <= tail * (1 + mpmath.mpf(2e-12))
    if order > 1:
        assert exact_tail(p, gamma, order - 1) > tail * (1 - mpmath.mpf(2e-12))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_needed_order_is_the_least(gamma):
    for p, tail in product(LEAST_PASS_RATES, TAILS):
        order = needed_order(gamma, p, tail)
        assert type(order) is int
        assert_least(order, gamma, p, tail)


@settings(max_examples=100, deadline=None)
@given(gamma=gammas, p=least_pass_rates, tail=tails)
def test_needed_order_is_the_least_anywhere(gamma, p, tail):
    assert_least(needed_order(gamma, p, tail), gamma, p, tail)


@settings(max_examples=100, deadline=None)
@given(gamma=gammas, more=gammas, p=least_pass_rates, other=least_pass_rates, tail=tails, allowed=tails)
def test_needed_order_grows_with_gamma_with_harder_prompts_and_smaller_tails(gamma, more, p, other, tail, allowed):
    slack = 1 + 1e-9  # where p is tiny neighboring orders' tails are alike
    assert needed_order(min(gamma, more), p, tail) <= needed_order(max(gamma, more), p, tail) * slack
    assert needed_order(gamma, max(p, other), tail) <= needed_order(gamma, min(p, other), tail) * slack
    assert needed_order(gamma, p, max(tail, allowed)) <= needed_order(gamma, p, min(tail, allowed)) * slack


@pytest.mark.parametrize(
    ("gamma", "p", "tail", "order"),
    [
        (0, 1e-12, 1e-12, 1),  # plain RL loses nothing
        (1, 1, 1e-12, 1),  # sure success
        (20, 1e-12, 1, 1),  # everything may be missing
        (1, 0.5, 0.25, 2),  # (1/2)² is just 1/4
        (1, 0.5, 2.0**-30, 30),
        (1, 0.1, 0.9**5, 5),  # ties as people type them
        (1, 0.01, 0.1, 230),  # ln 0.1/ln 0.99 = 229.1
        (2, 0.5, 0.5, 2),  # by hand above
    ],
)
def test_needed_order_by_hand(gamma, p, tail, order):
    assert needed_order(gamma, p, tail) == order


def test_huge_needed_orders_are_returned_all_the_same():
    # γ = 1: M = ln δ / ln(1−p); at p = 1e-12, δ = 0.1 that is 2,302,585,092,992.9 and float64 tails leave a few units.
    exact = mpmath.log(mpmath.mpf(0.1)) / mpmath.log1p(-mpmath.mpf(1e-12))
    assert abs(needed_order(1, 1e-12, 0.1) - exact) <= 3
    assert needed_order(20, 1e-12, 1e-12) == pytest.approx(6.9074e13, rel=1e-5)  # Q(20, 69.074) = 1e-12
    assert needed_order(1, 1e-6, 0.1) == 2_302_584


@pytest.mark.parametrize(
    ("gamma", "p", "tail", "order"),
    [
        (1, 0.01, 0.1, 231),  # −ln 0.1/0.01 = 230.3
        (2, 0.1, math.exp(-1) * 2, 10),  # Q(2, 1) = 2/e
        (0, 0.01, 0.1, 1),
        (1e-300, 0.01, 0.1, 1),
        (1, 1, 1, 1),
    ],
)
def test_approximate_order_by_hand(gamma, p, tail, order):
    found = needed_order(gamma, p, tail, approximate=True)
    assert type(found) is int
    assert found == order


def test_approximate_order_inverts_the_gamma_tail():
    for gamma, p, tail in product([0.1, 0.5, 1.7, 2, 5, 20], [1e-6, 1e-3, 0.1, 0.5], [1e-3, 0.05, 0.3, 0.8]):
        order = needed_order(gamma, p, tail, approximate=True)
        x = mpmath.mpf(p)
        assert mpmath.gammainc(gamma, x * order, regularized=True) <= tail * (1 + 1e-9)
        if order > 1:
            assert mpmath.gammainc(gamma, x * (order - 1), regularized=True) > tail * (1 - 1e-9)


@pytest.mark.parametrize(
    ("gammas", "least", "most"),
    [(np.linspace(0.01, 2, 25), -1, 5), (np.linspace(2, 20, 10), 0, 29)],
    ids=["to 2", "2 to 20"],
)
def test_approximation_against_the_exact_order(gammas, least, most):
    tails = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 0.95]
    errors = [
        needed_order(gamma, p, tail, approximate=True) - needed_order(gamma, p, tail)
        for gamma, p, tail in product(gammas, [1e-6, 1e-4, 1e-3, 0.01, 0.03, 0.1], tails)
    ]
    assert (min(errors), max(errors)) == (least, most)


def test_approximation_errs_by_a_constant_for_hard_prompts():
    # −log(1−p) = p + p²/2 + … moves M = x/p by x/2, and the gamma tail's shape by (γ−1)/2.
    for gamma, tail in product([0.1, 0.5, 1, 2, 5, 20], [0.001, 0.01, 0.3, 0.9]):
        x = needed_order(gamma, 1e-6, tail, approximate=True) * 1e-6
        error = needed_order(gamma, 1e-6, tail, approximate=True) - needed_order(gamma, 1e-6, tail)
        assert abs(error - (x + gamma - 1) / 2) <= 1.01


# --- the affordable order --------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    gamma=st.fractions(0, 20, max_denominator=64),
    num_rollouts=st.integers(1, 80),
    bound=st.fractions(Fraction(1, 100), 50, max_denominator=200),
)
def test_affordable_order_is_the_largest(gamma, num_rollouts, bound):
    feasible = [m for m in range(1, num_rollouts + 1) if lone_scale(gamma, num_rollouts, m) <= bound]
    expected = feasible[-1] if feasible else None
    assert affordable_order(float(gamma), num_rollouts, float(bound)) == expected


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("num_rollouts", [1, 64, 65, 66, 4096, 65_536])
def test_affordable_order_is_where_the_first_update_scale_crosses(gamma, num_rollouts):
    lone = lone_scales(gamma, num_rollouts)
    for bound in (0.5 / num_rollouts, 1 / num_rollouts, 0.01, 0.3, 1, 1.5, 1e6, 1e300):
        order = affordable_order(gamma, num_rollouts, bound)
        if order is None:
            assert bound < 1 / num_rollouts
            continue
        assert lone[order - 1] <= bound * (1 + 1e-10)
        assert order == num_rollouts or lone[order] > bound * (1 - 1e-10)


@pytest.mark.parametrize(
    ("gamma", "num_rollouts", "bound", "order"),
    [
        (1, 10, 0.3, 3),  # α_1 = M/N: three tenths is a tie in decimals
        (1, 16, 0.99, 15),
        (1, 16, 1, 16),
        (0, 16, 1 / 16, 16),  # every order has 1/N
        (0, 16, 0.0624, None),
        (1, 3, 1 / 3, 1),
        (2, 4, 2.5, 4),  # (1 + 2 + 3 + 4)/4
        (2, 4, 2.49, 3),
        (20, 4, 1e300, 4),
    ],
)
def test_affordable_order_by_hand(gamma, num_rollouts, bound, order):
    found = affordable_order(gamma, num_rollouts, bound)
    assert found == order
    assert found is None or type(found) is int


@settings(max_examples=100, deadline=None)
@given(gamma=gammas, more=gammas, num_rollouts=st.integers(1, 5000), bound=scales, looser=scales)
def test_affordable_order_falls_with_gamma_and_grows_with_the_bound(gamma, more, num_rollouts, bound, looser):
    assert (affordable_order(max(gamma, more), num_rollouts, bound) or 0) <= (
        affordable_order(min(gamma, more), num_rollouts, bound) or 0
    )
    assert (affordable_order(gamma, num_rollouts, min(bound, looser)) or 0) <= (
        affordable_order(gamma, num_rollouts, max(bound, looser)) or 0
    )


# --- the window ------------------------------------------------------------------------------------------------------


def test_first_scale_does_not_bound_the_largest():
    # The method's own numbers: γ = 1.7, M = 8, N = 16 has α_1 = 1.49 and a largest scale of 2.25.
    found = OrderScales.of(1.7, 16, 8, least_pass_rate=0.2)
    assert round(found.first_scale, 2) == 1.49
    assert round(found.largest_scale_reached, 2) == 2.25
    assert found.first_scale == pytest.approx(float(lone_scale(Fraction(17, 10), 16, 8)), rel=1e-12)
    literal = []
    for k in range(1, 17):
        term, total = Fraction(1), Fraction(0)
        for m in range(min(8, 17 - k)):
            total += term
            term *= (Fraction(17, 10) + m) / (m + 1) * Fraction(16 - k - m, max(15 - m, 1))
        literal.append(total * Fraction(k, 16))
    assert found.largest_scale_reached == pytest.approx(float(max(literal)), rel=1e-12)
    assert found.largest_at == literal.index(max(literal)) + 1
    assert found.tail == pytest.approx(float(exact_tail(0.2, 1.7, 8)), rel=1e-12)


def test_largest_scale_is_met_first_where_all_are_alike():
    found = OrderScales.of(1, 64, 64, least_pass_rate=0.5)
    assert (found.largest_at, found.largest_scale_reached) == (1, pytest.approx(1, rel=1e-12))


@settings(max_examples=150, deadline=None)
@given(gamma=gammas, num_rollouts=st.integers(1, 300), p=least_pass_rates, tail=tails, bound=scales)
def test_window_holds_just_the_feasible_orders(gamma, num_rollouts, p, tail, bound):
    assume(gamma == 0 or gamma > 1e-20)
    found = truncation_window(gamma, num_rollouts, least_pass_rate=p, tail=tail, largest_scale=bound)
    feasible = [
        m
        for m in range(1, num_rollouts + 1)
        if truncation_tail(p, gamma, m) <= tail * (1 + 1e-12)
        and lone_scales(gamma, num_rollouts)[m - 1] <= bound * (1 + 1e-12)
    ]
    assert (found.lower, found.upper) == ((feasible[0], feasible[-1]) if feasible else (None, None))
    assert (found.at_lower is None) == (found.at_upper is None) == (not feasible)
    if found.at_lower and found.at_upper:
        for end, order in ((found.at_lower, found.lower), (found.at_upper, found.upper)):
            assert end == OrderScales.of(gamma, num_rollouts, order, p)
            assert end.tail <= tail * (1 + 1e-11)
            assert end.first_scale <= bound * (1 + 1e-11)
            assert end.largest_scale_reached >= max(end.first_scale, 1) * (1 - 1e-12)  # α_N = 1
        assert found.at_upper.tail <= found.at_lower.tail * (1 + 1e-12)
    assert found.needed == needed_order(gamma, p, tail)
    assert found.needed_approximate == needed_order(gamma, p, tail, approximate=True)
    assert found.affordable == affordable_order(gamma, num_rollouts, bound)
    json.dumps(found.to_dict(), allow_nan=False)


def window(gamma=1.0, num_rollouts=16, least_pass_rate=0.2, tail=0.1, largest_scale=8.0):
    return truncation_window(
        gamma, num_rollouts, least_pass_rate=least_pass_rate, tail=tail, largest_scale=largest_scale
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        # ln 0.1/ln 0.8 = 10.3; M = N has α_1 = 1 at γ = 1.
        ({}, ["Train without truncation, M = N = 16", "down to 0.2 need M ≥ 11 to miss at most 10 %", "scale 1."]),
        ({"largest_scale": 0.8}, ["Truncate at M = 12", "scale 0.75.", "largest scale is 1, at 5 successes, above"]),
        ({"gamma": 1.7, "largest_scale": 1.5, "tail": 0.4}, ["Truncate at M = 8", "1.49", "is 2.25", "of 1.5"]),
        ({"gamma": 1.7, "largest_scale": 2, "tail": 0.35}, ["Truncate at M = 9", "scale 1.81", "is 2.44", "of 2"]),
        ({"largest_scale": 0.5}, ["No order is feasible", "need M ≥ 11", "0.5 on α_1 allows M ≤ 8"]),
        ({"least_pass_rate": 1e-6}, ["No order is feasible", "need M ≥ 2,302,584", "a group has 16 rollouts"]),
        ({"largest_scale": 0.05}, ["No order is feasible", "even M = 1", "1/N = 0.0625, above 0.05"]),
    ],
)
def test_sentence(options, words):
    found = window(**options)
    for word in words:
        assert word in found.sentence
    assert found.to_dict()["sentence"] == found.sentence


@pytest.mark.parametrize("gamma", [0, 1, 1.7])
def test_sentence_warns_only_of_scales_above_the_bound(gamma):
    for bound in (0.2, 0.9, 1, 1.5, 2, 2.5):
        end = window(gamma, least_pass_rate=0.5, tail=0.9, largest_scale=bound)
        assert end.at_upper
        assert ("above the bound" in end.sentence) == (end.at_upper.largest_scale_reached > bound + 1e-9)


def test_window_is_a_value():
    found = window()
    assert found == window()
    assert found.to_dict()["at_upper"] == vars(found.at_upper)
    with pytest.raises(FrozenInstanceError):
        found.upper = 3


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"gamma": -1}, "gamma"),
        ({"gamma": 21}, "gamma"),
        ({"gamma": math.nan}, "gamma"),
        ({"num_rollouts": 0}, "num_rollouts"),
        ({"num_rollouts": 65_537}, "num_rollouts"),
        ({"num_rollouts": 8.0}, "num_rollouts"),
        ({"least_pass_rate": 0}, "least_pass_rate"),
        ({"least_pass_rate": 9e-13}, "least_pass_rate"),
        ({"least_pass_rate": 1.1}, "least_pass_rate"),
        ({"tail": 0}, "tail"),
        ({"tail": 1.1}, "tail"),
        ({"largest_scale": 0}, "largest_scale"),
        ({"largest_scale": math.inf}, "largest_scale"),
        ({"largest_scale": "8"}, "largest_scale"),
    ],
)
def test_values_outside_the_domain(options, field):
    with pytest.raises(rl2ml.InvalidInput, match=f"^{field} must be ") as caught:
        window(**options)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((1.1, 1, 4), "pass_rate"),
        (([0.5, math.nan], 1, 4), "pass_rate"),
        ((0.5, [1, 21], 4), "gamma"),
        ((0.5, 1, 0), "order"),
        ((0.5, 1, 2**53 + 1), "order"),
        ((0.5, 1, 2.5), "order"),
    ],
)
def test_tails_outside_the_domain(arguments, field):
    with pytest.raises(rl2ml.InvalidInput, match=f"^{field} must be ") as caught:
        truncation_tail(*arguments)
    assert caught.value.field == field
