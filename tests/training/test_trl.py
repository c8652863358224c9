"""`RL2MLTrainer` in TRL's own training loop: exact gradients, true logs, errors that help, and docs/trl.md."""

import dataclasses
import importlib.util
import json
import math
import os
import re
import runpy
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")
if importlib.util.find_spec("trl") is None:  # importing it takes seconds, in every test worker
    pytest.skip("trl is not installed: TRAINING=1 make test", allow_module_level=True)
EstimatorWarning = pytest.importorskip("rl2ml_core.training.settings").EstimatorWarning

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GUIDE = (ROOT / "docs" / "trl.md").read_text(encoding="utf-8")
OBJECTIVE = rl2ml.Objective(0.6, "bayes", rl2ml.PilotHistogram.from_counts([0, 1, 0, 3, 8, 5, 2, 0], 8))
TOLERANCE = 1e-5
TINY = runpy.run_path(str(HERE / "tiny_language_model.py"))

pytestmark = pytest.mark.xdist_group("trl")


# ---- one process, and two with a group across them ----


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """What trl_steps.py found by number of processes: one run each for all tests."""
    found = {}
    for ranks in (1, 2):
        directory = tmp_path_factory.mktemp(f"ranks{ranks}")
        more = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        processes = [
            subprocess.Popen(
                [sys.executable, str(HERE / "trl_steps.py"), str(rank), str(ranks), str(directory)],
                env=os.environ | more,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for rank in range(ranks)
        ]
        try:
            printed = [process.communicate(timeout=240)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0] * ranks, "\n".join(printed)
        found[ranks] = [json.loads((directory / f"{rank}.json").read_text()) for rank in range(ranks)]
    return found


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_gradient_of_trls_step_is_the_estimators(steps, ranks):
    for found in steps[ranks]:
        run = found["dr_grpo"]
        assert run["ranks"] == ranks
        assert len(run["errors"]) == 3  # optimizer steps, of two micro-batches each
        assert max(run["errors"]) <= TOLERANCE
        assert min(run["norms"]) > 0.01
        # 12 rows in 3 groups of 4. With 6 rows on a rank the second group has two on each.
        assert [len(rows) for rows, _ in run["drawn"]] == [12 // ranks] * 3
        assert [len(rewards) for _, rewards in run["drawn"]] == [12] * 3
        sizes = {sum(x is not None for x in rewards[i : i + 4]) for _, rewards in run["drawn"] for i in (0, 4, 8)}
        assert {3, 4} <= sizes


def test_the_rows_of_a_rank_are_its_own(steps):
    first, second = (found["dr_grpo"]["drawn"] for found in steps[2])
    assert [rewards for _, rewards in first] == [rewards for _, rewards in second]
    for (mine, _), (others, _) in zip(first, second, strict=True):
        assert mine != others
        assert mine[4][0] == mine[5][0] == others[0][0] == others[1][0]  # one prompt on both


@pytest.mark.parametrize("case", ["luspo", "luspo, sequence"])
def test_luspo_divides_by_rows_alone(steps, case):
    assert max(steps[1][0][case]["errors"]) <= TOLERANCE


def test_the_check_finds_other_estimators(steps):
    found = steps[1][0]
    for case in ("stock", "dapo"):
        assert found[case]["drawn"][0] == found["dr_grpo"]["drawn"][0]
        assert found[case]["errors"][0] > 0.1


def test_metrics_are_those_of_all_ranks(steps):
    histories = [found["dr_grpo"]["history"] for found in steps[2]]
    for (_, rewards), *entries in zip(steps[2][0]["dr_grpo"]["drawn"], *histories, strict=True):
        groups = [[x for x in rewards[i : i + 4] if x is not None] for i in (0, 4, 8)]
        for entry in entries:
            assert entry["rl2ml/pass_rate"] == pytest.approx(statistics.mean(map(statistics.mean, groups)))
            assert entry["rl2ml/missing_rewards"] == pytest.approx(1 - sum(map(len, groups)) / 12)
    assert steps[2][0]["dr_grpo"]["logged"] == steps[2][1]["dr_grpo"]["logged"]


def test_ranks_decide_alike(steps):
    first, second = (found["controller"] for found in steps[2])
    assert first == second
    for found in (first, steps[1][0]["controller"]):
        gammas = found["gammas"]
        # Windows of two steps: their γ is 1, and then what each decision says.
        assert gammas[0] == gammas[1] == 1
        assert gammas[2] == gammas[3] != 1
        assert gammas[4] == found["decision"]["gamma"] != gammas[3]
        # A third window is open, with the groups of one step.
        assert sum(weight for *_, weight in found["state"]["window"]) == 3


def test_an_error_of_one_ranks_rewards_is_raised_on_all(steps):
    first, second = (found["not binary"] for found in steps[2])
    assert first == second
    assert first.startswith("reward function graded_on_the_last_rank must give 1 (correct), 0 (wrong) or None")
    assert "got 0.25" in first


# ---- trainers in this process ----

PROMPTS = [f"{i}{j}=" for i in range(4) for j in range(4)]


@pytest.fixture(scope="module")
def lib():
    """TRL's names and ours."""
    from trl import GRPOConfig, GRPOTrainer

    import rl2ml_core.training.trl as ours

    return SimpleNamespace(
        GRPOConfig=GRPOConfig, GRPOTrainer=GRPOTrainer, **{x: getattr(ours, x) for x in ours.__all__}
    )


def scripted(name, *batches):
    """A reward function that gives these rewards, batch by batch; then the last again."""
    remaining = list(batches)

    def function(completions, **_):
        rewards = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        assert len(rewards) == len(completions)
        return rewards

    function.__name__ = name
    return function


def even(completions, **_):
    return [float(sum(map(ord, text)) % 2 == 0) for text in completions]


@pytest.fixture(scope="module")
def tokenizer():
    return TINY["make_tokenizer"]()


@pytest.fixture
def make(lib, tokenizer, tmp_path):
    """A trainer of a tiny model: 3 groups of 4 a step, one step."""
    from datasets import Dataset

    def make(rewards, trainer=lib.RL2MLTrainer, stock=False, callbacks=(), named=None, eval_prompts=None, **settings):
        defaults = {} if stock or callbacks else {"objective": OBJECTIVE}
        defaults |= {"num_generations": 4, "per_device_train_batch_size": 12, "max_completion_length": 5}
        defaults |= {"max_steps": 1, "logging_steps": 1, "learning_rate": 1e-3, "optim": "sgd", "save_strategy": "no"}
        defaults |= {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": []}
        return trainer(
            model=TINY["make_model"](tokenizer),
            reward_funcs=rewards,
            args=(lib.GRPOConfig if stock else lib.RL2MLConfig)(
                output_dir=str(tmp_path / "out"), disable_tqdm=True, **defaults | settings
            ),
            train_dataset=Dataset.from_dict({"prompt": PROMPTS}),
            eval_dataset=None if eval_prompts is None else Dataset.from_dict({"prompt": eval_prompts}),
            processing_class=tokenizer,
            callbacks=list(callbacks),
            **named or {},
        )

    return make


def kept(trainer):
    """The trainer, keeping the advantages that it is trained on."""

    class Kept(trainer):
        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            self.trained = [*getattr(self, "trained", []), output["advantages"].tolist()]
            return output

    return Kept


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "reward" in entry]


def literal(objective, rewards, size=4):
    """Advantages row by row, from the tables."""
    advantages = []
    for i in range(0, len(rewards), size):
        valid = [x for x in rewards[i : i + size] if x is not None]
        for x in rewards[i : i + size]:
            table = objective.table(len(valid)) if valid else None
            advantages.append(0.0 if x is None else (table.success if x else table.failure)[int(sum(valid))])
    return pytest.approx(advantages, rel=1e-6)


# Sizes 4, 3 and 0: a group without any reward.
RAGGED = [1, 0, 0, 0] + [1, 1, None, 1] + [None] * 4


def test_logs_are_of_what_is_trained(lib, make):
    trainer = make(scripted("right", RAGGED), trainer=kept(lib.RL2MLTrainer))
    trainer.train()
    [entry] = logged(trainer)
    assert trainer.trained == [literal(OBJECTIVE, RAGGED)]
    assert list(trainer._logs["advantages"]) == trainer.trained[0]
    assert list(trainer._logs["rewards"]["right"]) == pytest.approx(
        [math.nan if x is None else x for x in RAGGED], nan_ok=True
    )
    known = [x for x in RAGGED if x is not None]
    assert entry["reward"] == pytest.approx(statistics.mean(known))  # 4/7
    assert entry["reward_std"] == pytest.approx(statistics.stdev(known))
    assert entry["frac_reward_zero_std"] == 0.5  # of two groups with rewards
    # The success rates are 1/4 and 3/3, the third group says nothing.
    expected = {"pass_rate": 0.625, "all_fail_groups": 0, "all_success_groups": 0.5, "zero_advantage_groups": 0}
    expected |= {"group_size": 3.5, "missing_rewards": 5 / 12, "gamma": 0.6}
    squares = [x**2 for x, reward in zip(trainer.trained[0], RAGGED, strict=True) if reward is not None]
    expected["advantage_rms"] = math.sqrt(statistics.mean(squares))
    # E30: of the N−1 others of a rollout K or K−1 succeeded, with chances 1 − K/N and K/N; all succeeded: one term.
    four, three = OBJECTIVE.table(4), OBJECTIVE.table(3)
    expected["effective_weight"] = (
        (3 / 4 * (four.success[2] - four.failure[1]) + 1 / 4 * (four.success[1] - four.failure[0]))
        + (three.success[3] - three.failure[2])
    ) / 2
    found = {name.removeprefix("rl2ml/"): value for name, value in entry.items() if name.startswith("rl2ml/")}
    assert found == pytest.approx(expected, rel=1e-6)


def test_equal_rewards_may_carry_an_advantage(lib, make):
    # What TRL calls a group without a gradient is one of which failures are learned here.
    trainer = make(scripted("right", [0] * 8 + [1] * 4), trainer=kept(lib.RL2MLTrainer))
    trainer.train()
    [entry] = logged(trainer)
    assert entry["frac_reward_zero_std"] == 1
    assert entry["rl2ml/zero_advantage_groups"] == 0
    assert entry["rl2ml/all_fail_groups"] == pytest.approx(2 / 3)
    assert entry["grad_norm"] > 0
    assert min(map(abs, trainer.trained[0])) > 0
    trainer = make(scripted("right", [0] * 8 + [1] * 4), objective="grpo")
    trainer.train()
    [entry] = logged(trainer)
    assert entry["rl2ml/zero_advantage_groups"] == 1
    assert entry["grad_norm"] == 0
    assert "rl2ml/gamma" not in entry


def test_a_batch_without_any_reward_trains_nothing(lib, make):
    trainer = make(scripted("right", RAGGED, [None] * 12, RAGGED), trainer=kept(lib.RL2MLTrainer), max_steps=3)
    trainer.train()
    first, second, third = logged(trainer)
    assert trainer.trained[1] == [0.0] * 12
    assert second["grad_norm"] == 0
    assert second["reward"] is second["reward_std"] is second["frac_reward_zero_std"] is None  # as TRL logs NaN
    assert second["rl2ml/missing_rewards"] == 1
    assert "rl2ml/pass_rate" not in second
    assert third["rl2ml/pass_rate"] == first["rl2ml/pass_rate"]


RIGHT = [*(1, 0, 0, 0), *(1, 1, None, 1), *(0, 0, 0, 0)]
SHORT = [*(0.5, 1.5, 0, 0), *(None, 2, 4, 0), *(1, 1, 1, 3)]


def test_rewards_that_are_not_weighed_are_only_logged(lib, make):
    with pytest.warns(UserWarning, match="Rewards of short are logged, not trained on: advantages count right alone"):
        trainer = make(
            [scripted("right", RIGHT), scripted("short", SHORT)], kept(lib.RL2MLTrainer), correctness="right"
        )
    trainer.train()
    [entry] = logged(trainer)
    assert trainer.trained == [literal(OBJECTIVE, RIGHT)]
    assert entry["reward"] == pytest.approx(4 / 11)
    assert entry["rewards/right/mean"] == pytest.approx(4 / 11)
    assert entry["rewards/short/mean"] == pytest.approx(statistics.mean([0.5, 1.5, 0, 0, 2, 4, 0, 1, 1, 1, 3]))


def test_weighed_rewards_shape(lib, make):
    functions = [scripted("short", SHORT), scripted("right", RIGHT)]
    trainer = make(functions, kept(lib.RL2MLTrainer), correctness="right", reward_weights=[0.5, 1.0])
    trainer.train()
    [entry] = logged(trainer)
    # 0.5 · (value − mean of its group): means .5, of the rows that have both 1 (2 and 0), and 1.5.
    shaping = [*(0, 0.5, -0.25, -0.25), *(0, 0.5, 0, -0.5), *(-0.25, -0.25, -0.25, 0.75)]
    plain = literal(OBJECTIVE, RIGHT).expected
    assert trainer.trained[0] == pytest.approx([a + b for a, b in zip(plain, shaping, strict=True)], rel=1e-5)
    assert list(trainer._logs["advantages"]) == trainer.trained[0]
    trained = [a + 0.5 * (b or 0) for a, b in zip(RIGHT, SHORT, strict=True) if a is not None]
    assert entry["reward"] == pytest.approx(statistics.mean(trained))
    assert entry["reward_std"] == pytest.approx(statistics.stdev(trained))
    assert entry["frac_reward_zero_std"] == 0
    assert entry["rl2ml/pass_rate"] == pytest.approx((1 / 4 + 1 + 0) / 3)


def test_tasks_that_another_function_judges_train_nothing(lib, make):
    math_, code = [1, 0, 0, 0] + [None] * 4 + [0, 1, 1, 1], [None] * 4 + [1, 0, 1, 0] + [None] * 4
    functions = [scripted("math", math_), scripted("code", code)]
    with pytest.warns(UserWarning, match="Rewards of code are logged"):
        trainer = make(functions, kept(lib.RL2MLTrainer), correctness="math")
    trainer.train()
    assert trainer.trained == [literal(OBJECTIVE, math_)]
    assert trainer.trained[0][4:8] == [0] * 4
    assert logged(trainer)[0]["rl2ml/missing_rewards"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("generations", [2, 1])
def test_evaluation_has_groups_of_its_own_size(lib, make, generations):
    rewards = [[1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 1]]
    trainer = make(
        scripted("right", *rewards),
        kept(lib.RL2MLTrainer),
        num_generations_eval=generations,
        per_device_eval_batch_size=6,
        eval_prompts=[f"{i}=" for i in range(12 // generations)],
    )
    trainer.evaluate()
    found = trainer.state.log_history[-1]
    assert trainer.trained == [literal(OBJECTIVE, batch, generations) for batch in rewards]
    assert found["eval_reward"] == pytest.approx((1 / 6 + 4 / 6) / 2)  # TRL averages batches
    assert found["eval_rl2ml/group_size"] == generations
    assert found["eval_rl2ml/pass_rate"] == found["eval_reward"]
    assert not [name for name in found if name.startswith("rl2ml/")]
    assert list(trainer._logs["advantages"]) == [x for batch in trainer.trained for x in batch]


def test_a_backend_that_leaves_the_model_in_training_changes_nothing(lib, make):
    # As TRL 1.16's continuous batching does, in evaluation too.
    class Careless(lib.GRPOTrainer):
        def _generate_single_turn(self, *given, **named):
            output = super()._generate_single_turn(*given, **named)
            self.model.train()
            return output

        def compute_loss(self, model, inputs, **named):
            self.model.eval()
            return super().compute_loss(model, inputs, **named)

    class Ours(lib.RL2MLMixin, Careless):
        pass

    control = StandIn()
    trainer = make(
        scripted("right", [1, 0] * 3),
        Ours,
        callbacks=[lib.RL2MLController(control)],
        num_generations_eval=2,
        per_device_eval_batch_size=6,
        eval_prompts=PROMPTS[:3],
    )
    trainer.evaluate()
    assert trainer.state.log_history[-1]["eval_rl2ml/group_size"] == 2
    assert control.counted == []


def test_off_policy_steps_are_warned_of_and_taken(lib, make):
    with pytest.warns(EstimatorWarning, match=r"steps_per_generation=2 .* Set steps_per_generation=1, like") as caught:
        trainer = make(
            scripted("right", RAGGED),
            kept(lib.RL2MLTrainer),
            per_device_train_batch_size=6,
            steps_per_generation=2,
            max_steps=2,
        )
    assert {Path(each.filename).name for each in caught} == {"test_trl.py"}  # where the trainer was made
    trainer.train()
    assert trainer.trained == [literal(OBJECTIVE, RAGGED)]  # one batch for both steps
    assert trainer.state.global_step == 2


def test_no_warning_without_reason(make, recwarn):
    make(even)
    assert not [each for each in recwarn if issubclass(each.category, UserWarning)]


# ---- what is refused, before anything slow ----


@pytest.fixture
def untouched(lib, monkeypatch):
    """Whoever gets as far as TRL's own constructor has been too slow."""
    monkeypatch.setattr(lib.GRPOTrainer, "__init__", lambda *_, **__: pytest.fail("the model was touched"))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (None, "objective must be an Objective or the path of its file; got none"),
        ("missing.json", "objective must be a file that .* got 'missing.json': No such file or directory"),
        (0.5, "objective must be an Objective, an AdvantageTable or the name of a known trainer; got float"),
        (
            rl2ml.known_table("rloo", 8),
            "num_generations=4: objective must have a table for groups of 4; got one for .* 8",
        ),
    ],
)
def test_objectives_are_checked_before_the_model(make, untouched, objective, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        make(even, objective=objective)
    with pytest.raises(rl2ml.InvalidInput, match=message):
        make(even, objective=None, named={"objective": objective})


def test_lengths_and_controllers_are_checked_before_the_model(lib, make, untouched):
    with pytest.raises(rl2ml.InvalidInput, match="max_completion_length must be a number with loss_type='dr_grpo'"):
        make(even, max_completion_length=None)
    controller = lib.RL2MLController(StandIn())
    with pytest.raises(rl2ml.InvalidInput, match="callbacks must have one RL2MLController at most; got 2"):
        make(even, callbacks=[controller, lib.RL2MLController(StandIn())])
    with pytest.raises(rl2ml.InvalidInput, match="objective must be left out with RL2MLController"):
        make(even, callbacks=[controller], objective=OBJECTIVE)


def test_arguments_may_be_given_by_place(lib, tokenizer, make):
    from datasets import Dataset

    args = make(even).args
    data = Dataset.from_dict({"prompt": PROMPTS})
    trainer = lib.RL2MLTrainer(TINY["make_model"](tokenizer), even, args, data, None, tokenizer, None, [])
    assert trainer.objective is OBJECTIVE
    args.objective = None
    callbacks = [lib.RL2MLController(StandIn())]
    trainer = lib.RL2MLTrainer(TINY["make_model"](tokenizer), even, args, data, None, tokenizer, None, callbacks)
    assert trainer.objective.gamma == 0
    with pytest.raises(rl2ml.InvalidInput, match="callbacks must have one RL2MLController at most; got 2"):
        lib.RL2MLTrainer("model", even, args, data, None, tokenizer, None, 2 * callbacks)


def test_a_file_of_an_objective_is_trained_with(make, tmp_path):
    OBJECTIVE.save(tmp_path / "objective.json")
    assert make(even, objective=str(tmp_path / "objective.json")).objective.to_dict() == OBJECTIVE.to_dict()
    # The trainer's own argument comes first.
    assert make(even, objective="missing.json", named={"objective": "grpo"}).objective == "grpo"


def test_plain_grpo_configs_do(make):
    with pytest.warns(EstimatorWarning, match="Set loss_type='dr_grpo'"):
        trainer = make([even], stock=True, named={"objective": OBJECTIVE, "correctness": "even"})
    assert trainer.objective is OBJECTIVE


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["right", "short"], {}, "one of right, short; got none"),
        (["right", "short"], {"correctness": "left"}, "one of right, short; got 'left', of which there are 0"),
        (["right", "right"], {"correctness": "right"}, "of which there are 2"),
        (["right"], {"correctness": "left"}, "one of right; got 'left'"),
        (["right", "short"], {"correctness": "right", "reward_weights": [0.5, 1]}, "must have 1 for right, .* got 0.5"),
    ],
)
def test_the_reward_that_counts_must_be_clear(make, names, settings, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        make([scripted(name, RIGHT) for name in names], **settings)


def test_graded_rewards_name_their_function(make):
    functions = [scripted("short", SHORT), scripted("right", [1, 0, 0.5, 0] * 3)]
    trainer = make(functions, correctness="right", reward_weights=[0, 1])
    expected = re.escape("reward function right must give 1 (correct), 0 (wrong) or None (cannot tell)")
    with pytest.raises(
        rl2ml.InvalidInput, match=rf"^{expected}.*; got 0\.5\. Let it return float\(reward >= threshold\)"
    ):
        trainer.train()


def test_a_table_of_one_size_says_so_when_a_reward_is_missing(make):
    trainer = make(scripted("right", RAGGED), objective=rl2ml.known_table("rloo", 4))
    with pytest.raises(rl2ml.InvalidInput, match="a table for groups of 3, such as group 1; got one for groups of 4"):
        trainer.train()


def test_trl_refuses_single_generations(make):
    with pytest.raises(ValueError, match="at least 2 generations"):
        make(even, num_generations=1)


# ---- trainers of one's own ----


@pytest.fixture
def mine(lib):
    """What people override."""

    class Mine(lib.GRPOTrainer):
        def __init__(self, *given, factor=1.0, **named):
            self.factor, self.seen = factor, []
            super().__init__(*given, **named)

        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            self.seen.append(output["advantages"].tolist())
            return output

        def compute_loss(self, model, inputs, **named):
            return self.factor * super().compute_loss(model, inputs, **named)

    return Mine


def test_a_trainer_of_ones_own_keeps_what_it_does(lib, make, mine):
    class Ours(lib.RL2MLMixin, mine):
        pass

    plain = make(scripted("right", RAGGED), max_grad_norm=0.0)
    plain.train()
    ours = make(scripted("right", RAGGED), kept(Ours), named={"factor": 2.0}, max_grad_norm=0.0)
    ours.train()
    assert ours.trained == [literal(OBJECTIVE, RAGGED)]
    assert ours.seen != ours.trained  # TRL's own advantages, which it saw before ours
    assert logged(ours)[0]["grad_norm"] == pytest.approx(2 * logged(plain)[0]["grad_norm"], rel=1e-5)


def test_a_mixin_behind_the_trainer_is_refused(lib, mine):
    with pytest.raises(
        rl2ml.InvalidInput, match=r"RL2MLMixin must come before the trainer; got class Wrong\(Mine, RL2"
    ):

        class Wrong(mine, lib.RL2MLMixin):
            pass


def test_batches_that_are_not_as_they_were_scored_are_refused(lib, make):
    class Resampling(lib.GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            super()._generate_and_score_completions(inputs)
            return super()._generate_and_score_completions(inputs)

    class Filtering(lib.GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            output = super()._generate_and_score_completions(inputs)
            return {name: value[:8] if value.ndim else value for name, value in output.items()}

    class Unscored(lib.GRPOTrainer):
        def _generate_and_score_completions(self, inputs):
            return {"advantages": torch.zeros(len(inputs))}

    for trainer, message in (
        (Resampling, "_calculate_rewards must be called once per batch, through RL2MLMixin; got 2 calls"),
        (Unscored, "_calculate_rewards must be called once per batch, through RL2MLMixin; got 0 calls"),
        (Filtering, "a batch must keep the rows that were scored, 12; got 8"),
    ):
        run = make(even, type("Ours", (lib.RL2MLMixin, trainer), {}))
        with pytest.raises(rl2ml.InvalidInput, match=message):
            run.train()


# ---- the controller ----

SETTINGS = rl2ml.ControllerSettings("pass@4", 4, min_prompts=2, hysteresis=0.0, bootstrap=0)


class StandIn:
    """Whoever else decides over a run: γ is the number of decisions."""

    def __init__(self):
        self.counted, self.decided = [], 0

    @property
    def objective(self):
        return rl2ml.Objective(float(self.decided))

    def count(self, groups):
        self.counted.append((groups.num_successes.tolist(), groups.num_rollouts.tolist()))

    def decide(self):
        self.decided += 1
        return rl2ml.start_controller(SETTINGS)[1]

    def state_dict(self):
        return {"decided": self.decided}

    def load_state_dict(self, state):
        self.decided = state["decided"]


def test_groups_of_training_are_counted_and_decisions_taken_up(lib, make):
    control = StandIn()
    trainer = make(
        scripted("right", RAGGED, [None] * 12, RIGHT),
        kept(lib.RL2MLTrainer),
        callbacks=[lib.RL2MLController(control, steps_per_window=2)],
        max_steps=4,
    )
    trainer.train()
    of_right = ([1, 3, 0], [4, 3, 4])
    assert control.counted == [([1, 3], [4, 3]), ([], []), of_right, of_right]
    assert control.decided == 2
    assert trainer.objective.gamma == 2
    assert [entry.get("rl2ml/gamma") for entry in logged(trainer)] == [0, 0, 1, 1]
    assert trainer.trained[0] == literal(rl2ml.Objective(0.0), RAGGED)
    assert trainer.trained[3] == literal(rl2ml.Objective(1.0), RIGHT)


def test_evaluation_is_not_counted(lib, make):
    control = StandIn()
    trainer = make(
        even,
        callbacks=[lib.RL2MLController(control, steps_per_window=1)],
        max_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=True,
        per_device_eval_batch_size=8,
        eval_prompts=PROMPTS,
    )
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_reward" in entry]
    assert [entry["eval_rl2ml/gamma"] for entry in evaluations] == [0, 1, 2]
    assert [sizes for _, sizes in control.counted] == [[4, 4, 4]] * 2


def test_a_controller_may_be_added_later(lib, make):
    control = StandIn()
    trainer = make(even)
    trainer.add_callback(lib.RL2MLController(control, steps_per_window=1))
    trainer.train()
    assert len(control.counted) == control.decided == 1
    assert trainer.objective.gamma == 1


@pytest.mark.parametrize("restore", [False, True], ids=["default", "restore_callback_states_from_checkpoint"])
def test_a_resumed_run_goes_on_where_it_was_saved(lib, make, restore):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 3}
    first = lib.RL2MLController(SETTINGS, steps_per_window=2)
    whole = make(even, callbacks=[first], **settings)
    whole.train()
    checkpoint = Path(whole.args.output_dir) / "checkpoint-3"
    saved = json.loads((checkpoint / "trainer_state.json").read_text())["stateful_callbacks"]["rl2ml_controller"]
    assert saved["state"]["index"] == 1
    assert sum(weight for *_, weight in saved["window"]) == 3  # step 3 of the window that ends with step 4
    second = lib.RL2MLController(SETTINGS, steps_per_window=2)
    resumed = make(
        even, callbacks=[second], restore_callback_states_from_checkpoint=restore, **settings | {"save_strategy": "no"}
    )
    resumed.train(resume_from_checkpoint=str(checkpoint))
    # The same random numbers too: the window, its decision and the last step are those of the whole run.
    assert second.control.state_dict() == first.control.state_dict()
    assert second.control.state_dict()["state"]["index"] == 2
    assert logged(resumed)[-1]["rl2ml/advantage_rms"] == logged(whole)[-1]["rl2ml/advantage_rms"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"metric": "pass@8"},), "control must be ControllerSettings; got dict"),
        ((StandIn(), rl2ml.PilotHistogram.from_counts([1], 4)), "pilot must come with ControllerSettings; got another"),
        ((SETTINGS, [1, 2]), "pilot must be a PilotHistogram"),
    ],
)
def test_controllers_of_other_things_are_refused(lib, arguments, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        lib.RL2MLController(*arguments)


@pytest.mark.parametrize("wrong", [0, 2.5, True])
def test_windows_are_whole_steps(lib, wrong):
    with pytest.raises(rl2ml.InvalidInput, match="steps_per_window must be an integer of at least 1; got"):
        lib.RL2MLController(SETTINGS, steps_per_window=wrong)


# ---- installation and the guide ----


def test_training_imports_no_trainer_and_trl_is_asked_for():
    code = (
        "import sys\n"
        "import rl2ml_core as rl2ml, rl2ml_core.training, rl2ml_core.training.control, rl2ml_core.training.settings\n"
        "assert not {'trl', 'transformers', 'accelerate'} & set(sys.modules)\n"
        "sys.modules['trl'] = None\n"  # as if it were not installed
        "try:\n    import rl2ml_core.training.trl\n"
        "except rl2ml.MissingExtra as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == "Training with TRL needs an optional dependency: pip install 'rl2ml[trl]'\n"


def test_the_guides_script_trains(lib, tokenizer, tmp_path, monkeypatch, capsys):
    script, subclass, controller = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    TINY["make_model"](tokenizer).save_pretrained("tiny")
    tokenizer.save_pretrained("tiny")
    rl2ml.Objective(0.6, "score", num_rollouts=8).save("objective.json")
    for said, instead in (
        ("Qwen/Qwen2.5-0.5B", "tiny"),
        ("{a}+{b}=", "{a}={b}="),  # it knows no +
        ("max_steps=200,", "max_steps=1, logging_steps=1, use_cpu=True, bf16=False, report_to=[], save_strategy='no',"),
    ):
        assert script.count(said) == 1
        script = script.replace(said, instead)
    names = {}
    exec(compile(script, "docs/trl.md", "exec"), names)  # our own text
    [entry] = logged(names["trainer"])
    assert (entry["rl2ml/group_size"], entry["rl2ml/gamma"]) == (8, 0.6)
    assert names["correct"]([" 42", "42.", "x 42", "", "421"], ["42"] * 5) == [1, 1, 0, 0, 0]
    exec(compile(subclass, "docs/trl.md", "exec"), names)
    assert names["Mine"].__mro__[1:3] == (lib.RL2MLMixin, names["MyTrainer"])
    exec(compile(controller, "docs/trl.md", "exec"), names)
    assert names["controller"].steps_per_window == 8
    # Every name of the log is on the page, and the excerpt has no others.
    ours = {name for name in entry if name.startswith("rl2ml/")}
    text = "".join(re.findall(r"```text\n(.*?)```", GUIDE, re.DOTALL))
    excerpt = set(re.findall(r"'([\w/]+)': ", text))
    assert {name for name in excerpt if name.startswith("rl2ml/")} == ours
    assert excerpt <= set(entry)
    assert set(re.findall(r"`(rl2ml/\w+)`", GUIDE)) <= ours
    assert "| other `rl2ml/…` | as in [training.md]" in GUIDE
    for name in ours - set(re.findall(r"`(rl2ml/\w+)`", GUIDE)):
        assert f"`{name.removeprefix('rl2ml/')}" in (ROOT / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_guide_names_settings_that_exist_and_all_that_are_checked(lib):
    fields = {each.name for each in dataclasses.fields(lib.RL2MLConfig)}
    table = GUIDE[GUIDE.index("| setting | must be") : GUIDE.index("`beta`, `entropy_coef`")]
    named = {
        name for row in table.strip().splitlines()[2:] for name in re.findall(r"`([a-z_0-9]+)`", row.split("|")[1])
    }
    assert len(named) >= 15
    assert named - fields == {"generation_config"}
    source = (ROOT / "rl2ml_core" / "training" / "trl_settings.py").read_text(encoding="utf-8")
    checked = set(re.findall(r"args\.(\w+)", source)) | set(re.findall(r'"(\w+)": \(1\.0,\)', source))
    assert checked >= {"loss_type", "top_p", "neftune_noise_alpha"}
    assert checked <= fields
    for name in checked:
        assert f"`{name}" in GUIDE


def test_every_public_name_is_described(lib):
    for name in ("RL2MLConfig", "RL2MLController", "RL2MLMixin", "RL2MLTrainer"):
        assert getattr(lib, name).__doc__
        assert f"`{name}" in GUIDE or f"{name}(" in GUIDE


@pytest.mark.parametrize("name", ["trl.py", "trl_controller.py"])
def test_adapters_are_short(name):
    assert len((ROOT / "rl2ml_core" / "training" / name).read_text(encoding="utf-8").splitlines()) <= 80
