"""Objectives as files: what is saved is what is loaded, for every baseline and population; anything else is refused."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml

CELLS = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (16, 15, 14.5)])
POPULATIONS = {
    "none": None,
    "pilot": CELLS,
    "posteriors": CELLS.population(rl2ml.BetaPrior(0.5, 2.25)),
    "plug-in points": CELLS.population("plug_in"),
    "posterior means": CELLS.population(rl2ml.BetaPrior(1, 1)).at_means(),
    "known rates": rl2ml.Population.from_pass_rates([0.1, 1 / 3, 0.0, 1.0], [1, 2.5, 1, 1]),
}


def strict_json(text: str):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def assert_same(left: rl2ml.Objective, right: rl2ml.Objective) -> None:
    for name in ("gamma", "baseline", "order", "num_rollouts", "score_model", "filter_groups"):
        assert getattr(left, name) == getattr(right, name)
    assert (left.population is None) == (right.population is None)
    if left.population is not None:
        assert left.population.prior == right.population.prior
        for name in ("pass_rates", "weights"):
            found, expected = getattr(right.population, name), getattr(left.population, name)
            np.testing.assert_allclose(found, expected, rtol=1e-15)
    for n in (1, 2, 5, 16):
        found, expected = right.table(n), left.table(n)
        np.testing.assert_allclose(found.success, expected.success, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(found.failure, expected.failure, rtol=1e-13, atol=1e-15)


ESTIMATORS = [
    (baseline, population)
    for baseline in rl2ml.BASELINES
    for population in POPULATIONS
    if population != "none" or baseline not in ("bayes", "minimum_variance")
]


@pytest.mark.parametrize(("baseline", "population"), ESTIMATORS)
@pytest.mark.parametrize(("order", "num_rollouts"), [(None, None), (4, 4), (3, 8), (None, 8), (5, None), (None, 1)])
@pytest.mark.parametrize("filter_groups", [False, True])
def test_what_is_saved_is_what_is_loaded(population, baseline, order, num_rollouts, filter_groups, tmp_path):
    objective = rl2ml.Objective(
        1.1645,
        baseline,
        POPULATIONS[population],
        rl2ml.ScoreModel(0.2, 0.5),
        order,
        num_rollouts,
        filter_groups=filter_groups,
    )
    path = tmp_path / "objective.json"
    objective.save(path)
    loaded = rl2ml.Objective.load(path)
    assert_same(objective, loaded)
    loaded.save(tmp_path / "again.json")
    assert strict_json((tmp_path / "again.json").read_text("utf-8")) == strict_json(path.read_text("utf-8"))


@pytest.mark.parametrize(
    "score_model",
    [None, rl2ml.ScoreModel(0.03), rl2ml.ScoreModel(0.03, 0.4), rl2ml.ScoreModel(0.1, 0), rl2ml.ScoreModel.paper()],
)
@pytest.mark.parametrize("baseline", ["bayes", "minimum_variance"])
@pytest.mark.parametrize("population", [name for name in POPULATIONS if name != "none"])
def test_the_score_model_survives(score_model, baseline, population, tmp_path):
    people = POPULATIONS[population]
    objective = rl2ml.Objective(0.5, baseline, people, score_model, num_rollouts=8)
    objective.save(tmp_path / "o.json")
    loaded = rl2ml.Objective.load(str(tmp_path / "o.json"))
    assert loaded.score_model == score_model
    assert_same(objective, loaded)
    assert objective.table(8) == rl2ml.rl2ml_table(0.5, 8, baseline, people, score_model)


def test_tables_of_least_variance_are_those_of_their_score_model(tmp_path):
    models = [None, rl2ml.ScoreModel(0.7), rl2ml.ScoreModel.paper()]
    tables = [rl2ml.Objective(0.5, "minimum_variance", CELLS, model).table(8) for model in models]
    for i, table in enumerate(tables):
        assert all(table != other for other in tables[:i])
    content = rl2ml.Objective(0.5, "minimum_variance", CELLS, num_rollouts=8).to_dict()
    for model in ({"kappa": 0.7, "source": "given"}, {"name": "paper", "source": "given"}):
        with pytest.raises(rl2ml.InvalidInput, match="not those of its γ and baseline"):
            rl2ml.Objective.from_dict({**content, "score_model": model})


def test_the_default_score_model_is_no_score_model():
    assert rl2ml.Objective(0.5, score_model=rl2ml.ScoreModel()) == rl2ml.Objective(0.5)
    assert rl2ml.Objective(0.5).to_dict()["score_model"] == {"kappa": 0.1, "source": "default"}
    assert rl2ml.Objective(0.5, score_model=rl2ml.ScoreModel(0.1, 0)).to_dict()["score_model"]["source"] == "given"


@settings(max_examples=50, deadline=None)
@given(
    gamma=st.floats(0, 20),
    rates=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    weight=st.floats(1e-6, 1e6),
    num_rollouts=st.integers(1, 20),
)
def test_any_known_rates_survive_the_dictionary(gamma, rates, weight, num_rollouts):
    people = rl2ml.Population.from_pass_rates(rates, [weight] * len(rates))
    objective = rl2ml.Objective(gamma, None, people, num_rollouts=num_rollouts)
    again = rl2ml.Objective.from_dict(strict_json(json.dumps(objective.to_dict(), allow_nan=False)))
    assert_same(objective, again)
    np.testing.assert_array_equal(again.population.pass_rates, objective.population.pass_rates)


@settings(max_examples=40, deadline=None)
@given(
    gamma=st.floats(0, 20),
    cells=st.lists(
        st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, 10**6))),
        min_size=1,
        max_size=4,
    ),
    alpha=st.floats(0.01, 100),
    beta=st.floats(0.01, 100),
    baseline=st.sampled_from(["bayes", "minimum_variance"]),
    kappa=st.floats(1e-9, 1),
    filter_groups=st.booleans(),
)
def test_any_pilot_survives_the_dictionary(gamma, cells, alpha, beta, baseline, kappa, filter_groups):
    people = rl2ml.PilotHistogram.from_cells(cells).population(rl2ml.BetaPrior(alpha, beta))
    model = rl2ml.ScoreModel(kappa)
    objective = rl2ml.Objective(gamma, baseline, people, model, num_rollouts=6, filter_groups=filter_groups)
    again = rl2ml.Objective.from_dict(json.loads(json.dumps(objective.to_dict())))
    assert again.table(6) == objective.table(6)
    for name in ("successes", "failures", "weights"):
        np.testing.assert_array_equal(getattr(again.population, name), getattr(objective.population, name))


def test_the_file_is_strict_json_with_one_line_per_field(tmp_path):
    path = tmp_path / "objective.json"
    objective = rl2ml.Objective(1.5, population=CELLS, order=4, num_rollouts=4)
    objective.save(path)
    text = path.read_text(encoding="utf-8")
    content = strict_json(text)
    assert text.count("\n") == len(content) + 2
    assert content["schema"] == 1
    assert (content["gamma"], content["order"], content["num_rollouts"], content["baseline"]) == (1.5, 4, 4, "bayes")
    assert list(content)[4:6] == ["baseline", "filter_groups"]
    assert content["filter_groups"] is False
    # No such rollout: a success among none, a failure among N.
    assert content["advantages"]["success"][0] is None
    assert content["advantages"]["failure"][4] is None
    table = rl2ml.rl2ml_table(1.5, 4, "bayes", CELLS, order=4)
    assert content["advantages"]["success"][1:] == table.success[1:].tolist()
    assert content["advantages"]["failure"][:-1] == table.failure[:-1].tolist()
    np.testing.assert_allclose(content["update_scales"], rl2ml.update_scales(1.5, 4), rtol=1e-15)
    fitted = CELLS.fitted_prior.prior
    assert content["prior"] == {"alpha": fitted.alpha, "beta": fitted.beta}
    assert content["score_model"] == {"kappa": 0.1, "source": "default"}
    assert content["population"] == {"cells": [[8, 0, 30], [8, 2, 20], [16, 15, 14.5]]}


def test_without_a_group_size_no_table_is_written():
    content = rl2ml.Objective(0.5).to_dict()
    assert "advantages" not in content
    assert content["num_rollouts"] is None
    assert rl2ml.Objective(0.5).to_dict(3)["advantages"]["success"] == [
        None,
        *rl2ml.rl2ml_table(0.5, 3).success[1:].tolist(),
    ]


# --- the table of any group ------------------------------------------------------------------------------------------


def assert_optimizes(objective: rl2ml.Objective, num_rollouts: int, order: int) -> None:
    """A group's table and update scales are those of J_{γ,order}; of nothing, at order 0."""
    p, table = np.array([0, 0.01, 0.4, 1]), objective.table(num_rollouts)
    found, scales = table.weight(p), objective.update_scales(num_rollouts)
    assert scales.shape == (num_rollouts,)
    if order:
        np.testing.assert_allclose(found, rl2ml.objective_weight(p, objective.gamma, order), rtol=1e-12)
        np.testing.assert_array_equal(scales, rl2ml.update_scales(objective.gamma, num_rollouts, order))
    else:
        np.testing.assert_array_equal(found, 0)
        np.testing.assert_array_equal(scales, 0)
    np.testing.assert_allclose(table.update_scales(), scales, rtol=1e-12)


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize("filter_groups", [False, True])
def test_without_an_order_every_group_has_the_objective_of_its_own_size(baseline, filter_groups):
    objective = rl2ml.Objective(1.3, baseline, CELLS, filter_groups=filter_groups)
    for n in (1, 2, 7, 33):
        assert objective.table(n) == rl2ml.rl2ml_table(1.3, n, baseline, CELLS, filter_groups=filter_groups)
        # Centering on the group's own mean costs one order, and a group of one is nothing but its own mean.
        dropped = n == 1 and filter_groups
        assert_optimizes(objective, n, 0 if dropped else n - (baseline == "group_centered"))


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize("filter_groups", [False, True])
def test_with_an_order_larger_groups_keep_the_objective_and_smaller_ones_use_their_size(baseline, filter_groups):
    objective = rl2ml.Objective(1.3, baseline, CELLS, order=4, filter_groups=filter_groups)
    for n in (1, 3, 4, 5, 32):
        dropped = n == 1 and filter_groups
        assert_optimizes(objective, n, 0 if dropped else min(4, n - (baseline == "group_centered")))


