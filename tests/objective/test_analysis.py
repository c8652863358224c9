"""Analyses against enumeration of all groups, exact Gauss–Jacobi sums over posteriors and a brute-force search of γ."""

import json
import math
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import roots_jacobi

import rl2ml_core as rl2ml
from rl2ml_core.objective import analysis
from rl2ml_core.objective.analysis import PASS_RATES, Identity, NearestGamma, analyze, identify, nearest_gamma

COUNTS = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 1, 12), (8, 3, 9), (8, 6, 5), (8, 8, 4), (16, 2, 3)])
PILOT = COUNTS.population(rl2ml.BetaPrior(1, 1))
TRAINERS = list(rl2ml.KNOWN_TRAINERS)


def scaled(table, factor):
    return rl2ml.AdvantageTable(factor * table.success, factor * table.failure)


def of_contrasts(contrasts):
    """The direct estimator of any contrasts: successes get them, failures nothing."""
    return rl2ml.AdvantageTable(np.concatenate([[0.0], contrasts]), np.zeros(len(contrasts) + 1))


def exact_points(pilot, size):
    """p and weights whose sums integrate polynomials of degree < 2·size over the pilot's uniform-prior posteriors."""
    points, masses = [], []
    for n, k, prompts in pilot.cells():
        x, w = roots_jacobi(size, n - k, k)  # (1−x)^b−1 (1+x)^a−1 of Beta(k+1, n−k+1)
        points.append((1 + x) / 2)
        masses.append(prompts / pilot.total_prompts * w / w.sum())
    return np.concatenate(points), np.concatenate(masses)


def literal_weight(contrasts, p):
    n = len(contrasts)
    return sum(d * comb(n - 1, m) * p**m * (1 - p) ** (n - 1 - m) for m, d in enumerate(contrasts))


def cosines(table, gammas, p, mass):
    """cos of the table's weight and w_{γ,N} = Σ_m c_m (1−p)^m under p²(1−p)², term by term."""
    n = table.num_rollouts
    measure = mass * (p * (1 - p)) ** 2
    own = literal_weight(table.contrasts, p)
    family = np.zeros((len(gammas), p.size))
    coefficient = np.ones(len(gammas))
    for m in range(n):
        family += coefficient[:, None] * (1 - p) ** m
        coefficient = coefficient * (gammas + m) / (m + 1)
    return (family @ (measure * own)) / np.sqrt((family**2 @ measure) * (measure @ own**2))


def brute_force(table, p, mass, limit=20.0):
    """The best γ by ever finer grids around the best of a fine one."""
    gammas = np.linspace(0, limit, 4001)
    for _ in range(6):
        values = cosines(table, gammas, p, mass)
        best = int(np.argmax(values))
        gammas = np.linspace(gammas[max(best - 1, 0)], gammas[min(best + 1, len(gammas) - 1)], 41)
    return gammas[20], values[best]


# --- what a trainer optimizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trainer", "weights"),
    [
        ("grpo", [2.44, 2.18, 1.74, 2.18]),
        ("maxrl_centered", [6.79, 5.22, 1.98, 1.11]),
        ("maxrl", [7.73, 5.70, 1.99, 1.11]),
        (0.5, [3.07, 2.53, 1.41, 1.05]),
    ],
)
def test_effective_weights_of_groups_of_eight(trainer, weights):
    at = dict(zip(PASS_RATES, analyze(trainer, 8).weights, strict=True))
    np.testing.assert_allclose([at[p] for p in (0.01, 0.1, 0.5, 0.9)], weights, atol=0.005)


