"""`/v1/estimators`: the catalog, and analyses that are the library's."""

import asyncio
import json
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from app.analyzing import Inquiry
from app.examples import ANALYSIS_EXAMPLES
from app.pool import Pool
from app.problems import Problem
from app.schemas.estimators import AnalysisRequest
from app.settings import Settings

CATALOG = "/v1/estimators"
ANALYSES = "/v1/estimators/analyses"
CELLS = [(8, 0, 30), (8, 2, 20), (8, 6, 14)]
PILOT = {
    "cells": [dict(zip(("num_rollouts", "num_successes", "num_prompts"), row, strict=True)) for row in CELLS],
}
HISTOGRAM = rl2ml.PilotHistogram.from_cells(CELLS)
TABLE = {"success": [None, 0.5, 0.0], "failure": [0.0, -0.5, None]}
MARKS = ("sEcReT", "7f3a")
MARKER = "<b>sEcReT-7f3a</b>"


# --- the catalog ------------------------------------------------------------------------------------------------------


def test_catalog_is_the_librarys(client, conforms):
    content = conforms(client.get(CATALOG))
    assert [trainer["name"] for trainer in content["trainers"]] == list(rl2ml.KNOWN_TRAINERS)
    for trainer in content["trainers"]:
        known = rl2ml.KNOWN_TRAINERS[trainer["name"]]
        for field in ("label", "title", "source", "least_rollouts", "drops_equal_groups", "note"):
            assert trainer[field] == getattr(known, field)
        assert [row["name"] for row in trainer["parameters"]] == list(known.parameters)
        for row in trainer["parameters"]:
            assert row["default"] == known.parameters[row["name"]].default
            assert row["meaning"] == known.parameters[row["name"]].meaning
    assert {row["name"]: row["description"] for row in content["baselines"]} == rl2ml.BASELINES


