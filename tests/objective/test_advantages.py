"""Advantage tables against full enumeration of groups: of rewards (2^N) and of a policy's actions (A^N)."""

from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import rl2ml_core as rl2ml
from rl2ml_core.objective.advantages import advantage_rms

advantages = st.floats(-100, 100).map(lambda x: 0.0 if abs(x) < 1e-100 else x)


def random_table(num_rollouts: int, seed: int) -> rl2ml.AdvantageTable:
    success, failure = np.random.default_rng(seed).normal(size=(2, num_rollouts + 1))
    success[0] = failure[-1] = 0
    return rl2ml.AdvantageTable(success, failure)


def literal_weight(success, failure, p: float) -> float:
    """w in E ĝ = w ∇p over all 2^N reward groups: E[S | r=1] = ∇p/p and E[S | r=0] = −∇p/(1−p)."""
    num_rollouts = len(success) - 1
    total = 0.0
    for rewards in product((0, 1), repeat=num_rollouts):
        k = sum(rewards)
        chance = p**k * (1 - p) ** (num_rollouts - k)
        total += chance * sum(success[k] / p if r else -failure[k] / (1 - p) for r in rewards) / num_rollouts
    return total


# --- the mean gradient -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rollouts", range(1, 9))
@pytest.mark.parametrize("p", [1e-3, 0.2, 0.5, 0.93])
def test_weight_equals_the_sum_over_all_reward_groups(num_rollouts, p):
    for seed in range(5):
        table = random_table(num_rollouts, seed)
        exact = literal_weight(table.success, table.failure, p)
        assert float(table.weight(p)) == pytest.approx(exact, rel=1e-12, abs=1e-13)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), num_rollouts=st.integers(1, 6), p=st.floats(0.01, 0.99))
def test_weight_is_linear_in_the_table_and_ignores_shared_baselines(data, num_rollouts, p):
    success, failure = (data.draw(arrays(float, num_rollouts + 1, elements=advantages)) for _ in range(2))
    baseline = data.draw(arrays(float, num_rollouts, elements=advantages))
    success[0] = failure[-1] = 0
    moved_success, moved_failure = success.copy(), failure.copy()
    moved_success[1:] -= baseline  # b(m): m successes among the other N−1, K−1 for a success and K for a failure
    moved_failure[:-1] -= baseline
    weight = rl2ml.AdvantageTable(success, failure).weight(p)
    assert weight == pytest.approx(literal_weight(success, failure, p), rel=1e-11, abs=1e-9)
    assert rl2ml.AdvantageTable(moved_success, moved_failure).weight(p) == pytest.approx(weight, rel=1e-11, abs=1e-9)
    assert rl2ml.AdvantageTable(-3 * success, -3 * failure).weight(p) == pytest.approx(-3 * weight, rel=1e-11, abs=1e-9)


def test_weight_at_the_ends_is_one_contrast():
    # p = 0: the others all fail, m = 0, so w = s_1 − t_0. p = 1: m = N−1, so w = s_N − t_{N−1}.
    table = random_table(5, 3)
    np.testing.assert_allclose(
        table.weight([0, 1]), [table.success[1] - table.failure[0], table.success[5] - table.failure[4]], rtol=1e-14
    )


@pytest.mark.parametrize(("num_rollouts", "k"), [(1, 1), (5, 1), (8, 3), (8, 8), (16, 4)])
def test_a_pass_at_k_estimator_has_the_slope_of_pass_at_k_as_its_weight(num_rollouts, k):
    # PKPO: s = k, t_K = k ρ(N−1, K, k−1), ρ(n, c, j) = 1 − C(n−c, j)/C(n, j): w = k (1−p)^(k−1).
    failure = np.zeros(num_rollouts + 1)
    for c in range(num_rollouts):
        failure[c] = k * (1 - comb(num_rollouts - 1 - c, k - 1) / comb(num_rollouts - 1, k - 1))
    success = np.full(num_rollouts + 1, float(k))
    success[0] = 0
    p = np.array([0, 1e-4, 0.3, 0.9, 1])
    weight = rl2ml.AdvantageTable(success, failure).weight(p)
    np.testing.assert_allclose(weight, k * (1 - p) ** (k - 1), rtol=1e-12, atol=1e-13)


