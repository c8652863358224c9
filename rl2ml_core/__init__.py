"""RL2ML: from a small pilot to the objective to train with, between plain RL and maximum likelihood and beyond.

>>> import rl2ml_core as rl2ml
>>> pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])
>>> rl2ml.recommend(pilot, "pass@8", num_rollouts=4).status
'interior'

γ (`gamma`) is the family parameter: 0 is RL (pass@1), 1 is maximum likelihood, above 1 goes beyond. It is not a
discount factor.
"""

from rl2ml_core.errors import InvalidInput, InvalidTable, MissingExtra, RL2MLError
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.analysis import Analysis, Identity, NearestGamma, analyze, identify, nearest_gamma
from rl2ml_core.objective.baselines import BASELINES, rl2ml_table
from rl2ml_core.objective.catalog import KNOWN_TRAINERS, known_table
from rl2ml_core.objective.family import objective_value, objective_weight, success_weights, update_scales
from rl2ml_core.objective.objective import Objective
from rl2ml_core.objective.population import BetaPrior, MeasuredScores, Population, ScoreModel
from rl2ml_core.objective.truncation import (
    TruncationWindow,
    affordable_order,
    needed_order,
    truncation_tail,
    truncation_window,
)
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.metadata import Conditions
from rl2ml_core.pilot.prior import FittedPrior, fit_prior
from rl2ml_core.pilot.rollouts import Rollouts, read_rollouts
from rl2ml_core.pilot.tables import read_pilot, read_pilot_groups
from rl2ml_core.selection.comparison import Comparison, compare
from rl2ml_core.selection.controller import ControllerSettings, ControllerState, Decision
from rl2ml_core.selection.controller import replay as replay_controller
from rl2ml_core.selection.controller import start as start_controller
from rl2ml_core.selection.controller import step as step_controller
from rl2ml_core.selection.demands import Demands
from rl2ml_core.selection.groups import GroupedRecommendation, recommend_groups
from rl2ml_core.selection.metrics import LogSuccess, Metric, Mixture, PassAtK, parse_metric
from rl2ml_core.selection.pilot_plans import PilotPlan
from rl2ml_core.selection.piloting import guessed_prior, plan_pilot
from rl2ml_core.selection.planning import plan_budget
from rl2ml_core.selection.plans import BudgetPlan
from rl2ml_core.selection.recommend import Recommendation, recommend
from rl2ml_core.version import METHOD_VERSION, __version__

__all__ = [
    "BASELINES",
    "KNOWN_TRAINERS",
    "METHOD_VERSION",
    "AdvantageTable",
    "Analysis",
    "BetaPrior",
    "BudgetPlan",
    "Comparison",
    "Conditions",
    "ControllerSettings",
    "ControllerState",
    "Decision",
    "Demands",
    "FittedPrior",
    "GroupedRecommendation",
    "Identity",
    "InvalidInput",
    "InvalidTable",
    "LogSuccess",
    "MeasuredScores",
    "Metric",
    "MissingExtra",
    "Mixture",
    "NearestGamma",
    "Objective",
    "PassAtK",
    "PilotHistogram",
    "PilotPlan",
    "Population",
    "RL2MLError",
    "Recommendation",
    "Rollouts",
    "ScoreModel",
    "TruncationWindow",
    "__version__",
    "affordable_order",
    "analyze",
    "compare",
    "fit_prior",
    "guessed_prior",
    "identify",
    "known_table",
    "nearest_gamma",
    "needed_order",
    "objective_value",
    "objective_weight",
    "parse_metric",
    "plan_budget",
    "plan_pilot",
    "read_pilot",
    "read_pilot_groups",
    "read_rollouts",
    "recommend",
    "recommend_groups",
    "replay_controller",
    "rl2ml_table",
    "start_controller",
    "step_controller",
    "success_weights",
    "truncation_tail",
    "truncation_window",
    "update_scales",
]
