"""Which objective a trainer is given, and the sentences about its settings."""

import warnings
from pathlib import Path

import pytest

import rl2ml_core as rl2ml

pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")

module = pytest.importorskip("rl2ml_core.training.settings")
EstimatorWarning, Setting = module.EstimatorWarning, module.Setting
objective_of, warn_of = module.objective_of, module.warn_of

OBJECTIVE = rl2ml.Objective(0.6)


@pytest.fixture
def saved(tmp_path):
    OBJECTIVE.save(tmp_path / "objective.json")
    return tmp_path / "objective.json"


def test_an_objective_is_given_in_code_by_file_or_by_name(saved, monkeypatch):
    table = rl2ml.known_table("rloo", 8)
    assert objective_of(OBJECTIVE) is OBJECTIVE
    assert objective_of(table) is table
    assert objective_of("grpo") == "grpo"
    assert objective_of(saved) == objective_of(str(saved)) == OBJECTIVE
    monkeypatch.setenv("HOME", str(saved.parent))
    assert objective_of("~/objective.json") == OBJECTIVE


def test_a_file_may_be_named_like_a_trainer(saved, monkeypatch):
    saved.rename(saved.parent / "grpo")
    monkeypatch.chdir(saved.parent)
    assert objective_of("grpo") == "grpo"
    assert objective_of(Path("grpo")) == OBJECTIVE


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "objective must be an Objective or the path of its file; got none"),
        ("objectve.json", "one of reinforce, rloo, grpo, .*; got 'objectve.json': No such file or directory"),
        (".", "objective must be a file that .*; got '.': Is a directory"),
        (0.6, "objective must be an Objective, an AdvantageTable or the name of a known trainer; got float"),
        ({"gamma": 0.6}, "objective must be an Objective, .*; got dict"),
    ],
)
def test_anything_else_is_refused_with_what_would_do(given, message):
    with pytest.raises(rl2ml.InvalidInput, match=message) as caught:
        objective_of(given)
    assert caught.value.field == "objective"


def test_files_that_hold_no_objective_are_named(tmp_path):
    (tmp_path / "pilot.csv").write_text("a,b\n")
    with pytest.raises(
        rl2ml.InvalidInput, match=r"pilot\.csv is not JSON; expected a file that `Objective.save` wrote"
    ):
        objective_of(tmp_path / "pilot.csv")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(rl2ml.InvalidInput, match=r"other\.json: an objective needs a 'schema' field"):
        objective_of(tmp_path / "other.json")


def test_errors_carry_the_arguments_own_name():
    with pytest.raises(rl2ml.InvalidInput, match="rl2ml_objective must be") as caught:
        objective_of(None, "rl2ml_objective")
    assert caught.value.field == "rl2ml_objective"


def test_each_setting_is_a_warning_at_the_callers_line():
    settings = [Setting("a=1", "does this", "a=0"), Setting("b=2", "does that", "b=0")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of(settings, stacklevel=1)
    assert [str(each.message) for each in caught] == ["a=1 does this. Set a=0.", "b=2 does that. Set b=0."]
    assert {each.category for each in caught} == {EstimatorWarning}
    assert {Path(each.filename).name for each in caught} == {"test_settings.py"}
