"""Laws and moments of a population against 50-digit log-gammas. Shapes: C cells, n the degree of a Bernstein basis."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.objective.population import as_population

DEGREES = [0, 1, 2, 7, 63, 64, 65, 1024]
# (n, k), the last ones extreme: nothing of 10^4, all but one, 10^7.
CELLS = [(1, 0), (8, 0), (8, 3), (8, 8), (10_000, 0), (10_000, 9_999), (10_000_000, 1)]
PRIORS = [rl2ml.BetaPrior(1, 1), rl2ml.BetaPrior(0.5, 8), rl2ml.BetaPrior(3, 0.25)]
POINTS = [5e-324, 1e-300, 1e-12, 0.1, 0.5, 0.9, 1 - 1e-6]


def posteriors(prior) -> rl2ml.Population:
    n, k = np.array(CELLS, dtype=float).T
    return rl2ml.Population(k, n - k, np.ones(n.size), prior)


def some_of(degree: int) -> list[int]:
    chosen = {0, 1, 2, degree // 10, degree // 3, degree // 2, degree - 2, degree - 1, degree}
    return sorted(m for m in chosen if 0 <= m <= degree)


def assert_close_logs(found: float, exact: mpmath.mpf, relative: float = 1e-12) -> None:
    """Logs within `relative` as probabilities; far below the smallest float only their own digits count."""
    assert abs(mpmath.mpf(float(found)) - exact) <= relative * max(1, abs(exact) / 700), (found, exact)


@pytest.mark.parametrize("degree", DEGREES)
@pytest.mark.parametrize("prior", PRIORS, ids=str)
def test_law_of_a_posterior_is_beta_binomial(degree, prior, log_beta_binomial):
    population = posteriors(prior)
    logs = population.log_bernstein(degree)
    assert logs.shape == (len(CELLS), degree + 1)
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1, rtol=1e-13)
    for row, a, b in zip(logs, population.shape_success, population.shape_failure, strict=True):
        for m in some_of(degree):
            assert_close_logs(row[m], log_beta_binomial(a, b, degree, m), 3e-12)


@pytest.mark.parametrize("degree", [2, 65, 65_535])
@pytest.mark.parametrize("beta", [1e-9, 1e-4, 0.3])
def test_law_keeps_the_digits_of_a_tiny_prior(degree, beta, log_beta_binomial):
    # All of 8 succeeded: the second shape parameter is the prior's alone, and must not vanish beside the degree.
    population = rl2ml.Population([8.0], [0.0], [1.0], rl2ml.BetaPrior(1, beta))
    logs = population.log_bernstein(degree)[0]
    for m in (degree, degree - 1, degree - 2):
        assert_close_logs(logs[m], log_beta_binomial(9, beta, degree, m), 2e-11)


@pytest.mark.parametrize("degree", DEGREES)
def test_law_of_a_point_is_binomial(degree, log_binomial):
    logs = rl2ml.Population.from_pass_rates(POINTS).log_bernstein(degree)
    for row, p in zip(logs, POINTS, strict=True):
        for m in some_of(degree):
            assert_close_logs(row[m], log_binomial(p, degree, m), 1e-11)


@pytest.mark.parametrize("degree", [0, 1, 8, 65, 1024])
def test_certain_prompts_have_one_outcome(degree):
    law = np.exp(rl2ml.Population.from_pass_rates([0.0, 1.0]).log_bernstein(degree))
    expected = np.zeros((2, degree + 1))
    expected[0, 0] = expected[1, degree] = 1
    np.testing.assert_allclose(law, expected, atol=1e-300)


def test_law_by_hand():
    # Beta(1,1): every count equally likely. Beta(2,1), degree 2: C(2,m) B(2+m, 3−m)/B(2,1) = 1/6, 2/6, 3/6.
    people = rl2ml.Population([0.0, 1.0], [0.0, 0.0], [1.0, 1.0])
    np.testing.assert_allclose(np.exp(people.log_bernstein(2)), [[1 / 3] * 3, [1 / 6, 2 / 6, 3 / 6]], rtol=1e-14)


def test_law_of_a_large_degree_keeps_its_digits_around_the_peak(log_beta_binomial):
    people = rl2ml.Population([3.0, 5000.0], [5.0, 5000.0], [1.0, 1.0])
    logs = people.log_bernstein(65_535)
    for row, a, b in zip(logs, [4, 5001], [6, 5001], strict=True):
        for m in (10_000, 26_000, 32_000, 32_767, 33_500, 60_000):
            exact = log_beta_binomial(a, b, 65_535, m)
            if exact > -300:
                assert_close_logs(row[m], exact, 1e-12)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 300), degree=st.integers(0, 100), a=st.floats(0.05, 50), b=st.floats(0.05, 50), data=st.data())
def test_law_anywhere(log_beta_binomial, n, degree, a, b, data):
    k = data.draw(st.integers(0, n))
    m = data.draw(st.integers(0, degree))
    people = rl2ml.Population([float(k)], [float(n - k)], [1.0], rl2ml.BetaPrior(a, b))
    exact = log_beta_binomial(people.shape_success[0], people.shape_failure[0], degree, m)
    assert_close_logs(people.log_bernstein(degree)[0, m], exact, 2e-12)


# --- moments ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [0, 1, 7, 64, 65])
@pytest.mark.parametrize("i", [0, 1, 2])
@pytest.mark.parametrize("j", [0, 1, 2])
def test_moments_of_the_basis(degree, i, j):
    # E[p^i q^j C(n,m) p^m q^(n−m)] = C(n,m) B(a+m+i, b+n−m+j)/B(a,b); for points the product itself.
    population = posteriors(PRIORS[1])
    found = population.bernstein(degree)(i, j)
    points = rl2ml.Population.from_pass_rates(POINTS)
    found_points = points.bernstein(degree)(i, j)
    with mpmath.workdps(50):
        for row, a, b in zip(found, population.shape_success, population.shape_failure, strict=True):
            for m in some_of(degree):
                x, y = mpmath.mpf(float(a)), mpmath.mpf(float(b))
                scale = mpmath.binomial(degree, m)
                exact = scale * mpmath.beta(x + m + i, y + degree - m + j) / mpmath.beta(x, y)
                assert row[m] == pytest.approx(float(exact), rel=1e-11, abs=1e-300)
        for row, p in zip(found_points, POINTS, strict=True):
            for m in some_of(degree):
                x = mpmath.mpf(p)
                exact = mpmath.binomial(degree, m) * x ** (m + i) * (1 - x) ** (degree - m + j)
                assert row[m] == pytest.approx(float(exact), rel=1e-11, abs=1e-300)


@pytest.mark.parametrize(("i", "j"), [(0, 0), (1, 0), (2, 3), (2, 2), (0, 17), (2, 1025)])
def test_raised_is_a_moment_and_a_tilted_population(i, j):
    population = posteriors(PRIORS[1])
    logs, tilted = population.raised(i, j)
    with mpmath.workdps(50):
        for found, a, b in zip(logs, population.shape_success, population.shape_failure, strict=True):
            x, y = mpmath.mpf(float(a)), mpmath.mpf(float(b))
            gamma = mpmath.loggamma
            exact = gamma(x + i) - gamma(x) + gamma(y + j) - gamma(y) - gamma(x + y + i + j) + gamma(x + y)
            assert float(found) == pytest.approx(float(exact), rel=1e-9, abs=1e-8)
    np.testing.assert_array_equal(tilted.shape_success, population.shape_success + i)
    np.testing.assert_array_equal(tilted.shape_failure, population.shape_failure + j)
    # E[p^i q^j B_m] both ways, where the first way has digits left.
    if i <= 2 and j <= 3:
        both = np.exp(logs[:, None] + tilted.log_bernstein(6))
        np.testing.assert_allclose(both, population.bernstein(6)(i, j), rtol=1e-8)


def test_raised_points_stay_where_they_are():
    population = rl2ml.Population.from_pass_rates([0.2, 0.9])
    logs, tilted = population.raised(2, 3)
    np.testing.assert_allclose(np.exp(logs), [0.2**2 * 0.8**3, 0.9**2 * 0.1**3], rtol=1e-13)
    np.testing.assert_array_equal(tilted.pass_rates, population.pass_rates)


def test_posterior_means_after_more_rollouts():
    # Beta(k+a, n−k+b) after m of 3: (k+a+m)/(n+a+b+3).
    population = rl2ml.Population([2.0], [6.0], [1.0], rl2ml.BetaPrior(0.5, 1.5))
    np.testing.assert_allclose(population.posterior_means(3), [(2.5 + np.arange(4)) / 13], rtol=1e-15)
    np.testing.assert_allclose(population.pass_rates, [2.5 / 10], rtol=1e-15)
    points = rl2ml.Population.from_pass_rates([0.1, 0.7])
    np.testing.assert_allclose(points.posterior_means(3).ravel(), [0.1, 0.7], rtol=1e-15)


def test_plug_in_points_are_the_posterior_means():
    population = posteriors(PRIORS[0])
    points = population.at_means()
    assert points.prior is None
    np.testing.assert_allclose(points.pass_rates, [(k + 1) / (n + 2) for n, k in CELLS], rtol=1e-15)
    np.testing.assert_array_equal(points.weights, population.weights)


@given(cells=st.integers(1, 50), width=st.sampled_from([1, 1000, 30_000, 200_000, 262_144, 10**9]))
def test_blocks_cover_every_cell_once_and_stay_small(cells, width):
    population = rl2ml.Population(np.arange(cells, dtype=float), np.ones(cells), np.arange(1.0, cells + 1))
    seen = []
    for where, block in population.blocks(width):
        assert block.weights.size == 1 or block.weights.size * width <= 1 << 18
        np.testing.assert_array_equal(block.successes, population.successes[where])
        np.testing.assert_array_equal(block.failures, population.failures[where])
        np.testing.assert_array_equal(block.weights, population.weights[where])
        assert block.prior == population.prior
        seen += list(range(cells))[where]
    assert seen == list(range(cells))


def test_laws_of_different_degrees_do_not_mix():
    population = posteriors(PRIORS[0])
    first = population.log_bernstein(5).copy()
    assert population.log_bernstein(9).shape[1] == 10
    np.testing.assert_array_equal(population.log_bernstein(5), first)


# --- validation ------------------------------------------------------------------------------------------------------


def test_populations_keep_read_only_copies():
    k = np.array([1.0, 2.0])
    population = rl2ml.Population(k, [7, 6], [1, 1])
    k[0] = 99
    assert population.successes[0] == 1
    for array in (population.successes, population.failures, population.weights, population.log_bernstein(3)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_populations_made_from_others_are_read_only_too():
    pilot = rl2ml.PilotHistogram.from_cells([(8, 3, 2), (8, 0, 1)])
    population = pilot.population()
    for made in (population, pilot.population("plug_in"), population.at_means(), population.raised(2, 3)[1]):
        for array in (made.successes, made.failures, made.weights):
            assert not array.flags.writeable  # laws are kept: a change would leave them behind
    assert not population.bernstein(3).law.flags.writeable


def test_a_pilot_stands_for_its_posteriors():
    pilot = rl2ml.PilotHistogram.from_cells([(8, 3, 2), (8, 0, 1)])
    population = as_population(pilot)
    np.testing.assert_array_equal(population.successes, [0, 3])
    np.testing.assert_array_equal(population.failures, [8, 5])
    np.testing.assert_array_equal(population.weights, [1, 2])
    assert population.prior == rl2ml.fit_prior(pilot).prior
    assert as_population(population) is population


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0, 2.0], [1.0]), "three one-dimensional arrays of one length"),
        (([[1.0]], [[1.0]], [[1.0]]), "three one-dimensional arrays of one length"),
        ((1.0, 1.0, 1.0), "three one-dimensional arrays of one length"),
        (([], [], []), "at least one prompt with positive weight; got none"),
        (([1.0], [1.0], [0.0]), "at least one prompt with positive weight; got none"),
        (([-1.0], [1.0], [1.0]), r"population.successes must be finite and within \[0, inf\]; got -1 at index 0"),
        (([1.0], [float("nan")], [1.0]), "population.failures must be .* got nan at index 0"),
        (([1.0], [1.0], [float("inf")]), "population.weights must be .* got inf at index 0"),
        (([0.0], [0.0], [1.0], None), "a point mass needs a pass rate"),
    ],
)
def test_impossible_populations_are_refused(arguments, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        rl2ml.Population(*arguments)


@pytest.mark.parametrize("rates", [[1.5], [-0.1], [float("nan")], ["x"]])
def test_impossible_pass_rates_are_refused(rates):
    with pytest.raises(rl2ml.InvalidInput, match="pass_rates must be"):
        rl2ml.Population.from_pass_rates(rates)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1), "prior.alpha must be a finite number above 0 and at most 1e\\+09; got 0"),
        ((1, -2), "prior.beta must be .* got -2"),
        ((float("nan"), 1), "prior.alpha must be .* got nan"),
        ((1, 1.1e9), "prior.beta must be .* got 1100000000"),
        ((True, 1), "prior.alpha must be .* got True"),
        (("1", 1), "prior.alpha must be .* got '1'"),
    ],
)
def test_impossible_priors_are_refused(arguments, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        rl2ml.BetaPrior(*arguments)
