"""From an analysis's request to its answer: the same function here and in a pool process, and its cost."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import rl2ml_core as rl2ml
from app.answers import as_json
from app.problems import Problem
from app.schemas.common import Table
from app.schemas.estimators import AnalysisRequest, FamilyChoice, TrainerChoice
from app.settings import Settings
from app.values import (
    check_size,
    check_time,
    limit,
    narrowest_law,
    pilot_of,
    prior_of,
    refusing,
    scores_of,
    size_of,
    table_of,
)
from rl2ml_core.objective.quadrature import quadrature_nodes

__all__ = ["Inquiry", "analysis"]

_POINTERS = {
    "": "#/estimator",
    "trainer": "#/estimator",
    "num_rollouts": "#/num_rollouts",
    "parameters": "#/estimator/parameters",
    **{
        name: f"#/estimator/parameters/{name}"
        for trainer in rl2ml.KNOWN_TRAINERS.values()
        for name in trainer.parameters
    },
}


@dataclass(frozen=True, eq=False)
class Inquiry:
    """A validated request in the core's terms: what is analyzed, and sent to pool processes."""

    trainer: str | float | rl2ml.AdvantageTable
    parameters: dict[str, Any]
    num_rollouts: int
    pilot: rl2ml.PilotHistogram | rl2ml.Population | None
    prior: rl2ml.BetaPrior | str
    score_model: rl2ml.ScoreModel | None

    @classmethod
    def of(cls, request: AnalysisRequest, settings: Settings) -> "Inquiry":
        """Check the service's limits, then build the core's values.

        Raises:
            Problem: a limit exceeded, or values that the core refuses.
        """
        check_size(request.pilot, settings)
        with refusing(_POINTERS):
            trainer, parameters = _trainer(request.estimator)
        if isinstance(trainer, rl2ml.AdvantageTable):
            num_rollouts, where = trainer.num_rollouts, "#/estimator/success"
        elif request.num_rollouts is not None:
            num_rollouts, where = request.num_rollouts, "#/num_rollouts"
        else:
            raise Problem("invalid-request", errors=[("#/num_rollouts", "needed by all but a table")])
        limit(num_rollouts, settings.max_num_rollouts, where, "rollouts per prompt")
        with refusing({}, request.pilot):
            inquiry = cls(
                trainer,
                parameters,
                num_rollouts if request.num_rollouts is None else request.num_rollouts,
                None if request.pilot is None else pilot_of(request.pilot),
                prior_of(request.prior),
                scores_of(request.score_model),
            )
        inquiry._check_work(settings)
        return inquiry

    @property
    def milliseconds(self) -> float:
        """Predicted time (benchmarks/http.py prints it beside the measured one)."""
        cells, n, points = self._cells, self.num_rollouts, self._points
        # The search for the nearest γ sums over success counts up to N = 64, and takes incomplete betas beyond.
        search = 5e-5 * n if n <= 64 else 0.08 + 2e-5 * n
        return 1.2 + 3e-4 * n + 1e-4 * cells * n + 1.3e-5 * cells * self._quadrature_nodes + (1e-3 + search) * points

    @property
    def _cells(self) -> int:
        return 1 if self.pilot is None else size_of(self.pilot)

    @property
    def _points(self) -> int:
        """Pass rates at which weights are compared."""
        return self._quadrature_nodes or self._cells

    @cached_property
    def _quadrature_nodes(self) -> int:
        """Points at which laws of pass rates are integrated; 0 where all are points themselves. E23."""
        narrowest = 2.0 if self.pilot is None else narrowest_law(self.pilot, self.prior)
        return 0 if narrowest is None else quadrature_nodes(narrowest + 4 + 2 * (self.num_rollouts - 1))

    def _check_work(self, settings: Settings) -> None:
        cells, most = self._cells, settings.max_work
        limit(cells, settings.max_cells, "#/pilot", "distinct cells")
        limit(cells * self.num_rollouts, most, "#/pilot", "cells × rollouts per prompt")
        limit(cells * self._quadrature_nodes, most, "#/pilot", "cells × quadrature nodes")
        check_time(self.milliseconds, settings)


def analysis(inquiry: Inquiry) -> bytes:
    """Analyze, and give the answer as JSON.

    Raises:
        Problem: values that the core refuses.
    """
    with refusing(_POINTERS):
        pilot = inquiry.pilot
        found = rl2ml.analyze(
            inquiry.trainer,
            inquiry.num_rollouts,
            pilot.population(inquiry.prior) if isinstance(pilot, rl2ml.PilotHistogram) else pilot,
            inquiry.score_model,
            **inquiry.parameters,
        )
    content = found.to_dict()
    return as_json({"method_version": rl2ml.METHOD_VERSION, "core_version": rl2ml.__version__, **content})


def _trainer(
    estimator: str | TrainerChoice | FamilyChoice | Table,
) -> tuple[str | float | rl2ml.AdvantageTable, dict[str, Any]]:
    """What is analyzed, and its parameters."""
    if isinstance(estimator, str):
        return estimator, {}
    if isinstance(estimator, Table):
        return table_of(estimator, ""), {}
    if isinstance(estimator, FamilyChoice):
        return estimator.gamma, {
            "baseline": estimator.baseline,
            "order": estimator.order,
            "filter_groups": estimator.filter_groups,
        }
    # They become keyword arguments, so only a trainer's own may pass.
    accepted = rl2ml.KNOWN_TRAINERS[estimator.name].parameters
    if not estimator.parameters.keys() <= accepted.keys():
        raise rl2ml.InvalidInput(f"{estimator.name} takes {', '.join(accepted) or 'no parameters'}", field="parameters")
    return estimator.name, dict(estimator.parameters)
