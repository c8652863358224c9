"""`Run`: the decisions of the controller in this process, kept by a service that may go and come back."""

import json
import re
import warnings

import httpx
import numpy as np
import pytest

import rl2ml_core as rl2ml
from rl2ml_core.client import Client, Run, ServiceDown, ServiceError, ServiceUnavailable

SETTINGS = rl2ml.ControllerSettings("pass@8", 8, bootstrap=20, min_prompts=4)
PILOT = rl2ml.PilotHistogram.from_counts([0, 1, 0, 3, 8, 5, 2, 0] * 4, 8)


def windows(count: int) -> list[rl2ml.PilotHistogram | None]:
    """Of a policy that gets better; one of them empty."""
    rng = np.random.default_rng(0)
    skill = rng.normal(-2.5, 2, size=64)
    made: list[rl2ml.PilotHistogram | None] = []
    for index in range(count):
        successes = rng.binomial(8, 1 / (1 + np.exp(-skill - 0.15 * index)))
        made.append(None if index == 3 else rl2ml.PilotHistogram.from_counts(successes, 8))
    return made


WINDOWS = windows(8)
STATES = rl2ml.replay_controller(SETTINGS, PILOT, WINDOWS)


def decisions(states) -> list[dict]:
    return [state.decision.to_dict() for state in states]


def put_all(run: Run, some) -> list[dict]:
    return [run.put(window).to_dict() for window in some]


def shown(service) -> list[dict]:
    """What the service has decided over its only run."""
    (run,) = service.runs.values()
    return decisions(run["states"])


def back_at_once(client: Client) -> None:
    client.health.left_alone_until = 0.0


def test_the_decisions_are_the_controllers(client, service):
    run = Run(client, SETTINGS, PILOT, key="mine")
    assert run.decision.to_dict() == STATES[0].decision.to_dict()
    assert put_all(run, WINDOWS) == decisions(STATES[1:])
    assert shown(service) == decisions(STATES)
    assert run.is_current
    assert run.id == "run_0"
    assert service.paths[:3] == ["POST /v1/runs", "PUT /v1/runs/run_0/windows/0", "PUT /v1/runs/run_0/windows/1"]


def test_training_goes_on_without_the_service_which_then_gets_what_it_missed(client, service):
    run = Run(client, SETTINGS, PILOT)
    put_all(run, WINDOWS[:2])
    service.down = True
    with pytest.warns(ServiceUnavailable, match="cannot be reached") as said:
        put_all(run, WINDOWS[2:5])
    assert len(said) == 1
    assert said[0].filename == __file__
    assert not run.is_current
    service.down = False
    asked = len(service.requests)
    run.put(WINDOWS[5])
    assert len(service.requests) == asked, "left alone for a while"
    back_at_once(client)
    assert put_all(run, WINDOWS[6:]) == decisions(STATES[7:])
    assert run.is_current
    assert shown(service) == decisions(STATES)


def test_a_service_that_is_away_at_the_start(client, service):
    service.down = True
    with pytest.warns(ServiceUnavailable) as said:
        run = Run(client, SETTINGS, PILOT)
    assert said[0].filename == __file__
    assert run.id is None
    assert put_all(run, WINDOWS[:4]) == decisions(STATES[1:5])
    service.down = False
    back_at_once(client)
    put_all(run, WINDOWS[4:])
    assert shown(service) == decisions(STATES)


def test_lost_answers_change_nothing(client, service):
    run = Run(client, SETTINGS, PILOT)
    for window in WINDOWS:
        service.drops_answers = 2
        run.put(window)
    assert run.is_current
    assert shown(service) == decisions(STATES)


def test_a_checkpoint_rewinds_the_service(client, service):
    run = Run(client, SETTINGS, PILOT)
    put_all(run, WINDOWS[:3])
    saved = json.loads(json.dumps(run.state_dict()))
    put_all(run, WINDOWS[:2])  # other windows than those after the resumption
    resumed = Run(client, rl2ml.ControllerSettings("pass@2", 8, bootstrap=0))
    resumed.load_state_dict(saved)
    assert service.runs["run_0"]["states"][-1].index == 3, "at once"
    assert resumed.state_dict() == saved
    assert put_all(resumed, WINDOWS[3:]) == decisions(STATES[4:])
    assert decisions(service.runs["run_0"]["states"]) == decisions(STATES)


def test_a_checkpoint_holds_what_the_service_has_not(client, service):
    run = Run(client, SETTINGS, PILOT)
    put_all(run, WINDOWS[:2])
    service.down = True
    with pytest.warns(ServiceUnavailable):
        put_all(run, WINDOWS[2:5])
    saved = json.loads(json.dumps(run.state_dict()))
    assert (saved["sent"], len(saved["unsent"])) == (2, 3)
    resumed = Run(client, SETTINGS)
    resumed.load_state_dict(saved)  # still away
    service.down = False
    back_at_once(client)
    put_all(resumed, WINDOWS[5:])
    assert resumed.is_current
    assert decisions(service.runs["run_0"]["states"]) == decisions(STATES)


