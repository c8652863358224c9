"""Leave-one-out baselines: none may change the mean gradient, the Bayes share is a posterior mean, least is least.

Shapes: Q pass rates, N rollouts.
"""

from itertools import product
from math import comb

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import roots_jacobi

import rl2ml_core as rl2ml
from rl2ml_core.objective.baselines import Estimator, energy_form, expected_pass_rate, resolve_baseline

SIZES = [1, 2, 3, 8, 64, 1024, 65_536]
HARD = rl2ml.Population([0.0], [1e4], [1.0])  # one cell: no success in 10,000
PEOPLE = {
    "mixed": rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 8, 14), (64, 63, 1)]),
    "hard": HARD,
    "easy": rl2ml.Population([1e4], [0.0], [1.0]),
    "skewed prior": rl2ml.Population([0.0, 3.0], [16.0, 13.0], [5.0, 1.0], rl2ml.BetaPrior(0.5, 4)),
    "points": rl2ml.Population.from_pass_rates([1e-12, 0.3, 0.9], [5, 1, 2]),
}
CENTERED = ["leave_one_out", "group_centered"]  # without filter_groups too, groups of equal rewards have no advantage


def population(name) -> rl2ml.Population:
    people = PEOPLE[name]
    return people if isinstance(people, rl2ml.Population) else people.population()


def num_terms(baseline, num_rollouts, order=None, filter_groups=False) -> int:
    """Terms of the objective that an estimator optimizes: centering on the group's own mean costs one."""
    if num_rollouts == 1 and filter_groups:
        return 0
    most = num_rollouts - 1 if baseline == "group_centered" else num_rollouts
    return most if order is None else min(order, most)


def exact_weight(p, gamma, baseline, num_rollouts, order=None, filter_groups=False):
    terms = num_terms(baseline, num_rollouts, order, filter_groups)
    return rl2ml.objective_weight(p, gamma, num_rollouts, terms) if terms else np.zeros(np.shape(p))


def rounding(table, p):
    """What the mean gradient may be off by because advantages are rounded, where they exceed their contrasts by far."""
    return 1e-15 * rl2ml.AdvantageTable(np.abs(table.success), -np.abs(table.failure)).weight(p)


# --- unbiasedness ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rollouts", SIZES)
@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize("filter_groups", [False, True])
def test_every_baseline_leaves_the_weight_alone(baseline, num_rollouts, filter_groups):
    p = np.array([0, 1e-12, 1e-4, 0.1, 0.5, 0.9, 1])
    few = num_rollouts > 1024
    for people in [PEOPLE["mixed"], HARD] if few else PEOPLE.values():
        for gamma in (1.3,) if few else (0, 0.5, 1, 1.7, 5):
            table = rl2ml.rl2ml_table(gamma, num_rollouts, baseline, people, filter_groups=filter_groups)
            exact = exact_weight(p, gamma, baseline, num_rollouts, filter_groups=filter_groups)
            np.testing.assert_allclose(table.weight(p), exact, rtol=1e-12)


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize(("num_rollouts", "order"), [(2, 1), (8, 3), (8, 8), (64, 63), (1024, 16)])
@pytest.mark.parametrize("filter_groups", [False, True])
def test_baselines_of_a_truncated_objective_have_its_weight(baseline, num_rollouts, order, filter_groups):
    p = np.array([0, 1e-4, 0.1, 0.6, 1])
    for gamma in (0, 0.5, 1.7):
        table = rl2ml.rl2ml_table(
            gamma, num_rollouts, baseline, PEOPLE["mixed"], order=order, filter_groups=filter_groups
        )
        expected = exact_weight(p, gamma, baseline, num_rollouts, order)
        np.testing.assert_allclose(table.weight(p), expected, rtol=1e-12)


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2.5])
@pytest.mark.parametrize("order", [None, 2])
@pytest.mark.parametrize("filter_groups", [False, True])
def test_the_mean_over_all_groups_of_a_policy_is_the_objective_gradient(baseline, gamma, order, filter_groups, softmax):
    policy = softmax([0.2, -1.0, 0.9, -0.3], [1, 0, 0, 1])
    for num_rollouts in range(1, 7):
        truncated = None if order is None else min(order, num_rollouts)
        table = rl2ml.rl2ml_table(
            gamma, num_rollouts, baseline, PEOPLE["mixed"], order=truncated, filter_groups=filter_groups
        )
        gradient, _ = policy.enumerate(table.success, table.failure)
        weight = sum(
            np.prod([(gamma + i) / (i + 1) for i in range(m)]) * (1 - policy.pass_rate) ** m
            for m in range(num_terms(baseline, num_rollouts, truncated, filter_groups))
        )
        np.testing.assert_allclose(gradient, weight * policy.gradient, rtol=1e-12, atol=1e-14)


@settings(max_examples=100, deadline=None)
@given(
    gamma=st.floats(0, 20),
    num_rollouts=st.integers(1, 100),
    p=st.floats(0, 1),
    cells=st.lists(
        st.integers(1, 1000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.floats(0.01, 1e6))),
        min_size=1,
        max_size=5,
    ),
    baseline=st.sampled_from(sorted(rl2ml.BASELINES)),
    filter_groups=st.booleans(),
)
def test_unbiased_for_any_pilot(gamma, num_rollouts, p, cells, baseline, filter_groups):
    people = rl2ml.PilotHistogram.from_cells(cells)
    table = rl2ml.rl2ml_table(gamma, num_rollouts, baseline, people, filter_groups=filter_groups)
    exact = exact_weight(p, gamma, baseline, num_rollouts, filter_groups=filter_groups)
    assert abs(table.weight(p) - exact) <= 1e-12 * exact + rounding(table, p)


# --- what each one is ------------------------------------------------------------------------------------------------