@pytest.mark.parametrize("num_rollouts", [2, 3, 6])
@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_one_prompt_by_enumeration_of_all_groups(softmax, name, num_rollouts, p):
    policy = softmax([math.log(p / (1 - p)), 0.0], [1, 0])
    (mean, noise), (_, noise_of_failures) = policy.moments(1), policy.moments(0)
    scores = rl2ml.MeasuredScores(np.linalg.norm(mean), noise, noise_of_failures)
    people = rl2ml.Population.from_pass_rates([p], [7.0])
    found = analyze(name, num_rollouts, people, scores)
    table = rl2ml.known_table(name, num_rollouts)
    gradient, energy = policy.enumerate(table.success, table.failure)
    weight = found.weights[PASS_RATES.index(p)]
    np.testing.assert_allclose(weight * policy.gradient, gradient, rtol=1e-10, atol=1e-13)
    assert found.energy == pytest.approx(energy, rel=1e-11)
    assert found.signal == pytest.approx(gradient @ gradient, rel=1e-10, abs=1e-25)
    if found.noise_to_signal is not None and found.signal > 1e-20:
        assert found.noise_to_signal == pytest.approx((energy - gradient @ gradient) / (gradient @ gradient), rel=1e-9)
    shares = dict.fromkeys(["dead", "dead_mixed", "all_fail", "all_pass", "kept", "squares", "kept_weight"], 0.0)
    for rewards in product((0, 1), repeat=num_rollouts):
        k = sum(rewards)
        chance = p**k * (1 - p) ** (num_rollouts - k)
        advantages = table.advantages(rewards)
        mixed = 0 < k < num_rollouts
        shares["dead"] += chance * (not advantages.any())
        shares["dead_mixed"] += chance * (mixed and not advantages.any())
        shares["all_fail"] += chance * (k == 0)
        shares["all_pass"] += chance * (k == num_rollouts)
        shares["kept"] += chance * mixed
        shares["squares"] += chance * np.mean(advantages**2)
        # E[S | r=1] = ∇p/p, E[S | r=0] = −∇p/(1−p)
        shares["kept_weight"] += chance * mixed * np.mean(advantages * np.where(rewards, 1 / p, -1 / (1 - p)))
    assert found.dead_group_share == pytest.approx(shares["dead"], rel=1e-12, abs=1e-15)
    assert found.dead_mixed_share == pytest.approx(shares["dead_mixed"], rel=1e-12, abs=1e-15)
    assert found.all_fail_share == pytest.approx(shares["all_fail"], rel=1e-12)
    assert found.all_pass_share == pytest.approx(shares["all_pass"], rel=1e-12)
    assert found.advantage_rms == pytest.approx(math.sqrt(shares["squares"]), rel=1e-12)
    if name == "dapo":
        assert found.kept_share == pytest.approx(shares["kept"], rel=1e-12)
        assert found.rollouts_per_kept_group == pytest.approx(num_rollouts / shares["kept"], rel=1e-12)
        conditional = shares["kept_weight"] / shares["kept"]
        assert found.kept_weights[PASS_RATES.index(p)] == pytest.approx(conditional, rel=1e-11)
    else:
        assert found.kept_share is found.rollouts_per_kept_group is found.kept_weights is None


@pytest.mark.parametrize("trainer", [*TRAINERS, 0.7])
@pytest.mark.parametrize("num_rollouts", [2, 5])
def test_energy_and_signal_of_posteriors_equal_exact_sums(trainer, num_rollouts):
    # Both are polynomials in p, of degree at most 2N+2.
    model = rl2ml.ScoreModel(0.3)
    found = analyze(trainer, num_rollouts, PILOT, model)
    p, mass = exact_points(COUNTS, num_rollouts + 2)
    energy = float(mass @ found.table.energy(p, model))
    signal = float(mass @ (found.table.weight(p) ** 2 * model.sensitivity(p)))
    assert found.energy == pytest.approx(energy, rel=1e-11)
    assert found.signal == pytest.approx(signal, rel=1e-11)
    assert found.noise_to_signal == pytest.approx(energy / signal - 1, rel=1e-10)
    assert found.advantage_rms == found.table.rms(PILOT)


def test_other_score_models_are_taken_at_mean_pass_rates():
    scores, points = rl2ml.MeasuredScores(0.4, 1.5, 0.9), PILOT.at_means()
    found, p = analyze("grpo", 6, PILOT, scores), points.pass_rates
    share = points.weights / points.weights.sum()
    assert found.energy == pytest.approx(float(share @ found.table.energy(p, scores)), rel=1e-12)
    assert found.signal == pytest.approx(float(share @ (found.table.weight(p) * p * 0.4) ** 2), rel=1e-12)


