"""Draws, intervals and near-optimal sets, on inputs whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr

from rl2ml_core import BetaPrior, PilotHistogram, ScoreModel
from rl2ml_core.pilot.prior import fit_prior, prior_at
from rl2ml_core.selection import uncertainty
from rl2ml_core.selection.criteria import Weighted
from rl2ml_core.selection.uncertainty import (
    Draws,
    PriorSpread,
    draw,
    kappa_draws,
    near_optimal,
    peaks,
    scaled,
    spread_of_fit,
    spread_of_strength,
)

# A criterion that hands its first term on: curves are then weighted sums of what each cell says.
PLAIN = SimpleNamespace(combine=lambda terms, kappa: terms[0] * kappa)
COUNTS = np.array([5.0, 1.0, 14.0])


def drawn(per_cell, counts, num_draws, seed=0, neighbors=(), spread=None, kappas=None):
    """Draws of terms [1, C, 3 + T]: three grid points, all of them nodes, then the fixed tables."""
    weighted = [Weighted.of(np.asarray(part, float)) for part in (per_cell, *neighbors)]
    return draw(
        PLAIN, weighted[0], weighted[1:], spread, np.eye(3), np.arange(3.0), np.asarray(counts, float), 1.0, kappas,
        num_draws, np.random.default_rng(seed),
    )  # fmt: skip


def cell_weights(num_draws, seed, counts=COUNTS):
    """The weights themselves: cell i speaks at grid point i alone."""
    per_cell = np.concatenate([np.eye(counts.size), np.zeros((counts.size, 1))], axis=1)[None]
    return drawn(per_cell, counts, num_draws, seed)[0].curves


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


def test_both_kinds_of_draws_share_their_prompt_weights():
    per_cell = np.array([[[1.0, 2.0, 3.0, 2.0], [5.0, 1.0, 0.0, 0.0], [0.0, 1.0, 4.0, 1.0]]])
    kappas = np.linspace(0.1, 0.9, 9)
    alone, full = drawn(per_cell, COUNTS, 9, seed=5, kappas=kappas)
    np.testing.assert_allclose(full.curves, alone.curves * kappas[:, None], rtol=1e-13)
    np.testing.assert_allclose(full.fixed, alone.fixed * kappas[:, None], rtol=1e-13)
    np.testing.assert_allclose(full.best, alone.best, rtol=1e-12)


def test_regret_is_the_share_that_the_shipped_choice_loses():
    # One cell, so that every draw has weight 1: the curve 3, 4, 3 has its top at the middle; the shipped γ gets 3.2.
    found, _ = drawn([[[3.0, 4.0, 3.0, 3.2]]], [7], 4)
    np.testing.assert_allclose(found.regret, 1 - 3.2 / 4, rtol=1e-12)
    np.testing.assert_allclose(found.best, 1)
    np.testing.assert_allclose(found.height, 4)


def test_regret_is_never_negative():
    assert drawn([[[3.0, 4.0, 3.0, 4.0000001]]], [7], 2)[0].regret == 0


def test_no_share_of_a_maximum_that_is_not_positive():
    found, _ = drawn([[[-3.0, -2.0, -3.0, -2.5]]], [7], 2)
    assert found.regret is None
    assert found.band(0.9) is None
    assert found.interval(0.9).lower == pytest.approx(1)


def test_gains_are_ratios_draw_by_draw():
    # Weights w of two cells: the shipped table is worth 2w₁ + w₂ = 1 + w₁, the other w₁ + w₂ = 1.
    found, _ = drawn([[[0, 0, 0, 2, 1], [0, 0, 0, 1, 1]]], [3, 2], 2000)
    share = np.quantile(np.random.default_rng(1).beta(3, 2, 200_000), [0.05, 0.95])
    gain = found.gain_over(1, 0.9)
    assert (gain.lower, gain.upper) == pytest.approx(tuple(share), abs=0.03)
    nothing, _ = drawn([[[0, 0, 0, 2, 0], [0, 0, 0, 1, 0]]], [3, 2], 20)
    assert nothing.gain_over(1, 0.9) is None


# ---- the prior ----


def test_a_draw_is_a_mixture_of_the_priors_it_stands_between():
    """Terms are linear, so a draw that takes shares of two neighbors has that mixture's terms."""
    rng = np.random.default_rng(3)
    point, weaker, stronger = rng.uniform(1, 2, (3, 1, 3, 5))
    shares = np.array([[0.25, 0.0], [0.0, 0.5], [0.0, 0.0], [0.3, 0.7]])
    spread = PriorSpread((BetaPrior(), BetaPrior()), lambda _, where: shares[where])
    alone, full = drawn(point, COUNTS, 4, 6, [weaker, stronger], spread)
    for d, (low, high) in enumerate(shares):
        mixed = (1 - low - high) * point + low * weaker + high * stronger
        expected, _ = drawn(mixed, COUNTS, 4, 6)
        np.testing.assert_allclose(full.fixed[d], expected.fixed[d], rtol=1e-12)
        np.testing.assert_allclose(full.curves[d], expected.curves[d], rtol=1e-12)
    np.testing.assert_array_equal(full.fixed[2], alone.fixed[2])