def test_none_and_score_are_the_forms_of_the_paper():
    for gamma in (0, 0.5, 1, 1.5):
        beta = rl2ml.success_weights(gamma, 6)
        direct, control = (rl2ml.rl2ml_table(gamma, 6, name) for name in ("none", "score"))
        np.testing.assert_array_equal(direct.success, [0, *beta])
        np.testing.assert_array_equal(direct.failure, 0)
        np.testing.assert_array_equal(control.success, [0, *(beta - 1)])  # A_i = β_{K−1} r_i − 1
        np.testing.assert_array_equal(control.failure, [-1] * 6 + [0])  # all-fail groups too


@pytest.mark.parametrize("num_rollouts", [2, 3, 8, 64])
def test_leave_one_out_is_rloo_for_plain_rl(num_rollouts):
    ours, rloo = rl2ml.rl2ml_table(0, num_rollouts, "leave_one_out"), rl2ml.known_table("rloo", num_rollouts)
    np.testing.assert_allclose(ours.success, rloo.success, rtol=1e-14, atol=1e-16)
    np.testing.assert_allclose(ours.failure, rloo.failure, rtol=1e-14)


def test_leave_one_out_scales_rloo_by_the_success_weight():
    # b(m) = β_m m/(N−1): with γ = 1, N = 4: β = 4, 2, 4/3, 1, so b = 0, 2/3, 8/9, 1.
    table = rl2ml.rl2ml_table(1, 4, "leave_one_out")
    np.testing.assert_allclose(table.failure, [0, -2 / 3, -8 / 9, -1, 0], rtol=1e-14)
    np.testing.assert_allclose(table.success, [0, 4, 4 / 3, 4 / 9, 0], rtol=1e-14, atol=1e-15)


def test_bayes_by_hand():
    # One cell of 1 in 2 under Beta(1,1): Beta(2,2). N = 2: E[p | m of 1] = (2+m)/5 = .4, .6. γ = 1: β = 2, 1.
    people = rl2ml.PilotHistogram.from_cells([(2, 1, 7)]).population(rl2ml.BetaPrior(1, 1))
    table = rl2ml.rl2ml_table(1, 2, "bayes", people)
    np.testing.assert_allclose(table.failure, [-0.8, -0.6, 0], rtol=1e-14)
    np.testing.assert_allclose(table.success, [0, 1.2, 0.4], rtol=1e-14)


def test_the_default_baseline_follows_the_population():
    people = PEOPLE["mixed"]
    assert resolve_baseline(None, None) == "leave_one_out"
    assert resolve_baseline(None, people) == "bayes"
    assert rl2ml.rl2ml_table(0.5, 8) == rl2ml.rl2ml_table(0.5, 8, "leave_one_out")
    assert rl2ml.rl2ml_table(0.5, 8, population=people) == rl2ml.rl2ml_table(0.5, 8, "bayes", people)
    assert rl2ml.rl2ml_table(0.5, 8, "bayes", people) == rl2ml.rl2ml_table(0.5, 8, "bayes", people.population())
    assert rl2ml.rl2ml_table(0.5, 8, "bayes", people) != rl2ml.rl2ml_table(0.5, 8, "leave_one_out")


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 7])
def test_one_rollout_is_plain_rl(gamma):
    for baseline, failure in (("none", 0), ("score", -1), ("leave_one_out", 0)):
        table = rl2ml.rl2ml_table(gamma, 1, baseline)
        np.testing.assert_allclose(table.failure, [failure, 0], atol=1e-15)
        np.testing.assert_allclose(table.success, [0, 1 + failure], atol=1e-15)
    # With a pilot there still is its mean to subtract: (30·1/10 + 34·9/10)/64.
    people = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 8, 34)]).population(rl2ml.BetaPrior(1, 1))
    mean = (30 * 0.1 + 34 * 0.9) / 64
    for baseline in ("bayes", "minimum_variance"):
        table = rl2ml.rl2ml_table(gamma, 1, baseline, people)
        np.testing.assert_allclose(table.failure, [-mean, 0], rtol=1e-13)
        np.testing.assert_allclose(table.success, [0, 1 - mean], rtol=1e-13)


@pytest.mark.parametrize("filter_groups", [False, True])
@pytest.mark.parametrize("order", [None, 3])
def test_tables_of_several_objectives_are_those_of_each(order, filter_groups):
    gammas = np.array([0, 0.5, 1.7])
    for name in rl2ml.BASELINES:
        estimator = Estimator.named(name, 9, population("mixed"), order=order, filter_groups=filter_groups)
        success, failure = estimator.tables(gammas)
        for row, gamma in enumerate(gammas):
            one = rl2ml.rl2ml_table(gamma, 9, name, PEOPLE["mixed"], order=order, filter_groups=filter_groups)
            np.testing.assert_array_equal(success[row], one.success)
            np.testing.assert_array_equal(failure[row], one.failure)


# --- the Bayes share -------------------------------------------------------------------------------------------------


def exact_share(people, num_others, m):
    """E[p | m of n] = Σ ω_c B(a+m+1, b+n−m)/B(a,b) / Σ ω_c B(a+m, b+n−m)/B(a,b), in 50 digits."""
    with mpmath.workdps(50):
        above = below = mpmath.mpf(0)
        prior = people.prior
        for k, failures, weight in zip(people.successes, people.failures, people.weights, strict=True):
            if prior is None:
                p = mpmath.mpf(float(k)) / (mpmath.mpf(float(k)) + mpmath.mpf(float(failures)))
                likelihood = float(weight) * p**m * (1 - p) ** (num_others - m)
                above, below = above + p * likelihood, below + likelihood
            else:
                a, b = mpmath.mpf(float(k)) + prior.alpha, mpmath.mpf(float(failures)) + prior.beta
                scale = float(weight) / mpmath.beta(a, b)
                above += scale * mpmath.beta(a + m + 1, b + num_others - m)
                below += scale * mpmath.beta(a + m, b + num_others - m)
        return above / below


