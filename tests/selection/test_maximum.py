"""The returned γ is the global maximizer: against a grid of 2,001 points, refined around its three highest."""

from collections.abc import Callable

import numpy as np
import pytest

import rl2ml_core as rl2ml
from rl2ml_core import Population, ScoreModel
from rl2ml_core.objective.baselines import Estimator
from rl2ml_core.selection.chebyshev import TAIL
from rl2ml_core.selection.criteria import Criterion, Paper, RmsGain

PILOT_NAMES = [
    "aime2024_llama3b_rg_step400_n50",
    "countdown_curriculummaxrl_sft_or_init_checkpoint_n16",
    "deepscaler_qwen25math7b_n128_hard_extreme",
    "deepscaler_qwen25math7b_n128_uniform",
    "dsr1209_qwen25math1.5b_first4epochs_n32",
    "lcb_codeexec_claude3opus_cot_n10",
    "lcb_codegen_gpt35turbo0125_n10",
    "metr_o1_agent_tasks",
    "tot_game24_gpt4_cot_n100",
]
METRICS = ["pass@1", "pass@8", "log:0.01"]
ROLLOUTS = [1, 2, 4, 8, 16, 64, 1024]
BASELINES = ["none", "score", "leave_one_out", "bayes"]
TOLERANCE = 1e-6
GRID = np.linspace(0, 2, 2001)
_ROWS = 67  # tables of 1,024 rollouts that stay in cache

Curve = Callable[[np.ndarray], np.ndarray]


def curve_of(criterion: Criterion, num_rollouts: int, estimator: Estimator, kappa: float = 0.1) -> Curve:
    """The criterion as a function of γ."""

    def evaluate(gamma: np.ndarray) -> np.ndarray:
        values = np.empty(gamma.size)
        for start in range(0, gamma.size, _ROWS):
            block = slice(start, start + _ROWS)
            terms = criterion.totals(*estimator.tables(gamma[block]))
            values[block] = criterion.combine(terms, kappa)
        return values

    return evaluate


def highest(curve: Curve, grid: np.ndarray) -> float:
    """The maximum: a grid, then five zooms by ten around each of its three highest points."""
    values = curve(grid)
    best = float(values.max())
    step = grid[1] - grid[0]
    inner = np.r_[values[0] >= values[1], (values[1:-1] >= values[:-2]) & (values[1:-1] >= values[2:]), True]
    tops = np.flatnonzero(inner)
    centers = grid[tops[np.argsort(values[tops])[-3:]]]
    for _ in range(5):
        around = np.clip(centers[:, None] + np.linspace(-step, step, 21), grid[0], grid[-1])
        found = curve(around.ravel()).reshape(around.shape)
        centers = around[np.arange(centers.size), found.argmax(axis=1)]
        best = max(best, float(found.max()))
        step /= 10
    return best


def check(gamma: float, curve: Curve, grid: np.ndarray = GRID) -> None:
    best, reached = highest(curve, grid), float(curve(np.array([gamma]))[0])
    assert reached >= best - TOLERANCE * abs(best), f"γ = {gamma} reaches {reached}, the maximum is {best}"


def test_the_search_finds_known_maxima():
    """The oracle itself: two tops, the higher one two grid steps wide."""

    def curve(x):
        return np.exp(-((x - 0.4) ** 2)) + 1.001 * np.exp(-(((x - 1.70033) / 0.002) ** 2))

    assert highest(curve, GRID) == pytest.approx(1.001 + np.exp(-(1.30033**2)), rel=1e-6)
    assert highest(lambda x: x, GRID) == 2
    assert highest(lambda x: -x, GRID) == 0


def test_every_pilot_is_named(real_pilots):
    assert sorted(real_pilots) == PILOT_NAMES


# One test per pilot and N, twelve cases each: 9 · 7 · 3 metrics · 4 baselines = 756.
@pytest.mark.parametrize("name", PILOT_NAMES)
@pytest.mark.parametrize("num_rollouts", ROLLOUTS)
def test_real_pilots(real_pilots, name, num_rollouts):
    pilot = real_pilots[name]
    population = pilot.population()
    criteria = {metric: RmsGain(population, rl2ml.parse_metric(metric), num_rollouts) for metric in METRICS}
    for baseline in BASELINES:
        estimator = Estimator.named(baseline, num_rollouts, population)
        for metric, criterion in criteria.items():
            found = rl2ml.recommend(pilot, metric, num_rollouts, criterion="rms_gain", baseline=baseline, bootstrap=0)
            assert found.status != "uninformative"
            assert found.certificate.tail <= TAIL
            check(found.gamma, curve_of(criterion, num_rollouts, estimator))


