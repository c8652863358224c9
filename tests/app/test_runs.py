"""`/v1/runs`: the controller's decisions, window by window, on either store."""

import asyncio
import base64
import json
from typing import Any

import numpy as np
import pytest

import rl2ml_core as rl2ml
from app.examples import REWIND_EXAMPLES, RUN_EXAMPLES, WINDOW_EXAMPLES
from app.settings import Settings

RUNS = "/v1/runs"
#: By the fast criterion: what is tested here is the same under every one.
RUN = {
    "metric": "pass@8",
    "budget": {"num_rollouts": 8},
    "search": {"criterion": "rms_gain"},
    "uncertainty": {"bootstrap": 20},
}
PILOT = [[8, 0, 30], [8, 2, 20], [8, 6, 14]]


@pytest.fixture
def client(client_with, kept):
    return client_with(**kept).solve_here()


def windows(count: int, prompts: int = 48, seed: int = 0) -> list[list[int]]:
    """Success counts of a policy that gets better."""
    rng = np.random.default_rng(seed)
    skill = rng.normal(-2, 2, prompts)
    return [rng.binomial(8, 1 / (1 + np.exp(-skill - 0.1 * i))).tolist() for i in range(count)]


def create(client, body: Any = RUN, **headers: str) -> Any:
    response = client.ask(body, headers, RUNS)
    assert response.status_code == 201, response.text
    return response.json()


def put_all(client, run: str, counts: list[list[int]], first: int = 0) -> list[Any]:
    answers = []
    for index, window in enumerate(counts, start=first):
        response = client.put(run, index, window)
        assert response.status_code == 201, response.text
        answers.append(response.json())
    return answers


# --- decisions --------------------------------------------------------------------------------------------------------


def test_it_looks_ahead_unless_told_otherwise(client):
    counts = windows(3)
    created = create(client, {name: value for name, value in RUN.items() if name != "search"})
    assert create(client)["settings"]["criterion"] == "rms_gain"
    assert created["settings"]["criterion"] == "lookahead"
    answers = put_all(client, created["id"], counts)
    histograms = [rl2ml.PilotHistogram.from_counts(window, 8) for window in counts]
    states = rl2ml.replay_controller(rl2ml.ControllerSettings("pass@8", 8, bootstrap=20), None, histograms)
    assert [answer["decision"]["gamma"] for answer in answers] == [state.gamma for state in states[1:]]


@pytest.mark.parametrize("pilot", [None, PILOT])
def test_decisions_are_those_of_the_library(client, conforms, pilot):
    counts = windows(30)
    counts[7] = []
    cells = (
        None
        if pilot is None
        else [dict(zip(("num_rollouts", "num_successes", "num_prompts"), c, strict=True)) for c in pilot]
    )
    created = client.ask(RUN | ({"pilot": {"cells": cells}} if cells else {}), path=RUNS)
    run = conforms(created)
    assert created.headers["location"] == f"{RUNS}/{run['id']}"
    answered = [run["decision"]]
    for index, window in enumerate(counts):
        response = client.put(run["id"], index, window if window else {"cells": []})
        assert response.status_code == 201
        answer = conforms(response)
        assert (answer["run"], answer["index"], answer["generation"], answer["num_prompts"]) == (
            run["id"],
            index,
            0,
            len(window),
        )
        answered.append(answer["decision"])
    histograms = [rl2ml.PilotHistogram.from_counts(window, 8) if window else None for window in counts]
    start = None if pilot is None else rl2ml.PilotHistogram.from_cells(pilot)
    states = rl2ml.replay_controller(
        rl2ml.ControllerSettings("pass@8", 8, criterion="rms_gain", bootstrap=20), start, histograms
    )
    expected = [json.loads(json.dumps(state.decision.to_dict())) for state in states]
    assert answered == expected
    assert {decision["moved"] for decision in expected} == {True, False}, "the counts are no test otherwise"
    now = conforms(client.get(f"{RUNS}/{run['id']}"))
    assert (now["index"], now["decision"]) == (30, expected[-1])
    assert rl2ml.ControllerSettings.from_dict(now["settings"]) == states[0].settings


def test_forms_of_a_window_are_one(client):
    run = create(client)["id"]
    first = client.put(run, 0, {"num_rollouts": [8, 8, 6], "num_successes": [3, 0, 3]})
    assert first.status_code == 201
    rows = [(6, 3, 1), (8, 3, 1), (8, 0, 0.5), (8, 0, 0.5)]
    cells = [dict(zip(("num_rollouts", "num_successes", "num_prompts"), row, strict=True)) for row in rows]
    again = client.put(run, 0, {"cells": cells})
    assert (again.status_code, again.content) == (200, first.content)
    for empty in ({"cells": []}, {"num_rollouts": 8, "num_successes": []}, {"num_rollouts": [], "num_successes": []}):
        assert client.put(run, 1, empty).status_code in (200, 201)


