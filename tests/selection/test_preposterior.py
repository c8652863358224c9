"""Pilots that might be seen: their counts add up, their laws are beta-binomial, their priors are the fitted ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.pilot.prior import coordinates_of, fit_prior, log_law, prior_at
from rl2ml_core.selection.preposterior import Mixtures, Pilots, truths_of

RNG = np.random.default_rng(4)
PILOT = rl2ml.PilotHistogram.from_counts(RNG.binomial(8, RNG.beta(0.5, 1.0, 80)), 8)


def fitted_to(pilots, draw):
    cells = zip(pilots.successes + pilots.failures, pilots.successes, pilots.counts[draw], strict=True)
    return fit_prior(rl2ml.PilotHistogram.from_cells([(int(n), int(k), c) for n, k, c in cells]))


@pytest.mark.parametrize("kind", ["prompts", "rollouts", "guess"])
def test_priors_are_refitted(kind):
    """Three steps against the fit itself, in standard deviations of what the pilot tells."""
    rng = np.random.default_rng(0)
    known = rl2ml.BetaPrior(0.4, 1.2) if kind == "guess" else PILOT
    truths, present = truths_of(known, 40, rng), Pilots.present(known, 40)
    after = present.with_rollouts(truths, 8, rng) if kind == "rollouts" else present.with_prompts(truths, 120, 8, rng)
    theta = coordinates_of(known) if kind == "guess" else known.fitted_prior.coordinates
    spread = np.sqrt(np.diag(np.linalg.inv(after.curvature)))
    points = np.stack([coordinates_of(prior) for prior in after.mixtures.priors])
    for draw in range(40):
        # Neighbors stand for the prior between them; to first order it is their mean.
        found = after.mixtures.shares[draw] @ points
        expected = fitted_to(after, draw).coordinates
        assert np.all(np.abs(found - expected) < 0.35 * spread + 0.1 * np.abs(expected - theta))


def test_counts_add_up():
    rng = np.random.default_rng(1)
    truths, present = truths_of(PILOT, 50, rng), Pilots.present(PILOT, 50)
    more = present.with_prompts(truths, 30, 6, rng)
    np.testing.assert_allclose(more.counts.sum(axis=1), 110)
    np.testing.assert_allclose(more.counts[:, : PILOT.num_cells], np.tile(PILOT.num_prompts, (50, 1)))
    again = present.with_rollouts(truths, 6, rng)
    np.testing.assert_allclose(again.counts.sum(axis=1), 80)
    assert set((again.successes + again.failures).tolist()) == {14}
    # Successes before are successes still.
    before = PILOT.num_prompts @ PILOT.num_successes
    assert np.all(again.counts @ again.successes >= before)


def test_new_prompts_of_a_guess_are_beta_binomial():
    law = rl2ml.BetaPrior(0.4, 1.2)
    rng = np.random.default_rng(2)
    draws = Pilots.present(law, 400).with_prompts(truths_of(law, 400, rng), 100, 5, rng).counts
    k = np.arange(6)
    np.testing.assert_allclose(draws.mean(axis=0) / 100, np.exp(log_law(k, 5 - k, law)), atol=0.01)


def test_truths_have_the_spread_of_recommends_draws():
    """Dirichlet weights of prompts, and θ with about the covariance of the fit (E22)."""
    truths = truths_of(PILOT, 4000, np.random.default_rng(3))
    np.testing.assert_allclose(truths.weights.mean(axis=0), PILOT.num_prompts, rtol=0.05)
    points = np.stack([coordinates_of(prior) for prior in truths.priors])
    theta = truths.shares @ points
    ratio = np.cov(theta.T) / PILOT.fitted_prior.covariance
    assert np.all(np.diag(ratio) > 0.6)
    assert np.all(np.diag(ratio) < 1.5)


def test_mixtures_are_means_of_neighbors():
    theta = coordinates_of(rl2ml.BetaPrior(1, 2))
    moved = np.random.default_rng(5).standard_normal((30, 2)) * 0.1
    none = np.zeros(1, np.int64)
    mixtures = Mixtures.near(none, none, np.ones((30, 1)), theta, moved)
    np.testing.assert_allclose(mixtures.shares.sum(axis=1), 1)
    assert mixtures.shares.min() >= 0
    assert mixtures.priors[0] == prior_at(theta)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12), st.floats(0.2, 500)), min_size=1, max_size=5),
    st.integers(1, 3),
)
def test_any_pilot_has_a_finite_answer(cells, rollouts):
    pilot = rl2ml.PilotHistogram.from_cells([(n, min(k, n), weight) for n, k, weight in cells])
    plan = rl2ml.plan_pilot(pilot, "pass@4", 4, draws=100, more_prompts=[1, 50], more_rollouts=[rollouts])
    assert plan.status in ("enough", "more", "out_of_reach", "uninformative")
    assert all(0 <= size.expected_regret <= 1 for size in plan.sizes)


@pytest.mark.parametrize("rate", [1e-6, 0.01, 0.99])
@pytest.mark.parametrize("spread", [0.01, 100.0])
def test_any_guess_has_a_finite_answer(rate, spread):
    plan = rl2ml.plan_pilot(rl2ml.guessed_prior(rate, spread), "pass@8", 8, draws=100)
    assert all(0 <= size.expected_regret <= 1 for size in plan.sizes)
