"""What was measured: how many prompts had k successes in n rollouts.

Everything the solver needs is this histogram, and histograms add: shards, steps and machines merge exactly, and a
million prompts cost what their distinct (n, k) cells cost.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from rl2ml_core.checks import Array, finite_array
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.population import BetaPrior, Population
from rl2ml_core.pilot.prior import FittedPrior, fit_prior

__all__ = ["MAX_PILOT_ROLLOUTS", "PRIORS", "PilotHistogram"]

#: Priors that go by a name; any other is a `BetaPrior`.
PRIORS = ("empirical_bayes", "plug_in")

#: Rollouts per prompt that a pilot may hold: far beyond use, small enough that all arithmetic on counts is exact.
MAX_PILOT_ROLLOUTS = 10_000_000

#: Prompts that one row or cell may stand for.
MAX_WEIGHT = 1e12

_PROMPTS_AT_ONCE = 1 << 15
_DENSE_BINS = 1 << 22
_LARGEST = np.uint64(2**63 - 1)
_RATE_TOLERANCE = 0.005 + 1e-9  # a rate rounded to two decimals, with room for its own rounding error

_Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PilotHistogram:
    """Cells of a pilot, sorted and distinct: `num_prompts` prompts had `num_successes` of `num_rollouts`.

    Build it with `from_counts`, `from_cells` or `from_pass_rates`. Shapes: C cells.
    """

    num_rollouts: _Counts
    num_successes: _Counts
    num_prompts: Array

    def __post_init__(self) -> None:
        for array in (self.num_rollouts, self.num_successes, self.num_prompts):
            array.setflags(write=False)

    @classmethod
    def from_counts(
        cls, num_successes: npt.ArrayLike, num_rollouts: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> Self:
        """A pilot of P prompts.

        Args:
            num_successes: k of each prompt, [P], integers.
            num_rollouts: n of each prompt, [P], or one integer for all.
            weights: prompts that each row represents, [P], positive; 1 when None. They enter gain and noise alike.

        Raises:
            InvalidInput: empty, lengths that differ, values that are no integers, n < 1, k < 0 or k > n (the row is
                named), or a weight that is not positive and finite.
        """
        k, n = _integers(num_successes, "num_successes"), _integers(num_rollouts, "num_rollouts")
        if k.ndim != 1 or k.size == 0:
            raise InvalidInput(
                f"num_successes must be a non-empty one-dimensional list, one entry per prompt; got shape {k.shape}",
                field="num_successes",
            )
        if n.ndim and n.shape != k.shape:
            raise InvalidInput(
                f"num_rollouts must be one integer or as long as num_successes ({k.size}); got shape {n.shape}",
                field="num_rollouts",
            )
        mass = None if weights is None else _weights(weights, k.shape)
        if n.ndim == 0 and mass is None and 1 <= n < _DENSE_BINS:
            return cls(*_tally_equal(k, int(n)))
        _check_counts(k, n)
        return cls(*_tally(k, n, mass))

    @classmethod
    def from_cells(cls, cells: Iterable[Sequence[float]]) -> Self:
        """A pilot of (num_rollouts, num_successes, num_prompts) cells; equal cells are merged, num_prompts may be 0.

        Raises:
            InvalidInput: no prompt at all, cells that are not triples, or counts as `from_counts` refuses them.
        """
        rows = list(cells)
        if (ready := _sorted_cells(rows)) is not None:
            return cls(*ready)
        expected = "cells must be a non-empty list of (num_rollouts, num_successes, num_prompts)"
        if not rows:
            raise InvalidInput(f"{expected}; got none", field="cells")
        for i, row in enumerate(rows):
            if isinstance(row, (str, bytes)) or not hasattr(row, "__len__") or len(row) != 3:
                raise InvalidInput(f"{expected}; got {row!r:.60} in row {i}", field="cells", index=i)
        n, k, prompts = zip(*rows, strict=True)
        mass = finite_array(prompts, "num_prompts", minimum=0, maximum=MAX_WEIGHT)
        rollouts, successes = _integers(n, "num_rollouts"), _integers(k, "num_successes")
        if rollouts.ndim != 1 or successes.ndim != 1:
            raise InvalidInput(f"{expected}; got lists inside cells", field="cells")
        _check_counts(successes, rollouts)
        if not mass.any():
            raise InvalidInput("the cells hold no prompt: every num_prompts is 0", field="cells")
        kept = mass > 0
        return cls(*_tally(successes[kept], rollouts[kept], mass[kept]))

    @classmethod
    def from_pass_rates(
        cls, pass_rates: npt.ArrayLike, num_rollouts: npt.ArrayLike, weights: npt.ArrayLike | None = None
    ) -> Self:
        """A pilot of pass rates [P] measured on `num_rollouts` each: every rate becomes the nearest k/n.

        Raises:
            InvalidInput: as `from_counts`, or a rate with no k/n within 0.005, or with two and none of them exact.
        """
        rates = finite_array(pass_rates, "pass_rates", minimum=0, maximum=1)
        n = _integers(num_rollouts, "num_rollouts")
        if rates.ndim != 1 or (n.ndim and n.shape != rates.shape):
            raise InvalidInput(
                "pass_rates must be one-dimensional and num_rollouts one integer or as long; "
                f"got shapes {rates.shape} and {n.shape}",
                field="pass_rates",
            )
        if n.size and int(n.min()) < 1:
            raise InvalidInput(f"num_rollouts must be at least 1; got {int(n.min())}", field="num_rollouts")
        k = np.rint(rates * n)
        error = np.abs(rates - k / n)
        ambiguous = (1 / n - error <= _RATE_TOLERANCE) & (error > 1e-9)
        wrong = (error > _RATE_TOLERANCE) | ambiguous
        if wrong.any():
            i = int(np.argmax(wrong))
            size = int(np.broadcast_to(n, rates.shape)[i])
            reason = "could be either of two" if ambiguous[i] else "is within 0.005 of no"
            raise InvalidInput(
                f"pass_rates[{i}] {reason} k/{size}, give num_successes instead; got {rates[i]:g}",
                field="pass_rates",
                index=i,
            )
        return cls.from_counts(k, n, weights)

    def __add__(self, other: "PilotHistogram") -> "PilotHistogram":
        """Both pilots together; exact, commutative and associative for integer weights."""
        if not isinstance(other, PilotHistogram):
            return NotImplemented
        return PilotHistogram.merged([self, other])

    @classmethod
    def merged(cls, pilots: Iterable["PilotHistogram"]) -> "PilotHistogram":
        """All of at least one pilot together, as `+` adds them one by one."""
        parts = list(pilots)
        return PilotHistogram(
            *_tally(
                np.concatenate([part.num_successes for part in parts]),
                np.concatenate([part.num_rollouts for part in parts]),
                np.concatenate([part.num_prompts for part in parts]),
            )
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PilotHistogram) and all(
            np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("num_rollouts", "num_successes", "num_prompts")
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            f"PilotHistogram({self.total_prompts:g} prompts, {self.num_cells} cells, "
            f"mean pass rate {self.mean_pass_rate:.3g})"
        )

    @property
    def num_cells(self) -> int:
        """C, the number of distinct (num_rollouts, num_successes)."""
        return self.num_prompts.size

    @cached_property
    def total_prompts(self) -> float:
        """Prompts in the pilot, by weight."""
        return float(self.num_prompts.sum())

    @cached_property
    def mean_pass_rate(self) -> float:
        """Mean of k/n over prompts."""
        return float(self.num_prompts @ (self.num_successes / self.num_rollouts) / self.total_prompts)

    @cached_property
    def prompts_with_success(self) -> float:
        """Prompts with at least one success, by weight."""
        return float(self.num_prompts[self.num_successes > 0].sum())

    @cached_property
    def prompts_with_both(self) -> float:
        """Prompts with successes and failures, by weight."""
        mixed = (self.num_successes > 0) & (self.num_successes < self.num_rollouts)
        return float(self.num_prompts[mixed].sum())

    @cached_property
    def prompts_with_failure(self) -> float:
        """Prompts with at least one failure, by weight."""
        return float(self.num_prompts[self.num_successes < self.num_rollouts].sum())

    def cells(self) -> list[tuple[int, int, float]]:
        """(num_rollouts, num_successes, num_prompts), sorted."""
        return list(
            zip(self.num_rollouts.tolist(), self.num_successes.tolist(), self.num_prompts.tolist(), strict=True)
        )

    @cached_property
    def fitted_prior(self) -> FittedPrior:
        """The Beta prior that fits the pilot best, see `fit_prior`."""
        return fit_prior(self)

    def population(self, prior: BetaPrior | str = "empirical_bayes") -> Population:
        """The distribution of pass rates under a prior.

        Args:
            prior: "empirical_bayes", the posterior of each cell under the Beta prior that fits the pilot best; a
                BetaPrior, the posterior under that one; or "plug_in", the points k/n.

        Raises:
            InvalidInput: another prior.
        """
        if not isinstance(prior, BetaPrior) and prior not in PRIORS:
            raise InvalidInput(
                f"prior must be a BetaPrior(alpha, beta) or one of {', '.join(PRIORS)}; got {prior!r:.60}",
                field="prior",
            )
        k = self.num_successes.astype(np.float64)
        if not isinstance(prior, BetaPrior):
            used = self.fitted_prior.prior if prior == "empirical_bayes" else None
        else:
            used = prior
        return Population.trusted(k, self.num_rollouts - k, self.num_prompts, used)


def _sorted_cells(rows: list[Sequence[float]]) -> tuple[_Counts, _Counts, Array] | None:
    """Cells as they are, where they are valid, distinct and in order: what this library and its clients write."""
    if not {kind for row in rows if isinstance(row, (tuple, list)) for kind in map(type, row)} <= {int, float}:
        return None  # strings, booleans, arrays: looked at one by one
    try:
        array = np.array(rows, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if array.ndim != 2 or array.shape[1] != 3 or not array.size:
        return None
    n, k, prompts = array.T
    whole = np.array_equal(array[:, :2], np.rint(array[:, :2]))  # NaN equals nothing
    if not (whole and prompts.min() > 0 and k.min() >= 0 and (k <= n).all() and n.min() >= 1):
        return None
    if n.max() > MAX_PILOT_ROLLOUTS or prompts.max() > MAX_WEIGHT:
        return None
    keys = n * (MAX_PILOT_ROLLOUTS + 1.0) + k  # below 2^53: exact
    if not (keys[1:] > keys[:-1]).all():
        return None
    return n.astype(np.int64), k.astype(np.int64), prompts.copy()


def _integers(values: npt.ArrayLike, field: str) -> npt.NDArray[np.integer]:
    """An integer array; floats are welcome when every one is a whole number (a column with gaps reads as floats)."""
    try:
        array = np.asarray(values)
    except ValueError:
        raise InvalidInput(f"{field} must be integers; got a ragged list", field=field) from None
    if array.dtype == np.uint64 and not (array > _LARGEST).any():
        return array.astype(np.int64)  # numpy makes floats of uint64 and int64 together
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (array == np.rint(array)) & (np.abs(array) <= 2.0**53)
        if whole.all():
            return array.astype(np.int64)
        offender: object = array[~whole].flat[0]
    elif array.size == 0:
        return array.astype(np.int64)
    else:
        offender = next((x for x in array.flat if not isinstance(x, int) or isinstance(x, bool)), array.flat[0])
    raise InvalidInput(f"{field} must be integers; got {_plain(offender)!r:.40}", field=field)


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _weights(weights: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    array = finite_array(weights, "weights", maximum=MAX_WEIGHT)
    if array.shape != shape or not np.all(array > 0):
        raise InvalidInput(
            f"weights must be positive, one per prompt ({shape[0]}); got shape {array.shape}"
            + (f" with a least value of {array.min():g}" if array.size else ""),
            field="weights",
        )
    return array


def _check_counts(k: npt.NDArray[np.integer], n: npt.NDArray[np.integer]) -> None:
    least, most = int(n.min()), int(n.max())
    if least < 1 or most > MAX_PILOT_ROLLOUTS:
        row = int(np.argmin(n) if least < 1 else np.argmax(n)) if n.ndim else None
        raise InvalidInput(
            f"num_rollouts must be from 1 to {MAX_PILOT_ROLLOUTS}; got {least if least < 1 else most}"
            + ("" if row is None else f" in row {row}"),
            field="num_rollouts",
            index=row,
        )
    if int(k.min()) < 0:
        row = int(np.argmin(k))
        raise InvalidInput(
            f"num_successes must not be negative; got {int(k[row])} in row {row}", field="num_successes", index=row
        )
    if int(k.max()) > least:
        too_many = k > n
        if too_many.any():
            row = int(np.argmax(too_many))
            raise InvalidInput(
                f"num_successes must not exceed num_rollouts; got {int(k[row])} of "
                f"{int(np.broadcast_to(n, k.shape)[row])} in row {row}",
                field="num_successes",
                index=row,
            )


def _tally_equal(k: npt.NDArray[np.integer], n: int) -> tuple[_Counts, _Counts, Array]:
    """`_tally` of equal n and unit weights, checked on the way: each run of counts is read from memory once."""
    bins = np.zeros(n + 1, dtype=np.int64)
    for start in range(0, k.size, _PROMPTS_AT_ONCE):
        block = k[start : start + _PROMPTS_AT_ONCE]
        if block.min() < 0 or block.max() > n:
            _check_counts(k, np.asarray(n))
        bins += np.bincount(block, minlength=n + 1)
    occupied = np.flatnonzero(bins)
    return np.full(occupied.size, n), occupied, bins[occupied].astype(np.float64)


def _tally(
    k: npt.NDArray[np.integer], n: npt.NDArray[np.integer], weights: Array | None
) -> tuple[_Counts, _Counts, Array]:
    """Distinct (n, k) in order, with their total weight. Exact for integer weights."""
    width = int(k.max()) + 1
    base = int(n.min())
    if (int(n.max()) - base + 1) * width <= _DENSE_BINS:
        # A dense count, in runs that stay in cache: ten million prompts in tens of milliseconds.
        bins = np.zeros((int(n.max()) - base + 1) * width)
        for start in range(0, k.size, _PROMPTS_AT_ONCE):
            block = slice(start, start + _PROMPTS_AT_ONCE)
            index = k[block] if n.ndim == 0 else (n[block].astype(np.int64) - base) * width + k[block]
            bins += np.bincount(index, None if weights is None else weights[block], minlength=bins.size)
        occupied = np.flatnonzero(bins)
        return occupied // width + base, occupied % width, bins[occupied]
    keys = np.broadcast_to(n, k.shape).astype(np.int64) * (MAX_PILOT_ROLLOUTS + 1) + k.astype(np.int64)
    cells, inverse = np.unique(keys, return_inverse=True)
    mass = np.bincount(inverse.ravel(), weights, minlength=len(cells)).astype(np.float64)
    return cells // (MAX_PILOT_ROLLOUTS + 1), cells % (MAX_PILOT_ROLLOUTS + 1), mass