@pytest.mark.parametrize("m", [0, 1, 4, 7])
def test_bayes_share_equals_quadrature_over_the_posterior(m):
    # E[p | m of 7] = ∫ p · p^m (1−p)^(7−m) dF / ∫ p^m (1−p)^(7−m) dF, F the mixture of the pilot's posteriors.
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (12, 11, 14)])

    def density(p):
        cells = ((n, k, prompts, mpmath.beta(k + 1, n - k + 1)) for n, k, prompts in pilot.cells())
        return sum(prompts * p**k * (1 - p) ** (n - k) / constant for n, k, prompts, constant in cells)

    def weighted(p):
        return p**m * (1 - p) ** (7 - m) * density(p)

    exact = mpmath.quad(lambda p: p * weighted(p), [0, 1]) / mpmath.quad(weighted, [0, 1])
    assert expected_pass_rate(pilot.population(rl2ml.BetaPrior(1, 1)), 7)[m] == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("num_others", [0, 1, 7, 63, 64, 65, 1023])
@pytest.mark.parametrize("people", PEOPLE)
def test_bayes_share_equals_the_posterior_mean(people, num_others):
    shares = expected_pass_rate(population(people), num_others)
    assert shares.shape == (num_others + 1,)
    for m in sorted({0, 1, 2, num_others // 2, num_others - 1, num_others} & set(range(num_others + 1))):
        assert shares[m] == pytest.approx(float(exact_share(population(people), num_others, m)), rel=1e-11)


@settings(max_examples=60, deadline=None)
@given(
    num_others=st.integers(0, 40),
    cells=st.lists(
        st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, 50))),
        min_size=1,
        max_size=4,
    ),
    alpha=st.floats(0.1, 20),
    beta=st.floats(0.1, 20),
)
def test_bayes_share_is_a_rate_and_grows_with_the_successes_of_the_others(num_others, cells, alpha, beta):
    people = rl2ml.PilotHistogram.from_cells(cells).population(rl2ml.BetaPrior(alpha, beta))
    shares = expected_pass_rate(people, num_others)
    assert np.all((shares > 0) & (shares < 1))
    assert np.all(np.diff(shares) >= -1e-13)


def test_bayes_share_ignores_cells_without_prompts():
    with_empty = rl2ml.Population([1.0, 7.0], [7.0, 1.0], [3.0, 0.0])
    without = rl2ml.Population([1.0], [7.0], [3.0])
    np.testing.assert_array_equal(expected_pass_rate(with_empty, 5), expected_pass_rate(without, 5))


def test_ten_thousand_failures_and_a_large_group_stay_finite():
    # The law of m underflows far before m = N−1; the share must not: E[p | m] = (1+m)/(10^4+2+1023).
    table = rl2ml.rl2ml_table(1.2, 1024, "bayes", HARD)
    beta = rl2ml.success_weights(1.2, 1024)
    m = np.arange(1024)
    assert np.all(np.isfinite(table.success) & np.isfinite(table.failure))
    np.testing.assert_allclose(-table.failure[:-1] / beta, (1 + m) / (10_002 + 1023), rtol=1e-12)
    assert 0 < table.rms(HARD) < np.inf


def test_many_cells_are_worked_through_in_runs():
    # 1,400 cells × 201 successes exceed one block of 2^18 values.
    rng = np.random.default_rng(0)
    k = rng.integers(0, 5001, 1400)
    people = rl2ml.Population(k, 5000 - k, rng.uniform(0.5, 2, 1400))
    assert len(list(people.blocks(201))) == 2
    assert expected_pass_rate(people, 200)[90] == pytest.approx(float(exact_share(people, 200, 90)), rel=1e-11)


def test_bayes_share_of_certain_prompts():
    # Points at 0, .3 and 1, weights 5, 1, 2; others: none of 4 succeeds, one does, all do.
    none, every = 0.7**4, 0.3**4
    shares = expected_pass_rate(rl2ml.Population.from_pass_rates([0.0, 0.3, 1.0], [5, 1, 2]), 4)
    np.testing.assert_allclose(shares[0], 0.3 * none / (5 + none), rtol=1e-13)
    np.testing.assert_allclose(shares[1:4], 0.3, rtol=1e-13)
    np.testing.assert_allclose(shares[4], (0.3 * every + 2) / (every + 2), rtol=1e-13)


# --- the baseline of least variance ----------------------------------------------------------------------------------


