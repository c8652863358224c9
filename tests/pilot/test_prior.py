"""The prior by value, by name and by fit: laws and derivatives in 50 digits, the fit against a search by hand."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln

import rl2ml_core as rl2ml
from rl2ml_core.pilot.prior import (
    HYPERPRIOR_CENTER,
    HYPERPRIOR_SPREAD,
    coordinates_of,
    fit_prior,
    hyperprior,
    log_law,
    log_likelihood,
    prior_at,
    scores_at,
)

PILOT = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (16, 16, 14)])
UNEQUAL = rl2ml.PilotHistogram.from_cells(
    [(1, 0, 3), (1, 1, 2), (4, 1, 2.5), (64, 3, 4), (300, 250, 2), (5000, 10, 0.5), (10**6, 999_999, 1)]
)
# A law for the many short prompts and another for the few long ones: the likelihood has two summits.
TWO_SUMMITS = rl2ml.PilotHistogram.from_cells([(2, 2, 574), (16, 16, 47), (10**6, 500_000, 247)])
PILOTS = {
    "mixed": PILOT,
    "unequal": UNEQUAL,
    "two summits": TWO_SUMMITS,
    "all fail": rl2ml.PilotHistogram.from_cells([(8, 0, 64)]),
    "all pass": rl2ml.PilotHistogram.from_cells([(8, 8, 64)]),
    "all equal": rl2ml.PilotHistogram.from_cells([(8, 4, 64)]),
    "0 of 16": rl2ml.PilotHistogram.from_cells([(16, 0, 1)]),
    "one prompt": rl2ml.PilotHistogram.from_cells([(8, 3, 1)]),
    "one rollout each": rl2ml.PilotHistogram.from_cells([(1, 0, 50), (1, 1, 14)]),
    "a million rollouts": rl2ml.PilotHistogram.from_cells([(10**6, 0, 3), (10**6, 17, 2), (10**6, 400_000, 1)]),
    "a trillion prompts": rl2ml.PilotHistogram.from_cells([(8, 0, 9e11), (8, 1, 1e11), (8, 8, 1e12)]),
    "a trillion equal prompts": rl2ml.PilotHistogram.from_cells([(8, 4, 1e12)]),
    "a trillion failures": rl2ml.PilotHistogram.from_cells([(8, 0, 1e12)]),
    "hardly a prompt": rl2ml.PilotHistogram.from_cells([(8, 3, 1e-12)]),
    "fractions": rl2ml.PilotHistogram.from_cells([(8, 3, 0.25), (8, 0, 0.01)]),
    "the most": rl2ml.PilotHistogram.from_cells([(10**7, k, 1) for k in (0, 10, 5_000_000, 10**7)]),
}
every_pilot = pytest.mark.parametrize("pilot", PILOTS.values(), ids=PILOTS.keys())


def exact_log_law(k, n, a, b):
    """log of C(n, k) B(k+a, n−k+b)/B(a, b)."""
    k, n, a, b = map(mpmath.mpf, (k, n, a, b))
    terms = [n + 1, -(k + 1), -(n - k + 1), k + a, n - k + b, -(n + a + b), -a, -b, a + b]
    return sum(mpmath.sign(x) * mpmath.loggamma(abs(x)) for x in terms)


def exact_value(pilot, logit, log_concentration):
    """The penalized log-likelihood, term by term."""
    m = 1 / (1 + mpmath.exp(-logit))
    c = mpmath.exp(log_concentration)
    value = -sum(
        ((x - mpmath.mpf(center)) / mpmath.mpf(spread)) ** 2 / 2
        for x, center, spread in zip((logit, log_concentration), HYPERPRIOR_CENTER, HYPERPRIOR_SPREAD, strict=True)
    )
    return value + sum(mpmath.mpf(w) * exact_log_law(k, n, c * m, c * (1 - m)) for n, k, w in pilot.cells())


def values(pilot, logits, log_concentrations):
    """`exact_value` for arrays, in floating point: for n ≤ 10,000 good to 1e-10 of a prompt."""
    m, c = 1 / (1 + np.exp(-logits)), np.exp(log_concentrations)
    (um, sm), (uc, sc) = zip(HYPERPRIOR_CENTER, HYPERPRIOR_SPREAD, strict=True)
    total = -(((logits - um) / sm) ** 2 + ((log_concentrations - uc) / sc) ** 2) / 2
    for n, k, w in pilot.cells():
        a, b = c * m, c * (1 - m)
        total = total + w * (
            gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
            + gammaln(k + a) + gammaln(n - k + b) - gammaln(n + c) - gammaln(a) - gammaln(b) + gammaln(c)
        )  # fmt: skip
    return total


def penalized(fitted):
    away = (fitted.coordinates - HYPERPRIOR_CENTER) / HYPERPRIOR_SPREAD
    return fitted.log_likelihood - away @ away / 2


# --- by value and by name --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (0.5, 0.5), (2, 30)])
def test_a_beta_prior_gives_exact_posterior_means(alpha, beta):
    # Beta(k + a, n − k + b) has mean (k+a)/(n+a+b).
    population = PILOT.population(rl2ml.BetaPrior(alpha, beta))
    expected = [(k + alpha) / (n + alpha + beta) for n, k, _ in PILOT.cells()]
    np.testing.assert_allclose(population.pass_rates, expected, rtol=1e-15)
    np.testing.assert_array_equal(population.weights, PILOT.num_prompts)
    assert population.prior == rl2ml.BetaPrior(alpha, beta)


def test_plug_in_gives_point_masses_at_the_observed_rates():
    population = PILOT.population("plug_in")
    assert population.prior is None
    np.testing.assert_array_equal(population.pass_rates, [0, 0.25, 1])


def test_empirical_bayes_is_the_fitted_prior():
    population = PILOT.population("empirical_bayes")
    assert population.prior == fit_prior(PILOT).prior
    assert PILOT.population().prior == PILOT.fitted_prior.prior == population.prior
    np.testing.assert_array_equal(population.weights, PILOT.num_prompts)


@pytest.mark.parametrize("prior", ["empirical", "", None, 1, (1, 1)])
def test_other_priors_are_refused(prior):
    with pytest.raises(
        rl2ml.InvalidInput,
        match=r"prior must be a BetaPrior\(alpha, beta\) or one of empirical_bayes, plug_in; got",
    ) as refused:
        PILOT.population(prior)
    assert refused.value.field == "prior"


# --- laws and derivatives --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "error"), [(1, 1e-13), (8, 1e-13), (64, 1e-12), (256, 1e-11), (257, 1e-11), (10**4, 1e-10), (10**7, 1e-7)]
)
def test_law_equals_fifty_digits(n, error):
    """Of the size of the law's log, which is that of min(n, a+b): 1e-13 of it."""
    rng = np.random.default_rng(n)
    with mpmath.workdps(50):
        for _ in range(40):
            k = int(rng.choice([0, n, min(1, n), rng.integers(0, n + 1)]))
            a, b = (float(x) for x in 10 ** rng.uniform(-9, 9, 2))
            exact = exact_log_law(k, n, a, b)
            found = log_law(np.array([k]), np.array([n - k]), rl2ml.BetaPrior(a, b))
            assert abs(found[0] - exact) <= error, (k, n, a, b)


