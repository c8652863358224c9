"""`RunController`: groups in, the objective in force out, and a state that survives a checkpoint."""

import json

import pytest

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")

group_advantages = pytest.importorskip("rl2ml_core.training").group_advantages
control_module = pytest.importorskip("rl2ml_core.training.control")
RunController, RunsObjective = control_module.RunController, control_module.RunsObjective

SETTINGS = rl2ml.ControllerSettings("pass@8", 8, min_prompts=4, bootstrap=0)
PILOT = rl2ml.PilotHistogram.from_counts([0, 1, 0, 3, 8, 5, 2, 0], 8)


def groups_of(*successes, size=8):
    rewards = [[1.0] * k + [0.0] * (size - k) for k in successes]
    return group_advantages(rl2ml.Objective(1.0), torch.tensor(rewards).reshape(-1, size))


def test_it_decides_what_the_pure_controller_decides():
    control = RunController(SETTINGS, PILOT)
    state, decision = rl2ml.start_controller(SETTINGS, PILOT)
    assert control.objective.to_dict() == decision.objective.to_dict()
    assert control.decision.reason == decision.reason
    control.count(groups_of(0, 3, 8))
    control.count(groups_of(1, 1))
    control.count(groups_of(2, size=7))  # a missing reward
    window = rl2ml.PilotHistogram.from_counts([0, 3, 8, 1, 1, 2], [8, 8, 8, 8, 8, 7])
    state, decision = rl2ml.step_controller(state, window)
    assert control.decide().to_dict() == decision.to_dict()
    assert control.objective.to_dict() == decision.objective.to_dict()
    assert control.state_dict() == {"state": state.to_dict(), "window": None}


def test_windows_without_counts_hold_gamma():
    control = RunController(SETTINGS)
    assert control.objective.gamma == 1.0
    control.count(groups_of())  # a batch without any reward
    assert control.state_dict()["window"] is None
    decision = control.decide()
    assert (decision.code, decision.gamma, decision.index) == ("no_evidence", 1.0, 1)


def test_a_state_is_plain_json_and_goes_on_within_a_window():
    control, other = RunController(SETTINGS, PILOT), RunController(SETTINGS)
    control.count(groups_of(0, 1, 2))
    control.decide()
    control.count(groups_of(4, 4, 8))
    other.load_state_dict(json.loads(json.dumps(control.state_dict())))
    assert other.state_dict() == control.state_dict()
    assert other.objective.to_dict() == control.objective.to_dict()
    for each in (control, other):
        each.count(groups_of(5, 0))
    assert other.decide().to_dict() == control.decide().to_dict()


def test_settings_come_from_the_checkpoint():
    control = RunController(rl2ml.ControllerSettings("pass@2", 8, bootstrap=0))
    control.load_state_dict(RunController(SETTINGS).state_dict())
    assert rl2ml.ControllerState.from_dict(control.state_dict()["state"]).settings == SETTINGS


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"state": {}, "window": None},
        {"state": RunController(SETTINGS).state_dict()["state"]},
        {**RunController(SETTINGS).state_dict(), "window": [[8, 9, 1]]},
        {**RunController(SETTINGS).state_dict(), "more": 1},
    ],
    ids=["none", "empty", "no state", "no window", "impossible window", "more"],
)
def test_a_wrong_state_is_refused_and_changes_nothing(state):
    control = RunController(SETTINGS, PILOT)
    control.count(groups_of(1, 2))
    before = control.state_dict()
    with pytest.raises(rl2ml.InvalidInput):
        control.load_state_dict(state)
    assert control.state_dict() == before


def test_wrong_settings_are_refused():
    with pytest.raises(rl2ml.InvalidInput, match="settings must be ControllerSettings; got dict"):
        RunController({"metric": "pass@8"})


def test_it_keeps_the_protocol():
    assert isinstance(RunController(SETTINGS), RunsObjective)
    assert not isinstance(object(), RunsObjective)
