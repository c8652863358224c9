"""The walk of the logits part by part: nodes, binomial sums, the length of an update, the walk itself."""

import itertools
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import expit

import rl2ml_core as rl2ml
from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.objective.population import Population
from rl2ml_core.selection import paths
from rl2ml_core.selection.lookahead import Lookahead


def literal_walk(logits, mass, table, metric, rho, steps):
    """The same walk in plain loops, with the table's own weight and energy in place of polynomials: [points, 5]."""
    prompts, drawn = paths.PROMPTS, paths.PROMPTS_PER_STEP
    logits, s, found = list(logits), 0.0, []

    def gradients(at):
        return [float(table.weight(expit(x))) * expit(x) * expit(-x) for x in at]

    def mean(values):
        return sum(m * value for m, value in zip(mass, values, strict=True))

    def direction(g):
        return [rho * mean(g) + (1 - rho) * x / prompts for x in g]

    unit = math.sqrt(mean(g**2 for g in gradients(logits)))
    for step in [*steps, 0.0]:
        p = [float(expit(x)) for x in logits]
        g = [x / unit for x in gradients(logits)]
        way = direction(g)
        # E‖ĝ‖² = noise + κ coupling: two κ tell them apart
        high, low = ([float(table.energy(x, rl2ml.ScoreModel(kappa))) / unit**2 for x in p] for kappa in (1.0, 1e-9))
        common = rho * mean(g) ** 2 + (1 - rho) * mean(x**2 for x in g) / prompts
        spread = (prompts - drawn) / ((prompts - 1) * drawn) * (mean(x**2 for x in g) - common)
        coupling = mean(a - b for a, b in zip(high, low, strict=True)) - mean(x**2 for x in g)
        gain = mean(float(metric.slope(x)) * x * (1 - x) * w for x, w in zip(p, way, strict=True))
        value = mean(float(metric.value(x)) for x in p)
        found.append([gain, value, s, common + spread + coupling / drawn, mean(low) / drawn])
        size = math.sqrt(mean(abs(x) * w**2 for x, w in zip(g, way, strict=True)) / mean(abs(x) for x in g))
        ds = step / size
        middle = [x + ds / 2 * w for x, w in zip(logits, way, strict=True)]
        way = direction([x / unit for x in gradients(middle)])
        logits, s = [x + ds * w for x, w in zip(logits, way, strict=True)], s + ds
    return np.array(found)


@pytest.mark.parametrize("metric", ["pass@1", "pass@8", "log:0.01"])
@pytest.mark.parametrize("baseline", ["bayes", "group_centered"])
def test_a_walk_equals_one_in_plain_loops(metric, baseline):
    people = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)]).population()
    judged, steps = rl2ml.parse_metric(metric), paths.STEPS[:25]
    places = paths.places(people, 12)
    mass = people.weights / people.weights.sum() @ paths.masses(people, places)
    estimator = Estimator.named(baseline, 6, people)
    gammas = np.array([0.0, 0.7, 1.6])
    walked = paths.walk(places, mass, *estimator.tables(gammas), judged, steps)
    found = np.moveaxis(paths.recorded(list(walked))[:, :, :, 0], 0, 1)
    for (i, gamma), (j, rho) in itertools.product(enumerate(gammas), enumerate(paths.COSINES)):
        expected = literal_walk(places, mass, estimator.table(gamma), judged, rho, steps)
        assert_allclose(found[:, 1:, j, i], expected[:, 1:], rtol=1e-6)
        assert_allclose(found[:, 0, j, i], expected[:, 0], rtol=1e-4)  # a slope only guides interpolation


def test_ways_held_for_other_prompts_are_nearly_their_own():
    """Exactly where prompts share nothing; else to a hundredth of the gain, for a draw of 60 prompts."""
    people = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)]).population()
    metric, steps, places = rl2ml.PassAtK(8), paths.STEPS[:25], paths.places(people)
    cells = paths.masses(people, places)
    tables = Estimator.named("bayes", 8, people).tables(np.array([0.0, 1.0, 2.0]))
    theirs = np.random.default_rng(0).dirichlet(people.weights) @ cells
    held = list(paths.walk(places, people.weights / people.weights.sum() @ cells, *tables, metric, steps))
    # The same points from the other prompts' own walk: a step there is another length of theirs.
    found, own = (
        paths.recorded(held, theirs[None])[:, :, :, 0],
        paths.recorded(list(paths.walk(places, theirs, *tables, metric, np.repeat(steps, 4) / 4)))[:, :, :, 0],
    )
    for kappa in (0.02, 1.0):
        for rho, table in itertools.product(range(2), range(3)):
            lengths, values = [], []
            for _, value, s, signal, noise in (found[:, :, rho, table], own[:, :, rho, table]):
                pace = np.sqrt(kappa * signal + noise) / kappa
                lengths.append(np.r_[0, np.cumsum(np.diff(s) * (pace[1:] + pace[:-1]) / 2)])
                values.append(value)
            reached = min(lengths[0][-1], lengths[1][-1]) * np.linspace(0.2, 0.8, 7)
            gains = [np.interp(reached, x, y) - y[0] for x, y in zip(lengths, values, strict=True)]
            # Linear interpolation between points of the walk costs some of it, too.
            assert_allclose(gains[0], gains[1], rtol=0.01)
    # For the prompts that were walked for it is their own walk.
    mine = paths.recorded(held, (people.weights / people.weights.sum() @ cells)[None])
    assert_allclose(mine, paths.recorded(held), rtol=1e-9)


