"""verl with its own registry, configuration, batches and losses; advantages against the tables written out by hand."""

import copy
import importlib
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import rl2ml_core as rl2ml

if importlib.util.find_spec("verl") is None:  # importing it takes seconds, in every test worker
    pytest.skip("verl is not installed: TRAINING=1 make test", allow_module_level=True)
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.xdist_group("verl")

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "verl.md").read_text(encoding="utf-8")
PILOT = rl2ml.PilotHistogram.from_counts([0, 1, 0, 3, 8, 5, 2, 0], 8)
OBJECTIVE = rl2ml.Objective(0.6, "bayes", PILOT)
ACTOR = "actor_rollout_ref.actor"


class Queue(types.ModuleType):
    """transfer_queue, of which only one function is asked: the extra fields of rows, by key."""

    KVBatchMeta = object

    def __init__(self):
        super().__init__("transfer_queue")
        self.infos, self.partitions = {}, set()

    def kv_batch_get(self, keys, partition_id, select_fields):
        from tensordict import NonTensorStack, TensorDict

        assert select_fields == ["extra_fields"]
        self.partitions.add(partition_id)
        extra = NonTensorStack(*({"reward_extra_info": self.infos[key]} for key in keys))
        return TensorDict({"extra_fields": extra}, batch_size=len(keys))


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    """The process of verl_step.py, in which verl loads the estimator as older releases do."""
    command = [sys.executable, str(HERE / "verl_step.py"), str(tmp_path_factory.mktemp("step"))]
    external = {"VERL_USE_EXTERNAL_MODULES": "rl2ml_core.training.verl", "VERL_USE_EXTERNAL_PLUGINS": "none"}
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | external
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        yield run
        run.kill()


@pytest.fixture(scope="module")
def lab(step):
    """What is used of verl, imported once. The process runs meanwhile."""
    queue = Queue()
    replaced = sys.modules.get("transfer_queue")
    sys.modules["transfer_queue"] = queue
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules = {
            name: importlib.import_module(f"verl.{path}")
            for name, path in {
                "core": "trainer.ppo.core_algos",
                "losses": "workers.utils.losses",
                "protocol": "protocol",
                "trainer": "trainer.ppo.ray_trainer",
                "v1": "trainer.ppo.v1.utils",
                "configs": "utils.config",
            }.items()
        }
    estimator = modules["core"].get_adv_estimator_fn("rl2ml")  # by the entry point: nothing here has imported it
    yield SimpleNamespace(**modules, estimator=estimator, queue=queue)
    del sys.modules["transfer_queue"]
    if replaced is not None:
        sys.modules["transfer_queue"] = replaced


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    file = tmp_path_factory.mktemp("objective") / "objective.json"
    OBJECTIVE.save(file)
    return file


@pytest.fixture(scope="module")
def recommended(lab, path):
    """verl's own configuration of PPO with what docs/verl.md recommends."""
    from hydra import compose, initialize_config_dir

    (command,) = re.findall(r"verl\.trainer\.main_ppo(.*?)```", PAGE, re.DOTALL)
    overrides = command.replace("\\\n", " ").split()
    directory = Path(lab.core.__file__).parents[1] / "config"
    with initialize_config_dir(str(directory), version_base=None):
        config = compose("ppo_trainer", overrides=overrides)
    assert config.algorithm.rl2ml_objective
    config.algorithm.rl2ml_objective = str(path)
    return config


def having(config, *overrides):
    """A copy with more overrides; without a plus a key that verl does not know is an error."""
    import yaml
    from omegaconf import OmegaConf

    changed = copy.deepcopy(config)
    for override in overrides:
        name, _, value = override.partition("=")
        OmegaConf.update(changed, name.removeprefix("+"), yaml.safe_load(value), force_add=name.startswith("+"))
    return changed


@pytest.fixture
def no_warnings(lab, monkeypatch):
    settings = importlib.import_module("rl2ml_core.training.verl_settings")
    monkeypatch.setattr(settings, "_warned", set())


# ---- batches ----

# Outcomes by prompt. Groups of 4, 3, 2 and 1.
OUTCOMES = {"a-1": [1, 0, 0, 1], "b-2": [0, 0, 0], "c-3": [1, 1], "d-4": [0]}


