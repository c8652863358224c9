"""Pilots in groups: what comes back, and what never does."""

import json

import pytest

import rl2ml_core as rl2ml
from app.examples import REQUEST_EXAMPLES
from tests.app.test_contract import GROUP, check_fields

#: One source of hard prompts and one of mixed ones, large enough to differ by more than noise.
HARD, EASY = [(8, 0, 300), (8, 1, 60), (8, 4, 20)], [(8, 2, 100), (8, 4, 200), (8, 7, 100)]


def cells(rows):
    return {"cells": [dict(zip(("num_rollouts", "num_successes", "num_prompts"), row, strict=True)) for row in rows]}


@pytest.fixture
def grouped(question):
    return question | {"pilot": {"groups": {"hard": cells(HARD), "easy": cells(EASY)}}}


def test_answer_is_the_librarys(client, conforms, grouped):
    answer = conforms(client.ask(grouped))
    pilots = {name: rl2ml.PilotHistogram.from_cells(rows) for name, rows in (("easy", EASY), ("hard", HARD))}
    expected = rl2ml.recommend_groups(pilots, "pass@8", 4, criterion="rms_gain")
    joint = expected.joint.to_dict()
    assert {name: answer[name] for name in joint} == joint
    groups = answer["groups"]
    assert groups["summary"] == expected.summary
    assert groups["differ"] is expected.differ is True
    assert [group["name"] for group in groups["by_group"]] == ["easy", "hard"]
    for group, own in zip(groups["by_group"], expected.groups, strict=True):
        check_fields(group, GROUP)
        content = own.to_dict() | own.recommendation.to_dict()
        assert group == {name: content[name] for name in GROUP}
        rl2ml.Objective.from_dict(group["objective"])


def test_joint_answer_is_that_of_all_prompts_together(client, conforms, grouped, question):
    joint = conforms(client.ask(grouped))
    together = conforms(client.ask(question | {"pilot": cells(HARD + EASY)}))
    assert joint["id"] != together["id"]
    ignored = ("id", "groups")
    assert {k: v for k, v in joint.items() if k not in ignored} == {
        k: v for k, v in together.items() if k not in ignored
    }


def test_a_group_that_tells_nothing_is_an_answer(client, conforms, question):
    pilot = {"groups": {"hopeless": cells([(8, 0, 64)]), "easy": cells(EASY)}}
    answer = conforms(client.ask(question | {"pilot": pilot}))
    easy, hopeless = answer["groups"]["by_group"]
    assert hopeless["status"] == "uninformative"
    for name in ("gamma", "interval", "near_optimal", "objective", "difference", "loss_of_joint"):
        assert hopeless[name] is None
    assert easy["gamma"] is not None
    assert answer["gamma"] is not None
    nothing = {"groups": {"a": cells([(8, 0, 64)]), "b": cells([(8, 0, 6)])}}
    assert conforms(client.ask(question | {"pilot": nothing}))["status"] == "uninformative"


def test_eq_4_and_no_draws_and_one_group(client, conforms, grouped):
    for change in ({"search": {"criterion": "paper"}}, {"uncertainty": {"bootstrap": 0}}):
        answer = conforms(client.ask(grouped | change))
        assert len(answer["groups"]["by_group"]) == 2
    assert {group["difference"] for group in answer["groups"]["by_group"]} == {None}
    alone = conforms(client.ask(grouped | {"pilot": {"groups": {"all": cells(HARD)}}}))
    assert alone["groups"]["differ"] is None
    (group,) = alone["groups"]["by_group"]
    assert group["gamma"] == alone["gamma"]
    assert group["loss_of_joint"] == 0


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "NaN",
        "-Infinity",
        "Infinity",
        "数学/代数",
        "<b>&amp;</b>",
        "a b",
        "a.b/c~1",
        '"',
        "\\",
        "groups",
        "x" * 200,
    ],
)
def test_names_come_back_as_they_are(client, conforms, question, name):
    pilot = {"groups": {name: cells(HARD), "other": cells(EASY)}}
    answer = conforms(client.ask(question | {"pilot": pilot}))
    assert name in [group["name"] for group in answer["groups"]["by_group"]]
    assert client.get(f"/v1/recommendations/{answer['id']}").json() == answer