@pytest.mark.parametrize("n", [1, 7, 300, 20_000])
@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (0.03, 0.1), (0.6, 134), (500, 500)])
def test_laws_add_to_one(n, alpha, beta):
    k = np.arange(n + 1)
    law = np.exp(log_law(k, n - k, rl2ml.BetaPrior(alpha, beta)))
    assert law.sum() == pytest.approx(1, abs=1e-11)


def test_the_uniform_prior_makes_every_count_as_likely():
    k = np.arange(17)
    np.testing.assert_allclose(log_law(k, 16 - k, rl2ml.BetaPrior()), -math.log(17), rtol=1e-14)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (0.3, 1.5), (1e-9, 3), (1e9, 1e9), (1e4, 1)])
def test_log_likelihood_is_the_sum_over_prompts(alpha, beta):
    with mpmath.workdps(50):
        exact = sum(w * exact_log_law(k, n, alpha, beta) for n, k, w in UNEQUAL.cells())
    assert log_likelihood(UNEQUAL, rl2ml.BetaPrior(alpha, beta)) == pytest.approx(float(exact), rel=1e-12)


@every_pilot
def test_scores_and_curvature_equal_derivatives_in_fifty_digits(pilot):
    fitted = fit_prior(pilot)
    with mpmath.workdps(50):
        at = [mpmath.mpf(x) for x in fitted.coordinates]
        total = pilot.total_prompts + 1
        for index, orders in ((0, (2, 0)), (1, (1, 1)), (3, (0, 2))):
            exact = -mpmath.diff(lambda x, y: exact_value(pilot, x, y), at, orders)
            # At 10^6 rollouts a cell's own curvature is a difference of terms of size n: 1e-16 of that a prompt.
            assert abs(fitted.curvature.flat[index] - exact) <= 1e-11 * (abs(exact) + total)
        for cell, score in zip(pilot.cells(), fitted.scores, strict=True):
            alone = rl2ml.PilotHistogram.from_cells([(*cell[:2], 1)])
            for axis, orders in enumerate(((1, 0), (0, 1))):
                exact = mpmath.diff(lambda x, y, alone=alone: exact_value(alone, x, y), at, orders)
                exact += (at[axis] - HYPERPRIOR_CENTER[axis]) / mpmath.mpf(HYPERPRIOR_SPREAD[axis]) ** 2
                assert abs(score[axis] - exact) <= 1e-12 * abs(exact) + 1e-14 + 1e-15 * cell[0]
    np.testing.assert_array_equal(fitted.curvature, fitted.curvature.T)
    np.testing.assert_allclose(fitted.penalty, np.diag(np.array(HYPERPRIOR_SPREAD) ** -2.0))


