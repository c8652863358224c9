"""`POST /v1/plans`, and `budget.rollouts_per_step` of recommendations."""

import json
from typing import Any

import pytest

import rl2ml_core as rl2ml
from app.examples import PLAN_EXAMPLES
from app.planning import Planning
from app.schemas.plans import PlanRequest
from app.settings import Settings

PLANS = "/v1/plans"
CELLS = [(8, 0, 30), (8, 2, 20), (8, 6, 14)]
BODY: dict[str, Any] = PLAN_EXAMPLES["budget"]["value"]


@pytest.mark.parametrize("name", PLAN_EXAMPLES)
def test_examples_get_documented_answers(name, client, conforms):
    conforms(client.ask(PLAN_EXAMPLES[name]["value"], path=PLANS))


def test_a_plan_is_the_librarys(client):
    answer = client.ask(BODY, path=PLANS).json()
    pilot = rl2ml.PilotHistogram.from_cells(CELLS)
    expected = json.loads(json.dumps(rl2ml.plan_budget(pilot, "pass@8", 512).to_dict()))
    assert {name: answer[name] for name in expected} == expected
    recommended = rl2ml.recommend(pilot, "pass@8", answer["best"]["num_rollouts"], bootstrap=0)
    assert answer["recommendation"]["gamma"] == recommended.gamma
    assert answer["pilot"] is None


def test_a_pilot_target_says_whether_the_pilot_is_enough(client):
    answer = client.ask(BODY | {"pilot_target": 1e-5}, path=PLANS).json()
    assert answer["pilot"]["status"] == "out_of_reach"
    assert answer["pilot"]["floor"] > 1e-5


def test_impossible_demands_are_answers(client, conforms):
    body = BODY | {"budget": {"rollouts_per_step": 3, "choices": [8, 16]}}
    answer = conforms(client.ask(body, path=PLANS))
    assert answer["status"] == "infeasible"
    assert "rollouts_per_step to 8" in answer["summary"]
    assert answer["best"] is answer["recommendation"] is None


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"budget": {"rollouts_per_step": 0}}, "#/budget/rollouts_per_step"),
        ({"budget": {}}, "#/budget/rollouts_per_step"),
        ({"budget": {"rollouts_per_step": 8, "choices": []}}, "#/budget/choices"),
        ({"budget": {"rollouts_per_step": 8, "choices": [257]}}, "#/budget/choices/0"),
        ({"cosine": 1.5}, "#/cosine"),
        ({"cosine": 0.1, "search": {"judged_on": "training"}}, "#/search/judged_on"),
        ({"search": {"gamma_min": 2.0, "gamma_max": 1.0}}, "#/search/gamma_min"),
        ({"demands": {}}, "#/demands"),
        ({"pilot_target": 0}, "#/pilot_target"),
    ],
)
def test_wrong_values_are_named_by_pointer(client, change, pointer):
    response = client.ask(BODY | change, path=PLANS)
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


def test_larger_plans_are_predicted_to_take_longer():
    def milliseconds(**changes: Any) -> float:
        request = PlanRequest.model_validate_json(json.dumps(BODY | changes))
        return Planning.of(request, Settings()).milliseconds

    choices = [{"rollouts_per_step": 512, "choices": list(range(1, n))} for n in (3, 17, 65, 257)]
    predicted = [milliseconds(budget=budget) for budget in choices]
    assert predicted == sorted(set(predicted))
    assert milliseconds() < milliseconds(pilot_target=0.01)
    assert milliseconds(uncertainty={"bootstrap": 0}) < milliseconds()


def test_recommendations_take_a_budget_of_rollouts_per_step(client, conforms, question):
    alone = client.ask(question).json()
    question["budget"] = {"rollouts_per_step": 512}
    answer = conforms(client.ask(question))
    pilot = rl2ml.PilotHistogram.from_cells(CELLS)
    plan = rl2ml.plan_budget(pilot, "pass@8", 512, bootstrap=0)
    split = answer["plan"]
    assert split["num_rollouts"] == split["best_num_rollouts"] == plan.num_rollouts
    assert split["summary"] == plan.summary
    assert split["loss"] == 0
    expected = rl2ml.recommend(pilot, "pass@8", plan.num_rollouts, criterion="rms_gain")
    assert answer["gamma"] == expected.gamma
    assert answer["id"] != alone["id"]
    question["budget"] = {"rollouts_per_step": 512, "num_rollouts": 4}
    both = conforms(client.ask(question))
    assert both["gamma"] == alone["gamma"]
    assert both["plan"]["loss"] == plan.loss_of(4)
    assert len({alone["id"], answer["id"], both["id"]}) == 3


def test_groups_share_a_split(client, conforms, question):
    cells = question["pilot"]["cells"]
    question |= {
        "pilot": {"groups": {"algebra": {"cells": cells[:2]}, "geometry": {"cells": cells[1:]}}},
        "budget": {"rollouts_per_step": 96},
        "uncertainty": {"bootstrap": 0},
    }
    answer = conforms(client.ask(question))
    n = answer["plan"]["num_rollouts"]
    assert {group["objective"]["num_rollouts"] for group in answer["groups"]["by_group"]} == {n}


def test_settings_bound_what_may_be_planned(client_with, question):
    client = client_with(max_num_rollouts=4)
    assert max(row["num_rollouts"] for row in client.ask(BODY, path=PLANS).json()["frontier"]) == 4
    refused = client.ask(BODY | {"budget": {"rollouts_per_step": 8, "choices": [5]}}, path=PLANS)
    assert refused.json()["errors"][0]["pointer"] == "#/budget/choices"
    question["budget"] = {"rollouts_per_step": 512}
    assert client.ask(question).json()["plan"]["num_rollouts"] <= 4


def test_a_number_beyond_plans_is_answered_without_a_loss(client, question):
    question["budget"] = {"rollouts_per_step": 4096, "num_rollouts": 300}
    split = client.ask(question).json()["plan"]
    assert split["num_rollouts"] == 300
    assert split["loss"] is None


def test_a_pilot_that_tells_nothing_gets_no_split(client, conforms, question):
    question |= {"pilot": {"num_rollouts": 4, "num_successes": [0, 0, 0]}, "budget": {"rollouts_per_step": 512}}
    answer = conforms(client.ask(question))
    assert answer["status"] == "uninformative"
    assert answer["plan"]["loss"] is None
    assert answer["plan"]["prompts_per_step"] is None