@pytest.mark.parametrize(
    ("groups", "pointer", "words"),
    [
        ({}, "#/pilot/groups", "at least 1 item"),
        ([], "#/pilot/groups", "an object"),
        (None, "#/pilot/groups", "an object"),
        ({f"s{i}": cells(EASY) for i in range(257)}, "#/pilot/groups", "at most 256 items"),
        ({"": cells(EASY)}, "#/pilot/groups", "name"),
        ({"x" * 201: cells(EASY)}, "#/pilot/groups", "name"),
        ({"  ": cells(EASY)}, "#/pilot/groups", "not all of them spaces"),
        ({"secret\nname": cells(EASY)}, "#/pilot/groups", "printable"),
        ({"secret\u202ename": cells(EASY)}, "#/pilot/groups", "printable"),
        ({"secret": 1}, "#/pilot/groups", "an object"),
        ({"secret": []}, "#/pilot/groups", "an object"),
        ({"secret": {}}, "#/pilot/groups", "cells of a group: Field required"),
        ({"secret": {"cells": []}}, "#/pilot/groups", "cells of a group: "),
        ({"secret": {"cells": [1]}}, "#/pilot/groups", "cells/0 of a group: expected an object"),
        ({"secret": {"cells": [{"num_rollouts": 8}]}}, "#/pilot/groups", "cells/0/num_successes of a group"),
        ({"secret": {"pass_rates": [0.5]}}, "#/pilot/groups", "cells of a group: Field required"),
        ({"secret": {"groups": {"secret": cells(EASY)}}}, "#/pilot/groups", "groups of a group: unknown field"),
        ({"secret": cells([(8, 9, 1)])}, "#/pilot/groups", "cells/0 of a group: num_successes must not exceed"),
        ({"secret": cells([(8, 1, 1), (8, 9, 1)])}, "#/pilot/groups", "cells/1 of a group: num_successes must not"),
        ({"secret": cells([(8, 1, 0)])}, "#/pilot/groups", "the cells hold no prompt"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_wrong_groups(client, refused, question, unsolvable, groups, pointer, words):
    response = client.ask(question | {"pilot": {"groups": groups}})
    errors = refused(response, "invalid-request")["errors"]
    assert {error["pointer"] for error in errors} == {pointer}
    assert any(words in error["detail"] for error in errors), errors
    assert not any(word in response.text for word in ("secret", "s25", "xxx", "dictionary", "Dictionary"))


def test_groups_beside_another_form(client, refused, grouped):
    grouped["pilot"]["cells"] = cells(EASY)["cells"]
    (error,) = refused(client.ask(grouped), "invalid-request")["errors"]
    assert error == {"pointer": "#/pilot/cells", "detail": "unknown field"}


def test_errors_of_the_solve_name_no_group(client, refused, grouped):
    response = client.ask(grouped | {"search": {"gamma_min": 3}})
    assert refused(response, "invalid-request")["errors"][0]["pointer"] == "#/search/gamma_min"
    assert "hard" not in response.text


def test_many_groups_leave_this_process_and_give_the_same_bytes(client_with, question, monkeypatch):
    pilot = {"groups": {f"source {i}": cells([(8, 0, 9), (8, i % 8 + 1, 5)]) for i in range(12)}}
    body = question | {"pilot": pilot, "uncertainty": {"bootstrap": 20}}
    inline = client_with(inline_milliseconds=1e6).ask(body)
    assert inline.status_code == 200
    monkeypatch.setattr("rl2ml_core.recommend_groups", lambda *_, **__: pytest.fail("solved in this process"))
    assert client_with(pool_workers=1).ask(body).content == inline.content


def test_last_of_equal_names_counts(client, question):
    example = REQUEST_EXAMPLES["groups"]["value"]
    text = json.dumps(example).replace('"algebra":', '"geometry":')
    (group,) = client.ask(text).json()["groups"]["by_group"]
    assert group["name"] == "geometry"