def rows_of_sessions(outcomes=OUTCOMES, padding=3, seed=0):
    """(key, uid, reward, length) of each row, shuffled: sessions have one to three outputs, padding has length 0."""
    draw = np.random.default_rng(seed)
    rows = [
        (f"{uid}_{session}_{output}", uid, reward, int(draw.integers(1, 6)))
        for uid, rewards in outcomes.items()
        for session, reward in enumerate(rewards)
        for output in range(1 + (session + len(uid + str(reward))) % 3)
    ]
    rows += [(f"padf00_{i}_0", "padf00", 0, 0) for i in range(padding)]
    return [rows[i] for i in draw.permutation(len(rows))]


def make_batch(lab, rows, **columns):
    """A DataProto as trainers make it; `columns` go beside uid."""
    longest = 6
    mask = (torch.arange(longest) < torch.tensor([[length] for *_, length in rows])).long()
    scores = torch.zeros(len(rows), longest)
    for row, (_, _, reward, length) in enumerate(rows):
        scores[row, max(length - 1, 0)] = reward
    beside = {"uid": np.array([uid for _, uid, *_ in rows], dtype=object)}
    beside |= {name: np.array(values, dtype=object) for name, values in columns.items()}
    tensors = {"response_mask": mask, "token_level_scores": scores, "token_level_rewards": scores.clone()}
    return lab.protocol.DataProto.from_dict(tensors=tensors, non_tensors=beside)


def by_hand(rows, outcomes=OUTCOMES, table_of=OBJECTIVE.table):
    """Each row's advantage, one session after the other."""
    values = []
    for key, uid, *_ in rows:
        if uid not in outcomes:
            values.append(0.0)
            continue
        group, mine = outcomes[uid], outcomes[uid][int(key.split("_")[1])]
        known = [outcome for outcome in group if outcome is not None]
        table, successes = table_of(len(known)) if known else None, sum(known)
        values.append(0.0 if mine is None else (table.success if mine else table.failure)[successes].item())
    return values


def advantages_of(lab, config, batch, keys=None):
    """Advantages of the v1 trainer's function, or with no keys of the v0 trainer's."""
    algorithm = config.algorithm
    if keys is None:
        batch = lab.trainer.compute_advantage(batch, algorithm.adv_estimator, config=algorithm)
    else:
        batch = lab.v1.compute_advantage_for_multi_trajectories(batch, keys, algorithm.adv_estimator, config=algorithm)
    advantages = batch.batch["advantages"]
    assert torch.equal(batch.batch["returns"], advantages)
    assert torch.equal(advantages, advantages[:, :1] * batch.batch["response_mask"])
    return advantages


def assert_advantages(found, expected, mask):
    expected = torch.tensor(expected, dtype=torch.float32)[:, None] * mask
    assert torch.equal(found, expected)


# ---- registration ----


def test_registered_by_importing_verl(lab):
    assert lab.estimator.__module__ == "rl2ml_core.training.verl"


# ---- counting ----


@pytest.mark.parametrize("seed", range(3))
def test_a_trajectory_counts_once(lab, recommended, seed):
    rows = rows_of_sessions(seed=seed)
    assert len(rows) > sum(map(len, OUTCOMES.values())) + 3
    batch = make_batch(lab, rows)
    found = advantages_of(lab, recommended, batch, [key for key, *_ in rows])
    assert found.dtype == torch.float32
    assert_advantages(found, by_hand(rows), batch.batch["response_mask"])


def test_one_row_per_trajectory_in_the_older_trainer(lab, recommended):
    rows = [row for row in rows_of_sessions(padding=0) if row[0].endswith("_0")]
    batch = make_batch(lab, rows)
    assert_advantages(advantages_of(lab, recommended, batch), by_hand(rows), batch.batch["response_mask"])


def test_the_last_output_has_the_reward(lab, recommended):
    rows = rows_of_sessions()
    last = {}
    for key, *_ in rows:
        session, _, output = key.rpartition("_")
        last[session] = max(last.get(session, 0), int(output))
    altered = [
        (key, uid, reward if last[key.rpartition("_")[0]] == int(key.rpartition("_")[2]) else 0.25, length)
        for key, uid, reward, length in rows
    ]
    batch = make_batch(lab, altered)
    found = advantages_of(lab, recommended, batch, [key for key, *_ in rows])
    assert_advantages(found, by_hand(rows), batch.batch["response_mask"])


def test_rejected_trajectories_count(lab, recommended):
    rows = rows_of_sessions()
    batch = make_batch(lab, rows)
    batch.batch["response_mask"][[i for i, (_, uid, *_) in enumerate(rows) if uid == "a-1"][:3]] = 0
    found = advantages_of(lab, recommended, batch, [key for key, *_ in rows])
    assert_advantages(found, by_hand(rows), batch.batch["response_mask"])