@pytest.mark.parametrize("name", PILOT_NAMES[::2])
@pytest.mark.parametrize("num_rollouts", [2, 16, 64])
@pytest.mark.parametrize("metric", METRICS)
def test_real_pilots_by_the_papers_criterion(real_pilots, name, num_rollouts, metric):
    pilot = real_pilots[name]
    for penalty in (0.0, 0.01, 1.0):
        found = rl2ml.recommend(
            pilot, metric, num_rollouts, criterion="paper", variance_penalty=penalty, bootstrap=0, gamma_max=2
        )
        criterion = Paper(pilot.population(), rl2ml.parse_metric(metric), num_rollouts, ScoreModel.paper(), penalty)
        check(found.gamma, curve_of(criterion, num_rollouts, Estimator.named("none", num_rollouts, None)), GRID[::10])


# Populations of few difficulties whose criterion has several tops on [0, 6], the ends among them:
# pass rates, their weights, metric, N, baseline, κ.
SEVERAL_TOPS = [
    ([1e-3, 2e-4, 0.946], [20.7, 20.3, 0.42], "log:0.0048", 16, "leave_one_out", 1.0),
    ([1.45e-6, 3.8e-3, 0.83], [207, 0.083, 546], "log:4.4e-07", 256, "bayes", 1.0),
    ([2e-6, 1.3e-4, 0.22], [301, 2.5, 1.24], "pass@1+33*pass@52000", 1024, "bayes", 0.005),
    ([3.46e-5, 4.4e-3, 0.207, 0.408], [340, 6.75, 2.14, 4.18], "pass@1+1.76*pass@2509", 1024, "leave_one_out", 1.0),
    ([1.45e-4, 2.06e-3, 0.063, 0.768], [736, 7.08, 0.0027, 9.8], "pass@1+11.4*pass@5704", 64, "score", 1.0),
    ([1e-5, 2.5e-4, 0.964], [4.27, 0.0032, 0.0112], "pass@1+0.0753*pass@23711", 64, "leave_one_out", 0.1),
    ([1.14e-5, 4.9e-5, 3.45e-3, 0.588], [0.039, 0.58, 1.9, 0.013], "pass@1+3.84*pass@58936", 1024, "none", 0.1),
]


def count_tops(values: np.ndarray) -> int:
    return int(((np.r_[-np.inf, values[:-1]] < values) & (np.r_[values[1:], -np.inf] < values)).sum())


@pytest.mark.parametrize(("rates", "weights", "metric", "num_rollouts", "baseline", "kappa"), SEVERAL_TOPS)
def test_the_highest_of_several_tops(rates, weights, metric, num_rollouts, baseline, kappa):
    population = Population.from_pass_rates(rates, weights)
    criterion = RmsGain(population, rl2ml.parse_metric(metric), num_rollouts)
    curve = curve_of(criterion, num_rollouts, Estimator.named(baseline, num_rollouts, population), kappa)
    grid = np.linspace(0, 6, 601)
    assert count_tops(curve(grid)) >= 2
    # Ranges that hold several tops, or end between them, or leave out the highest.
    for low, high in ((0, 6), (0, 2), (0.3, 4), (1.5, 6), (0, 20)):
        found = rl2ml.recommend(
            population, metric, num_rollouts, criterion="rms_gain", baseline=baseline, score_model=ScoreModel(kappa),
            gamma_min=low, gamma_max=high, bootstrap=0,
        )  # fmt: skip
        assert low <= found.gamma <= high
        check(found.gamma, curve, np.linspace(low, high, 401))


@pytest.mark.parametrize("seed", range(40))
def test_random_populations(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 6))
    population = Population.from_pass_rates(10 ** rng.uniform(-6, -0.001, size), 10 ** rng.uniform(-3, 3, size))
    num_rollouts, k = int(rng.choice([2, 16, 256])), int(10 ** rng.uniform(0, 4))
    metric = [f"pass@{k}", f"pass@1+{10 ** rng.uniform(-4, 2)}*pass@{k}", f"log:{10 ** rng.uniform(-8, 0)}"][seed % 3]
    baseline, kappa, high = BASELINES[seed % 4], float(rng.choice([0.01, 0.1, 1.0])), float(rng.choice([2, 7.3]))
    found = rl2ml.recommend(
        population, metric, num_rollouts, criterion="rms_gain", baseline=baseline, score_model=ScoreModel(kappa),
        gamma_max=high, bootstrap=0,
    )  # fmt: skip
    if found.status == "uninformative":
        headroom = population.weights @ rl2ml.parse_metric(metric).headroom(population) / population.weights.sum()
        assert headroom < 1e-3
        return
    criterion = RmsGain(population, rl2ml.parse_metric(metric), num_rollouts)
    estimator = Estimator.named(baseline, num_rollouts, population)
    check(found.gamma, curve_of(criterion, num_rollouts, estimator, kappa), np.linspace(0, high, 1001))
