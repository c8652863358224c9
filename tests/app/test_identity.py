"""One question, one id: whichever form it takes; and what is kept by id."""

import json
import random

import httpx
import pytest

import rl2ml_core as rl2ml
from app.examples import REQUEST_EXAMPLES

PATH = "/v1/recommendations"
EVERYTHING = REQUEST_EXAMPLES["everything"]["value"]
COUNTS = [0] * 30 + [2] * 20 + [6] * 14


def cell(n, k, prompts):
    return {"num_rollouts": n, "num_successes": k, "num_prompts": prompts}


@pytest.fixture
def question():
    """All defaults: what is spelled out is compared with it."""
    return json.loads(json.dumps(REQUEST_EXAMPLES["histogram"]["value"]))


def forms():
    shuffled = COUNTS.copy()
    random.Random(1).shuffle(shuffled)
    yield "reordered", {"cells": [cell(8, 6, 14), cell(8, 0, 30), cell(8, 2, 20)]}
    yield "split", {"cells": [cell(8, 0, 10), cell(8, 6, 14), cell(8, 0, 20), cell(8, 2, 20), cell(8, 2, 0)]}
    yield "float prompts", {"cells": [cell(8, 0, 30.0), cell(8, 2, 2e1), cell(8, 6, 14.0)]}
    yield "empty cell", {"cells": [*REQUEST_EXAMPLES["histogram"]["value"]["pilot"]["cells"], cell(8, 5, 0)]}
    yield "counts", {"num_rollouts": 8, "num_successes": shuffled}
    yield "counts, rollouts each", {"num_rollouts": [8] * 64, "num_successes": shuffled}
    yield "rates", {"num_rollouts": 8, "pass_rates": [k / 8 for k in shuffled]}
    yield "rounded rates", {"num_rollouts": 8, "pass_rates": [round(k / 8, 2) for k in shuffled]}


@pytest.mark.parametrize("pilot", [pilot for _, pilot in forms()], ids=[name for name, _ in forms()])
def test_forms_of_one_pilot_have_one_id(client_with, question, pilot):
    # Nothing kept: both are solved, so equal answers are no effect of the cache.
    client = client_with(cache_entries=0)
    plain, formed = client.ask(question), client.ask(question | {"pilot": pilot})
    assert formed.status_code == 200, formed.text
    assert formed.content == plain.content
    assert formed.headers["etag"] == plain.headers["etag"]


def test_mixed_rollouts_may_come_in_any_order(client, question):
    one = {"num_rollouts": [4, 8, 8, 4], "num_successes": [1, 2, 0, 3]}
    other = {"cells": [cell(8, 2, 1), cell(4, 3, 1), cell(8, 0, 1), cell(4, 1, 1)]}
    assert client.id_of(question | {"pilot": one}) == client.id_of(question | {"pilot": other})
    swapped = {"num_rollouts": [8, 8, 4, 4], "num_successes": [1, 2, 0, 3]}
    assert client.id_of(question | {"pilot": swapped}) != client.id_of(question | {"pilot": one})


def test_exact_rates_are_another_question_than_counts(client, question):
    rates = [k / 8 for k in COUNTS]
    exact = client.id_of(question | {"pilot": {"pass_rates": rates}})
    assert exact != client.id_of(question | {"pilot": {"pass_rates": rates, "num_rollouts": 8}})
    assert exact == client.id_of(question | {"pilot": {"pass_rates": rates[::-1], "num_rollouts": None}})
    assert exact == client.id_of(question | {"pilot": {"pass_rates": [rate or -0.0 for rate in rates]}})