def test_restored_states_decide_alike(client_with, kept):
    """What comes from the store, after a restart or with the memory full, is the same to the last bit."""
    counts = windows(12)
    one = client_with(**kept).solve_here()
    run = create(one)["id"]
    expected = put_all(one, run, counts)
    other = create(one)["id"]
    answers = []
    for index, window in enumerate(counts):
        answers += put_all(client_with(**kept).solve_here(), other, [window], first=index)
    assert [answer["decision"] for answer in answers] == [answer["decision"] for answer in expected]


def test_solves_are_the_same_in_a_child(client, client_with, kept):
    """Windows are solved there, and here while long jobs hold all children."""
    body, counts = RUN | {"pilot": {"num_rollouts": 8, "num_successes": windows(1)[0]}}, windows(3)
    away, at_once = client_with(**kept), client_with(**kept, inline_milliseconds=0)
    found = [put_all(one, create(one, body)["id"], counts) for one in (client, away, at_once)]
    decisions = [[answer["decision"] for answer in answers] for answers in found]
    assert decisions[0] == decisions[1] == decisions[2]
    assert client.app.state.pool._executor is None
    assert away.app.state.pool._executor is not None


def test_windows_of_many_runs_at_once(client_with, kept):
    client = client_with(**kept)
    runs, (window,) = [create(client)["id"] for _ in range(40)], windows(1)
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"num_rollouts": 8, "num_successes": window})

    async def put_everywhere():
        puts = (client.http.put(f"{RUNS}/{run}/windows/0", content=body, headers=headers) for run in runs)
        return await asyncio.gather(*puts)

    answers = client.run(put_everywhere())
    assert {answer.status_code for answer in answers} == {201}, "more than the pool's queue, and none is turned away"
    assert len({json.dumps(answer.json()["decision"]) for answer in answers}) == 1
    assert client.app.state.pool.jobs == 0


# --- doing it again ---------------------------------------------------------------------------------------------------


def test_windows_put_again_and_out_of_order(client, refused, conforms):
    run, counts = create(client)["id"], windows(4)
    first = [client.put(run, index, window) for index, window in enumerate(counts)]
    for index, window in enumerate(counts):
        again = client.put(run, index, window)
        assert (again.status_code, again.content) == (200, first[index].content)
        conforms(again)
    for index, window in ((2, counts[3]), (3, []), (5, counts[0]), (4000, [])):
        response = client.put(run, index, window)
        assert refused(response, "window-conflict")["expected_index"] == 4
        conforms(response)
    assert client.get(f"{RUNS}/{run}").json()["index"] == 4


def test_the_same_key_is_the_same_run(client, refused, conforms):
    first = client.ask(RUN, {"Idempotency-Key": "job-1"}, RUNS)
    run = first.json()["id"]
    spelled = RUN | {"current": "grpo", "metric": {"name": "pass_at_k", "k": 8}, "controller": {"half_life": 2}}
    again = client.ask(spelled, {"Idempotency-Key": "job-1"}, RUNS)
    assert (again.status_code, again.content) == (200, first.content)
    assert again.headers["content-location"] == f"{RUNS}/{run}"
    put_all(client, run, windows(2))
    assert conforms(client.ask(RUN, {"Idempotency-Key": "job-1"}, RUNS))["index"] == 2, "as it stands"
    other = client.ask(RUN | {"current": "rloo"}, {"Idempotency-Key": "job-1"}, RUNS)
    refused(other, "idempotency-key-reused")
    with_pilot = RUN | {"pilot": {"num_rollouts": 8, "num_successes": [1, 2]}}
    refused(client.ask(with_pilot, {"Idempotency-Key": "job-1"}, RUNS), "idempotency-key-reused")
    assert client.ask(RUN, {"Idempotency-Key": "job-2"}, RUNS).json()["id"] != run
    assert client.request("DELETE", f"{RUNS}/{run}").status_code == 204
    assert client.ask(RUN, {"Idempotency-Key": "job-1"}, RUNS).status_code == 201


@pytest.mark.parametrize("key", ["", " ", "a b", "x" * 256, "é"])
def test_keys_that_are_none(client, refused, key):
    headers = {"Content-Type": "application/json", "Idempotency-Key": key.encode("latin-1")}
    refused(client.request("POST", RUNS, content=json.dumps(RUN), headers=headers), "invalid-request")


