"""The interpolant and its stationary points, on functions whose answers are known."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.polynomial import Chebyshev, Polynomial
from numpy.polynomial.chebyshev import chebroots, chebval

from rl2ml_core.selection.chebyshev import TAIL, _roots, first_degree, grid_and_matrix, interpolate


def test_stationary_points_of_a_sine():
    # cos(5x) = 0 at x = (2j+1)π/10
    found, _ = interpolate(lambda x: np.sin(5 * x), 0.0, 4.0, 16)
    expected = (2 * np.arange(7) + 1) * np.pi / 10
    expected = expected[expected < 4]
    np.testing.assert_allclose(found.stationary_points(), expected, atol=1e-8)


@given(st.lists(st.floats(0.05, 1.95), min_size=1, max_size=5, unique=True).map(sorted))
def test_stationary_points_of_a_polynomial(roots):
    if np.diff([0.0, *roots]).min() < 0.05:
        return  # near-double roots are found less exactly
    polynomial = Polynomial.fromroots(roots).integ()
    found, _ = interpolate(polynomial, 0.0, 2.0, 16)
    np.testing.assert_allclose(found.stationary_points(), roots, atol=1e-6)


@pytest.mark.parametrize("upper", [1.0, 2.0, 2.5, 7.0])
def test_no_stationary_point_of_an_exponential(upper):
    found, _ = interpolate(np.exp, 0.0, upper, 16)
    assert found.stationary_points().size == 0


@pytest.mark.parametrize("function", [np.zeros_like, np.ones_like, lambda x: 3 - 2 * x])
def test_constants_and_lines_have_none(function):
    found, values = interpolate(function, 0.0, 3.0, 8)
    assert found.stationary_points().size == 0
    assert found.tail <= TAIL
    grid, matrix = grid_and_matrix(0.0, 3.0, found.degree)
    np.testing.assert_allclose(values @ matrix, function(grid), atol=1e-13)


@pytest.mark.parametrize("edge", [1.0, 2.0])
def test_a_stationary_point_on_the_edge_of_two_pieces(edge):
    found, _ = interpolate(lambda x: -((x - edge) ** 2) + 0.1 * (x - edge) ** 4, 0.0, 3.0, 16)
    assert edge in found.edges
    # Found from both sides, reported once. The others, where 0.4 d³ = 2 d and so d = ±√5, lie outside [0, 3].
    np.testing.assert_allclose(found.stationary_points(), [edge], atol=1e-9)


def test_a_double_root_is_kept():
    """An inflection with a flat tangent is a stationary point too; its position is known to √rounding only."""
    found, _ = interpolate(lambda x: (x - 0.7) ** 3, 0.0, 2.0, 16)
    points = found.stationary_points()
    assert points.size >= 1 or abs(found.slope(0.7)) < 1e-9
    np.testing.assert_allclose(points, 0.7, atol=1e-4)


def test_ends_are_not_reported():
    found, _ = interpolate(lambda x: np.cos(np.pi * x), 0.0, 2.0, 32)  # flat at 0, 1 and 2
    points = found.stationary_points()
    inner = points[(points > 1e-6) & (points < 2 - 1e-6)]
    np.testing.assert_allclose(inner, [1.0], atol=1e-8)
    assert (points > 0).all()
    assert (points < 2).all()


@pytest.mark.parametrize("frequency", [30.0, 60.0])
def test_refines_until_the_tail_is_small(frequency):
    calls = []

    def function(x):
        calls.append(x.size)
        return np.sin(frequency * x)

    found, values = interpolate(function, 0.0, 1.0, 4)
    assert len(calls) > 1
    assert calls == sorted(set(calls))
    assert found.degree > frequency / 2
    assert found.tail <= TAIL
    assert values.size == calls[-1]
    grid, matrix = grid_and_matrix(0.0, 1.0, found.degree)
    np.testing.assert_allclose(values @ matrix, np.sin(frequency * grid), atol=1e-9)


def test_refinement_ends_and_the_tail_says_so():
    found, _ = interpolate(lambda x: np.abs(x - 0.3), 0.0, 1.0, 4)
    assert 256 <= found.degree < 512
    assert found.tail > TAIL


def test_an_interval_of_one_point():
    found, values = interpolate(lambda x: x**2, 1.5, 1.5, 16)
    assert values.tolist() == [2.25]
    assert found.degree == 0
    assert found.tail == 0
    assert found.slope(1.5) == 0
    assert found.stationary_points().size == 0
    grid, matrix = grid_and_matrix(1.5, 1.5, found.degree)
    assert grid.tolist() == [1.5]
    assert (values @ matrix).tolist() == [2.25]


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 2.0), (0.3, 0.300001), (0.0, 20.0), (0.9, 3.15), (0.0, 1e-9)])
def test_grid_and_matrix_reproduce_the_function(lower, upper):
    def function(x):
        return np.exp(-x) * np.cos(3 * x) + 1

    found, values = interpolate(function, lower, upper, 16)
    grid, matrix = grid_and_matrix(lower, upper, found.degree)
    assert grid[0] == lower
    assert grid[-1] == upper
    assert grid.size >= 41
    np.testing.assert_allclose(values @ matrix, function(grid), atol=1e-9)
    np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=1e-12)  # constants are kept


def test_slope_is_the_derivative_anywhere():
    found, _ = interpolate(np.sin, 0.0, 3.0, 16)
    for at in (0.0, 0.4, 1.0, 1.7, 2.0, 3.0):
        assert found.slope(at) == pytest.approx(np.cos(at), abs=1e-10)


@given(st.integers(1, 12), st.integers(0, 2**32 - 1))
def test_derivatives_equal_numpys(degree, seed):
    series = np.random.default_rng(seed).normal(size=degree + 1)
    found, _ = interpolate(lambda x: chebval(2 * x - 1, series), 0.0, 1.0, max(degree, 4))
    expected = Chebyshev(series, domain=[0, 1]).deriv()
    for at in np.linspace(0, 1, 7):
        assert found.slope(at) == pytest.approx(expected(at), abs=1e-8 * np.abs(series).max() * degree**2)


@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_roots_equal_numpys(degree, seed):
    series = np.random.default_rng(seed).normal(size=degree + 1)
    series[-1] = np.sign(series[-1]) * max(abs(series[-1]), 0.1)

    everywhere = chebroots(series)
    real = np.sort(everywhere.real[(np.abs(everywhere.imag) < 1e-9) & (np.abs(everywhere.real) <= 1)])
    assume(np.all(np.diff(real) > 1e-5))  # near-double roots are found less exactly
    np.testing.assert_allclose(sorted(_roots(series)), real, atol=1e-8)


@pytest.mark.parametrize("num_rollouts", [1, 16, 64, 65, 1024, 1025, 65_536])
def test_the_first_degree_grows_with_rollouts(num_rollouts):
    assert first_degree(num_rollouts) >= first_degree(max(1, num_rollouts // 2)) >= 8