def test_update_scales_are_those_of_the_objective():
    for gamma in (0, 0.7, 1.6):
        for baseline in ("none", "score", "leave_one_out"):
            table = rl2ml.rl2ml_table(gamma, 9, baseline)
            np.testing.assert_allclose(table.update_scales(), rl2ml.update_scales(gamma, 9), rtol=1e-13)
    table = random_table(4, 0)
    # (K/N)(s_K − t_{K−1})
    literal = [k / 4 * (table.success[k] - table.failure[k - 1]) for k in range(1, 5)]
    np.testing.assert_allclose(table.update_scales(), literal, rtol=1e-15)


# --- noise -----------------------------------------------------------------------------------------------------------

POLICIES = [
    # logits, rewards, largest N: A^N groups
    ([0.3, -1.2], [1, 0], 8),
    ([0.3, -0.7, 1.1], [1, 0, 0], 6),
    ([2.0, -0.5, 0.1], [1, 0, 1], 6),
    ([0.0, -3.0, 1.0, -0.4], [0, 1, 0, 1], 5),
]


@pytest.mark.parametrize(("logits", "rewards", "largest"), POLICIES)
def test_moments_of_a_softmax_policy_equal_full_enumeration(softmax, logits, rewards, largest):
    policy = softmax(logits, rewards)
    p = policy.pass_rate
    (mean, noise), (mean_of_failures, noise_of_failures) = policy.moments(1), policy.moments(0)
    np.testing.assert_allclose(policy.gradient, p * mean, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(mean_of_failures, -p / (1 - p) * mean, rtol=1e-12, atol=1e-15)  # E[S] = 0
    measured = rl2ml.MeasuredScores(np.linalg.norm(mean), noise, noise_of_failures)
    for num_rollouts in range(1, largest + 1):
        tables = [random_table(num_rollouts, seed) for seed in range(3)]
        tables += [rl2ml.rl2ml_table(1.3, num_rollouts, name) for name in ("none", "score", "leave_one_out")]
        for table in tables:
            gradient, energy = policy.enumerate(table.success, table.failure)
            np.testing.assert_allclose(gradient, table.weight(p) * policy.gradient, rtol=1e-12, atol=1e-14)
            assert float(table.energy(p, measured)) == pytest.approx(energy, rel=1e-12)
            assert float(table.variance(p, measured)) == pytest.approx(energy - gradient @ gradient, rel=1e-12)
    assert float(measured.sensitivity(np.array(p))) == pytest.approx(policy.gradient @ policy.gradient, rel=1e-12)


@pytest.mark.parametrize("kappa", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("p", [0.01, 0.4, 0.97])
def test_moments_under_the_kappa_model_equal_full_enumeration(make_atoms, kappa, p):
    # Four responses that realize the model: S = ±√κ(1−p or p) e_0 plus or minus the rest of a unit length along e_1.
    signal = np.sqrt(kappa) * np.array([1 - p, 1 - p, -p, -p])
    noise = np.sqrt(1 - signal**2) * [1, -1, 1, -1]
    atoms = make_atoms(np.array([p, p, 1 - p, 1 - p]) / 2, np.array([1, 1, 0, 0]), np.column_stack([signal, noise]))
    model = rl2ml.ScoreModel(kappa)
    assert float(model.sensitivity(np.array(p))) == pytest.approx(atoms.gradient @ atoms.gradient, rel=1e-12)
    for num_rollouts in (1, 2, 5):
        for table in (random_table(num_rollouts, 8), rl2ml.rl2ml_table(0.6, num_rollouts, "leave_one_out")):
            gradient, energy = atoms.enumerate(table.success, table.failure)
            assert float(table.energy(p, model)) == pytest.approx(energy, rel=1e-12)
            assert float(table.variance(p, model)) == pytest.approx(energy - gradient @ gradient, rel=1e-12)


@pytest.mark.parametrize("num_rollouts", [1, 4, 30])
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2])
def test_variance_of_the_direct_estimator_is_theorem_4_3(num_rollouts, gamma):
    # Var((K/N) β_{K−1}) ‖μ‖² + E[K β²_{K−1}]/N² tr Σ, K ~ Binomial(N, p), failures having advantage 0.
    mean, noise = 0.8, 3.7
    table = rl2ml.rl2ml_table(gamma, num_rollouts, "none")
    beta = np.concatenate([[0], rl2ml.success_weights(gamma, num_rollouts)])
    for p in (0.02, 0.5, 0.9):
        k = np.arange(num_rollouts + 1)
        law = np.array([comb(num_rollouts, i) * p**i * (1 - p) ** (num_rollouts - i) for i in k])
        scale = k / num_rollouts * beta
        variance = law @ scale**2 - (law @ scale) ** 2
        expected = variance * mean**2 + law @ (k * beta**2) / num_rollouts**2 * noise
        scores = rl2ml.MeasuredScores(mean, noise, noise_of_failures=99.0)
        assert float(table.variance(p, scores)) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("num_rollouts", [1, 2, 3, 7])