def test_rewinds(client, refused, conforms):
    run, counts, others = create(client)["id"], windows(6), windows(6, seed=1)
    answers = put_all(client, run, counts)
    back = conforms(client.ask({"to_index": 3}, path=f"{RUNS}/{run}/rewinds"))
    assert (back["index"], back["generation"]) == (3, 1)
    assert back["decision"] == answers[2]["decision"]
    again = client.ask({"to_index": 3}, path=f"{RUNS}/{run}/rewinds")
    assert (again.status_code, again.json()) == (200, back)
    response = client.ask({"to_index": 4}, path=f"{RUNS}/{run}/rewinds")
    assert refused(response, "window-conflict")["expected_index"] == 3
    assert refused(client.put(run, 5, counts[5]), "window-conflict")["expected_index"] == 3
    taken = put_all(client, run, others[3:5], first=3)
    assert {answer["generation"] for answer in taken} == {1}
    replayed = rl2ml.replay_controller(
        rl2ml.ControllerSettings("pass@8", 8, criterion="rms_gain", bootstrap=20),
        None,
        [rl2ml.PilotHistogram.from_counts(c, 8) for c in counts[:3] + others[3:5]],
    )
    assert taken[-1]["decision"] == json.loads(json.dumps(replayed[-1].decision.to_dict()))
    start = conforms(client.ask({"to_index": 0}, path=f"{RUNS}/{run}/rewinds"))
    assert (start["index"], start["generation"], start["decision"]["code"]) == (0, 2, "no_evidence")
    listed = conforms(client.get(f"{RUNS}/{run}/windows"))
    assert [(item["generation"], item["index"]) for item in listed["items"]] == [
        *((0, i) for i in range(6)),
        (1, 3),
        (1, 4),
    ]
    assert all(item["superseded"] for item in listed["items"])
    put_all(client, run, counts[:1])
    assert [item["superseded"] for item in client.get(f"{RUNS}/{run}/windows").json()["items"]] == [True] * 8 + [False]


# --- lists ------------------------------------------------------------------------------------------------------------


def pages(client, path: str, limit: int, between: Any = None) -> list[Any]:
    items, cursor = [], None
    while True:
        response = client.get(f"{path}?limit={limit}" + (f"&cursor={cursor}" if cursor else ""))
        assert response.status_code == 200, response.text
        content = response.json()
        assert len(content["items"]) <= limit
        items += content["items"]
        cursor = content["next_cursor"]
        if cursor is None:
            return items
        if between is not None:
            between()


def test_pages_of_runs_are_stable_while_runs_are_created(client, conforms):
    runs = [create(client)["id"] for _ in range(7)]
    found = pages(client, RUNS, 2, between=lambda: create(client))
    assert [item["id"] for item in found] == runs[::-1]
    assert "decision" not in found[0]
    conforms(client.get(f"{RUNS}?limit=2"))
    assert len(pages(client, RUNS, 100)) == 10


def test_pages_of_windows(client, conforms):
    run, counts = create(client)["id"], windows(7)
    answers = put_all(client, run, counts)
    extra = iter(range(7, 20))
    found = pages(client, f"{RUNS}/{run}/windows", 3, between=lambda: client.put(run, next(extra), counts[0]))
    assert [item["index"] for item in found] == list(range(9))
    for item, answer, window in zip(found, answers, counts, strict=False):
        assert answer["decision"].pop("objective")
        assert item["decision"] == answer["decision"]
        assert item["cells"] == [list(cell) for cell in rl2ml.PilotHistogram.from_counts(window, 8).cells()]
    conforms(client.get(f"{RUNS}/{run}/windows?limit=3"))


def test_an_empty_list(client, conforms):
    assert conforms(client.get(RUNS)) == {"items": [], "next_cursor": None}
    assert conforms(client.get(f"{RUNS}/{create(client)['id']}/windows")) == {"items": [], "next_cursor": None}


@pytest.mark.parametrize("limit", ["0", "101", "x", ""])
def test_wrong_limits(client, refused, limit):
    refused(client.get(f"{RUNS}?limit={limit}"), "invalid-request")


def encoded(place: str) -> str:
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "x", "!!", "%00", "A" * 201),
        *map(
            encoded, ("[]", "[1,1]", '[1.5,"x"]', '[1,"%"]', '[1000000000000000000000,"x"]', '[1,"\\u0000"]', "[" * 90)
        ),
        *map(encoded, ('[true,"x"]', '[-1,"x"]', "{}", "null", '[1,""]')),
    ],
)
def test_wrong_cursors(client, refused, cursor):
    refused(client.get(f"{RUNS}?cursor={cursor}"), "invalid-request")