@pytest.mark.parametrize("num_rollouts", [2, 5, 16])
def test_shares_over_posteriors_are_beta_binomial(log_beta_binomial, num_rollouts):
    law = np.zeros(num_rollouts + 1)
    for n, k, prompts in COUNTS.cells():
        for count in range(num_rollouts + 1):
            chance = math.exp(log_beta_binomial(k + 1, n - k + 1, num_rollouts, count))
            law[count] += prompts / COUNTS.total_prompts * chance
    for name in TRAINERS:
        found = analyze(name, num_rollouts, PILOT)
        s, t = found.table.success, found.table.failure
        dead = [not ((k and s[k]) or (k < num_rollouts and t[k])) for k in range(num_rollouts + 1)]
        assert found.dead_group_share == pytest.approx(float(law @ dead), rel=1e-11)
        assert found.dead_mixed_share == pytest.approx(float(law[1:-1] @ dead[1:-1]), rel=1e-11, abs=1e-300)
        assert found.all_fail_share == pytest.approx(law[0], rel=1e-11)
        assert found.all_pass_share == pytest.approx(law[-1], rel=1e-11)
        assert found.all_fail_carries_advantage == (not dead[0])
        assert found.all_pass_carries_advantage == (not dead[-1])
    kept = analyze("dapo", num_rollouts, PILOT)
    assert kept.kept_share == pytest.approx(law[1:-1].sum(), rel=1e-11)
    p = np.array(PASS_RATES)
    np.testing.assert_allclose(kept.kept_weights, kept.weights / (1 - p**num_rollouts - (1 - p) ** num_rollouts))


@pytest.mark.parametrize(
    ("name", "all_fail", "all_pass"),
    [
        ("reinforce", False, True),
        ("rloo", False, False),
        ("grpo", False, False),
        ("maxrl_centered", False, False),
        ("maxrl", True, False),
        ("pkpo", False, True),
        ("garl", False, True),
    ],
)
def test_which_equal_groups_carry_an_advantage(name, all_fail, all_pass):
    found = analyze(name, 8)
    # Uniform pass rates make every success count as likely: 1/9 each.
    assert (found.all_fail_carries_advantage, found.all_pass_carries_advantage) == (all_fail, all_pass)
    assert found.all_fail_share == pytest.approx(1 / 9, rel=1e-12)
    assert found.all_pass_share == pytest.approx(1 / 9, rel=1e-12)
    assert found.dead_group_share == pytest.approx((2 - all_fail - all_pass) / 9, rel=1e-12)
    assert found.population == "uniform"


def test_pass_at_k_training_learns_nothing_from_groups_of_many_successes():
    # ρ = 1 from K = N−k+1 on: with N = 8, k = 4 the counts 0 and 5..8 are dead.
    found = analyze("pass_at_k_training", 8, k=4)
    assert found.dead_group_share == pytest.approx(5 / 9, rel=1e-12)
    assert found.dead_mixed_share == pytest.approx(3 / 9, rel=1e-12)


def test_a_gamma_that_drops_equal_groups_loses_nothing_by_it():
    kept, plain = analyze(0.5, 8, PILOT, filter_groups=True), analyze(0.5, 8, PILOT)
    assert kept.identity == plain.identity
    assert kept.kept_share == pytest.approx(1 - kept.all_fail_share - kept.all_pass_share, rel=1e-12)
    assert kept.dead_group_share == pytest.approx(1 - kept.kept_share, rel=1e-12)
    assert plain.kept_share is None


# --- the nearest member ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grpo", "maxrl_centered", "pkpo", "pass_at_k_training", "f_grpo", "garl", "rloo"])
@pytest.mark.parametrize("num_rollouts", [3, 6, 12])
def test_nearest_gamma_equals_a_brute_force_search(name, num_rollouts):
    table = rl2ml.known_table(name, num_rollouts)
    p, mass = exact_points(COUNTS, num_rollouts + 2)
    gamma, cosine = brute_force(table, p, mass)
    found = nearest_gamma(table, PILOT)
    assert found.cosine == pytest.approx(cosine, abs=1e-12)
    assert found.gamma == pytest.approx(gamma, abs=2e-6)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), num_rollouts=st.integers(2, 9))
