"""What an operator bounds: refused by pointer, before anything is solved."""

import json
from typing import Any

import pytest

from app.settings import Settings

PATH = "/v1/recommendations"


def pilot(cells: int, n: int = 100) -> dict[str, Any]:
    return {"cells": [{"num_rollouts": n, "num_successes": k, "num_prompts": 1} for k in range(cells)]}


def groups(*sizes: int) -> dict[str, Any]:
    return {"groups": {f"group {i}": pilot(size) for i, size in enumerate(sizes)}}


LIMITS = [
    # setting, its value, a change within it, a change beyond it, pointer
    ("max_cells", 3, {"pilot": pilot(3)}, {"pilot": pilot(4)}, "#/pilot/cells"),
    (
        "max_cells",
        3,
        {"pilot": {"num_rollouts": 8, "num_successes": [0, 1, 2] * 9}},
        {"pilot": {"num_rollouts": 8, "num_successes": [0, 1, 2, 3]}},
        "#/pilot",
    ),
    ("max_cells", 2, {"pilot": {"pass_rates": [0.5, 0.25] * 9}}, {"pilot": {"pass_rates": [0.5, 0.1, 0.2]}}, "#/pilot"),
    (
        "max_prompts",
        5,
        {"pilot": {"num_rollouts": 8, "num_successes": [0, 1, 2, 3, 4]}},
        {"pilot": {"num_rollouts": 8, "num_successes": [0, 1, 2, 2, 2, 2]}},
        "#/pilot/num_successes",
    ),
    (
        "max_prompts",
        2,
        {"pilot": {"pass_rates": [0.5, 0.25], "num_rollouts": 4}},
        {"pilot": {"pass_rates": [0.5, 0.5, 0.5], "num_rollouts": 4}},
        "#/pilot/pass_rates",
    ),
    (
        "max_num_rollouts",
        16,
        {"budget": {"num_rollouts": 16}},
        {"budget": {"num_rollouts": 17}},
        "#/budget/num_rollouts",
    ),
    # 3 cells × rollouts; with draws 2700 for the values of γ
    (
        "max_work",
        2_700,
        {"budget": {"num_rollouts": 900}},
        {"budget": {"num_rollouts": 901}},
        "#/pilot",
    ),
    # 3 cells × 320 quadrature nodes each
    ("max_work", 2_800, {"metric": "log:0.1+log:0.2"}, {"metric": "log:0.1+log:0.2+log:0.3"}, "#/metric"),
    # 3 terms × 3 cells × 30 values of γ for each of its units, under 5 priors where one is fitted
    ("max_work", 2_700, {"search": {"gamma_max": 2.0}}, {"search": {"gamma_max": 2.1}}, "#/search/gamma_max"),
    # (4 × rollouts + 117,000 numbers of a path) × 29 values of γ
    (
        "max_work",
        2_700,
        {},
        {"search": {"look_ahead": True, "gamma_max": 8}, "budget": {"num_rollouts": 8}},
        "#/search/gamma_max",
    ),
    (
        "max_work",
        (4 * 4 + 117_000) * 29,
        {"search": {"criterion": "lookahead"}},
        {"search": {"criterion": "lookahead", "gamma_max": 2.1}},
        "#/search/gamma_max",
    ),
    ("max_work", 1_620, {"prior": {"alpha": 1, "beta": 1}}, {}, "#/search/gamma_max"),
    (
        "max_work",
        540,
        {"uncertainty": {"bootstrap": 0}},
        {"prior": {"name": "plug_in"}, "search": {"gamma_max": 3}},
        "#/search/gamma_max",
    ),
    # 2 + 3 cells in all, whichever group they are of
    ("max_cells", 5, {"pilot": groups(2, 3)}, {"pilot": groups(2, 2, 2)}, "#/pilot/groups"),
    # 3 cells together, then 2 + 3 and 3 + 3 for each group and all others: 14 × draws, 14 × rollouts
    (
        "max_draw_cells",
        420,
        {"pilot": groups(2, 3), "uncertainty": {"bootstrap": 30}},
        {"pilot": groups(2, 3), "uncertainty": {"bootstrap": 31}},
        "#/uncertainty/bootstrap",
    ),
    (
        "max_work",
        14_000,
        {"pilot": groups(2, 3), "budget": {"num_rollouts": 194}},
        {"pilot": groups(2, 3), "budget": {"num_rollouts": 1001}},
        "#/pilot",
    ),
    # 24 × 3 answers × rollouts
    (
        "max_work",
        14_400,
        {"pilot": groups(2, 3), "budget": {"num_rollouts": 200}},
        {"pilot": groups(2, 3), "budget": {"num_rollouts": 201}},
        "#/pilot/groups",
    ),
    ("max_gamma", 2.5, {"search": {"gamma_max": 2.5}}, {"search": {"gamma_max": 2.6}}, "#/search/gamma_max"),
    ("max_gamma", 1.5, {"search": {"gamma_max": 1.5}}, {}, "#/search/gamma_max"),  # the default is beyond it
    (
        "max_bootstrap",
        30,
        {"uncertainty": {"bootstrap": 30}},
        {"uncertainty": {"bootstrap": 31}},
        "#/uncertainty/bootstrap",
    ),
    # 3 cells × draws
    (
        "max_draw_cells",
        90,
        {"uncertainty": {"bootstrap": 30}},
        {"uncertainty": {"bootstrap": 31}},
        "#/uncertainty/bootstrap",
    ),
]