# --- the fit ---------------------------------------------------------------------------------------------------------


@every_pilot
def test_the_fit_is_a_summit(pilot):
    """The exact gradient is zero, measured in standard deviations of θ; the curvature is positive definite."""
    fitted = fit_prior(pilot)
    assert np.isfinite([fitted.prior.alpha, fitted.prior.beta, fitted.log_likelihood]).all()
    assert (np.linalg.eigvalsh(fitted.curvature) > 0).all()
    assert fitted.scores.shape == (pilot.num_cells, 2)
    with mpmath.workdps(50):
        at = [mpmath.mpf(x) for x in fitted.coordinates]
        gradient = [mpmath.diff(lambda x, y: exact_value(pilot, x, y), at, orders) for orders in ((1, 0), (0, 1))]
    gradient = np.array(gradient, float)
    # A trillion prompts: rounding of their sum, 1e-16 of it, is a thousandth of a standard deviation.
    tolerance = 1e-7 if pilot.total_prompts < 1e9 else 2e-3
    assert math.sqrt(gradient @ np.linalg.solve(fitted.curvature, gradient)) < tolerance


@pytest.mark.parametrize(
    "cells",
    [
        [(8, 0, 30), (8, 2, 20), (8, 8, 14)],
        [(16, 1, 3), (16, 2, 9), (16, 3, 4)],
        [(4, 0, 7), (12, 3, 5), (100, 1, 2)],
        [(8, 0, 64)],
        [(300, 299, 2), (300, 4, 2)],
    ],
)
def test_the_fit_equals_a_search_by_hand(cells):
    """A lattice of 21 × 21 points, halved in width around its best until it is 1e-7 wide."""
    pilot = rl2ml.PilotHistogram.from_cells(cells)
    center, width = np.zeros(2), 12.0
    while width > 1e-7:
        logits, logs = (x.ravel() for x in np.meshgrid(*(c + np.linspace(-width, width, 21) for c in center)))
        best = int(np.argmax(values(pilot, logits, logs)))
        center, width = np.array([logits[best], logs[best]]), width / 2
    # Near a maximum 1e-14 of rounding hides 1e-7 of distance.
    np.testing.assert_allclose(fit_prior(pilot).coordinates, center, atol=3e-6)