def test_padding_needs_no_table(lab, recommended, tmp_path):
    outcomes = {"a-1": [1, 0, 0, 1], "b-2": [0, 0, 0, 1]}
    rows = rows_of_sessions(outcomes, padding=1)  # GRPO has no table for a group of one
    known = having(recommended, "algorithm.rl2ml_objective=grpo")
    found = advantages_of(lab, known, make_batch(lab, rows), [key for key, *_ in rows])
    table = rl2ml.known_table("grpo", 4)
    assert_advantages(found, by_hand(rows, outcomes, lambda _: table), make_batch(lab, rows).batch["response_mask"])


def test_correctness_is_counted_before_kl(lab, recommended):
    rows = rows_of_sessions()
    batch = make_batch(lab, rows)
    generator = torch.Generator().manual_seed(0)
    for name in ("old_log_probs", "ref_log_prob"):
        batch.batch[name] = torch.randn(len(rows), 6, generator=generator)
    batch, _ = lab.trainer.apply_kl_penalty(batch, lab.core.FixedKLController(0.1))
    assert not torch.equal(batch.batch["token_level_rewards"], batch.batch["token_level_scores"])
    found = advantages_of(lab, recommended, batch, [key for key, *_ in rows])
    assert_advantages(found, by_hand(rows), batch.batch["response_mask"])


def test_called_by_hand(lab, recommended):
    rewards, mask = torch.tensor([[0.0, 1.0], [0.0, 0.0]]).double(), torch.tensor([[1, 1], [1, 0]])
    found, _ = lab.estimator(rewards, mask, recommended.algorithm, np.array(["a", "a"]))
    table = OBJECTIVE.table(2)
    assert found.tolist() == [[table.success[1]] * 2, [table.failure[1], 0]]


def test_a_v1_trainer_that_hides_its_keys(lab, recommended):
    code = "def hidden(data, estimate, config): return estimate(None, data.batch['response_mask'], config, [])"
    scope = {"__name__": "verl.trainer.ppo.v1.utils"}
    exec(code, scope)
    with pytest.raises(rl2ml.InvalidInput, match=r"trainer\.use_v1 must be False"):
        scope["hidden"](make_batch(lab, rows_of_sessions()), lab.estimator, recommended.algorithm)


# ---- named fields ----


@pytest.fixture
def by_acc(recommended):
    return having(recommended, "+algorithm.rl2ml_correctness=acc")


def outcomes_of(rows, outcomes):
    return [outcomes[uid][int(key.split("_")[1])] if uid in outcomes else 0 for key, uid, *_ in rows]


#: b-2 has a missing outcome, of c-3 nothing is known.
PARTLY = {"a-1": [True, 0, np.float64(0), np.bool_(True)], "b-2": [0, None, 1], "c-3": [None, math.nan], "d-4": [0.0]}
KNOWN = {"a-1": [1, 0, 0, 1], "b-2": [0, None, 1], "c-3": [None, None], "d-4": [0]}


def test_a_named_field_in_the_older_trainer(lab, by_acc):
    rows = [row for row in rows_of_sessions(PARTLY, padding=0) if row[0].endswith("_0")]
    rows = [(key, uid, -1.0, length) for key, uid, _, length in rows]  # rewards are not looked at
    batch = make_batch(lab, rows, acc=outcomes_of(rows, PARTLY))
    assert_advantages(advantages_of(lab, by_acc, batch), by_hand(rows, KNOWN), batch.batch["response_mask"])


def test_a_named_field_in_the_queue(lab, by_acc):
    rows = [(key, uid, -1.0, length) for key, uid, _, length in rows_of_sessions(PARTLY)]
    values = outcomes_of(rows, PARTLY)
    lab.queue.infos = {key: {"acc": value, "score": -1.0} for (key, *_), value in zip(rows, values, strict=True)}
    batch = make_batch(lab, rows)
    found = advantages_of(lab, by_acc, batch, [key for key, *_ in rows])
    assert_advantages(found, by_hand(rows, KNOWN), batch.batch["response_mask"])
    assert lab.queue.partitions == {"train"}


def test_a_field_that_is_not_there(lab, by_acc):
    rows = rows_of_sessions()
    lab.queue.infos = {key: {"score": 1.0, "pred": "4"} for key, *_ in rows}
    with pytest.raises(rl2ml.InvalidInput, match=r"rl2ml_correctness must name .* one of score, pred; got 'acc'"):
        advantages_of(lab, by_acc, make_batch(lab, rows), [key for key, *_ in rows])
    with pytest.raises(rl2ml.InvalidInput, match=r"one of uid, score; got 'acc'"):
        advantages_of(lab, by_acc, make_batch(lab, rows, score=[1] * len(rows)))


