"""Health checks: which pilots raise which, and at what point."""

import pytest

import rl2ml_core as rl2ml
from rl2ml_core.pilot.diagnostics import Diagnostic, pilot_diagnostics, set_by_prior


def pilot(*cells):
    return rl2ml.PilotHistogram.from_cells(cells)


def codes(*cells):
    return [found.code for found in pilot_diagnostics(pilot(*cells))]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([(8, 0, 32), (8, 4, 32)], []),
        ([(8, 0, 32), (8, 4, 31)], ["small_pilot", "mostly_all_fail"]),  # 63 prompts, 50.8 % without a success
        ([(8, 0, 33), (8, 4, 31)], ["mostly_all_fail"]),
        ([(8, 8, 32), (8, 4, 32)], []),
        ([(8, 8, 33), (8, 4, 31)], ["mostly_all_pass"]),
        ([(8, 3, 63.5)], ["small_pilot"]),
        ([(8, 0, 3)], ["small_pilot", "mostly_all_fail"]),
        ([(8, 8, 3)], ["small_pilot", "mostly_all_pass"]),
        ([(1, 0, 40), (1, 1, 60)], ["mostly_all_pass"]),
    ],
)
def test_codes(cells, expected):
    assert codes(*cells) == expected


def test_findings_are_sentences_with_their_numbers():
    small, failing = pilot_diagnostics(pilot((8, 0, 30), (8, 4, 10)))
    assert small == Diagnostic("small_pilot", "warning", "40 prompts; 64 or more are recommended.")
    assert failing.detail.startswith("75% of the prompts have no success")
    assert failing.to_dict() == {"code": "mostly_all_fail", "level": "warning", "detail": failing.detail}
    assert {small.level, failing.level} <= {"info", "warning", "error"}


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ([(8, 4, 100)], "every prompt has the same counts"),
        ([(1, 0, 50), (1, 1, 50)], "one rollout per prompt shows no spread of pass rates"),
        ([(8, 0, 99), (8, 1, 1)], "at most one prompt has a success"),
        ([(8, 8, 99), (8, 7, 1)], "at most one prompt has a failure"),
        ([(8, 0, 99), (8, 1, 2)], None),
        ([(8, 8, 99), (8, 7, 2)], None),
        ([(1, 0, 50), (2, 1, 50)], None),
    ],
)
def test_when_the_prior_shapes_the_answer(cells, reason):
    assert set_by_prior(pilot(*cells)) == reason