def test_nearest_gamma_is_the_global_maximum_of_any_table(data, num_rollouts):
    contrasts = np.array(data.draw(st.lists(st.floats(-5, 5), min_size=num_rollouts, max_size=num_rollouts)))
    assume(np.abs(contrasts).max() > 1e-3)
    table = of_contrasts(contrasts)
    p, mass = exact_points(COUNTS, num_rollouts + 2)
    assume((mass * (p * (1 - p)) ** 2) @ literal_weight(contrasts, p) ** 2 > 1e-10)
    found = nearest_gamma(table, PILOT)
    values = cosines(table, np.linspace(0, 20, 2001), p, mass)
    assert found.cosine >= values.max() - 1e-12
    assert cosines(table, np.array([found.gamma]), p, mass)[0] == pytest.approx(found.cosine, abs=1e-12)


BASELINE_NAMES = ["none", "score", "leave_one_out", "bayes", "minimum_variance"]


@settings(deadline=None, max_examples=60)
@given(
    gamma=st.one_of(st.floats(0, 8), st.floats(0, 1e-3)),
    num_rollouts=st.integers(2, 40),
    baseline=st.sampled_from(BASELINE_NAMES),
    factor=st.floats(1e-3, 1e3),
)
def test_nearest_gamma_of_a_member_is_its_own(gamma, num_rollouts, baseline, factor):
    table = scaled(rl2ml.rl2ml_table(gamma, num_rollouts, baseline, PILOT), factor)
    found = nearest_gamma(table, PILOT)
    assert found.gamma == pytest.approx(gamma, abs=1e-6)
    assert found.cosine == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize("num_rollouts", [2, 16, 200, 1024])
def test_nearest_gamma_reaches_both_ends_of_the_range(num_rollouts):
    for gamma in (0.0, 20.0):
        found = nearest_gamma(rl2ml.rl2ml_table(gamma, num_rollouts), PILOT)
        assert found.gamma == pytest.approx(gamma, abs=1e-6)
    steep = nearest_gamma(rl2ml.rl2ml_table(3.0, num_rollouts), PILOT, gamma_max=1.23)
    assert steep.gamma == 1.23
    assert steep.cosine < 1
    assert nearest_gamma(rl2ml.rl2ml_table(3.0, num_rollouts), PILOT, gamma_max=0).gamma == 0


@pytest.mark.parametrize("order", [2, 5, 9])
def test_nearest_gamma_of_a_truncated_member_lies_below_its_own(order):
    found = nearest_gamma(rl2ml.rl2ml_table(1.5, 16, order=order), PILOT)
    assert 0 < found.gamma < 1.5
    assert 0.9 < found.cosine < 1


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(TRAINERS), st.integers(2, 20), st.floats(1e-100, 1e100))
def test_scale_of_a_table_does_not_matter(name, num_rollouts, factor):
    table = rl2ml.known_table(name, num_rollouts)
    plain, other = analyze(table, population=PILOT), analyze(scaled(table, factor), population=PILOT)
    assert other.nearest.gamma == pytest.approx(plain.nearest.gamma, abs=1e-6)
    assert other.nearest.cosine == pytest.approx(plain.nearest.cosine, abs=1e-12)
    assert other.noise_to_signal == pytest.approx(plain.noise_to_signal, rel=1e-9)
    assert other.dead_group_share == plain.dead_group_share
    assert (other.identity is None) == (plain.identity is None)
    if plain.identity:
        assert other.identity.scale == pytest.approx(factor * plain.identity.scale, rel=1e-9)
        assert (other.identity.k, other.identity.order) == (plain.identity.k, plain.identity.order)


def test_a_population_of_points_is_taken_as_it_is():
    rates, weights = np.array([0.02, 0.2, 0.6, 0.95, 0.0, 1.0]), np.array([5.0, 2.0, 1.0, 0.5, 3.0, 2.0])
    table = rl2ml.known_table("grpo", 8)
    gamma, cosine = brute_force(table, rates, weights)
    found = nearest_gamma(table, rl2ml.Population.from_pass_rates(rates, weights))
    assert found.gamma == pytest.approx(gamma, abs=1e-6)
    assert found.cosine == pytest.approx(cosine, abs=1e-12)