def spread(people, degree):
    """Pass rates and normalized weights [Q] that integrate polynomials of a degree exactly: Gauss–Jacobi per cell."""
    rates, weights = [], []
    for k, failures, weight in zip(people.successes, people.failures, people.weights, strict=True):
        if people.prior is None:
            rates.append([k / (k + failures)])
            weights.append([weight])
        else:
            x, mass = roots_jacobi(degree // 2 + 1, failures + people.prior.beta - 1, k + people.prior.alpha - 1)
            rates.append((x + 1) / 2)
            weights.append(weight * mass / mass.sum())
    return np.concatenate(rates), np.concatenate(weights) / people.weights.sum()


def binomial_law(p, num_rollouts):
    """P(K = 0..N) at each pass rate, [Q, N+1]."""
    return np.array(
        [[comb(num_rollouts, k) * x**k * (1 - x) ** (num_rollouts - k) for k in range(num_rollouts + 1)] for x in p]
    )


def literal_noise(success, failure, p, weights, scores):
    """E‖ĝ‖² and tr Cov ĝ over prompts: sums of squares over success counts, E7 before it is multiplied out."""
    n = len(success) - 1
    k = np.arange(n + 1)
    law = binomial_law(p, n)
    mu, nu, noise, noise_of_failures = lengths(scores, p)
    along = (mu * k * success - nu * (n - k) * failure) / n  # of the conditional mean, [Q, N+1]
    rest = (noise * k * success**2 + noise_of_failures * (n - k) * failure**2) / n**2
    mean = (law * along).sum(axis=1)[:, None]
    energy, variance = ((law * (x**2 + rest)).sum(axis=1) for x in (along, along - mean))
    return weights @ energy, weights @ variance


def lengths(scores, p):
    """‖μ‖, ‖ν‖, tr Σ and tr Σ_f, each [Q, 1]."""
    quantities = scores.success_mean, scores.failure_mean, scores.success_noise, scores.failure_noise
    return [np.array(quantity(p), float)[:, None] for quantity in quantities]


def dense_baseline(weights_of_success, p, weights, scores, given):
    """The b of least E‖ĝ‖² with some entries given, {m: b(m)}: all N² entries of the form, and a dense solution.

    E‖ĝ‖² is a sum of squares (c + Σ_m g_m b(m))²; each is a row of c and g.
    """
    n = len(weights_of_success)
    rows, constants = [], []
    for mu, nu, noise, noise_of_failures, weight, law in zip(
        *(x[:, 0] for x in lengths(scores, p)), weights, binomial_law(p, n), strict=True
    ):
        for k in range(n + 1):
            size = np.sqrt(weight * law[k]) / n
            along, of_success, of_failure = np.zeros((3, n))
            beta = weights_of_success[k - 1] if k else 0.0
            if k:
                along[k - 1] = -mu * k
                of_success[k - 1] = -np.sqrt(noise * k)
            if k < n:
                along[k] = nu * (n - k)
                of_failure[k] = np.sqrt(noise_of_failures * (n - k))
            rows += [size * along, size * of_success, size * of_failure]
            constants += [size * mu * k * beta, size * np.sqrt(noise * k) * beta, 0.0]
    rows, constants = np.array(rows), np.array(constants)
    matrix, right = rows.T @ rows, -rows.T @ constants
    scale = np.sqrt(np.diag(matrix))  # likely and unlikely counts differ by powers of ten
    b = np.zeros(n)
    b[list(given)] = list(given.values())
    free = [m for m in range(n) if m not in given]
    if free:
        right = (right - matrix @ b) / scale
        b[free] = np.linalg.solve((matrix / np.outer(scale, scale))[np.ix_(free, free)], right[free]) / scale[free]
    return b


def unbiased(weights_of_success, b):
    """The table of a baseline: t_m = −b(m), s_{m+1} = β_m − b(m)."""
    return rl2ml.AdvantageTable(np.append(0, weights_of_success - b), np.append(-b, 0))


GEOMETRIES = {
    "kappa = 1e-6": rl2ml.ScoreModel(1e-6),
    "kappa = 0.1": rl2ml.ScoreModel(),
    "kappa = 1": rl2ml.ScoreModel(1),
    "paper": rl2ml.ScoreModel.paper(),
    "measured": rl2ml.MeasuredScores(0.7, 2.0, 0.3),
    "no noise": rl2ml.MeasuredScores(1.0, 0.0, 0.0),
}
SMALL = {
    "posteriors": rl2ml.Population([0.0, 2.0, 8.0], [8.0, 6.0, 0.0], [3.0, 2.0, 1.4]),
    "skewed prior": rl2ml.Population([0.0, 3.0], [16.0, 13.0], [5.0, 1.0], rl2ml.BetaPrior(0.5, 4)),
    "points": rl2ml.Population.from_pass_rates([0.02, 0.3, 0.9], [5, 1, 2]),
    "one point": rl2ml.Population.from_pass_rates([0.4]),
}


def integrated(people, scores, num_rollouts):
    """Where the library integrates: over posteriors under the κ-model, at the cells' means under any other geometry."""
    exact = isinstance(scores, rl2ml.ScoreModel) and scores.name == "kappa"
    return spread(people if exact else people.at_means(), num_rollouts + 4)


@pytest.mark.parametrize("people", SMALL)
@pytest.mark.parametrize("scores", GEOMETRIES)
@pytest.mark.parametrize("num_rollouts", [1, 2, 3, 7, 24])
def test_energy_form_equals_the_literal_sum(people, scores, num_rollouts):
    success, failure = np.random.default_rng(num_rollouts).normal(size=(2, num_rollouts + 1))
    success[0] = failure[-1] = 0
    a, d, x = energy_form(SMALL[people], num_rollouts, GEOMETRIES[scores])
    assert (a.shape, d.shape, x.shape) == ((num_rollouts,), (num_rollouts,), (num_rollouts - 1,))
    form = a @ success[1:] ** 2 + d @ failure[:-1] ** 2 - 2 * x @ (success[1:-1] * failure[1:-1])
    points = integrated(SMALL[people], GEOMETRIES[scores], num_rollouts)
    assert form == pytest.approx(literal_noise(success, failure, *points, GEOMETRIES[scores])[0], rel=1e-11)


@pytest.mark.parametrize("scores", ["kappa = 0.1", "measured by cell"])
def test_energy_forms_of_many_cells_add_up(scores):
    # 1,400 cells × 201 successes exceed one block of 2^18 values.
    rng = np.random.default_rng(1)
    k, weights, means = rng.integers(0, 51, 1400), rng.uniform(0.5, 2, 1400), rng.uniform(0.5, 2, 1400)

    def form(where):
        measured = rl2ml.MeasuredScores(means[where], 1.0, 0.5)
        people = rl2ml.Population(k[where], 50 - k[where], weights[where])
        return np.concatenate(energy_form(people, 200, GEOMETRIES.get(scores, measured))) * weights[where].sum()

    assert len(list(rl2ml.Population(k, 50 - k, weights).blocks(200))) == 2
    parts = [form(slice(start, start + 100)) for start in range(0, 1400, 100)]
    np.testing.assert_allclose(form(slice(None)), np.sum(parts, axis=0), rtol=1e-12)


@pytest.mark.parametrize("people", SMALL)
@pytest.mark.parametrize("scores", GEOMETRIES)
@pytest.mark.parametrize("num_rollouts", [1, 2, 3, 7, 24])
def test_the_matrix_is_dominated_by_its_diagonal_by_the_energy_of_a_score(people, scores, num_rollouts):
    # Each row of the form's matrix adds up to E[B_m E‖S‖²]/N, so that no solution can fail, even without noise.
    a, d, x = energy_form(SMALL[people], num_rollouts, GEOMETRIES[scores])
    p, weights = integrated(SMALL[people], GEOMETRIES[scores], num_rollouts)
    mu, nu, noise, noise_of_failures = (quantity[:, 0] for quantity in lengths(GEOMETRIES[scores], p))
    energy = p * (mu**2 + noise) + (1 - p) * (nu**2 + noise_of_failures)
    excess = a + d - np.append(0, x) - np.append(x, 0)
    exact = (weights * energy) @ binomial_law(p, num_rollouts - 1) / num_rollouts
    np.testing.assert_allclose(excess, exact, rtol=1e-10)
    assert np.all(excess > 0)


@pytest.mark.parametrize("people", SMALL)
@pytest.mark.parametrize("scores", GEOMETRIES)
@pytest.mark.parametrize(("num_rollouts", "order"), [(1, None), (2, None), (3, 2), (8, None), (8, 3), (24, None)])
@pytest.mark.parametrize("filter_groups", [False, True])
def test_minimum_variance_equals_the_dense_solution(people, scores, num_rollouts, order, filter_groups):
    people, scores = SMALL[people], GEOMETRIES[scores]
    points = integrated(people, scores, num_rollouts)
    for gamma in (0.0, 0.5, 1.0, 2.5, 20.0):
        table = rl2ml.rl2ml_table(
            gamma, num_rollouts, "minimum_variance", people, scores, order, filter_groups=filter_groups
        )
        if filter_groups and num_rollouts == 1:
            assert not table.success.any()
            assert not table.failure.any()
            continue
        beta = rl2ml.success_weights(gamma, num_rollouts, order)
        given = {0: 0.0, num_rollouts - 1: beta[-1]} if filter_groups else {}
        exact = dense_baseline(beta, *points, scores, given)
        np.testing.assert_allclose(-table.failure[:-1], exact, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(table.success[1:], beta - exact, rtol=1e-10, atol=1e-11)


@st.composite
def any_population(draw):
    weights = st.floats(0.01, 100)
    if draw(st.booleans()):
        rates = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1e-9, 0.5, 1 - 1e-9, 1.0]))
        points = draw(st.lists(st.tuples(rates, weights), min_size=1, max_size=3))
        return rl2ml.Population.from_pass_rates(*zip(*points, strict=True))
    counts = st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), weights))
    cells = np.array(draw(st.lists(counts, min_size=1, max_size=3)))
    shapes = st.floats(0.2, 4)
    prior = rl2ml.BetaPrior(draw(shapes), draw(shapes))
    return rl2ml.Population(cells[:, 1], cells[:, 0] - cells[:, 1], cells[:, 2], prior)