@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 0.9, 1.0])
def test_couplings_of_the_kappa_model_share_one_vector(num_rollouts, p):
    # E12: E‖ĝ‖² = Σ_m (p B_m s²_{m+1} + q B_m t²_m)/N + κ Σ_{m≥1} e_m (s²_{m+1} − 2 s_m t_m + t²_{m−1}),
    # e_m = (m/N) p q² B_m.
    table, kappa, q = random_table(num_rollouts, 9), 0.37, 1 - p
    s, t = table.success, table.failure
    energy = 0.0
    for m in range(num_rollouts):
        b = comb(num_rollouts - 1, m) * p**m * q ** (num_rollouts - 1 - m)
        energy += (p * b * s[m + 1] ** 2 + q * b * t[m] ** 2) / num_rollouts
        if m:
            coupling = m / num_rollouts * p * q**2 * b
            energy += kappa * coupling * (s[m + 1] ** 2 - 2 * s[m] * t[m] + t[m - 1] ** 2)
    assert float(table.energy(p, rl2ml.ScoreModel(kappa))) == pytest.approx(energy, rel=1e-12)


def test_measured_scores_may_differ_by_prompt():
    table, p = random_table(4, 6), np.array([0.1, 0.6])
    together = table.energy(p, rl2ml.MeasuredScores(np.array([0.5, 2.0]), np.array([1.0, 3.0]), 0.7))
    apart = [
        table.energy(0.1, rl2ml.MeasuredScores(0.5, 1.0, 0.7)),
        table.energy(0.6, rl2ml.MeasuredScores(2.0, 3.0, 0.7)),
    ]
    np.testing.assert_allclose(together, apart, rtol=1e-14)


def test_sure_prompts_have_the_noise_of_their_only_outcome():
    # p = 1: every group is K = N, ĝ = s_N · mean score, and S has mean 0 and energy 1: E‖ĝ‖² = s_N²/N. p = 0: t_0²/N.
    table, model = random_table(6, 2), rl2ml.ScoreModel(0.3)
    expected = [table.failure[0] ** 2 / 6, table.success[6] ** 2 / 6]
    np.testing.assert_allclose(table.energy([0, 1], model), expected, rtol=1e-12)
    np.testing.assert_allclose(table.variance([0, 1], model), expected, rtol=1e-12)


@given(p=st.floats(0, 1), kappa=st.floats(1e-6, 1))
def test_the_kappa_model_is_consistent(p, kappa):
    model, x = rl2ml.ScoreModel(kappa), np.array(p)
    mu, nu = float(model.success_mean(x)), float(model.failure_mean(x))
    assert p * mu == pytest.approx((1 - p) * nu, rel=1e-12, abs=1e-300)  # E[S] = p μ − (1−p) ν = 0
    assert mu**2 + float(model.success_noise(x)) == pytest.approx(1, rel=1e-12)
    assert nu**2 + float(model.failure_noise(x)) == pytest.approx(1, rel=1e-12)
    assert float(model.sensitivity(x)) == pytest.approx((p * mu) ** 2, rel=1e-12, abs=1e-300)
    assert (mu + nu) ** 2 == pytest.approx(kappa, rel=1e-12)  # κ = ‖μ − ν‖² / E‖S‖²


