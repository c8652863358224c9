"""Criteria against their definitions: quadrature over the posterior, enumeration of groups, loops over prompts."""

from itertools import product
from math import comb

import numpy as np
import pytest

import rl2ml_core as rl2ml
from rl2ml_core import BetaPrior, LogSuccess, Mixture, PassAtK, Population, ScoreModel
from rl2ml_core.objective import population as population_module
from rl2ml_core.selection.criteria import Paper, RmsGain

PRIOR = BetaPrior(0.3, 1.5)
COUNTS = np.array([(8, 0, 30), (8, 2, 20), (8, 8, 3), (64, 1, 5), (64, 40, 2)])
GAMMAS = (0.0, 0.5, 1.0, 1.7, 6.0)
METRICS = [PassAtK(1), PassAtK(8), LogSuccess(0.01), Mixture({PassAtK(2): 0.7, LogSuccess(0.3): 0.3})]
TRAINERS = ["none", "score", "leave_one_out", "bayes", "grpo"]


def people(prior=PRIOR):
    n, k, prompts = COUNTS.T
    return Population(k, n - k, prompts, prior)


def tables(trainer, num_rollouts, population):
    """The trainer's tables at every γ of `GAMMAS` (one for GRPO)."""
    if trainer == "grpo":
        return [rl2ml.known_table("grpo", num_rollouts)]
    return [rl2ml.rl2ml_table(gamma, num_rollouts, trainer, population) for gamma in GAMMAS]


def stack(made):
    return np.stack([table.success for table in made]), np.stack([table.failure for table in made])


def cases(*sizes):
    """Every trainer at every N that it is defined for: GRPO needs two rollouts."""
    return [(trainer, n) for trainer in TRAINERS for n in sizes if n > 1 or trainer != "grpo"]


def literal_energy(table, p, kappa):
    """E‖ĝ‖² by a sum over K: the mean and the covariance of ĝ given K, with the κ-model's ‖μ‖, ‖ν‖, tr Σ, tr Σ_f."""
    n = table.num_rollouts
    total = np.zeros_like(p)
    for k in range(n + 1):
        chance = float(comb(n, k)) * p**k * (1 - p) ** (n - k)
        s, t = table.success[k], table.failure[k]
        along_mu = k / n * s * np.sqrt(kappa) * (1 - p) - (n - k) / n * t * np.sqrt(kappa) * p  # ν points against μ
        noise = k * s**2 * (1 - kappa * (1 - p) ** 2) + (n - k) * t**2 * (1 - kappa * p**2)
        total += chance * (along_mu**2 + noise / n**2)
    return total


@pytest.mark.parametrize(("trainer", "num_rollouts"), cases(1, 2, 3, 16, 200))
def test_rms_gain_equals_quadrature_over_the_posterior(trainer, num_rollouts, beta_nodes):
    population = people()
    made = tables(trainer, num_rollouts, population)[-3:]
    cells = [beta_nodes(a, b, num_rollouts + 4) for a, b in zip(*shapes(population), strict=True)]
    pass_rates = np.concatenate([at.p for at in cells])
    ends = np.cumsum([at.p.size for at in cells])[:-1]

    def expectations(values):
        return [at.law @ part for at, part in zip(cells, np.split(values, ends), strict=True)]

    weights = [table.weight(pass_rates) for table in made]
    for kappa in (0.03, 1.0) if num_rollouts <= 16 else (0.1,):
        model = ScoreModel(kappa)
        energy = np.transpose([expectations(table.energy(pass_rates, model)) for table in made])
        sensitivity = model.sensitivity(pass_rates)
        for metric in METRICS:
            slope = metric.slope(pass_rates)
            signal = np.transpose([expectations(w * slope * sensitivity) for w in weights])
            gain, noise, coupling = per_cell(RmsGain(population, metric, num_rollouts), *stack(made))
            np.testing.assert_allclose(noise + kappa * coupling, energy, rtol=1e-10)
            np.testing.assert_allclose(kappa * gain, signal, rtol=1e-10)


