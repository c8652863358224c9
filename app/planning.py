"""From a plan's request to its answer: the same function here and in a pool process, and its cost."""

from dataclasses import dataclass
from typing import Any

import rl2ml_core as rl2ml
from app.answers import as_json
from app.schemas.plans import PlanRequest
from app.settings import Settings
from app.values import (
    check_size,
    check_time,
    limit,
    metric_of,
    narrowest_law,
    pilot_of,
    prior_of,
    refusing,
    scores_of,
    size_of,
)
from rl2ml_core.objective.quadrature import quadrature_nodes
from rl2ml_core.selection.planning import CHOICES, MOST_ROLLOUTS

__all__ = ["Planning", "plan", "planning_milliseconds", "split_of"]

_POINTERS = {
    "rollouts_per_step": "#/budget/rollouts_per_step",
    "choices": "#/budget/choices",
    "prompt_cost": "#/budget/prompt_cost",
    "num_prompts": "#/budget/num_prompts",
    "gamma_min": "#/search/gamma_min",
    "gamma_max": "#/search/gamma_max",
    "judged_on": "#/search/judged_on",
    "cosine": "#/cosine",
    "demands": "#/demands",
    "target": "#/pilot_target",
}
_BRIEF = ("summary", "gamma", "status", "near_optimal", "objective")
#: Of `rl2ml.plan_budget`'s arguments those that `rl2ml.recommend` takes too.
_SHARED = ("gamma_min", "prior", "score_model", "baseline", "filter_groups", "judged_on")
#: And what a recommendation's plan is told.
_OF_A_QUESTION = (*_SHARED, "gamma_max")
#: Rollouts per prompt where a plan finds none to prefer: most trainers' habit.
_HABIT = 8
#: A recommendation by the lookahead without draws, and the pilots that tell whether one is enough.
_MILLISECONDS_OF_RECOMMENDING, _MILLISECONDS_OF_PILOTS = 60.0, 150.0


@dataclass(frozen=True, eq=False)
class Planning:
    """A validated request in the core's terms: what is planned, and sent to pool processes."""

    pilot: rl2ml.PilotHistogram | rl2ml.Population
    metric: rl2ml.Metric
    rollouts_per_step: int
    options: dict[str, Any]  # keyword arguments of `plan_budget`
    pilot_target: float | None

    @classmethod
    def of(cls, request: PlanRequest, settings: Settings) -> "Planning":
        """Check the service's limits, then build the core's values.

        Raises:
            Problem: a limit exceeded, or values that the core refuses.
        """
        check_size(request.pilot, settings)
        limit(request.search.gamma_max, settings.max_gamma, "#/search/gamma_max", "γ")
        limit(request.uncertainty.bootstrap, settings.max_bootstrap, "#/uncertainty/bootstrap", "draws")
        budget, asked = request.budget, request.demands
        sizes = budget.choices or [n for n in CHOICES if n <= settings.max_num_rollouts]
        limit(max(sizes), settings.max_num_rollouts, "#/budget/choices", "rollouts per prompt")
        with refusing(_POINTERS, request.pilot):
            planning = cls(
                pilot_of(request.pilot),
                metric_of(request.metric),
                budget.rollouts_per_step,
                {
                    "choices": sizes,
                    "prompt_cost": budget.prompt_cost,
                    "num_prompts": budget.num_prompts,
                    "cosine": request.cosine,
                    "gamma_min": request.search.gamma_min,
                    "gamma_max": request.search.gamma_max,
                    "judged_on": request.search.judged_on,
                    "prior": prior_of(request.prior),
                    "score_model": scores_of(request.score_model),
                    "baseline": request.estimator.baseline,
                    "filter_groups": request.estimator.filter_groups,
                    "demands": None if asked is None else rl2ml.Demands(**asked.model_dump()),
                    "bootstrap": request.uncertainty.bootstrap,
                    "seed": request.uncertainty.seed,
                    "level": request.uncertainty.level,
                },
                request.pilot_target,
            )
        planning._check_work(settings)
        return planning

    @property
    def milliseconds(self) -> float:
        """Predicted time."""
        width: float = max(1.0, self.options["gamma_max"] - self.options["gamma_min"])
        rest = _MILLISECONDS_OF_RECOMMENDING * width / 2 + 0.05 * size_of(self.pilot)
        pilots = 0.0 if self.pilot_target is None else _MILLISECONDS_OF_PILOTS + 4.0 * size_of(self.pilot)
        draws = self.options["bootstrap"] > 0
        return planning_milliseconds(self.pilot, self.metric, self._sizes, draws=draws, width=width) + rest + pilots

    @property
    def _sizes(self) -> list[int]:
        return sorted(set(self.options["choices"]))

    def _check_work(self, settings: Settings) -> None:
        cells, most = size_of(self.pilot), settings.max_work
        limit(cells, settings.max_cells, "#/pilot", "distinct cells")
        limit(cells * self._sizes[-1], most, "#/pilot", "cells × rollouts per prompt")
        limit(cells * self.options["bootstrap"], settings.max_draw_cells, "#/uncertainty/bootstrap", "draws × cells")
        narrowest = narrowest_law(self.pilot, self.options["prior"])
        points = 0 if narrowest is None else quadrature_nodes(narrowest + self._sizes[-1])
        limit(cells * points, most, "#/pilot", "cells × quadrature nodes")
        check_time(self.milliseconds, settings)