def test_length_of_an_update_is_that_of_every_batch_there_is():
    """§6's E‖u‖² by enumeration: all batches of 2 of 4 prompts, gradients with a common part, noise of their own."""
    rng = np.random.default_rng(0)
    dimension, prompts, drawn, rho, kappa = 7, 4, 2, 0.3, 0.2
    axes = np.eye(dimension)
    # ∇ logit p_x = √κ (√ρ · common + √(1−ρ) · own): cosines ρ, lengths √κ
    directions = math.sqrt(kappa) * (math.sqrt(rho) * axes[0] + math.sqrt(1 - rho) * axes[1 : 1 + prompts])
    g, noise = rng.uniform(0.1, 1, prompts), rng.uniform(0.1, 1, prompts)  # w p(1−p), and trace Cov ĝ
    squares = []
    for batch in itertools.combinations(range(prompts), drawn):
        mean_update = sum(g[x] * directions[x] for x in batch) / drawn
        squares.append(mean_update @ mean_update + sum(noise[x] for x in batch) / drawn**2)
    common = kappa * (rho * g.mean() ** 2 + (1 - rho) * (g**2).mean() / prompts)
    apart = kappa * (g**2).mean() - common
    formula = common + (prompts - drawn) / ((prompts - 1) * drawn) * apart + noise.mean() / drawn
    assert np.mean(squares) == pytest.approx(formula, rel=1e-12)


@pytest.mark.parametrize("num_rollouts", [1, 2, 17, 400, 3000])
def test_binomial_sums_are_those_of_the_whole_law(num_rollouts):
    success, failure = Estimator.named("leave_one_out", num_rollouts, None).tables(np.array([0.0, 1.0, 2.0, 20.0]))
    columns = np.concatenate([(success[:, 1:] - failure[:, :-1]).T, success[:, 1:].T ** 2], axis=1)
    whole = [block.bernstein(num_rollouts - 1).law @ columns for _, block in paths._grid().blocks(num_rollouts)]
    assert_allclose(paths._expected(columns), np.concatenate(whole), rtol=1e-10)


@pytest.mark.parametrize("kappa", [0.02, 1.0])
def test_more_nodes_change_little(kappa, monkeypatch):
    people = rl2ml.PilotHistogram.from_cells([(8, 0, 60), (8, 1, 15), (8, 3, 12), (8, 6, 9), (8, 8, 4)]).population()
    estimator, grid = Estimator.named("bayes", 8, people), np.linspace(0, 2, 201)

    def curve():
        scores = rl2ml.ScoreModel(kappa)
        return Lookahead(people, rl2ml.PassAtK(8), estimator, scores, 0.0, 2.0).curve(grid)

    usual, many = curve(), paths.places(people, 250)
    monkeypatch.setattr("rl2ml_core.selection.lookahead.places", lambda _: many)
    finer = curve()
    assert abs(grid[usual.argmax()] - grid[finer.argmax()]) <= 0.05
    assert_allclose(usual, finer, atol=5e-3)


def test_known_pass_rates_are_their_own_nodes():
    people = Population.from_pass_rates([0.0, 0.2, 0.2, 0.7, 1.0], [1, 2, 3, 4, 5])
    places = paths.places(people)
    mass = paths.masses(people, places)
    assert mass.min() >= 0
    assert_allclose(mass.sum(axis=1), 1, rtol=1e-12)
    assert_allclose(mass @ expit(places), people.pass_rates, atol=1e-6)
    assert (np.count_nonzero(mass, axis=1) <= 2).all()


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize("num_rollouts", [2, 8, 4096])
def test_every_estimator_may_be_looked_ahead(baseline, num_rollouts):
    """Paths of other tables have other numbers of steps."""
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])
    found = rl2ml.recommend(
        pilot, "pass@8", num_rollouts, criterion="lookahead", baseline=baseline, bootstrap=0, current="pkpo"
    )
    assert 0 <= found.gamma <= 2
    assert found.predicted_gain_over["rl"] >= 0
    assert found.predicted_gain_over["maxrl"] >= 0
    assert len(found.kappa_sensitivity) == 5


def test_extremes():
    everything = {"criterion": "lookahead", "bootstrap": 0}
    for pass_rates in ([0.0, 0.1, 0.5, 1.0], [1e-12, 1 - 1e-9], [0.3]):
        found = rl2ml.recommend(Population.from_pass_rates(pass_rates), "log:1e-9", 8, **everything)
        assert 0 <= found.gamma <= 2
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])
    for options in (
        {"score_model": rl2ml.ScoreModel(1e-9)},
        {"gamma_max": 20.0},
        {"prior": rl2ml.BetaPrior(1e-3, 1e6)},
    ):
        assert math.isfinite(rl2ml.recommend(pilot, "pass@1000000", 16, **everything, **options).gamma)