def test_a_cursor_of_another_list(client, refused):
    run = create(client)["id"]
    put_all(client, run, windows(3))
    create(client)
    cursor = client.get(f"{RUNS}?limit=1").json()["next_cursor"]
    refused(client.get(f"{RUNS}/{run}/windows?cursor={cursor}"), "invalid-request")


def test_what_was_read_before_is_not_sent_again(client):
    run = create(client)["id"]
    put_all(client, run, windows(2))
    for path in (RUNS, f"{RUNS}/{run}", f"{RUNS}/{run}/windows"):
        first = client.get(path)
        tag = first.headers["etag"]
        again = client.get(path, **{"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        client.put(run, client.get(f"{RUNS}/{run}").json()["index"], [])
        assert client.get(path, **{"If-None-Match": tag}).status_code == 200


# --- whose ------------------------------------------------------------------------------------------------------------


def test_others_have_no_such_run(client, refused, monkeypatch):
    def be(owner: str | None) -> None:
        monkeypatch.setattr("app.routes.runs.owner_of", lambda _: owner)

    be("ada")
    run = create(client, **{"Idempotency-Key": "job"})["id"]
    put_all(client, run, windows(1))
    for other in ("bob", None):
        be(other)
        refused(client.get(f"{RUNS}/{run}"), "not-found")
        refused(client.get(f"{RUNS}/{run}/windows"), "not-found")
        for index in (0, 1):  # with the state in memory, and without
            refused(client.put(run, index, windows(1)[0]), "not-found")
        refused(client.ask({"to_index": 0}, path=f"{RUNS}/{run}/rewinds"), "not-found")
        refused(client.request("DELETE", f"{RUNS}/{run}"), "not-found")
        assert client.get(RUNS).json()["items"] == []
        assert create(client, **{"Idempotency-Key": "job"})["id"] != run
        assert (
            client.request("DELETE", client.get(RUNS).json()["items"][0]["id"].join([f"{RUNS}/", ""])).status_code
            == 204
        )
    be("ada")
    assert client.get(f"{RUNS}/{run}").json()["index"] == 1
    assert client.request("DELETE", f"{RUNS}/{run}").status_code == 204
    refused(client.get(f"{RUNS}/{run}"), "not-found")
    refused(client.put(run, 1, []), "not-found")
    refused(client.request("DELETE", f"{RUNS}/{run}"), "not-found")


@pytest.mark.parametrize(
    "run", ["run_0", "run_" + "0" * 32, "RUN_" + "0" * 32, "x" * 5000, "%00", "run_%F0%9F%92%A5", "'; DROP TABLE runs"]
)
def test_runs_that_are_not_there(client, refused, run):
    for response in (
        client.get(f"{RUNS}/{run}"),
        client.get(f"{RUNS}/{run}/windows"),
        client.put(run, 0, []),
        client.ask({"to_index": 0}, path=f"{RUNS}/{run}/rewinds"),
        client.request("DELETE", f"{RUNS}/{run}"),
    ):
        refused(response, "not-found")


# --- what is refused --------------------------------------------------------------------------------------------------

CELL = {"num_rollouts": 8, "num_successes": 1, "num_prompts": 1}


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"metric": "pass@0"}, "#/metric"),
        ({"budget": {"num_rollouts": 0}}, "#/budget/num_rollouts"),
        ({"budget": {"num_rollouts": 4097}}, "#/budget/num_rollouts"),
        ({"search": {"gamma_min": 2, "gamma_max": 1}}, "#/search/gamma_min"),
        ({"search": {"variance_penalty": 1}}, "#/search/variance_penalty"),
        ({"search": {"judged_on": "either"}}, "#/search/judged_on"),
        ({"search": {"look_ahead": True}}, "#/search/look_ahead"),
        ({"uncertainty": {"level": 0.9}}, "#/uncertainty/level"),
        ({"uncertainty": {"bootstrap": 2001}}, "#/uncertainty/bootstrap"),
        ({"estimator": {"order": 9}}, "#/estimator/order"),
        ({"controller": {"half_life": 0.01}}, "#/controller/half_life"),
        ({"controller": {"hysteresis": 1.5}}, "#/controller/hysteresis"),
        ({"controller": {"max_step": 0}}, "#/controller/max_step"),
        ({"controller": {"min_prompts": 1}}, "#/controller/min_prompts"),
        ({"controller": {"initial_gamma": 3}}, "#/controller/initial_gamma"),
        ({"controller": {"speed": 1}}, "#/controller/speed"),
        ({"current": {"success": [None, 1.0], "failure": [0.0, None]}}, "#/current"),
        ({"pilot": {"pass_rates": [0.5]}}, "#/pilot/num_rollouts"),
        ({"pilot": {"groups": {"a": {"cells": [CELL]}}}}, "#/pilot/groups"),
        ({"pilot": {"id": "pilot_1"}}, "#/pilot/id"),
        ({"pilot": {"id": "pilot_" + "0" * 32}}, "#/pilot/id"),
        ({"pilot": {"cells": [CELL | {"num_successes": 9}]}}, "#/pilot/cells/0"),
        ({"surprise": 1}, "#/surprise"),
    ],
)  # fmt: skip
def test_wrong_runs(client, refused, change, pointer):
    content = refused(client.ask(RUN | change, path=RUNS), "invalid-request", "limit-exceeded")
    assert pointer in [error["pointer"] for error in content["errors"]]
    assert client.get(RUNS).json()["items"] == []