@pytest.mark.parametrize("wrong", [0, 2.0, True, 65_537])
def test_update_scales_of_no_group_are_refused(wrong):
    for baseline in ("score", "group_centered"):
        with pytest.raises(rl2ml.InvalidInput, match="num_rollouts must be an integer from 1 to 65536"):
            rl2ml.Objective(1.3, baseline).update_scales(wrong)


def test_tables_are_kept():
    objective = rl2ml.Objective(1.3, population=CELLS)
    assert objective.table(8) is objective.table(8)


@pytest.mark.parametrize(("kept", "wrong"), [(8, 8.0), (1, True), (8, [8]), (8, "8"), (8, 0), (8, None)])
def test_a_kept_table_does_not_excuse_a_wrong_number(kept, wrong):
    objective = rl2ml.Objective(1.3, "score")
    objective.table(kept)
    with pytest.raises(rl2ml.InvalidInput, match="num_rollouts must be an integer from 1 to 65536; got"):
        objective.table(wrong)


def test_objectives_are_immutable_and_travel_between_processes():
    objective = rl2ml.Objective(1.3, population=CELLS, num_rollouts=8)
    assert objective.baseline == "bayes"
    assert isinstance(objective.population, rl2ml.Population)
    assert rl2ml.Objective(1.3).baseline == "leave_one_out"
    with pytest.raises(dataclasses.FrozenInstanceError):
        objective.gamma = 2
    for twin in (pickle.loads(pickle.dumps(objective)), copy.deepcopy(objective)):
        assert_same(objective, twin)
    assert rl2ml.Objective(1, "score", order=4) == rl2ml.Objective(1.0, "score", order=4)
    assert rl2ml.Objective(1, "score", order=4) != rl2ml.Objective(1.0, "score", order=5)
    assert rl2ml.Objective(1, "score") != rl2ml.Objective(1, "score", filter_groups=True)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"gamma": -0.1}, "gamma"),
        ({"gamma": 20.5}, "gamma"),
        ({"gamma": float("nan")}, "gamma"),
        ({"gamma": True}, "gamma"),
        ({"gamma": "1"}, "gamma"),
        ({"gamma": None}, "gamma"),
        ({"baseline": "rloo"}, "baseline"),
        ({"baseline": "bayes"}, "baseline"),
        ({"order": 0}, "order"),
        ({"order": 2.0}, "order"),
        ({"num_rollouts": 65_537}, "num_rollouts"),
        ({"num_rollouts": False}, "num_rollouts"),
        ({"baseline": "minimum_variance"}, "baseline"),
        ({"score_model": rl2ml.MeasuredScores(1.0, 1.0, 1.0)}, "score_model"),
        ({"score_model": 0.1}, "score_model"),
        ({"filter_groups": 1}, "filter_groups"),
        ({"filter_groups": "no"}, "filter_groups"),
        ({"filter_groups": None}, "filter_groups"),
    ],
)
def test_impossible_objectives_are_refused(arguments, field):
    with pytest.raises(rl2ml.InvalidInput, match=f"{field} ") as refused:
        rl2ml.Objective(**{"gamma": 1, **arguments})
    assert refused.value.field == field