def test_a_stated_prior_varies_in_strength_alone():
    prior = BetaPrior(0.6, 2.4)
    spread = spread_of_strength(prior, 400, np.random.default_rng(0))
    assert [scaled(prior, f) for f in (0.5, 2)] == list(spread.neighbors)
    assert all(p.alpha / (p.alpha + p.beta) == pytest.approx(0.2) for p in spread.neighbors)
    shares = spread.shares(np.ones((400, 1)), slice(0, 400))
    assert shares.min() == 0
    assert shares.max() <= 1
    # At most one neighbor each; positions from −1 (weaker) to 1 (stronger) are uniform.
    position = np.sort(shares[:, 1] - shares[:, 0])
    np.testing.assert_allclose(position, np.linspace(-1, 1, 400), atol=0.006)
    assert not (shares > 0).all(axis=1).any()
    np.testing.assert_array_equal(spread.shares(np.ones((5, 1)), slice(10, 15)), shares[10:15])


def fitted_and_draws(pilot, num_draws=4000):
    """The fit, its spread, and θ of every draw as the shares say it."""
    fitted = fit_prior(pilot)
    rng = np.random.default_rng(7)
    spread = spread_of_fit(fitted, pilot.num_prompts, num_draws, rng)
    weights = rng.standard_gamma(pilot.num_prompts, (num_draws, pilot.num_cells))
    weights /= weights.sum(axis=1, keepdims=True)
    shares = spread.shares(weights, slice(0, num_draws))
    spreads, axes = np.linalg.eigh(np.linalg.inv(fitted.curvature))
    steps = 3 * np.sqrt(spreads) * axes
    theta = (shares[:, [1, 3]] - shares[:, [0, 2]]) @ steps.T
    return fitted, spread, weights, shares, theta


def test_neighbors_of_a_fit_stand_three_deviations_away_along_its_axes():
    pilot = PilotHistogram.from_counts(np.random.default_rng(1).binomial(8, np.linspace(0.02, 0.8, 200)), 8)
    fitted, spread, _, shares, _ = fitted_and_draws(pilot)
    spreads, axes = np.linalg.eigh(np.linalg.inv(fitted.curvature))
    expected = [
        prior_at(fitted.coordinates + side * 3 * np.sqrt(spreads[i]) * axes[:, i]) for i in (0, 1) for side in (-1, 1)
    ]
    for found, wanted in zip(spread.neighbors, expected, strict=True):
        assert (found.alpha, found.beta) == pytest.approx((wanted.alpha, wanted.beta), rel=1e-9)
    assert shares.min() >= 0
    assert shares.sum(axis=1).max() <= 1 + 1e-12