@pytest.mark.parametrize("value", [0.5, -1.0, 2])
def test_a_field_that_is_not_binary(lab, recommended, by_acc, value):
    rows = [(f"a_{i}_0", "a", value, 2) for i in range(2)]
    batch = make_batch(lab, rows, acc=[1, value])
    advice = r"algorithm\.rl2ml_correctness must name a field that is 0, 1 .* \+algorithm\.rl2ml_correctness=NAME; got "
    with pytest.raises(rl2ml.InvalidInput, match=advice + f"{value} as acc of uid a$"):
        advantages_of(lab, by_acc, batch)
    with pytest.raises(rl2ml.InvalidInput, match=advice + f"{float(value)} as token_level_scores of uid a$"):
        advantages_of(lab, recommended, batch)


def test_text_is_not_correctness(lab, by_acc):
    batch = make_batch(lab, [("a_0_0", "a", 1, 2)], acc=["yes"])
    with pytest.raises(rl2ml.InvalidInput, match=r"rewards\['acc'\] must be real numbers"):
        advantages_of(lab, by_acc, batch)


# ---- gradients ----


def test_a_training_step_has_the_estimators_gradient(step):
    """`_step_once` of verl's v1 trainer, with its FSDP2 engine: see verl_step.py."""
    output, errors = step.communicate(timeout=180)
    assert step.returncode == 0, errors[-3000:]
    report = json.loads(output.splitlines()[-1])
    assert report["registered"]
    assert report["error"] <= 1e-5
    assert report["error of counting rows"] > 0.1
    assert report["rows"] + report["padding"] == 32
    assert report["padding"] > 0
    assert report["steps"] == 1
    assert report["warnings"] == []
    assert report["metrics"]["actor/ppo_kl"] == report["metrics"]["actor/pg_clipfrac"] == 0


@pytest.fixture(scope="module")
def gradients(lab, recommended):
    """From a configuration: the gradient by log-probabilities of two micro-batches at ratio 1, and Σ A, [5, 6]."""
    generator = torch.Generator().manual_seed(1)
    log_probs = -4 * torch.rand(5, 6, generator=generator)
    mask = torch.arange(6) < torch.tensor([[6], [2], [4], [1], [3]])
    advantages = 4 * torch.randn(5, 1, generator=generator) * mask

    def gradient_of(config):
        actor = lab.configs.omega_conf_to_dataclass(config.actor_rollout_ref.actor)
        leaf = log_probs.clone().requires_grad_()
        for rows, width in ((slice(0, 3), 6), (slice(3, 5), 3)):
            actor.global_batch_info.update(
                dp_size=1, batch_num_tokens=16, global_batch_size=5, loss_scale_factor=actor.loss_scale_factor
            )
            loss, _ = lab.core.get_policy_loss_fn(actor.policy_loss.loss_mode)(
                old_log_prob=log_probs[rows, :width],
                log_prob=leaf[rows, :width],
                advantages=advantages[rows, :width],
                response_mask=mask[rows, :width],
                loss_agg_mode=actor.loss_agg_mode,
                config=actor,
            )
            loss.backward()
        return leaf.grad, -advantages

    return gradient_of


def is_proportional(found, expected):
    cosine = (found * expected).sum() / found.norm() / expected.norm()
    return bool(1 - cosine < 1e-6)


def losses():
    return (
        "vanilla dppo_tv dppo_kl gspo sapo gpg clip_cov kl_cov geo_mean dro cispo bypass_mode".split()  # noqa: SIM905
    )


@pytest.mark.parametrize("loss", losses())
def test_a_loss_is_warned_of_where_its_gradient_differs(lab, recommended, gradients, loss):
    assert set(losses()) == set(lab.core.POLICY_LOSS_REGISTRY)
    name = f"{ACTOR}.policy_loss"
    config = having(recommended, f"{name}.loss_mode={loss}", f"{name}.dro_beta=0.1", f"{name}.clip_cov_ratio=0.5")
    assert is_proportional(*gradients(config)) is not bool(settings_of(config))


@pytest.mark.parametrize(
    "overrides",
    [
        ["loss_agg_mode=token-mean"],
        ["loss_agg_mode=token-sum"],
        ["loss_agg_mode=seq-mean-token-sum"],
        ["loss_agg_mode=seq-mean-token-mean"],
        ["loss_agg_mode=seq-mean-token-sum-norm"],
        ["loss_agg_mode=seq-mean-token-sum-norm", "loss_scale_factor=64"],
    ],
)
def test_a_normalizer_is_warned_of_where_it_depends_on_lengths(recommended, gradients, overrides):
    config = having(recommended, *(f"{ACTOR}.{text}" for text in overrides))
    constant = is_proportional(*gradients(config))
    if overrides == ["loss_agg_mode=token-mean"]:  # of this batch; batches have other numbers of tokens
        constant = False
    assert constant is not bool(settings_of(config))


