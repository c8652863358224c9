"""Metrics against dense quadrature, and their names."""

import math
import re

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core import BetaPrior, InvalidInput, LogSuccess, Mixture, PassAtK, Population, parse_metric
from rl2ml_core.objective import quadrature

MIXTURE = Mixture({PassAtK(1): 0.5, PassAtK(16): 0.25, LogSuccess(0.01): 2.0})
METRICS = [PassAtK(1), PassAtK(8), PassAtK(1024), LogSuccess(1e-4), LogSuccess(0.01), LogSuccess(1.0), MIXTURE]
UNIFORM, HARD = BetaPrior(1, 1), BetaPrior(0.3, 1.5)
CELLS = [(1, 0), (1, 1), (8, 0), (8, 3), (8, 8), (10_000, 0), (10_000, 1), (10_000, 5_000), (10_000, 10_000)]


def names(value: object) -> str | None:
    if isinstance(value, BetaPrior):
        return f"Beta({value.alpha:g},{value.beta:g})"
    return getattr(value, "name", None)


# v, v' and v(1) − v in logarithms of p and q = 1−p, straight from the definitions.
def value(metric, log_p, log_q):
    match metric:
        case PassAtK(k=k):
            return -np.expm1(k * log_q)
        case LogSuccess(tau=tau):
            return np.log(np.exp(log_p) + tau)
    return sum(weight * value(part, log_p, log_q) for part, weight in metric.parts.items())


def slope(metric, log_p, log_q):
    match metric:
        case PassAtK(k=k):
            return k * np.exp((k - 1) * log_q)
        case LogSuccess(tau=tau):
            return 1 / (np.exp(log_p) + tau)
    return sum(weight * slope(part, log_p, log_q) for part, weight in metric.parts.items())


def room(metric, log_p, log_q):
    """v(1) − v(p), without cancellation near p = 1."""
    match metric:
        case PassAtK(k=k):
            return np.exp(k * log_q)
        case LogSuccess(tau=tau):
            # log((1+τ)/(p+τ)) = −log1p(−q/(1+τ))
            return -np.log1p(-np.exp(log_q) / (1 + tau))
    return sum(weight * room(part, log_p, log_q) for part, weight in metric.parts.items())


def whole_range(metric):
    return float(room(metric, -np.inf, 0.0))


@pytest.mark.parametrize("metric", METRICS, ids=names)
def test_value_and_slope_are_the_definitions(metric):
    p = np.array([1e-12, 1e-4, 0.03, 0.25, 0.5, 0.9, 1 - 2**-20])
    np.testing.assert_allclose(metric.value(p), value(metric, np.log(p), np.log1p(-p)), rtol=1e-12)
    np.testing.assert_allclose(metric.slope(p), slope(metric, np.log(p), np.log1p(-p)), rtol=1e-12)


@pytest.mark.parametrize("metric", METRICS, ids=names)
def test_value_and_slope_keep_any_shape_and_both_ends(metric):
    p = np.array([[0.0, 0.5, 1.0]])
    assert metric.value(p).shape == metric.slope(p).shape == (1, 3)
    assert metric.value(p)[0, 2] - metric.value(p)[0, 0] == pytest.approx(whole_range(metric), rel=1e-13)


@given(st.floats(1e-6, 1 - 1e-6), st.sampled_from(METRICS))
def test_slope_is_the_derivative_of_value(p, metric):
    def exact(x):
        parts = metric.parts.items() if isinstance(metric, Mixture) else [(metric, 1.0)]
        return sum(w * (1 - (1 - x) ** m.k if isinstance(m, PassAtK) else mp.log(x + m.tau)) for m, w in parts)

    with mp.workdps(80):
        step = mp.mpf(10) ** -20
        derivative = (exact(mp.mpf(p) + step) - exact(mp.mpf(p) - step)) / (2 * step)
    assert float(metric.slope(np.array([p]))[0]) == pytest.approx(float(derivative), rel=1e-9, abs=1e-30)


@pytest.mark.parametrize("prior", [UNIFORM, HARD], ids=names)
@pytest.mark.parametrize("metric", METRICS, ids=names)
def test_headroom_equals_quadrature(metric, prior, beta_nodes):
    n, k = np.array(CELLS).T
    found = metric.headroom(Population(k, n - k, np.ones(n.size), prior))
    nodes = [beta_nodes(s + prior.alpha, f + prior.beta) for s, f in zip(k, n - k, strict=True)]
    expected = [at.law @ room(metric, at.log_p, at.log_q) / whole_range(metric) for at in nodes]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("num_rollouts", [1, 2, 16, 1024])
