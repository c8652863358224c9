"""The prediction of a solve's time: what decides between this process and the pool."""

import json
from typing import Any

import pytest

from app.examples import REQUEST_EXAMPLES
from app.schemas.recommendations import RecommendationRequest
from app.settings import Settings
from app.solving import Question


def milliseconds(cells: int = 9, n: int = 8, **changes: Any) -> float:
    rows = [{"num_rollouts": 20_000, "num_successes": k, "num_prompts": 1} for k in range(cells)]
    body = {"pilot": {"cells": rows}, "metric": "pass@8", "budget": {"num_rollouts": n}} | changes
    return Question.of(RecommendationRequest.model_validate_json(json.dumps(body)), Settings()).milliseconds


@pytest.mark.parametrize(
    "sizes",
    [
        [{"cells": c} for c in (1, 10, 100, 1_000, 10_000)],
        [{"n": n} for n in (1, 8, 64, 512, 65_536)],
        [{"uncertainty": {"bootstrap": b}} for b in (0, 20, 200, 2_000)],
        [{"cells": c, "n": c} for c in (2, 20, 200, 2_000)],
        [{"search": {"gamma_max": g}} for g in (2, 5, 20)],
        [{"metric": metric} for metric in ("pass@8", "log:0.1", "pass@8+log:0.1+log:0.2")],
    ],
    ids=["cells", "rollouts", "draws", "both", "range", "metric"],
)
def test_larger_questions_are_predicted_to_take_longer(sizes):
    predicted = [milliseconds(**size) for size in sizes]
    assert predicted == sorted(set(predicted))


def test_usual_questions_stay_in_this_process_and_large_ones_leave_it():
    inline = Settings().inline_milliseconds
    for example in REQUEST_EXAMPLES.values():
        request = RecommendationRequest.model_validate_json(json.dumps(example["value"]))
        assert Question.of(request, Settings()).milliseconds < inline / 3
    assert milliseconds(cells=129, n=64) < inline
    assert milliseconds(cells=2_000, n=256) > inline
    assert milliseconds(n=65_536) > inline
    # A logarithm's quadrature has to resolve the narrowest posterior: 20,000 rollouts need many nodes.
    assert milliseconds(cells=2_000, metric="log:0.1") > inline
