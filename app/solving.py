"""From a recommendation's request to its answer: the same function here and in a pool process, and its cost."""

import hashlib
import json
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import rl2ml_core as rl2ml
from app.answers import as_json
from app.planning import planning_milliseconds, split_of
from app.schemas.common import GroupsPilot, Table
from app.schemas.recommendations import RecommendationRequest
from app.settings import Settings
from app.values import (
    check_size,
    check_time,
    conditions_of,
    groups_of,
    limit,
    metric_of,
    narrowest_law,
    pilot_of,
    plain,
    prior_of,
    refusing,
    scores_of,
    size_of,
    table_of,
)
from rl2ml_core.objective.quadrature import quadrature_nodes
from rl2ml_core.selection.planning import CHOICES
from rl2ml_core.selection.problem import DEFAULT_VARIANCE_PENALTY

__all__ = ["POINTERS", "Question", "answer"]

POINTERS = {
    "gamma_min": "#/search/gamma_min",
    "gamma_max": "#/search/gamma_max",
    "variance_penalty": "#/search/variance_penalty",
    "judged_on": "#/search/judged_on",
    "rollouts_per_step": "#/budget/rollouts_per_step",
    "current": "#/current",
    "sampled/policy": "#/sampled/policy",
    "training/policy": "#/training/policy",
}

#: What a group's answer keeps of a recommendation: what one compares groups by, and what to train with.
_OF_A_GROUP = ("summary", "gamma", "status", "interval", "near_optimal", "objective")
#: A number of an answer takes as much memory as so many of a solve: it is a Python object, then text.
_ANSWERED = 8
#: Numbers that are kept of a path for every γ: 9 at up to 65 points of 2 ways on some 100 nodes.
_ON_A_WAY = 9 * 65 * 2 * 100


