"""One training step of verl's own v1 trainer on a CPU: `python verl_step.py DIRECTORY`. Prints what it found as JSON.

Run by test_verl.py. From the sampled batch on everything is verl's: padding, old log-probabilities, advantages, the
FSDP2 engine with its micro-batches, loss and optimizer. Replaced are Ray, the queue between processes (by a dictionary)
and the accelerator, as verl has no platform for a CPU.
"""

import json
import os
import random
import sys
import types
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch

warnings.simplefilter("ignore")
import verl  # noqa: E402
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY  # noqa: E402

REGISTERED = "rl2ml" in ADV_ESTIMATOR_REGISTRY  # by `import verl` alone
PROMPTS, ROLLOUTS, MINI = 4, 4, 8
REWARDS = [[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0], [1, 1, 1, 1]]  # by prompt; of the third one session failed


class Batch:
    """transfer_queue's KVBatchMeta: keys of rows, with a tag each."""

    def __init__(self, keys, tags, partition_id="train", fields=None, extra_info=None):
        self.keys, self.tags, self.partition_id, self.fields = list(keys), list(tags), partition_id, fields
        self.extra_info = extra_info or {}

    def __len__(self):
        return len(self.keys)

    def reorder(self, order):
        self.keys, self.tags = [self.keys[i] for i in order], [self.tags[i] for i in order]


class Queue(types.ModuleType):
    """transfer_queue, in a dictionary: key → field → value."""

    KVBatchMeta, BatchMeta = Batch, type("BatchMeta", (), {})

    def __init__(self):
        super().__init__("transfer_queue")
        self.rows, self.tags = {}, {}

    def kv_batch_get(self, keys, partition_id=None, select_fields=None):
        from verl.utils.tensordict_utils import list_of_dict_to_tensordict

        names = [name for name in select_fields or self.rows[keys[0]] if name in self.rows[keys[0]]]
        return list_of_dict_to_tensordict([{name: self.rows[key][name] for name in names} for key in keys])

    def kv_batch_put(self, keys, partition_id=None, fields=None, tags=None):
        for name in fields.keys():  # noqa: SIM118  # a TensorDict iterates over rows
            values = fields[name]
            plain = not isinstance(values, torch.Tensor)
            parts = [getattr(value, "data", value) for value in values] if plain else values.unbind(0)
            for key, value in zip(keys, parts, strict=True):
                self.rows.setdefault(key, {})[name] = value
        self.tags |= dict(zip(keys, tags or (), strict=tags is not None))
        return Batch(keys, [self.tags[key] for key in keys], partition_id)


