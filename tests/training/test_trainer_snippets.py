"""The files that users paste into SkyRL, prime-rl and OpenRLHF, against stubs of their hooks; and the filters' tables.

The stubs have the signatures of the releases and commits that docs/*.md names, and treat rewards and rows alike.
"""

import asyncio
import inspect
import math
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")

ROOT = Path(__file__).resolve().parents[2]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("skyrl", "prime-rl", "openrlhf")}
FILTERS = (ROOT / "docs" / "filters.md").read_text(encoding="utf-8")
# "score": every group has an advantage, those of equal rewards too.
OBJECTIVE = rl2ml.Objective(0.5, "score", num_rollouts=4)


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def literal(rewards, groups):
    """Each row's advantage: its group's N and K counted, then a look-up."""
    of = {}
    for reward, group in zip(rewards, groups, strict=True):
        of.setdefault(group, []).append(reward)
    values = []
    for reward, group in zip(rewards, groups, strict=True):
        table, k = OBJECTIVE.table(len(of[group])), int(sum(of[group]))
        values.append(table.success[k] if reward == 1 else table.failure[k])
    return torch.tensor(values, dtype=torch.float32)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Execute a page's file with these modules in the place of the trainer's; its names."""
    OBJECTIVE.save(tmp_path / "objective.json")
    monkeypatch.setenv("RL2ML_OBJECTIVE", str(tmp_path / "objective.json"))

    def execute(page, modules, name="pasted"):
        fresh = {}  # never the trainer itself, were it installed
        for path in modules:
            parts = path.split(".")
            for end in range(1, len(parts) + 1):
                fresh.setdefault(".".join(parts[:end]), ModuleType(".".join(parts[:end])))
        for path, module in fresh.items():
            vars(module).update(modules.get(path, {}))
            parent, _, own = path.rpartition(".")
            if parent:
                setattr(fresh[parent], own, module)
            monkeypatch.setitem(sys.modules, path, module)
        names = {"__name__": name}
        exec(compile(blocks(page, "python")[0], f"docs/{page}.md", "exec"), names)  # our own text
        return names

    return execute


@pytest.mark.parametrize("page", PAGES)
def test_a_file_is_short_and_complete(page):
    code = blocks(page, "python")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40
    assert inspect.cleandoc(compile(code, page, "exec").co_consts[0]).endswith("$RL2ML_OBJECTIVE names.")
    assert "pip install 'rl2ml[training]'" in PAGES[page]
    for what in (
        "Install",
        "The file",
        "Switch it on",
        "Settings that must be so",
        "What the logs look like",
        "Limits",
    ):
        assert f"\n## {what}\n" in PAGES[page]


# ---- SkyRL ----


class Registry:
    """AdvantageEstimatorRegistry: functions by name."""

    def __init__(self):
        self.functions = {}

    def register(self, name, func):
        if name in self.functions:
            raise ValueError(f"advantage estimator '{name}' already registered")
        self.functions[name] = func

    def compute(
        self,
        token_level_rewards,
        response_mask,
        index,
        adv_estimator,
        config,
        values=None,
        grpo_norm_by_std=True,
        gamma=1.0,
        lambd=1.0,
        **kwargs,
    ):
        """compute_advantages_and_returns, which calls the estimator with these names."""
        return self.functions[adv_estimator](
            token_level_rewards=token_level_rewards,
            response_mask=response_mask,
            index=index,
            values=values,
            grpo_norm_by_std=grpo_norm_by_std,
            gamma=gamma,
            lambd=lambd,
            config=config,
            **kwargs,
        )


def skyrl_config(sampling=None):
    return SimpleNamespace(dynamic_sampling=SimpleNamespace(type=sampling), gamma=1.0)


@pytest.fixture
def skyrl(run):
    registry, started = Registry(), []
    modules = {
        "skyrl.backends.skyrl_train.utils.ppo_utils": {"AdvantageEstimatorRegistry": registry},
        "skyrl.train.entrypoints.main_base": {"main": lambda: started.append(True)},
    }
    run("skyrl", modules, name="__main__")
    assert started == [True]
    return registry


UIDS = ["7", "12", "7", "31", "12", "7", "12", "12", "31", "5"]  # groups of 3, 4, 2 and 1, shuffled
REWARDS = [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]
LENGTHS = [3, 1, 4, 2, 4, 1, 2, 3, 4, 2]


def rows_of(rewards, lengths):
    """Rewards on the last tokens [B, 4], as SkyRL lays them, and the mask of the responses."""
    mask = (torch.arange(4) < torch.tensor(lengths)[:, None]).long()
    token_rewards = torch.zeros(len(rewards), 4)
    for row, (reward, length) in enumerate(zip(rewards, lengths, strict=True)):
        token_rewards[row, length - 1] = reward
    return token_rewards, mask


def test_skyrl_rows_get_their_groups_advantage(skyrl, capsys):
    rewards, mask = rows_of(REWARDS, LENGTHS)
    advantages, returns = skyrl.compute(rewards, mask, UIDS, "rl2ml", skyrl_config())
    assert torch.equal(advantages, literal(REWARDS, UIDS)[:, None] * mask)
    assert torch.equal(returns, advantages)
    assert returns is not advantages
    printed = capsys.readouterr().out
    assert printed.startswith("rl2ml {'advantage_rms': ")
    assert "'group_size': 2.5" in printed  # 10 rows in 4 groups
    assert re.search(r"^rl2ml \{'advantage_rms': [\d.]+, 'pass_rate': ", PAGES["skyrl"], re.MULTILINE)


@pytest.mark.parametrize("discount", [1.0, 0.9, 0.5])
def test_skyrls_discount_is_not_gamma(skyrl, discount):
    rewards, mask = rows_of(REWARDS, LENGTHS)
    advantages, _ = skyrl.compute(rewards, mask, UIDS, "rl2ml", skyrl_config(), gamma=discount, lambd=0.95)
    assert torch.equal(advantages, literal(REWARDS, UIDS)[:, None] * mask)
    assert "gamma" not in inspect.signature(skyrl.functions["rl2ml"]).parameters


def test_skyrls_padding_is_left_out(skyrl, capsys):
    # Padding copies row 0 with its reward and mask, under uids of its own.
    rewards, mask = rows_of([*REWARDS, *REWARDS[:1] * 3], [*LENGTHS, *LENGTHS[:1] * 3])
    uids = [*UIDS, "pad0", "pad1", "pad2"]
    advantages, _ = skyrl.compute(rewards, mask, uids, "rl2ml", skyrl_config())
    assert torch.equal(advantages[:10], literal(REWARDS, UIDS)[:, None] * mask[:10])
    assert not advantages[10:].any()
    assert "'group_size': 2.5" in capsys.readouterr().out
    of_a_dataset = [uid.replace("12", "padlock") for uid in UIDS]
    rewards, mask = rows_of(REWARDS, LENGTHS)
    advantages, _ = skyrl.compute(rewards, mask, of_a_dataset, "rl2ml", skyrl_config())
    assert torch.equal(advantages, literal(REWARDS, UIDS)[:, None] * mask)


def test_skyrls_steps_of_a_trajectory_count_once(skyrl):
    # Trajectories of 2, 1, 3 and 1 steps. The estimator sees last steps alone, a mask of ones and an array of uids.
    last = np.array([False, True, True, False, False, True, True, True])
    uids = np.array(["a", "a", "a", "b", "b", "b", "b", "pad0"])
    rewards, mask = rows_of([0, 1, 0, 0, 0, 1, 1, 0], [2, 3, 4, 1, 2, 4, 3, 2])
    per_trajectory, _ = skyrl.compute(
        rewards[last], torch.ones(int(last.sum()), 4), uids[last], "rl2ml", skyrl_config()
    )
    trajectory = np.concatenate([[0], last[:-1].cumsum()])
    advantages = per_trajectory[trajectory] * mask
    expected = literal([1, 0, 1, 1], ["a", "a", "b", "b"])  # N = 2 for both prompts, whatever their steps
    assert torch.equal(advantages[:7], expected[trajectory[:7]][:, None] * mask[:7])
    assert not advantages[7].any()


def test_skyrls_turn_rewards_are_summed(skyrl):
    rewards, mask = rows_of(REWARDS, [4] * 10)
    rewards[0] = torch.tensor([0.5, 0.0, 0.0, 0.5])  # two turns, together a success
    advantages, _ = skyrl.compute(rewards, mask, UIDS, "rl2ml", skyrl_config())
    assert torch.equal(advantages, literal(REWARDS, UIDS)[:, None] * mask)


def test_skyrl_refuses_what_would_be_counted_wrong(skyrl):
    rewards, mask = rows_of([*REWARDS[:-1], 0.7], LENGTHS)
    with pytest.raises(rl2ml.InvalidInput, match=r"rewards must be 0, 1 or NaN .* got 0\.7 at index 9"):
        skyrl.compute(rewards, mask, UIDS, "rl2ml", skyrl_config())
    with pytest.raises(ValueError, match=r"dynamic_sampling\.type must not be replace"):
        skyrl.compute(*rows_of(REWARDS, LENGTHS), UIDS, "rl2ml", skyrl_config("replace"))
    skyrl.compute(*rows_of(REWARDS, LENGTHS), UIDS, "rl2ml", skyrl_config("filter"))


# ---- prime-rl ----


class PrimeAlgorithm:
    """Algorithm of prime_rl.orchestrator.algo.base, as far as a group goes."""

    action_loss_type = "rl"

    def __init__(self, config, policy_pool):
        self.policy_pool = policy_pool

    async def score_group(self, group):
        """Group phase."""

    async def finalize_group(self, rollouts):
        await self.score_group(rollouts)


def assert_single_trainable_agent(group):
    if len({rollout.agent_name for rollout in group}) > 1:
        raise ValueError("group spans trainable agents")


class Rollout:
    """A trace of several samples: one reward, and advantages for trainable tokens."""

    def __init__(self, reward, masks, agent_name="solver"):
        self.reward, self.masks, self.agent_name, self.advantages = reward, masks, agent_name, None

    def assign_advantages(self, values):
        assert isinstance(values, float)
        self.advantages = [values if trainable else 0.0 for mask in self.masks for trainable in mask]


@pytest.fixture
def prime(run, monkeypatch):
    lines = []
    modules = {
        "prime_rl.orchestrator.algo.base": {
            "Algorithm": PrimeAlgorithm,
            "assert_single_trainable_agent": assert_single_trainable_agent,
        },
        "prime_rl.utils.logger": {"get_logger": lambda: SimpleNamespace(debug=lines.append)},
    }
    pasted = SimpleNamespace(**run("prime-rl", modules))
    monkeypatch.setitem(sys.modules, "prime_rl.orchestrator.algo.rl2ml", pasted)
    registered = {"ALGORITHM_CLASSES": {"max_rl": PrimeAlgorithm}}
    exec(compile(blocks("prime-rl", "python")[1], "docs/prime-rl.md", "exec"), registered)  # our own text
    algorithm = registered["ALGORITHM_CLASSES"]["max_rl"](SimpleNamespace(type="max_rl"), policy_pool=None)
    return SimpleNamespace(score=lambda group: asyncio.run(algorithm.finalize_group(group)), lines=lines)


@pytest.mark.parametrize(
    "rewards", [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0], [1.0], [0, 1, 0, 0, 0, 0, 0, 0]]
)
def test_prime_rls_groups_of_any_size_get_their_table(prime, rewards):
    masks = [[False, True, True], [False, False, True]]  # two samples of one multi-turn trace
    group = [Rollout(reward, masks) for reward in rewards]
    prime.score(group)
    for rollout, advantage in zip(group, literal(rewards, [0] * len(rewards)).tolist(), strict=True):
        assert rollout.advantages == [0.0, advantage, advantage, 0.0, 0.0, advantage]
    assert prime.lines == [f"RL2ML | successes={int(sum(rewards))} rollouts={len(rewards)}"]


def test_prime_rl_refuses_what_would_be_counted_wrong(prime):
    with pytest.raises(rl2ml.InvalidInput, match=r"rewards must be 0, 1 or NaN .* got 0\.9 at index 0, 1"):
        prime.score([Rollout(1.0, [[True]]), Rollout(0.9, [[True]])])
    with pytest.raises(ValueError, match="trainable agents"):
        prime.score([Rollout(1.0, [[True]]), Rollout(0.0, [[True]], agent_name="proposer")])


# ---- OpenRLHF ----


class Maker:
    """RemoteExperienceMaker: what its method does to rewards, advantages and metrics, for group_norm and dr_grpo."""

    def __init__(self, estimator="dr_grpo", kl_coef=0.0, use_loss=False, penalty=0.0, n=4):
        kl = SimpleNamespace(use_loss=use_loss)
        algo = SimpleNamespace(kl=kl, advantage=SimpleNamespace(estimator=estimator))
        self.args = SimpleNamespace(algo=algo, rollout=SimpleNamespace(n_samples_per_prompt=n))
        self.strategy = SimpleNamespace(args=self.args)
        self.advantage_estimator = estimator
        self.kl_ctl = SimpleNamespace(value=kl_coef)
        self.penalty = penalty

    def compute_advantages_and_returns(self, experiences):
        for e in experiences:
            e.rewards = e.rewards - self.penalty * e.action_mask.sum(1)  # length penalties
        rows = torch.tensor([row for e in experiences for row in e.index])
        in_order = torch.empty(len(rows))
        in_order[rows] = torch.cat([e.rewards for e in experiences])
        groups = in_order.reshape(-1, self.args.rollout.n_samples_per_prompt)
        centered = groups - groups.mean(-1, keepdim=True)
        if self.advantage_estimator == "group_norm":
            centered = centered / (groups.std(-1, keepdim=True) + 1e-9)
        for e, part in zip(
            experiences, centered.reshape(-1)[rows].split([len(e.index) for e in experiences]), strict=True
        ):
            e.returns = part[:, None] * e.action_mask - self.kl_ctl.value
            e.advantages = e.returns.clone()
            e.info["return"], e.kl = part, None
        return experiences


class Handle:
    """Of an actor in a process of its own: here its class alone is apart."""

    def __init__(self, **settings):
        self.trainer = SimpleNamespace(experience_maker=type("Maker", (Maker,), {})(**settings))
        self.__ray_call__ = SimpleNamespace(remote=lambda function: function(self.trainer))


@pytest.fixture
def openrlhf(run, monkeypatch):
    """Start OpenRLHF by the file; its experience maker."""
    stock = SimpleNamespace(remote=lambda *args, **settings: Handle(**settings))
    trainers = {"PPOTrainer": stock}
    modules = {"ray": {"get": lambda value: value}, "openrlhf.trainer.ppo_trainer": trainers}

    def start(*arguments, **settings):
        started = []

        def run_module(name, run_name):
            assert (name, run_name) == ("openrlhf.cli.train_ppo_ray", "__main__")
            trainer = sys.modules["openrlhf.trainer.ppo_trainer"].PPOTrainer  # as its command line imports it, late
            started.append(trainer.remote("a model", **settings))

        monkeypatch.setattr("runpy.run_module", run_module)
        monkeypatch.setattr(sys, "argv", ["rl2ml_openrlhf.py", *arguments])
        run("openrlhf", modules, name="__main__")
        return started[0].trainer.experience_maker

    return start


SCORES = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0]  # three prompts of 4, in the order of sampling


def experiences_of(values, sizes=(2, 5, 1, 4), scores=None):
    """Micro-batches of the rows in another order (as balanced batches are), with action masks of several turns."""
    order = np.random.default_rng(0).permutation(len(values)).tolist()
    result = []
    for size in sizes:
        rows, order = order[:size], order[size:]
        mask = torch.tensor([[0, 1, 1, 0, row % 2] for row in rows])
        taken = None if scores is None else torch.tensor([scores[row] for row in rows])
        rewards = torch.tensor([values[row] for row in rows])
        result.append(SimpleNamespace(index=rows, action_mask=mask, rewards=rewards, scores=taken, info={}, kl=0))
    return result


def check_openrlhf(experiences, scores=SCORES, n=4):
    expected = literal(scores, [row // n for row in range(len(scores))])
    for e in experiences:
        own = expected[e.index]
        assert torch.equal(e.advantages, own[:, None] * e.action_mask)
        assert torch.equal(e.returns, e.advantages)
        assert e.returns is not e.advantages
        assert torch.equal(e.info["return"], own)
        assert e.info["rl2ml_group_size"].tolist() == [n] * len(e.index)
        assert e.kl is None  # the rest is the method's own


def test_openrlhfs_rows_get_their_groups_advantage(openrlhf):
    check_openrlhf(openrlhf().compute_advantages_and_returns(experiences_of(SCORES)))
    for name in ("effective_weight", "all_fail_groups", "advantage_rms"):
        assert f"`rl2ml_{name}`" in PAGES["openrlhf"]


def test_openrlhf_counts_scores_before_penalties(openrlhf):
    shaped = [score + 0.1 * (row % 3) for row, score in enumerate(SCORES)]
    maker = openrlhf(penalty=0.01)
    check_openrlhf(maker.compute_advantages_and_returns(experiences_of(shaped, scores=SCORES)))
    check_openrlhf(maker.compute_advantages_and_returns(experiences_of(SCORES)))


def test_openrlhf_with_another_group_size_and_a_last_smaller_batch(openrlhf):
    experiences = openrlhf(n=2).compute_advantages_and_returns(experiences_of(SCORES[:6], sizes=(4, 2)))
    check_openrlhf(experiences, SCORES[:6], n=2)


def test_openrlhfs_other_estimators_are_its_own(openrlhf):
    patched = openrlhf(estimator="group_norm").compute_advantages_and_returns(experiences_of(SCORES))
    stock = Maker(estimator="group_norm").compute_advantages_and_returns(experiences_of(SCORES))
    for ours, theirs in zip(patched, stock, strict=True):
        assert torch.equal(ours.advantages, theirs.advantages)
        assert ours.info.keys() == {"return"}


def test_openrlhf_refuses_what_would_be_lost_or_counted_wrong(openrlhf):
    with pytest.raises(ValueError, match=r"--algo\.kl\.init_coef must be 0 without --algo\.kl\.use_loss"):
        openrlhf(kl_coef=0.01).compute_advantages_and_returns(experiences_of(SCORES))
    openrlhf(kl_coef=0.01, use_loss=True).compute_advantages_and_returns(experiences_of(SCORES))
    with pytest.raises(rl2ml.InvalidInput, match=r"rewards must be 0, 1 or NaN .* got 0\.5"):
        openrlhf().compute_advantages_and_returns(experiences_of([0.5, *SCORES[1:]]))
    with pytest.raises(SystemExit, match="asynchronous trainer is not patched"):
        openrlhf("--train.async_enable")


# ---- settings ----

# Names of settings, as the release or commit of each page has them.
SKYRL_SETTINGS = {
    "trainer.algorithm": "advantage_estimator loss_reduction max_seq_len dynamic_sampling.type zero_variance_filter "
    "advantage_batch_normalize policy_loss_type use_kl_in_reward use_kl_loss",
    "trainer": "train_batch_size policy_mini_batch_size update_epochs_per_batch",
    "generator": "n_samples_per_prompt apply_overlong_filtering",
    "generator.sampling_params": "temperature top_p top_k min_p",
}
OPENRLHF_OPTIONS = {
    "--algo": "advantage.estimator kl.init_coef advantage.is_correction_level",
    "--actor": "loss_agg_mode policy_loss_type",
    "--rollout": "batch_size n_samples_per_prompt temperature top_p",
    "--train": "batch_size max_epochs",
}


def named(options):
    return {f"{section}.{name}" for section, names in options.items() for name in names.split()}


def command_of(page):
    words = shlex.split(blocks(page, "bash")[-1].replace("\\\n", " "), posix=True)
    assert words[:2] == ["export", "RL2ML_OBJECTIVE=$PWD/objective.json"]
    return words[2:]


def test_skyrls_settings_are_named_as_it_names_them():
    words = command_of("skyrl")
    start = words.index("main_rl2ml") + 1
    found = dict(word.split("=", 1) for word in words[start:])
    assert found.keys() == named(SKYRL_SETTINGS)
    assert found["trainer.train_batch_size"] == found["trainer.policy_mini_batch_size"]
    assert found["trainer.algorithm.advantage_estimator"] == "rl2ml"


def test_openrlhfs_options_are_named_as_it_names_them():
    words = command_of("openrlhf")
    assert words[:2] == ["python", "rl2ml_openrlhf.py"]
    found = dict(zip(words[2::2], words[3::2], strict=True))
    assert found.keys() == named(OPENRLHF_OPTIONS)
    samples = int(found["--rollout.batch_size"]) * int(found["--rollout.n_samples_per_prompt"])
    assert int(found["--train.batch_size"]) == samples


def test_prime_rls_settings_are_toml():
    (text,) = blocks("prime-rl", "toml")
    assert tomllib.loads(text) == {
        "orchestrator": {
            "algo": {"type": "max_rl"},
            "train": {"filter_zero_advantages": False, "sampling": {"temperature": 1.0}},
        },
        "trainer": {"loss": {"type": "default", "kl_tau": 0.0}},
    }


# ---- filters ----

N, RATES = 8, (0.01, 0.1, 0.5, 0.9)
DROPS = {"nothing": (), "all-fail": (0,), "all-success": (N,), "both": (0, N)}
UNIFORM = rl2ml.Population([0.0], [0.0], [1.0], rl2ml.BetaPrior(1, 1))


def table_of(gamma, baseline, filter_groups=False):
    return rl2ml.rl2ml_table(gamma, N, baseline, UNIFORM, filter_groups=filter_groups)


def law(k, p, n=N):
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def weight_kept(table, p, dropped):
    """E[ĝ; kept]/∇p by enumeration of K: the mean score of a success is ∇p/p, that of a failure −∇p/(1−p)."""
    return sum(
        law(k, p) * (k / N * table.success[k] / p - (N - k) / N * table.failure[k] / (1 - p))
        for k in range(N + 1)
        if k not in DROPS[dropped]
    )


def printed_tables():
    done = subprocess.run(
        [sys.executable, "-W", "error", "benchmarks/filters.py"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = re.findall(r"(?:^\|.*\n)+", done.stdout, re.MULTILINE)
    assert len(found) == 3
    return found


def cells(table):
    return [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


@pytest.fixture(scope="module")
def tables():
    return printed_tables()


def test_the_filters_tables_are_the_benchmarks(tables):
    for table in tables:
        assert table in FILTERS
    for page in PAGES.values():  # the one example that the pages repeat
        left, whole = re.search(r"weighs ([\d.]+) rather than ([\d.]+) at p =\s+0\.01", page).groups()
        assert left == f"{weight_kept(table_of(0.5, 'bayes'), 0.01, 'both'):.2f}"
        assert whole == f"{weight_kept(table_of(0.5, 'bayes'), 0.01, 'nothing'):.2f}"


def test_the_weights_that_filters_leave_by_enumeration(tables):
    rows = cells(tables[0])
    assert len(rows) == 18
    for gamma, baseline, dropped, *weights in rows:
        table = table_of(float(gamma), "none" if baseline == "any" else baseline)
        for p, weight in zip(RATES, weights, strict=True):
            assert weight == f"{weight_kept(table, p, dropped):.2f}"


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_formulas_of_the_filters_page(gamma, baseline):
    table = table_of(gamma, baseline)
    first, last = -table.failure[0], 1 - table.success[N]  # b(0), b(N−1)
    for p in (*RATES, 0.3, 0.99):
        w, q = table.weight([p]).item(), 1 - p
        if baseline == "group_centered":
            first, last = 0.0, 1.0
        lost = {"nothing": 0.0, "all-fail": first * q ** (N - 1), "all-success": (1 - last) * p ** (N - 1)}
        lost["both"] = lost["all-fail"] + lost["all-success"]
        for dropped, loss in lost.items():
            assert weight_kept(table, p, dropped) == pytest.approx(w - loss, rel=1e-12, abs=1e-14)
    for where, loses in (
        ("all-fail", ("bayes", "minimum_variance", "score")),
        ("all-success", ("bayes", "minimum_variance", "none")),
    ):
        least = weight_kept(table, 0.5, "nothing") - weight_kept(table, 0.5, where)
        assert (abs(least) > 1e-9) == (baseline in loses)
    if baseline == "minimum_variance" and gamma in (0.0, 0.5, 1.0):
        for p in RATES:
            assert weight_kept(table, p, "both") == pytest.approx(
                weight_kept(table_of(gamma, "bayes"), p, "both"), abs=0.01
            )


@pytest.mark.parametrize("baseline", rl2ml.BASELINES)
@pytest.mark.parametrize("dropped", DROPS)
def test_an_objective_made_for_filters_loses_nothing(baseline, dropped):
    for gamma in (0.0, 0.5, 1.0):
        made = table_of(gamma, baseline, filter_groups=True)
        expected = rl2ml.objective_weight(RATES, gamma, N - (baseline == "group_centered"))
        for p, weight in zip(RATES, expected, strict=True):
            assert weight_kept(made, p, dropped) == pytest.approx(weight, rel=1e-12)


def test_refilled_batches_are_the_cores_and_their_product_is_the_weight(tables):
    shares, *rows = cells(tables[1])
    assert shares[1:] == [f"{1 - law(0, p) - law(N, p):.2f}" for p in RATES]
    for gamma, row in zip((0.0, 0.5, 1.0), rows, strict=True):
        table = table_of(gamma, "bayes", filter_groups=True)
        analysis = rl2ml.analyze(table, drops_equal_groups=True)
        for p, printed in zip(RATES, row[1:], strict=True):
            share = 1 - law(0, p) - law(N, p)
            per_group = weight_kept(table, p, "both") / share
            assert printed == f"{per_group:.2f}"
            assert analysis.kept_weights[analysis.pass_rates.index(p)] == pytest.approx(per_group)
            assert per_group * share == pytest.approx(rl2ml.objective_weight([p], gamma, N).item())


def test_a_refilled_batch_of_two_prompts_by_simulation():
    # Prompts of .02 and .5 in equal numbers, refilled: their parts in the gradient are as their weights, not as the
    # weights per kept group.
    rng = np.random.default_rng(1)
    table = table_of(0.5, "bayes", filter_groups=True)
    rates = np.array([0.02, 0.5])
    prompt = rng.integers(2, size=400_000)
    k = rng.binomial(N, rates[prompt])
    kept = (k > 0) & (k < N)
    prompt, k = prompt[kept], k[kept]
    p = rates[prompt]
    part = k / N * table.success[k] / p - (N - k) / N * table.failure[k] / (1 - p)
    sums = [part[prompt == i].sum() for i in (0, 1)]
    w = rl2ml.objective_weight(rates, 0.5, N)
    assert sums[0] / sums[1] == pytest.approx(w[0] / w[1], rel=0.05)
    shares = 1 - rates**N - (1 - rates) ** N
    assert abs(sums[0] / sums[1] / (w[0] / shares[0] / (w[1] / shares[1])) - 1) > 0.5


def test_means_over_tokens_by_enumeration(tables):
    p, short, long = 0.05, 5, 20
    mean = short * p + long * (1 - p)
    rows = {name: values for name, *values in cells(tables[2])}
    for i, baseline in enumerate(("leave_one_out", "bayes", "score")):
        table = table_of(0.5, baseline)

        def part(k, of_success=1.0, of_failure=1.0, table=table):
            return k / N * table.success[k] / p * of_success - (N - k) / N * table.failure[k] / (1 - p) * of_failure

        def tokens(successes, rows):
            return short * successes + long * (rows - successes)

        constant = sum(law(k, p) * part(k) for k in range(N + 1))
        own = sum(law(k, p) * part(k, mean / short, mean / long) for k in range(N + 1))
        one = sum(law(k, p) * part(k) * N * mean / tokens(k, N) for k in range(N + 1))
        eight = sum(
            law(k, p) * law(m, p, 7 * N) * part(k) * 8 * N * mean / tokens(k + m, 8 * N)
            for k in range(N + 1)
            for m in range(7 * N + 1)
        )
        assert rows["a constant"][i] == f"{constant:.2f}"
        assert rows["each response's own tokens"][i] == f"{own:.2f}"
        assert rows["the tokens of a step of 1 group"][i] == f"{one:.2f}"
        assert rows["the tokens of a step of 8 groups"][i] == f"{eight:.2f}"
        # Off by a share that falls as 1/groups.
        assert (eight - constant) / (one - constant) == pytest.approx(1 / 8, rel=0.1)
    # The share that the pages quote, of leave_one_out.
    table = table_of(0.5, "leave_one_out")
    one = sum(
        law(k, p)
        * (k / N * table.success[k] / p - (N - k) / N * table.failure[k] / (1 - p))
        * (N * mean / (short * k + long * (N - k)))
        for k in range(N + 1)
    )
    share = one / table.weight([p]).item() - 1
    assert f"{share:.0%}" == "9%"
    assert f"{share / 64:.1%}" == "0.1%"
    assert "0.1% for 64" in PAGES["prime-rl"]
    assert "0.1% for 64" in PAGES["openrlhf"]