def test_catalog_may_be_kept(client):
    got = client.get(CATALOG)
    assert got.headers["cache-control"] == "public, max-age=3600"
    again = client.get(CATALOG, **{"If-None-Match": got.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == got.headers["etag"]
    assert again.headers["cache-control"] == got.headers["cache-control"]
    assert client.get(CATALOG, **{"If-None-Match": '"other"'}).content == got.content


@pytest.mark.parametrize(("method", "path"), [("POST", CATALOG), ("GET", ANALYSES), ("DELETE", ANALYSES)])
def test_no_such_method(client, refused, method, path):
    refused(client.request(method, path), "method-not-allowed")


def test_every_trainer_of_the_catalog_can_be_analyzed(client, conforms):
    for trainer in client.get(CATALOG).json()["trainers"]:
        named = conforms(client.analyze({"estimator": trainer["name"], "num_rollouts": 8}))
        defaults = {row["name"]: row["default"] for row in trainer["parameters"] if row["default"] is not None}
        spelled = {"name": trainer["name"], "parameters": defaults}
        assert conforms(client.analyze({"estimator": spelled, "num_rollouts": 8})) == named
        assert named["label"] == trainer["label"]


# --- analyses ---------------------------------------------------------------------------------------------------------


def analyzed(*arguments: Any, **parameters: Any) -> dict[str, Any]:
    versions = {"method_version": rl2ml.METHOD_VERSION, "core_version": rl2ml.__version__}
    return versions | rl2ml.analyze(*arguments, **parameters).to_dict()


FITTED = HISTOGRAM.population("empirical_bayes")
BETA = HISTOGRAM.population(rl2ml.BetaPrior(2, 3))
ANALYZED = [
    ({"estimator": "grpo", "num_rollouts": 8}, lambda: analyzed("grpo", 8)),
    ({"estimator": {"name": "grpo"}, "num_rollouts": 8}, lambda: analyzed("grpo", 8)),
    (
        {"estimator": {"name": "f_grpo", "parameters": {"gamma_f": 2, "base": "rloo"}}, "num_rollouts": 5},
        lambda: analyzed("f_grpo", 5, gamma_f=2, base="rloo"),
    ),
    (
        {"estimator": {"name": "pkpo", "parameters": {"k": 4}}, "num_rollouts": 8, "pilot": PILOT},
        lambda: analyzed("pkpo", 8, FITTED, k=4),
    ),
    ({"estimator": "dapo", "num_rollouts": 8, "pilot": PILOT}, lambda: analyzed("dapo", 8, FITTED)),
    (
        {"estimator": "rloo", "num_rollouts": 8, "pilot": PILOT, "prior": {"alpha": 2, "beta": 3}},
        lambda: analyzed("rloo", 8, BETA),
    ),
    (
        {"estimator": "rloo", "num_rollouts": 8, "pilot": PILOT, "prior": {"name": "plug_in"}},
        lambda: analyzed("rloo", 8, HISTOGRAM.population("plug_in")),
    ),
    (
        {"estimator": "maxrl", "num_rollouts": 8, "pilot": {"pass_rates": [0.1, 0.5, 0.5]}},
        lambda: analyzed("maxrl", 8, rl2ml.Population.from_pass_rates([0.1, 0.5], [1, 2])),
    ),
    (
        {"estimator": "grpo", "num_rollouts": 8, "score_model": {"kappa": 0.5}},
        lambda: analyzed("grpo", 8, None, rl2ml.ScoreModel(0.5)),
    ),
    ({"estimator": {"gamma": 0.5}, "num_rollouts": 8}, lambda: analyzed(0.5, 8)),
    ({"estimator": {"gamma": 0.5}, "num_rollouts": 8, "pilot": PILOT}, lambda: analyzed(0.5, 8, FITTED)),
    (
        {
            "estimator": {"gamma": 2, "baseline": "minimum_variance", "order": 4, "filter_groups": True},
            "num_rollouts": 8,
            "pilot": PILOT,
            "score_model": {"kappa": 0.5},
        },
        lambda: analyzed(
            2.0, 8, FITTED, rl2ml.ScoreModel(0.5), baseline="minimum_variance", order=4, filter_groups=True
        ),
    ),
    ({"estimator": TABLE}, lambda: analyzed(rl2ml.AdvantageTable([0, 0.5, 0], [0, -0.5, 0]))),
    ({"estimator": TABLE, "num_rollouts": 2}, lambda: analyzed(rl2ml.AdvantageTable([0, 0.5, 0], [0, -0.5, 0]))),
    ({"estimator": "grpo", "num_rollouts": 100}, lambda: analyzed("grpo", 100)),
]


@pytest.mark.parametrize(("body", "expected"), ANALYZED, ids=[json.dumps(body)[:70] for body, _ in ANALYZED])
def test_analysis_is_the_librarys(client, conforms, body, expected):
    response = client.analyze(body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert conforms(response) == json.loads(json.dumps(expected()))


def test_documented_fields_are_those_promised(client, document):
    answer = client.analyze({"estimator": "dapo", "num_rollouts": 8}).json()
    schemas = document["components"]["schemas"]
    assert list(answer) == list(schemas["AnalysisAnswer"]["properties"]) == schemas["AnalysisAnswer"]["required"]
    assert list(answer["nearest"]) == list(schemas["NearestAnswer"]["properties"])
    identity = client.analyze({"estimator": "rloo", "num_rollouts": 8}).json()["identity"]
    assert list(identity) == list(schemas["IdentityAnswer"]["properties"])


def test_forms_of_a_pilot_are_one(client):
    forms = [PILOT, {"num_rollouts": 8, "num_successes": [0] * 30 + [6] * 14 + [2] * 20}]
    forms.append({"num_rollouts": 8, "pass_rates": [k / 8 for k in forms[1]["num_successes"]]})
    answers = {client.analyze({"estimator": "grpo", "num_rollouts": 8, "pilot": pilot}).content for pilot in forms}
    assert len(answers) == 1


def test_tables_without_meaning_are_answers(client, conforms):
    zeros = {"success": [None, 0, 0], "failure": [0, 0, None]}
    answer = conforms(client.analyze({"estimator": zeros}))
    assert answer["nearest"] is answer["identity"] is answer["noise_to_signal"] is None
    assert "nothing is learned" in answer["sentence"]
    alone = {"gamma": 1, "baseline": "group_centered"}
    assert conforms(client.analyze({"estimator": alone, "num_rollouts": 1}))["advantage_rms"] == 0
    certain = {"estimator": "grpo", "num_rollouts": 4, "pilot": {"pass_rates": [0, 1]}}
    assert conforms(client.analyze(certain))["dead_group_share"] == 1
    # A signal 1e400 times weaker than its noise is none.
    tiny = {"success": [None, 1e100, 1e-30], "failure": [1e100, 0, None]}
    answer = conforms(client.analyze({"estimator": tiny, "pilot": {"pass_rates": [1e-60]}}))
    assert answer["noise_to_signal"] is None


def test_pool_gives_the_same_bytes(client, client_with, monkeypatch):
    body = {"estimator": {"gamma": 0.5}, "num_rollouts": 8, "pilot": PILOT}
    inline = client.analyze(body)
    pooled = client_with(inline_milliseconds=0, pool_workers=1)
    monkeypatch.setattr("rl2ml_core.analyze", lambda *_, **__: pytest.fail("analyzed in this process"))
    assert pooled.analyze(body).content == inline.content
    monkeypatch.undo()
    wrong = {"estimator": "grpo", "num_rollouts": 1}
    assert pooled.analyze(wrong).content == client.analyze(wrong).content
    assert pooled.analyze(wrong).json()["errors"][0]["pointer"] == "#/num_rollouts"


def test_deadline(client_with, refused):
    refused(
        client_with(inline_milliseconds=0, pool_workers=1, solve_seconds=0.01).analyze(ANALYZED[0][0]),
        "deadline-exceeded",
    )


def test_stopping_server_says_so():
    async def scenario() -> Problem:
        pool = Pool(Settings(pool_workers=1, inline_milliseconds=0))
        try:
            job = asyncio.create_task(pool.solve(1, time.sleep, 60))
            await asyncio.sleep(0.05)
            job.cancel()  # as the server does when its patience ends
            with pytest.raises(Problem) as stopped:
                await job
            return stopped.value
        finally:
            pool.close()

    assert asyncio.run(scenario()).name == "not-ready"


# --- refused ----------------------------------------------------------------------------------------------------------

WRONG = [
    ({}, "#/estimator"),
    ({"estimator": "grpo"}, "#/num_rollouts"),
    ({"estimator": "grpo", "num_rollouts": None}, "#/num_rollouts"),
    ({"estimator": "grpo", "num_rollouts": 0}, "#/num_rollouts"),
    ({"estimator": "grpo", "num_rollouts": 65_537}, "#/num_rollouts"),
    ({"estimator": "grpo", "num_rollouts": 8.0}, "#/num_rollouts"),
    ({"estimator": "grpo", "num_rollouts": True}, "#/num_rollouts"),
    ({"estimator": "grpo", "num_rollouts": 1}, "#/num_rollouts"),  # nothing to normalize by
    ({"estimator": "ppo", "num_rollouts": 8}, "#/estimator"),
    ({"estimator": 0.5, "num_rollouts": 8}, "#/estimator"),
    ({"estimator": None, "num_rollouts": 8}, "#/estimator"),
    ({"estimator": [], "num_rollouts": 8}, "#/estimator"),
    ({"estimator": {}, "num_rollouts": 8}, "#/estimator/name"),
    ({"estimator": {"name": "ppo"}, "num_rollouts": 8}, "#/estimator/name"),
    ({"estimator": {"name": "grpo", "k": 4}, "num_rollouts": 8}, "#/estimator/k"),
    ({"estimator": {"name": "grpo", "parameters": None}, "num_rollouts": 8}, "#/estimator/parameters"),
    ({"estimator": {"name": "grpo", "parameters": []}, "num_rollouts": 8}, "#/estimator/parameters"),
    ({"estimator": {"name": "grpo", "parameters": {"k": 4}}, "num_rollouts": 8}, "#/estimator/parameters"),
    ({"estimator": {"name": "rloo", "parameters": {"k": 4}}, "num_rollouts": 8}, "#/estimator/parameters"),
    # Names of the core's own arguments are no parameters.
    *(
        ({"estimator": {"name": "pkpo", "parameters": {name: 4}}, "num_rollouts": 8}, "#/estimator/parameters")
        for name in ("num_rollouts", "trainer", "population", "score_model", "name", "baseline", "self", "")
    ),
    ({"estimator": {"name": "pkpo", "parameters": {"k": True}}, "num_rollouts": 8}, "#/estimator/parameters/k"),
    ({"estimator": {"name": "pkpo", "parameters": {"k": None}}, "num_rollouts": 8}, "#/estimator/parameters/k"),
    ({"estimator": {"name": "pkpo", "parameters": {"k": [4]}}, "num_rollouts": 8}, "#/estimator/parameters/k"),
    ({"estimator": {"name": "pkpo", "parameters": {"k": 4.0}}, "num_rollouts": 8}, "#/estimator/parameters/k"),
    ({"estimator": {"name": "pkpo", "parameters": {"k": 9}}, "num_rollouts": 8}, "#/estimator/parameters/k"),
    ({"estimator": {"name": "pkpo", "parameters": {"k": 10**400}}, "num_rollouts": 8}, "#/estimator/parameters/k"),
    ({"estimator": {"name": "pkpo", "parameters": {"k": "4"}}, "num_rollouts": 8}, "#/estimator/parameters/k"),
    ({"estimator": {"name": "grpo", "parameters": {"std": "mean"}}, "num_rollouts": 8}, "#/estimator/parameters/std"),
    ({"estimator": {"name": "grpo", "parameters": {"std": "x" * 41}}, "num_rollouts": 8}, "#/estimator/parameters/std"),
    (
        {"estimator": {"name": "grpo", "parameters": {"epsilon": -1}}, "num_rollouts": 8},
        "#/estimator/parameters/epsilon",
    ),
    ({"estimator": {"name": "garl", "parameters": {"q": 21}}, "num_rollouts": 8}, "#/estimator/parameters/q"),
    (
        {"estimator": {"name": "grpo", "parameters": {f"p{i}": 1 for i in range(9)}}, "num_rollouts": 8},
        "#/estimator/parameters",
    ),
    ({"estimator": {"gamma": -1}, "num_rollouts": 8}, "#/estimator/gamma"),
    ({"estimator": {"gamma": 21}, "num_rollouts": 8}, "#/estimator/gamma"),
    ({"estimator": {"gamma": "1"}, "num_rollouts": 8}, "#/estimator/gamma"),
    ({"estimator": {"gamma": 1, "baseline": "mean"}, "num_rollouts": 8}, "#/estimator/baseline"),
    ({"estimator": {"gamma": 1, "baseline": "bayes"}, "num_rollouts": 8}, "#/estimator/baseline"),  # no pilot
    ({"estimator": {"gamma": 1, "order": 9}, "num_rollouts": 8}, "#/estimator/order"),
    ({"estimator": {"gamma": 1, "order": 0}, "num_rollouts": 8}, "#/estimator/order"),
    ({"estimator": {"gamma": 1, "filter_groups": 1}, "num_rollouts": 8}, "#/estimator/filter_groups"),
    ({"estimator": {"gamma": 1, "name": "grpo"}, "num_rollouts": 8}, "#/estimator/name"),
    ({"estimator": {"success": [None, 1]}}, "#/estimator/failure"),
    ({"estimator": {"success": [None, 1], "failure": [0, 0, None]}}, "#/estimator"),
    ({"estimator": {"success": [1, 1], "failure": [0, None]}}, "#/estimator"),
    ({"estimator": {"success": [None, 1e101], "failure": [0, None]}}, "#/estimator/success/1"),
    ({"estimator": {"success": [None, 1e-200], "failure": [0, None]}}, "#/estimator"),
    ({"estimator": TABLE, "num_rollouts": 3}, "#/num_rollouts"),
    ({"estimator": "grpo", "num_rollouts": 8, "pilot": {}}, "#/pilot/num_rollouts"),
    ({"estimator": "grpo", "num_rollouts": 8, "pilot": {"groups": {"secret": PILOT}}}, "#/pilot/groups"),
    (
        {"estimator": "grpo", "num_rollouts": 8, "pilot": {"cells": [PILOT["cells"][0] | {"num_successes": 9}]}},
        "#/pilot/cells/0",
    ),
    (
        {"estimator": "grpo", "num_rollouts": 8, "pilot": {"num_rollouts": 8, "num_successes": [1, 9]}},
        "#/pilot/num_successes/1",
    ),
    ({"estimator": "grpo", "num_rollouts": 8, "prior": {}}, "#/prior/alpha"),
    ({"estimator": "grpo", "num_rollouts": 8, "score_model": {"kappa": 2}}, "#/score_model/kappa"),
    ({"estimator": "grpo", "num_rollouts": 8, "metric": "pass@8"}, "#/metric"),
]


@pytest.mark.parametrize(("body", "pointer"), WRONG, ids=[json.dumps(body)[:80] for body, _ in WRONG])
def test_wrong_values_are_named_by_pointer(client, refused, body, pointer):
    response = client.analyze(body)
    assert pointer in [error["pointer"] for error in refused(response, "invalid-request")["errors"]], response.text
    leaks = ("secret", "xxxx", "dictionary", "Dictionary", "instance", "estimator:", "parameter:", "pilot:")
    assert not any(word in response.text for word in leaks)


@pytest.mark.parametrize("value", [MARKER, {MARKER: 1}, [MARKER], {"name": MARKER}, {"gamma": MARKER}])
@pytest.mark.parametrize(
    "place",
    ["estimator", "estimator.name", "estimator.gamma", "estimator.parameters", "estimator.parameters.k",
     "estimator.baseline", "estimator.order", "num_rollouts", "pilot", "prior", "score_model", MARKER],
)  # fmt: skip
def test_nothing_sent_comes_back(client, refused, unsolvable, place, value):
    body: dict[str, Any] = {"estimator": {"name": "pkpo"}, "num_rollouts": 8}
    *path, last = place.split(".")
    target = body
    for name in path:
        target = target.setdefault(name, {})
    target[last] = value
    if (place, value) == ("estimator.parameters.k", MARKER):
        return  # text may be a parameter: the next test
    content = json.dumps(refused(client.analyze(body), "invalid-request"))
    assert not any(mark in content for mark in MARKS)


@pytest.mark.parametrize("parameters", [{"k": MARKER}, {MARKER: 1}, {"std": MARKER}])
def test_parameters_do_not_come_back(client, refused, parameters):
    body = {"estimator": {"name": "pkpo", "parameters": parameters}, "num_rollouts": 8}
    content = refused(client.analyze(body), "invalid-request")
    assert not any(mark in json.dumps(content) for mark in MARKS)


def test_bodies_are_read_as_everywhere(client, client_with, refused, unsolvable):
    refused(client.analyze(b"{"), "malformed-json")
    refused(client.analyze(b'{"estimator": NaN}'), "malformed-json")
    refused(client.analyze(b"[" * 100_000), "limit-exceeded")
    refused(client.ask("{}", {"Content-Type": "text/plain"}, ANALYSES), "unsupported-media-type")
    refused(client_with(max_body_bytes=10).analyze(ANALYZED[0][0]), "body-too-large")


# --- limits and cost --------------------------------------------------------------------------------------------------


def rows(cells: int, n: int = 100) -> dict[str, Any]:
    return {"cells": [{"num_rollouts": n, "num_successes": k, "num_prompts": 1} for k in range(cells)]}


LIMITS = [
    ("max_cells", 3, {"pilot": rows(3)}, {"pilot": rows(4)}, "#/pilot/cells"),
    (
        "max_prompts",
        2,
        {"pilot": {"pass_rates": [0.5, 0.1]}},
        {"pilot": {"pass_rates": [0.5] * 3}},
        "#/pilot/pass_rates",
    ),
    ("max_num_rollouts", 8, {"num_rollouts": 8}, {"num_rollouts": 9}, "#/num_rollouts"),
    (
        "max_num_rollouts",
        2,
        {"estimator": TABLE, "num_rollouts": 2},
        {"estimator": {"success": [0] * 4, "failure": [0] * 4}, "num_rollouts": None},
        "#/estimator/success",
    ),
    # 3 points × rollouts
    (
        "max_work",
        30,
        {"pilot": {"pass_rates": [0.1, 0.2, 0.3]}, "num_rollouts": 10},
        {"pilot": {"pass_rates": [0.1, 0.2, 0.3]}, "num_rollouts": 11},
        "#/pilot",
    ),
    # 3 laws × 320 quadrature nodes
    ("max_work", 960, {"pilot": rows(3)}, {"pilot": rows(4)}, "#/pilot"),
]


@pytest.mark.parametrize(("setting", "value", "within", "beyond", "pointer"), LIMITS)
def test_limit(client_with, refused, monkeypatch, setting, value, within, beyond, pointer):
    client = client_with(**{setting: value})
    body = {"estimator": "rloo", "num_rollouts": 4}
    response = client.analyze(body | within)
    assert response.status_code == 200, response.text
    monkeypatch.setattr("rl2ml_core.analyze", lambda *_, **__: pytest.fail("analyzed"))
    (error,) = refused(client.analyze(body | beyond), "limit-exceeded")["errors"]
    assert error["pointer"] == pointer
    assert f"at most {value:,} " in error["detail"]


def test_what_would_outlast_the_deadline_is_refused_at_once(client, client_with, refused, unsolvable):
    # The narrowest law that a prior allows, in groups of 65,536: minutes.
    body = {"estimator": "rloo", "num_rollouts": 65_536, "pilot": rows(3), "prior": {"alpha": 1e8, "beta": 1e8}}
    assert "longer than 60 seconds" in refused(client.analyze(body), "limit-exceeded")["detail"]
    hasty = client_with(solve_seconds=0.5)
    refused(hasty.analyze({"estimator": "rloo", "num_rollouts": 65_536}), "limit-exceeded")


def milliseconds(**changes: Any) -> float:
    body = json.dumps({"estimator": "grpo", "num_rollouts": 8} | changes)
    return Inquiry.of(AnalysisRequest.model_validate_json(body), Settings()).milliseconds


@pytest.mark.parametrize(
    "sizes",
    [
        [{"num_rollouts": n} for n in (2, 8, 64, 128, 1_024, 65_536)],
        [{"pilot": rows(c, 20_000)} for c in (1, 10, 100, 10_000)],
        [{"pilot": rows(9, n), "prior": {"alpha": 1, "beta": 1}} for n in (100, 10_000, 1_000_000)],
        [{"pilot": rows(9, 1_000), "prior": {"alpha": a, "beta": a}} for a in (1, 1e4, 1e8)],
        [{"pilot": {"pass_rates": [i / 10_000 for i in range(c)]}} for c in (10, 100, 10_000)],
    ],
    ids=["rollouts", "cells", "pilot's rollouts", "prior", "points"],
)
def test_larger_analyses_are_predicted_to_take_longer(sizes):
    predicted = [milliseconds(**size) for size in sizes]
    assert predicted == sorted(set(predicted))


def test_usual_analyses_stay_in_this_process_and_large_ones_leave_it():
    inline = Settings().inline_milliseconds
    for example in ANALYSIS_EXAMPLES.values():
        request = AnalysisRequest.model_validate_json(json.dumps(example["value"]))
        assert Inquiry.of(request, Settings()).milliseconds < inline / 3
    assert milliseconds(num_rollouts=64, pilot=rows(17, 64)) < inline
    assert milliseconds(num_rollouts=1_024) > inline
    assert milliseconds(pilot=rows(10_000, 20_000)) > inline


# --- any valid request ------------------------------------------------------------------------------------------------

VALUES = st.one_of(st.none(), st.floats(-1e100, 1e100))
PILOTS = st.one_of(
    st.none(),
    st.fixed_dictionaries({"num_rollouts": st.just(9), "num_successes": st.lists(st.integers(0, 9), min_size=1)}),
    st.fixed_dictionaries({"pass_rates": st.lists(st.floats(0, 1), min_size=1, max_size=8)}),
)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(st.sampled_from([1, 2, 3, 8, 33]))
    sides = st.lists(VALUES, min_size=n + 1, max_size=n + 1)
    numbers = st.one_of(st.integers(-3, 40), st.floats(-1e3, 1e3), st.sampled_from(["sample", "rloo", "maxrl"]))
    names = st.sampled_from(["std", "epsilon", "k", "gamma_f", "base", "q"])
    estimators = st.one_of(
        st.sampled_from(list(rl2ml.KNOWN_TRAINERS)),
        st.fixed_dictionaries(
            {"name": st.sampled_from(list(rl2ml.KNOWN_TRAINERS))},
            optional={"parameters": st.dictionaries(names, numbers, max_size=2)},
        ),
        st.fixed_dictionaries(
            {"gamma": st.floats(0, 20)},
            optional={
                "baseline": st.none() | st.sampled_from(list(rl2ml.BASELINES)),
                "order": st.none() | st.integers(1, 40),
                "filter_groups": st.booleans(),
            },
        ),
        st.fixed_dictionaries(
            {"success": sides.map(lambda x: [None, *x[1:]]), "failure": sides.map(lambda x: [*x[:-1], None])}
        ),
    )
    optional = {
        "prior": st.sampled_from([{"name": "empirical_bayes"}, {"name": "plug_in"}, {"alpha": 1e-9, "beta": 1e3}]),
        "score_model": st.none() | st.fixed_dictionaries({"kappa": st.floats(1e-9, 1)}),
    }
    required = {"estimator": estimators, "num_rollouts": st.just(n), "pilot": PILOTS}
    return draw(st.fixed_dictionaries(required, optional=optional))


@given(request_=requests())
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.large_base_example],
)
def test_any_valid_request_is_answered(client, conforms, refused, request_):
    response = client.analyze(request_)
    if response.status_code == 422:
        assert refused(response, "invalid-request")["errors"][0]["pointer"] != "#"
        return
    assert response.status_code == 200, (request_, response.text)
    answer = conforms(response)  # and so no NaN or Infinity
    assert answer["num_rollouts"] == request_["num_rollouts"]
    for name in ("all_fail_share", "all_pass_share", "dead_group_share", "dead_mixed_share"):
        assert -1e-9 <= answer[name] <= 1 + 1e-9