def test_where_every_gamma_is_alike_the_nearest_is_plain_rl():
    one_prompt = rl2ml.Population.from_pass_rates([0.3])
    assert nearest_gamma(rl2ml.known_table("maxrl", 8), one_prompt) == NearestGamma(0.0, pytest.approx(1))
    assert nearest_gamma(rl2ml.known_table("maxrl", 1), PILOT) == NearestGamma(0.0, pytest.approx(1))
    assert nearest_gamma(of_contrasts([-1.0]), PILOT) == NearestGamma(0.0, pytest.approx(-1))


def test_a_weight_of_zero_is_near_to_nothing():
    table = rl2ml.known_table("grpo", 8)
    assert nearest_gamma(scaled(table, 0), PILOT) is None
    assert nearest_gamma(table, rl2ml.Population.from_pass_rates([0, 1])) is None
    assert nearest_gamma(of_contrasts([0.0]), PILOT) is None


def test_both_sums_of_the_family_and_any_runs_agree(monkeypatch):
    tables = [rl2ml.known_table(name, 12) for name in ("grpo", "pkpo", "maxrl_centered")]
    points = rl2ml.Population.from_pass_rates(np.linspace(0.01, 0.99, 300))
    expected = [nearest_gamma(table, people) for table in tables for people in (PILOT, points)]
    monkeypatch.setattr(analysis, "_VALUES_AT_ONCE", 5000)
    monkeypatch.setattr(analysis, "_BY_SUCCESS_COUNT", 0)
    found = [nearest_gamma(table, people) for table in tables for people in (PILOT, points)]
    for one, other in zip(found, expected, strict=True):
        assert one.gamma == pytest.approx(other.gamma, abs=1e-6)
        assert one.cosine == pytest.approx(other.cosine, abs=1e-12)


# --- identification --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (rl2ml.known_table("reinforce", 8), Identity(1, gamma=0, k=1)),
        (rl2ml.known_table("rloo", 8), Identity(1, gamma=0, k=1)),
        (rl2ml.known_table("dr_grpo", 8), Identity(7 / 8, gamma=0, k=1)),
        (rl2ml.known_table("maxrl", 8), Identity(1, gamma=1, order=8)),
        (rl2ml.known_table("maxrl_centered", 8), Identity(1, gamma=1, order=7)),
        (rl2ml.known_table("maxrl_centered", 2), Identity(1, gamma=0, k=1)),  # order 1
        (rl2ml.known_table("pkpo", 16), Identity(1, k=8)),
        (rl2ml.known_table("pkpo", 16, k=16), Identity(1, k=16)),
        (rl2ml.known_table("garl", 8, q=1), Identity(1, gamma=1, order=8)),
        (rl2ml.known_table("f_grpo", 8, gamma_f=0, base="rloo"), Identity(1, gamma=0, k=1)),
        # With k = N−1 only groups of one success have advantages, s_1 = 1/√(N−1) and t_1 = −s_1/(N−1): the contrasts
        # s_1, s_1/(N−1), 0, … are those of pass@(N−1), N−1, 1, 0, …, times s_1/(N−1).
        (rl2ml.known_table("pass_at_k_training", 8, k=7), Identity(7**-0.5 / 7, k=7)),
        (rl2ml.rl2ml_table(0.5, 8, "group_centered"), Identity(1, gamma=0.5, order=7)),
        (rl2ml.rl2ml_table(2, 8, order=1), Identity(1, gamma=0, k=1)),
        (of_contrasts([-2.0]), Identity(-2, gamma=0, k=1)),
        (scaled(rl2ml.known_table("rloo", 4), -3), Identity(-3, gamma=0, k=1)),
        # Up to N = 3 the standard deviation is the same in every group of mixed rewards: √2/3, contrasts (2/3)/(√2/3).
        (rl2ml.known_table("grpo", 3, std="population", epsilon=0), Identity(2**0.5, gamma=0, k=1)),
        (rl2ml.known_table("grpo", 4), None),
        (rl2ml.known_table("grpo", 8), None),
        (rl2ml.known_table("dapo", 8), None),
        (rl2ml.known_table("f_grpo", 8), None),
        (rl2ml.known_table("garl", 8), None),
        (rl2ml.known_table("pass_at_k_training", 8), None),
        (of_contrasts([1, 2, 3]), None),  # weighs easy prompts more
        (of_contrasts([0, 1, 0]), None),
        (of_contrasts([2, -1, 1]), None),
        (of_contrasts([1, 0.5, -1e-3]), None),
        (of_contrasts([30, 12, 1]), None),  # γ = 22
        (of_contrasts([0, 0, 0]), None),
    ],
)
def test_identities(table, expected):
    found = identify(table)
    if expected is None:
        assert found is None
        return
    assert (found.k, found.order) == (expected.k, expected.order)
    assert found.scale == pytest.approx(expected.scale, rel=1e-12)
    assert found.gamma == (None if expected.gamma is None else pytest.approx(expected.gamma, abs=1e-12))