def per_cell(criterion, success, failure, cells=5):
    """The terms of every cell: those of weights that are all on it, [terms, C, G]."""
    return criterion.weighted([(success, failure)])(np.eye(cells))


def shapes(population):
    return population.shape_success, population.shape_failure


@pytest.mark.parametrize(("trainer", "num_rollouts"), cases(1, 2, 3, 16))
def test_energy_equals_the_sum_over_success_counts(trainer, num_rollouts):
    """The quadrature above integrates `AdvantageTable.energy`; here it meets a literal sum."""
    p = np.linspace(0, 1, 41)
    for table in tables(trainer, num_rollouts, people()):
        for kappa in (0.03, 1.0):
            expected = literal_energy(table, p, kappa)
            np.testing.assert_allclose(table.energy(p, ScoreModel(kappa)), expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("trainer", "num_rollouts"), cases(1, 2, 3, 6))
def test_rms_gain_of_point_masses_equals_all_groups_enumerated(trainer, num_rollouts):
    """All 2^N reward vectors, scores in the plane: μ and ν along one axis, within-class noise across it."""
    p, kappa = np.array([0.0, 0.07, 0.5, 0.93, 1.0]), 0.4
    population = Population.from_pass_rates(p)
    made = tables(trainer, num_rollouts, people())
    metric = PassAtK(3)
    gain, noise, coupling = per_cell(RmsGain(population, metric, num_rollouts), *stack(made), cells=p.size)
    for i, rate in enumerate(p):
        mu, nu = np.sqrt(kappa) * (1 - rate), -np.sqrt(kappa) * rate
        for j, table in enumerate(made):
            mean = energy = 0.0
            for rewards in product((0, 1), repeat=num_rollouts):
                successes = sum(rewards)
                chance = rate**successes * (1 - rate) ** (num_rollouts - successes)
                advantages = table.advantages(np.array(rewards))
                along = sum(a * (mu if r else nu) for a, r in zip(advantages, rewards, strict=True)) / num_rollouts
                across = sum(
                    a**2 * (1 - (mu if r else nu) ** 2) for a, r in zip(advantages, rewards, strict=True)
                )  # unit score energy, less the mean's
                mean += chance * along
                energy += chance * (along**2 + across / num_rollouts**2)
            # E ĝ = w p μ, and A = v' ℓ w = v' (p ‖μ‖) ‖E ĝ‖.
            slope = 3 * (1 - rate) ** 2
            assert kappa * gain[i, j] == pytest.approx(slope * rate * mu * mean, rel=1e-10, abs=1e-15)
            assert noise[i, j] + kappa * coupling[i, j] == pytest.approx(energy, rel=1e-10, abs=1e-15)


@pytest.mark.parametrize("prior", [PRIOR, None])
@pytest.mark.parametrize("num_rollouts", [2, 16])
def test_per_cell_weighted_by_prompts_equals_totals(num_rollouts, prior):
    population = people(prior)
    weights = population.weights / population.weights.sum()
    made = stack(tables("bayes", num_rollouts, population))
    for metric in METRICS:
        criterion = RmsGain(population, metric, num_rollouts)
        expected = np.einsum("c,tcg->tg", weights, per_cell(criterion, *made))
        np.testing.assert_allclose(criterion.totals(*made), expected, rtol=1e-12)