cells = st.lists(
    st.sampled_from([1, 2, 3, 8, 16, 64, 300, 5000]).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n), st.floats(1e-3, 1e6))
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=200)
@given(cells=cells)
def test_no_point_of_a_lattice_is_better(cells):
    pilot = rl2ml.PilotHistogram.from_cells(cells)
    fitted = fit_prior(pilot)
    logits, logs = (x.ravel() for x in np.meshgrid(np.linspace(-12, 12, 25), np.linspace(-9, 14, 24)))
    best = values(pilot, logits, logs).max()
    assert penalized(fitted) >= best - 1e-9 * (abs(best) + pilot.total_prompts)


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 1.5), (5, 2)])
def test_the_prior_that_made_a_pilot_is_recovered(alpha, beta):
    rng = np.random.default_rng(1)
    distances = []
    for _ in range(60):
        k = rng.binomial(16, rng.beta(alpha, beta, 400))
        fitted = fit_prior(rl2ml.PilotHistogram.from_counts(k, 16))
        error = fitted.coordinates - [math.log(alpha / beta), math.log(alpha + beta)]
        distances.append(error @ fitted.curvature @ error)
    # χ² with two degrees of freedom: mean 2, and the mean of 60 has a standard deviation of 2/√60 = .26.
    assert np.mean(distances) == pytest.approx(2, abs=4 * 0.26)
    assert fitted.prior.alpha == pytest.approx(alpha, rel=0.3)
    assert fitted.prior.beta == pytest.approx(beta, rel=0.3)


@pytest.mark.parametrize("successes", [0, 1, 14, 32, 64])
def test_one_rollout_per_prompt_leaves_the_concentration_at_its_center(successes):
    k = np.arange(64) < successes
    fitted = fit_prior(rl2ml.PilotHistogram.from_counts(k.astype(int), 1))
    assert fitted.prior.alpha + fitted.prior.beta == pytest.approx(2, rel=1e-14)
    np.testing.assert_array_equal(fitted.scores[:, 1], 0)
    assert fitted.curvature[1, 1] == pytest.approx(HYPERPRIOR_SPREAD[1] ** -2, rel=1e-14)


def test_hardly_a_prompt_gives_the_uniform_prior():
    prior = fit_prior(PILOTS["hardly a prompt"]).prior
    assert prior.alpha == pytest.approx(1, abs=1e-10)
    assert prior.beta == pytest.approx(1, abs=1e-10)


def test_known_shapes():
    """All fail: little mass, next to zero. All equal: narrow, at their rate. All or nothing: next to both ends."""
    fail = fit_prior(PILOTS["all fail"]).prior
    assert fail.alpha < 0.01 < 0.5 < fail.beta
    equal = fit_prior(PILOTS["all equal"]).prior
    assert equal.alpha > 30
    assert equal.alpha == pytest.approx(equal.beta)
    split = fit_prior(rl2ml.PilotHistogram.from_cells([(8, 0, 50), (8, 8, 50)])).prior
    assert split.alpha < 0.05
    assert split.alpha == pytest.approx(split.beta)


@every_pilot
def test_failures_mirror_successes(pilot):
    mirrored = rl2ml.PilotHistogram.from_cells([(n, n - k, w) for n, k, w in pilot.cells()])
    fitted, other = fit_prior(pilot), fit_prior(mirrored)
    tolerance = 1e-7 / math.sqrt(np.linalg.eigvalsh(fitted.curvature)[0])
    if pilot.total_prompts > 1e9:
        tolerance *= 1e5
    np.testing.assert_allclose(other.coordinates, fitted.coordinates * [-1, 1], atol=tolerance)


def test_weights_are_numbers_of_prompts():
    once, twice = fit_prior(PILOT + PILOT), fit_prior(rl2ml.PilotHistogram.from_cells(
        [(n, k, 2 * w) for n, k, w in PILOT.cells()]
    ))  # fmt: skip
    np.testing.assert_array_equal(once.coordinates, twice.coordinates)
    total = sum(log_likelihood(part, once.prior) for part in (PILOT, UNEQUAL))
    assert log_likelihood(PILOT + UNEQUAL, once.prior) == pytest.approx(total, rel=1e-13)
    assert log_likelihood(PILOT, fit_prior(PILOT).prior) == pytest.approx(fit_prior(PILOT).log_likelihood, rel=1e-13)


