"""Plans as values: their sentences say what their numbers do."""

import pytest

from rl2ml_core.selection.pilot_plans import PilotPlan, PilotSize
from rl2ml_core.selection.plans import BudgetPlan, Planned, plan_summary


def planned(n, gain):
    return Planned(n, 512 // n, 512.0, 1.0, 2.0, gain, gain, None, 0.5)


def test_a_summary_names_the_split_what_others_lose_and_the_width():
    rows = [
        planned(2, 0.8),
        planned(4, 0.97),
        planned(7, 0.996),
        planned(8, 1.0),
        planned(16, 0.9952),
        planned(32, 0.9),
    ]
    assert plan_summary(512, rows[3], rows) == (
        "Spend 512 rollouts per step on 64 prompts × 8 rollouts (from 7 to 16 within 1 %). "
        "Others lose per step: N = 2: 20 %, N = 4: 3 %, N = 16: 0.5 %, N = 32: 10 %."
    )


def test_the_width_has_no_gaps():
    rows = [planned(n, gain) for n, gain in ((6, 0.995), (8, 1.0), (9, 0.98), (10, 0.995))]
    assert "(from 6 to 8 within 1 %)" in plan_summary(512, rows[1], rows)


def test_a_summary_says_where_nothing_is_at_stake():
    rows = [planned(4, 0.995), planned(8, 1.0)]
    assert "N hardly matters here: all from 4 to 8 are within 1 % of the best." in plan_summary(512, rows[1], rows)
    assert plan_summary(512, rows[1], rows[1:]) == "Spend 512 rollouts per step on 64 prompts × 8 rollouts."
    alone = Planned(1, 1, 1.0, 0.0, 2.0, 1.0, 1.0, None, 1.0)
    assert plan_summary(1, alone, [alone]) == (
        "Spend 1 rollout per step on 1 prompt × 1 rollout. With one rollout per prompt every γ is plain RL, and most "
        "trainers want two or more."
    )


def test_losses_are_of_the_frontier():
    rows = (planned(4, 0.97), planned(8, 1.0))
    plan = BudgetPlan("planned", "", 512, rows[1], rows, None, (), (), ())
    assert plan.loss_of(4) == pytest.approx(0.03)
    assert plan.loss_of(5) is None
    assert plan.near_optimal == (8,)
    assert BudgetPlan.without("infeasible", "so it is", 4).summary == "No plan: so it is."


def size(prompts, regret, kind="prompts", rollouts=8):
    return PilotSize(kind, prompts, rollouts, float(prompts * rollouts), regret, 0.001)


def test_the_cheapest_pilot_lies_between_two_sizes():
    plan = PilotPlan.of(0.08, 100, 0.0, (size(100, 0.04), size(500, 0.01)), 0.02)
    # Linear in 1/P: 2/3 of the way from 1/200 to 1/600, so 1/P = 1/360.
    assert plan.needed.prompts == 260
    assert plan.status == "more"
    assert plan.summary == (
        "γ chosen from this pilot loses 8.00% of a step's gain on average. "
        "About 260 more prompts × 8 would bring it to 2.00%."
    )


def test_more_rollouts_may_be_cheaper():
    plan = PilotPlan.of(0.08, 100, 0.0, (size(100, 0.04), size(400, 0.01), size(50, 0.02, "rollouts")), 0.02)
    assert plan.needed.kind == "rollouts"
    assert "About 8 more rollouts of each prompt would bring it to 2.00%." in plan.summary


@pytest.mark.parametrize(
    ("now", "floor", "target", "status", "said"),
    [
        (
            0.005,
            0.0,
            0.01,
            "enough",
            "γ chosen from this pilot loses 0.50% of a step's gain on average, below 1.00%: it is enough.",
        ),
        (0.05, 0.004, 0.02, "more", "κ, which is not known, accounts for 0.40% whatever the pilot: measure it."),
        (0.05, 0.03, 0.005, "out_of_reach", "No pilot reaches 0.50%."),
        (0.05, 0.0, 0.005, "out_of_reach", "No pilot of the sizes asked about (the least is 1.00%) reaches 0.50%."),
        (None, 0.0, 0.05, "more", "A pilot of 100 prompts × 8 is expected to lose 4.00% of a step's gain."),
        (None, 0.0, 0.02, "more", "A pilot of 200 prompts × 8 is expected to lose 2.00% of a step's gain."),
    ],
)
def test_a_pilots_sentence(now, floor, target, status, said):
    plan = PilotPlan.of(now, 0.0 if now is None else 100.0, floor, (size(100, 0.04), size(400, 0.01)), target)
    assert plan.status == status
    assert said in plan.summary