@settings(deadline=None, max_examples=150)
@given(data=st.data(), num_rollouts=st.integers(2, 100), gamma=st.floats(1e-3, 20), factor=st.floats(-1e3, 1e3))
def test_members_are_recognized(data, num_rollouts, gamma, factor):
    assume(abs(factor) > 1e-3)
    order = data.draw(st.integers(2, num_rollouts))
    baseline = data.draw(st.sampled_from(["none", "score", "leave_one_out"]))
    found = identify(scaled(rl2ml.rl2ml_table(gamma, num_rollouts, baseline, order=order), factor))
    assert found.order == order
    assert found.gamma == pytest.approx(gamma, rel=1e-7)
    assert found.scale == pytest.approx(factor, rel=1e-9)
    assert found.k is None


@settings(deadline=None, max_examples=60)
@given(data=st.data(), num_rollouts=st.integers(2, 300), factor=st.floats(1e-3, 1e3))
def test_pass_at_k_is_recognized(data, num_rollouts, factor):
    k = data.draw(st.integers(2, num_rollouts))
    found = identify(scaled(rl2ml.known_table("pkpo", num_rollouts, k=k), factor))
    assert found.k == k
    assert found.gamma is found.order is None
    assert found.scale == pytest.approx(factor, rel=1e-12)


@pytest.mark.parametrize("gamma", [1e-3, 0.5, 1.0, 20.0])
@pytest.mark.parametrize(("num_rollouts", "order"), [(65_536, 65_536), (65_536, 65_535), (4096, 3000), (4096, 2)])
def test_members_of_large_groups_are_recognized(gamma, num_rollouts, order):
    found = identify(rl2ml.rl2ml_table(gamma, num_rollouts, order=order))
    assert found.order == order
    assert found.gamma == pytest.approx(gamma, rel=1e-9)
    assert identify(rl2ml.known_table("pkpo", 65_536, k=1000)).k == 1000


@settings(deadline=None, max_examples=60)
@given(
    gamma=st.floats(0.01, 10), num_rollouts=st.integers(4, 30), where=st.integers(0, 29), change=st.floats(1e-6, 1e-2)
)
def test_a_small_change_makes_another_objective(gamma, num_rollouts, where, change):
    contrasts = rl2ml.success_weights(gamma, num_rollouts)
    contrasts[where % num_rollouts] *= 1 + change
    assert identify(of_contrasts(contrasts)) is None


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(TRAINERS), st.integers(2, 12))
def test_an_identity_is_the_weight(name, num_rollouts):
    table = rl2ml.known_table(name, num_rollouts)
    found, p = identify(table), np.linspace(0, 1, 21)
    if found is None:
        return
    if found.k:
        expected = found.k * (1 - p) ** (found.k - 1)
    else:
        expected = rl2ml.objective_weight(p, found.gamma, num_rollouts, found.order)
    np.testing.assert_allclose(table.weight(p), found.scale * expected, rtol=1e-9, atol=1e-12)


# --- words and values ------------------------------------------------------------------------------------------------


def sentence(*arguments, **parameters):
    return analyze(*arguments, **parameters).sentence