@pytest.mark.parametrize("prior", [PRIOR, None])
def test_cells_in_several_blocks_equal_one(monkeypatch, prior):
    num_rollouts = 9
    made = stack(tables("bayes", num_rollouts, people(prior)))

    def both():
        population = people(prior)
        valued = [
            RmsGain(population, LogSuccess(0.01), num_rollouts),
            Paper(population, PassAtK(8), num_rollouts, ScoreModel.paper(), 0.1),
        ]
        return [(criterion.totals(*made), per_cell(criterion, *made)) for criterion in valued], population

    whole, population = both()
    assert len(list(population.blocks(num_rollouts))) == 1
    monkeypatch.setattr(population_module, "_VALUES_PER_BLOCK", 2 * num_rollouts + 3)
    pieces, population = both()
    assert len(list(population.blocks(num_rollouts))) == 3
    for (totals, cells), (totals_again, cells_again) in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(totals_again, totals, rtol=1e-12)
        np.testing.assert_allclose(cells_again, cells, rtol=1e-11, atol=1e-16)


def test_rms_gain_combines_terms():
    # gain 3, noise 2, coupling 5, κ = ½: ½ · 3 / √(2 + ½ · 5) = 1.5 / √4.5
    criterion = RmsGain(people(), PassAtK(1), 2)
    assert criterion.combine(np.array([[3.0], [2.0], [5.0]]), 0.5)[0] == pytest.approx(1.5 / np.sqrt(4.5), rel=1e-15)


def test_a_table_of_zeros_has_no_gain():
    zeros = np.zeros((1, 5))
    criterion = RmsGain(people(), PassAtK(1), 4)
    assert criterion.combine(criterion.totals(zeros, zeros), 0.1) == [0.0]


@pytest.mark.parametrize("trainer", ["bayes", "grpo"])
def test_scale_of_a_table_does_not_matter_to_rms_gain(trainer):
    success, failure = stack(tables(trainer, 8, people()))
    criterion = RmsGain(people(), PassAtK(8), 8)
    once = criterion.combine(criterion.totals(success, failure), 0.1)
    scaled = criterion.combine(criterion.totals(7 * success, 7 * failure), 0.1)
    np.testing.assert_allclose(scaled, once, rtol=1e-13)


def draws(kappas, criterion, made, weights):
    terms = weights @ per_cell(criterion, *made)
    return criterion.combine(terms, kappas[:, None])


def test_one_evaluation_serves_draws_of_weights_and_kappa():
    """Row by row, draws equal the criterion of a population with that row's weights and its κ."""
    rng = np.random.default_rng(5)
    population = people()
    made = stack(tables("none", 6, population))
    weights = rng.dirichlet(np.ones(len(COUNTS)), 4)
    kappas = np.array([0.01, 0.1, 0.5, 1.0])
    found = draws(kappas, RmsGain(population, PassAtK(4), 6), made, weights)
    for row, kappa, values in zip(weights, kappas, found, strict=True):
        alone = RmsGain(Population(population.successes, population.failures, row, PRIOR), PassAtK(4), 6)
        np.testing.assert_allclose(values, alone.combine(alone.totals(*made), kappa), rtol=1e-12)


# ---- Eq. 4, by loops over prompts ----


def rising(gamma, m):
    """c_m = (γ)_m / m!"""
    value = 1.0
    for i in range(m):
        value *= (gamma + i) / (i + 1)
    return value


def literal_paper(gamma, num_rollouts, metric, penalty, prior=(1, 1)):
    """U − λ√R of the direct estimator: sums over prompts one by one, K enumerated."""
    coefficients = [rising(gamma, m) for m in range(num_rollouts)]
    a_sum = b_sum = r_sum = 0.0
    for n, k, prompts in COUNTS.tolist():
        for _ in range(prompts):
            p = (k + prior[0]) / (n + sum(prior))
            sensitivity = p * (1 - p)
            w = sum(c * (1 - p) ** m for m, c in enumerate(coefficients))
            a_sum += float(metric.slope(np.array(p))) * sensitivity * w
            b_sum += sensitivity * w**2
            # Theorem 4.3 with ‖μ‖² = tr Σ = 1: Var((K/N) s_K) + E[K s_K²]/N², s_K = β_{K−1}
            first = second = noise = 0.0
            for successes in range(1, num_rollouts + 1):
                chance = comb(num_rollouts, successes) * p**successes * (1 - p) ** (num_rollouts - successes)
                # β_{K−1} = Σ_m c_m C(N−K, m)/C(N−1, m)
                beta = sum(
                    coefficients[m] * comb(num_rollouts - successes, m) / comb(num_rollouts - 1, m)
                    for m in range(num_rollouts - successes + 1)
                    if m < num_rollouts
                )
                first += chance * successes / num_rollouts * beta
                second += chance * (successes / num_rollouts * beta) ** 2
                noise += chance * successes * beta**2 / num_rollouts**2
            r_sum += second - first**2 + noise
    return a_sum / b_sum**0.5 - penalty * r_sum**0.5