def test_the_same_key_started_again_replaces_what_differs(client, service):
    put_all(Run(client, SETTINGS, PILOT, key="mine"), [*WINDOWS[:2], *WINDOWS[4:]])
    again = Run(client, SETTINGS, PILOT, key="mine")
    assert again.decision.index == 0
    assert put_all(again, WINDOWS) == decisions(STATES[1:])
    assert shown(service) == decisions(STATES)


def test_ranks_with_one_key_share_one_run(client, service):
    ranks = [Run(client, SETTINGS, PILOT, key="mine") for _ in range(3)]
    for window, state in zip(WINDOWS, STATES[1:], strict=True):
        for rank in ranks:
            assert rank.put(window).to_dict() == state.decision.to_dict()
    saved = ranks[0].state_dict()
    assert all(rank.state_dict() == saved for rank in ranks)
    assert shown(service) == decisions(STATES)


def test_a_service_restored_from_a_backup_gets_the_rest_again(client, service):
    run = Run(client, SETTINGS, PILOT)
    put_all(run, WINDOWS[:5])
    kept = service.runs["run_0"]
    del kept["states"][3:], kept["windows"][2:]
    put_all(run, WINDOWS[5:])
    assert shown(service) == decisions(STATES)


def test_a_lost_run_is_made_again(client, service):
    run = Run(client, SETTINGS, PILOT, key="mine")
    put_all(run, WINDOWS[:5])
    service.runs.clear()
    put_all(run, WINDOWS[5:])
    assert shown(service) == decisions(STATES)
    assert run.is_current


def test_ranks_of_a_lost_run_find_each_other_again(client, service):
    ranks = [Run(client, SETTINGS, PILOT, key="mine") for _ in range(2)]
    for rank in ranks:
        put_all(rank, WINDOWS[:2])
    service.runs.clear()
    for rank in ranks:
        put_all(rank, WINDOWS[2:])
    assert shown(service) == decisions(STATES)  # which is of the only run there is


@pytest.mark.parametrize("answer", [{"status": "maintenance"}, {"decision": "later"}, {"decision": {"schema": 99}}])
def test_an_answer_of_something_else_is_no_failure_of_training(client, service, monkeypatch, answer):
    run = Run(client, SETTINGS, PILOT)
    with monkeypatch.context() as patch:
        patch.setattr(service, "put", lambda *_: httpx.Response(200, json=answer))
        with pytest.warns(ServiceUnavailable, match="something else than this service would"):
            assert run.put(WINDOWS[0]).to_dict() == STATES[1].decision.to_dict()
    back_at_once(client)
    assert put_all(run, WINDOWS[1:]) == decisions(STATES[2:])
    assert run.is_current
    assert shown(service) == decisions(STATES)


def test_a_body_that_was_too_slow_is_put_again(client, service, monkeypatch):
    run, put = Run(client, SETTINGS, PILOT), service.put
    answers = iter([httpx.Response(408, json={}), httpx.Response(408, json={})])
    monkeypatch.setattr(service, "put", lambda *asked: next(answers, None) or put(*asked))
    assert put_all(run, WINDOWS) == decisions(STATES[1:])
    assert run.is_current


def test_an_absence_hides_no_later_warning(client, service, monkeypatch):
    run = Run(client, SETTINGS, PILOT)
    with monkeypatch.context() as patch:
        patch.setattr(service, "put", lambda *_: httpx.Response(500, json={}))
        with pytest.warns(ServiceUnavailable, match="answered 500"):
            run.put(WINDOWS[0])
    back_at_once(client)
    monkeypatch.setattr(service, "put", lambda *_: httpx.Response(401, json={}))
    with pytest.warns(ServiceUnavailable, match=r"401.*decides over this run alone"):
        run.put(WINDOWS[1])


def test_a_lost_run_that_was_resumed_cannot_be(client, service):
    run = Run(client, SETTINGS, PILOT)
    put_all(run, WINDOWS[:3])
    resumed = Run(client, SETTINGS, PILOT)
    resumed.load_state_dict(run.state_dict())
    service.runs.clear()
    with pytest.warns(ServiceUnavailable, match=r"404.*decides over this run alone"):
        assert put_all(resumed, WINDOWS[3:]) == decisions(STATES[4:])
    assert not resumed.is_current


