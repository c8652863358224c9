"""Leave-one-out baselines: none of them may change the mean gradient, and the Bayes share is a posterior mean."""

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.objective.baselines import Baseline, expected_pass_rate, resolve_baseline

SIZES = [1, 2, 3, 8, 64, 1024, 65_536]
HARD = rl2ml.Population([0.0], [1e4], [1.0])  # one cell: no success in 10,000
PEOPLE = {
    "mixed": rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 8, 14), (64, 63, 1)]),
    "hard": HARD,
    "easy": rl2ml.Population([1e4], [0.0], [1.0]),
    "skewed prior": rl2ml.Population([0.0, 3.0], [16.0, 13.0], [5.0, 1.0], rl2ml.BetaPrior(0.5, 4)),
    "points": rl2ml.Population.from_pass_rates([1e-12, 0.3, 0.9], [5, 1, 2]),
}


# --- unbiasedness ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rollouts", SIZES)
@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
def test_every_baseline_leaves_the_weight_alone(baseline, num_rollouts):
    p = np.array([0, 1e-12, 1e-4, 0.1, 0.5, 0.9, 1])
    few = num_rollouts > 1024
    for people in [PEOPLE["mixed"], HARD] if few else PEOPLE.values():
        for gamma in (1.3,) if few else (0, 0.5, 1, 1.7, 5):
            table = rl2ml.rl2ml_table(gamma, num_rollouts, baseline, people)
            np.testing.assert_allclose(table.weight(p), rl2ml.objective_weight(p, gamma, num_rollouts), rtol=1e-12)


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize(("num_rollouts", "order"), [(2, 1), (8, 3), (64, 63), (1024, 16)])
def test_baselines_of_a_truncated_objective_have_its_weight(baseline, num_rollouts, order):
    p = np.array([0, 1e-4, 0.1, 0.6, 1])
    for gamma in (0, 0.5, 1.7):
        table = rl2ml.rl2ml_table(gamma, num_rollouts, baseline, PEOPLE["mixed"], order=order)
        expected = rl2ml.objective_weight(p, gamma, num_rollouts, order)
        np.testing.assert_allclose(table.weight(p), expected, rtol=1e-12)


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2.5])
@pytest.mark.parametrize("order", [None, 2])
def test_the_mean_over_all_groups_of_a_policy_is_the_objective_gradient(baseline, gamma, order, softmax):
    policy = softmax([0.2, -1.0, 0.9, -0.3], [1, 0, 0, 1])
    for num_rollouts in (1, 2, 5):
        truncated = None if order is None else min(order, num_rollouts)
        table = rl2ml.rl2ml_table(gamma, num_rollouts, baseline, PEOPLE["mixed"], order=truncated)
        gradient, _ = policy.enumerate(table.success, table.failure)
        weight = sum(
            np.prod([(gamma + i) / (i + 1) for i in range(m)]) * (1 - policy.pass_rate) ** m
            for m in range(truncated or num_rollouts)
        )
        np.testing.assert_allclose(gradient, weight * policy.gradient, rtol=1e-12, atol=1e-14)


@settings(max_examples=60, deadline=None)
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
)
def test_unbiased_for_any_pilot(gamma, num_rollouts, p, cells, baseline):
    table = rl2ml.rl2ml_table(gamma, num_rollouts, baseline, rl2ml.PilotHistogram.from_cells(cells))
    assert table.weight(p) == pytest.approx(rl2ml.objective_weight(p, gamma, num_rollouts), rel=1e-12)


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
    people = rl2ml.PilotHistogram.from_cells([(2, 1, 7)])
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
    # Bayes still has the prior's mean to subtract: (30·1/10 + 34·9/10)/64.
    people = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 8, 34)])
    table = rl2ml.rl2ml_table(gamma, 1, "bayes", people)
    mean = (30 * 0.1 + 34 * 0.9) / 64
    np.testing.assert_allclose(table.failure, [-mean, 0], rtol=1e-13)
    np.testing.assert_allclose(table.success, [0, 1 - mean], rtol=1e-13)


