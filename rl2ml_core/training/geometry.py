"""Score geometry, measured: ‖μ‖², tr Σ, tr Σ_f and κ from gradient sketches and rewards. E33–E35.

μ, Σ are the mean and covariance of a rollout's score S = ∇ log π given success, ν, Σ_f given failure; p the pass rate,
q = 1 − p. A sketch is any fixed linear map of S that keeps squared lengths in the mean, such as those of
`ScoreSketches`. Shapes: P prompts, B rollouts in any order, D coordinates of a sketch.

Everything is a sum over prompts of products of *distinct* rollouts, so its mean is exact; estimates of squared lengths
may therefore be negative, and are reported as they are.
"""

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rl2ml_core.checks import Array, finite_number
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.population import LEAST_KAPPA, ScoreModel
from rl2ml_core.training.ids import number_keys

__all__ = ["Estimate", "MeasuredGeometry", "PromptGeometry", "measure_geometry"]

#: Rollouts that E34 needs of a prompt: one score, and two successes and two failures beside it.
LEAST_ROLLOUTS = 5

_ONE_SIDED = NormalDist().inv_cdf(0.95)
_COMFORTABLE = 3.0  # standard errors above 0 that the advice for a larger measurement aims at


@dataclass(frozen=True)
class Estimate:
    """A pooled value and its standard error, by the jackknife (E35).

    Args:
        error: of everything: prompts, rollouts, and the sketch where it is random.
        prompt_error: of prompts and their rollouts alone, for the coordinates that were drawn.
        sketch_error: of the coordinates alone, for the rollouts that were drawn; 0 for exact scores.
    """

    value: float
    error: float
    prompt_error: float
    sketch_error: float

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Central interval of a normal law; it may reach below 0."""
        half = self.error * NormalDist().inv_cdf(0.5 + finite_number(level, "level", above=0, maximum=1 - 1e-9) / 2)
        return self.value - half, self.value + half

    def __str__(self) -> str:
        return f"{self.value:.3g} ± {self.error:.2g}"


@dataclass(frozen=True, eq=False)
class PromptGeometry:
    """Moments of the scores of every prompt, each [P], unbiased given the rewards; NaN where rollouts are too few.

    Args:
        success_square: ‖μ‖², from pairs of successes (K ≥ 2).
        failure_square: ‖ν‖², from pairs of failures (F ≥ 2).
        cross: μ·ν, from mixed pairs.
        contrast: ‖μ−ν‖² = ‖∇ logit p‖² (K, F ≥ 2).
        success_energy, failure_energy: E[‖S‖² | success], E[‖S‖² | failure].
        success_noise, failure_noise: tr Σ, tr Σ_f: energy less squared mean.
        energy: E‖S‖² (not given the rewards: over them).
        sensitivity: ‖∇p‖², from all pairs (N ≥ 2; over the rewards).
    """

    success_square: Array
    failure_square: Array
    cross: Array
    contrast: Array
    success_energy: Array
    failure_energy: Array
    success_noise: Array
    failure_noise: Array
    energy: Array
    sensitivity: Array

    @property
    def kappa(self) -> Array:
        """‖μ−ν‖²/E‖S‖², [P]: numerator and denominator are unbiased, their quotient is so only for many rollouts."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.contrast / self.energy


