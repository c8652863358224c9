"""Advantages are the table's, whatever the layout of the rewards; what has no advantage is refused by its index."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")
training = pytest.importorskip("rl2ml_core.training")
TorchDispatchMode = pytest.importorskip("torch.utils._python_dispatch").TorchDispatchMode
group_advantages = training.group_advantages

OBJECTIVE = rl2ml.Objective(0.6, "leave_one_out")
NAN = math.nan
unhurried = settings(deadline=None)  # the first call of a function of torch takes its time
BATCHES = st.integers(1, 7).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 1), min_size=n, max_size=n), min_size=1, max_size=6)
)


def exact(*arguments, **options):
    return group_advantages(*arguments, dtype=torch.float64, **options)


# ---- layouts ----


@unhurried
@given(BATCHES, st.sampled_from([0.0, 0.6, 1.0, 2.5]), st.sampled_from(["none", "score", "leave_one_out"]))
def test_dense_advantages_are_the_tables(rewards, gamma, baseline):
    objective = rl2ml.Objective(gamma, baseline)
    expected = objective.table(len(rewards[0])).advantages(rewards)
    found = exact(objective, rewards)
    assert np.array_equal(found.advantages.numpy(), expected)
    assert found.num_successes.tolist() == [sum(row) for row in rewards]
    assert found.num_rollouts.tolist() == [len(row) for row in rewards]
    assert found.valid is found.ids is found.groups is None
    single = group_advantages(objective, rewards).advantages
    assert single.dtype == torch.float32
    assert np.array_equal(single.numpy(), expected.astype(np.float32))


@st.composite
def shuffled_groups(draw):
    """Groups of several sizes, their rows in any order: [(group, reward)], with NaN for missing rewards."""
    groups = draw(st.lists(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=1, max_size=5), min_size=1, max_size=6))
    groups = [[*group, draw(st.sampled_from([0.0, 1.0]))] for group in groups]  # one at least is there
    return draw(st.permutations([(i, reward) for i, group in enumerate(groups) for reward in group]))


@unhurried
@given(shuffled_groups(), st.sampled_from([int, str, float, lambda i: ("prompt", i)]))
def test_ragged_rows_get_what_their_group_alone_would(rows, name):
    ids, rewards = [name(i) for i, _ in rows], [reward for _, reward in rows]
    found = exact(OBJECTIVE, rewards, ids)
    for place, key in enumerate(found.ids):
        mine = [j for j, other in enumerate(ids) if other == key]
        there = [j for j in mine if not math.isnan(rewards[j])]
        values = [rewards[j] for j in there]
        assert found.num_rollouts[place] == len(there)
        assert found.num_successes[place] == sum(values)
        assert found.advantages[there].tolist() == OBJECTIVE.table(len(there)).advantages(values).tolist()
        assert found.groups[mine].tolist() == [place] * len(mine)
    missing = [j for j, reward in enumerate(rewards) if math.isnan(reward)]
    assert (found.advantages[missing] == 0).all()
    assert found.valid is None if not missing else (~found.valid).nonzero().flatten().tolist() == missing


@unhurried
@given(shuffled_groups(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows, random):
    order = random.sample(range(len(rows)), len(rows))
    ids, rewards = torch.tensor([i for i, _ in rows]), torch.tensor([reward for _, reward in rows])
    straight, permuted = exact(OBJECTIVE, rewards, ids), exact(OBJECTIVE, rewards[order], ids[order])
    assert torch.equal(straight.advantages[order], permuted.advantages)
    assert torch.equal(straight.ids, permuted.ids)
    assert torch.equal(straight.num_successes, permuted.num_successes)


@unhurried
@given(BATCHES)
def test_ragged_equals_dense(rewards):
    dense = exact(OBJECTIVE, rewards)
    flat = torch.tensor(rewards).flatten()
    ids = torch.arange(len(rewards)).repeat_interleave(len(rewards[0]))
    texts = np.array([f"uid-{i}" for i in ids], dtype=object)
    for keys in (
        ids,
        ids.to(torch.int32),
        ids.numpy(),
        ids.numpy().astype(np.uint8),
        texts,
        texts.astype(str),
        list(texts),
    ):
        ragged = exact(OBJECTIVE, flat, keys)
        assert torch.equal(ragged.advantages, dense.advantages.flatten())
        assert torch.equal(ragged.num_successes, dense.num_successes)
        assert torch.equal(ragged.num_rollouts, dense.num_rollouts)


@unhurried
@given(BATCHES, st.data())
def test_a_missing_reward_leaves_a_smaller_group(rewards, data):
    rewards = torch.tensor(rewards, dtype=torch.float32)
    missing = torch.tensor(data.draw(st.lists(st.booleans(), min_size=rewards.numel(), max_size=rewards.numel())))
    missing = missing.view_as(rewards)
    missing[:, 0] = False
    by_nan = exact(OBJECTIVE, rewards.masked_fill(missing, NAN))
    by_mask = exact(OBJECTIVE, rewards.masked_fill(missing, 7), valid=~missing)
    assert torch.equal(by_nan.advantages, by_mask.advantages)
    for row, gone, advantages in zip(rewards, missing, by_nan.advantages, strict=True):
        assert torch.equal(advantages[~gone], exact(OBJECTIVE, row[~gone][None]).advantages[0])
        assert (advantages[gone] == 0).all()


def test_a_missing_row_is_marked_either_way():
    found = exact(OBJECTIVE, [[1, NAN, 0, 1]], valid=[[True, True, True, False]])
    assert found.valid.tolist() == [[True, False, True, False]]
    assert found.num_rollouts.tolist() == [2]
    right, wrong = OBJECTIVE.table(2).advantages([1, 0])
    assert found.advantages.tolist() == [[right, 0.0, wrong, 0.0]]


def test_singletons_work_with_a_pilot():
    objective = rl2ml.Objective(0.6, "bayes", rl2ml.PilotHistogram.from_counts([0, 2, 5], 8))
    found = exact(objective, [1, 0, 1], ["a", "b", "b"])
    table, pair = objective.table(1), objective.table(2)
    assert found.advantages.tolist() == [table.success[1], pair.failure[1], pair.success[1]]


def test_large_groups():
    rewards = torch.zeros(2, 4096)
    rewards[0, :5] = 1
    table = OBJECTIVE.table(4096)
    found = exact(OBJECTIVE, rewards).advantages
    assert found[0, 0].item() == table.success[5]
    assert found[1, 0].item() == table.failure[0]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64])
def test_rewards_of_any_dtype(dtype):
    rewards = torch.tensor([[1, 0, 0], [0, 0, 0]], dtype=dtype)
    expected = torch.from_numpy(OBJECTIVE.table(3).advantages([[1, 0, 0], [0, 0, 0]]))
    assert torch.equal(exact(OBJECTIVE, rewards).advantages, expected)
    assert torch.equal(exact(OBJECTIVE, rewards.flatten(), [0, 0, 0, 1, 1, 1]).advantages, expected.flatten())
    assert torch.equal(exact(OBJECTIVE, rewards, check=False).advantages, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_advantages_are_rounded_once(dtype):
    expected = torch.from_numpy(OBJECTIVE.table(3).advantages([[1, 0, 0]])).to(dtype)
    assert torch.equal(group_advantages(OBJECTIVE, [[1, 0, 0]], dtype=dtype).advantages, expected)


def test_rewards_keep_their_graph_to_themselves():
    rewards = torch.tensor([[1.0, 0.0]], requires_grad=True)
    assert not group_advantages(OBJECTIVE, rewards).advantages.requires_grad
    assert not group_advantages(
        OBJECTIVE, {"c": rewards, "f": rewards}, correctness="c", shaping={"f": 1.0}
    ).advantages.requires_grad


def test_an_empty_batch():
    assert group_advantages(OBJECTIVE, torch.zeros(0, 4)).advantages.shape == (0, 4)
    assert group_advantages(OBJECTIVE, torch.zeros(0), []).advantages.shape == (0,)


# ---- objectives ----


def test_other_tables():
    rewards = [[1, 0, 0, 1], [0, 0, 0, 1]]
    grpo = rl2ml.known_table("grpo", 4)
    expected = torch.from_numpy(grpo.advantages(rewards))
    source = SimpleNamespace(table=lambda n: rl2ml.known_table("grpo", n))
    for objective in ("grpo", grpo, source):
        assert torch.equal(exact(objective, rewards).advantages, expected)
    ragged = exact("grpo", [1, 0, 0, 1, 0], [0, 0, 0, 1, 1]).advantages
    assert ragged[3:].tolist() == rl2ml.known_table("grpo", 2).advantages([1, 0]).tolist()


def test_tables_are_asked_for_once_and_a_new_size_later():
    asked = []

    def table(num_rollouts):
        asked.append(num_rollouts)
        return OBJECTIVE.table(num_rollouts)

    source = SimpleNamespace(table=table)
    for rewards in ([[1, 0, 0]], [[0, 1, 0]]):
        exact(source, rewards)
    first = len(asked)
    assert set(asked) == {3}
    found = exact(source, [1, 0, 1, 0, 0], [0, 0, 1, 1, 1])
    assert set(asked) == {2, 3}
    assert found.advantages[:2].tolist() == OBJECTIVE.table(2).advantages([1, 0]).tolist()
    assert exact(source, [[1, 0, 0]]).advantages.tolist() == OBJECTIVE.table(3).advantages([[1, 0, 0]]).tolist()
    later = len(asked)
    exact(source, [[1, 0]])
    assert len(asked) == later > first


# ---- correctness and shaping ----


def test_correctness_by_threshold_and_column():
    graded = torch.tensor([[0.9, 0.5, 0.1], [NAN, 0.49, 0.5]])
    expected = exact(OBJECTIVE, [[1, 1, 0], [NAN, 0, 1]]).advantages
    assert torch.equal(exact(OBJECTIVE, graded, correctness=0.5).advantages, expected)
    assert torch.equal(exact(OBJECTIVE, {"g": graded}, correctness=("g", 0.5)).advantages, expected)
    binary = {"correct": torch.tensor([[1.0, 1, 0], [NAN, 0, 1]])}
    assert torch.equal(exact(OBJECTIVE, binary, correctness="correct").advantages, expected)


def test_shaping_adds_a_centered_term():
    rewards = {
        "correct": [[1, 0, 0, NAN], [0, 1, 1, 1]],
        "format": [[1, 0, 0.5, 9], [NAN, 1, 1, 0]],
        "length": [[2, 2, 2, 2]] * 2,
    }
    plain = exact(OBJECTIVE, rewards["correct"]).advantages
    # Row 0: the mean of 1, 0, .5 is .5 (the fourth is missing); row 1: of 1, 1, 0 it is 2/3. Equal lengths add nothing.
    term = torch.tensor([[0.5, -0.5, 0, 0], [0, 1 / 3, 1 / 3, -2 / 3]], dtype=torch.float64)
    found = exact(OBJECTIVE, rewards, correctness="correct", shaping={"format": 0.1, "length": 3.0})
    assert torch.allclose(found.advantages, plain + 0.1 * term, rtol=1e-14)
    flat = {name: torch.tensor(values).flatten() for name, values in rewards.items()}
    ragged = exact(OBJECTIVE, flat, torch.arange(8) // 4, correctness="correct", shaping={"format": 0.1, "length": 3.0})
    assert torch.allclose(ragged.advantages, found.advantages.flatten(), rtol=1e-14)
    assert found.metrics()["effective_weight"] == exact(OBJECTIVE, rewards["correct"]).metrics()["effective_weight"]


# ---- what is refused ----

COLUMNS = {"correct": [[1, 0]], "format": [[0.5, 0.2]]}
REFUSED = [
    (([[0, 1], [0.5, 1]],), {}, r"rewards must be 0, 1 or NaN.*correctness.*got 0.5 at index 1, 0"),
    (([1, 0, 2], [0, 0, 1]), {}, r"got 2 at index 2"),
    (([[0, 1], [1, math.inf]],), {}, r"got inf at index 1, 1"),
    (([[0, 3], [1, NAN]],), {}, r"got 3 at index 0, 1"),
    (([[0, 3], [1, 2]],), {"valid": [[1, 0], [1, 1]]}, r"got 2 at index 1, 1"),
    (([[0.2, -math.inf]],), {"correctness": 0.5}, r"finite or NaN.*got -inf at index 0, 1"),
    (
        ({"correct": [[1, 0.5]]},),
        {"correctness": "correct"},
        r"rewards\['correct'\] must be 0, 1.*got 0.5 at index 0, 1",
    ),
    ((COLUMNS,), {"correctness": "correct"}, r"column 'format' without a weight"),
    ((COLUMNS,), {"correctness": "corect"}, r"must name one of the columns correct, format; got 'corect'"),
    ((COLUMNS,), {}, r"must name one of the columns correct, format; got None"),
    (
        (COLUMNS,),
        {"correctness": "correct", "shaping": {"fmt": 1, "format": 1}},
        r"shaping must name columns.*got 'fmt'",
    ),
    (
        (COLUMNS,),
        {"correctness": "correct", "shaping": {"format": NAN}},
        r"shaping\['format'\] must be a finite number",
    ),
    (
        ({**COLUMNS, "format": [[0.5, math.inf]]},),
        {"correctness": "correct", "shaping": {"format": 1}},
        r"rewards\['format'\] must be finite.*got inf at index 0, 1",
    ),
    (
        ({**COLUMNS, "format": [0.5, 1]},),
        {"correctness": "correct", "shaping": {"format": 1}},
        r"rewards\['format'\] must have the shape \[1, 2\].*got \[2\]",
    ),
    (([[1, 0]],), {"correctness": "correct"}, r"must be a mapping of columns"),
    (([[1, 0]],), {"shaping": {"format": 1}}, r"must be a mapping of columns"),
    (([[1, 0]],), {"correctness": (3, 0.5)}, r"a column, a threshold or \(column, threshold\)"),
    (([[1, 0]],), {"correctness": NAN}, r"correctness must be a finite number; got nan"),
    (([[1, 0]],), {"valid": [[True]]}, r"valid must have the shape \[1, 2\].*got \[1, 1\]"),
    (([[1, 0], [NAN, NAN]],), {}, r"every group must have a valid row; got none in group 1"),
    (([1, 0, NAN], ["a", "a", "b"]), {}, r"got none in group 1 \(id 'b'\)"),
    (([1, 0, NAN], torch.tensor([3, 3, 7])), {}, r"got none in group 1 \(id 7\)"),
    (([1, 0],), {}, r"\[groups, rollouts\], or \[rows\] with group_ids; got shape \[2\]"),
    ((torch.zeros(2, 0),), {}, r"got shape \[2, 0\]"),
    (([[1, 0]], [0]), {}, r"must be \[rows\] where group_ids are given"),
    (([1, 0], [0]), {}, r"group_ids must be one per reward, 2; got 1"),
    (([1, 0], torch.zeros(2)), {}, r"vector of integers.*float32"),
    (([1, 0], np.zeros(2)), {}, r"vector of integers.*float64"),
    (([1, 0], torch.zeros(2, 1, dtype=torch.int64)), {}, r"vector of integers.*\[2, 1\]"),
    (([1, 0], [[0], [1]]), {}, r"integers or hashable; got unhashable"),
    (([1, 0], [torch.tensor(0), torch.tensor(0)]), {}, r"got a list of tensors"),
    (([1, 0], 3), {}, r"group_ids must be .*got int"),
    ((["a", "b"],), {}, r"real numbers in a regular array; got list"),
    (([[1, 0], [1]],), {}, r"real numbers in a regular array"),
    ((torch.zeros(1, 2, dtype=torch.complex64),), {}, r"real numbers"),
]


@pytest.mark.parametrize(("arguments", "options", "message"), REFUSED)
def test_refused_with_its_index(arguments, options, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        group_advantages(OBJECTIVE, *arguments, **options)


def test_errors_carry_the_row():
    with pytest.raises(rl2ml.InvalidInput) as caught:
        group_advantages(OBJECTIVE, [[0, 1], [0.5, 1]])
    assert (caught.value.field, caught.value.index) == ("rewards", 1)


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (rl2ml.known_table("grpo", 4), r"for groups of 3, such as group 1 \(id 'b'\); got one for groups of 4"),
        (
            SimpleNamespace(table=lambda n: OBJECTIVE.table(4)),
            r"for groups of 3, such as group 1.*got one for groups of 4",
        ),
        ("gpro", r"objective must be one of .*got 'gpro'"),
        (0.5, r"objective must be an Objective.*got float"),
    ],
)
def test_objectives_without_a_table(objective, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        group_advantages(objective, [1, 0, 0, 1, 0, 0, 1], ["a"] * 4 + ["b"] * 3)


def test_a_group_that_is_too_small_for_a_trainer():
    with pytest.raises(rl2ml.InvalidInput, match=r"groups of 1, such as group 2.*grpo needs at least 2 rollouts"):
        group_advantages("grpo", [[1, 0], [0, 0], [1, NAN]])


def test_a_dtype_that_cannot_hold_the_advantages():
    # β_0 = N(N+1)/2 = 131,328 at γ = 2, N = 512; float16 ends at 65,504.
    objective = rl2ml.Objective(2.0, "none")
    rewards = torch.zeros(1, 512)
    with pytest.raises(rl2ml.InvalidInput, match=r"dtype must hold advantages up to 1.31e\+05; got torch.float16"):
        group_advantages(objective, rewards, dtype=torch.float16)
    assert group_advantages(objective, rewards, dtype=torch.bfloat16).advantages.isfinite().all()
    with pytest.raises(rl2ml.InvalidInput, match=r"dtype must hold advantages.*got torch.int64"):
        group_advantages(objective, rewards, dtype=torch.int64)


def test_unchecked_dense_rewards_are_taken_at_their_word():
    rewards = torch.tensor([[1.0, 0.0, 1.0]])
    assert torch.equal(
        group_advantages(OBJECTIVE, rewards, check=False).advantages, group_advantages(OBJECTIVE, rewards).advantages
    )


# ---- what is watched ----


def test_metrics_by_hand():
    objective = rl2ml.Objective(1.0, "score")  # A = β_{K−1} r − 1 with β = N/K
    found = group_advantages(objective, [[1, 0, 0, 0], [0, 0, NAN, 0], [1, 1, 1, 1], [1, 0, 1, 0]])
    # Advantages: (3, −1, −1, −1), (−1, −1, ·, −1), (0, 0, 0, 0), (1, −1, 1, −1): squares 12, 3, 0, 4 of 15 rows.
    # The weight of γ = 1 is Σ_{m<N} q^m: with β_m = N/(m+1), (1 − K/N) β_K + (K/N) β_{K−1} = (N−K)/(K+1) + [K > 0]:
    # (3/2 + 1) + 3 + 1 + (2/3 + 1) over four groups.
    metrics = found.metrics()
    assert metrics == pytest.approx(
        {
            "advantage_rms": math.sqrt(19 / 15),
            "pass_rate": (0.25 + 0 + 1 + 0.5) / 4,
            "all_fail_groups": 0.25,
            "all_success_groups": 0.25,
            "zero_advantage_groups": 0.25,
            "effective_weight": (2.5 + 3 + 1 + 5 / 3) / 4,
            "group_size": 15 / 4,
            "missing_rewards": 1 / 16,
        },
        rel=1e-12,
    )
    cells = found.histogram()
    rows = zip(cells.num_rollouts.tolist(), cells.num_successes.tolist(), cells.num_prompts.tolist(), strict=True)
    assert list(rows) == [(3, 0, 1), (4, 1, 1), (4, 2, 1), (4, 4, 1)]


@pytest.mark.parametrize("reference", ["grpo", OBJECTIVE], ids=["grpo", "objective"])
def test_squares_of_a_reference_are_those_of_its_advantages(reference):
    rewards = torch.tensor([[1, 0, 0, NAN], [0, 0, 1, 1], [1, 1, 1, 1]])
    found = group_advantages(rl2ml.Objective(1.5, "score"), rewards)
    expected = group_advantages(reference, rewards, dtype=torch.float64).squares()
    assert torch.allclose(found.squares(reference), expected, rtol=1e-14)


# ---- where it waits for the host ----


def test_unchecked_dense_rewards_never_wait():
    # Tensors of the meta device have no values: whatever asked for one would fail.
    rewards = torch.zeros(3, 4, device="meta")
    found = group_advantages(OBJECTIVE, rewards, check=False)
    log_probs = torch.zeros(3, 4, 7, device="meta", requires_grad=True)
    mask = torch.ones(3, 4, 7, dtype=torch.bool, device="meta")
    training.RL2MLLoss(check=False)(log_probs, mask, found.advantages).backward()
    assert log_probs.grad.shape == log_probs.shape


class Waits(TorchDispatchMode):
    """Counts what a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("layout", ["dense", "missing", "integers", "texts"])
