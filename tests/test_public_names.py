"""The public surface: what `import rl2ml_core as rl2ml` promises. A change here is a change for users."""

import inspect

import pytest

import rl2ml_core as rl2ml

# By room: what is optimised, what was measured, which γ, what goes wrong.
DOCUMENTED = [
    *["objective_weight", "success_weights", "update_scales", "objective_value"],
    *["AdvantageTable", "rl2ml_table", "BASELINES", "known_table", "KNOWN_TRAINERS", "Objective"],
    *["analyze", "Analysis", "identify", "Identity", "nearest_gamma", "NearestGamma"],
    *["Population", "BetaPrior", "ScoreModel", "MeasuredScores"],
    *["truncation_tail", "needed_order", "affordable_order", "truncation_window", "TruncationWindow"],
    *["PilotHistogram", "read_pilot", "read_pilot_groups", "Conditions", "fit_prior", "FittedPrior"],
    *["read_rollouts", "Rollouts"],
    *["Metric", "PassAtK", "LogSuccess", "Mixture", "parse_metric", "recommend", "Recommendation"],
    *["recommend_groups", "GroupedRecommendation", "compare", "Comparison"],
    *["plan_budget", "BudgetPlan", "Demands", "plan_pilot", "PilotPlan", "guessed_prior"],
    *["ControllerSettings", "ControllerState", "Decision"],
    *["start_controller", "step_controller", "replay_controller"],
    *["RL2MLError", "InvalidInput", "InvalidTable", "MissingExtra"],
    *["__version__", "METHOD_VERSION"],
]
PUBLIC = {name: getattr(rl2ml, name) for name in rl2ml.__all__}
CALLABLE = sorted(name for name, item in PUBLIC.items() if inspect.isclass(item) or inspect.isfunction(item))


def test_all_is_what_is_documented():
    assert sorted(rl2ml.__all__) == sorted(DOCUMENTED)


def test_nothing_is_listed_twice():
    assert len(set(rl2ml.__all__)) == len(rl2ml.__all__)


def test_nothing_else_is_importable_by_accident():
    modules = {name for name, item in vars(rl2ml).items() if inspect.ismodule(item)}
    visible = {name for name in vars(rl2ml) if not name.startswith("_")} - modules
    assert visible == {name for name in DOCUMENTED if not name.startswith("_")}


@pytest.mark.parametrize("name", CALLABLE)
def test_every_class_and_function_has_a_docstring(name):
    own = PUBLIC[name].__doc__
    assert own
    # A dataclass without one gets its signature instead.
    assert not own.startswith(f"{name}(")


@pytest.mark.parametrize("name", [name for name in CALLABLE if inspect.isfunction(PUBLIC[name])])
def test_every_function_is_typed(name):
    signature = inspect.signature(PUBLIC[name])
    assert signature.return_annotation is not inspect.Signature.empty
    assert all(p.annotation is not inspect.Parameter.empty for p in signature.parameters.values())


def test_errors_are_one_family():
    for name in ("InvalidInput", "InvalidTable", "MissingExtra"):
        assert issubclass(PUBLIC[name], rl2ml.RL2MLError)
    assert issubclass(rl2ml.InvalidInput, ValueError)
    assert issubclass(rl2ml.MissingExtra, ImportError)


def test_versions():
    assert rl2ml.__version__.count(".") == 2
    assert isinstance(rl2ml.METHOD_VERSION, int)