@pytest.mark.parametrize("num_rollouts", [1, 2, 8])
@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_paper_equals_equation_4_by_loops(metric, num_rollouts):
    n, k, prompts = COUNTS.T
    population = Population(k, n - k, prompts, BetaPrior(1, 1))
    made = stack(tables("none", num_rollouts, population))
    for penalty in (0.0, 0.01, 1.0):
        criterion = Paper(population, metric, num_rollouts, ScoreModel.paper(), penalty)
        found = criterion.combine(criterion.totals(*made), 0.1)
        expected = [literal_paper(gamma, num_rollouts, metric, penalty) for gamma in GAMMAS]
        np.testing.assert_allclose(found, expected, rtol=1e-11)


@pytest.mark.parametrize("penalty", [0.0, 0.03])
@pytest.mark.parametrize("metric", [PassAtK(8), LogSuccess(0.01)], ids=lambda metric: metric.name)
def test_papers_choice_is_the_best_of_a_grid_of_loops(metric, penalty):
    pilot = rl2ml.PilotHistogram.from_cells(COUNTS.tolist())
    found = rl2ml.recommend(
        pilot, metric, 4, criterion="paper", variance_penalty=penalty, prior=BetaPrior(1, 1), bootstrap=0
    )
    grid = np.linspace(0, 2, 81)
    values = np.array([literal_paper(gamma, 4, metric, penalty) for gamma in grid])
    best = literal_paper(found.gamma, 4, metric, penalty)
    assert best >= values.max() - 1e-12 * abs(best)
    assert abs(found.gamma - grid[np.argmax(values)]) <= grid[1]


def test_paper_uses_a_score_model_that_is_given():
    """With the κ-model, R is Σ trace Cov ĝ of `AdvantageTable.variance` at the plug-in pass rates."""
    population, model = people(), ScoreModel(0.3)
    table = rl2ml.rl2ml_table(0.8, 5, "none")
    criterion = Paper(population, PassAtK(8), 5, model, 0.5)
    gain, length, variance = criterion.totals(table.success[None], table.failure[None])[:, 0]
    p, weights = population.pass_rates, population.weights
    w, sensitivity = table.weight(p), model.sensitivity(p)
    assert gain == pytest.approx(weights @ (8 * (1 - p) ** 7 * sensitivity * w), rel=1e-12)
    assert length == pytest.approx(weights @ (sensitivity * w**2), rel=1e-12)
    assert variance == pytest.approx(weights @ table.variance(p, model), rel=1e-12)


def test_for_pass_at_1_the_papers_unit_gain_falls_with_gamma():
    """Cauchy–Schwarz: with v' = 1, A/√B ≤ √Σℓ, met at constant w, so Eq. 4 without penalty returns γ_min always."""
    population = people()
    criterion = Paper(population, PassAtK(1), 16, ScoreModel.paper(), 0.0)
    values = criterion.combine(criterion.totals(*stack(tables("none", 16, population))), 0.1)
    assert (np.diff(values) < 0).all()
    p = population.pass_rates
    assert values[0] == pytest.approx(np.sqrt(population.weights @ (p * (1 - p))), rel=1e-12)