def test_waits_do_not_grow_with_the_number_of_groups(layout):
    def waits(groups):
        rewards = (torch.arange(groups * 4) % 3 == 0).double().view(groups, 4)
        ids = None
        if layout == "missing":
            rewards[:, 1] = NAN
            rewards[0, 2] = NAN
        if layout in ("integers", "texts"):
            ids = torch.arange(groups).repeat_interleave(4)
            ids = ids if layout == "integers" else [str(i) for i in ids.tolist()]
            rewards = rewards.flatten()
        group_advantages(OBJECTIVE, rewards, ids)  # tables are there from now on
        with Waits() as counter:
            group_advantages(OBJECTIVE, rewards, ids)
        return counter.count

    assert waits(2) == waits(300) <= 4
    assert layout != "dense" or waits(300) == 1


# ---- compiled code ----


def test_inside_compiled_code():
    rewards = torch.tensor([[1.0, 0, 0], [0, 1, NAN]])

    @torch.compile(backend="eager")
    def step(x):
        return group_advantages(OBJECTIVE, x, correctness=0.5).advantages * 2 + x.sum().isnan()

    assert torch.equal(step(rewards), group_advantages(OBJECTIVE, rewards).advantages * 2 + 1)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 1), min_size=4, max_size=4))
def test_half_precision_autocast_changes_nothing(rewards):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = exact(OBJECTIVE, [rewards]).advantages
    assert torch.equal(inside, exact(OBJECTIVE, [rewards]).advantages)