@settings(max_examples=200, deadline=None)
@given(
    people=any_population(),
    kappa=st.floats(-9, 0).map(lambda x: 10**x),
    gamma=st.one_of(st.floats(0, 20), st.floats(0, 2)),
    num_rollouts=st.integers(1, 64),
    share=st.floats(0, 1),
    filter_groups=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    step=st.floats(-6, 1).map(lambda x: 10**x),
)
def test_no_unbiased_form_is_less_noisy(people, kappa, gamma, num_rollouts, share, filter_groups, seed, step):
    assume(num_rollouts > 1 or not filter_groups)
    order = max(1, round(share * num_rollouts)) if share < 0.8 else None
    points = spread(people, num_rollouts + 4)

    def noise(table):
        return literal_noise(table.success, table.failure, *points, rl2ml.ScoreModel(kappa))[1]

    def table_of(baseline):
        return rl2ml.rl2ml_table(
            gamma, num_rollouts, baseline, people, rl2ml.ScoreModel(kappa), order, filter_groups=filter_groups
        )

    best = table_of("minimum_variance")
    beta = rl2ml.success_weights(gamma, num_rollouts, order)
    b = -best.failure[:-1] + step * beta * np.random.default_rng(seed).normal(size=num_rollouts)
    if filter_groups:
        b[0], b[-1] = 0, beta[-1]
    others = {name: table_of(name) for name in ("none", "score", "leave_one_out", "bayes")}
    for name, other in {**others, "any": unbiased(beta, b)}.items():
        assert noise(best) <= noise(other) * (1 + 1e-9) + 1e-290, name


@pytest.mark.parametrize("num_rollouts", [1, 2, 8, 64])
@pytest.mark.parametrize("people", SMALL)
@pytest.mark.parametrize("filter_groups", [False, True])
def test_where_noise_is_all_least_variance_is_bayes(people, num_rollouts, filter_groups):
    for gamma in (0.0, 0.7, 1.8):
        bayes = rl2ml.rl2ml_table(gamma, num_rollouts, "bayes", SMALL[people], filter_groups=filter_groups)
        distances = []
        for kappa in (1e-3, 1e-6, 1e-9):
            table = rl2ml.rl2ml_table(
                gamma,
                num_rollouts,
                "minimum_variance",
                SMALL[people],
                rl2ml.ScoreModel(kappa),
                filter_groups=filter_groups,
            )
            distances.append(np.abs(table.failure - bayes.failure).max())
        beta = (
            rl2ml.success_weights(gamma, 1)[0] if num_rollouts == 1 else rl2ml.success_weights(gamma, num_rollouts)[0]
        )
        assert distances[2] <= 1e-9 * num_rollouts * beta  # in proportion to κ
        assert distances[1] <= 1.1e-3 * distances[0] + 1e-14 * beta