# ---- settings ----


def settings_of(config, objective=OBJECTIVE):
    from rl2ml_core.training.verl_settings import verl_settings

    return list(verl_settings(config, objective))


BREAKING = [
    [f"{ACTOR}.loss_agg_mode=token-mean"],
    [f"{ACTOR}.loss_agg_mode=seq-mean-token-mean"],
    [f"{ACTOR}.loss_agg_mode=seq-mean-token-sum-norm"],
    [f"{ACTOR}.policy_loss.loss_mode=sapo"],
    ["algorithm.use_kl_in_reward=True"],
    ["algorithm.filter_groups.enable=True"],
    [f"{ACTOR}.ppo_epochs=2"],
    [f"{ACTOR}.ppo_mini_batch_size=8"],
    ["trainer.v1.trainer_mode=colocate_async"],
    ["algorithm.rollout_correction.rollout_is=sequence"],
    ["algorithm.rollout_correction.rollout_rs=token_k1"],
    ["algorithm.rollout_correction.bypass_mode=True"],
    ["actor_rollout_ref.rollout.top_p=0.9"],
    ["actor_rollout_ref.rollout.top_k=20"],
]


def test_nothing_is_wrong_with_what_is_recommended(recommended):
    assert settings_of(recommended) == []


@pytest.mark.parametrize("overrides", BREAKING, ids=lambda overrides: overrides[0])
def test_setting_what_a_warning_names_ends_it(recommended, overrides):
    broken = having(recommended, *overrides)
    (setting,) = settings_of(broken)
    fixes = re.findall(r"[\w.]+=[\w.-]+", setting.instead)
    assert settings_of(having(broken, *fixes)) == []


def test_the_page_names_every_setting():
    table = PAGE.partition("## Settings that must be so")[2].partition("## Several turns")[0]
    for override in {overrides[0] for overrides in BREAKING}:
        assert override.partition("=")[0].rpartition(".")[2] in table, override


def test_a_trainers_configuration_is_read_once(lab, recommended, no_warnings):
    """Its `self.config`, through the function that calls verl's."""
    code = "def step(self, compute, data, algorithm): return compute(data, algorithm.adv_estimator, config=algorithm)"
    scope = {"__name__": "verl.trainer.ppo.ray_trainer"}
    exec(code, scope)
    config = having(recommended, f"{ACTOR}.loss_agg_mode=token-mean")
    trainer, rows = SimpleNamespace(config=config), rows_of_sessions()
    settings = importlib.import_module("rl2ml_core.training.settings")
    with pytest.warns(settings.EstimatorWarning, match=f"Set {ACTOR}.loss_agg_mode=seq-mean-token-sum"):
        scope["step"](trainer, lab.trainer.compute_advantage, make_batch(lab, rows), config.algorithm)
    scope["step"](trainer, lab.trainer.compute_advantage, make_batch(lab, rows), config.algorithm)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.rl2ml_objective=null"], r"\+algorithm\.rl2ml_objective=PATH"),
        (["algorithm.rl2ml_objective=no/such.json"], r"'no/such\.json': No such file"),
        (["+algorithm.rl2ml_gamma=0.5"], r"algorithm\.rl2ml_gamma must be left out"),
        (["algorithm.rl2ml_objective=null", "+algorithm.rl2ml_gamma=50"], r"algorithm\.rl2ml_gamma: .* got 50"),
        (["+algorithm.rl2ml_correctnes=acc"], r"no rl2ml_ key but .*; got rl2ml_correctnes"),
    ],
)
def test_configuration_errors(lab, recommended, overrides, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        advantages_of(lab, having(recommended, *overrides), make_batch(lab, rows_of_sessions()))


def test_gamma_instead_of_a_file(lab, recommended):
    rows = rows_of_sessions()
    config = having(recommended, "algorithm.rl2ml_objective=null", "+algorithm.rl2ml_gamma=1.5")
    found = advantages_of(lab, config, make_batch(lab, rows), [key for key, *_ in rows])
    expected = by_hand(rows, OUTCOMES, rl2ml.Objective(1.5).table)
    assert_advantages(found, expected, make_batch(lab, rows).batch["response_mask"])
