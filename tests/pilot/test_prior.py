"""From counts to a population: the prior by value or by name."""

import numpy as np
import pytest

import rl2ml_core as rl2ml
from rl2ml_core.pilot.prior import posterior

PILOT = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (16, 16, 14)])


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (0.5, 0.5), (2, 30)])
def test_a_beta_prior_gives_exact_posterior_means(alpha, beta):
    # Beta(k + a, n − k + b) has mean (k+a)/(n+a+b).
    population = posterior(PILOT, rl2ml.BetaPrior(alpha, beta))
    expected = [(k + alpha) / (n + alpha + beta) for n, k, _ in PILOT.cells()]
    np.testing.assert_allclose(population.pass_rates, expected, rtol=1e-15)
    np.testing.assert_array_equal(population.weights, PILOT.num_prompts)
    assert population.prior == rl2ml.BetaPrior(alpha, beta)


def test_plug_in_gives_point_masses_at_the_observed_rates():
    population = posterior(PILOT, "plug_in")
    assert population.prior is None
    np.testing.assert_array_equal(population.pass_rates, [0, 0.25, 1])


@pytest.mark.parametrize("prior", ["empirical_bayes", "", None, 1, (1, 1)])
def test_other_priors_are_refused(prior):
    with pytest.raises(
        rl2ml.InvalidInput, match=r"prior must be a BetaPrior\(alpha, beta\) or 'plug_in'; got"
    ) as refused:
        posterior(PILOT, prior)
    assert refused.value.field == "prior"