def test_the_paper_proxies_are_those_of_equation_4():
    model, p = rl2ml.ScoreModel.paper(), np.array([0.0, 0.25, 1.0])
    np.testing.assert_array_equal(model.success_mean(p), 1)
    np.testing.assert_array_equal(model.success_noise(p), 1)
    np.testing.assert_array_equal(model.failure_noise(p), 1)
    np.testing.assert_allclose(model.failure_mean(p), [0, 1 / 3, 0])  # p/(1−p) ‖μ‖; no failure exists at p = 1
    np.testing.assert_allclose(model.sensitivity(p), [0, 3 / 16, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kappa": 0}, "score_model.kappa must be .* at least 1e-09 and at most 1; got 0"),
        ({"kappa": 1.01}, "got 1.01"),
        ({"kappa": float("nan")}, "got nan"),
        ({"kappa": True}, "got True"),
        ({"kappa_spread": -0.1}, "score_model.kappa_spread must be .* got -0.1"),
        ({"name": "other"}, "score_model.name must be kappa or paper; got 'other'"),
    ],
)
def test_impossible_score_models_are_refused(arguments, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        rl2ml.ScoreModel(**arguments)


# --- root mean square ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_rollouts", [1, 2, 5, 8])
def test_rms_equals_the_mean_over_rollouts_of_all_groups(num_rollouts):
    table = random_table(num_rollouts, 4)
    rates, weights = np.array([0.0, 0.2, 0.5, 1.0]), np.array([3.0, 1.0, 2.5, 0.5])
    squares = 0.0
    for p, weight in zip(rates, weights, strict=True):
        for rewards in product((0, 1), repeat=num_rollouts):
            k = sum(rewards)
            chance = p**k * (1 - p) ** (num_rollouts - k)
            squares += weight * chance * np.mean([(table.success[k] if r else table.failure[k]) ** 2 for r in rewards])
    expected = np.sqrt(squares / weights.sum())
    assert table.rms(rl2ml.Population.from_pass_rates(rates, weights)) == pytest.approx(expected, rel=1e-12)


def test_rms_over_posteriors_equals_the_beta_binomial_sum(log_beta_binomial):
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 5), (8, 3, 2), (16, 16, 1)])
    table, num_rollouts = random_table(7, 5), 7
    squares = 0.0
    for n, k, prompts in pilot.cells():
        for count in range(num_rollouts + 1):
            chance = float(np.exp(float(log_beta_binomial(k + 1, n - k + 1, num_rollouts, count))))
            mean = (count * table.success[count] ** 2 + (num_rollouts - count) * table.failure[count] ** 2) / 7
            squares += prompts * chance * mean
    people = pilot.population(rl2ml.BetaPrior(1, 1))
    assert table.rms(people) == pytest.approx(np.sqrt(squares / 8), rel=1e-12)
    assert table.rms(pilot.population()) == table.rms(pilot)


def test_rms_of_several_tables_is_that_of_each():
    people = rl2ml.PilotHistogram.from_cells([(8, 1, 5), (8, 6, 2)]).population()
    tables = [random_table(6, seed) for seed in range(3)]
    together = advantage_rms(people, np.stack([t.success for t in tables]), np.stack([t.failure for t in tables]))
    np.testing.assert_allclose(together, [table.rms(people) for table in tables], rtol=1e-14)


# --- look-up ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(), num_rollouts=st.integers(1, 9), dtype=st.sampled_from([bool, np.int8, np.int64, np.float32, float])
)
def test_advantages_equal_a_loop(data, num_rollouts, dtype):
    table = random_table(num_rollouts, 1)
    shape = (*data.draw(st.sampled_from([(), (1,), (3,), (2, 3), (0,)])), num_rollouts)
    rewards = data.draw(arrays(np.int64, shape, elements=st.integers(0, 1))).astype(dtype)
    found = table.advantages(rewards)
    assert found.shape == shape
    assert found.dtype == np.float64
    for index in np.ndindex(shape[:-1]):
        group = rewards[index]
        k = int(sum(1 for r in group if r))
        expected = [table.success[k] if r else table.failure[k] for r in group]
        assert found[index].tolist() == expected