@pytest.mark.parametrize(
    ("window", "pointer"),
    [
        ({}, "#/num_rollouts"),
        ({"cells": {}}, "#/cells"),
        ({"cells": [CELL | {"num_successes": 9}]}, "#/cells/0"),
        ({"cells": [CELL | {"num_prompts": -1}]}, "#/cells/0/num_prompts"),
        ({"cells": [CELL | {"num_prompts": 0}]}, "#/cells"),
        ({"cells": [CELL | {"num_prompts": 1e9}]}, "#"),
        ({"cells": [], "num_rollouts": 8}, "#/num_rollouts"),
        ({"num_rollouts": 8, "num_successes": [9]}, "#/num_successes/0"),
        ({"num_rollouts": [8, 8], "num_successes": [1]}, "#/num_rollouts"),
        ({"num_rollouts": [8], "num_successes": []}, "#/num_rollouts"),
        ({"num_rollouts": True, "num_successes": [1]}, "#/num_rollouts"),
        ({"num_rollouts": 8, "num_successes": [1.5]}, "#/num_successes/0"),
    ],
)  # fmt: skip
def test_wrong_windows(client, refused, window, pointer):
    run = create(client)["id"]
    content = refused(client.put(run, 0, window), "invalid-request")
    assert pointer in [error["pointer"] for error in content["errors"]]
    assert client.get(f"{RUNS}/{run}").json()["index"] == 0


@pytest.mark.parametrize("index", ["-1", "x", "1.5", "2147483647", "9" * 30])
def test_wrong_indices(client, refused, index):
    run = create(client)["id"]
    refused(client.put(run, index, []), "invalid-request")
    raw = client.ask('{"to_index": ' + index + "}", path=f"{RUNS}/{run}/rewinds")
    refused(raw, "invalid-request", "malformed-json")


def test_limits_count_the_evidence_of_a_run(client_with, refused, kept):
    client = client_with(**kept, max_draw_cells=20 * 9)
    run = create(client)["id"]
    put_all(client, run, [[0, 1, 2, 3, 4, 5, 6]])
    content = refused(client.put(run, 1, {"num_rollouts": 7, "num_successes": [0, 1, 2]}), "limit-exceeded")
    assert content["errors"] == [{"pointer": "#", "detail": "at most 180 draws × cells, with the run's evidence"}]


@pytest.mark.parametrize("name", RUN_EXAMPLES)
def test_examples_of_runs(client, conforms, name):
    response = client.ask(RUN_EXAMPLES[name]["value"], path=RUNS)
    assert response.status_code == 201, response.text
    conforms(response)


def test_examples_of_windows_and_rewinds(client, conforms):
    run = create(client)["id"]
    for index, example in enumerate(WINDOW_EXAMPLES.values()):
        conforms(client.put(run, index, example["value"]))
    for example in REWIND_EXAMPLES.values():
        conforms(client.ask(example["value"], path=f"{RUNS}/{run}/rewinds"))


def test_addresses_carry_the_path_prefix(client_with, kept):
    client = client_with(**kept)
    client.http._transport.root_path = "/tools"
    response = client.ask(RUN, path=RUNS)
    assert response.headers["location"] == f"/tools{RUNS}/{response.json()['id']}"


def test_runs_need_no_setting(client_with):
    """Without a folder runs are kept as long as the process."""
    client = client_with()
    assert Settings().data_folder is None
    run = create(client)["id"]
    put_all(client, run, windows(1))
    assert client.get(f"{RUNS}/{run}").json()["index"] == 1