def test_more_prompts_outweigh_the_hyperprior():
    fits = [
        fit_prior(rl2ml.PilotHistogram.from_cells([(n, k, w * many) for n, k, w in PILOT.cells()]))
        for many in (1, 1e3, 1e6, 1e9)
    ]
    # The hyperprior moves the fit by curvature⁻¹ times its pull: a thousandth as far with a thousand times the prompts.
    gaps = [np.abs(fit.coordinates - fits[-1].coordinates).max() for fit in fits[:-1]]
    assert gaps[0] > 1e-3
    assert gaps[1] == pytest.approx(gaps[0] / 1e3, rel=0.1)
    assert gaps[2] == pytest.approx(gaps[0] / 1e6, rel=0.1)


def test_scores_predict_the_fit_to_other_weights():
    pilot = rl2ml.PilotHistogram.from_counts(np.random.default_rng(0).binomial(16, 0.3, 500) // 2, 16)
    fitted = fit_prior(pilot)
    change = 1e-4 * pilot.num_prompts * np.random.default_rng(1).standard_normal(pilot.num_cells)
    other = fit_prior(rl2ml.PilotHistogram(pilot.num_rollouts, pilot.num_successes, pilot.num_prompts + change))
    step = np.linalg.solve(fitted.curvature, change @ fitted.scores)
    np.testing.assert_allclose(other.coordinates - fitted.coordinates, step, rtol=1e-2, atol=1e-8)


def test_of_two_summits_the_higher_is_taken():
    fitted = fit_prior(TWO_SUMMITS)
    # Around the long prompts, all at one half, though the short ones all succeed.
    assert fitted.coordinates[0] == pytest.approx(0, abs=0.01)
    assert fitted.coordinates[1] > 10
    logits, logs = (x.ravel() for x in np.meshgrid(np.linspace(-2, 4, 61), np.linspace(-2, 14, 65)))
    assert penalized(fitted) >= values(TWO_SUMMITS, logits, logs).max()


@pytest.mark.parametrize(
    ("coordinates", "alpha", "beta"),
    [
        ((0, math.log(2)), 1, 1),
        ((math.log(0.25), math.log(5)), 1, 4),
        ((-60, 0), 1e-9, 1),
        ((60, 0), 1, 1e-9),
        ((0, 200), 5e8, 5e8),
        ((0, -200), 1e-9, 1e-9),
        ((-1000, 1000), 1e-9, 1e9),
    ],
)
def test_prior_at_coordinates(coordinates, alpha, beta):
    prior = prior_at(np.array(coordinates, float))
    assert prior.alpha == pytest.approx(alpha, rel=1e-12)
    assert prior.beta == pytest.approx(beta, rel=1e-12)


def test_coordinates_and_priors_are_inverse():
    for prior in (rl2ml.BetaPrior(0.3, 1.5), rl2ml.BetaPrior(40, 2)):
        back = prior_at(coordinates_of(prior))
        assert (back.alpha, back.beta) == pytest.approx((prior.alpha, prior.beta))


def test_scores_anywhere_are_derivatives_of_the_log_law():
    k, n = np.array([0, 2, 7, 8]), 8
    theta = np.array([-0.7, 0.4])
    found = scores_at(theta, k, n - k)
    for i in (0, 1):
        step = 1e-5 * np.eye(2)[i]
        above, below = (log_law(k, n - k, prior_at(theta + side * step)) for side in (1, -1))
        np.testing.assert_allclose(found[:, i], (above - below) / 2e-5, rtol=1e-7, atol=1e-9)


def test_a_fit_is_where_scores_and_the_hyperprior_balance():
    pilot = rl2ml.PilotHistogram.from_counts([0, 0, 1, 3, 8, 2, 5, 0], 8)
    fitted = rl2ml.fit_prior(pilot)
    pull, penalty = hyperprior(fitted.coordinates)
    np.testing.assert_allclose(pilot.num_prompts @ fitted.scores + pull, 0, atol=1e-5)
    np.testing.assert_allclose(penalty, fitted.penalty)
    np.testing.assert_allclose(hyperprior(np.tile(fitted.coordinates, (3, 1)))[0], np.tile(pull, (3, 1)))
