"""The client's calls: what goes over the wire, what is repeated, and what happens without a service."""

import asyncio
import json
import pickle
import warnings

import httpx
import pytest

import rl2ml_core as rl2ml
from rl2ml_core.client import AsyncClient, Client, ServiceDown, ServiceError, ServiceUnavailable
from rl2ml_core.client.calls import create_run, recommendation

PILOT = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])
SETTINGS = rl2ml.ControllerSettings("pass@8", 8, bootstrap=0)
BUSY = {"type": "urn:rl2ml:problem:overloaded", "title": "Too many", "status": 503}


def refusal(status: int, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=BUSY | {"status": status}, headers=headers)


def test_a_recommendation_is_the_services(client, service):
    answer = client.recommend(PILOT, "pass@8", 8, current="rloo", gamma_max=1.5)
    expected = rl2ml.recommend(PILOT, "pass@8", 8, bootstrap=0)
    assert (answer.source, answer.id, answer.gamma, answer.status) == ("service", "rec_1", expected.gamma, "interior")
    assert answer.objective.to_dict() == expected.objective.to_dict()
    assert answer.learning_rate == expected.learning_rate
    assert answer.near_optimal == expected.near_optimal
    assert answer.diagnostics == expected.diagnostics
    assert answer.content["new"] == 1
    assert (answer.regime, answer.interval) == (expected.regime, None)
    assert answer.predicted_gain_over == expected.predicted_gain_over
    sent = json.loads(service.requests[0].content)
    assert sent == {
        "pilot": {
            "cells": [{"num_rollouts": 8, "num_successes": k, "num_prompts": p} for k, p in ((0, 30), (2, 20), (6, 14))]
        },
        "metric": {"name": "pass_at_k", "k": 8},
        "budget": {"num_rollouts": 8},
        "current": "rloo",
        "search": {"gamma_max": 1.5},
    }


def test_every_option_has_its_place():
    table = rl2ml.known_table("grpo", 2)
    call = recommendation(
        "pilot_1",
        "0.5*pass@1+0.5*log:0.01",
        2,
        {
            "criterion": "paper",
            "variance_penalty": 0.1,
            "baseline": "none",
            "order": None,
            "prior": rl2ml.BetaPrior(1, 2),
            "score_model": rl2ml.ScoreModel(0.2, 0.5),
            "current": table,
            "seed": 3,
            "sampled": rl2ml.Conditions(temperature=1.0),
            "training": None,
        },
    )
    content = json.loads(call.body)
    assert content["pilot"] == {"id": "pilot_1"}
    assert content["metric"]["name"] == "mixture"
    assert content["search"] == {"criterion": "paper", "variance_penalty": 0.1}
    assert content["estimator"] == {"baseline": "none", "order": None}
    assert content["prior"] == {"alpha": 1.0, "beta": 2.0}
    assert content["score_model"] == {"kappa": 0.2, "kappa_spread": 0.5}
    assert content["current"]["success"] == [None, *table.success[1:]]
    assert content["current"]["failure"] == [*table.failure[:-1], None]
    assert (content["uncertainty"], content["sampled"]) == ({"seed": 3}, {"temperature": 1.0})
    assert "training" not in content


def test_a_runs_settings_go_over_the_wire_whole():
    content = json.loads(create_run(SETTINGS, PILOT, "k").body)
    given = content["search"] | content["estimator"] | content["uncertainty"] | content["controller"]
    given |= {"metric": "pass@8", "num_rollouts": 8, "prior": content["prior"]["name"], "current": content["current"]}
    assert rl2ml.ControllerSettings(**given) == SETTINGS
    assert set(given) | {"score_model"} == set(SETTINGS.__dataclass_fields__)


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((PILOT, "pass@8", 8), {"gama_max": 2}, "got gama_max"),
        ((3, "pass@8", 8), {}, "pilot must be"),
        ((PILOT, "pass", 8), {}, "metric must"),
        ((PILOT, "pass@8", 8), {"score_model": rl2ml.ScoreModel.paper()}, "score_model must"),
    ],
)
def test_what_does_not_go_over_the_wire_is_refused_here(client, service, arguments, options, match):
    with pytest.raises(rl2ml.InvalidInput, match=match):
        client.recommend(*arguments, **options)
    assert not service.requests


def test_what_is_safe_is_repeated_with_growing_waits(client, service, waits):
    service.faults = [refusal(503), httpx.ReadTimeout("late"), refusal(500)]
    assert client.recommend(PILOT, "pass@8", 8).source == "service"
    assert waits == [0.2, 0.4, 0.8]
    assert len(service.requests) == 4