# --- files that are no objectives ------------------------------------------------------------------------------------


@pytest.fixture
def content():
    return rl2ml.Objective(1.5, population=CELLS, order=4, num_rollouts=4).to_dict()


@pytest.mark.parametrize("schema", [0, 2, "1", None, [1]])
def test_other_schema_versions_are_refused(content, schema):
    content["schema"] = schema
    with pytest.raises(rl2ml.InvalidInput, match="this version reads objectives of schema 1; got"):
        rl2ml.Objective.from_dict(content)


@pytest.mark.parametrize("wrong", [{}, {"gamma": 1}, [], [1], "text", 3, None, True])
def test_other_json_is_refused(wrong, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(wrong))
    with pytest.raises(rl2ml.InvalidInput, match="needs a 'schema' field; is this a file") as refused:
        rl2ml.Objective.load(path)
    assert str(refused.value).startswith(str(path))


@pytest.mark.parametrize("side", ["success", "failure"])
@pytest.mark.parametrize("change", [1e-6, -0.5, float("nan")])
def test_tampered_advantages_are_refused(content, side, change):
    content["advantages"][side][2] += change
    with pytest.raises(rl2ml.InvalidInput, match="not those of its γ and baseline"):
        rl2ml.Objective.from_dict(content)


def test_advantages_of_another_gamma_baseline_or_pilot_are_refused(content):
    changes = [
        ("gamma", 1.4),
        ("baseline", "score"),
        ("order", 3),
        ("filter_groups", True),
        ("prior", {"alpha": 1, "beta": 3}),
        ("population", {"cells": [[8, 0, 30]]}),
        ("num_rollouts", 5),
        ("num_rollouts", None),
    ]
    for key, value in changes:
        with pytest.raises(rl2ml.InvalidInput):
            rl2ml.Objective.from_dict({**content, key: value})


