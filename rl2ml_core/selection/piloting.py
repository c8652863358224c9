"""Is the pilot large enough? What choosing γ from it is expected to lose, now and after more was sampled. E42.

Preposterior analysis by the conjugate model: populations that may be the true one are drawn from what the pilot says,
pilots from them, and each pilot's answer is valued by its population. Answers are linear in counts, so that nothing is
solved anew: a thousand pilots cost a matrix product.

Shapes: C cells, D pilots drawn, Q interpolation nodes, R grid points.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rl2ml_core.checks import Array, finite_number, integer
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.population import BetaPrior, Population, ScoreModel
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.chebyshev import first_degree, grid_and_matrix, nodes
from rl2ml_core.selection.criteria import RmsGain
from rl2ml_core.selection.metrics import Metric
from rl2ml_core.selection.pilot_plans import PilotPlan, PilotSize
from rl2ml_core.selection.preposterior import Mixtures, Pilots, truths_of
from rl2ml_core.selection.problem import Problem
from rl2ml_core.selection.uncertainty import kappa_draws

__all__ = ["guessed_prior", "plan_pilot"]

_TIMES_PROMPTS = (0.5, 1, 2, 4, 8, 16)
_TIMES_ROLLOUTS = (1, 3)
_PROMPTS_OF_A_GUESS = (16, 32, 64, 128, 256, 512)
_ROLLOUTS_OF_A_GUESS = 8
_MOST_PROMPTS, _MOST_ROLLOUTS = 10**7, 1024
_MOST_DRAWS = 100_000
_VALUES = 1 << 20  # draws × outcomes of a size, where draws may be fewer than asked
_FEWEST_DRAWS = 100
_MOST_OUTCOMES = 20_000  # of a size: cells × further rollouts
_TINY = 1e-300


def guessed_prior(pass_rate: float, spread: float = 1.0) -> BetaPrior:
    """A guess of difficulty: pass rates of this mean, Beta distributed with pseudo-counts that add to `spread`.

    Small spreads mean that most prompts are nearly always or nearly never solved; real pilots mostly have .1 to 5.
    """
    mean = finite_number(pass_rate, "pass_rate", minimum=1e-6, maximum=1 - 1e-6)
    total = finite_number(spread, "spread", minimum=1e-3, maximum=1e3)
    return BetaPrior(total * mean, total * (1 - mean))


def plan_pilot(
    known: PilotHistogram | BetaPrior,
    metric: Metric | str,
    num_rollouts: int,
    *,
    more_prompts: Sequence[int] | None = None,
    more_rollouts: Sequence[int] | None = None,
    pilot_rollouts: int | None = None,
    target: float = 0.01,
    gamma_min: float = 0.0,
    gamma_max: float = 2.0,
    score_model: ScoreModel | None = None,
    baseline: str = "bayes",
    filter_groups: bool = False,
    draws: int = 1000,
    seed: int = 0,
) -> PilotPlan:
    """What γ chosen by criterion "rms_gain" is expected to lose now, and after a larger pilot.

    The prior on pass rates is the one that fits the pilot; or the guess itself, where nothing was sampled yet.

    Args:
        known: the pilot, or a guess of the pass rates (see `guessed_prior`).
        metric: what you are judged on.
        num_rollouts: N, rollouts per prompt in training.
        more_prompts: numbers of further prompts to ask about; half to sixteen times those there are when None. With a
            guess, sizes of a first pilot.
        more_rollouts: numbers of further rollouts for every prompt of the pilot; as many again and three times as many
            when None. A guess has none.
        pilot_rollouts: rollouts of each new prompt; when None as many as most prompts have, or 8.
        target: the expected regret to reach, as a share of the gain.
        gamma_min, gamma_max, score_model, baseline, filter_groups: as in `recommend`.
        draws: pilots drawn for every size; fewer where cells are many.
        seed: of the draws.

    Raises:
        InvalidInput: a value outside its range; the message says what was got and what was expected.
    """
    if not isinstance(known, (PilotHistogram, BetaPrior)):
        raise InvalidInput(f"known must be a PilotHistogram or a BetaPrior; got {type(known).__name__}", field="known")
    pilot = known if isinstance(known, PilotHistogram) else None
    draws = integer(draws, "draws", minimum=_FEWEST_DRAWS, maximum=_MOST_DRAWS)
    seed = integer(seed, "seed", minimum=0)
    target = finite_number(target, "target", above=0, maximum=1)
    if isinstance(score_model, ScoreModel) and score_model.is_default:
        score_model = None
    nothing = np.zeros(1)
    people = known if isinstance(known, PilotHistogram) else Population(nothing, nothing, np.ones(1), known)
    problem = Problem.of(
        people, metric, num_rollouts, gamma_min, gamma_max, "rms_gain", None, "empirical_bayes", score_model, baseline,
        None, filter_groups,
    )  # fmt: skip
    sizes = _sizes(pilot, more_prompts, more_rollouts, pilot_rollouts)
    reason = problem.why_uninformative() if pilot is not None else None
    if reason is None and problem.num_rollouts == 1:
        reason = "with one rollout per prompt every γ is plain RL"
    if reason is not None:
        return PilotPlan.without(reason, target)
    draws = min(draws, max(_VALUES // _outcomes(pilot, sizes), _FEWEST_DRAWS))
    worth = _Worth(problem, known, score_model, draws, seed)
    now = None if pilot is None else worth.regret(worth.present)[0]
    kappa_is_known = score_model is not None and not score_model.kappa_spread
    floor = 0.0 if kappa_is_known else worth.floor()
    there = 0.0 if pilot is None else pilot.total_prompts
    return PilotPlan.of(now, there, floor, tuple(worth.of(size) for size in sizes), target)


def _outcomes(pilot: PilotHistogram | None, sizes: Sequence[PilotSize]) -> int:
    """The most counts of one draw: of every cell, each further number of successes."""
    cells = 1 if pilot is None else pilot.num_cells
    return max((size.rollouts * (cells if size.kind == "rollouts" else 1) for size in sizes), default=0) + cells


def _sizes(
    pilot: PilotHistogram | None,
    more_prompts: Sequence[int] | None,
    more_rollouts: Sequence[int] | None,
    pilot_rollouts: int | None,
) -> list[PilotSize]:
    """What is asked about."""
    there = 0.0 if pilot is None else pilot.total_prompts
    cells = 0 if pilot is None else pilot.num_cells
    common = _ROLLOUTS_OF_A_GUESS
    if pilot is not None:
        common = min(int(pilot.num_rollouts[np.argmax(pilot.num_prompts)]), _MOST_ROLLOUTS)
    each = common
    if pilot_rollouts is not None:
        each = integer(pilot_rollouts, "pilot_rollouts", minimum=1, maximum=_MOST_ROLLOUTS)
    if more_prompts is not None:
        prompts = [integer(size, "more_prompts", minimum=1, maximum=_MOST_PROMPTS) for size in more_prompts]
    elif pilot is None:
        prompts = list(_PROMPTS_OF_A_GUESS)
    else:
        prompts = [min(max(round(times * there), 1), _MOST_PROMPTS) for times in _TIMES_PROMPTS]
    most = min(_MOST_OUTCOMES // max(cells, 1), _MOST_ROLLOUTS)
    if more_rollouts is None:
        rollouts = [times * common for times in _TIMES_ROLLOUTS if pilot is not None and times * common <= most]
    elif pilot is None:
        raise InvalidInput("more_rollouts are of a pilot's prompts; a guess has none", field="more_rollouts")
    else:
        rollouts = [integer(size, "more_rollouts", minimum=1, maximum=most) for size in more_rollouts]
    return [
        *(PilotSize("prompts", size, each, float(size * each)) for size in sorted(set(prompts))),
        *(PilotSize("rollouts", round(there), size, there * size) for size in sorted(set(rollouts))),
    ]


class _Worth:
    """What answers from pilots lose where one of many distributions of pass rates is the true one."""

    def __init__(
        self, problem: Problem, known: PilotHistogram | BetaPrior, score_model: ScoreModel | None, draws: int, seed: int
    ) -> None:
        self._problem = problem
        self._seed = seed
        low, high, degree = problem.gamma_min, problem.gamma_max, first_degree(problem.num_rollouts)
        self._tables = [problem.estimator.tables(nodes(low, high, degree))]  # of the present pilot, throughout
        self._to_grid = grid_and_matrix(low, high, degree)[1]
        rng = self._rng(0)
        self._truths, self.present = truths_of(known, draws, rng), Pilots.present(known, draws)
        kappas = kappa_draws(score_model, draws)
        self._true = self._curves(self._truths, None if kappas is None else rng.permutation(kappas)[:, None])

    def of(self, size: PilotSize) -> PilotSize:
        """One size with its expected regret."""
        rng = self._rng(1)
        if size.kind == "rollouts":
            after = self.present.with_rollouts(self._truths, size.rollouts, rng)
        else:
            after = self.present.with_prompts(self._truths, size.prompts, size.rollouts, rng)
        regret, error = self.regret(after)
        return replace(size, expected_regret=regret, standard_error=error)

    def floor(self) -> float:
        """What answers lose that know all but κ."""
        return self._loss(self._curves(self._truths, None))[0]

    def regret(self, pilots: Pilots) -> tuple[float, float]:
        """Mean share of the gain that answers from pilots lose, and its standard error."""
        return self._loss(self._curves(pilots.mixtures, None))

    def _curves(self, mixtures: Mixtures, kappa: Array | None) -> Array:
        """RMS gain on the grid of γ, [D, R]; with the κ that answers go by where None."""
        problem = self._problem
        moments: Array = np.zeros((len(mixtures.weights), 1))
        for share, people in zip(mixtures.shares.T, mixtures.populations, strict=True):
            criterion = RmsGain(people, problem.metric, problem.num_rollouts)
            weighted = criterion.weighted(self._tables)
            moments = moments + share[:, None] * (mixtures.weights @ weighted.cells)
        values = criterion.combine(weighted.finish(moments), problem.scores.kappa if kappa is None else kappa)
        return np.asarray(values @ self._to_grid)

    def _loss(self, seen: Array) -> tuple[float, float]:
        """Of choosing by curves [D, R], and its standard error."""
        true = self._true
        chosen = true[np.arange(len(true)), seen.argmax(axis=1)]
        lost = 1 - chosen / np.maximum(true.max(axis=1), _TINY)
        return float(lost.mean()), float(lost.std() / np.sqrt(len(lost)))

    def _rng(self, part: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, part])
