"""How long the solver takes, next to four other ways to a γ, and how often each of them misses the maximum.

`python benchmarks/solver.py` prints everything in one run of a few minutes; `--quick` is a smoke test. One BLAS thread:
the matrices are small. Every time is the best of several; a method that would take long is measured on fewer prompts
and scaled, as its row says. Ratios are to ours from the same input: the counts, or for the grid the histogram.

The ways:
- ours: the certified maximum of the RMS gain on the pilot's histogram; look_ahead adds a second opinion, lookahead is
  that criterion itself with its checks under three other priors.
- App. B.3: the listing of arXiv:2605.30154, prompt by prompt on U = A/√B at p̂ = (k+1)/(n+2), ℓ = p̂(1−p̂): the best of
  a grid, blended half-way to 0.8, then 8 unsafeguarded Newton steps on F = 2A'B − AB', clipped to the range. 41 points
  in the grid.
- minimize_scalar: scipy's bounded method on the RMS gain, prompt by prompt at p̂: w by the incomplete beta function,
  the noise by each prompt's binomial law.
- grid: 2,001 values of γ on the histogram's criterion.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

import numpy as np
import scipy
from scipy.optimize import minimize_scalar
from scipy.special import betainc

import rl2ml_core as rl2ml
import rl2ml_core.selection.problem as internals
from rl2ml_core.objective import population as laws
from rl2ml_core.objective.baselines import Estimator, energy_form
from rl2ml_core.selection.criteria import RmsGain

LOW, HIGH = 0.0, 2.0
PILOT_ROLLOUTS = 16
METRIC = rl2ml.PassAtK(8)
KAPPA = 0.1
GRID_POINTS = 2001
COARSE_POINTS = 41
NEWTON_STEPS = 8
ANCHOR = 0.8
MISS = 0.01

SOLVE = "ours: solve alone"
FROM_COUNTS = "ours: counts to γ"
NO_DRAWS = "ours: recommend(bootstrap=0)"
DRAWS = "ours: recommend(), 200 draws"
OPINION = "ours: look_ahead, no draws"
AHEAD = "ours: lookahead, no draws"
WALKS = "ours: lookahead, 200 draws"
PAPER = "App. B.3, per prompt"
GRID = f"grid of {GRID_POINTS:,}, histogram"

_VALUES_KEPT = 1 << 24  # a matrix [prompts, rollouts] of 128 MB; beyond it a peer is measured on fewer prompts
_VALUES_AT_ONCE = 1 << 18


# ---- timing ----


def best_of(function: Callable[[], object], repeats: int, seconds: float) -> float:
    """The least seconds of some calls: at most `repeats`, and none begun after `seconds`."""
    best, began = np.inf, time.perf_counter()
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - began > seconds:
            break
    return best


def spoken(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


@dataclass(frozen=True)
class Timed:
    """Seconds for a whole pilot, and from how many prompts they were scaled (None: measured as they are)."""

    seconds: float
    scaled_from: int | None = None

    def __str__(self) -> str:
        return spoken(self.seconds) + (f" (scaled from {self.scaled_from:,})" if self.scaled_from else "")


# ---- the listing of App. B.3 ----


def coefficients(gamma: np.ndarray, num_rollouts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """c_m = (γ)_m/m!, m = 0..N−1, with its first and second derivative by γ; each [G, N]."""
    g, i = gamma[:, None], np.arange(1, num_rollouts - 1)
    c, first, second = np.zeros((3, gamma.size, num_rollouts))
    c[:, 0] = 1
    if num_rollouts > 1:
        # c_m = γ e_m with e_m = Π_{0<i<m} (γ+i) / Π_{1<i≤m} i: no division by γ
        e = np.ones((gamma.size, num_rollouts - 1))
        np.cumprod((g + i) / (i + 1), axis=1, out=e[:, 1:])
        h, k = np.zeros((2, *e.shape))
        np.cumsum(1 / (g + i), axis=1, out=h[:, 1:])
        np.cumsum(1 / (g + i) ** 2, axis=1, out=k[:, 1:])
        c[:, 1:] = g * e
        first[:, 1:] = e + g * e * h
        second[:, 1:] = 2 * e * h + g * e * (h**2 - k)
    return c, first, second


class UnitGain:
    """A = Σ v' ℓ w and B = Σ ℓ w² (Eq. 1) by the literal sums w = Σ_m c_m (1−p)^m, prompt by prompt."""

    def __init__(self, p: np.ndarray, metric: rl2ml.Metric, num_rollouts: int, weights: np.ndarray | None = None):
        self._num_rollouts = num_rollouts
        self._length = p * (1 - p) if weights is None else weights * p * (1 - p)
        self._gain = self._length * metric.slope(p)
        self._powers = np.empty((p.size, num_rollouts))
        self._powers[:, 0] = 1
        self._powers[:, 1:] = (1 - p)[:, None]
        np.cumprod(self._powers, axis=1, out=self._powers)

    def values(self, gamma: np.ndarray) -> np.ndarray:
        """U = A/√B (Eq. 2), [G]."""
        c = coefficients(gamma, self._num_rollouts)[0].T
        gain, length = np.zeros((2, gamma.size))
        rows = max(1, _VALUES_AT_ONCE // max(gamma.size, self._num_rollouts))
        for start in range(0, self._length.size, rows):
            block = slice(start, start + rows)
            w = self._powers[block] @ c
            gain += self._gain[block] @ w
            length += self._length[block] @ w**2
        return gain / np.sqrt(length)

    def newton_step(self, gamma: float) -> float:
        """−F/F' with F = 2A'B − AB'."""
        w, w1, w2 = (self._powers @ np.concatenate(coefficients(np.array([gamma]), self._num_rollouts)).T).T
        a, a1, a2 = self._gain @ w, self._gain @ w1, self._gain @ w2
        b, b1, b2 = self._length @ w**2, 2 * self._length @ (w * w1), 2 * self._length @ (w1**2 + w * w2)
        slope = 2 * a2 * b + a1 * b1 - a * b2
        return float(-(2 * a1 * b - a * b1) / slope) if slope else 0.0


def papers_procedure(unit: UnitGain) -> float:
    grid = np.linspace(LOW, HIGH, COARSE_POINTS)
    gamma = 0.5 * float(grid[np.argmax(unit.values(grid))]) + 0.5 * ANCHOR
    for _ in range(NEWTON_STEPS):
        gamma = float(np.clip(gamma + unit.newton_step(gamma), LOW, HIGH))
    return gamma


# ---- the other peers ----


def direct_rms_gain(p: np.ndarray, metric: rl2ml.Metric, num_rollouts: int, estimator: Estimator) -> Callable:
    """The RMS gain at known pass rates as a function of one γ, without a histogram: per prompt, nothing shared."""
    n = num_rollouts
    points = rl2ml.Population.from_pass_rates(p)
    law = np.empty((p.size, n + 1))
    for where, block in points.blocks(n + 1):
        law[where] = np.exp(block.log_bernstein(n))
    q, k = 1 - p, np.arange(n + 1)
    signal = metric.slope(p) * KAPPA * (p * q) ** 2
    mu, nu = np.sqrt(KAPPA) * q, np.sqrt(KAPPA) * p

    def evaluate(gamma: float) -> float:
        w = p**-gamma * betainc(gamma, n, p)
        success, failure = estimator.tables(np.array([gamma]))
        s, t = success[0] * k / n, failure[0] * (n - k) / n
        columns = np.stack([s**2, s * t, t**2, success[0] * s / n, failure[0] * t / n], axis=1)
        ss, st, tt, noise_s, noise_t = (law @ columns).T
        energy = mu**2 * ss - 2 * mu * nu * st + nu**2 * tt + (1 - mu**2) * noise_s + (1 - nu**2) * noise_t
        return float(signal @ w / np.sqrt(energy.sum() * p.size))

    return evaluate


def bounded(function: Callable[[float], float]) -> float:
    return float(minimize_scalar(lambda g: -function(g), bounds=(LOW, HIGH), method="bounded").x)


def histogram_curve(population: rl2ml.Population, metric: rl2ml.Metric, num_rollouts: int) -> Callable:
    """The RMS gain on the histogram, [G] → [G], with the Bayes baseline."""
    criterion = RmsGain(population, metric, num_rollouts)
    estimator = Estimator.named("bayes", num_rollouts, population)

    def evaluate(gamma: np.ndarray) -> np.ndarray:
        rows = max(1, _VALUES_AT_ONCE // num_rollouts)
        values = np.empty(gamma.size)
        for start in range(0, gamma.size, rows):
            block = slice(start, start + rows)
            values[block] = criterion.combine(criterion.totals(*estimator.tables(gamma[block])), KAPPA)
        return values

    return evaluate


def grid_search(curve: Callable) -> float:
    grid = np.linspace(LOW, HIGH, GRID_POINTS)
    return float(grid[np.argmax(curve(grid))])


# ---- ours, with its insides apart ----


def forget() -> None:
    """Drop the laws that pilots with the same cells share: every pilot here counts as a new one."""
    laws._kept_moments.cache_clear()


def recommend_anew(
    pilot: rl2ml.PilotHistogram, num_rollouts: int, bootstrap: int, **options: object
) -> rl2ml.Recommendation:
    forget()
    asked = {"criterion": "rms_gain"} | options
    return rl2ml.recommend(pilot, METRIC, num_rollouts, bootstrap=bootstrap, **asked)


def solve(pilot: rl2ml.PilotHistogram, num_rollouts: int) -> float:
    """From the histogram to the certified γ: moments, curve and roots; nothing of the report around it."""
    forget()
    problem = internals.Problem.of(
        pilot, METRIC, num_rollouts, LOW, HIGH, "rms_gain", None, "empirical_bayes", None, "bayes", None, False
    )
    return internals.solve(problem, {"current": rl2ml.known_table("grpo", num_rollouts)}).gamma


# ---- the two parts ----


def make_counts(num_prompts: int, rng: np.random.Generator) -> np.ndarray:
    """Success counts of hard-heavy prompts, int32."""
    p = rng.beta(0.3, 1.5, min(num_prompts, 1_000_000))
    counts = rng.binomial(PILOT_ROLLOUTS, p).astype(np.int32)
    return np.resize(counts, num_prompts)


def on_fewer(
    make: Callable[[np.ndarray], object], p: np.ndarray, num_rollouts: int, repeats: int, seconds: float, most: int
) -> Timed:
    """Time `make` on as many prompts as `most` values [prompts, rollouts] allow, scaled to all of them."""
    used = min(p.size, max(1000, most // num_rollouts))
    elapsed = best_of(lambda: make(p[:used]), repeats, seconds)
    return Timed(elapsed * p.size / used, None if used == p.size else used)


def time_one(counts: np.ndarray, num_rollouts: int, quick: bool) -> dict[str, Timed]:
    n = num_rollouts
    repeats, seconds = (3, 0.3) if quick else (7, 2.0)
    most = _VALUES_KEPT >> (4 if quick else 0)
    pilot = rl2ml.PilotHistogram.from_counts(counts, PILOT_ROLLOUTS)
    population = pilot.population()
    estimator = Estimator.named("bayes", n, population)
    p = (counts + 1) / (PILOT_ROLLOUTS + 2)
    solve(pilot, n)  # fills the caches that stay with a process

    def ours(function: Callable[[], object]) -> Timed:
        return Timed(best_of(function, 100, seconds))

    return {
        SOLVE: ours(lambda: solve(pilot, n)),
        FROM_COUNTS: ours(lambda: solve(rl2ml.PilotHistogram.from_counts(counts, PILOT_ROLLOUTS), n)),
        NO_DRAWS: ours(lambda: recommend_anew(pilot, n, 0)),
        DRAWS: ours(lambda: recommend_anew(pilot, n, 200)),
        OPINION: ours(lambda: recommend_anew(pilot, n, 0, look_ahead=True)),
        AHEAD: ours(lambda: recommend_anew(pilot, n, 0, criterion="lookahead")),
        WALKS: ours(lambda: recommend_anew(pilot, n, 200, criterion="lookahead")),
        PAPER: on_fewer(lambda q: papers_procedure(UnitGain(q, METRIC, n)), p, n, repeats, seconds, most),
        "minimize_scalar, per prompt": on_fewer(
            lambda q: bounded(direct_rms_gain(q, METRIC, n, estimator)), p, n, repeats, seconds, most
        ),
        GRID: Timed(best_of(lambda: grid_search(histogram_curve(population, METRIC, n)), repeats, seconds)),
    }


def time_all(sizes: list[int], rollouts: list[int], quick: bool) -> dict[tuple[int, int, str], float]:
    """Print a table for every size and N; seconds by (prompts, N, method)."""
    rng = np.random.default_rng(0)
    found: dict[tuple[int, int, str], float] = {}
    for size in sizes:
        counts = make_counts(size, rng)
        for n in rollouts:
            rows = time_one(counts, n, quick)
            print(f"\n{size:,} prompts, {PILOT_ROLLOUTS} pilot rollouts, N = {n}")
            for name, timed in rows.items():
                found[size, n, name] = timed.seconds
                ratio = timed.seconds / rows[SOLVE if name == GRID else FROM_COUNTS].seconds
                print(f"  {name:<31}{timed!s:<32}" + ("" if name.startswith("ours") else f"{ratio:>8,.1f} ×"))
    return found


def time_minimum_variance(quick: bool) -> float:
    """Seconds for one table of minimum variance at N = 4096, beside a dense solve of the same system."""
    n = 4096
    population = rl2ml.PilotHistogram.from_counts(
        make_counts(100_000, np.random.default_rng(3)), PILOT_ROLLOUTS
    ).population()

    def ours() -> rl2ml.AdvantageTable:
        forget()
        return rl2ml.rl2ml_table(1.0, n, "minimum_variance", population)

    def dense() -> np.ndarray:
        forget()
        success, failure, crossed = energy_form(population, n, rl2ml.ScoreModel())
        matrix = np.diag(success + failure) - np.diag(crossed, 1) - np.diag(crossed, -1)
        beta = rl2ml.success_weights(1.0, n)
        right = success * beta
        right[1:] -= crossed * beta[:-1]
        return np.linalg.solve(matrix, right)

    tridiagonal = best_of(ours, 20, 2)
    ratio = best_of(dense, 1 if quick else 2, 20) / tridiagonal
    print(f"a minimum-variance table at N = {n:,}: {spoken(tridiagonal)}; a dense solve takes {ratio:,.0f} ×")
    return tridiagonal


@dataclass
class Tally:
    """Losses of one method, as shares of its criterion's maximum, and its distances from the maximizer."""

    losses: list[float]
    distances: list[float]

    @property
    def misses(self) -> int:
        return sum(loss > MISS for loss in self.losses)


def refined_maximum(curve: Callable) -> tuple[float, float]:
    """Argmax and maximum: a grid of 501, then zooms around its four highest tops."""
    grid = np.linspace(LOW, HIGH, 501)
    values = curve(grid)
    step = grid[1] - grid[0]
    tops = np.flatnonzero((np.r_[-np.inf, values[:-1]] <= values) & (np.r_[values[1:], -np.inf] <= values))
    centers = grid[tops[np.argsort(values[tops])[-4:]]]
    for _ in range(3):
        around = np.clip(centers[:, None] + np.linspace(-step, step, 21), LOW, HIGH)
        found = curve(around.ravel()).reshape(around.shape)
        centers = around[np.arange(centers.size), found.argmax(axis=1)]
        step /= 10
    top = int(found.max(axis=1).argmax())
    return float(centers[top]), float(max(found.max(), values.max()))


def random_instance(rng: np.random.Generator) -> tuple[rl2ml.PilotHistogram, rl2ml.Metric, int]:
    """A pilot of prompts from one to three Beta laws, a metric and a rollout budget."""
    parts = int(rng.integers(1, 4))
    shapes, which = 10 ** rng.uniform(-1, 1, (parts, 2)), rng.integers(0, parts, int(10 ** rng.uniform(1.5, 3.7)))
    pilot_rollouts = int(rng.choice([4, 8, 16, 64]))
    counts = rng.binomial(pilot_rollouts, rng.beta(*shapes[which].T))
    metrics = [
        rl2ml.PassAtK(int(2 ** rng.integers(0, 8))),
        rl2ml.LogSuccess(10 ** rng.uniform(-4, 0)),
        rl2ml.Mixture({rl2ml.PassAtK(1): rng.random(), rl2ml.PassAtK(int(2 ** rng.integers(1, 9))): rng.random()}),
    ]
    pilot = rl2ml.PilotHistogram.from_counts(counts, pilot_rollouts)
    return pilot, metrics[int(rng.integers(3))], int(rng.choice([2, 4, 8, 16, 64, 256, 1024]))


def count_misses(instances: int) -> dict[str, Tally]:
    rng = np.random.default_rng(1)
    tallies: dict[str, Tally] = {}
    seen = 0
    while seen < instances:
        pilot, metric, n = random_instance(rng)
        found = rl2ml.recommend(pilot, metric, n, criterion="rms_gain", bootstrap=0)
        if found.gamma is None:
            continue  # uninformative: no γ to compare
        seen += 1
        population = pilot.population()
        unit = UnitGain(population.pass_rates, metric, n, population.weights)
        curve = histogram_curve(population, metric, n)
        papers_own = rl2ml.recommend(pilot, metric, n, criterion="paper", variance_penalty=0, bootstrap=0)
        answers = {
            "RMS gain": (
                curve,
                {
                    "ours": found.gamma,
                    "minimize_scalar": bounded(lambda g, f=curve: float(f(np.array([g]))[0])),
                    f"grid of {GRID_POINTS:,}": grid_search(curve),
                },
            ),
            "U = A/√B": (
                unit.values,
                {
                    "ours (Eq. 4, λ = 0)": papers_own.gamma,
                    "App. B.3": papers_procedure(unit),
                    "minimize_scalar": bounded(lambda g, f=unit.values: float(f(np.array([g]))[0])),
                    f"grid of {GRID_POINTS:,}": grid_search(unit.values),
                },
            ),
        }
        for criterion, (function, gammas) in answers.items():
            argmax, best = refined_maximum(function)
            for name, gamma in gammas.items():
                tally = tallies.setdefault(f"{name}, on {criterion}", Tally([], []))
                tally.losses.append(1 - float(function(np.array([gamma]))[0]) / best)
                tally.distances.append(abs(gamma - argmax))
    return tallies


def print_misses(tallies: dict[str, Tally]) -> None:
    print(f"\n{'method':<36}{'misses > 1 %':>14}{'worst loss':>12}{'> 0.3 from the maximizer':>27}")
    for name, tally in tallies.items():
        total = len(tally.losses)
        far = sum(distance > 0.3 for distance in tally.distances) / total
        worst = max(0.0, *tally.losses)
        print(f"{name:<36}{tally.misses:>7} of {total:<4}{worst:>11.2%}{far:>27.1%}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test: fewer prompts, repeats and instances")
    quick = parser.parse_args().quick
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, one BLAS thread; Python {platform.python_version()}, "
        f"numpy {np.__version__}, scipy {scipy.__version__}, rl2ml {rl2ml.__version__}"
    )
    print("Times are the best of several." + (" Quick: too few for conclusions." if quick else ""))

    sizes = [1_000, 100_000] if quick else [1_000, 100_000, 10_000_000]
    rollouts = [16, 1024] if quick else [16, 256, 1024]
    times = time_all(sizes, rollouts, quick)

    counts = make_counts(10_000_000, np.random.default_rng(2))
    whole = best_of(
        lambda: recommend_anew(rl2ml.PilotHistogram.from_counts(counts, PILOT_ROLLOUTS), 16, 200),
        3 if quick else 10,
        5,
    )
    print(f"\n10,000,000 int32 counts to a recommendation with 200 draws, N = 16: {spoken(whole)}")

    wide = rl2ml.PilotHistogram.from_counts(np.arange(10_001), 10_000)
    many_cells = best_of(lambda: recommend_anew(wide, 16, 200), 3 if quick else 10, 5)
    print(f"a pilot of {wide.num_cells:,} cells to a recommendation with 200 draws, N = 16: {spoken(many_cells)}")
    least_noise = time_minimum_variance(quick)

    tallies = count_misses(40 if quick else 400)
    print_misses(tallies)

    few, many = sizes[0], 100_000
    ratio = min(times[many, n, PAPER] / times[many, n, FROM_COUNTS] for n in rollouts)
    ours = sum(tally.misses for name, tally in tallies.items() if name.startswith("ours"))
    solved, drawn, largest = times[few, 16, SOLVE], times[few, 16, DRAWS], times[few, 1024, DRAWS]
    print("\ntargets")
    for text, value, met in (
        ("solve at N = 16 within 1 ms", spoken(solved), solved <= 1e-3),
        ("recommend() with 200 draws at N = 16 within 6 ms", spoken(drawn), drawn <= 6e-3),
        ("recommend() with 200 draws at N = 1024 within 10 ms", spoken(largest), largest <= 1e-2),
        ("at least 50 × faster than App. B.3 at 100,000 prompts, every N", f"{ratio:,.0f} ×", ratio >= 50),
        ("10M counts to a recommendation within 50 ms", spoken(whole), whole <= 0.05),
        ("10,001 cells to a recommendation within 300 ms", spoken(many_cells), many_cells <= 0.3),
        ("minimum-variance table at N = 4096 within 5 ms", spoken(least_noise), least_noise <= 5e-3),
        ("no miss of ours", str(ours), ours == 0),
    ):
        print(f"  {'ok' if met else 'MISSED':<8}{text:<66}{value}")
    return 0 if ours == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