def test_advantages_count_small_integer_rewards_without_overflow():
    # 200 successes do not fit an int8.
    table = rl2ml.rl2ml_table(1, 200, "none")
    assert np.all(table.advantages(np.ones(200, np.int8)) == table.success[200])


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([0, 1, 1], r"rewards need 4 rollouts on the last axis; got shape \(3,\)"),
        ([[0, 1], [1, 1]], r"got shape \(2, 2\)"),
        (1, r"got shape \(\)"),
        ([0, 1, 0.5, 1], "rewards must be 0 or 1; got 0.5"),
        ([0, 1, 2, 1], "got 2"),
        ([0, 1, -1, 1], "got -1"),
        ([0, 1, float("nan"), 1], "got nan"),
        (["0", "1", "1", "1"], "rewards must be numbers; got dtype <U1"),
        ([0, 1, None, 1], "rewards must be numbers; got dtype object"),
        ([0, 1, 1j, 1], "rewards must be numbers; got dtype complex128"),
    ],
)
def test_other_rewards_are_refused(rewards, message):
    with pytest.raises(rl2ml.InvalidInput, match=message) as refused:
        random_table(4, 0).advantages(rewards)
    assert refused.value.field == "rewards"


# --- the value -------------------------------------------------------------------------------------------------------


def test_tables_are_values():
    success, failure = np.array([0, 2, 1.0]), np.array([-1, -0.5, 0])
    table = rl2ml.AdvantageTable(success, failure)
    assert table == rl2ml.AdvantageTable([0, 2, 1], [-1, -0.5, 0])
    assert table != rl2ml.AdvantageTable([0, 2, 1.5], [-1, -0.5, 0])
    assert table != rl2ml.AdvantageTable([0, 2, 1], [-1, -0.25, 0])
    assert table != rl2ml.AdvantageTable([0, 2], [-1, 0])
    assert table != "table"
    assert table.num_rollouts == 2
    np.testing.assert_array_equal(table.contrasts, [3, 1.5])  # s_1 − t_0, s_2 − t_1
    with pytest.raises(TypeError, match="unhashable"):
        hash(table)
    success[1] = 99  # the caller's array
    assert table.success[1] == 2
    for array in (table.success, table.failure):
        with pytest.raises(ValueError, match="read-only"):
            array[1] = 5
    with pytest.raises(AttributeError):
        table.success = failure


@pytest.mark.parametrize(
    ("success", "failure", "message"),
    [
        ([1e-300, 1], [0, 0], r"success\[0\] and failure\[N\] must be 0, as no such rollout exists; got 1e-300 and 0"),
        ([0, 1], [0, -2], "got 0 and -2"),
        ([0, 1], [0, 0, 0], r"two arrays of one length N\+1, N from 1 to 65536; got shapes \(2,\) and \(3,\)"),
        ([0], [0], r"got shapes \(1,\) and \(1,\)"),
        ([[0, 1]], [[0, 0]], r"got shapes \(1, 2\)"),
        (0.0, 0.0, r"got shapes \(\) and \(\)"),
        (np.zeros(65_538), np.zeros(65_538), "N from 1 to 65536"),
        ([0, float("nan")], [0, 0], "success must be finite .* got nan at index 1"),
        ([0, 1], [float("-inf"), 0], "failure must be finite .* got -inf at index 0"),
        ([0, None], ["x", 0], "must be"),
        ([0, [1, 2]], [0, 0], "success must be numbers in a regular array"),
    ],
)
def test_other_tables_are_refused(success, failure, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        rl2ml.AdvantageTable(success, failure)


@pytest.mark.parametrize("method", ["weight", "energy", "variance"])
def test_pass_rates_keep_their_shape_and_their_domain(method):
    table = random_table(5, 0)
    arguments = () if method == "weight" else (rl2ml.ScoreModel(),)
    value = getattr(table, method)
    rates = np.linspace(0, 1, 6).reshape(2, 3)
    assert value(rates, *arguments).shape == (2, 3)
    np.testing.assert_allclose(value(rates, *arguments).ravel(), [float(value(p, *arguments)) for p in rates.ravel()])
    assert value(np.empty((0, 4)), *arguments).shape == (0, 4)
    with pytest.raises(rl2ml.InvalidInput, match="pass_rate must be finite and within"):
        value(1.1, *arguments)


def test_many_pass_rates_are_worked_through_in_runs():
    # 600 × 1,025 values exceed one block.
    table, rates = rl2ml.rl2ml_table(1.2, 1024), np.linspace(0, 1, 600)
    picked = [0, 1, 254, 255, 256, 511, 512, 599]
    for value in (table.weight, lambda p: table.energy(p, rl2ml.ScoreModel())):
        np.testing.assert_allclose(value(rates)[picked], [float(value(p)) for p in rates[picked]], rtol=1e-12)