def use_cpu(directory):
    """A platform of verl's for the CPU, and a process group of one."""
    import verl.models.transformers.monkey_patch as patches
    from verl.plugin.platform.platform_cuda import PlatformCUDA
    from verl.plugin.platform.platform_manager import set_platform

    class Device:
        get_device_name, mem_get_info = staticmethod(lambda: "CPU"), staticmethod(lambda: (1, 1))

        def __getattr__(self, name):
            if name.startswith("_"):
                raise AttributeError(name)
            return getattr(torch.cpu, name, lambda *_, **__: 0)

    class Host(PlatformCUDA):
        device_name, device_module = "cpu", Device()

        def is_available(self):
            return True

        def current_device(self):
            return "cpu"

        def communication_backend_name(self):
            return "gloo"

    set_platform(Host())
    patches.is_trl_available = lambda: False  # verl 0.9.1 looks for a class that TRL 1.16 no longer has
    os.environ |= {"VERL_ENGINE_DEVICE": "cuda", "WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "", "MASTER_PORT": "0"}
    torch.distributed.init_process_group("gloo", init_method=f"file://{directory / 'store'}", rank=0, world_size=1)


def make_config(directory):
    from hydra import compose, initialize_config_dir

    actor, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    with initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        return compose(
            "ppo_trainer",
            overrides=[
                "algorithm.adv_estimator=rl2ml",
                f"+algorithm.rl2ml_objective={directory / 'objective.json'}",
                f"data.train_batch_size={PROMPTS}",
                f"{rollout}.n={ROLLOUTS}",
                f"{rollout}.name=vllm",
                f"{actor}.loss_agg_mode=seq-mean-token-sum",
                f"{actor}.ppo_mini_batch_size={MINI}",
                f"{actor}.ppo_micro_batch_size_per_gpu=8",
                f"{actor}.strategy=fsdp2",
                f"{actor}.optim.clip_grad=1e9",
                f"{actor}.fsdp_config.use_torch_compile=False",
                f"+{actor}.fsdp_config.mixed_precision={{param_dtype: fp32, reduce_dtype: fp32, buffer_dtype: fp32}}",
                f"actor_rollout_ref.model.path={directory / 'model'}",
                "actor_rollout_ref.model.use_remove_padding=False",
                "actor_rollout_ref.model.enable_gradient_checkpointing=False",
                "+actor_rollout_ref.model.override_config.attn_implementation=eager",
            ],
        )


def make_worker(config):
    """verl's worker of the actor, as `ActorRolloutRefWorker` makes it."""
    from verl.utils.config import omega_conf_to_dataclass
    from verl.workers.config import TrainingWorkerConfig
    from verl.workers.engine_workers import TrainingWorker
    from verl.workers.utils.losses import ppo_loss

    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    actor.model_config = omega_conf_to_dataclass(config.actor_rollout_ref.model)
    actor.engine.micro_batch_size_per_gpu = actor.engine.infer_micro_batch_size_per_gpu = (
        actor.ppo_micro_batch_size_per_gpu
    )
    actor.engine.use_dynamic_bsz = False
    worker = TrainingWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=actor.model_config,
            engine_config=actor.engine,
            optimizer_config=actor.optim,
            checkpoint_config=actor.checkpoint,
        )
    )
    worker.reset()
    worker.set_loss_fn(partial(ppo_loss, config=actor))
    return worker


class Workers:
    """The group of one worker: rows from the queue to it, and what it computes back."""

    _dispatch_info = {"actor": [0]}  # noqa: RUF012

    def __init__(self, worker, queue):
        self.worker, self.queue = worker, queue

    def _data(self, batch):
        from verl.utils.tensordict_utils import assign_non_tensor

        data = self.queue.kv_batch_get(batch.keys)
        assign_non_tensor(data, **batch.extra_info)
        return data

    def compute_log_prob(self, batch):
        found = self.worker.infer_batch(self._data(batch))
        return self.queue.kv_batch_put(batch.keys, fields=found.select("log_probs", "entropy"))

    def update_actor(self, batch):
        return self.worker.train_mini_batch(self._data(batch))


def fill(queue):
    """Sessions of one to three outputs, whose rows all carry the session's reward, in any order."""
    draw, generator = random.Random(1), torch.Generator().manual_seed(3)
    for prompt, rewards in enumerate(REWARDS):
        for session, reward in enumerate(rewards):
            for output in range(draw.randint(1, 3)):
                asked, answered = draw.randint(1, 4), draw.randint(1, 7)
                tokens = torch.randint(0, 11, (asked + answered,), generator=generator)
                scores = torch.zeros(answered)
                scores[-1] = reward
                key = f"uid-{prompt}_{session}_{output}"
                queue.rows[key] = {
                    "uid": f"uid-{prompt}",
                    "session_id": session,
                    "input_ids": tokens,
                    "position_ids": torch.arange(len(tokens)),
                    "prompts": tokens[:asked],
                    "responses": tokens[asked:],
                    "response_mask": torch.ones(answered, dtype=torch.int64),
                    "loss_mask": torch.ones(answered, dtype=torch.int64),
                    "rm_scores": scores,
                    "rollout_log_probs": torch.zeros(answered),
                    "num_turns": 1,
                    "extra_fields": {"reward_extra_info": {"acc": bool(reward)}},
                }
                queue.tags[key] = {"seq_len": len(tokens), "prompt_len": asked, "response_len": answered}
    keys = list(queue.rows)
    draw.shuffle(keys)
    return Batch(keys, [queue.tags[key] for key in keys])


