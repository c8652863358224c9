"""What verl's configuration says, without verl: plain dictionaries answer to `.get` as its own do."""

import os
import warnings

import pytest

import rl2ml_core as rl2ml

pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")
settings = pytest.importorskip("rl2ml_core.training.settings")
verl_settings = pytest.importorskip("rl2ml_core.training.verl_settings")

PILOT = rl2ml.PilotHistogram.from_counts([0, 2, 5, 8], 8)
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
RIGHT = (f"{ACTOR}.loss_agg_mode", "seq-mean-token-sum"), (f"{ACTOR}.policy_loss.loss_mode", "vanilla")


def make(*given):
    """Nested dictionaries from (dotted name, value)."""
    config = {}
    for name, value in given:
        *path, last = name.split(".")
        place = config
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return config


def found(*given, objective=None, num_rows=0):
    return [str(setting) for setting in verl_settings.verl_settings(make(*given), objective, num_rows)]


# ---- settings ----


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        (f"{ACTOR}.loss_agg_mode", "token-mean", f"{ACTOR}.loss_agg_mode=seq-mean-token-sum"),
        (f"{ACTOR}.loss_agg_mode", "seq-mean-token-mean", f"{ACTOR}.loss_agg_mode=seq-mean-token-sum"),
        (f"{ACTOR}.policy_loss.loss_mode", "sapo", f"{ACTOR}.policy_loss.loss_mode=vanilla"),
        (f"{ACTOR}.policy_loss.loss_mode", "geo_mean", f"{ACTOR}.policy_loss.loss_mode=vanilla"),
        (f"{ACTOR}.policy_loss.loss_mode", "clip_cov", f"{ACTOR}.policy_loss.loss_mode=vanilla"),
        ("algorithm.use_kl_in_reward", True, f"algorithm.use_kl_in_reward=False {ACTOR}.use_kl_loss=True"),
        ("algorithm.filter_groups.enable", True, "algorithm.filter_groups.enable=False"),
        (f"{ACTOR}.ppo_epochs", 2, f"{ACTOR}.ppo_epochs=1"),
        ("trainer.v1.trainer_mode", "separate_async", "trainer.v1.trainer_mode=sync"),
        ("algorithm.rollout_correction.rollout_is", "token", "algorithm.rollout_correction.rollout_is=null"),
        ("algorithm.rollout_correction.rollout_rs", "seq_sum_k1", "algorithm.rollout_correction.rollout_rs=null"),
        ("algorithm.rollout_correction.bypass_mode", True, "algorithm.rollout_correction.bypass_mode=False"),
        (f"{ROLLOUT}.top_p", 0.95, f"{ROLLOUT}.top_p=1"),
        (f"{ROLLOUT}.top_k", 50, f"{ROLLOUT}.top_k=-1"),
    ],
)
def test_each_setting_names_what_to_set(name, value, instead):
    (message,) = found(*RIGHT, (name, value))
    assert message.startswith(f"{name}={value} ")
    assert f". Set {instead}" in message


@pytest.mark.parametrize(
    "given",
    [
        (),
        RIGHT,
        ((f"{ACTOR}.loss_agg_mode", "token-sum"),),  # divides by nothing
        ((f"{ACTOR}.loss_agg_mode", "seq-mean-token-sum-norm"), (f"{ACTOR}.loss_scale_factor", 512)),
        ((f"{ACTOR}.policy_loss.loss_mode", "gspo"),),
        ((f"{ROLLOUT}.top_p", 1.0), (f"{ROLLOUT}.top_k", 0)),
        ((f"{ACTOR}.ppo_mini_batch_size", 64), ("data.train_batch_size", 64), (f"{ROLLOUT}.n", 8)),
        (("trainer.v1.trainer_mode", "colocate_async"), ("trainer.use_v1", False)),
        (("algorithm.rollout_correction", None), ("algorithm.filter_groups", None)),
    ],
)
def test_what_breaks_nothing(given):
    assert found(*given, num_rows=512) == []


def test_a_norm_needs_its_factor():
    given = (f"{ACTOR}.loss_agg_mode", "seq-mean-token-sum-norm"), ("data.max_response_length", 1024)
    (message,) = found(*given)
    assert message.startswith(f"{ACTOR}.loss_agg_mode=seq-mean-token-sum-norm without a loss_scale_factor divides")
    assert message.endswith(f"Set {ACTOR}.loss_scale_factor=1024.")


def test_several_steps_per_batch():
    given = (f"{ACTOR}.ppo_mini_batch_size", 32), ("data.train_batch_size", 64), (f"{ROLLOUT}.n", 8)
    (message,) = found(*given, num_rows=900)
    assert message.startswith(f"{ACTOR}.ppo_mini_batch_size=32 takes steps on rollouts of an older policy")
    assert message.endswith(f"Set {ACTOR}.ppo_mini_batch_size=64.")


def test_several_outputs_per_trajectory():
    given = (f"{ACTOR}.ppo_mini_batch_size", 64), ("data.train_batch_size", 64), (f"{ROLLOUT}.n", 8)
    assert found(*given, num_rows=512) == []
    (message,) = found(*given, num_rows=900)  # 900/8 = 112.5
    assert f"Set {ACTOR}.use_dynamic_bsz=True {ACTOR}.ppo_mini_batch_size=113 or more" in message