def test_tables_of_several_objectives_are_those_of_each():
    gammas = np.array([0, 0.5, 1.7])
    for name in rl2ml.BASELINES:
        baseline = Baseline.named(name, 9, PEOPLE["mixed"].population())
        success, failure = baseline.tables(rl2ml.success_weights(gammas, 9))
        for row, gamma in enumerate(gammas):
            one = rl2ml.rl2ml_table(gamma, 9, name, PEOPLE["mixed"])
            np.testing.assert_array_equal(success[row], one.success)
            np.testing.assert_array_equal(failure[row], one.failure)


# --- the Bayes share -------------------------------------------------------------------------------------------------


def exact_share(population, num_others, m):
    """E[p | m of n] = Σ ω_c B(a+m+1, b+n−m)/B(a,b) / Σ ω_c B(a+m, b+n−m)/B(a,b), in 50 digits."""
    with mpmath.workdps(50):
        above = below = mpmath.mpf(0)
        prior = population.prior
        for k, failures, weight in zip(population.successes, population.failures, population.weights, strict=True):
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
    assert expected_pass_rate(pilot.population(), 7)[m] == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("num_others", [0, 1, 7, 63, 64, 65, 1023])
@pytest.mark.parametrize("people", PEOPLE)
def test_bayes_share_equals_the_posterior_mean(people, num_others):
    population = PEOPLE[people] if isinstance(PEOPLE[people], rl2ml.Population) else PEOPLE[people].population()
    shares = expected_pass_rate(population, num_others)
    assert shares.shape == (num_others + 1,)
    for m in sorted({0, 1, 2, num_others // 2, num_others - 1, num_others} & set(range(num_others + 1))):
        assert shares[m] == pytest.approx(float(exact_share(population, num_others, m)), rel=1e-11)


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
    population = rl2ml.PilotHistogram.from_cells(cells).population(rl2ml.BetaPrior(alpha, beta))
    shares = expected_pass_rate(population, num_others)
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
    population = rl2ml.Population(k, 5000 - k, rng.uniform(0.5, 2, 1400))
    assert len(list(population.blocks(201))) == 2
    assert expected_pass_rate(population, 200)[90] == pytest.approx(float(exact_share(population, 200, 90)), rel=1e-11)


def test_bayes_share_of_certain_prompts():
    # Points at 0, .3 and 1, weights 5, 1, 2; others: none of 4 succeeds, one does, all do.
    population = rl2ml.Population.from_pass_rates([0.0, 0.3, 1.0], [5, 1, 2])
    none, every = 0.7**4, 0.3**4
    shares = expected_pass_rate(population, 4)
    np.testing.assert_allclose(shares[0], 0.3 * none / (5 + none), rtol=1e-13)
    np.testing.assert_allclose(shares[1:4], 0.3, rtol=1e-13)
    np.testing.assert_allclose(shares[4], (0.3 * every + 2) / (every + 2), rtol=1e-13)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message", "field"),
    [
        ({"baseline": "bayes"}, r"baseline 'bayes' needs a population \(a pilot\); got none", "baseline"),
        ({"baseline": "rloo"}, "baseline must be one of none, score, leave_one_out, bayes; got 'rloo'", "baseline"),
        ({"baseline": 1}, "got 1", "baseline"),
        ({"gamma": -1}, "gamma must be", "gamma"),
        ({"num_rollouts": 0}, "num_rollouts must be", "num_rollouts"),
        ({"order": 9}, "order must be an integer from 1 to 8; got 9", "order"),
    ],
)
def test_impossible_estimators_are_refused(arguments, message, field):
    with pytest.raises(rl2ml.InvalidInput, match=message) as refused:
        rl2ml.rl2ml_table(**{"gamma": 1, "num_rollouts": 8, **arguments})
    assert refused.value.field in (field, None)
