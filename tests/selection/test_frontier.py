"""The frontier's parts: peaks at ends of the range, and other weights of the cells."""

import numpy as np

import rl2ml_core as rl2ml
from rl2ml_core.objective.population import Population
from rl2ml_core.selection.chebyshev import nodes, piece_edges
from rl2ml_core.selection.frontier import Frontier, Scenarios
from rl2ml_core.selection.problem import Problem

PILOT = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])


def frontier(sizes=(2, 5, 9), population=PILOT, scores=None):
    problem = Problem.of(
        population, "pass@8", 9, 0.0, 2.0, "rms_gain", None, "empirical_bayes", scores, "leave_one_out", None, False
    )
    return Frontier(problem, {n: 90 // n for n in sizes}, dict.fromkeys(sizes, 2.0), 1000)


def test_peaks_are_at_the_ends_or_inside():
    one = frontier().candidates[0]
    at = np.concatenate([nodes(one.low, one.high, one.degree), piece_edges(one.low, one.high)])
    place, height = one.peaks(np.stack([-at, at, 1 - (at - 1.3) ** 2]))
    np.testing.assert_allclose(place, [0, 2, 1.3], atol=1e-6)
    np.testing.assert_allclose(height, [0, 2, 1], atol=1e-9)


def test_candidates_are_in_order_with_their_batches():
    found = frontier()
    assert [one.num_rollouts for one in found.candidates] == [2, 5, 9]
    assert [one.per_step for one in found.candidates] == [45, 18, 10]


def test_draws_of_the_same_weights_are_the_frontier_itself():
    """One cell leaves nothing to draw but κ and ρ: gains of a draw are those of its scenario."""
    pilot, scores = rl2ml.PilotHistogram.from_cells([(8, 2, 50)]), rl2ml.ScoreModel(0.3, 0)
    found, gammas = frontier(population=pilot, scores=scores), [0.4, 0.8, 1.2]
    gains = found.draws(gammas, scores, {0.05: 1.0}, 3, 0)
    for i, (one, gamma) in enumerate(zip(found.candidates, gammas, strict=True)):
        expected = found._gains(one, one.terms(np.array([gamma])), Scenarios.of([0.3], {0.05: 1.0}))
        np.testing.assert_allclose(gains[:, i], expected[0, 0], rtol=1e-10)


def test_known_rates_have_no_draws():
    assert frontier(population=Population.from_pass_rates([0.1, 0.6])).draws([1, 1, 1], None, {0.0: 1.0}, 10, 0) is None


def test_elsewhere_finds_what_a_plan_finds():
    found = frontier()
    case = Scenarios.of([0.05], {0.0: 1.0})
    best = found.best_gains(case)
    expected = [found.maximum(one, case, best) for one in found.candidates]
    top = int(np.argmax([value for _, value in expected]))
    ((n, gamma, loss, split_loss),) = found.elsewhere([case], found.candidates[top], expected[top][0])
    assert n == found.candidates[top].num_rollouts
    assert abs(gamma - expected[top][0]) < 0.01
    assert loss < 1e-6
    assert abs(split_loss) < 1e-6