def test_sentences_of_exact_objectives():
    assert sentence("rloo", 8) == "RLOO optimizes plain RL (pass@1) exactly."
    assert sentence("dr_grpo", 8) == "Dr. GRPO optimizes plain RL (pass@1) exactly, at 0.875 times its scale."
    assert sentence("pkpo", 16) == "PKPO optimizes pass@8 exactly."
    assert sentence("maxrl_centered", 8) == (
        "MaxRL as shipped optimizes γ = 1 (maximum likelihood) truncated at order 7, one order less than its 8 "
        "rollouts. Order N−1: dropping all-fail groups costs (1−p)^(N−1) of the weight."
    )
    assert sentence("maxrl", 8) == (
        "MaxRL optimizes γ = 1 (maximum likelihood) exactly, at the full order of its 8 rollouts."
    )
    assert sentence(0.5, 8) == ("RL2ML (leave_one_out) optimizes γ = 0.5 exactly, at the full order of its 8 rollouts.")
    assert sentence(0.5, 8, PILOT, order=5) == (
        "RL2ML (bayes) optimizes γ = 0.5 truncated at order 5, 3 orders less than its 8 rollouts."
    )
    negative = scaled(rl2ml.known_table("rloo", 8), -2)
    assert sentence(negative) == (
        "This table minimizes, its sign being reversed, plain RL (pass@1) exactly, at 2 times its scale."
    )


def test_sentences_of_other_trainers():
    grpo = analyze("grpo", 8, PILOT)
    # w(.9)/w(.5) = 2.18/1.74
    assert grpo.sentence == (
        f"GRPO is not a member of the family: its weight is nearest to γ = {grpo.nearest.gamma:.2g} (cosine "
        f"{grpo.nearest.cosine:.3f}) on this pilot and rises again on easy prompts (w(.9)/w(.5) = 1.25)."
    )
    assert "for uniform pass rates" in sentence("grpo", 8)
    dapo = analyze("dapo", 8, PILOT)
    assert dapo.sentence.startswith("DAPO is not a member of the family")
    assert dapo.sentence.endswith(
        f"It keeps {dapo.kept_share:.1%} of the groups that it generates, so that each costs "
        f"{8 / dapo.kept_share:.3g} rollouts."
    )
    assert sentence("garl", 8).endswith(
        "For q > 0 the plug-in K/N makes it biased for the weight p^−q that it aims at."
    )
    steep = of_contrasts([1000.0, 1.0, 0.0])
    assert "nearest to γ = 20 (the largest considered)" in sentence(steep)


def test_sentences_of_strange_tables():
    assert sentence(of_contrasts([0, 0])) == "This table gives no group an advantage: nothing is learned."
    # s_{m+1} = t_m: the same for all, noise alone.
    constant = rl2ml.AdvantageTable([0, 1, 1, 1], [1, 1, 1, 0])
    assert sentence(constant) == "This table has no mean gradient: its advantages are noise alone."
    assert analyze(constant).noise_to_signal is None or analyze(constant).noise_to_signal > 1e20
    nobody = rl2ml.Population.from_pass_rates([0, 1])
    assert sentence("grpo", 8, nobody).startswith(
        "GRPO is not a member of the family, and its weight is zero on this pilot"
    )
    assert analyze("dapo", 8, nobody).rollouts_per_kept_group is None
    easy = sentence(of_contrasts([0.5, 1.0, 3.0]))
    assert "rises again on easy prompts" in easy
    assert "and is smaller on hard prompts" in easy
    assert "is negative at pass rates 0.9, 0.99, where it makes successes rarer" in sentence(
        of_contrasts([2.0, 1.0, -0.5])
    )


@pytest.mark.parametrize("trainer", [*TRAINERS, 0.0, 1.3, rl2ml.known_table("grpo", 8), of_contrasts([0.0] * 8)])
@pytest.mark.parametrize("population", [None, PILOT, rl2ml.Population.from_pass_rates([0.0, 1.0])])
def test_an_analysis_is_plain_json(trainer, population):
    found = analyze(trainer, 8, population)
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert content["num_rollouts"] == found.num_rollouts == 8
    assert content["sentence"] == found.sentence
    assert content["pass_rates"] == list(PASS_RATES)
    np.testing.assert_array_equal(content["weights"], found.weights)
    assert content["population"] == ("uniform" if population is None else "pilot")
    assert len(content["advantages"]["success"]) == len(content["advantages"]["failure"]) == 9
    assert content["advantages"]["success"][0] is content["advantages"]["failure"][8] is None