def test_retry_after_is_honoured_up_to_patience(client, service, waits):
    service.faults = [refusal(429, **{"Retry-After": "7"}), refusal(503, **{"Retry-After": "30"})]
    with pytest.warns(ServiceUnavailable, match="answered 503"):
        assert client.recommend(PILOT, "pass@8", 8).source == "local"
    assert waits == [7.2], "another 30 seconds are too many"


def test_a_date_is_no_wait(client, service, waits):
    service.faults = [refusal(503, **{"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})]
    client.recommend(PILOT, "pass@8", 8)
    assert waits == [0.2]


def test_without_a_service_this_process_answers_and_says_so_once(client, service, waits):
    service.down = True
    with pytest.warns(ServiceUnavailable, match=r"http://test/prefix cannot be reached.*this is said once") as said:
        answer = client.recommend(PILOT, "pass@8", 8, bootstrap=0)
    assert len(said) == 1
    assert said[0].filename == __file__, "the warning points at the caller"
    assert (answer.source, answer.id) == ("local", None)
    assert answer.content == rl2ml.recommend(PILOT, "pass@8", 8, bootstrap=0).to_dict()
    asked = len(service.requests)
    assert asked == 4
    assert client.recommend(PILOT, "pass@8", 8, bootstrap=0).source == "local"  # and does not wait again
    assert len(service.requests) == asked
    service.down = False
    client.health.left_alone_until = 0.0
    assert client.recommend(PILOT, "pass@8", 8).source == "service"


def test_without_a_fallback_it_raises(service, waits):
    service.down = True
    with Client(fallback=False, transport=httpx.MockTransport(service), retries=0) as client:
        for _ in range(2):
            with pytest.raises(ServiceDown, match="cannot be reached"):
                client.recommend(PILOT, "pass@8", 8)
    assert len(service.requests) == 2, "it asks every time"


def test_an_uploaded_pilot_is_not_here(client, service):
    service.down = True
    with pytest.raises(ServiceDown):
        client.recommend("pilot_1", "pass@8", 8)


def test_refusals_are_raised_with_their_problem(client, service, waits):
    problem = {
        "type": "urn:rl2ml:problem:invalid-request",
        "title": "The request is not valid",
        "status": 422,
        "errors": [{"pointer": "#/metric", "detail": "expected more"}],
    }
    service.faults = [httpx.Response(422, json=problem)]
    with pytest.raises(ServiceError, match=r"422, The request is not valid \(#/metric: expected more\)") as refused:
        client.recommend(PILOT, "pass@8", 8)
    assert not isinstance(refused.value, ServiceDown)
    assert (refused.value.status, refused.value.type) == (422, "invalid-request")
    again = pickle.loads(pickle.dumps(refused.value))
    assert (str(again), again.status, again.problem) == (str(refused.value), 422, problem)
    assert not waits
    assert not client.health.is_out


@pytest.mark.parametrize("answer", [httpx.Response(200, text="<html>"), httpx.Response(200, json=[1])])
def test_an_answer_of_something_else_is_no_answer(client, service, answer):
    service.faults = [answer]
    with pytest.raises(ServiceDown, match="something else"):
        client.run("run_1")


def test_a_proxys_page_is_a_failure(client, service, waits):
    service.faults = [httpx.Response(502, text="<html>bad gateway")] * 4
    with pytest.raises(ServiceDown, match="answered 502, Bad Gateway"):
        client.runs()
    assert len(waits) == 3


def test_what_would_take_as_long_again_is_not_repeated(client, service, waits):
    late = {"type": "urn:rl2ml:problem:deadline-exceeded", "title": "Took longer", "status": 503}
    service.faults = [httpx.Response(503, json=late)]
    with pytest.warns(ServiceUnavailable):
        assert client.recommend(PILOT, "pass@8", 8).source == "local"
    assert not waits


def test_runs_and_their_pages(client, service):
    created = client.create_run(SETTINGS, PILOT, key="a")
    assert client.create_run(SETTINGS, PILOT, key="a").id == created.id
    assert client.create_run(SETTINGS).id != created.id
    window = rl2ml.PilotHistogram.from_counts([0, 1, 5, 8] * 8, 8)
    state, _ = rl2ml.step_controller(rl2ml.start_controller(SETTINGS, PILOT)[0], window)
    answer = client.put_window(created.id, 0, window)
    assert answer.decision.to_dict() == state.decision.to_dict()
    with pytest.raises(ServiceError) as conflict:
        client.put_window(created.id, 2, None)
    assert conflict.value.expected_index == 1
    assert client.put_window(created.id, 1, None).decision.index == 2
    assert client.run(created.id).index == 2
    assert client.rewind(created.id, 1).index == 1
    page = client.runs(limit=2, cursor="a&b")
    assert [item["id"] for item in page.items] == ["run_0", "run_1"]
    assert page.next_cursor == "abc"
    assert dict(service.requests[-1].url.params) == {"limit": "2", "cursor": "a&b"}
    assert client.windows(created.id).next_cursor is None
    client.delete_run(created.id)
    with pytest.raises(ServiceError, match="404"):
        client.run(created.id)
    with pytest.raises(ServiceError, match="404"):
        client.run("../runs?x")
    assert service.requests[-1].url.raw_path == b"/v1/runs/..%2Fruns%3Fx"


def test_what_may_not_happen_twice_is_not_repeated(client, service, waits):
    run = client.create_run(SETTINGS).id
    for lost in (httpx.ReadTimeout("late"), refusal(500)):
        service.faults = [lost]
        with pytest.raises(ServiceDown):
            client.rewind(run, 0)
    assert not waits
    # Refused before anything was done, or never sent.
    service.faults = [refusal(429), httpx.ConnectTimeout("late")]
    assert client.rewind(run, 0).index == 0
    assert len(waits) == 2


def test_pilots_are_uploaded_by_file_or_bytes(client, service, tmp_path):
    path = tmp_path / "pilot.CSV"
    path.write_text("num_rollouts,num_successes\n8,1\n8,1\n")
    answer = client.pilots(path)
    assert (answer.id, answer.histogram.cells()) == ("pilot_1", [(8, 1, 2.0)])
    client.pilots(b"PAR1", "application/vnd.apache.parquet")
    assert [request.headers["content-type"] for request in service.requests] == [
        "text/csv",
        "application/vnd.apache.parquet",
    ]
    with pytest.raises(rl2ml.InvalidInput, match="media_type must be one of"):
        client.pilots(tmp_path / "pilot.txt")


def test_the_key_is_in_a_header(service):
    with Client("http://test", "rl2ml_abc", transport=httpx.MockTransport(service)) as client:
        client.runs()
    assert service.requests[0].headers["authorization"] == "Bearer rl2ml_abc"
    for wrong in ("", "a b", "a\nb", "ключ"):
        with pytest.raises(rl2ml.InvalidInput, match="key must"):
            Client(key=wrong)
    for wrong in ({"timeout": 0}, {"retries": -1}, {"patience": -1}):
        with pytest.raises(rl2ml.InvalidInput):
            Client(**wrong)


def test_the_client_for_event_loops_does_the_same(service, make_async, waits):
    async def scenario() -> None:
        async with make_async() as client:
            service.faults = [refusal(503)]
            assert (await client.recommend(PILOT, "pass@8", 8)).source == "service"
            run = await client.create_run(SETTINGS, PILOT, key="a")
            assert (await client.put_window(run.id, 0, None)).decision.index == 1
            assert (await client.rewind(run.id, 0)).index == 0
            assert (await client.run(run.id)).id == run.id
            assert (await client.runs()).next_cursor == "abc"
            assert len((await client.windows(run.id)).items) == 1
            assert (await client.pilots(b"x", "text/csv")).id == "pilot_1"
            await client.delete_run(run.id)
            service.down = True
            with pytest.warns(ServiceUnavailable):
                assert (await client.recommend(PILOT, "pass@8", 8)).source == "local"
        async with make_async(fallback=False) as client:
            with pytest.raises(ServiceDown):
                await client.recommend(PILOT, "pass@8", 8)

    asyncio.run(scenario())
    assert waits[0] == 0.2


def test_both_clients_have_the_same_methods():
    def public(kind: type) -> set[str]:
        return {name for name in vars(kind) if not name.startswith("_")}

    assert public(Client) == public(AsyncClient)


def test_the_real_service_and_then_none(serve):
    with serve() as (process, address), Client(address, retries=1) as client:
        answer = client.recommend(PILOT, "pass@8", 8)
        assert answer.source == "service"
        assert answer.id
        assert answer.gamma == pytest.approx(rl2ml.recommend(PILOT, "pass@8", 8).gamma, abs=1e-9)
        with pytest.raises(ServiceError, match="422"):
            client.recommend(PILOT, "pass@8", 8, gamma_min=3.0)
        process.kill()
        process.wait()
        with pytest.warns(ServiceUnavailable):
            assert client.recommend(PILOT, "pass@8", 8).gamma == answer.gamma
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert client.recommend(PILOT, "pass@8", 8).source == "local"