@pytest.mark.parametrize("prior", [UNIFORM, HARD], ids=names)
@pytest.mark.parametrize("metric", METRICS, ids=names)
def test_signal_equals_quadrature(metric, prior, num_rollouts, beta_nodes):
    n, k = np.array(CELLS).T
    found = metric.signal(Population(k, n - k, np.ones(n.size), prior), num_rollouts)
    assert found.shape == (len(CELLS), num_rollouts)
    for row, (s, f) in enumerate(zip(k, n - k, strict=True)):
        if not found[row].any():  # pass@1024 after 10,000 successes: (1−p)^1023 is nothing at all
            assert isinstance(metric, PassAtK)
            assert (metric.k, s) == (1024, 10_000)
            continue
        peak = int(np.argmax(found[row]))
        some = sorted({0, num_rollouts // 100, num_rollouts // 3, max(peak - 1, 0), peak, num_rollouts - 1})
        # p² q² goes into the law, so that its weight lies where the integrand does.
        at = beta_nodes(s + prior.alpha + 2, f + prior.beta + 2, num_rollouts - 1)
        plain = beta_nodes(s + prior.alpha, f + prior.beta)
        scale = plain.law @ np.exp(2 * plain.log_p + 2 * plain.log_q)
        weight = at.law * slope(metric, at.log_p, at.log_q) * scale
        expected = np.array([weight @ at.bernstein(m, num_rollouts - 1) for m in some])
        # Terms below a millionth of a millionth of the largest add nothing to any sum.
        np.testing.assert_allclose(found[row, some], expected, rtol=1e-10, atol=1e-22 * expected.max())


@pytest.mark.parametrize(("k", "n", "m"), [(0, 1, 0), (0, 8, 0), (3, 8, 2), (8, 8, 7)])
@pytest.mark.parametrize("metric", [PassAtK(8), LogSuccess(0.01)], ids=names)
def test_signal_equals_thirty_digit_quadrature(metric, k, n, m):
    prior, degree = HARD, 7
    population = Population(np.array([k]), np.array([n - k]), np.ones(1), prior)
    with mp.workdps(30):
        a, b = mp.mpf(prior.alpha) + k, mp.mpf(prior.beta) + n - k

        def integrand(p):
            derivative = metric.k * (1 - p) ** (metric.k - 1) if isinstance(metric, PassAtK) else 1 / (p + metric.tau)
            return derivative * mp.binomial(degree, m) * p ** (a + 1 + m) * (1 - p) ** (b + 1 + degree - m)

        expected = float(mp.quad(integrand, [0, 0.01, 0.1, 0.5, 1]) / mp.beta(a, b))
    assert metric.signal(population, degree + 1)[0, m] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("num_rollouts", [1, 16, 1024])
@pytest.mark.parametrize("metric", METRICS, ids=names)
def test_point_masses_take_the_integrand_itself(metric, num_rollouts):
    p = np.array([0.0, 1e-3, 0.3, 0.5, 1 - 2**-10, 1.0])
    population = Population.from_pass_rates(p)
    inner = slice(1, -1)
    log_p, log_q = np.log(p[inner]), np.log1p(-p[inner])
    np.testing.assert_allclose(
        metric.headroom(population)[inner], room(metric, log_p, log_q) / whole_range(metric), rtol=1e-10, atol=1e-300
    )
    np.testing.assert_allclose(metric.headroom(population)[[0, -1]], [1, 0], atol=1e-15)
    signal = metric.signal(population, num_rollouts)
    with mp.workdps(30):
        for m in sorted({0, num_rollouts // 2, num_rollouts - 1}):
            basis = [
                float(mp.binomial(num_rollouts - 1, m) * mp.mpf(x) ** m * (1 - mp.mpf(x)) ** (num_rollouts - 1 - m))
                for x in p[inner]
            ]
            expected = slope(metric, log_p, log_q) * np.exp(2 * log_p + 2 * log_q) * np.array(basis)
            np.testing.assert_allclose(signal[inner, m], expected, rtol=1e-10, atol=1e-300)
    np.testing.assert_array_equal(signal[[0, -1]], 0)  # p² (1−p)² leaves nothing at the ends


def test_log_basis_in_pieces_equals_the_whole(monkeypatch):
    population = Population(np.array([0.0, 5.0]), np.array([9.0, 4.0]), np.ones(2), UNIFORM)
    whole = LogSuccess(0.01).signal(population, 40)
    monkeypatch.setattr(quadrature, "_VALUES_AT_ONCE", 40 * 50)
    np.testing.assert_allclose(LogSuccess(0.01).signal(population, 40), whole, rtol=1e-13)


@given(
    st.lists(st.floats(0, 1), min_size=2, max_size=5, unique=True).map(sorted),
    st.sampled_from([1, 2, 8, 64]),
    st.floats(1e-6, 1e3),
)
def test_metrics_never_decrease(p, k, tau):
    for metric in (PassAtK(k), LogSuccess(tau), Mixture({PassAtK(k): 1.0, LogSuccess(tau): 0.3})):
        values = metric.value(np.array(p))
        assert (np.diff(values) >= -1e-15 * np.abs(values[1:])).all()
        assert (metric.slope(np.array(p)) >= 0).all()


LEAVES = st.one_of(
    st.integers(1, 1_000_000).map(PassAtK),
    st.floats(1e-9, 1e3).map(LogSuccess),
)
MIXTURES = st.dictionaries(LEAVES, st.floats(1e-9, 1e9), min_size=1, max_size=4).map(Mixture)


@given(st.one_of(LEAVES, MIXTURES))
def test_names_round_trip(metric):
    again = parse_metric(metric.name)
    if isinstance(metric, Mixture) and list(metric.parts.values()) == [1.0]:
        metric = next(iter(metric.parts))  # one part of weight 1 is that part
    assert again == metric
    assert hash(again) == hash(metric)
    assert again.name == metric.name


@given(MIXTURES, st.integers(0, 40), st.integers(0, 40))
def test_spaces_do_not_matter(metric, first, second):
    text = metric.name
    for position in sorted({first % len(text), second % len(text)}, reverse=True):
        text = text[:position] + " " + text[position:]
    assert parse_metric(f"  {text} ") == parse_metric(metric.name)


def test_equal_parts_are_merged():
    assert parse_metric("0.5*pass@8+0.25*pass@8+pass@1") == Mixture({PassAtK(1): 1.0, PassAtK(8): 0.75})
    assert Mixture({"pass@1": 1, PassAtK(1): 2}) == Mixture({PassAtK(1): 3})
    # A mixture inside a mixture: 2 × (0.5, 0.25) with 1 more of pass@16.
    inner = Mixture({PassAtK(1): 0.5, PassAtK(16): 0.25})
    assert Mixture({inner: 2.0, PassAtK(16): 1.0}) == Mixture({PassAtK(1): 1.0, PassAtK(16): 1.5})


def test_the_order_of_parts_does_not_matter():
    one, other = parse_metric("pass@1+2*log:0.1"), parse_metric("2*log:0.1+pass@1")
    assert one == other
    assert one.name == other.name
    assert hash(one) == hash(other)


def test_parts_of_weight_zero_are_dropped():
    assert Mixture({PassAtK(1): 0.0, PassAtK(2): 3.0}).parts == {PassAtK(2): 3.0}


def test_exponents_do_not_separate_parts():
    assert parse_metric("1e+2*pass@1+1e-2*log:1e+1") == Mixture({PassAtK(1): 100.0, LogSuccess(10.0): 0.01})


def test_dicts():
    assert PassAtK(8).to_dict() == {"name": "pass_at_k", "k": 8}
    assert LogSuccess(0.01).to_dict() == {"name": "log_success", "tau": 0.01}
    assert Mixture({PassAtK(8): 2.0}).to_dict() == {
        "name": "mixture",
        "parts": [{"weight": 2.0, "metric": {"name": "pass_at_k", "k": 8}}],
    }


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "+", "pass@", "pass@0", "pass@-1", "pass@1.5", "pass@8+", "+pass@8", "pass@1000001", "pass@12345678",
        "log:", "log:0", "log:-1", "log:nan", "log:inf", "log:1e-10", "log:1001", "-1*pass@1", "-1*pass@1+2*pass@1",
        "nan*pass@1", "inf*pass@1", "0*pass@1", "0*pass@1+0*log:1", "2*", "2*3*pass@1", "reward", "pass@k", "PASS@1",
        "pass@8;log:1", "1e13*pass@1",
    ],
)  # fmt: skip
def test_other_text_is_refused(text):
    with pytest.raises(InvalidInput) as caught:
        parse_metric(text)
    assert re.match(r"metric|the weight", caught.value.field)


@pytest.mark.parametrize("wrong", [None, 8, 0.5, b"pass@8", ["pass@8"], {"pass@8": 1.0}])
def test_other_things_are_refused(wrong):
    with pytest.raises(InvalidInput, match="metric must be a Metric or its name"):
        parse_metric(wrong)


@pytest.mark.parametrize("k", [0, -1, 1.5, True, "8", math.nan, 1_000_001])
def test_pass_at_k_wants_a_positive_integer(k):
    with pytest.raises(InvalidInput, match=r"metric\.k must be an integer from 1 to 1000000"):
        PassAtK(k)


@pytest.mark.parametrize("tau", [0, -1, math.nan, math.inf, 1e-10, 1001, "0.1", True])
def test_log_success_wants_tau_in_range(tau):
    with pytest.raises(InvalidInput, match=r"metric\.tau must be a finite number"):
        LogSuccess(tau)


@pytest.mark.parametrize("parts", [{}, None, [("pass@1", 1.0)], {"pass@1": 0}, {"pass@1": -1}, {"pass@1": math.nan}])
def test_mixture_wants_positive_weights(parts):
    with pytest.raises(InvalidInput):
        Mixture(parts)


def test_a_metric_of_ones_own_passes_through():
    class Squared:
        name = "squared"

        def value(self, pass_rate):
            return pass_rate**2

        def slope(self, pass_rate):
            return 2 * pass_rate

        def headroom(self, population):
            return 1 - population.pass_rates**2

        def signal(self, population, num_rollouts):
            # v' = 2p: E[2 p³ q² B_m]
            return 2 * population.bernstein(num_rollouts - 1)(3, 2)

        def to_dict(self):
            return {"name": "squared"}

    own = Squared()
    assert parse_metric(own) is own
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])
    assert rl2ml.recommend(pilot, own, 4, bootstrap=0).gamma is not None