@pytest.mark.parametrize(
    "explicit",
    [
        {"current": "grpo"},
        {"search": {}},
        {"search": {"gamma_min": 0, "gamma_max": 2, "criterion": "lookahead", "variance_penalty": None}},
        {"search": {"gamma_min": -0.0, "gamma_max": 2.0}},
        {"search": {"judged_on": "either", "look_ahead": False}},
        {"estimator": {}},
        {"estimator": {"baseline": "bayes"}},
        {"estimator": {"order": None}},
        {"estimator": {"order": 4}},
        {"estimator": {"filter_groups": False}},
        {"score_model": None},
        {"score_model": {"kappa": 0.1}},
        {"score_model": {"kappa": 0.1, "kappa_spread": None}},
        {"prior": {"name": "empirical_bayes"}},
        {"uncertainty": {}},
        {"uncertainty": {"bootstrap": 200, "seed": 0, "level": 0.9}},
        {"metric": "pass@8"},
        {"metric": " pass@8 "},
        {"sampled": None, "training": None},
        {"sampled": {}, "training": {"temperature": None, "policy": None, "step": None}},
        {key: value for key, value in EVERYTHING.items() if key not in ("pilot", "metric", "budget")},
    ],
    ids=json.dumps,
)
def test_spelled_out_defaults_are_no_other_question(client, question, explicit):
    assert client.id_of(question | explicit) == client.id_of(question)


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("pass@1", {"name": "pass_at_k", "k": 1}),
        ("log:0.01", {"name": "log_success", "tau": 0.01}),
        ("log:1e-2", {"name": "log_success", "tau": 0.01}),
        (
            "0.5*pass@16+0.5*pass@1",
            {
                "name": "mixture",
                "parts": [
                    {"weight": 0.5, "metric": {"name": "pass_at_k", "k": 1}},
                    {"weight": 0.5, "metric": {"name": "pass_at_k", "k": 16}},
                ],
            },
        ),
    ],
)
def test_metric_as_text_or_object(client, question, text, metric):
    assert client.id_of(question | {"metric": text}) == client.id_of(question | {"metric": metric})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prior": {"alpha": 1, "beta": 1}}, {"prior": {"name": "beta", "alpha": 1.0, "beta": 1.0}}),
        ({"sampled": {"policy": "sft-3"}}, {"sampled": {"policy": " sft-3 ", "step": None}}),
        ({"sampled": {"temperature": 0}}, {"sampled": {"temperature": -0.0}}),
        ({"training": {"temperature": 1}}, {"training": {"temperature": 1.0}}),
    ],
    ids=json.dumps,
)
def test_ways_to_say_the_same(client, question, one, other):
    assert client.id_of(question | one) == client.id_of(question | other) != client.id_of(question)


def test_order_of_groups_does_not_matter(client_with, question):
    client = client_with(cache_entries=0)
    algebra, geometry = ({"cells": [cell(8, 0, 9), cell(8, k, 9)]} for k in (1, 5))
    turned = {"cells": geometry["cells"][::-1]}
    one = client.ask(question | {"pilot": {"groups": {"algebra": algebra, "geometry": geometry}}})
    other = client.ask(question | {"pilot": {"groups": {"geometry": turned, "algebra": algebra}}})
    assert one.status_code == 200
    assert one.content == other.content


def test_groups_are_part_of_the_question(client, question):
    algebra, geometry = ({"cells": [cell(8, 0, 9), cell(8, k, 9)]} for k in (1, 5))
    pilots = [
        {"groups": {"algebra": algebra, "geometry": geometry}},
        {"groups": {"algebra": geometry, "geometry": algebra}},
        {"groups": {"Algebra": algebra, "geometry": geometry}},
        {"groups": {"algebra": algebra}},
        algebra,
        {"cells": algebra["cells"] + geometry["cells"]},
    ]
    identities = {client.id_of(question | {"pilot": pilot}) for pilot in pilots}
    assert len(identities) == len(pilots)


def test_parts_of_a_mixture_add_up(client, question):
    def mixture(*weights):
        part = {"name": "pass_at_k", "k": 4}
        parts = [{"weight": weight, "metric": part} for weight in weights]
        return question | {"metric": {"name": "mixture", "parts": parts}}

    assert client.id_of(mixture(0.5, 1.5)) == client.id_of(mixture(2)) == client.id_of(mixture(2, 0))
    assert client.id_of(mixture(0.5)) != client.id_of(mixture(2))


OTHER_QUESTIONS = [
    {"uncertainty": {"seed": 1}},
    {"uncertainty": {"level": 0.8}},
    {"uncertainty": {"bootstrap": 0}},
    {"budget": {"num_rollouts": 5}},
    {"metric": "pass@9"},
    {"metric": "log:0.01"},
    {"current": "rloo"},
    {"current": 0},
    {"current": 1},
    {"current": {"success": [None, 1, 1, 1, 0], "failure": [0, -1, -1, -1, None]}},
    {"current": {"success": [None, 1, 1, 1, 0], "failure": [0, -1, -1, -2, None]}},
    {"search": {"gamma_min": 0.1}},
    {"search": {"gamma_max": 2.5}},
    {"search": {"criterion": "rms_gain"}},
    {"search": {"criterion": "rms_gain", "look_ahead": True}},
    {"search": {"judged_on": "held_out"}},
    {"search": {"criterion": "paper"}},
    {"search": {"criterion": "paper"}, "score_model": {"kappa": 0.1}},
    {"search": {"criterion": "paper", "variance_penalty": 0.02}},
    {"estimator": {"baseline": "none"}},
    {"estimator": {"baseline": "minimum_variance"}},
    {"estimator": {"baseline": "group_centered"}},
    {"estimator": {"order": 3}},
    {"estimator": {"filter_groups": True}},
    {"score_model": {"kappa": 0.2}},
    {"score_model": {"kappa": 0.1, "kappa_spread": 0}},
    {"prior": {"name": "plug_in"}},
    {"prior": {"alpha": 1, "beta": 1}},
    {"prior": {"alpha": 2, "beta": 1}},
    {"prior": {"alpha": 1, "beta": 2}},
    {"sampled": {"temperature": 0}},
    {"training": {"temperature": 0}},
    {"sampled": {"step": 0}},
    {"sampled": {"policy": "0"}},
    {"pilot": {"num_rollouts": 8, "num_successes": COUNTS[1:]}},
    {"pilot": {"num_rollouts": 9, "num_successes": COUNTS}},
    {"pilot": {"cells": [cell(8, 0, 30), cell(8, 2, 20), cell(8, 6, 14.5)]}},
]