@pytest.mark.parametrize(
    ("objective", "loses"),
    [
        (rl2ml.Objective(0.5, "score"), True),
        (rl2ml.Objective(0.5, "none"), True),
        (rl2ml.Objective(0.5, "bayes", PILOT), True),
        (rl2ml.Objective(0.5, "score", filter_groups=True), False),
        (rl2ml.Objective(0.5, "leave_one_out"), False),
        ("grpo", False),
        ("maxrl", True),
    ],
)
def test_filters_are_warned_of_where_they_cost_weight(objective, loses):
    """docs/filters.md: what a filter costs is a matter of the advantages of groups of equal rewards."""
    given = ("algorithm.filter_groups.enable", True), ("algorithm.filter_groups.metric", "reward"), (f"{ROLLOUT}.n", 8)
    assert ["drops groups" in message for message in found(*given, objective=objective)] == [True] * loses


@pytest.mark.parametrize(
    ("metric", "correctness", "instead"), [("acc", None, "reward"), ("reward", "acc", "acc"), (None, "acc", "acc")]
)
def test_filters_look_at_what_is_counted(metric, correctness, instead):
    given = (
        ("algorithm.filter_groups.enable", True),
        ("algorithm.filter_groups.metric", metric),
        ("algorithm.rl2ml_correctness", correctness),
    )
    (message,) = found(*given, objective=rl2ml.Objective(0.5, filter_groups=True))
    assert message.startswith(f"algorithm.filter_groups.metric={metric} ")
    assert message.endswith(f"Set algorithm.filter_groups.metric={instead}.")


def test_each_warning_once_per_process(monkeypatch):
    monkeypatch.setattr(verl_settings, "_warned", set())
    config = make((f"{ACTOR}.ppo_mini_batch_size", 1), (f"{ROLLOUT}.n", 8), (f"{ACTOR}.ppo_epochs", 2))
    with pytest.warns(settings.EstimatorWarning) as caught:
        verl_settings.warn_of_verl(config, num_rows=9)
    assert len(caught) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verl_settings.warn_of_verl(config, num_rows=17)


# ---- objectives ----


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "objective.json"
    rl2ml.Objective(0.6, "bayes", PILOT).save(file)
    return file


def test_a_file_is_read_once(path):
    algorithm = {"gamma": 1.0, "rl2ml_objective": str(path)}
    objective = verl_settings.verl_objective(algorithm)
    assert objective.to_dict() == rl2ml.Objective.load(path).to_dict()
    assert verl_settings.verl_objective(algorithm) is objective


def test_a_file_that_changes_is_read_again(path):
    algorithm = {"rl2ml_objective": str(path)}
    before = verl_settings.verl_objective(algorithm)
    rl2ml.Objective(0.9, "score").save(path)
    os.utime(path, ns=(0, 1))
    assert verl_settings.verl_objective(algorithm).gamma == 0.9
    assert before.gamma == 0.6


def test_other_objectives(monkeypatch, path):
    monkeypatch.setenv("HOME", str(path.parent))
    assert verl_settings.verl_objective({"rl2ml_objective": "~/objective.json"}).gamma == 0.6
    assert verl_settings.verl_objective({"rl2ml_objective": "grpo"}) == "grpo"
    assert verl_settings.verl_objective({"rl2ml_gamma": 1}) == rl2ml.Objective(1.0, "leave_one_out")
    assert verl_settings.verl_objective({"rl2ml_gamma": 1, "rl2ml_baseline": "score"}).baseline == "score"


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ({}, r"must name the objective's file: \+algorithm\.rl2ml_objective=PATH"),
        ({"gamma": 1.0, "rl2ml_objective": None, "rl2ml_baseline": "score"}, r"\+algorithm\.rl2ml_objective=PATH"),
        ({"rl2ml_gama": 1.0}, r"no rl2ml_ key but rl2ml_objective, rl2ml_gamma, .*; got rl2ml_gama"),
        ({"rl2ml_objective": "no/such.json"}, r"algorithm\.rl2ml_objective must be a file .*'no/such\.json': No such"),
        ({"rl2ml_objective": "a.json", "rl2ml_gamma": 1.0}, r"algorithm\.rl2ml_gamma must be left out .*got 1\.0"),
        ({"rl2ml_objective": "a.json", "rl2ml_baseline": "score"}, r"algorithm\.rl2ml_baseline must be left out"),
        ({"rl2ml_gamma": -1.0}, r"algorithm\.rl2ml_gamma: gamma must be .*got -1"),
        ({"rl2ml_gamma": 1.0, "rl2ml_baseline": "bayes"}, r"needs a population.*\+algorithm\.rl2ml_objective=PATH"),
        ({"rl2ml_gamma": 1.0, "rl2ml_baseline": "best"}, r"algorithm\.rl2ml_baseline: baseline must be one of"),
    ],
)
def test_errors_say_what_to_change(algorithm, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        verl_settings.verl_objective(algorithm)


def test_a_field_that_is_not_there():
    error = verl_settings.no_such_field("correct", ["acc", "score"])
    assert (
        str(error) == "algorithm.rl2ml_correctness must name a field of all rewards, one of acc, score; got 'correct'"
    )
    assert "one of none" in str(verl_settings.no_such_field("correct", {}))
