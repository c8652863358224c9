"""Draws, intervals and near-optimal sets, on inputs whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr

from rl2ml_core import ScoreModel
from rl2ml_core.selection import uncertainty
from rl2ml_core.selection.uncertainty import Draws, draw, kappa_draws, near_optimal, peaks

# A criterion that hands its first term on: curves are then weighted sums of what each cell says.
PLAIN = SimpleNamespace(combine=lambda terms, kappa: terms[0] * kappa)
COUNTS = np.array([5.0, 1.0, 14.0])


def cell_weights(num_draws, seed, counts=COUNTS):
    """The weights themselves: cell i speaks at grid point i alone."""
    per_cell = np.concatenate([np.eye(counts.size), np.zeros((counts.size, 1))], axis=1)[None]
    grid = np.arange(counts.size, dtype=float)
    rng = np.random.default_rng(seed)
    return draw(PLAIN, per_cell, np.eye(counts.size), grid, counts, [np.ones(num_draws)], num_draws, rng)[0].curves


def test_cell_weights_have_the_moments_of_a_dirichlet_over_prompts():
    num_draws, prompts = 40_000, COUNTS.sum()
    share = COUNTS / prompts
    # A sum of n_i of P Dirichlet(1, …, 1) weights: mean n_i/P, covariance (δ_ij n_i/P − n_i n_j/P²)/(P+1).
    covariance = (np.diag(share) - np.outer(share, share)) / (prompts + 1)
    found = cell_weights(num_draws, seed=1)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)
    standard_error = np.sqrt(np.diag(covariance) / num_draws)
    assert (np.abs(found.mean(axis=0) - share) < 5 * standard_error).all()
    spread = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(
        np.cov(found.T) / np.outer(spread, spread), covariance / np.outer(spread, spread), atol=0.04
    )


def test_cell_weights_are_distributed_as_sums_over_prompts():
    """Quantiles against one weight per prompt, added up by cell."""
    num_draws = 40_000
    cells = np.repeat(np.arange(3), COUNTS.astype(int))
    single = np.random.default_rng(2).dirichlet(np.ones(cells.size), num_draws)
    expected = np.stack([single[:, cells == i].sum(axis=1) for i in range(3)], axis=1)
    found = cell_weights(num_draws, seed=3)
    for i in range(3):
        ranks = np.searchsorted(np.sort(expected[:, i]), found[:, i]) / num_draws
        # Kolmogorov–Smirnov at one in a million: √(−ln(5e-7)/2 · 2/D)
        distance = np.abs(np.sort(ranks) - (np.arange(num_draws) + 0.5) / num_draws).max()
        assert distance < np.sqrt(-np.log(5e-7) / num_draws)


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    whole = cell_weights(17, seed=4)
    monkeypatch.setattr(uncertainty, "_WEIGHTS_AT_ONCE", 2 * COUNTS.size)
    np.testing.assert_array_equal(cell_weights(17, seed=4), whole)


def test_scenarios_share_their_prompt_weights():
    per_cell = np.array([[[1.0, 2.0, 3.0, 2.0], [5.0, 1.0, 0.0, 0.0], [0.0, 1.0, 4.0, 1.0]]])
    kappas = [np.full(9, 1.0), np.linspace(0.1, 0.9, 9)]
    rng = np.random.default_rng(5)
    one, other = draw(PLAIN, per_cell, np.eye(3), np.arange(3.0), COUNTS, kappas, 9, rng)
    np.testing.assert_allclose(other.curves, one.curves * kappas[1][:, None], rtol=1e-13)
    np.testing.assert_allclose(other.best, one.best, rtol=1e-12)


def test_regret_is_the_share_that_the_shipped_choice_loses():
    # One cell, so that every draw has weight 1: the curve 3, 4, 3 has its top at the middle; the shipped γ gets 3.2.
    per_cell = np.array([[[3.0, 4.0, 3.0, 3.2]]])
    found = draw(PLAIN, per_cell, np.eye(3), np.arange(3.0), np.array([7.0]), [np.ones(4)], 4, np.random.default_rng(0))
    np.testing.assert_allclose(found[0].regret, 1 - 3.2 / 4, rtol=1e-12)
    np.testing.assert_allclose(found[0].best, 1)
    np.testing.assert_allclose(found[0].height, 4)


def test_regret_is_never_negative():
    per_cell = np.array([[[3.0, 4.0, 3.0, 4.0000001]]])
    found = draw(PLAIN, per_cell, np.eye(3), np.arange(3.0), np.array([7.0]), [np.ones(2)], 2, np.random.default_rng(0))
    assert found[0].regret == 0


def test_no_share_of_a_maximum_that_is_not_positive():
    per_cell = np.array([[[-3.0, -2.0, -3.0, -2.5]]])
    found = draw(PLAIN, per_cell, np.eye(3), np.arange(3.0), np.array([7.0]), [np.ones(2)], 2, np.random.default_rng(0))
    assert found[0].regret is None
    assert found[0].band(0.9) is None
    assert found[0].interval(0.9).lower == pytest.approx(1)


def known_draws(best):
    best = np.asarray(best, dtype=float)
    return Draws(best, np.zeros(best.size), np.zeros((best.size, 1)), np.ones(best.size))


def test_interval_of_known_draws():
    shuffled = np.random.default_rng(0).permutation(np.arange(101) / 100)
    interval = known_draws(shuffled).interval(0.9)
    assert interval.level == 0.9
    assert (interval.lower, interval.upper) == pytest.approx((0.05, 0.95), abs=1e-12)
    # Four draws 0, 1, 2, 3 at 50 %: a quarter of the way from first to last, .25 · 3
    interval = known_draws([3, 0, 2, 1]).interval(0.5)
    assert (interval.lower, interval.upper) == pytest.approx((0.75, 2.25))


@given(st.lists(st.floats(0, 20), min_size=1, max_size=50), st.floats(0.5, 0.999))
def test_interval_equals_numpys_quantiles(best, level):
    interval = known_draws(best).interval(level)
    expected = np.quantile(best, [(1 - level) / 2, (1 + level) / 2])
    np.testing.assert_allclose([interval.lower, interval.upper], expected, rtol=1e-9, atol=1e-9)


def test_band_is_pointwise_and_relative_to_each_draws_top():
    curves = np.arange(1.0, 22)[:, None] * np.array([1.0, 9.0, 9.0, 2.0])
    scale = np.full(21, 2.0)
    lower, upper = Draws(np.zeros(21), np.zeros(21), curves[::-1, ::3], scale).band(0.9)
    # Draws 1..21, the 5 % and 95 % ones are the second and the second to last: 2 and 20, over a top of 2
    np.testing.assert_allclose(lower, [1.0, 2.0])
    np.testing.assert_allclose(upper, [10.0, 20.0])


@given(st.floats(0.011, 1.989), st.floats(0.1, 100))
def test_peaks_of_a_parabola_are_exact_between_grid_points(center, height):
    grid = np.linspace(0, 2, 101)
    position, found = peaks((height - (grid - center) ** 2)[None], grid)
    assert position[0] == pytest.approx(center, abs=1e-9)
    assert found[0] == pytest.approx(height, rel=1e-12)


def test_peaks_at_the_ends_and_on_flats():
    grid = np.linspace(0, 2, 41)
    values = np.stack([-grid, grid, np.ones_like(grid), np.exp(-grid), np.exp(grid)])
    position, height = peaks(values, grid)
    np.testing.assert_allclose(position[[0, 1, 3, 4]], [0, 2, 0, 2])
    np.testing.assert_allclose(height, [0, 2, 1, 1, np.exp(2)])


def test_peaks_of_one_or_two_points():
    assert [x.tolist() for x in peaks(np.array([[3.0]]), np.array([1.5]))] == [[1.5], [3.0]]
    assert [x.tolist() for x in peaks(np.array([[3.0, 4.0]]), np.array([1.0, 2.0]))] == [[2.0], [4.0]]


@given(st.integers(0, 2**32 - 1))
def test_peaks_are_never_below_the_grid(seed):
    grid = np.linspace(0, 1, 9)
    values = np.random.default_rng(seed).normal(size=(5, 9))
    position, height = peaks(values, grid)
    assert (height >= values.max(axis=1)).all()
    assert (np.abs(position - grid[values.argmax(axis=1)]) <= grid[1] + 1e-12).all()


@pytest.mark.parametrize("center", [0.5, 1.0, 1.2345])
def test_near_optimal_ends_of_a_parabola(center):
    # 1 − (γ−c)² ≥ .99 for |γ−c| ≤ .1
    grid = np.linspace(0, 2, 2001)
    found = near_optimal(grid, 1 - (grid - center) ** 2, center, 1.0)
    assert (found.lower, found.upper) == pytest.approx((center - 0.1, center + 0.1), abs=1e-5)
    assert found.loss == 0.01


def test_near_optimal_of_a_negative_criterion():
    # Eq. 4 with a large penalty: −2 − (γ−1)² ≥ −2 − .01 · 2 for |γ−1| ≤ √.02
    grid = np.linspace(0, 2, 2001)
    found = near_optimal(grid, -2 - (grid - 1) ** 2, 1.0, -2.0)
    assert (found.lower, found.upper) == pytest.approx((1 - 0.02**0.5, 1 + 0.02**0.5), abs=1e-5)


def test_near_optimal_stops_at_the_range_and_at_the_first_dip():
    grid = np.linspace(0, 2, 201)
    flat = near_optimal(grid, np.ones_like(grid), 1.0, 1.0)
    assert (flat.lower, flat.upper) == (0, 2)
    two = np.maximum(1 - (grid - 0.5) ** 2, 1 - (grid - 1.5) ** 2)  # equal tops at .5 and 1.5
    found = near_optimal(grid, two, 0.5, 1.0)
    assert (found.lower, found.upper) == pytest.approx((0.4, 0.6), abs=1e-3)


def test_near_optimal_narrower_than_the_grid_still_holds_its_choice():
    grid = np.array([0.0, 1.0, 2.0])
    found = near_optimal(grid, np.array([0.0, 0.2, 0.0]), 1.25, 1.0)
    # From (1.25, 1) down to (1, .2): .99 is met at 1.25 − .25 · .01/.8; to (2, 0): at 1.25 + .75 · .01
    assert (found.lower, found.upper) == pytest.approx((1.25 - 0.25 * 0.01 / 0.8, 1.25 + 0.0075))
    alone = near_optimal(np.array([0.7]), np.array([3.0]), 0.7, 3.0)
    assert (alone.lower, alone.upper) == (0.7, 0.7)


@pytest.mark.parametrize("num_draws", [1, 7, 200])
def test_default_kappas_take_one_from_every_stratum(num_draws):
    found = kappa_draws(None, num_draws, np.random.default_rng(0))
    # Log-uniform on [.01, 1]: log10 κ from −2 to 0.
    position = (np.log10(found) + 2) / 2
    assert sorted(np.floor(position * num_draws).astype(int)) == list(range(num_draws))


def test_draws_of_kappa_are_shuffled():
    found = kappa_draws(None, 200, np.random.default_rng(0))
    assert not (np.diff(found) > 0).all()
    assert abs(np.corrcoef(found, np.arange(200))[0, 1]) < 0.3


@pytest.mark.parametrize("num_draws", [7, 200])
def test_measured_kappas_are_log_normal(num_draws):
    found = kappa_draws(ScoreModel(0.02, 0.5), num_draws, np.random.default_rng(0))
    position = ndtr(np.log(found / 0.02) / 0.5)
    assert sorted(np.floor(position * num_draws).astype(int)) == list(range(num_draws))


def test_measured_kappas_stop_at_one():
    found = kappa_draws(ScoreModel(0.9, 2.0), 100, np.random.default_rng(0))
    assert found.max() == 1
    assert (found > 0).all()
    assert (found == 1).mean() == pytest.approx(1 - ndtr(-np.log(0.9) / 2), abs=0.02)


@pytest.mark.parametrize("model", [ScoreModel(0.1), ScoreModel(0.1, 0)])
def test_a_known_kappa_is_not_drawn(model):
    assert kappa_draws(model, 10, np.random.default_rng(0)) is None
