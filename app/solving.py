"""From a request to an answer: the same function inline and in a pool process, and the cost that decides which."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import to_json

import rl2ml_core as rl2ml
from app.problems import Problem, from_invalid_input
from app.schemas.common import (
    BetaPriorChoice,
    CellsPilot,
    CountsPilot,
    LogSuccessMetric,
    MixtureMetric,
    PassAtKMetric,
    RatesPilot,
    Table,
)
from app.schemas.recommendations import RecommendationRequest
from app.settings import Settings
from rl2ml_core.selection.metrics import quadrature_nodes
from rl2ml_core.selection.problem import DEFAULT_VARIANCE_PENALTY

__all__ = ["Question", "answer"]

#: Where each argument of the core stands in the body.
_POINTERS = {
    "num_successes": "#/pilot/num_successes",
    "num_rollouts": "#/pilot/num_rollouts",
    "pass_rates": "#/pilot/pass_rates",
    "cells": "#/pilot/cells",
    "gamma_min": "#/search/gamma_min",
    "gamma_max": "#/search/gamma_max",
    "variance_penalty": "#/search/variance_penalty",
    "baseline": "#/estimator/baseline",
    "current": "#/current",
    "metric": "#/metric",
    "prior": "#/prior",
    "score_model": "#/score_model",
}


@dataclass(frozen=True, eq=False)
class Question:
    """A validated request in the core's terms: what is solved, hashed, and sent to pool processes."""

    pilot: rl2ml.PilotHistogram | rl2ml.Population
    metric: rl2ml.Metric
    num_rollouts: int
    options: dict[str, Any]  # keyword arguments of `recommend`

    @classmethod
    def of(cls, request: RecommendationRequest, settings: Settings) -> "Question":
        """Check the service's limits, then build the core's values.

        Raises:
            Problem: a limit exceeded, or values that the core refuses.
        """
        _check_sizes(request, settings)
        try:
            question = cls(
                _pilot(request.pilot),
                _judged(request.metric),
                request.budget.num_rollouts,
                {
                    "gamma_min": request.search.gamma_min,
                    "gamma_max": request.search.gamma_max,
                    "criterion": request.search.criterion,
                    "variance_penalty": _variance_penalty(request),
                    "prior": rl2ml.BetaPrior(request.prior.alpha, request.prior.beta)
                    if isinstance(request.prior, BetaPriorChoice)
                    else "plug_in",
                    "score_model": _score_model(request),
                    "baseline": request.estimator.baseline,
                    "current": _current(request.current),
                    "bootstrap": request.uncertainty.bootstrap,
                    "seed": request.uncertainty.seed,
                    "level": request.uncertainty.level,
                },
            )
        except rl2ml.InvalidInput as error:
            pointers = _POINTERS
            if isinstance(request.pilot, CellsPilot):
                pointers = _POINTERS | dict.fromkeys(("num_successes", "num_rollouts"), "#/pilot/cells")
            raise from_invalid_input(error, pointers) from None
        _check_work(question, settings)
        return question

    @property
    def num_cells(self) -> int:
        """Cells of the pilot."""
        return self.pilot.num_cells if isinstance(self.pilot, rl2ml.PilotHistogram) else int(self.pilot.weights.size)

    @property
    def id(self) -> str:
        """A hash of the question and of the version of the numbers: every form of one pilot has one id."""
        if isinstance(self.pilot, rl2ml.PilotHistogram):
            pilot: Any = self.pilot.cells()
        else:
            pilot = sorted(zip(self.pilot.pass_rates.tolist(), self.pilot.weights.tolist(), strict=True))
        options = {name: _plain(value) for name, value in self.options.items()}
        content = [rl2ml.METHOD_VERSION, pilot, self.metric.name, self.num_rollouts, options]
        text = json.dumps(content, sort_keys=True, allow_nan=False).encode()
        return f"rec_{hashlib.sha256(text).hexdigest()[:32]}"

    @property
    def milliseconds(self) -> float:
        """Predicted time of the solve (benchmarks/http.py prints it beside the measured one)."""
        cells, n, nodes = self.num_cells, self.num_rollouts, self.gamma_nodes
        draws: int = self.options["bootstrap"]
        per_cell = nodes if draws or self._is_paper else 0.0  # values of γ computed for every cell apart
        return (
            1
            + 1e-2 * cells
            + 3e-4 * cells * n * len(self._parts)
            + 2e-4 * nodes * n
            + per_cell * cells * (1e-4 + 1e-5 * n)
            + draws * (1e-4 * cells + 1e-5 * nodes + 2e-7 * nodes**2)
            + self.quadrature_nodes * (3e-5 * cells + 1e-4 * n + 2e-7 * cells * n)
        )

    @property
    def cell_values(self) -> float:
        """Numbers held at once for every cell apart: three terms at each γ, where draws or Eq. 4 need them."""
        return 3 * self.num_cells * self.gamma_nodes if self.options["bootstrap"] or self._is_paper else 0.0

    @property
    def gamma_nodes(self) -> float:
        """Values of γ at which the criterion is computed, roughly."""
        width: float = self.options["gamma_max"] - self.options["gamma_min"]
        return 30 * max(1.0, width)

    @property
    def quadrature_nodes(self) -> int:
        """Points at which logarithms are integrated over every cell, all parts of the metric together. E13."""
        prior = self.options["prior"]
        if isinstance(self.pilot, rl2ml.Population) or not isinstance(prior, rl2ml.BetaPrior):
            return 0
        narrowest = int(self.pilot.num_rollouts.max()) + prior.alpha + prior.beta + self.num_rollouts
        return quadrature_nodes(narrowest) * sum(isinstance(part, rl2ml.LogSuccess) for part in self._parts)

    @property
    def _parts(self) -> list[rl2ml.Metric]:
        return list(self.metric.parts) if isinstance(self.metric, rl2ml.Mixture) else [self.metric]

    @property
    def _is_paper(self) -> bool:
        return bool(self.options["criterion"] == "paper")