@pytest.mark.parametrize(("setting", "value", "within", "beyond", "pointer"), LIMITS)
def test_limit(client_with, refused, question, monkeypatch, setting, value, within, beyond, pointer):
    client = client_with(**{setting: value})
    within, beyond = (change | {"search": question["search"] | change.get("search", {})} for change in (within, beyond))
    response = client.ask(question | within)
    assert response.status_code == 200, response.text
    for solve in ("recommend", "recommend_groups"):
        monkeypatch.setattr(f"rl2ml_core.{solve}", lambda *_, **__: pytest.fail("solved"))
    (error,) = refused(client.ask(question | beyond), "limit-exceeded")["errors"]
    assert error["pointer"] == pointer
    assert f"at most {value:,} " in error["detail"]


def test_every_limit_of_the_settings_is_tested():
    limits = {name for name in Settings.model_fields if name.startswith("max_")}
    elsewhere = {"max_body_bytes", "max_connections", "max_in_flight"}
    elsewhere |= {"max_run_rollouts", "max_pilot_bytes", "max_pilot_rows"}  # test_runs.py and test_pilots.py
    assert {row[0] for row in LIMITS} == limits - elsewhere


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"pilot": pilot(20_001, n=20_001)}, "#/pilot/cells"),
        ({"pilot": {"num_rollouts": 1, "num_successes": [0] * 500_001}}, "#/pilot/num_successes"),
        ({"uncertainty": {"bootstrap": 2_001}}, "#/uncertainty/bootstrap"),
        ({"pilot": pilot(10_001, n=20_000), "uncertainty": {"bootstrap": 2_000}}, "#/uncertainty/bootstrap"),
        ({"pilot": pilot(401, n=1000), "budget": {"num_rollouts": 50_000}}, "#/pilot"),
        ({"pilot": pilot(2_000, n=10_000_000), "metric": "log:0.01"}, "#/metric"),
        (
            {
                "prior": {"alpha": 1e8, "beta": 1},
                "metric": "+".join(f"log:{i}" for i in range(1, 65)),
                "pilot": pilot(10),
            },
            "#/metric",
        ),
        ({"pilot": groups(100, 100), "budget": {"num_rollouts": 50_000}}, "#/pilot"),
        ({"pilot": groups(*[1] * 100), "budget": {"num_rollouts": 65_536}}, "#/pilot/groups"),
        ({"pilot": groups(*[100] * 100), "uncertainty": {"bootstrap": 2_000}}, "#/uncertainty/bootstrap"),
    ],
)
def test_default_limits(client, refused, question, unsolvable, change, pointer):
    (error,) = refused(client.ask(question | change), "limit-exceeded")["errors"]
    assert error["pointer"] == pointer


def test_what_would_outlast_the_deadline_is_refused_at_once(client_with, refused, question, unsolvable):
    client = client_with(solve_seconds=0.5)
    heavy = question | {"pilot": pilot(8_000, n=8_000), "budget": {"num_rollouts": 256}}
    assert "longer than 0.5 seconds" in refused(client.ask(heavy), "limit-exceeded")["detail"]
    # Every group is one more solve of its own and one of all others.
    many = groups(*[9] * 150)
    refused(client.ask(question | {"pilot": many}), "limit-exceeded")


def test_deadline_does_not_concern_what_is_solved_in_this_process(client_with, question):
    assert client_with(solve_seconds=0.001).ask(question).status_code == 200


def test_numbers_of_a_limit_are_told_apart(client_with, refused, question):
    response = client_with(max_draw_cells=10_000_000).ask(
        question | {"pilot": pilot(10_001, n=20_000), "uncertainty": {"bootstrap": 1_000}}
    )
    (error,) = refused(response, "limit-exceeded")["errors"]
    assert error["detail"] == "at most 10,000,000 draws × cells"


def test_refused_by_the_schema_before_the_limits(client_with, refused, question, unsolvable):
    content = refused(client_with(max_cells=1).ask(question | {"metric": 1}), "invalid-request")
    assert [error["pointer"] for error in content["errors"]] == ["#/metric"]


def test_more_names_than_cells_need(client_with, refused, question, unsolvable):
    client = client_with(max_cells=10)
    fits = question | {f"x{i}": 0 for i in range(900)}
    refused(client.ask(fits), "invalid-request")
    content = refused(client.ask(fits | {f"y{i}": 0 for i in range(900)}), "limit-exceeded")
    assert "10 cells" in content["detail"]
    # Within strings too: no parser has looked yet.
    refused(client.ask(json.dumps(question | {"metric": "[" * 5000})), "limit-exceeded")
