"""What a trainer really optimizes, how noisy it is and what it throws away: any table beside the family.

`identify` says whether a table's mean gradient is exactly that of a member of the family or of pass@k, `nearest_gamma`
which member it resembles most, `analyze` both, with a population's energies and shares of groups. Shapes: Q points of
a population, G values of γ, N rollouts, m = 0..N−1 successes among the others.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
from scipy.special import digamma

from rl2ml_core.checks import Array, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.baselines import energy_form, resolve_baseline, rl2ml_table
from rl2ml_core.objective.catalog import KNOWN_TRAINERS, check_parameters, known_table, log_all_missed
from rl2ml_core.objective.family import (
    MAX_GAMMA,
    MAX_ROLLOUTS,
    log_gamma_ratios,
    objective_weight,
    success_weights,
)
from rl2ml_core.objective.population import HasPopulation, Population, ScoreGeometry, ScoreModel, as_population
from rl2ml_core.objective.quadrature import mixture, nodes

__all__ = [
    "OF_GAMMA",
    "PASS_RATES",
    "UNUSUAL",
    "Analysis",
    "Identity",
    "NearestGamma",
    "analyze",
    "identify",
    "nearest_gamma",
]

#: What `analyze` takes beside a γ.
OF_GAMMA = ("baseline", "order", "filter_groups")
#: Where an analysis shows the effective weight.
PASS_RATES = (0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)

#: Squares of advantages within these bounds stay within floating point.
_LEAST, _LARGEST = 1e-150, 1e150
_TOLERANCE = 1e-9  # between a contrast and that of the objective it belongs to, relative
_ROUNDING = 8 * float(np.finfo(np.float64).eps)  # of a contrast, relative to the two advantages that make it
_SPACING = 0.1  # between the γ of the first search
_FINER = 20  # times, for each of two further searches
_FLAT = 1e-13  # cosines that differ by no more are equal
_NEVER = 1e-300  # what stands in for a probability of zero leaves counts that cannot occur below it
_VALUES_AT_ONCE = 1 << 20
_BY_SUCCESS_COUNT = 64  # N up to which a sum over counts costs less than an incomplete beta function
#: Weights that differ by a smaller share are alike, and smaller shares of groups are none.
UNUSUAL = 0.005


@dataclass(frozen=True)
class Identity:
    """The objective whose gradient a table's mean gradient is, exactly, times `scale`.

    Plain RL is γ = 0 of any order, and pass@1: it has both `gamma` = 0 and `k` = 1. Everything else has either `gamma`
    and `order` (J_{γ,M}) or `k` (pass@k).
    """

    scale: float
    gamma: float | None = None
    order: int | None = None
    k: int | None = None


@dataclass(frozen=True)
class NearestGamma:
    """The γ whose weight w_{γ,N} has the largest cosine with a table's, and that cosine."""

    gamma: float
    cosine: float


def nearest_gamma(
    table: AdvantageTable, population: Population | HasPopulation, gamma_max: float = MAX_GAMMA
) -> NearestGamma | None:
    """The member of the family, of the table's own N, whose effective weight on a population is most like the table's.

    argmax over γ of the cosine Σ ω E[ℓ w w_{γ,N}] / √(Σ ω E[ℓ w²] Σ ω E[ℓ w_{γ,N}²]) with ℓ ∝ p²(1−p)², the κ-model's
    sensitivity: a table's scale is arbitrary, so only the direction counts. The global maximum to a spacing of 0.1,
    then within 1e-6 wherever the cosine is curved. E23.

    Args:
        table: any.
        population: a PilotHistogram or Population.
        gamma_max: the largest γ considered, at most 20. An answer there means that the table weighs hard prompts more
            than any γ in range.

    Returns:
        None where the table's weight is zero on the whole population. γ = 0 where every γ is alike (N = 1, or prompts
        of one pass rate only).

    Raises:
        InvalidInput: gamma_max outside [0, 20], or a table whose largest advantage is outside [1e-150, 1e150].
    """
    limit = finite_number(gamma_max, "gamma_max", minimum=0, maximum=MAX_GAMMA)
    ground = _Ground.of(as_population(population), _checked(table).num_rollouts)
    return ground.nearest(ground.weight(table), limit)


