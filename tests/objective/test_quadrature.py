"""The midpoint rule against closed forms and 30-digit quadrature."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.objective import quadrature
from rl2ml_core.objective.quadrature import expectations, laws, mixture, nodes, quadrature_nodes
from rl2ml_core.selection import metrics

CELLS = [(1, 0), (1, 1), (8, 0), (8, 3), (8, 8), (10_000, 0), (10_000, 5_000), (10_000, 10_000)]


def population(prior: rl2ml.BetaPrior | None, cells=CELLS) -> rl2ml.Population:
    n, k = np.array(cells).T
    return rl2ml.Population(k, n - k, np.arange(1.0, len(cells) + 1), prior)


def moment(a: float, b: float, i: int, j: int) -> float:
    """E[p^i (1−p)^j] under Beta(a, b): a(a+1)… b(b+1)… / ((a+b)(a+b+1)…)."""
    up = math.prod(a + x for x in range(i)) * math.prod(b + x for x in range(j))
    return up / math.prod(a + b + x for x in range(i + j))


def test_nodes_are_the_midpoints():
    sine, cosine, log_jacobian = nodes(320)
    assert sine.shape == cosine.shape == log_jacobian.shape == (320,)
    for index in (0, 1, 100, 159, 160, 318, 319):
        with mp.workdps(40):
            t = (mp.mpf(index) + 0.5) * mp.pi / 320
            theta = t - mp.sin(2 * t) / 2
            p, q = mp.sin(theta / 2) ** 2, mp.cos(theta / 2) ** 2
            log_speed = mp.log(1 - mp.cos(2 * t))  # dθ/dt = 1 − cos 2t = 2 sin² t
        assert sine[index] ** 2 == pytest.approx(float(p), rel=1e-12)
        assert cosine[index] ** 2 == pytest.approx(float(q), rel=1e-12)
        assert log_jacobian[index] + math.log(2) == pytest.approx(float(log_speed), rel=1e-11, abs=1e-12)
    np.testing.assert_allclose(sine, cosine[::-1], rtol=1e-12)


@given(st.floats(0, 1e8), st.floats(0, 1e8))
def test_narrower_laws_have_more_nodes(one, other):
    few, many = sorted([one, other])
    assert 320 <= quadrature_nodes(few) <= quadrature_nodes(many)
    assert quadrature_nodes(many) % 64 == 0
    assert quadrature_nodes(many) >= 8 * math.sqrt(many)


def test_metrics_still_offer_the_number_of_nodes():
    assert metrics.quadrature_nodes is quadrature_nodes


@pytest.mark.parametrize("prior", [rl2ml.BetaPrior(2, 2), rl2ml.BetaPrior(2.5, 7)])
def test_laws_have_the_moments_of_their_beta(prior):
    people = population(prior)
    num_nodes = quadrature_nodes(10_020)
    sine, cosine, _ = nodes(num_nodes)
    seen = np.zeros(len(CELLS), dtype=int)
    for where, law in laws(people, num_nodes):
        np.testing.assert_allclose(law.sum(axis=1), 1, rtol=1e-13)
        for i, j in [(1, 0), (0, 1), (2, 2), (5, 1)]:
            literal = [moment(a, b, i, j) for a, b in zip(people.shape_success, people.shape_failure, strict=True)]
            found = law @ (sine ** (2 * i) * cosine ** (2 * j))
            np.testing.assert_allclose(found, literal[where], rtol=1e-11)
        seen[where] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("prior", [rl2ml.BetaPrior(1, 1), rl2ml.BetaPrior(0.3, 1.5), None])
@pytest.mark.parametrize("tilt", [(2, 2), (3, 2), (2, 5)])
def test_mixture_integrates_over_a_tilted_population(prior, tilt):
    cells = CELLS if prior else [(8, 3), (8, 8), (8, 0), (5, 1)]
    people = population(prior, cells)
    p, q, mass = mixture(people, tilt, degree=30)
    np.testing.assert_allclose(p + q, 1, rtol=1e-14)
    i, j = tilt
    for extra_i, extra_j in [(0, 0), (1, 0), (0, 7), (20, 10)]:
        if prior:
            shapes = zip(people.shape_success, people.shape_failure, strict=True)
            each = [moment(a, b, i + extra_i, j + extra_j) for a, b in shapes]
        else:
            each = [(k / n) ** (i + extra_i) * (1 - k / n) ** (j + extra_j) for n, k in cells]
        expected = float(np.average(each, weights=people.weights))
        assert float(mass @ (p**extra_i * q**extra_j)) == pytest.approx(expected, rel=1e-11)


def test_a_mixture_of_points_keeps_them():
    people = rl2ml.Population.from_pass_rates([0.2, 0.7, 0.2], [1, 2, 1])
    p, q, mass = mixture(people)
    np.testing.assert_allclose(p, [0.2, 0.7, 0.2])
    np.testing.assert_allclose(q, [0.8, 0.3, 0.8])
    np.testing.assert_allclose(mass, [0.25, 0.5, 0.25])
    # p(1−p): .16, .21, .16
    np.testing.assert_allclose(mixture(people, (1, 1))[2], [0.04, 0.105, 0.04])


@settings(deadline=None, max_examples=20)
@given(st.floats(0.05, 5), st.floats(0.05, 5), st.integers(0, 3), st.integers(0, 3), st.floats(0.1, 3))
def test_a_mixture_integrates_what_is_no_polynomial(alpha, beta, k, failures, power):
    people = rl2ml.Population([k], [failures], [3.0], rl2ml.BetaPrior(alpha, beta))
    p, _, mass = mixture(people, (2, 2))
    a, b = alpha + k, beta + failures
    with mp.workdps(30):
        whole = mp.quad(
            lambda x: x ** (a + 1) * (1 - x) ** (b + 1) * (x + power) ** -power, [0, 0.01, 0.5, 0.99, 1]
        ) / mp.beta(a, b)
    assert float(mass @ (p + power) ** -power) == pytest.approx(float(whole), rel=1e-10)


@pytest.mark.parametrize("prior", [rl2ml.BetaPrior(2, 3), rl2ml.BetaPrior(2.2, 2)])
def test_expectations_of_a_constant_are_the_beta_binomial_law(prior):
    people = population(prior)
    found = expectations(people, lambda p, q: np.ones_like(p) * (p + q), 7)
    np.testing.assert_allclose(found, people.bernstein(7).law, rtol=1e-10, atol=1e-14)


def test_expectations_take_the_function_at_p_and_q():
    people = population(rl2ml.BetaPrior(2, 2), [(8, 3), (20, 20)])
    np.testing.assert_allclose(
        expectations(people, lambda p, q: p * q**2, 4), people.bernstein(4)(1, 2), rtol=1e-11, atol=1e-16
    )


def test_many_cells_are_worked_through_in_runs(monkeypatch):
    people = population(rl2ml.BetaPrior(1, 1))
    whole = mixture(people, (2, 2), 14)
    sums = expectations(people, lambda p, _: 1 / (p + 1), 14)
    monkeypatch.setattr(quadrature, "_VALUES_AT_ONCE", 3000)
    for part, all_of_it in zip(mixture(people, (2, 2), 14), whole, strict=True):
        np.testing.assert_allclose(part, all_of_it, rtol=1e-13)
    np.testing.assert_allclose(expectations(people, lambda p, _: 1 / (p + 1), 14), sums, rtol=1e-12)
