"""A step's gain per length by sums over prompts, by simulated batches, and moments of every N from the largest."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.objective.population import Population
from rl2ml_core.selection.batches import BatchMoments, batch_signal, equal_shares, gain_per_length, slopes
from rl2ml_core.selection.criteria import RmsGain

PEOPLE = Population(
    np.array([0.0, 1, 5, 8]), np.array([8.0, 7, 3, 0]), np.array([3.0, 2, 2, 1]), rl2ml.BetaPrior(0.4, 1.1)
)
GAMMAS = np.array([0.0, 0.3, 1.0, 2.0])


def terms(people, metric, n, largest, baseline="bayes", per_cell=False):
    build = BatchMoments.of_cells if per_cell else BatchMoments.of_population
    moments = dict(build(people, metric, largest).down_to(n))[n]
    return moments.terms(*Estimator.named(baseline, n, people).tables(GAMMAS))


@pytest.mark.parametrize("n", [1, 2, 5, 16])
@pytest.mark.parametrize("baseline", ["bayes", "leave_one_out", "none", "minimum_variance"])
def test_terms_of_points_are_sums_over_prompts(n, baseline):
    p = np.array([0.02, 0.3, 0.5, 0.97])
    weights = np.array([3.0, 1, 2, 1])
    metric = rl2ml.PassAtK(4)
    people = Population.from_pass_rates(p, weights)
    found = terms(people, metric, n, 16, baseline)[:, 0]
    mean = weights / weights.sum()
    for i, gamma in enumerate(GAMMAS):
        table = Estimator.named(baseline, n, people).table(gamma)
        g = table.weight(p) * p * (1 - p)
        energies = [table.energy(p, rl2ml.ScoreModel(kappa, 0)) for kappa in (0.2, 0.7)]
        coupling = (energies[1] - energies[0]) / 0.5  # the energy is linear in κ
        noise = energies[0] - 0.2 * coupling
        expected = [metric.slope(p) * p * (1 - p) * g, noise, coupling, g, g**2]
        np.testing.assert_allclose(found[:, i], [mean @ part for part in expected], rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("metric", ["pass@1", "pass@8", "log:0.01", "0.5*pass@1+0.5*pass@16"])
def test_terms_equal_those_of_rms_gain_whatever_the_largest(metric):
    judged = rl2ml.parse_metric(metric)
    for n in (1, 2, 7, 32, 64):
        expected = RmsGain(PEOPLE, judged, n).totals(*Estimator.named("bayes", n, PEOPLE).tables(GAMMAS))
        np.testing.assert_allclose(terms(PEOPLE, judged, n, 64)[:3, 0], expected, rtol=1e-11)


def test_squares_equal_quadrature(beta_nodes):
    """E[p²q² w²] of every cell by a fine trapezoidal rule."""
    n = 9
    tables = Estimator.named("bayes", n, PEOPLE)
    found = terms(PEOPLE, rl2ml.PassAtK(1), n, 40, per_cell=True)
    for c, (a, b) in enumerate(zip(PEOPLE.shape_success, PEOPLE.shape_failure, strict=True)):
        nodes = beta_nodes(a, b, 2 * n)
        for i, gamma in enumerate(GAMMAS):
            g = tables.table(gamma).weight(nodes.p) * nodes.p * nodes.q
            np.testing.assert_allclose(found[3:, c, i], [nodes.law @ g, nodes.law @ g**2], rtol=1e-9)


def test_cells_add_up_to_the_population():
    metric = rl2ml.LogSuccess(0.1)
    shares = PEOPLE.weights / PEOPLE.weights.sum()
    of_cells = terms(PEOPLE, metric, 6, 20, per_cell=True)
    np.testing.assert_allclose(np.einsum("c,tcg->tg", shares, of_cells), terms(PEOPLE, metric, 6, 20)[:, 0], rtol=1e-12)


@pytest.mark.parametrize("metric", ["pass@1", "pass@8", "pass@10000", "log:0.001"])
def test_slopes_equal_quadrature(metric, beta_nodes):
    judged = rl2ml.parse_metric(metric)
    found = slopes(PEOPLE, judged)
    for c, (a, b) in enumerate(zip(PEOPLE.shape_success, PEOPLE.shape_failure, strict=True)):
        # A narrow slope needs a fine rule; pass@k's has a closed form as well.
        expected = beta_nodes(a, b, 400).law @ (
            judged.slope(beta_nodes(a, b, 400).p) * beta_nodes(a, b, 400).p * beta_nodes(a, b, 400).q
        )
        if isinstance(judged, rl2ml.PassAtK):
            expected = judged.k * math.exp(PEOPLE.raised(1, judged.k)[0][c])
        assert found[c] == pytest.approx(expected, rel=1e-8)
    points = Population.from_pass_rates([0.0, 0.25, 1.0])
    p = points.pass_rates[1]
    np.testing.assert_allclose(slopes(points, judged), [0, judged.slope(p) * p * (1 - p), 0], rtol=1e-12, atol=1e-300)


def test_shares_of_equal_groups_are_enumerated():
    p = np.array([0.1, 0.6])
    found = equal_shares(Population.from_pass_rates(p, [1, 3]), [1, 2, 5])
    np.testing.assert_allclose(found, [np.array([1, 3]) @ (p**n + (1 - p) ** n) / 4 for n in (1, 2, 5)])


def test_gain_per_length_is_that_of_simulated_batches():
    """Scores of unit energy: a share κ along ∇ logit p, whose directions have the mean cosine ρ, the rest noise."""
    rng = np.random.default_rng(3)
    prompts, dimensions, n, batch, kappa, draws = 12, 400, 4, 5, 0.5, 4000
    p = rng.uniform(0.05, 0.9, prompts)
    shared, own = np.sqrt(0.3), np.sqrt(0.7)
    directions = np.zeros((prompts, dimensions))
    directions[:, 0] = shared
    directions[np.arange(prompts), 1 + np.arange(prompts)] = own
    metric = rl2ml.PassAtK(3)
    table = rl2ml.rl2ml_table(0.8, n)
    slope = metric.slope(p) * p * (1 - p)
    toward = (slope[:, None] * directions).mean(axis=0)
    gained = squares = 0.0
    for _ in range(draws):
        chosen = rng.permutation(prompts)[:batch]
        right = rng.random((batch, n)) < p[chosen, None]
        advantages = table.advantages(right)
        along = (advantages * (right - p[chosen, None])).mean(axis=1)
        update = np.sqrt(kappa) * (along[:, None] * directions[chosen]).mean(axis=0)
        # What is left of a score's energy is in directions of its own.
        noise = (advantages**2 * (1 - kappa * (right - p[chosen, None]) ** 2)).sum() / (n * batch) ** 2
        gained += np.sqrt(kappa) * toward @ update
        squares += update @ update + noise
    people = Population.from_pass_rates(p)
    of_table = dict(BatchMoments.of_population(people, metric, n).down_to(n))[n].terms(
        table.success[None], table.failure[None]
    )
    found = gain_per_length(of_table[:, 0], float(slope.mean()), kappa, 0.3, prompts, batch)
    assert float(found[0]) == pytest.approx(gained / draws / np.sqrt(squares / draws), rel=0.02)


@given(st.floats(0, 2), st.integers(1, 40), st.integers(1, 300))
def test_where_prompts_share_nothing_it_is_rms_gain_times_the_root_of_the_batch(gamma, n, batch):
    prompts = 300
    metric = rl2ml.PassAtK(8)
    table = Estimator.named("bayes", n, PEOPLE).tables(np.array([gamma]))
    of_table = dict(BatchMoments.of_population(PEOPLE, metric, 40).down_to(n))[n].terms(*table)[:, 0]
    rms = RmsGain(PEOPLE, metric, n)
    expected = rms.combine(rms.totals(*table), 0.1) * np.sqrt(batch) / prompts
    found = gain_per_length(of_table, 1.0, 0.1, 0.0, prompts, batch)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_step_of_the_whole_set_has_no_noise_of_drawing_prompts():
    mean, square, coupling = np.array([0.2]), np.array([0.09]), np.array([0.1])
    common = 0.1 * mean**2 + 0.9 / 7 * square
    np.testing.assert_allclose(batch_signal(mean, square, coupling, 0.1, 7, 7), common + (coupling - square) / 7)