def test_draws_of_a_fit_have_its_covariance():
    rng = np.random.default_rng(2)
    pilot = PilotHistogram.from_counts(rng.binomial(8, rng.beta(0.7, 1.5, 400)), 8)
    fitted, _, _, _, theta = fitted_and_draws(pilot)
    covariance = np.linalg.inv(fitted.curvature)
    scale = np.sqrt(np.diag(covariance))
    # Pulled in beyond three deviations: a little narrower than H⁻¹.
    np.testing.assert_allclose(np.cov(theta.T) / np.outer(scale, scale), covariance / np.outer(scale, scale), atol=0.15)


def test_draws_of_a_fit_follow_its_refits():
    """One Newton step is close to a whole refit to the draw's prompts."""
    rng = np.random.default_rng(4)
    pilot = PilotHistogram.from_counts(rng.binomial(16, rng.beta(0.7, 1.5, 300)), 16)
    fitted, _, weights, _, theta = fitted_and_draws(pilot, 40)
    refitted = []
    for row in weights:
        cells = zip(pilot.num_rollouts, pilot.num_successes, row * pilot.total_prompts, strict=True)
        refitted.append(fit_prior(PilotHistogram.from_cells(list(cells))).coordinates - fitted.coordinates)
    assert np.corrcoef(theta[:, 0], np.array(refitted)[:, 0])[0, 1] > 0.9
    assert np.corrcoef(theta[:, 1], np.array(refitted)[:, 1])[0, 1] > 0.9


def test_what_a_pilot_does_not_tell_stays_as_wide_as_the_hyperprior():
    """One rollout per prompt says nothing of the concentration."""
    fitted, _, _, _, theta = fitted_and_draws(PilotHistogram.from_cells([(1, 0, 60), (1, 1, 40)]))
    spread = 1 / np.sqrt(fitted.penalty[1, 1])
    assert np.std(theta[:, 1]) == pytest.approx(spread, rel=0.2)


def known_draws(best):
    best = np.asarray(best, dtype=float)
    return Draws(best, np.zeros((best.size, 1)), np.ones(best.size), *np.ones((2, best.size, 1)))


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
    lower, upper = Draws(np.zeros(21), curves[::-1, ::3], scale, scale[:, None], scale[:, None]).band(0.9)
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
def test_default_kappas_are_the_middles_of_equal_parts(num_draws):
    # Log-uniform on [.01, 1]: log10 κ from −2 to 0.
    position = (np.log10(kappa_draws(None, num_draws)) + 2) / 2
    np.testing.assert_allclose(position * num_draws, np.arange(num_draws) + 0.5, rtol=1e-10)


@pytest.mark.parametrize("num_draws", [7, 200])
def test_measured_kappas_are_log_normal(num_draws):
    position = ndtr(np.log(kappa_draws(ScoreModel(0.02, 0.5), num_draws) / 0.02) / 0.5)
    np.testing.assert_allclose(position * num_draws, np.arange(num_draws) + 0.5, rtol=1e-9)


def test_measured_kappas_stop_at_one():
    found = kappa_draws(ScoreModel(0.9, 2.0), 100)
    assert found.max() == 1
    assert (found > 0).all()
    assert (found == 1).mean() == pytest.approx(1 - ndtr(-np.log(0.9) / 2), abs=0.02)


@pytest.mark.parametrize("model", [ScoreModel(0.1), ScoreModel(0.1, 0)])
def test_a_known_kappa_is_not_drawn(model):
    assert kappa_draws(model, 10) is None


@pytest.mark.parametrize("prior", [BetaPrior(1e9, 5e8), BetaPrior(1e-9, 1e-9)])
def test_a_scaled_prior_stays_within_what_a_prior_may_have(prior):
    for factor in (0.5, 2):
        assert 1e-9 <= min(vars(scaled(prior, factor)).values()) <= max(vars(scaled(prior, factor)).values()) <= 1e9