def planning_milliseconds(
    pilot: rl2ml.PilotHistogram | rl2ml.Population, metric: rl2ml.Metric, sizes: list[int], *, draws: bool, width: float
) -> float:
    """Predicted time of `plan_budget`, within a factor of 1.5 of what was measured for 9 to 20,000 cells."""
    cells, most, number = size_of(pilot), sizes[-1], len(sizes)
    of_cells = (1.2e-2 + 1.3e-5 * number * most) + draws * (1.5e-2 + 2.2e-5 * number * most)
    logs = 0.05 if "log:" in metric.name else 0.02
    return 2 + width / 2 * number * (0.38 + 2e-3 * most) + cells * (of_cells + logs)


def plan(planning: Planning) -> bytes:
    """Plan, and give the answer as JSON.

    Raises:
        Problem: values that the core refuses.
    """
    options = planning.options
    recommendation = pilot = None
    with refusing(_POINTERS | {"num_rollouts": "#/budget/choices"}):
        found = rl2ml.plan_budget(planning.pilot, planning.metric, planning.rollouts_per_step, **options)
        if found.best is not None:
            n = found.best.num_rollouts
            shared = {name: options[name] for name in _SHARED} | {"gamma_max": found.best.largest_gamma}
            content = rl2ml.recommend(planning.pilot, planning.metric, n, bootstrap=0, **shared).to_dict()
            recommendation = {name: content[name] for name in _BRIEF}
            if planning.pilot_target is not None and isinstance(planning.pilot, rl2ml.PilotHistogram):
                asked = {name: options[name] for name in ("score_model", "baseline", "filter_groups", "gamma_min")}
                larger = rl2ml.plan_pilot(
                    planning.pilot, planning.metric, n, target=planning.pilot_target, gamma_max=options["gamma_max"],
                    seed=options["seed"], **asked,
                )  # fmt: skip
                pilot = larger.to_dict()
    return as_json({**found.to_dict(), "recommendation": recommendation, "pilot": pilot})


def split_of(
    pilot: rl2ml.PilotHistogram | rl2ml.Population,
    metric: rl2ml.Metric,
    rollouts_per_step: int,
    num_rollouts: int,
    options: dict[str, Any],
    *,
    choosing: bool,
) -> dict[str, Any]:
    """How a step's rollouts are split, and what that loses against the best split.

    Args:
        num_rollouts: the rollouts per prompt that are asked for; where the plan is choosing, the most that it may.
        options: keyword arguments of `recommend`.
    """
    asked = {name: options[name] for name in _OF_A_QUESTION if name in options}
    sizes = set(range(1, num_rollouts + 1)) if choosing else {*CHOICES, min(num_rollouts, MOST_ROLLOUTS)}
    found = rl2ml.plan_budget(pilot, metric, rollouts_per_step, choices=sorted(sizes), bootstrap=0, **asked)
    chosen = found.num_rollouts or min(_HABIT, num_rollouts) if choosing else num_rollouts
    row = next((row for row in found.frontier if row.num_rollouts == chosen), None)
    return {
        "summary": found.summary,
        "rollouts_per_step": rollouts_per_step,
        "num_rollouts": chosen,
        "prompts_per_step": None if row is None else row.prompts_per_step,
        "best_num_rollouts": found.num_rollouts,
        "near_optimal": list(found.near_optimal),
        "loss": found.loss_of(chosen),
    }
