"""The prediction of a solve's time: what decides between this process and the pool."""

import json
from typing import Any

import pytest

from app.examples import REQUEST_EXAMPLES
from app.schemas.recommendations import RecommendationRequest, Search
from app.settings import Settings
from app.solving import Question


def milliseconds(cells: int = 9, n: int = 8, **changes: Any) -> float:
    rows = [{"num_rollouts": 20_000, "num_successes": k, "num_prompts": 1} for k in range(cells)]
    body = {"pilot": {"cells": rows}, "metric": "pass@8", "budget": {"num_rollouts": n}} | changes
    body["search"] = {"criterion": "rms_gain"} | body.get("search", {})
    return Question.of(RecommendationRequest.model_validate_json(json.dumps(body)), Settings()).milliseconds


PRIORS = [{"name": "plug_in"}, {"alpha": 1, "beta": 1}, {"name": "empirical_bayes"}]


def groups(number: int) -> dict[str, Any]:
    cells = [{"num_rollouts": 8, "num_successes": k, "num_prompts": 9} for k in (0, 1, 5)]
    return {"groups": {f"source {i}": {"cells": cells} for i in range(number)}}


@pytest.mark.parametrize(
    "sizes",
    [
        [{"cells": c} for c in (1, 10, 100, 1_000, 10_000)],
        [{"n": n} for n in (1, 8, 64, 512, 65_536)],
        [{"uncertainty": {"bootstrap": b}} for b in (0, 20, 200, 2_000)],
        [{"cells": c, "n": c} for c in (2, 20, 200, 2_000)],
        [{"search": {"gamma_max": g}} for g in (2, 5, 20)],
        [{"metric": metric} for metric in ("pass@8", "log:0.1", "pass@8+log:0.1+log:0.2")],
        [{"pilot": {"pass_rates": [0.1, 0.2]}}, *({"prior": prior} for prior in PRIORS)],
        [{"pilot": groups(number)} for number in (1, 2, 3, 20, 256)],
        [{"n": 1024}, {"n": 1024, "search": {"criterion": "paper"}}],
        [{}, *({"search": search} for search in ({"look_ahead": True}, {"criterion": "lookahead"}))],
        [{"search": {"criterion": "lookahead"}, "uncertainty": {"bootstrap": b}} for b in (0, 20, 40)],
        [{"search": {"criterion": "lookahead", "gamma_max": g}} for g in (2, 3, 9)],
        [{"search": {"look_ahead": True, "gamma_max": g}, "n": n} for g, n in ((2, 8), (4, 8), (4, 8_000))],
        [{"metric": "log:0.1", "prior": {"alpha": a, "beta": a}} for a in (1e5, 1e8)],
    ],
    ids=[
        "cells",
        "rollouts",
        "draws",
        "both",
        "range",
        "metric",
        "prior",
        "groups",
        "criterion",
        "lookahead",
        "walks",
        "walked range",
        "opinion",
        "strength",
    ],
)
def test_larger_questions_are_predicted_to_take_longer(sizes):
    predicted = [milliseconds(**size) for size in sizes]
    assert predicted == sorted(set(predicted))


def test_usual_questions_stay_in_this_process_and_large_ones_leave_it():
    inline = Settings().inline_milliseconds
    for name, example in REQUEST_EXAMPLES.items():
        request = RecommendationRequest.model_validate_json(json.dumps(example["value"]))
        request = request.model_copy(update={"search": Search(criterion="rms_gain")})
        most = {"groups": inline, "budget": 3 * inline}.get(name, inline / 3)  # a plan looks at 64 numbers of rollouts
        assert Question.of(request, Settings()).milliseconds < most
    assert milliseconds(pilot=groups(10)) > inline
    assert milliseconds(cells=129, n=64) < inline
    assert milliseconds(cells=2_000, n=256) > inline
    assert milliseconds(n=65_536) > inline
    assert milliseconds(search={"look_ahead": True}) < inline
    assert milliseconds(search={"criterion": "lookahead"}, uncertainty={"bootstrap": 0}) > inline
    # A logarithm's quadrature has to resolve the narrowest posterior: 20,000 rollouts need many nodes.
    assert milliseconds(cells=2_000, metric="log:0.1") > inline