@dataclass(frozen=True, eq=False)
class Question:
    """A validated request in the core's terms: what is solved, hashed, and sent to pool processes."""

    pilot: rl2ml.PilotHistogram | rl2ml.Population  # of all groups together, where there are any
    groups: dict[str, rl2ml.PilotHistogram]
    metric: rl2ml.Metric
    num_rollouts: int  # where a plan is to choose them, the most that it may
    rollouts_per_step: int | None
    is_planned: bool  # whether a plan is to choose
    options: dict[str, Any]  # keyword arguments of `recommend`

    @classmethod
    def of(cls, request: RecommendationRequest, settings: Settings) -> "Question":
        """Check the service's limits, then build the core's values.

        Raises:
            Problem: a limit exceeded, or values that the core refuses.
        """
        check_size(request.pilot, settings)
        budget = request.budget
        most = min(max(CHOICES), settings.max_num_rollouts)
        num_rollouts = budget.num_rollouts or min(budget.rollouts_per_step or 1, most)
        limit(num_rollouts, settings.max_num_rollouts, "#/budget/num_rollouts", "rollouts per prompt")
        limit(request.search.gamma_max, settings.max_gamma, "#/search/gamma_max", "γ")
        limit(request.uncertainty.bootstrap, settings.max_bootstrap, "#/uncertainty/bootstrap", "draws")
        with refusing(POINTERS, request.pilot):
            groups = groups_of(request.pilot) if isinstance(request.pilot, GroupsPilot) else {}
            question = cls(
                pilot_of(request.pilot)
                if not isinstance(request.pilot, GroupsPilot)
                else rl2ml.PilotHistogram.merged(groups.values()),
                groups,
                metric_of(request.metric),
                num_rollouts,
                budget.rollouts_per_step,
                budget.num_rollouts is None,
                {
                    "gamma_min": request.search.gamma_min,
                    "gamma_max": request.search.gamma_max,
                    "criterion": request.search.criterion,
                    "variance_penalty": _variance_penalty(request),
                    "prior": prior_of(request.prior),
                    "score_model": _score_model(request),
                    "baseline": request.estimator.baseline,
                    "order": _order(request),
                    "filter_groups": request.estimator.filter_groups,
                    "current": table_of(request.current, "current")
                    if isinstance(request.current, Table)
                    else request.current,
                    "bootstrap": request.uncertainty.bootstrap,
                    "seed": request.uncertainty.seed,
                    "level": request.uncertainty.level,
                    "sampled": conditions_of(request.sampled, "sampled"),
                    "training": conditions_of(request.training, "training"),
                    **_looking_ahead(request),
                },
            )
        question.check_work(settings)
        return question

    @cached_property
    def id(self) -> str:
        """A hash of the question and of the version of the numbers: every form of one pilot has one id."""
        pilot: Any
        if self.groups:
            pilot = {name: group.cells() for name, group in self.groups.items()}
        elif isinstance(self.pilot, rl2ml.PilotHistogram):
            pilot = self.pilot.cells()
        else:
            pilot = sorted(zip(self.pilot.pass_rates.tolist(), self.pilot.weights.tolist(), strict=True))
        options = {name: plain(value) for name, value in self.options.items()}
        content = [rl2ml.METHOD_VERSION, pilot, self.metric.name, self.num_rollouts, options]
        if self.rollouts_per_step is not None:
            content += [self.rollouts_per_step, self.is_planned]
        text = json.dumps(content, sort_keys=True, allow_nan=False).encode()
        return f"rec_{hashlib.sha256(text).hexdigest()[:32]}"

    @property
    def milliseconds(self) -> float:
        """Predicted time of all solves (benchmarks/http.py prints it beside the measured one)."""
        opinion = self._search_ahead(size_of(self.pilot)) if "look_ahead" in self.options else 0.0
        if self.rollouts_per_step is not None:
            width = max(1.0, self.options["gamma_max"] - self.options["gamma_min"])
            opinion += planning_milliseconds(self.pilot, self.metric, list(CHOICES), draws=False, width=width)
        return opinion + sum(map(self._walking if self._is_lookahead else self._milliseconds, self._solves))

    def _milliseconds(self, cells: int) -> float:
        """Of one solve: fitted to hundreds of questions of all kinds and sizes, and mostly within a factor of 1.5."""
        n, nodes, priors, held = self.num_rollouts, self.gamma_nodes, self._priors, self._priors_held
        draws: int = self.options["bootstrap"]
        # Criteria that need every γ for every cell apart: Eq. 4 does, as the one asked for or to be compared with.
        apart = priors + held if self._is_paper else 1 + held * (4 * n > 3 * nodes)
        found = (
            0.5
            + 8e-3 * cells
            + 4e-3 * nodes
            + 1e-4 * nodes * n
            + priors * (0.35 + 1.2e-5 * nodes * n + 7e-5 * cells * n * len(self._parts))
            + 8e-7 * apart * cells * n * nodes
            + draws * nodes * (5e-5 + 1e-7 * nodes)
            + draws * held * cells * (9e-6 + 3e-8 * min(3 * nodes, 4 * n))
        )
        if not self.quadrature_nodes:
            return found
        integrated = 1 if self._is_paper else priors
        # A large basis of polynomials is made anew for every run of cells.
        bases = 1 if self.quadrature_nodes * n <= 1 << 20 else integrated * math.ceil(cells * n / (1 << 18))
        return found + self.quadrature_nodes * (integrated * cells * (1.5e-5 + 4e-8 * n) + 2.5e-5 * bases * n)

    def _walking(self, cells: int) -> float:
        """Of one solve by the lookahead: under each prior, and for every draw. E37."""
        laid_out = 3e-5 * cells * self._nodes_ahead * (self._priors - 1)
        draws = self._draws * (0.025 * self._tables_ahead + 2e-5 * cells)
        again = self._walk(self._tables_ahead) if self._draws else 0.0
        return 1 + self._search_ahead(cells) + self._walk(4) + 3 * self._priors_checked + laid_out + again + draws

    def _search_ahead(self, cells: int) -> float:
        """Of the lookahead's curve over γ: a population's nodes, the path of γ = 1, and those of all γ."""
        return 3e-5 * cells * self._nodes_ahead + self._walk(1) + self._walk(self._tables_ahead - 4)

    def _walk(self, tables: float) -> float:
        return 2.4 + tables * (0.33 + 5e-5 * self.num_rollouts)

    @property
    def _tables_ahead(self) -> float:
        """γ at nodes of degree 10 on pieces of width 1 and at their edges, and four tables to compare with."""
        width: float = self.options["gamma_max"] - self.options["gamma_min"]
        return 12 * max(1, math.ceil(width)) + 5

    @cached_property
    def _nodes_ahead(self) -> int:
        """Points at which a cell's law is laid out before a population's nodes are chosen; 0 for points."""
        narrowest = narrowest_law(self.pilot, self._prior_of_laws)
        return 0 if narrowest is None else quadrature_nodes(narrowest + 2)

    @property
    def _draws(self) -> int:
        return 0 if isinstance(self.pilot, rl2ml.Population) else self.options["bootstrap"]

    @property
    def _prior_of_laws(self) -> rl2ml.BetaPrior | str:
        """Whatever the prior, the answer is checked against others, the one that fits among them."""
        prior: rl2ml.BetaPrior | str = self.options["prior"]
        return "empirical_bayes" if prior == "plug_in" else prior

    @property
    def cell_values(self) -> float:
        """Numbers held at once for every cell apart: three terms at each γ, under every prior that is drawn."""
        return 3 * size_of(self.pilot) * self.gamma_nodes * max(self._priors_held, 1)

    @property
    def gamma_nodes(self) -> float:
        """Values of γ at which the criterion is computed, roughly."""
        width: float = self.options["gamma_max"] - self.options["gamma_min"]
        return 30 * max(1.0, width)

    @cached_property
    def quadrature_nodes(self) -> int:
        """Points at which logarithms are integrated over every cell, all parts of the metric together. E13."""
        logarithms = sum(isinstance(part, rl2ml.LogSuccess) for part in self._parts)
        if not logarithms:
            return 0
        narrowest = narrowest_law(self.pilot, self._prior_of_laws)
        return 0 if narrowest is None else logarithms * quadrature_nodes(narrowest + self.num_rollouts)

    @property
    def _priors(self) -> int:
        """Priors that the criterion is evaluated under: the asked one, those it is checked against, and fits nearby."""
        fits_nearby = 4 if self.options["prior"] == "empirical_bayes" and self._draws else 0
        return 1 + self._priors_checked + fits_nearby

    @property
    def _priors_checked(self) -> int:
        """Other priors that the answer is checked against."""
        if isinstance(self.pilot, rl2ml.Population):
            return 0
        return 2 if self.options["prior"] == "plug_in" else 3

    @property
    def _priors_held(self) -> int:
        """Of these, those between which draws lie."""
        if not self._draws:
            return 0
        return {"plug_in": 1, "empirical_bayes": 5}.get(self.options["prior"], 3)

    @cached_property
    def _solves(self) -> list[int]:
        """Cells of every solve: all together; with groups each one's own, and all others together."""
        cells = size_of(self.pilot)
        if len(self.groups) < 2:
            return [cells]
        return [cells, *(size for group in self.groups.values() for size in (group.num_cells, cells))]

    @property
    def _parts(self) -> list[rl2ml.Metric]:
        return list(self.metric.parts) if isinstance(self.metric, rl2ml.Mixture) else [self.metric]

    @property
    def _is_paper(self) -> bool:
        return bool(self.options["criterion"] == "paper")

    @property
    def _is_lookahead(self) -> bool:
        return bool(self.options["criterion"] == "lookahead")

    def check_work(self, settings: Settings) -> None:
        """Limits on what the solves would allocate and take.

        Raises:
            Problem: "limit-exceeded".
        """
        cells, most = sum(self._solves), settings.max_work
        limit(size_of(self.pilot), settings.max_cells, "#/pilot", "distinct cells")
        limit(cells * self.num_rollouts, most, "#/pilot", "cells × rollouts per prompt")
        limit(cells * self.quadrature_nodes, most, "#/metric", "cells × quadrature nodes")
        limit(self.cell_values, most, "#/search/gamma_max", "3 × cells × values of γ (30 per unit) × priors drawn")
        limit(cells * self.options["bootstrap"], settings.max_draw_cells, "#/uncertainty/bootstrap", "draws × cells")
        if self._is_lookahead or "look_ahead" in self.options:
            limit(size_of(self.pilot) * self._nodes_ahead, most, "#/pilot", "cells × points of their laws")
            paths = (4 * self.num_rollouts + _ON_A_WAY) * self._tables_ahead
            what = f"(4 × rollouts per prompt + {_ON_A_WAY:,}) × values of γ (12 per unit, and 5)"
            limit(paths, most, "#/search/gamma_max", what)
        if self.groups:
            numbers = 3 * self.num_rollouts * (1 + len(self.groups))
            limit(_ANSWERED * numbers, most, "#/pilot/groups", "24 × (1 + groups) × rollouts per prompt")
        check_time(self.milliseconds, settings)