def answer(question: Question, identity: str) -> bytes:
    """Solve, and give the answer as JSON.

    Raises:
        Problem: values that the core refuses.
    """
    try:
        recommendation = rl2ml.recommend(question.pilot, question.metric, question.num_rollouts, **question.options)
    except rl2ml.InvalidInput as error:
        raise from_invalid_input(error, _POINTERS | {"num_rollouts": "#/budget/num_rollouts"}) from None
    body = to_json({"id": identity, **recommendation.to_dict()}, inf_nan_mode="constants")
    if b"NaN" in body or b"Infinity" in body:
        raise ArithmeticError("the answer holds a number that JSON has no word for")
    return body


def _check_sizes(request: RecommendationRequest, settings: Settings) -> None:
    """Limits that need no arithmetic, before anything is allocated."""
    pilot = request.pilot
    if isinstance(pilot, CellsPilot):
        _limit(len(pilot.cells), settings.max_cells, "#/pilot/cells", "cells")
    elif isinstance(pilot, CountsPilot):
        _limit(len(pilot.num_successes), settings.max_prompts, "#/pilot/num_successes", "prompts")
    else:
        _limit(len(pilot.pass_rates), settings.max_prompts, "#/pilot/pass_rates", "prompts")
    _limit(request.budget.num_rollouts, settings.max_num_rollouts, "#/budget/num_rollouts", "rollouts per prompt")
    _limit(request.search.gamma_max, settings.max_gamma, "#/search/gamma_max", "γ")
    _limit(request.uncertainty.bootstrap, settings.max_bootstrap, "#/uncertainty/bootstrap", "draws")


