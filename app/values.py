"""From the wire's values to the core's, with the service's limits on them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

import rl2ml_core as rl2ml
from app.problems import Problem, from_invalid_input, in_a_group
from app.schemas.common import (
    BetaPriorChoice,
    CellsPilot,
    ConditionsChoice,
    CountsPilot,
    GroupsPilot,
    LogSuccessMetric,
    MixtureMetric,
    PassAtKMetric,
    RatesPilot,
    ScoreModelChoice,
    Table,
)
from app.settings import Settings

__all__ = [
    "check_size",
    "check_time",
    "conditions_of",
    "groups_of",
    "limit",
    "metric_of",
    "narrowest_law",
    "pilot_of",
    "plain",
    "prior_of",
    "refusing",
    "scores_of",
    "size_of",
    "table_of",
]

#: Where the parts that several resources take stand in the body.
_POINTERS = {
    "num_successes": "#/pilot/num_successes",
    "num_rollouts": "#/pilot/num_rollouts",
    "pass_rates": "#/pilot/pass_rates",
    "cells": "#/pilot/cells",
    "groups": "#/pilot/groups",
    "pilots": "#/pilot/groups",
    "metric": "#/metric",
    "baseline": "#/estimator/baseline",
    "order": "#/estimator/order",
    "filter_groups": "#/estimator/filter_groups",
    "prior": "#/prior",
    "prior.alpha": "#/prior/alpha",
    "prior.beta": "#/prior/beta",
    "score_model": "#/score_model",
}


@contextmanager
def refusing(pointers: Mapping[str, str], pilot: Any = None) -> Iterator[None]:
    """Turn what the core refuses into a problem.

    Args:
        pointers: where each argument of the core stands in the body, beyond the parts that several resources take.
        pilot: the body's, where it is what the core is looking at.

    Raises:
        Problem: "invalid-request".
    """
    cells = isinstance(pilot, CellsPilot)
    of_cells = dict.fromkeys(("num_successes", "num_rollouts"), "#/pilot/cells") if cells else {}
    try:
        yield
    except rl2ml.InvalidInput as error:
        raise from_invalid_input(error, {**_POINTERS, **of_cells, **pointers}) from None


def limit(value: float, most: float, pointer: str, what: str) -> None:
    """Refuse more than the service takes.

    Raises:
        Problem: "limit-exceeded".
    """
    if value > most:
        raise Problem("limit-exceeded", errors=[(pointer, f"at most {most:,.12g} {what}")])


def check_size(pilot: Any, settings: Settings) -> None:
    """A pilot's limits that need no arithmetic, before anything is allocated.

    Raises:
        Problem: "limit-exceeded".
    """
    if isinstance(pilot, CellsPilot):
        limit(len(pilot.cells), settings.max_cells, "#/pilot/cells", "cells")
    elif isinstance(pilot, GroupsPilot):
        cells = sum(len(group.cells) for group in pilot.groups.values())
        limit(cells, settings.max_cells, "#/pilot/groups", "cells")
    elif isinstance(pilot, CountsPilot):
        limit(len(pilot.num_successes), settings.max_prompts, "#/pilot/num_successes", "prompts")
    elif isinstance(pilot, RatesPilot):
        limit(len(pilot.pass_rates), settings.max_prompts, "#/pilot/pass_rates", "prompts")
    elif isinstance(pilot, rl2ml.PilotHistogram):
        limit(pilot.num_cells, settings.max_cells, "#/pilot", "cells")


def check_time(milliseconds: float, settings: Settings) -> None:
    """Refuse at once what would only be ended by the deadline.

    Raises:
        Problem: "limit-exceeded".
    """
    if milliseconds > max(1e3 * settings.solve_seconds, settings.inline_milliseconds):
        raise Problem(
            "limit-exceeded", f"predicted to take longer than {settings.solve_seconds:g} seconds: ask for less"
        )


def pilot_of(pilot: Any) -> rl2ml.PilotHistogram | rl2ml.Population:
    """A histogram, as it is where it was uploaded; or points, where rates are taken as exact.

    Raises:
        InvalidInput: values that the core refuses.
    """
    if isinstance(pilot, rl2ml.PilotHistogram):
        return pilot
    if isinstance(pilot, CellsPilot):
        return _histogram(pilot)
    if isinstance(pilot, CountsPilot):
        return rl2ml.PilotHistogram.from_counts(pilot.num_successes, pilot.num_rollouts)
    assert isinstance(pilot, RatesPilot)
    if pilot.num_rollouts is not None:
        return rl2ml.PilotHistogram.from_pass_rates(pilot.pass_rates, pilot.num_rollouts)
    rates, counts = np.unique(np.abs(pilot.pass_rates), return_counts=True)
    return rl2ml.Population.from_pass_rates(rates, counts)


def groups_of(pilot: GroupsPilot) -> dict[str, rl2ml.PilotHistogram]:
    """A histogram per group, sorted by name: another order is no other question."""
    return {name: _group(pilot.groups[name]) for name in sorted(pilot.groups)}


def _group(pilot: CellsPilot) -> rl2ml.PilotHistogram:
    try:
        return _histogram(pilot)
    except rl2ml.InvalidInput as error:
        place = "#" if error.index is None else f"cells/{error.index}"
        raise rl2ml.InvalidInput(in_a_group(place, str(error)), field="groups") from None


def _histogram(pilot: CellsPilot) -> rl2ml.PilotHistogram:
    return rl2ml.PilotHistogram.from_cells(
        [(cell.num_rollouts, cell.num_successes, cell.num_prompts) for cell in pilot.cells]
    )


def size_of(pilot: rl2ml.PilotHistogram | rl2ml.Population) -> int:
    """Cells of a pilot."""
    return pilot.num_cells if isinstance(pilot, rl2ml.PilotHistogram) else int(pilot.weights.size)


def narrowest_law(pilot: rl2ml.PilotHistogram | rl2ml.Population, prior: rl2ml.BetaPrior | str) -> float | None:
    """Rollouts and pseudo-counts behind the narrowest law of pass rates; None where all are points."""
    if isinstance(pilot, rl2ml.Population) or prior == "plug_in":
        return None
    used = prior if isinstance(prior, rl2ml.BetaPrior) else pilot.fitted_prior.prior
    return int(pilot.num_rollouts.max()) + used.alpha + used.beta


def metric_of(metric: PassAtKMetric | LogSuccessMetric | MixtureMetric | str) -> rl2ml.Metric:
    """The metric; text and object are one."""
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


def prior_of(prior: Any) -> rl2ml.BetaPrior | str:
    """The prior: a law, or the name of a way to one."""
    return rl2ml.BetaPrior(prior.alpha, prior.beta) if isinstance(prior, BetaPriorChoice) else str(prior.name)


def scores_of(choice: ScoreModelChoice | None) -> rl2ml.ScoreModel | None:
    """The score model; None where none is given."""
    return None if choice is None else rl2ml.ScoreModel(choice.kappa, choice.kappa_spread)


def conditions_of(choice: ConditionsChoice | None, field: str) -> rl2ml.Conditions | None:
    """The conditions; None where none is said."""
    if choice is None:
        return None
    try:
        conditions = rl2ml.Conditions(choice.temperature, choice.policy, choice.step)
    except rl2ml.InvalidInput as error:
        raise rl2ml.InvalidInput(str(error), field=f"{field}/{error.field}") from None
    return conditions if conditions.to_dict() else None


def table_of(table: Table, field: str) -> rl2ml.AdvantageTable:
    """The table of advantages; null is 0."""
    success, failure = ([x or 0.0 for x in side] for side in (table.success, table.failure))
    try:
        return rl2ml.AdvantageTable(np.array(success), np.array(failure))
    except rl2ml.InvalidInput as error:
        raise rl2ml.InvalidInput(str(error), field=field) from None


def plain(value: Any) -> Any:
    """An option as JSON, for a hash."""
    if isinstance(value, rl2ml.AdvantageTable):
        return [value.success.tolist(), value.failure.tolist()]
    if isinstance(value, rl2ml.BetaPrior):
        return [value.alpha, value.beta]
    if isinstance(value, (rl2ml.ScoreModel, rl2ml.Conditions)):
        return value.to_dict()
    return value