@pytest.mark.parametrize("objective", ["grpo", rl2ml.known_table("rloo", 8), rl2ml.Objective(1.0)])
def test_a_batch_without_rows_has_no_advantages(objective):
    for groups in (
        group_advantages(objective, torch.zeros(0), torch.zeros(0, dtype=torch.int64)),
        group_advantages(objective, torch.zeros(0), []),
    ):
        assert groups.advantages.shape == (0,)
        assert groups.num_rollouts.shape == (0,)


def test_unchecked_ragged_rewards_may_still_be_missing():
    rewards, ids = torch.tensor([1, 0, float("nan"), 1, 0, 0]), torch.tensor([0, 0, 0, 1, 1, 1])
    objective = rl2ml.Objective(1.0)
    checked, unchecked = (group_advantages(objective, rewards, ids, check=check) for check in (True, False))
    assert torch.equal(checked.advantages, unchecked.advantages)
    assert unchecked.num_rollouts.tolist() == [2, 3]


@pytest.mark.parametrize("ids", ["aab", [1, torch.tensor(1), 1], [0.0, 0, float("nan")]])
def test_ids_that_would_group_wrongly_are_refused(ids):
    with pytest.raises(rl2ml.InvalidInput, match="group_ids must"):
        group_advantages(rl2ml.Objective(1.0), torch.tensor([1.0, 0.0, 1.0]), ids)


def test_metrics_of_missing_rewards_are_finite():
    groups = group_advantages(rl2ml.Objective(1.0), torch.tensor([1.0, float("nan")]), torch.tensor([0, 0]))
    assert groups.metrics()["missing_rewards"] == 0.5