def test_a_refusal_at_the_start_is_raised_and_later_is_not(client, service):
    refused = httpx.Response(401, json={"type": "urn:rl2ml:problem:unauthorized", "title": "No key", "status": 401})
    service.faults = [refused]
    with pytest.raises(ServiceError, match="401") as said:
        Run(client, SETTINGS, PILOT)
    assert not isinstance(said.value, ServiceDown)
    run = Run(client, SETTINGS, PILOT)
    service.faults = [refused]
    with pytest.warns(ServiceUnavailable, match="alone"):
        assert put_all(run, WINDOWS[:2]) == decisions(STATES[1:3])
    assert service.paths[-1].endswith("/windows/0"), "given up"


def test_a_service_of_another_version_is_followed_and_it_is_said(client, service):
    run = Run(client, SETTINGS, PILOT)
    other = STATES[1].decision.to_dict() | {"gamma": 0.5}
    del other["objective"]["advantages"]
    other["objective"] |= {"gamma": 0.5}
    service.faults = [httpx.Response(201, json={"decision": other})]
    with pytest.warns(ServiceUnavailable, match=r"γ = 0\.5 where.*versions differ") as said:
        decision = run.put(WINDOWS[0])
    assert said[0].filename == __file__
    assert (decision.gamma, decision.objective.gamma, decision.index) == (0.5, 0.5, 1)
    assert decision.to_dict() == run.decision.to_dict()


def test_wrong_windows_and_states_change_nothing(client, service):
    run = Run(client, SETTINGS, PILOT)
    run.put(WINDOWS[0])
    before, asked = run.state_dict(), len(service.requests)
    with pytest.raises(rl2ml.InvalidInput, match="window must be"):
        run.put([8, 1])
    for wrong in (None, {}, {**before, "more": 1}, {**before, "sent": 0}, {**before, "state": {}}):
        with pytest.raises(rl2ml.InvalidInput):
            run.load_state_dict(wrong)
    assert run.state_dict() == before
    assert len(service.requests) == asked
    with pytest.raises(rl2ml.InvalidInput, match="settings must be"):
        Run(client, {})


def test_trainers_take_it_for_a_controller(client, service):
    torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")
    from rl2ml_core.training import group_advantages
    from rl2ml_core.training.control import RunController, RunsObjective
    from rl2ml_core.training.service import ServiceController

    def groups_of(*successes):
        rewards = torch.tensor([[1.0] * k + [0.0] * (8 - k) for k in successes]).reshape(-1, 8)
        return group_advantages(rl2ml.Objective(1.0), rewards)

    ours, theirs = RunController(SETTINGS, PILOT), ServiceController(client, SETTINGS, PILOT)
    assert isinstance(theirs, RunsObjective)
    for batches in ([(0, 3, 8), (1, 1)], [()], [(5, 5, 0, 2)]):
        for batch in batches:
            ours.count(groups_of(*batch))
            theirs.count(groups_of(*batch))
        assert theirs.decide().to_dict() == ours.decide().to_dict()
        assert theirs.objective.to_dict() == ours.objective.to_dict() == theirs.decision.objective.to_dict()
    theirs.count(groups_of(1, 2))
    ours.count(groups_of(1, 2))
    resumed = ServiceController(client, SETTINGS)
    resumed.load_state_dict(json.loads(json.dumps(theirs.state_dict())))
    assert resumed.state_dict() == theirs.state_dict()
    assert resumed.decide().to_dict() == ours.decide().to_dict()
    for wrong in (None, {"run": theirs.run.state_dict()}):
        with pytest.raises(rl2ml.InvalidInput):
            resumed.load_state_dict(wrong)


def has_runs(address: str) -> bool:
    return "/v1/runs" in httpx.get(f"{address}/openapi.json", trust_env=False).json()["paths"]


def test_the_real_service_killed_and_started_again(serve, tmp_path):
    variables = {"RL2ML_DATA_FOLDER": str(tmp_path)}
    with serve(**variables) as (process, address):
        if not has_runs(address):
            pytest.skip("the service keeps no runs yet")
        client = Client(address, retries=0)
        run = Run(client, SETTINGS, PILOT)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert put_all(run, WINDOWS[:3]) == decisions(STATES[1:4])
            assert run.is_current
        process.kill()
        process.wait()
    with pytest.warns(ServiceUnavailable):
        assert put_all(run, WINDOWS[3:5]) == decisions(STATES[4:6])
    port = re.search(r":(\d+)$", address)[1]
    with serve(PORT=port, **variables):
        back_at_once(client)
        assert put_all(run, WINDOWS[5:7]) == decisions(STATES[6:8])
        assert run.is_current
        saved = run.state_dict()
        run.put(WINDOWS[0])
        run.load_state_dict(saved)
        assert put_all(run, WINDOWS[7:]) == decisions(STATES[8:])
        found = client.run(run.id)
        assert (found.index, found.decision.to_dict()) == (8, STATES[8].decision.to_dict())
        assert [item["id"] for item in client.runs().items] == [run.id]
        assert len(client.windows(run.id, limit=50).items) >= 8
        client.delete_run(run.id)
    client.close()