def answer(question: Question, identity: str) -> bytes:
    """Solve, and give the answer as JSON.

    Raises:
        Problem: values that the core refuses.
    """
    groups = split = None
    with refusing(POINTERS | {"num_rollouts": "#/budget/num_rollouts"}):
        num_rollouts = question.num_rollouts
        if question.rollouts_per_step is not None:
            split = split_of(
                question.pilot, question.metric, question.rollouts_per_step, num_rollouts, question.options,
                choosing=question.is_planned,
            )  # fmt: skip
            num_rollouts = split["num_rollouts"]
        if question.groups:
            grouped = rl2ml.recommend_groups(question.groups, question.metric, num_rollouts, **question.options)
            recommendation, groups = grouped.joint, _groups_answer(grouped)
        else:
            recommendation = rl2ml.recommend(question.pilot, question.metric, num_rollouts, **question.options)
    return as_json({"id": identity, **recommendation.to_dict(), "groups": groups, "plan": split})


def _groups_answer(grouped: rl2ml.GroupedRecommendation) -> dict[str, Any]:
    by_group = []
    for group in grouped.groups:
        content = group.to_dict()
        own = content.pop("recommendation")
        by_group.append(content | {name: own[name] for name in _OF_A_GROUP})
    return {"summary": grouped.summary, "differ": grouped.differ, "by_group": by_group}


def _order(request: RecommendationRequest) -> int | None:
    """An order of N is no truncation: one question, one id."""
    return None if request.estimator.order == request.budget.num_rollouts else request.estimator.order


def _score_model(request: RecommendationRequest) -> rl2ml.ScoreModel | None:
    model = scores_of(request.score_model)
    # Spelled out or left out, the default is one question; but Eq. 4 has proxies of its own to default to.
    is_default = model is not None and model.is_default and request.search.criterion != "paper"
    return None if is_default else model


def _looking_ahead(request: RecommendationRequest) -> dict[str, Any]:
    """What is asked of training curves, where it makes a difference: spelled out or left out, a default is one id."""
    search = request.search
    judged_on = {} if search.judged_on == "either" else {"judged_on": search.judged_on}
    return judged_on | ({"look_ahead": True} if search.look_ahead and search.criterion != "lookahead" else {})


def _variance_penalty(request: RecommendationRequest) -> float | None:
    penalty = request.search.variance_penalty
    return DEFAULT_VARIANCE_PENALTY if penalty is None and request.search.criterion == "paper" else penalty