def test_minimum_variance_by_hand():
    # N = 2, γ = 1, one point p = ½, κ = 1: β = 2, 1, B_m = ½, S_m = F_m = 1/8, e_1 = ½ · ½ · ¼ · ½ = 1/32.
    # (S_0+F_0+e_1) b_0 − e_1 b_1 = S_0 β_0 and (S_1+F_1+e_1) b_1 − e_1 b_0 = (S_1+e_1) β_1 − e_1 β_0; in 32nds
    # 9 b_0 − b_1 = 8 and 9 b_1 − b_0 = 3, so b = 75/80, 35/80.
    people = rl2ml.Population.from_pass_rates([0.5])
    table = rl2ml.rl2ml_table(1, 2, "minimum_variance", people, rl2ml.ScoreModel(1))
    np.testing.assert_allclose(table.failure, [-75 / 80, -35 / 80, 0], rtol=1e-14)
    np.testing.assert_allclose(table.success, [0, 85 / 80, 45 / 80], rtol=1e-14)


@pytest.mark.parametrize("num_rollouts", [1, 2, 4, 6])
@pytest.mark.parametrize("gamma", [0, 1.5])
@pytest.mark.parametrize("filter_groups", [False, True])
def test_least_variance_over_all_groups_of_two_policies(num_rollouts, gamma, filter_groups, softmax):
    if filter_groups and num_rollouts < 3:
        return  # nothing is free
    policies, weights = [softmax([0.2, -1.0, 0.9], [1, 0, 0]), softmax([1.0, -0.5, 0.1], [1, 0, 1])], [1.0, 2.5]
    moments = [(policy.moments(1), policy.moments(0)[1]) for policy in policies]
    scores = rl2ml.MeasuredScores(
        np.array([np.linalg.norm(mean) for (mean, _), _ in moments]),
        np.array([noise for (_, noise), _ in moments]),
        np.array([noise_of_failures for _, noise_of_failures in moments]),
    )
    people = rl2ml.Population.from_pass_rates([policy.pass_rate for policy in policies], weights)

    def variance(table):
        total = 0.0
        for policy, weight in zip(policies, weights, strict=True):
            gradient, energy = policy.enumerate(table.success, table.failure)
            total += weight * (energy - gradient @ gradient)
        return total

    best = rl2ml.rl2ml_table(gamma, num_rollouts, "minimum_variance", people, scores, filter_groups=filter_groups)
    beta, b = rl2ml.success_weights(gamma, num_rollouts), -best.failure[:-1]
    least = variance(best)
    for m in range(1, num_rollouts - 1) if filter_groups else range(num_rollouts):
        step = np.zeros(num_rollouts)
        step[m] = 0.5
        above, below = (variance(unbiased(beta, b + sign * step)) for sign in (1, -1))
        assert above == pytest.approx(below, rel=1e-11)  # a parabola around its lowest point
        assert above > least


def fifty_digits(people, beta, kappa):
    """The κ-model's tridiagonal equations by elimination, with beta-binomial laws from 50-digit log-gammas."""
    n = len(beta)
    with mpmath.workdps(50):
        a, gamma = [mpmath.mpf(0)] * n, mpmath.loggamma
        law, coupling = list(a), [*a, mpmath.mpf(0)]
        for k, failures, weight in zip(people.successes, people.failures, people.weights, strict=True):
            x, y = mpmath.mpf(float(k)) + people.prior.alpha, mpmath.mpf(float(failures)) + people.prior.beta
            constant = gamma(n) + gamma(x + y) - gamma(x) - gamma(y) - gamma(x + y + n - 1)
            for m in range(n):
                likely = constant + gamma(x + m) + gamma(y + n - 1 - m) - gamma(m + 1) - gamma(n - m)
                likely = float(weight) * mpmath.exp(likely)
                succeed = likely * (x + m) / (x + y + n - 1)
                law[m] += likely / n
                a[m] += succeed / n
                tail = (y + n - 1 - m) * (y + n - m) / ((x + y + n) * (x + y + n + 1))
                coupling[m] += mpmath.mpf(kappa) * m / n * succeed * tail
        pivots = [law[m] + coupling[m] + coupling[m + 1] for m in range(n)]
        right = [(a[m] + coupling[m]) * float(beta[m]) - coupling[m] * float(beta[m - 1]) for m in range(n)]
        for m in range(1, n):
            ratio = coupling[m] / pivots[m - 1]
            pivots[m] -= ratio * coupling[m]
            right[m] += ratio * right[m - 1]
        b = [right[-1] / pivots[-1]]
        for m in reversed(range(n - 1)):
            b.insert(0, (right[m] + coupling[m + 1] * b[0]) / pivots[m])
        return np.array([float(x) for x in b])


@pytest.mark.parametrize(
    ("people", "num_rollouts"), [("mixed", 500), ("skewed prior", 200), ("hard", 64), ("easy", 64)]
)
@pytest.mark.parametrize("kappa", [1e-9, 0.1, 1.0])
def test_minimum_variance_of_large_groups_equals_fifty_digits(people, num_rollouts, kappa):
    for gamma in (0.3, 1.7):
        beta = rl2ml.success_weights(gamma, num_rollouts)
        table = rl2ml.rl2ml_table(gamma, num_rollouts, "minimum_variance", PEOPLE[people], rl2ml.ScoreModel(kappa))
        exact = fifty_digits(population(people), beta, kappa)
        assert np.all(np.abs(-table.failure[:-1] - exact) <= 1e-12 * (np.abs(exact) + beta))


@pytest.mark.parametrize("kappa", [1e-9, 0.1, 1.0])
@pytest.mark.parametrize("people", ["hard", "easy"])
@pytest.mark.parametrize("filter_groups", [False, True])
def test_least_variance_where_most_counts_never_occur(people, kappa, filter_groups):
    # Of 1,024 counts only 230 have a probability that floating point can hold; the others get the posterior mean.
    scores = rl2ml.ScoreModel(kappa)
    best, bayes = (
        rl2ml.rl2ml_table(1.2, 1024, name, PEOPLE[people], scores, filter_groups=filter_groups)
        for name in ("minimum_variance", "bayes")
    )
    assert np.all(np.isfinite(best.success) & np.isfinite(best.failure))
    a, d, _ = energy_form(PEOPLE[people], 1024, scores)
    never = a + d < 1e-250
    assert 700 < never.sum() < 900
    np.testing.assert_array_equal(best.failure[:-1][never], bayes.failure[:-1][never])
    beta = rl2ml.success_weights(1.2, 1024)
    assert np.all(np.abs(best.failure[:-1]) <= beta)
    if not filter_groups:
        likely = a + d > 1e-230
        exact = fifty_digits(PEOPLE[people], beta, kappa)
        assert np.all(np.abs(-best.failure[:-1] - exact)[likely] <= 1e-12 * beta[likely])


