"""Demands: the largest γ that meets them, against the functions that they are made of."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.selection.demands import Demands

SIZES = np.array([1, 2, 4, 8, 16, 64])


def met(demands, gamma, n, slack=0.0):
    tail = 0.0 if demands.least_pass_rate is None else float(rl2ml.truncation_tail(demands.least_pass_rate, gamma, n))
    scale = float(rl2ml.update_scales(gamma, n)[0])
    return tail <= demands.tail + slack and scale <= (demands.largest_scale or np.inf) * (1 + slack)


@given(st.floats(0.001, 0.9), st.floats(0.01, 0.9), st.floats(0.05, 5))
def test_the_largest_gamma_meets_the_demands_and_more_does_not(p, tail, scale):
    demands = Demands(p, tail, scale)
    for n, gamma in zip(SIZES.tolist(), demands.largest_gamma(SIZES, SIZES, 0.0, 2.0), strict=True):
        if np.isnan(gamma):
            assert not met(demands, 0.0, n, -1e-9)
        else:
            assert met(demands, gamma, n, 1e-8)
            assert gamma == 2 or not met(demands, gamma + 1e-5, n)


def test_what_is_advised_suffices():
    """Each way that `what_to_relax` names makes some N feasible."""
    asked = Demands(least_pass_rate=0.01, tail=0.1, largest_scale=10.0)
    said = asked.what_to_relax(SIZES, SIZES, 1.0, 2.0)
    ways = ["tail to 0.53 (asked: 0.1)", "the rollouts per prompt to 230 (most: 64)", "gamma_min to 0.21 (asked: 1)"]
    assert said == "relax one of: " + "; ".join(ways)
    for relaxed, sizes, low in (
        (Demands(0.01, 0.53, 10.0), SIZES, 1.0),
        (asked, np.array([230]), 1.0),
        (asked, SIZES, 0.21),
    ):
        assert not np.isnan(relaxed.largest_gamma(sizes, sizes, low, 2.0)).all()
    for tighter, sizes, low in (
        (Demands(0.01, 0.52, 10.0), SIZES, 1.0),
        (asked, np.array([229]), 1.0),
        (asked, SIZES, 0.22),
    ):
        assert np.isnan(tighter.largest_gamma(sizes, sizes, low, 2.0)).all()


def test_a_bound_on_lone_successes_names_the_scale():
    said = Demands(largest_scale=0.4).what_to_relax(SIZES, SIZES, 1.0, 2.0)
    assert "largest_scale to 1 (asked: 0.4)" in said
    assert "gamma_min to 0.7" in said


def test_bounds_that_neither_can_meet_name_both():
    said = Demands(0.001, 0.1, 0.01).what_to_relax(np.array([4]), np.array([4]), 1.5, 2.0)
    assert "tail to" in said
    assert "largest_scale to" in said


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({}, "demands"),
        ({"least_pass_rate": 0.0}, "demands.least_pass_rate"),
        ({"least_pass_rate": 0.1, "tail": 2.0}, "demands.tail"),
        ({"largest_scale": 0.0}, "demands.largest_scale"),
    ],
)
def test_wrong_values_are_refused(arguments, field):
    with pytest.raises(rl2ml.InvalidInput) as refused:
        Demands(**arguments)
    assert refused.value.field == field