@dataclass(frozen=True, eq=False)
class MeasuredGeometry:
    """What the scores of a policy look like, pooled and per prompt. Pooled moments weigh prompts by p²q².

    Args:
        kappa: Σ ‖∇p‖² / Σ p²q² E‖S‖²: the κ of E8, with which Σ κ p²q² E‖S‖² is Σ ‖∇p‖² (E34).
        contrast: ‖μ−ν‖²; `energy`: E‖S‖²; κ is their quotient.
        success_square, failure_square, success_noise, failure_noise: ‖μ‖², ‖ν‖², tr Σ, tr Σ_f.
        sensitivity: the plain mean over prompts of ‖∇p‖².
        kappa_of_successes, kappa_of_mixed, kappa_of_failures: κ by pairs of one kind alone, from p²‖μ‖², −pq μ·ν and
            q²‖ν‖². All are ‖∇p‖² where E[S] = 0, so they should agree.
        mean_score: ‖E S‖²/E‖S‖², which should be 0: otherwise the rollouts are not from the policy (and temperature)
            whose scores these are.
        energy_ratio: E[‖S‖² | success] over E[‖S‖² | failure]; 1 in the κ-model.
        kappa_of_hard, kappa_of_easy: κ with prompts weighed by q and by p as well (6 rollouts); equal in the κ-model.
        prompts, prompt_errors: per prompt, in the order of `ids`; errors by the jackknife over its rollouts.
        ids: group ids, or row numbers for dense rewards.
        num_successes, num_rollouts: K and N of every prompt, [P]; rollouts with a missing reward are left out.
        contributing: prompts with a part in κ's denominator: N ≥ 5, K ≥ 2, N−K ≥ 2.
        dim: D.
    """

    kappa: Estimate
    contrast: Estimate
    energy: Estimate
    success_square: Estimate
    failure_square: Estimate
    success_noise: Estimate
    failure_noise: Estimate
    sensitivity: Estimate
    kappa_of_successes: Estimate
    kappa_of_mixed: Estimate
    kappa_of_failures: Estimate
    mean_score: Estimate
    energy_ratio: Estimate
    kappa_of_hard: Estimate
    kappa_of_easy: Estimate
    prompts: PromptGeometry
    prompt_errors: PromptGeometry
    ids: Sequence[Hashable]
    num_successes: npt.NDArray[np.int64]
    num_rollouts: npt.NDArray[np.int64]
    contributing: int
    dim: int

    def score_model(self) -> ScoreModel:
        """The κ-model for `recommend`, with the error as its spread: a log-normal law of this mean and deviation.

        Raises:
            InvalidInput: κ is not above 0 by 1.64 standard errors; the message says how much larger a measurement to
                make.
        """
        value, error = self.kappa.value, self.kappa.error
        if not value > max(_ONE_SIDED * error, LEAST_KAPPA):
            raise InvalidInput(self._too_noisy(), field="kappa")
        return ScoreModel(min(value, 1.0), math.sqrt(math.log1p((error / value) ** 2)))

    def summary(self) -> str:
        """The pooled numbers as text."""
        rows = [
            ("κ = ‖μ−ν‖²/E‖S‖²", self.kappa),
            ("  from successes, p²‖μ‖²", self.kappa_of_successes),
            ("  from mixed pairs, −pq μ·ν", self.kappa_of_mixed),
            ("  from failures, q²‖ν‖²", self.kappa_of_failures),
            ("  of harder prompts", self.kappa_of_hard),
            ("  of easier prompts", self.kappa_of_easy),
            ("‖E S‖²/E‖S‖² (should be 0)", self.mean_score),
            ("energy, successes/failures", self.energy_ratio),
            ("energy E‖S‖²", self.energy),
        ]
        lines = [f"{name:<30}{estimate}" for name, estimate in rows]
        size = (
            f"{len(self.num_rollouts)} prompts, {int(self.num_rollouts.sum())} rollouts, {self.contributing} prompts "
            f"with two successes and two failures, {self.dim} coordinates"
        )
        return "\n".join([*lines, size])

    def _too_noisy(self) -> str:
        value, error = self.kappa.value, self.kappa.error
        found = f"κ is not above 0 within its error: {self.kappa} from {self.contributing} contributing prompts."
        if not math.isfinite(error):
            return f"{found} Measure at least two prompts with two successes and two failures each."
        upper = max(value + _ONE_SIDED * error, LEAST_KAPPA)
        factor = (_COMFORTABLE * error / max(value, error)) ** 2
        about = "about" if value > error else "at least"
        if self.kappa.sketch_error > self.kappa.prompt_error:
            advice = f"Use {about} {factor:.1f} times as many coordinates (now {self.dim})"
        else:
            advice = f"Use {about} {factor:.1f} times as many prompts (now {len(self.num_rollouts)})"
        return f"{found} It is below {upper:.2g} (95 %). {advice}; or pass ScoreModel({min(upper, 1):.2g}) as a bound."