@pytest.mark.parametrize("scores", GEOMETRIES)
@pytest.mark.parametrize("rates", [[0.0], [1.0], [0.0, 1.0], [0.0, 0.5], [0.5, 1.0], [5e-324], [1 - 1e-16]])
@pytest.mark.parametrize("num_rollouts", [1, 2, 5, 64])
@pytest.mark.parametrize("filter_groups", [False, True])
def test_least_variance_of_certain_prompts(rates, num_rollouts, scores, filter_groups):
    people, p = rl2ml.Population.from_pass_rates(rates), np.array([0, 0.3, 1])
    for gamma in (0.0, 1.5):
        table = rl2ml.rl2ml_table(
            gamma, num_rollouts, "minimum_variance", people, GEOMETRIES[scores], filter_groups=filter_groups
        )
        exact = exact_weight(p, gamma, "minimum_variance", num_rollouts, filter_groups=filter_groups)
        np.testing.assert_allclose(table.weight(p), exact, rtol=1e-12)
        if num_rollouts > 1 and all(rate in (0, 1) for rate in rates):
            # Sure failures are no news after failures alone, sure successes none after successes alone.
            if 0 in rates:
                assert table.failure[0] == pytest.approx(0, abs=1e-300)
            if 1 in rates:
                assert table.success[-1] == pytest.approx(0, abs=1e-15)


def test_the_score_model_matters_to_least_variance_alone():
    people, other = PEOPLE["mixed"], rl2ml.ScoreModel(0.9)
    for name in rl2ml.BASELINES:
        default = rl2ml.rl2ml_table(0.5, 8, name, people)
        assert default == rl2ml.rl2ml_table(0.5, 8, name, people, rl2ml.ScoreModel())
        assert (default != rl2ml.rl2ml_table(0.5, 8, name, people, other)) == (name == "minimum_variance")


@pytest.mark.parametrize(
    ("mean", "noise", "noise_of_failures"),
    [(0.1, -5.0, 1.0), (0.1, 1.0, -5.0), (np.nan, 1.0, 1.0), (1.0, np.nan, 1.0), (1e200, 1.0, 1.0), (1.0, np.inf, 0.0)],
)
def test_impossible_scores_are_refused(mean, noise, noise_of_failures):
    scores = rl2ml.MeasuredScores(mean, noise, noise_of_failures)
    with (
        np.errstate(all="ignore"),
        pytest.raises(rl2ml.InvalidInput, match="score_model must be finite and its noise not negative") as refused,
    ):
        rl2ml.rl2ml_table(1, 8, "minimum_variance", PEOPLE["mixed"], scores)
    assert refused.value.field == "score_model"