def reference(model, queue, keys, table_of, count_rows=False):
    """−Σ A ∇log π over all rows / (ppo_mini_batch_size · n), in float64, from the tables of E9."""
    groups = {}
    for key in keys:
        uid, session, output = key.split("_")
        unit = (session, output) if count_rows else session
        groups.setdefault(uid, {})[unit] = queue.rows[key]["rm_scores"].sum().item()
    total = torch.zeros((), dtype=torch.float64)
    for key in keys:
        row, outcomes = queue.rows[key], groups[key.split("_")[0]].values()
        table, successes = table_of(len(outcomes)), round(sum(outcomes))
        advantage = table.success[successes] if row["rm_scores"].sum() == 1 else table.failure[successes]
        log_probs = model(row["input_ids"][None]).logits[0, :-1].log_softmax(-1)
        log_probs = log_probs.gather(-1, row["input_ids"][1:, None])[len(row["prompts"]) - 1 :]
        total = total - advantage * log_probs.sum()
    names, weights = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(total / (MINI * ROLLOUTS), weights), strict=True))


def distance(found, expected):
    squares = [((found[name] - value).square().sum(), value.square().sum()) for name, value in expected.items()]
    return (sum(a for a, _ in squares) / sum(b for _, b in squares)).sqrt().item()


def main() -> None:
    directory = Path(sys.argv[1])
    queue = sys.modules["transfer_queue"] = Queue()
    from tiny_language_model import make_model, make_tokenizer

    import rl2ml_core as rl2ml
    from rl2ml_core.training.settings import EstimatorWarning

    use_cpu(directory)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    tokenizer.save_pretrained(directory / "model")
    model.save_pretrained(directory / "model")
    objective = rl2ml.Objective(0.6, "bayes", rl2ml.PilotHistogram.from_counts([0, 1, 0, 3, 4, 2, 2, 0], 4))
    objective.save(directory / "objective.json")

    from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

    config = make_config(directory)
    worker, batch = make_worker(config), fill(queue)
    trainer = object.__new__(PPOTrainerSync)  # its constructor starts Ray
    trainer.config, trainer.tokenizer, trainer.global_steps, trainer.curr_step_profile = config, tokenizer, 1, False
    trainer.use_reference_policy = trainer.use_critic = False
    trainer.actor_rollout_wg = Workers(worker, queue)
    trainer.replay_buffer = SimpleNamespace(sample=lambda **_: (batch, {}))
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[])
    trainer.checkpoint_manager = SimpleNamespace(sleep_replicas=lambda: None)
    steps = []

    def before_step(*_):
        weights = worker.engine.module.named_parameters()
        steps.append({name: weight.grad.full_tensor().double() for name, weight in weights})

    worker.engine.optimizer.register_step_pre_hook(before_step)
    metrics = {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", EstimatorWarning)
        trainer._step_once(metrics, {}, PROMPTS)

    found, model = steps[0], model.double()
    expected = reference(model, queue, batch.keys, objective.table)
    by_rows = reference(model, queue, batch.keys, objective.table, count_rows=True)
    report = {
        "registered": REGISTERED,
        "error": distance(found, expected),
        "error of counting rows": distance(by_rows, expected),
        "rows": len(batch),
        "padding": len(queue.rows) - len(batch),
        "steps": len(steps),
        "warnings": [str(warning.message) for warning in caught],
        "metrics": {name: float(metrics[name]) for name in ("actor/ppo_kl", "actor/pg_clipfrac", "actor/grad_norm")},
    }
    print(json.dumps(report))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