def identify(table: AdvantageTable) -> Identity | None:
    """The objective that a table optimizes exactly: a member of the family, pass@k, or None. E24.

    By E6 the mean gradient depends on the contrasts s_{m+1} − t_m alone. They are compared with those of J_{γ,M}, for
    the γ and M that the last two and the first of them leave, and with those of pass@k, to a relative 1e-9 and the
    rounding of the two advantages.

    Raises:
        InvalidInput: a table whose largest advantage is outside [1e-150, 1e150].
    """
    contrasts, slack = _checked(table).contrasts, _slack(table)

    def equal(shape: Array, scale: float) -> bool:
        expected = scale * shape
        return bool(np.all(np.abs(contrasts - expected) <= _TOLERANCE * np.abs(expected) + slack))

    n, first, last = contrasts.size, float(contrasts[0]), float(contrasts[-1])
    if np.all(np.abs(contrasts) <= slack):
        return None
    if equal(np.ones(n), last):
        return Identity(last, gamma=0.0, k=1)
    # pass@k: C(N−1−m, k−1)/C(N−1, k−1) falls from 1 to (N−k)/(N−1) at m = 1.
    if abs(contrasts[1]) < abs(first):
        k = round(n - (n - 1) * float(contrasts[1]) / first)
        if 2 <= k <= n and equal(k * np.exp(log_all_missed(n - 1, k - 1)), first / k):
            return Identity(first / k, k=k)
    if last == 0:
        return None
    ratio, next_ratio = first / last, float(contrasts[-2]) / last
    for order in _possible_orders(n, ratio, next_ratio):
        gamma = _gamma_of_ratio(ratio, order)
        shortcut = abs(last * (1 + gamma / (n - 1)) - contrasts[-2]) <= _TOLERANCE * abs(contrasts[-2]) + slack[-2]
        if shortcut and equal(success_weights(gamma, n, order), last):
            return Identity(last, gamma=gamma, order=order)
    return None


def _possible_orders(n: int, ratio: float, next_ratio: float) -> Iterator[int]:
    """Orders M ≥ 2 that may have δ_0/δ_{N−1} = Σ_{m<M} c_m = `ratio` and δ_{N−2}/δ_{N−1} = 1 + γ/(N−1)."""
    gamma = (n - 1) * (next_ratio - 1)
    if not (0 <= gamma <= MAX_GAMMA * (1 + _TOLERANCE) and ratio > 1):
        return
    logs = log_gamma_ratios(np.array(gamma), n)
    guess = int(np.argmin(np.abs(logs - logs[0] - math.log(ratio)))) + 1
    # This γ is off by N roundings, hence the guess's neighbors; N and N−1 are what trainers have.
    for order in dict.fromkeys((guess, n, n - 1, guess - 1, guess + 1)):
        if 2 <= order <= n:
            yield order


def _gamma_of_ratio(ratio: float, order: int) -> float:
    """The γ ∈ [0, 20] with Σ_{m<M} c_m = `ratio`, by Newton's method.

    The sum is w_{γ,M}(0), whose logarithm is concave in γ, so that the steps climb from 0 without passing the root.
    """
    gamma, target = 0.0, math.log(ratio)
    for _ in range(64):
        value = math.log(float(objective_weight(0.0, gamma, order)))
        step = (target - value) / float(digamma(order + gamma) - digamma(1 + gamma))
        gamma = min(max(gamma + step, 0.0), MAX_GAMMA)
        if abs(step) <= 1e-12 * (1 + gamma) or gamma == MAX_GAMMA:  # the next would be the square of it
            break
    return gamma