# --- centering on the group's own mean -------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rollouts", range(2, 7))
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 1.7, 6])
@pytest.mark.parametrize("order", [None, 1, 3])
def test_group_centered_by_definition(num_rollouts, gamma, order):
    # A_i = (α_K/r̄)(r_i − r̄), α_K = (K/(N−1)) Σ_{m<M} c_m C(N−1−K, m)/C(N−2, m) of N−1 rollouts; 0 for equal rewards.
    order = None if order is None else min(order, num_rollouts)
    table = rl2ml.rl2ml_table(gamma, num_rollouts, "group_centered", order=order)
    for rewards in product((0, 1), repeat=num_rollouts):
        k, mean = sum(rewards), sum(rewards) / num_rollouts
        expected = np.zeros(num_rollouts)
        if 0 < k < num_rollouts:
            scale = sum(
                np.prod([(gamma + i) / (i + 1) for i in range(m)])
                * comb(num_rollouts - 1 - k, m)
                / comb(num_rollouts - 2, m)
                for m in range(num_terms("group_centered", num_rollouts, order))
                if m <= num_rollouts - 1 - k
            )
            expected = scale * k / (num_rollouts - 1) / mean * (np.array(rewards) - mean)
        np.testing.assert_allclose(table.advantages(rewards), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("num_rollouts", [2, 3, 8, 64, 1024])
def test_group_centered_scales_are_ratios_of_gamma_functions(num_rollouts):
    # α_K = Γ(N−1+γ)Γ(K+1)/(Γ(N)Γ(K+γ)).
    for gamma in (0.5, 1.0, 2.3):
        table = rl2ml.rl2ml_table(gamma, num_rollouts, "group_centered")
        with mpmath.workdps(40):
            g = mpmath.mpf(gamma)
            scales = [
                mpmath.exp(
                    mpmath.loggamma(num_rollouts - 1 + g)
                    + mpmath.loggamma(k + 1)
                    - mpmath.loggamma(num_rollouts)
                    - mpmath.loggamma(k + g)
                )
                for k in range(1, num_rollouts)
            ]
        np.testing.assert_allclose(-table.failure[1:-1], np.array(scales, float), rtol=1e-12)


@pytest.mark.parametrize("num_rollouts", [2, 3, 8, 64])
def test_group_centered_is_rloo_at_0_and_reward_over_mean_less_one_at_1(num_rollouts):
    for gamma, name in ((0, "rloo"), (1, "maxrl_centered")):
        ours, known = rl2ml.rl2ml_table(gamma, num_rollouts, "group_centered"), rl2ml.known_table(name, num_rollouts)
        np.testing.assert_allclose(ours.success, known.success, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(ours.failure, known.failure, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("num_rollouts", [2, 5, 40])
@pytest.mark.parametrize("order", [None, 3])
def test_update_scales_of_a_group_centered_table_are_those_of_one_order_less(num_rollouts, order):
    order = None if order is None else min(order, num_rollouts)
    for gamma in (0, 0.7, 1.6):
        table = rl2ml.rl2ml_table(gamma, num_rollouts, "group_centered", order=order)
        terms = num_terms("group_centered", num_rollouts, order)
        np.testing.assert_allclose(table.update_scales(), rl2ml.update_scales(gamma, num_rollouts, terms), rtol=1e-12)


# --- trainers that drop groups of equal rewards ----------------------------------------------------------------------


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize("num_rollouts", [2, 3, 9])
@pytest.mark.parametrize("order", [None, 2])
def test_groups_of_equal_rewards_have_no_advantage_to_lose(baseline, num_rollouts, order):
    for gamma in (0, 1.4):
        free, filtered = (
            rl2ml.rl2ml_table(gamma, num_rollouts, baseline, PEOPLE["mixed"], order=order, filter_groups=filter_groups)
            for filter_groups in (False, True)
        )
        assert filtered.failure[0] == filtered.success[-1] == 0
        # b(m) of the other m is left alone, but by the solution for all of them together.
        if baseline != "minimum_variance":
            np.testing.assert_array_equal(filtered.failure[1:-2], free.failure[1:-2])
            np.testing.assert_array_equal(filtered.success[2:-1], free.success[2:-1])
        if baseline in CENTERED:
            np.testing.assert_allclose(filtered.success, free.success, rtol=1e-13, atol=1e-15)
            np.testing.assert_array_equal(filtered.failure, free.failure)


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_dropping_groups_changes_the_objective_unless_the_table_allows_for_it(baseline, p):
    # Without a group's advantages its contrast changes: at m = 0 by −b(0), at m = N−1 by b(N−1) − β_{N−1}.
    n, gamma = 5, 1.3
    for filter_groups in (False, True):
        table = rl2ml.rl2ml_table(gamma, n, baseline, PEOPLE["mixed"], filter_groups=filter_groups)
        kept = 0.0
        for rewards in product((0, 1), repeat=n):
            if 0 < sum(rewards) < n:  # E[S | r] = ∇p/p or −∇p/(1−p)
                of_scores = np.where(np.array(rewards) == 1, 1 / p, -1 / (1 - p))
                chance = p ** sum(rewards) * (1 - p) ** (n - sum(rewards))
                kept += chance * np.mean(table.advantages(rewards) * of_scores)
        exact = exact_weight(p, gamma, baseline, n)
        lost = -table.failure[0] * (1 - p) ** (n - 1) + table.success[-1] * p ** (n - 1)
        assert kept == pytest.approx(exact - lost, rel=1e-12)
        if filter_groups or baseline in CENTERED:
            assert lost == pytest.approx(0, abs=1e-15)
        else:
            assert abs(lost) > 1e-7 * exact


def test_a_trainer_that_refills_its_batch_follows_the_same_gradient():
    # Groups are drawn until they are mixed, so a prompt is kept in proportion to its chance of a mixed group; the mean
    # over what is kept is the whole gradient over the chance of keeping any, one constant for all prompts.
    rates, shares, n = np.array([0.03, 0.4, 0.95]), np.array([0.5, 0.3, 0.2]), 4
    table = rl2ml.rl2ml_table(1.2, n, "bayes", PEOPLE["mixed"], filter_groups=True)
    kept, per_prompt = 0.0, np.zeros(3)
    for x, (p, share) in enumerate(zip(rates, shares, strict=True)):
        for rewards in product((0, 1), repeat=n):
            if 0 < sum(rewards) < n:
                chance = share * p ** sum(rewards) * (1 - p) ** (n - sum(rewards))
                of_scores = np.where(np.array(rewards) == 1, 1 / p, -1 / (1 - p))
                kept += chance
                per_prompt[x] += chance * np.mean(table.advantages(rewards) * of_scores)
    mixed = 1 - rates**n - (1 - rates) ** n
    assert kept == pytest.approx(shares @ mixed, rel=1e-13)
    np.testing.assert_allclose(
        per_prompt / kept, shares * rl2ml.objective_weight(rates, 1.2, n) / (shares @ mixed), rtol=1e-12
    )


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
def test_a_group_of_one_has_nothing_to_center_and_is_always_dropped(baseline):
    for gamma in (0, 1.3):
        for filter_groups in (False, True):
            table = rl2ml.rl2ml_table(gamma, 1, baseline, PEOPLE["mixed"], filter_groups=filter_groups)
            zero = not (table.success.any() or table.failure.any())
            assert zero == (filter_groups or baseline == "group_centered")


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message", "field"),
    [
        ({"baseline": "bayes"}, r"baseline 'bayes' needs a population \(a pilot\); got none", "baseline"),
        ({"baseline": "minimum_variance"}, "baseline 'minimum_variance' needs a population", "baseline"),
        ({"baseline": "rloo"}, f"baseline must be one of {', '.join(rl2ml.BASELINES)}; got 'rloo'", "baseline"),
        ({"baseline": 1}, "got 1", "baseline"),
        ({"gamma": -1}, "gamma must be", "gamma"),
        ({"num_rollouts": 0}, "num_rollouts must be", "num_rollouts"),
        ({"order": 9}, "order must be an integer from 1 to 8; got 9", "order"),
        ({"order": 9, "baseline": "group_centered"}, "order must be an integer from 1 to 8; got 9", "order"),
    ],
)
def test_impossible_estimators_are_refused(arguments, message, field):
    with pytest.raises(rl2ml.InvalidInput, match=message) as refused:
        rl2ml.rl2ml_table(**{"gamma": 1, "num_rollouts": 8, **arguments})
    assert refused.value.field in (field, None)