def _check_work(question: Question, settings: Settings) -> None:
    """Limits on what a solve would allocate."""
    cells = question.num_cells
    _limit(cells, settings.max_cells, "#/pilot", "distinct cells")
    _limit(cells * question.num_rollouts, settings.max_work, "#/pilot", "cells × rollouts per prompt")
    _limit(cells * question.quadrature_nodes, settings.max_work, "#/metric", "cells × quadrature nodes")
    _limit(question.cell_values, settings.max_work, "#/search/gamma_max", "3 × cells × values of γ (30 per unit)")
    _limit(cells * question.options["bootstrap"], settings.max_draw_cells, "#/uncertainty/bootstrap", "draws × cells")


def _limit(value: float, limit: float, pointer: str, what: str) -> None:
    if value > limit:
        raise Problem("limit-exceeded", errors=[(pointer, f"at most {limit:,.12g} {what}")])


def _pilot(pilot: CellsPilot | CountsPilot | RatesPilot) -> rl2ml.PilotHistogram | rl2ml.Population:
    if isinstance(pilot, CellsPilot):
        return rl2ml.PilotHistogram.from_cells(
            [(cell.num_rollouts, cell.num_successes, cell.num_prompts) for cell in pilot.cells]
        )
    if isinstance(pilot, CountsPilot):
        return rl2ml.PilotHistogram.from_counts(pilot.num_successes, pilot.num_rollouts)
    if pilot.num_rollouts is not None:
        return rl2ml.PilotHistogram.from_pass_rates(pilot.pass_rates, pilot.num_rollouts)
    rates, counts = np.unique(np.abs(pilot.pass_rates), return_counts=True)
    return rl2ml.Population.from_pass_rates(rates, counts)


def _judged(metric: PassAtKMetric | LogSuccessMetric | MixtureMetric | str) -> rl2ml.Metric:
    try:
        return _metric(metric)
    except rl2ml.InvalidInput as error:
        raise rl2ml.InvalidInput(str(error), field="metric") from None


def _metric(metric: PassAtKMetric | LogSuccessMetric | MixtureMetric | str) -> rl2ml.Metric:
    if isinstance(metric, str):
        return rl2ml.parse_metric(metric)
    if isinstance(metric, PassAtKMetric):
        return rl2ml.PassAtK(metric.k)
    if isinstance(metric, LogSuccessMetric):
        return rl2ml.LogSuccess(metric.tau)
    parts: dict[rl2ml.Metric, float] = {}
    for part in metric.parts:
        leaf = _metric(part.metric)
        parts[leaf] = parts.get(leaf, 0.0) + part.weight
    # One part of weight 1 is that metric, as it is in text: one question, one id.
    return leaf if list(parts.values()) == [1] else rl2ml.Mixture(parts)


def _score_model(request: RecommendationRequest) -> rl2ml.ScoreModel | None:
    choice = request.score_model
    if choice is None:
        return None
    model = rl2ml.ScoreModel(choice.kappa, choice.kappa_spread)
    # Spelled out or left out, the default is one question; but Eq. 4 has proxies of its own to default to.
    return None if model.is_default and request.search.criterion != "paper" else model


def _variance_penalty(request: RecommendationRequest) -> float | None:
    penalty = request.search.variance_penalty
    return DEFAULT_VARIANCE_PENALTY if penalty is None and request.search.criterion == "paper" else penalty


def _current(current: str | float | Table) -> str | float | rl2ml.AdvantageTable:
    if not isinstance(current, Table):
        return current
    success, failure = ([x or 0.0 for x in side] for side in (current.success, current.failure))
    try:
        return rl2ml.AdvantageTable(np.array(success), np.array(failure))
    except rl2ml.InvalidInput as error:
        raise rl2ml.InvalidInput(str(error), field="current") from None


def _plain(value: Any) -> Any:
    """An option as JSON, for the hash."""
    if isinstance(value, rl2ml.AdvantageTable):
        return [value.success.tolist(), value.failure.tolist()]
    if isinstance(value, rl2ml.BetaPrior):
        return [value.alpha, value.beta]
    if isinstance(value, rl2ml.ScoreModel):
        return value.to_dict()
    return value