@dataclass(frozen=True, eq=False)
class _Ground:
    """What weights are compared on: points of a population, their masses the shares of the sensitivity p²(1−p)²."""

    points: Population
    total: float  # E[p² (1−p)²]
    num_rollouts: int
    is_laws: bool  # the points are the quadrature's nodes

    @classmethod
    def of(cls, population: Population, num_rollouts: int) -> Self:
        p, q, mass = mixture(population, (2, 2), 2 * (num_rollouts - 1))
        total = float(mass.sum())
        if total > 0:
            mass /= total
        return cls(Population.trusted(p, q, mass, None), total, num_rollouts, population.prior is not None)

    def weight(self, table: AdvantageTable) -> Array:
        """The table's effective weight, [Q]."""
        return np.asarray(self._sums(table.contrasts[None])[0])

    def mean_square(self, weight: Array) -> float:
        """E[p² (1−p)² w²] over the population."""
        return self.total * float(self.points.weights @ weight**2)

    def nearest(self, weight: Array, limit: float) -> NearestGamma | None:
        largest = float(np.abs(weight[self.points.weights > 0]).max(initial=0))
        if largest == 0:
            return None
        unit = weight / largest
        length = math.sqrt(float(self.points.weights @ unit**2))
        if length == 0:
            return None
        unit /= length
        against = self.points.weights * unit
        gammas = np.linspace(0, limit, 1 + math.ceil(limit / _SPACING))
        cosines = np.concatenate(
            [family @ against / np.sqrt(family**2 @ self.points.weights) for family in self._grid(gammas)]
        )
        if np.ptp(cosines) <= _FLAT:
            return NearestGamma(0.0, 1 - float(self._gaps(unit, gammas[:1])[0]) / 2)
        best, spacing = float(gammas[np.argmax(cosines)]), float(gammas[1])
        for _ in range(2):
            gammas = np.linspace(max(best - spacing, 0), min(best + spacing, limit), 2 * _FINER + 1)
            gaps = self._gaps(unit, gammas)
            at = int(np.argmin(gaps))
            best, spacing = float(gammas[at]), float(gammas[1] - gammas[0])
        # The vertex of the parabola through the best three; beyond the ends of the range it is the end.
        at = min(max(at, 1), gammas.size - 2)
        left, middle, right = gaps[at - 1 : at + 2]
        curvature = left - 2 * middle + right
        if curvature > 0:
            best = float(np.clip(gammas[at] + spacing / 2 * (left - right) / curvature, gammas[0], gammas[-1]))
        return NearestGamma(best, 1 - float(self._gaps(unit, np.array([best]))[0]) / 2)

    def _gaps(self, unit: Array, gammas: Array) -> Array:
        """‖u − u_γ‖² = 2 − 2 cos of unit weights, [G]: near 0 it keeps the digits that the cosine loses."""
        gaps = []
        for part in self._runs(gammas):
            family = self._family(part)
            family /= np.sqrt(family**2 @ self.points.weights)[:, None]
            gaps.append((family - unit) ** 2 @ self.points.weights)
        return np.concatenate(gaps)

    def _grid(self, gammas: Array) -> Iterator[Array]:
        """The family's weights at all γ of the first search, by runs of γ; kept for nodes, which pilots share."""
        size = self.points.weights.size
        if self.is_laws and gammas.size * size <= _VALUES_AT_ONCE:
            yield _family_at_nodes(size, self.num_rollouts, gammas.tobytes())
            return
        for part in self._runs(gammas):
            yield self._family(part)

    def _runs(self, gammas: Array) -> Iterator[Array]:
        """So many γ at a time that their weights stay within a few megabytes."""
        rows = max(1, _VALUES_AT_ONCE // self.points.weights.size)
        for start in range(0, gammas.size, rows):
            yield gammas[start : start + rows]

    def _family(self, gammas: Array) -> Array:
        """w_{γ,N} at the points, [G, Q], by whichever of Theorem 3.2's sum and E1 is cheaper."""
        if self.num_rollouts <= _BY_SUCCESS_COUNT:
            return self._sums(success_weights(gammas, self.num_rollouts))
        return objective_weight(self.points.pass_rates[None], gammas[:, None], self.num_rollouts)

    def _sums(self, coefficients: Array) -> Array:
        """Σ_m coefficient_m B_m at the points, of rows of coefficients [G, N]: [G, Q]."""
        sums = np.empty((len(coefficients), self.points.weights.size))
        for where, block in self.points.blocks(self.num_rollouts):
            sums[:, where] = coefficients @ block.bernstein(self.num_rollouts - 1).law.T
        return sums


@lru_cache(maxsize=8)
def _family_at_nodes(num_nodes: int, num_rollouts: int, gammas: bytes) -> Array:
    sine, cosine, _ = nodes(num_nodes)
    points = Population.trusted(sine**2, cosine**2, np.ones(num_nodes), None)
    family = _Ground(points, 1.0, num_rollouts, True)._family(np.frombuffer(gammas))
    family.setflags(write=False)
    return family


@dataclass(frozen=True, eq=False)
class Analysis:
    """One trainer, analyzed. Energies and shares are means over the prompts of the population. E23–E25."""

    name: str  # a catalog name, "gamma=…" or "table"
    label: str  # as a sentence names it
    parameters: Mapping[str, float | str | None]
    table: AdvantageTable
    weights: Array  # the effective weight at PASS_RATES
    identity: Identity | None  # what it optimizes exactly
    nearest: NearestGamma | None  # on this population; None where its weight is zero
    population: str  # "pilot", or "uniform": Beta(1, 1), where none was given
    energy: float  # E‖ĝ‖² of a group
    signal: float  # ‖E ĝ‖², the mean of each prompt's
    advantage_rms: float  # over rollouts
    all_fail_share: float  # of groups, whatever the trainer
    all_pass_share: float
    dead_group_share: float  # of groups in which every advantage is 0
    dead_mixed_share: float  # of groups of mixed rewards in which every advantage is 0
    kept_share: float | None  # of groups generated, where groups of equal rewards are dropped and refilled
    kept_weights: Array | None  # there, the weight per kept group at PASS_RATES; None where none is kept
    note: str  # what the catalog says about it

    @property
    def num_rollouts(self) -> int:
        """N, the group size."""
        return self.table.num_rollouts

    @property
    def pass_rates(self) -> tuple[float, ...]:
        """Where `weights` and `kept_weights` are taken."""
        return PASS_RATES

    @property
    def noise_to_signal(self) -> float | None:
        """(E‖ĝ‖² − ‖E ĝ‖²)/‖E ĝ‖² of one group.

        None without a signal, or under a score model that is no distribution of scores (the paper's proxies).
        """
        if not self.signal > 0 or self.energy < self.signal * (1 - 1e-9):
            return None
        ratio = max(self.energy - self.signal, 0.0) / self.signal
        return ratio if math.isfinite(ratio) else None

    @property
    def all_fail_carries_advantage(self) -> bool:
        """Whether rollouts of an all-fail group have an advantage."""
        return bool(self.table.failure[0] != 0)

    @property
    def all_pass_carries_advantage(self) -> bool:
        """Whether rollouts of an all-pass group have an advantage."""
        return bool(self.table.success[-1] != 0)

    @property
    def rollouts_per_kept_group(self) -> float | None:
        """Rollouts generated for each group that is kept, N/`kept_share`; None without dropping, or if none is kept."""
        return self.num_rollouts / self.kept_share if self.kept_share else None

    @property
    def easy_over_middling(self) -> float | None:
        """w(.9)/w(.5) where easy prompts weigh more again than middling ones; else None."""
        at = dict(zip(PASS_RATES, self.weights.tolist(), strict=True))
        return at[0.9] / at[0.5] if at[0.9] > (1 + UNUSUAL) * at[0.5] > 0 else None

    @property
    def hard_over_middling(self) -> float | None:
        """w(.01)/w(.5) where hard prompts weigh less than middling ones, and no less than nothing; else None."""
        at = dict(zip(PASS_RATES, self.weights.tolist(), strict=True))
        return at[0.01] / at[0.5] if 0 <= at[0.01] < (1 - UNUSUAL) * at[0.5] else None

    @property
    def negative_at(self) -> tuple[float, ...]:
        """The pass rates at which its weight is negative: there it makes successes rarer."""
        least = -1e-12 * float(np.abs(self.weights).max())
        return tuple(p for p, weight in zip(PASS_RATES, self.weights.tolist(), strict=True) if weight < least)

    @property
    def sentence(self) -> str:
        """What it optimizes, in words."""
        parts = [f"{self.label} {self._optimizes()}.", self.note]
        if self.kept_share is not None:
            generated = self.rollouts_per_kept_group
            cost = "" if generated is None else f", so that each costs {generated:.3g} rollouts"
            parts.append(f"It keeps {self.kept_share:.1%} of the groups that it generates{cost}.")
        return " ".join(filter(None, parts))

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {
            "name": self.name,
            "label": self.label,
            "parameters": dict(self.parameters),
            "num_rollouts": self.num_rollouts,
            "sentence": self.sentence,
            "advantages": {
                "success": [None, *self.table.success[1:].tolist()],
                "failure": [*self.table.failure[:-1].tolist(), None],
            },
            "pass_rates": list(self.pass_rates),
            "weights": self.weights.tolist(),
            "identity": None if self.identity is None else asdict(self.identity),
            "nearest": None if self.nearest is None else asdict(self.nearest),
            "population": self.population,
            "energy": self.energy,
            "signal": self.signal,
            "noise_to_signal": self.noise_to_signal,
            "advantage_rms": self.advantage_rms,
            "all_fail_share": self.all_fail_share,
            "all_fail_carries_advantage": self.all_fail_carries_advantage,
            "all_pass_share": self.all_pass_share,
            "all_pass_carries_advantage": self.all_pass_carries_advantage,
            "dead_group_share": self.dead_group_share,
            "dead_mixed_share": self.dead_mixed_share,
            "kept_share": self.kept_share,
            "rollouts_per_kept_group": self.rollouts_per_kept_group,
            "kept_weights": None if self.kept_weights is None else self.kept_weights.tolist(),
            "note": self.note,
        }

    def _optimizes(self) -> str:
        found = self.identity
        if found is None:
            return self._resembles()
        verb = "optimizes" if found.scale > 0 else "minimizes, its sign being reversed,"
        if found.k is not None:
            what = "plain RL (pass@1)" if found.k == 1 else f"pass@{found.k}"
            scale = abs(found.scale)
            return f"{verb} {what} exactly" + ("" if abs(scale - 1) < 1e-6 else f", at {scale:.3g} times its scale")
        what = f"γ = {found.gamma:g}" + (" (maximum likelihood)" if abs((found.gamma or 0) - 1) < _TOLERANCE else "")
        missing = self.num_rollouts - (found.order or 0)
        if not missing:
            return f"{verb} {what} exactly, at the full order of its {self.num_rollouts} rollouts"
        fewer = "one order" if missing == 1 else f"{missing} orders"
        return f"{verb} {what} truncated at order {found.order}, {fewer} less than its {self.num_rollouts} rollouts"

    def _resembles(self) -> str:
        where = "on this pilot" if self.population == "pilot" else "for uniform pass rates"
        if not (self.table.success.any() or self.table.failure.any()):
            return "gives no group an advantage: nothing is learned"
        if np.all(np.abs(self.table.contrasts) <= _slack(self.table)):
            return "has no mean gradient: its advantages are noise alone"
        if self.nearest is None:
            return f"is not a member of the family, and its weight is zero {where}"
        gamma = f"{self.nearest.gamma:.2g}" + (" (the largest considered)" if self.nearest.gamma == MAX_GAMMA else "")
        words = (
            f"is not a member of the family: its weight is nearest to γ = {gamma} "
            f"(cosine {_cosine(self.nearest.cosine)}) {where}"
        )
        unusual = []
        if self.easy_over_middling is not None:
            unusual.append(f"rises again on easy prompts (w(.9)/w(.5) = {self.easy_over_middling:.2f})")
        if self.hard_over_middling is not None:
            unusual.append(f"is smaller on hard prompts (w(.01)/w(.5) = {self.hard_over_middling:.2f})")
        if self.negative_at:
            negative = ", ".join(f"{p:g}" for p in self.negative_at)
            unusual.append(f"is negative at pass rates {negative}, where it makes successes rarer")
        return " and ".join([words, *unusual])


def analyze(
    trainer: str | float | AdvantageTable,
    num_rollouts: int | None = None,
    population: Population | HasPopulation | None = None,
    score_model: ScoreGeometry | None = None,
    **parameters: Any,
) -> Analysis:
    """What a trainer optimizes, how noisy it is and which groups it learns nothing from.

    Args:
        trainer: a catalog name, a γ or an AdvantageTable.
        num_rollouts: N; may be left out with a table.
        population: a PilotHistogram or Population; pass rates uniform on [0, 1], a Beta(1, 1), when None.
        score_model: for energies; `ScoreModel()` when None. The κ-model is integrated over the population exactly, any
            other geometry taken at the cells' mean pass rates.
        parameters: of the catalog's trainer (see `known_table`); baseline, order and filter_groups of a γ (see
            `rl2ml_table`); drops_equal_groups of a table.

    Raises:
        InvalidInput: an unknown name or parameter, a value outside its range, or a table whose largest advantage is
            outside [1e-150, 1e150].
    """
    scores = score_model or ScoreModel()
    people = Population(np.zeros(1), np.zeros(1), np.ones(1)) if population is None else as_population(population)
    subject = _Subject.of(trainer, num_rollouts, None if population is None else people, scores, parameters)
    table = _checked(subject.table)
    n = table.num_rollouts
    ground = _Ground.of(people, n)
    weight = ground.weight(table)
    weights = table.weight(PASS_RATES)
    counts = _count_law(people, n)
    dead = np.ones(n + 1, dtype=bool)
    dead[1:] &= table.success[1:] == 0
    dead[:-1] &= table.failure[:-1] == 0
    rates = np.array(PASS_RATES)
    return Analysis(
        name=subject.name,
        label=subject.label,
        parameters=subject.parameters,
        table=table,
        weights=weights,
        identity=identify(table),
        nearest=ground.nearest(weight, MAX_GAMMA),
        population="uniform" if population is None else "pilot",
        energy=_energy(table, people, scores),
        signal=_signal(table, people, scores, ground.mean_square(weight)),
        advantage_rms=table.rms(people),
        all_fail_share=float(counts[0]),
        all_pass_share=float(counts[-1]),
        dead_group_share=float(counts @ dead),
        dead_mixed_share=float(counts[1:-1] @ dead[1:-1]),
        kept_share=float(counts[1:-1].sum()) if subject.drops_equal_groups else None,
        kept_weights=weights / (1 - rates**n - (1 - rates) ** n) if subject.drops_equal_groups and n > 1 else None,
        note=subject.note,
    )


@dataclass(frozen=True, eq=False)
class _Subject:
    """A trainer, however it was named."""

    name: str
    label: str
    table: AdvantageTable
    parameters: Mapping[str, float | str | None]
    drops_equal_groups: bool = False
    note: str = ""

    @classmethod
    def of(
        cls,
        trainer: str | float | AdvantageTable,
        num_rollouts: int | None,
        population: Population | None,
        scores: ScoreGeometry,
        parameters: Mapping[str, Any],
    ) -> Self:
        if isinstance(trainer, AdvantageTable):
            check_parameters(parameters, ("drops_equal_groups",), "a table")
            n = trainer.num_rollouts
            if num_rollouts is not None and num_rollouts != n:
                raise InvalidInput(
                    f"num_rollouts must be that of the table, {n}; got {num_rollouts!r:.40}", field="num_rollouts"
                )
            return cls("table", "This table", trainer, {}, _flag(parameters, "drops_equal_groups"))
        if num_rollouts is None:
            raise InvalidInput("num_rollouts is needed but for a table; got None", field="num_rollouts")
        if isinstance(trainer, str):
            table = known_table(trainer, num_rollouts, **parameters)
            known = KNOWN_TRAINERS[trainer]
            filled = {name: parameters.get(name, parameter.default) for name, parameter in known.parameters.items()}
            return cls(trainer, known.label, table, filled, known.drops_equal_groups, known.note)
        gamma = finite_number(trainer, "trainer", minimum=0, maximum=MAX_GAMMA)
        n = integer(num_rollouts, "num_rollouts", minimum=1, maximum=MAX_ROLLOUTS)
        check_parameters(parameters, OF_GAMMA, "a γ")
        baseline = resolve_baseline(parameters.get("baseline"), population)
        drops = _flag(parameters, "filter_groups")
        order = parameters.get("order")
        table = rl2ml_table(gamma, n, baseline, population, scores, order, filter_groups=drops)
        filled = {"baseline": baseline, "order": order, "filter_groups": drops}
        return cls(f"gamma={gamma:g}", f"RL2ML ({baseline})", table, filled, drops)


def _flag(parameters: Mapping[str, Any], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name} must be true or false; got {value!r:.40}", field=name)
    return value


def _checked(table: AdvantageTable) -> AdvantageTable:
    largest = max(float(np.abs(table.success).max()), float(np.abs(table.failure).max()))
    if largest and not _LEAST <= largest <= _LARGEST:
        raise InvalidInput(
            f"a table's largest advantage must be from {_LEAST:g} to {_LARGEST:g} to be analyzed; got {largest:g}"
        )
    return table


def _slack(table: AdvantageTable) -> Array:
    """How far a contrast may be off for the rounding of its two advantages alone, [N]."""
    return np.asarray(_ROUNDING * (np.abs(table.success[1:]) + np.abs(table.failure[:-1])))


def _count_law(population: Population, num_rollouts: int) -> Array:
    """P(K = 0..N) of a group of a prompt drawn from the population, [N+1]: a mixture of beta-binomials. E25."""
    law = np.zeros(num_rollouts + 1)
    for _, block in population.blocks(num_rollouts + 1):
        law += block.weights @ block.bernstein(num_rollouts).law
    law /= population.weights.sum()
    law[law < _NEVER] = 0
    return law


def _energy(table: AdvantageTable, population: Population, scores: ScoreGeometry) -> float:
    """E‖ĝ‖², a quadratic form in the table. E18."""
    of_success, of_failure, crossed = energy_form(population, table.num_rollouts, scores)
    s, t = table.success, table.failure
    return float(of_success @ s[1:] ** 2 + of_failure @ t[:-1] ** 2 - 2 * crossed @ (s[1:-1] * t[1:-1]))


def _signal(table: AdvantageTable, population: Population, scores: ScoreGeometry, mean_square: float) -> float:
    """E[w² ℓ]; under the κ-model κ times E[p² (1−p)² w²]. E25."""
    if isinstance(scores, ScoreModel) and scores.name == "kappa":
        return scores.kappa * mean_square
    points = population.at_means()
    rates = points.pass_rates
    lengths = table.weight(rates) ** 2 * scores.sensitivity(rates)
    return float(points.weights @ lengths / points.weights.sum())


def _cosine(value: float) -> str:
    """Two decimals, or as many as show what is missing to 1."""
    missing = max(1 - value, 1e-6)
    return f"{value:.{max(2, math.ceil(-math.log10(missing)))}f}"