def test_advantages_of_the_wrong_length_are_refused(content):
    for side in ("success", "failure"):
        shorter = copy.deepcopy(content)
        del shorter["advantages"][side][2]
        with pytest.raises(rl2ml.InvalidInput, match="not those of its γ"):
            rl2ml.Objective.from_dict(shorter)


@pytest.mark.parametrize("key", ["gamma", "baseline"])
def test_missing_fields_are_refused(content, key):
    del content[key]
    with pytest.raises(rl2ml.InvalidInput, match=f"incomplete or malformed: .*{key}"):
        rl2ml.Objective.from_dict(content)


def test_derived_fields_may_be_missing(content):
    full = rl2ml.Objective.from_dict(content)
    for key in ("advantages", "update_scales", "score_model", "filter_groups"):
        del content[key]
    assert rl2ml.Objective.from_dict(content).table(7) == full.table(7)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("advantages", {"success": [None, 1.0]}),
        ("advantages", "none"),
        ("advantages", {"success": 3, "failure": 4}),
        ("advantages", {"success": [], "failure": []}),
        ("advantages", {"success": [None, "a", 1, 1, 1], "failure": [0, 0, 0, 0, None]}),
        ("advantages", {"success": [None, None, 1, 1, 1], "failure": [0, 0, 0, 0, None]}),
        ("advantages", {"success": [None, [1], 1, 1, 1], "failure": [0, 0, 0, 0, None]}),
        ("population", {}),
        ("population", []),
        ("population", {"cells": None}),
        ("population", {"cells": []}),
        ("population", {"cells": [[8, 0]]}),
        ("population", {"cells": [[8, 0, 1], [8, 1]]}),
        ("population", {"cells": [[8, 0, 1, 2]]}),
        ("population", {"cells": [[8, "x", 1]]}),
        ("population", {"cells": [[8, None, 1]]}),
        ("population", {"cells": [[8, 9, 1]]}),
        ("population", {"cells": [[8, 1, -1]]}),
        ("population", {"cells": [8, 0, 1]}),
        ("population", {"cells": 3}),
        ("prior", {"alpha": 1}),
        ("prior", [1, 1]),
        ("prior", {"alpha": 0, "beta": 1}),
        ("score_model", {}),
        ("score_model", "paper"),
        ("score_model", {"kappa": 2}),
        ("order", 1.5),
        ("filter_groups", "false"),
        ("filter_groups", None),
        ("num_rollouts", "4"),
        ("gamma", "1.5"),
        ("baseline", ["bayes"]),
    ],
)
def test_malformed_fields_are_refused(content, key, value):
    content[key] = value
    with pytest.raises(rl2ml.InvalidInput):
        rl2ml.Objective.from_dict(content)


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"schema": 1,}', "schema: 1", "\x00", '{"schema": 1} extra', "[" * 100_000],
    ids=["empty", "open", "comma", "yaml", "null byte", "trailing", "deep"],
)
def test_text_that_is_no_json_is_refused(text, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(
        rl2ml.InvalidInput, match=r"is not JSON; expected a file that `Objective\.save` wrote"
    ) as refused:
        rl2ml.Objective.load(path)
    assert str(refused.value).startswith(str(path))


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "binary.json"
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(rl2ml.InvalidInput, match="is not JSON"):
        rl2ml.Objective.load(path)


def test_a_missing_file_is_the_callers_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        rl2ml.Objective.load(tmp_path / "absent.json")