def test_other_questions_have_other_ids(client, question):
    identities = [client.id_of(question | change) for change in [{}, *OTHER_QUESTIONS]]
    assert len(set(identities)) == len(identities) == 1 + len(OTHER_QUESTIONS)


def test_the_lookahead_is_no_second_opinion_on_itself(client, question):
    asked = [question | {"search": {"criterion": "lookahead", "look_ahead": look}} for look in (False, True)]
    assert client.id_of(asked[0]) == client.id_of(asked[1])


def test_version_of_the_numbers_is_part_of_the_id(client_with, question, monkeypatch):
    client = client_with()
    before = client.id_of(question)
    monkeypatch.setattr(rl2ml, "METHOD_VERSION", rl2ml.METHOD_VERSION + 1)
    assert client.id_of(question) != before


def test_kept_answer_equals_the_solved_one_and_is_not_solved_again(client_with, question, monkeypatch):
    client = client_with()
    solved = client.ask(question)
    monkeypatch.setattr("rl2ml_core.recommend", lambda *_, **__: pytest.fail("solved twice"))
    again = client.ask(EVERYTHING)  # the same question, spelled out
    assert again.status_code == 200
    assert again.content == solved.content
    assert again.headers.pop("x-request-id") != solved.headers.pop("x-request-id")
    assert again.headers == solved.headers


def test_resource_of_an_answer(client, question):
    posted = client.ask(question)
    location, tag = posted.headers["content-location"], posted.headers["etag"]
    identity = posted.json()["id"]
    assert location == f"{PATH}/{identity}"
    assert tag == f'"{identity}"'
    got = client.get(location)
    assert (got.status_code, got.content) == (200, posted.content)
    assert got.headers["content-type"] == "application/json"
    assert got.headers["etag"] == tag


@pytest.mark.parametrize("form", ["{tag}", "W/{tag}", '"other", {tag}', "*", " * "])
def test_known_tag_answers_304_without_a_body(client, question, form):
    posted = client.ask(question)
    response = client.get(
        posted.headers["content-location"], **{"If-None-Match": form.format(tag=posted.headers["etag"])}
    )
    assert response.status_code == 304
    assert response.content == b""
    assert response.headers["etag"] == posted.headers["etag"]


def test_other_tag_answers_200(client, question):
    posted = client.ask(question)
    response = client.get(posted.headers["content-location"], **{"If-None-Match": '"rec_0", W/"rec_1"'})
    assert (response.status_code, response.content) == (200, posted.content)


@pytest.mark.parametrize("identity", ["rec_" + "0" * 32, "rec_", "MARKER", "%2e%2e", "é"])
def test_unknown_id(client, refused, identity):
    response = client.get(f"{PATH}/{identity}", **{"If-None-Match": "*"})
    content = refused(response, "not-found")
    assert content.keys() == {"type", "title", "status"}


def test_least_recently_used_answer_goes_first(client_with, question):
    client = client_with(cache_entries=2)
    first, second, third = (question | {"uncertainty": {"bootstrap": 0, "seed": seed}} for seed in range(3))

    def kept(identity):
        return client.get(f"{PATH}/{identity}", **{"If-None-Match": '"none"'}).status_code

    a, b = client.id_of(first), client.id_of(second)
    assert kept(a) == 200  # and so b is now the older one
    c = client.id_of(third)
    assert (kept(a), kept(b), kept(c)) == (200, 404, 200)
    client.id_of(first)  # asked again: c is now the older one
    assert client.id_of(second) == b
    assert (kept(a), kept(b), kept(c)) == (200, 200, 404)


def test_nothing_is_kept_without_a_cache(client_with, question):
    client = client_with(cache_entries=0)
    assert client.get(client.ask(question).headers["content-location"]).status_code == 404


def test_location_is_below_the_proxys_prefix(client, question):
    # As servers call it: with the prefix in the scope, whether or not the proxy left it in the path.
    transport = httpx.ASGITransport(app=client.app, root_path="/tools/rl2ml")
    proxied = httpx.AsyncClient(transport=transport, base_url="http://test")
    try:
        posted = client.run(proxied.post(PATH, json=question))
        location = posted.headers["content-location"]
        assert location == f"/tools/rl2ml{PATH}/{posted.json()['id']}"
        for path in (location, location.removeprefix("/tools/rl2ml")):
            assert client.run(proxied.get(path)).content == posted.content
    finally:
        client.run(proxied.aclose())