def measure_geometry(
    sketches: Tensor | npt.ArrayLike,
    rewards: Tensor | npt.ArrayLike,
    group_ids: "Tensor | npt.ArrayLike | Sequence[Hashable] | None" = None,
    *,
    exact: bool = False,
) -> MeasuredGeometry:
    """Moments of the scores, and κ, from rollouts that the policy itself drew.

    Args:
        sketches: [B, D] with `group_ids`, or [P, N, D]: one linear map of every rollout's whole score Σ_t ∇log π.
        rewards: [B] or [P, N]: 1, 0, or NaN for a missing one, whose rollout is left out.
        group_ids: the prompt of each row, [B]; integers or hashables. None for dense rewards.
        exact: the coordinates are the scores themselves (or all that is meant by them), not a random sample: no error
            then comes from them.

    Raises:
        InvalidInput: shapes that do not fit, values that are not numbers, zeros alone, or no prompt with two successes
            and two failures among at least five rollouts: κ has no denominator then.
    """
    rows, outcomes, places, ids = _read(sketches, rewards, group_ids)
    groups, good, bad = _group(rows, outcomes, places, len(ids))
    contributing = int(np.sum((groups.k >= 2) & (groups.f >= 2) & (groups.n >= LEAST_ROLLOUTS)))
    if not contributing:
        raise InvalidInput(
            f"rewards must hold a prompt with two successes and two failures among {LEAST_ROLLOUTS} rollouts; got none "
            f"({len(ids)} prompts, {int(groups.n.sum())} rollouts, {int(groups.k.sum())} successes)",
            field="rewards",
        )
    if not rows.any():
        raise InvalidInput("sketches must not all be 0; got zeros alone", field="sketches")
    prompts, errors = _prompts_with_errors(groups, good, bad, rows, outcomes, places)
    return MeasuredGeometry(
        **_pooled(groups, random=not exact),
        prompts=prompts,
        prompt_errors=errors,
        ids=ids,
        num_successes=groups.k.astype(np.int64),
        num_rollouts=groups.n.astype(np.int64),
        contributing=contributing,
        dim=rows.shape[1],
    )


# ---- what each row says ----