def test_names_and_parameters():
    assert analyze("pkpo", 16, k=4).parameters == {"k": 4}
    assert analyze("grpo", 16, epsilon=0.5).parameters == {"std": "sample", "epsilon": 0.5}
    gamma = analyze(0.5, 16, baseline="none")
    assert (gamma.name, gamma.parameters) == (
        "gamma=0.5",
        {"baseline": "none", "order": None, "filter_groups": False},
    )
    assert analyze(0.5, 16, PILOT).parameters["baseline"] == "bayes"
    assert analyze(rl2ml.known_table("grpo", 16)).name == "table"
    assert analyze(rl2ml.known_table("grpo", 16), 16).num_rollouts == 16


def test_the_same_trainer_by_name_and_by_table():
    by_name, by_table = analyze("grpo", 16, PILOT), analyze(rl2ml.known_table("grpo", 16), population=PILOT)
    for field in ("energy", "signal", "advantage_rms", "dead_group_share", "nearest", "identity"):
        assert getattr(by_name, field) == getattr(by_table, field)
    assert analyze("grpo", 16, COUNTS).to_dict() == analyze("grpo", 16, COUNTS.population()).to_dict()


@pytest.mark.parametrize(
    ("arguments", "parameters", "message"),
    [
        (("ppo", 8), {}, "name must be one of"),
        (("grpo", 8), {"k": 2}, "grpo takes std, epsilon; got k"),
        (("grpo",), {}, "num_rollouts is needed but for a table; got None"),
        (("grpo", 1), {}, "grpo needs at least 2 rollouts per prompt; got 1"),
        ((21.0, 8), {}, "trainer must be a finite number at least 0 and at most 20; got 21.0"),
        ((0.5, 8), {"std": "sample"}, "a γ takes baseline, order, filter_groups; got std"),
        ((0.5, 8), {"baseline": "bayes"}, "baseline 'bayes' needs a population"),
        ((0.5, 0), {}, "num_rollouts must be an integer from 1 to 65536; got 0"),
        ((rl2ml.known_table("grpo", 8), 9), {}, "num_rollouts must be that of the table, 8; got 9"),
        ((rl2ml.known_table("grpo", 8),), {"k": 1}, "a table takes drops_equal_groups; got k"),
        ((of_contrasts([1e151]),), {}, r"largest advantage must be from 1e-150 to 1e\+150 to be analyzed; got 1e\+151"),
        ((of_contrasts([1e-200]),), {}, "got 1e-200"),
        ((None, 8), {}, "trainer must be a finite number"),
    ],
)
def test_impossible_analyses_are_refused(arguments, parameters, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        analyze(*arguments, **parameters)


@pytest.mark.parametrize("gamma_max", [-1, 20.5, float("nan"), True])
def test_impossible_ranges_are_refused(gamma_max):
    with pytest.raises(rl2ml.InvalidInput, match="gamma_max must be"):
        nearest_gamma(rl2ml.known_table("grpo", 8), PILOT, gamma_max)


def test_extreme_but_possible_populations_are_analyzed():
    cells = [(10_000_000, 0, 1), (1, 1, 1e12)]
    pilot = rl2ml.PilotHistogram.from_cells(cells)
    for prior in (rl2ml.BetaPrior(1e-300, 1), rl2ml.BetaPrior(1, 1e-300), rl2ml.BetaPrior(1e-9, 1e-9), "plug_in"):
        for name in TRAINERS:
            found = analyze(name, 8, pilot.population(prior))
            assert json.dumps(found.to_dict(), allow_nan=False)
            assert found.energy >= found.signal * (1 - 1e-9) >= 0


def test_extreme_but_possible_tables_are_analyzed():
    for factor in (1e-149, 1e149):
        found = analyze(scaled(rl2ml.known_table("rloo", 8), factor), population=PILOT)
        assert found.identity.scale == pytest.approx(factor, rel=1e-12)
        assert json.dumps(found.to_dict(), allow_nan=False)
    steep = analyze(20.0, 4096, PILOT)
    assert steep.identity.gamma == pytest.approx(20, rel=1e-9)
    assert json.dumps(steep.to_dict(), allow_nan=False)
