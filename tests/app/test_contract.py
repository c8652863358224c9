"""The answer, field by field, and its agreement with the library."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from app.examples import REQUEST_EXAMPLES

PATH = "/v1/recommendations"

#: The fields of an answer; a nested dict where an object has fixed fields.
FIELDS = {
    "id": str,
    "method_version": int,
    "core_version": str,
    "summary": str,
    "gamma": float,
    "status": str,
    "regime": str,
    "interval": {"level": float, "lower": float, "upper": float},
    "sampling_interval": {"level": float, "lower": float, "upper": float},
    "near_optimal": {"loss": float, "lower": float, "upper": float},
    "probability_subcritical": float,
    "expected_regret": float,
    "predicted_gain_over": {"rl": float, "maxrl": float, "current": float},
    "gain_intervals": {name: {"level": float, "lower": float, "upper": float} for name in ("rl", "maxrl", "current")},
    "learning_rate": {
        "multiplier": float,
        "relative_to": str,
        "advantage_rms": float,
        "applies_to": str,
        "assumes": str,
    },
    "objective": {
        "schema": int,
        "gamma": float,
        "order": int,
        "num_rollouts": int,
        "baseline": str,
        "filter_groups": bool,
        "advantages": {"success": list, "failure": list},
        "update_scales": list,
        "prior": {"alpha": float, "beta": float},
        "score_model": {"kappa": float, "source": str},
        "population": {"cells": list},
    },
    "kappa_sensitivity": list,
    "prior_sensitivity": list,
    "curve": {"gamma": list, "relative_criterion": list, "lower": list, "upper": list},
    "certificate": {"degree": int, "tail": float, "stationary_points": list},
    "diagnostics": list,
    "assumptions": list,
    "groups": type(None),
    "plan": type(None),
}
GROUP = {
    "name": str,
    "num_prompts": float,
    "differs": bool,
    "difference": {"level": float, "lower": float, "upper": float},
    "loss_of_joint": float,
    **{name: FIELDS[name] for name in ("summary", "gamma", "status", "interval", "near_optimal", "objective")},
}


def check_fields(value: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, dict):
        assert value.keys() == expected.keys(), where
        for name, kind in expected.items():
            check_fields(value[name], kind, f"{where}/{name}")
    else:
        assert isinstance(value, (int, float) if expected is float else expected), where
        assert isinstance(value, bool) == (expected is bool), where


@pytest.fixture
def answer(client, conforms, question) -> dict[str, Any]:
    response = client.ask(question)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    return conforms(response)


def test_fields_are_those_promised(answer, client, conforms, question):
    check_fields(answer, FIELDS)
    question["pilot"]["cells"] = question["pilot"]["cells"][:2]
    answer = conforms(client.ask(question))
    expected = rl2ml.recommend(
        rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20)]), "pass@8", 4, criterion="rms_gain"
    ).diagnostics
    assert answer["diagnostics"] == [found.to_dict() for found in expected]
    assert {"small_pilot", "mostly_all_fail"} <= {found["code"] for found in answer["diagnostics"]}
    for found in answer["diagnostics"]:
        assert found.keys() == {"code", "level", "detail"}
    for row in answer["kappa_sensitivity"]:
        assert row.keys() == {"kappa", "gamma", "regret"}
    for row in answer["prior_sensitivity"]:
        assert row.keys() == {"name", "prior", "gamma", "regret", "gain_over_maxrl"}
        assert row["prior"].keys() == {"alpha", "beta"}


def test_documented_fields_are_those_promised(document):
    schemas = document["components"]["schemas"]

    def check(schema: dict[str, Any], expected: dict[str, Any]) -> None:
        optional = {"kappa_spread", "name"} if "kappa" in expected else set()
        assert set(schema["properties"]) - optional == set(expected)
        assert set(schema["required"]) >= set(expected) - {"kappa"}
        for name, kind in expected.items():
            if isinstance(kind, dict):
                options = schema["properties"][name].get("anyOf", [schema["properties"][name]])
                (reference,) = [option["$ref"] for option in options if "$ref" in option]
                check(schemas[reference.rpartition("/")[2]], kind)

    check(schemas["RecommendationAnswer"], FIELDS)
    check(schemas["GroupsAnswer"], {"summary": str, "differ": bool, "by_group": list})
    check(schemas["GroupAnswer"], GROUP)


def test_answer_is_the_librarys(answer):
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])
    expected = rl2ml.recommend(pilot, "pass@8", 4, criterion="rms_gain").to_dict()
    assert {name: value for name, value in answer.items() if name not in ("id", "groups", "plan")} == expected
    assert answer["groups"] is None


def test_values_agree_with_each_other(answer):
    objective = answer["objective"]
    assert objective["gamma"] == answer["gamma"] == pytest.approx(1.283269616, abs=1e-6)
    assert objective["order"] == objective["num_rollouts"] == 4
    assert answer["status"] == "interior"
    assert answer["regime"] == "supercritical"
    success, failure = objective["advantages"]["success"], objective["advantages"]["failure"]
    assert success[0] is None
    assert failure[4] is None
    assert all(a > 0 for a in success[1:])
    assert all(a < 0 for a in failure[:-1])
    assert len(success) == len(failure) == 5
    assert len(objective["update_scales"]) == 4
    assert objective["update_scales"][-1] == pytest.approx(1)
    assert objective["population"]["cells"] == [[8, 0, 30], [8, 2, 20], [8, 6, 14]]
    fitted = rl2ml.fit_prior(rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])).prior
    assert objective["prior"] == {"alpha": fitted.alpha, "beta": fitted.beta}
    assert objective["filter_groups"] is False
    assert objective["score_model"] == {"kappa": 0.1, "source": "default"}
    for interval in (answer["interval"], answer["sampling_interval"]):
        assert interval["level"] == 0.9
        assert 0 <= interval["lower"] < interval["upper"] <= 2
    near = answer["near_optimal"]
    assert near["loss"] == 0.01
    assert near["lower"] < answer["gamma"] < near["upper"]
    assert 0 <= answer["probability_subcritical"] <= 1
    assert 0 <= answer["expected_regret"] < 0.05
    gains = answer["predicted_gain_over"]
    assert gains["current"] > gains["rl"] > gains["maxrl"] > 0
    for interval in answer["gain_intervals"].values():
        assert interval["level"] == 0.9
        assert interval["lower"] < interval["upper"]
    assert f"γ = {answer['gamma']:.2f}" in answer["summary"]
    assert f"{gains['rl']:+.0%}".replace("%", " %") in answer["summary"]
    assert answer["learning_rate"]["relative_to"] == "grpo"
    # RLOO-like updates are longer than GRPO's, which divides by the standard deviation: the rate must fall.
    assert 0 < answer["learning_rate"]["multiplier"] < 1
    assert answer["gamma"] in [pytest.approx(point) for point in answer["certificate"]["stationary_points"]]
    curve = answer["curve"]
    assert len({len(side) for side in curve.values()}) == 1
    assert curve["gamma"] == sorted(curve["gamma"])
    assert (curve["gamma"][0], curve["gamma"][-1]) == (0, 2)
    assert 0.999 < max(curve["relative_criterion"]) <= 1 + 1e-12
    assert all(low <= high for low, high in zip(curve["lower"], curve["upper"], strict=True))
    assert [row["kappa"] for row in answer["kappa_sensitivity"]] == [0.01, 0.03, 0.1, 0.3, 1]
    assert answer["kappa_sensitivity"][2]["gamma"] == pytest.approx(answer["gamma"], abs=0.01)
    assert [row["name"] for row in answer["prior_sensitivity"]] == ["weaker", "stronger", "uniform"]
    assert answer["prior_sensitivity"][2]["prior"] == {"alpha": 1, "beta": 1}
    # Under Beta(1, 1) throughout it is 1.273; here the tables stay those of the fitted prior.
    assert answer["prior_sensitivity"][2]["gamma"] == pytest.approx(1.273, abs=0.05)
    assert answer["assumptions"] == [
        "pilot_policy_is_current",
        "binary_rewards",
        "judged_prompts_resemble_pilot",
        "default_kappa",
    ]


def test_objective_loads_in_the_library(answer):
    objective = rl2ml.Objective.from_dict(answer["objective"])
    assert objective.gamma == answer["gamma"]
    np.testing.assert_allclose(objective.table(4).success[1:], answer["objective"]["advantages"]["success"][1:])
    assert objective.table(7).num_rollouts == 7


def test_without_draws_there_are_no_intervals(client, conforms, question):
    answer = conforms(client.ask(question | {"uncertainty": {"bootstrap": 0}}))
    for name in ("interval", "sampling_interval", "probability_subcritical", "expected_regret"):
        assert answer[name] is None
    assert set(answer["gain_intervals"].values()) == {None}
    assert answer["curve"]["lower"] is answer["curve"]["upper"] is None
    assert answer["gamma"] == pytest.approx(1.283269616, abs=1e-6)


def test_draws_do_not_move_gamma_but_the_seed_moves_intervals(client, conforms, question):
    one, other = (
        conforms(client.ask(question | {"uncertainty": {"bootstrap": 50, "seed": seed, "level": 0.8}}))
        for seed in (1, 2)
    )
    assert one["gamma"] == other["gamma"]
    assert one["sampling_interval"] != other["sampling_interval"]
    assert one["interval"]["level"] == 0.8


def test_exact_rates_have_no_interval_and_say_so(client, conforms):
    answer = conforms(client.ask(REQUEST_EXAMPLES["exact_rates"]["value"]))
    assert answer["interval"] is answer["sampling_interval"] is answer["expected_regret"] is None
    assert "pass_rates_are_exact" in answer["assumptions"]
    assert answer["objective"]["prior"] is None


def test_options_reach_the_solve(client, conforms, question):
    plain = conforms(client.ask(question))
    changes = {
        "current": "rloo",
        "search": {"gamma_max": 1.2},
        "estimator": {"baseline": "leave_one_out"},
        "score_model": {"kappa": 0.3},
        "prior": {"name": "plug_in"},
        "uncertainty": {"bootstrap": 20},
        "sampled": {"temperature": 0.6, "policy": "sft-3", "step": 0},
        "training": {"temperature": 1},
    }
    for name, change in changes.items():
        answer = conforms(client.ask(question | {name: change}))
        assert answer["id"] != plain["id"], name
        if name != "training":  # which matters beside `sampled` alone
            assert {key for key in plain if answer[key] != plain[key]} > {"id"}, name
    assert conforms(client.ask(question | {"current": 1.0}))["learning_rate"]["relative_to"] == "gamma=1"
    bounded = conforms(client.ask(question | {"search": {"gamma_min": 0.25, "gamma_max": 1.0}}))
    assert bounded["status"] == "at_upper_bound"
    assert bounded["gamma"] == 1
    assert bounded["regime"] == "maxrl_boundary"
    assert bounded["probability_subcritical"] is None
    paper = conforms(client.ask(question | {"search": {"criterion": "paper"}}))
    assert {"paper_score_proxies", "default_variance_penalty"} <= set(paper["assumptions"])
    assert paper["objective"]["score_model"] == {"name": "paper", "source": "given"}
    assert paper["kappa_sensitivity"] == []
    assert paper["prior_sensitivity"]


#: Hard prompts and some easy ones: judged by pass@1, what is best for the next step is not best for a run.
APART = [(8, 0, 60), (8, 1, 20), (8, 2, 10), (8, 7, 5), (8, 8, 9)]


def cells_of(cells: list[tuple[int, int, int]]) -> dict[str, Any]:
    names = ("num_rollouts", "num_successes", "num_prompts")
    return {"cells": [dict(zip(names, cell, strict=True)) for cell in cells]}


def looking(pilot: dict[str, Any], **search: Any) -> dict[str, Any]:
    scores = {"score_model": {"kappa": 1}, "uncertainty": {"bootstrap": 20}}
    return {"pilot": pilot, "metric": "pass@1", "budget": {"num_rollouts": 16}, "search": search, **scores}


@pytest.mark.parametrize(
    "search",
    [
        {"criterion": "lookahead"},
        {"criterion": "lookahead", "judged_on": "training"},
        {"criterion": "rms_gain", "look_ahead": True},
    ],
    ids=lambda search: " ".join(search),
)
def test_the_lookahead_is_the_librarys(client, conforms, search):
    answer = conforms(client.ask(looking(cells_of(APART), **search)))
    pilot = rl2ml.PilotHistogram.from_cells(APART)
    expected = rl2ml.recommend(pilot, "pass@1", 16, score_model=rl2ml.ScoreModel(1), bootstrap=20, **search)
    assert answer == {"id": answer["id"], **expected.to_dict(), "groups": None, "plan": None}
    assert answer["interval"] is not None
    disagrees = "lookahead_disagrees" in {found["code"] for found in answer["diagnostics"]}
    assert disagrees is ("look_ahead" in search)


def test_groups_are_looked_ahead_together(client, conforms):
    pilot = {"groups": {"algebra": cells_of(APART[:3]), "geometry": cells_of(APART[1:])}}
    plain, opinion, ahead = (
        conforms(client.ask(looking(pilot, **search)))
        for search in ({"criterion": "rms_gain"}, {"criterion": "rms_gain", "look_ahead": True}, {})
    )
    assert [row for row in opinion["diagnostics"] if row["code"] != "lookahead_disagrees"] == plain["diagnostics"]
    assert len(opinion["diagnostics"]) == len(plain["diagnostics"]) + 1
    assert opinion["groups"] == plain["groups"]
    assert ahead["groups"]["by_group"][0]["gamma"] != plain["groups"]["by_group"][0]["gamma"]


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize("estimator", [{}, {"order": 2}, {"filter_groups": True}, {"order": 3, "filter_groups": True}])
def test_every_estimator_is_the_librarys(client, conforms, question, baseline, estimator):
    estimator = {"baseline": baseline} | estimator
    answer = conforms(client.ask(question | {"estimator": estimator, "uncertainty": {"bootstrap": 0}}))
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])
    expected = rl2ml.recommend(pilot, "pass@8", 4, criterion="rms_gain", bootstrap=0, **estimator).to_dict()
    assert answer["objective"] == expected["objective"]
    largest = 3 if estimator["baseline"] == "group_centered" else 4  # centering costs an order
    assert answer["objective"]["order"] == min(estimator.get("order", 4), largest)
    assert answer["objective"]["filter_groups"] is estimator.get("filter_groups", False)


def test_conditions_are_compared(client, conforms, question):
    def found(**conditions):
        diagnostics = conforms(client.ask(question | conditions))["diagnostics"]
        return [(row["code"], row["detail"]) for row in diagnostics if row["code"].startswith("metadata")]

    sampled = {"temperature": 0.6, "policy": "sft-3", "step": 0}
    ((code, detail),) = found()
    assert code == "metadata_missing"
    assert "temperature, policy and training step" in detail
    assert found(sampled=sampled, training=sampled) == []
    ((code, detail),) = found(sampled=sampled, training=sampled | {"temperature": 1})
    assert code == "metadata_mismatch"
    assert "temperature 0.6, training samples at 1" in detail
    ((_, detail),) = found(sampled=sampled, training={"policy": "ИИ <b>数学</b>"})
    assert "ИИ <b>数学</b>" in detail  # as it was sent: what shows it must escape it


@pytest.mark.parametrize("name", ["empirical_bayes", "plug_in"])
def test_priors_by_name(client, conforms, question, name):
    answer = conforms(client.ask(question | {"prior": {"name": name}}))
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])
    expected = rl2ml.recommend(pilot, "pass@8", 4, criterion="rms_gain", prior=name).to_dict()
    for field in ("gamma", "interval", "gain_intervals", "prior_sensitivity", "objective", "diagnostics"):
        assert answer[field] == expected[field], field
    assert (answer["objective"]["prior"] is None) == (name == "plug_in")


@pytest.mark.parametrize(
    ("pilot", "words"),
    [
        ([(8, 0, 64)], "no success at all"),
        ([(8, 8, 64)], "no failure at all"),
        ([(8, 7, 64), (8, 8, 64)], "saturated"),
    ],
)
def test_uninformative_pilot_is_an_answer(client, conforms, question, pilot, words):
    cells = [dict(zip(("num_rollouts", "num_successes", "num_prompts"), cell, strict=True)) for cell in pilot]
    response = client.ask(question | {"pilot": {"cells": cells}, "metric": "pass@1000"})
    assert response.status_code == 200
    answer = conforms(response)
    assert answer["status"] == "uninformative"
    assert words in answer["summary"]
    assert answer.keys() == FIELDS.keys()
    for name in ("gamma", "regime", "interval", "near_optimal", "objective", "learning_rate", "curve", "certificate"):
        assert answer[name] is None
    assert answer["predicted_gain_over"] == {"rl": None, "maxrl": None, "current": None}
    assert answer["gain_intervals"] == {"rl": None, "maxrl": None, "current": None}
    assert answer["prior_sensitivity"] == answer["kappa_sensitivity"] == []
    assert answer["diagnostics"][-1]["level"] == "error"
    assert client.get(f"{PATH}/{answer['id']}").status_code == 200


def test_flat_pilot_is_an_answer(client, conforms, question):
    answer = conforms(client.ask(question | {"budget": {"num_rollouts": 1}}))
    assert answer["status"] == "flat"
    assert answer["predicted_gain_over"]["current"] is None, "one rollout gives GRPO no gradient"
    assert answer["learning_rate"]["multiplier"] is None
    # Where nearly every group fails, K is 0 or 1: one update scale, and so one direction for every γ.
    question["pilot"] = {"cells": [{"num_rollouts": 1000, "num_successes": k, "num_prompts": 50} for k in (1, 2)]}
    flat = conforms(client.ask(question))
    assert flat["status"] == "flat"
    assert flat["gamma"] is not None


def test_prior_dominated_pilot_is_an_answer(client, conforms, question):
    question["pilot"] = {"num_rollouts": 8, "num_successes": [0, 0, 0, 3]}
    assert conforms(client.ask(question))["status"] == "prior_dominated"


# --- any valid request ------------------------------------------------------------------------------------------------


#: Small enough to solve in milliseconds; edges of the schema included.
SIZES = st.sampled_from([1, 2, 3, 5, 8, 16, 100, 10_000_000])


@st.composite
def cells(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(SIZES)
    weights = st.one_of(st.integers(0, 40), st.floats(0, 1e12))
    return {"num_rollouts": n, "num_successes": draw(st.integers(0, n)), "num_prompts": draw(weights)}


@st.composite
def counts(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(st.sampled_from([1, 4, 8, 64]))
    successes = draw(st.lists(st.integers(0, n), min_size=1, max_size=20))
    return {"num_rollouts": draw(st.sampled_from([n, [n] * len(successes)])), "num_successes": successes}


HISTOGRAMS = st.fixed_dictionaries({"cells": st.lists(cells(), min_size=1, max_size=8)})
PILOTS = st.one_of(
    HISTOGRAMS,
    st.fixed_dictionaries({"groups": st.dictionaries(st.text("aZ NaN数<", min_size=1), HISTOGRAMS, max_size=3)}),
    counts(),
    st.fixed_dictionaries({"pass_rates": st.lists(st.floats(0, 1), min_size=1, max_size=8)}),
    st.fixed_dictionaries(
        {"pass_rates": st.lists(st.integers(0, 8).map(lambda k: k / 8), min_size=1), "num_rollouts": st.just(8)}
    ),
)
PASS_AT_K = st.fixed_dictionaries({"name": st.just("pass_at_k"), "k": st.sampled_from([1, 2, 8, 1000, 1_000_000])})
LOG_SUCCESS = st.fixed_dictionaries({"name": st.just("log_success"), "tau": st.floats(1e-9, 1e3)})
SIMPLE = st.one_of(PASS_AT_K, LOG_SUCCESS)
METRICS = st.one_of(
    SIMPLE,
    st.sampled_from(["pass@4", "log:0.1", "0.25*pass@1+2*log:1e-3"]),
    st.fixed_dictionaries(
        {
            "name": st.just("mixture"),
            "parts": st.lists(
                st.fixed_dictionaries({"weight": st.floats(0, 1e12), "metric": SIMPLE}), min_size=1, max_size=4
            ),
        }
    ),
)


SHAPES = st.floats(1e-9, 1e8)
CONDITIONS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {},
        optional={
            "temperature": st.none() | st.floats(0, 1e6),
            "policy": st.none() | st.text(min_size=1, max_size=20),
            "step": st.none() | st.integers(0, 2**53),
        },
    ),
)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """A request of the schema; now and then one that only the mathematics refuses."""
    n = draw(st.sampled_from([1, 2, 3, 4, 8, 33]))
    values = st.one_of(st.none(), st.floats(-1e100, 1e100))
    sides = st.lists(values, min_size=n + 1, max_size=n + 1)
    optional = {
        "current": st.one_of(
            st.sampled_from(list(rl2ml.KNOWN_TRAINERS)),
            st.floats(0, 20),
            st.fixed_dictionaries(
                {"success": sides.map(lambda x: [None, *x[1:]]), "failure": sides.map(lambda x: [*x[:-1], None])}
            ),
        ),
        "search": st.fixed_dictionaries(
            {},
            optional={
                "gamma_min": st.one_of(st.just(0.0), st.floats(0, 4)),
                "gamma_max": st.one_of(st.just(2), st.floats(0, 20)),
                "criterion": st.sampled_from(["rms_gain", "paper", "lookahead"]),
                "variance_penalty": st.one_of(st.none(), st.floats(0, 1e6)),
                "judged_on": st.sampled_from(["either", "training", "held_out"]),
                "look_ahead": st.booleans(),
            },
        ),
        "estimator": st.fixed_dictionaries(
            {},
            optional={
                "baseline": st.sampled_from(list(rl2ml.BASELINES)),
                "order": st.none() | st.integers(1, 40),
                "filter_groups": st.booleans(),
            },
        ),
        "score_model": st.one_of(
            st.none(),
            st.fixed_dictionaries(
                {"kappa": st.floats(1e-9, 1)}, optional={"kappa_spread": st.none() | st.floats(0, 10)}
            ),
        ),
        "prior": st.one_of(
            st.sampled_from([{"name": "empirical_bayes"}, {"name": "plug_in"}]),
            st.fixed_dictionaries({"alpha": SHAPES, "beta": SHAPES}, optional={"name": st.just("beta")}),
        ),
        "uncertainty": st.fixed_dictionaries(
            {"bootstrap": st.integers(0, 20)},
            optional={"seed": st.integers(0, 2**63 - 1), "level": st.floats(0.5, 0.999)},
        ),
        "sampled": CONDITIONS,
        "training": CONDITIONS,
    }
    required = {"pilot": PILOTS, "metric": METRICS, "budget": st.just({"num_rollouts": n})}
    return draw(st.fixed_dictionaries(required, optional=optional))


@given(request_=requests())
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example],
)
def test_any_valid_request_is_answered(client, conforms, refused, request_):
    response = client.ask(request_)
    if response.status_code == 422:
        assert refused(response, "invalid-request", "limit-exceeded")["errors"][0]["pointer"] != "#"
        return
    assert response.status_code == 200, (request_, response.text)
    answer = conforms(response)  # and so no NaN or Infinity
    if answer["gamma"] is not None:
        search = request_.get("search", {})
        assert search.get("gamma_min", 0) <= answer["gamma"] <= search.get("gamma_max", 2)
        assert all(math.isfinite(x) for x in answer["objective"]["update_scales"])
        rl2ml.Objective.from_dict(answer["objective"])
    groups = request_["pilot"].get("groups")
    assert (answer["groups"] is None) == (groups is None)
    if groups is not None:
        assert [group["name"] for group in answer["groups"]["by_group"]] == sorted(groups)