def _read(
    sketches: Any, rewards: Any, group_ids: Any
) -> tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.int64], Sequence[Hashable]]:
    """Rows with a reward [B, D], which succeeded [B], their prompts' places [B], and ids of the prompts [P]."""
    x, r = _numbers(sketches, "sketches"), _numbers(rewards, "rewards")
    if x.shape[:-1] != r.shape or r.ndim != (2 if group_ids is None else 1) or not x.shape[-1]:
        expected = "[P, N, D] and [P, N]" if group_ids is None else "[B, D] and [B]"
        raise InvalidInput(
            f"sketches and rewards must have shapes {expected}; got {list(x.shape)} and {list(r.shape)}",
            field="sketches",
        )
    if group_ids is None:
        keys: Sequence[Hashable] = np.repeat(np.arange(r.shape[0]), r.shape[1]).tolist()
    else:
        keys = group_ids.tolist() if isinstance(group_ids, Tensor | np.ndarray) else list(group_ids)
    x, r = x.reshape(-1, x.shape[-1]), r.ravel()
    if len(keys) != len(r):
        raise InvalidInput(f"group_ids must be one per reward, {len(r)}; got {len(keys)}", field="group_ids")
    known = ~np.isnan(r)
    for name, wrong, values in (
        ("rewards must be 0, 1 or NaN (missing)", known & (r != 0) & (r != 1), r),
        ("sketches must be finite", known & ~np.isfinite(x).all(axis=1), None),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            got = "others" if values is None else f"{values[row]:g}"
            raise InvalidInput(f"{name}; got {got} in row {row}", field=name.split()[0], index=row)
    return x[known], r[known] == 1, *number_keys(list(itertools.compress(keys, known)))


def _numbers(values: Any, field: str) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise InvalidInput(f"{field} must be numbers; got {type(values).__name__}", field=field) from None


# ---- sums over a prompt's rollouts ----


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over a prompt's rollouts and ordered pairs of distinct ones, by outcome; [P, D], or [...] in total."""

    k: Array  # successes
    f: Array  # failures
    successes: Array  # Σ s_i s_j over i ≠ j, both successes
    mixed: Array  # Σ s_i s_j over successes i and failures j
    failures: Array
    success_energy: Array  # Σ s_i² over successes
    failure_energy: Array

    @property
    def n(self) -> Array:
        return self.k + self.f

    def combined(self, **coefficients: Array) -> Array:
        """Σ coefficient [P] × sum [P, D], [P, D]."""
        total = np.zeros_like(self.successes)
        for name, coefficient in coefficients.items():
            total += coefficient[:, None] * getattr(self, name)
        return total


def _group(
    rows: Array, success: npt.NDArray[np.bool_], places: npt.NDArray[np.int64], count: int
) -> tuple[_Sums, Array, Array]:
    """The sums of every prompt, and its plain sums of successes' and failures' sketches, [P, D]."""

    def total(values: Array, which: npt.NDArray[np.bool_]) -> Array:
        sums = np.zeros((count, values.shape[1]))
        np.add.at(sums, places[which], values[which])
        return sums

    k, f = (np.bincount(places[which], minlength=count).astype(float) for which in (success, ~success))
    good, bad = total(rows, success), total(rows, ~success)
    squares = rows * rows
    good_energy, bad_energy = total(squares, success), total(squares, ~success)
    sums = _Sums(k, f, good * good - good_energy, good * bad, bad * bad - bad_energy, good_energy, bad_energy)
    return sums, good, bad


def _falling(x: Array, order: int) -> Array:
    """x (x−1) … (x−order+1)."""
    product = np.ones_like(x)
    for step in range(order):
        product *= x - step
    return product


def _divided(numerator: Array, denominator: Array, defined: npt.NDArray[np.bool_]) -> Array:
    """The quotient where it is defined, else 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=defined)


def _sensitivity(k: Array, f: Array, i: int = 0, j: int = 0) -> dict[str, Array]:
    """Coefficients of an unbiased estimate of p^i q^j ‖∇p‖² from all pairs, 0 where N < 2 + i + j. E33.

    A pair's centered rewards (r_a − c)(r_b − c) have any c that does not know the pair; the success share of the other
    N − 2, shrunk by half a success and half a failure, is near the best, p.
    """
    n = k + f
    enough = n >= 2 + i + j
    norm = _falling(n, 2) * _falling(n - 2, i + j)

    def center(m: Array) -> Array:  # m successes among the others
        return _divided(m + 0.5, n - 1, enough)

    both, one, none = center(k - 2), center(k - 1), center(k)
    return {
        "successes": _divided((1 - both) ** 2 * _falling(k - 2, i) * _falling(f, j), norm, enough),
        "mixed": _divided(-2 * one * (1 - one) * _falling(k - 1, i) * _falling(f - 1, j), norm, enough),
        "failures": _divided(none**2 * _falling(k, i) * _falling(f - 2, j), norm, enough),
    }


def _energy(k: Array, f: Array, i: int = 2, j: int = 2) -> dict[str, Array]:
    """Coefficients of an unbiased estimate of p^i q^j E‖S‖²: a score, and i successes and j failures beside it. E34."""
    n = k + f
    enough = n >= 1 + i + j
    norm = n * _falling(n - 1, i + j)
    return {
        "success_energy": _divided(_falling(k - 1, i) * _falling(f, j), norm, enough),
        "failure_energy": _divided(_falling(k, i) * _falling(f - 1, j), norm, enough),
    }


# ---- pooled ----


def _pooled(s: _Sums, *, random: bool) -> dict[str, Estimate]:
    k, f, n = s.k, s.f, s.n

    def ratio(numerator: Array, denominator: Array) -> Estimate:
        return _ratio(numerator, np.broadcast_to(denominator, numerator.shape), random)

    def where(condition: npt.NDArray[np.bool_], coefficients: dict[str, Array]) -> Array:
        return s.combined(**{name: np.where(condition, value, 0) for name, value in coefficients.items()})

    def kappa(i: int, j: int) -> Estimate:
        enough = n >= LEAST_ROLLOUTS + i + j
        return ratio(where(enough, _sensitivity(k, f, i, j)), where(enough, _energy(k, f, 2 + i, 2 + j)))

    enough = n >= LEAST_ROLLOUTS
    energy = where(enough, _energy(k, f))
    signal = where(enough, _sensitivity(k, f))
    # E weight = p²q², and given the rewards it is a constant: what it multiplies stays unbiased.
    weight = _divided(_falling(k, 2) * _falling(f, 2), _falling(n, 4), enough)
    ones = (weight / s.successes.shape[1])[:, None]
    pairs = _divided(enough.astype(float), _falling(n, 2), enough)
    all_pairs = _divided(np.ones_like(n), _falling(n, 2), n >= 2)
    good, bad = (_divided(weight, _falling(count, 2), weight > 0) for count in (k, f))
    good_each, bad_each = (_divided(weight, count, weight > 0) for count in (k, f))
    mixed = (k > 0) & (f > 0)
    share = _divided(np.ones_like(n), n * (n - 1), mixed)
    prompts = np.broadcast_to((n >= 2)[:, None] / s.successes.shape[1], s.successes.shape)
    return {
        "kappa": ratio(signal, energy),
        "contrast": ratio(signal, ones),
        "energy": ratio(energy, ones),
        "success_square": ratio(s.combined(successes=good), ones),
        "failure_square": ratio(s.combined(failures=bad), ones),
        "success_noise": ratio(s.combined(success_energy=good_each, successes=-good), ones),
        "failure_noise": ratio(s.combined(failure_energy=bad_each, failures=-bad), ones),
        "sensitivity": ratio(s.combined(**_sensitivity(k, f)), prompts),
        "kappa_of_successes": ratio(s.combined(successes=pairs), energy),
        "kappa_of_mixed": ratio(s.combined(mixed=-pairs), energy),
        "kappa_of_failures": ratio(s.combined(failures=pairs), energy),
        "mean_score": ratio(
            s.combined(successes=all_pairs, mixed=2 * all_pairs, failures=all_pairs),
            where(n >= 2, {"success_energy": 1 / n, "failure_energy": 1 / n}),
        ),
        "energy_ratio": ratio(s.combined(success_energy=share * f), s.combined(failure_energy=share * k)),
        "kappa_of_hard": kappa(0, 1),
        "kappa_of_easy": kappa(1, 0),
    }


def _ratio(numerator: Array, denominator: Array, random: bool) -> Estimate:
    """Σ numerator/Σ denominator over [P, D], with errors of prompts and coordinates. E35.

    Prompts and coordinates are both drawn, and crossed: the variances of both are added, and what is noise of single
    cells, which both contain, is taken off once.
    """
    if not denominator.any():
        return Estimate(math.nan, math.nan, math.nan, math.nan)
    prompts = _jackknife(numerator.sum(1), denominator.sum(1))
    coordinates = _jackknife(numerator.sum(0), denominator.sum(0)) if random else 0.0
    total = prompts
    if random:
        cells = _jackknife(numerator.ravel(), denominator.ravel())
        total = max(prompts, coordinates, prompts + coordinates - cells)
    value = float(numerator.sum() / denominator.sum())
    return Estimate(value, math.sqrt(total), math.sqrt(prompts), math.sqrt(coordinates))


def _jackknife(numerator: Array, denominator: Array) -> float:
    """Variance of Σ numerator/Σ denominator, leaving out one of J terms at a time; ∞ where a ratio is not left."""
    left = denominator.sum() - denominator
    if len(left) < 2 or not np.all(left != 0) or np.count_nonzero(denominator) < 2:
        return math.inf
    values = (numerator.sum() - numerator) / left
    return float((len(values) - 1) * np.mean((values - values.mean()) ** 2))


# ---- per prompt ----


def _moments(s: _Sums) -> PromptGeometry:
    """From sums over all coordinates, [...]."""

    def mean(total: Array, count: Array) -> Array:
        return np.divide(total, count, out=np.full_like(total, math.nan), where=count > 0)

    good, bad = mean(s.successes, s.k * (s.k - 1)), mean(s.failures, s.f * (s.f - 1))
    cross = mean(s.mixed, s.k * s.f)
    good_energy, bad_energy = mean(s.success_energy, s.k), mean(s.failure_energy, s.f)
    pairs = sum(value * getattr(s, name) for name, value in _sensitivity(s.k, s.f).items())
    return PromptGeometry(
        success_square=good,
        failure_square=bad,
        cross=cross,
        contrast=good - 2 * cross + bad,
        success_energy=good_energy,
        failure_energy=bad_energy,
        success_noise=good_energy - good,
        failure_noise=bad_energy - bad,
        energy=mean(s.success_energy + s.failure_energy, s.n),
        sensitivity=np.where(s.n >= 2, pairs, math.nan),
    )


def _prompts_with_errors(
    groups: _Sums, good: Array, bad: Array, rows: Array, success: npt.NDArray[np.bool_], places: npt.NDArray[np.int64]
) -> tuple[PromptGeometry, PromptGeometry]:
    """Moments of every prompt, and the jackknife over its rollouts; both from sums, one pass."""
    names = ("successes", "mixed", "failures", "success_energy", "failure_energy")
    totals = _Sums(groups.k, groups.f, *(getattr(groups, name).sum(1) for name in names))
    moments = _moments(totals)
    # One rollout's part in all pairs follows from the sums of the others' sketches.
    own = np.einsum("bd,bd->b", rows, rows)
    with_good, with_bad = (np.einsum("bd,bd->b", rows, sums[places]) for sums in (good, bad))
    left = _moments(
        _Sums(
            totals.k[places] - success,
            totals.f[places] - ~success,
            totals.successes[places] - np.where(success, 2 * (with_good - own), 0),
            totals.mixed[places] - np.where(success, with_bad, with_good),
            totals.failures[places] - np.where(success, 0, 2 * (with_bad - own)),
            totals.success_energy[places] - np.where(success, own, 0),
            totals.failure_energy[places] - np.where(success, 0, own),
        )
    )
    n = groups.n

    def error(values: Array) -> Array:
        means = np.bincount(places, values, len(n)) / n
        squares = np.bincount(places, (values - means[places]) ** 2, len(n))
        return np.sqrt(squares * (n - 1) / n)

    return moments, PromptGeometry(**{part.name: error(getattr(left, part.name)) for part in fields(PromptGeometry)})
