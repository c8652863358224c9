"""The loss: a constant divisor, garbage beyond a response's end, half precision, accumulation, and the ratio forms."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")
training = pytest.importorskip("rl2ml_core.training")
RL2MLLoss, group_advantages = training.RL2MLLoss, training.group_advantages


@pytest.fixture
def _forget_compiled_code():
    """Each test compiles anew: the instances of a class share its code, and so the number of its compilations."""
    yield
    torch.compiler.reset()


LOSS = RL2MLLoss()
NAN = math.nan
unhurried = settings(deadline=None)  # the first call of a function of torch takes its time


def make_batch(rows=6, length=5, dtype=torch.float64, seed=0):
    """log_probs, mask, advantages and old_log_probs of responses of several lengths, one of them empty."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = -torch.rand(rows, length, generator=generator, dtype=torch.float64) * 3
    lengths = torch.arange(rows) % (length + 1)
    mask = torch.arange(length) < lengths[:, None]
    advantages = torch.randn(rows, generator=generator, dtype=torch.float64)
    old = log_probs + 0.5 * torch.randn(rows, length, generator=generator, dtype=torch.float64)
    return log_probs.to(dtype).requires_grad_(), mask, advantages.to(dtype), old.to(dtype)


def gradient(loss, log_probs):
    return torch.autograd.grad(loss, log_probs)[0]


def in_words(log_probs, mask, advantages, old, clip=None, dual_clip=None):
    """The loss by loops over tokens, [..., T] flattened to rows."""
    total = 0.0
    for row, counted, a, past in zip(log_probs.tolist(), mask.tolist(), advantages.tolist(), old.tolist(), strict=True):
        for now, before, inside in zip(row, past, counted, strict=True):
            if not inside:
                continue
            ratio = math.exp(now - before)
            value = a * ratio
            if clip:
                low, high = clip
                value = min(value, a * min(max(ratio, 1 - low), 1 + high))
            if dual_clip and a < 0:
                value = max(value, a * dual_clip)
            total += value
    return -total / len(advantages)


# ---- policy gradient ----


def test_value_and_gradient_by_hand():
    log_probs = torch.tensor([[-1.0, -2.0, -9.0], [-3.0, -9.0, -9.0]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    loss = LOSS(log_probs, mask, torch.tensor([2.0, -1.0]))
    # −(2·(−1 −2) + (−1)·(−3))/2 = 3/2; the gradient is −A/2 on the tokens of a response.
    assert loss.item() == 1.5
    assert gradient(loss, log_probs).tolist() == [[-1.0, -1.0, 0.0], [0.5, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("garbage", [NAN, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("check", [True, False])
def test_nothing_beyond_the_end_of_a_response_matters(dtype, garbage, check):
    log_probs, mask, advantages, old = make_batch()
    loss = RL2MLLoss(check=check)
    for options in ({}, {"old_log_probs": old}):
        clean = loss(log_probs, mask, advantages, **options)
        dirty = torch.where(mask, log_probs, garbage)
        if options:
            options = {"old_log_probs": torch.where(mask, old, garbage)}
        found = loss(dirty, mask.to(dtype), advantages, **options)
        assert found.item() == pytest.approx(clean.item(), rel=1e-14)
        assert torch.allclose(gradient(found, log_probs), gradient(clean, log_probs), rtol=1e-14)


def test_groups_need_no_flattening():
    log_probs, mask, advantages, _ = make_batch()
    flat = LOSS(log_probs, mask, advantages)
    shaped = LOSS(log_probs.view(2, 3, 5), mask.view(2, 3, 5), advantages.view(2, 3))
    assert shaped.item() == pytest.approx(flat.item(), rel=1e-14)


def test_the_divisor_does_not_depend_on_lengths():
    log_probs, mask, advantages, _ = make_batch()
    part = gradient(LOSS(log_probs, mask, advantages), log_probs)[5]
    mask[:4] = False
    assert torch.equal(gradient(LOSS(log_probs, mask, advantages), log_probs)[5], part)
    budget = gradient(RL2MLLoss(length_budget=20)(log_probs, mask, advantages), log_probs)[5]
    assert torch.allclose(budget * 20, part)


@unhurried
@given(st.integers(1, 5), st.floats(0.5, 100))
def test_accumulation_in_parts_equals_the_whole(cut, num_responses):
    log_probs, mask, advantages, old = make_batch()
    for loss, past in ((LOSS, None), (RL2MLLoss(clip=0.2), old)):
        whole = gradient(loss(log_probs, mask, advantages, past, num_responses=num_responses), log_probs)
        parts = sum(
            gradient(
                loss(
                    log_probs[rows],
                    mask[rows],
                    advantages[rows],
                    None if past is None else past[rows],
                    num_responses=num_responses,
                ),
                log_probs,
            )
            for rows in (slice(0, cut), slice(cut, None))
        )
        assert torch.allclose(parts, whole, rtol=1e-13)


def test_two_halves_with_the_rows_of_the_step():
    log_probs, mask, advantages, _ = make_batch()
    whole = gradient(LOSS(log_probs, mask, advantages), log_probs)
    for rows in (slice(0, 3), slice(3, 6)):
        LOSS(log_probs[rows], mask[rows], advantages[rows], num_responses=6).backward()
    assert torch.allclose(log_probs.grad, whole, rtol=1e-14)


# ---- precision ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_single(dtype):
    # 4,096 tokens of −1/256 sum to −16; in bfloat16 alone a running sum stalls far before.
    log_probs = torch.full((2, 4096), -1 / 256, dtype=dtype, requires_grad=True)
    mask = torch.ones(2, 4096, dtype=torch.bool)
    loss = LOSS(log_probs, mask, torch.tensor([1.0, 2.0]))
    assert loss.dtype == torch.float32
    assert loss.item() == 24.0
    assert gradient(loss, log_probs)[:, 0].tolist() == [-0.5, -1.0]


def test_under_autocast_nothing_is_rounded():
    log_probs, mask, advantages, old = make_batch(64, 50, torch.float32)
    for loss, past in ((LOSS, None), (RL2MLLoss(clip=0.2, dual_clip=3.0), old)):
        outside = loss(log_probs, mask, advantages, past)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = loss(log_probs, mask, advantages, past)
        assert inside.dtype == torch.float32
        assert inside.item() == outside.item()
        assert torch.equal(gradient(inside, log_probs), gradient(outside, log_probs))


def test_a_model_under_autocast_trains_on_nearly_the_same_gradient():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Embedding(11, 32), torch.nn.Linear(32, 11))
    tokens = torch.randint(11, (16, 12))
    mask = torch.arange(12) < torch.randint(3, 12, (16, 1))
    advantages = group_advantages(rl2ml.Objective(1.0, "leave_one_out"), [[1, 0, 0, 1]] * 4).advantages.flatten()

    def run(enabled):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            log_probs = model(tokens).log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
            LOSS(log_probs, mask, advantages).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    assert torch.nn.functional.cosine_similarity(run(True), run(False), dim=0) > 0.999


# ---- compiled code ----


@pytest.mark.usefixtures("_forget_compiled_code")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("options", [{}, {"clip": (0.2, 0.3), "dual_clip": 3.0}], ids=str)
def test_compiled_whole(backend, options):
    log_probs, mask, advantages, old = make_batch()
    old = old if options else None
    loss = RL2MLLoss(**options, length_budget=7)
    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    dirty = torch.where(mask, log_probs, NAN).detach().requires_grad_()
    for num_responses in (None, 4):
        expected = loss(log_probs, mask, advantages, old, num_responses=num_responses)
        slope = gradient(expected, log_probs)
        for mask_dtype in (torch.bool, torch.float64):
            found = compiled(dirty, mask.to(mask_dtype), advantages, old, num_responses=num_responses)
            assert found.item() == pytest.approx(expected.item(), rel=1e-13)
            assert torch.allclose(gradient(found, dirty), slope, rtol=1e-13)


@pytest.mark.usefixtures("_forget_compiled_code")
def test_a_compiled_loss_takes_any_number_of_responses():
    log_probs, mask, advantages, _ = make_batch()
    compiled = torch.compile(LOSS, backend="eager", fullgraph=True)
    for number in [6, 6.0, *range(7, 30), *(x / 7 for x in range(50, 70))]:
        expected = LOSS(log_probs, mask, advantages, num_responses=number)
        assert compiled(log_probs, mask, advantages, num_responses=number).item() == pytest.approx(expected.item())


@pytest.mark.usefixtures("_forget_compiled_code")
def test_compiled_code_lets_nan_through():
    log_probs = torch.tensor([[NAN]], requires_grad=True)
    compiled = torch.compile(LOSS, backend="eager", fullgraph=True)
    assert compiled(log_probs, torch.ones(1, 1).bool(), torch.ones(1)).isnan()


# ---- ratios ----

FORMS = [{}, {"clip": 0.2}, {"clip": (0.1, 0.4)}, {"clip": (0.2, 0.28), "dual_clip": 3.0}, {"dual_clip": 1.5}]


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_ratio_forms_equal_their_definition(options):
    log_probs, mask, advantages, old = make_batch(30, 5)
    found = RL2MLLoss(**options)(log_probs, mask, advantages, old)
    clip = options.get("clip")
    pair = (clip, clip) if isinstance(clip, float) else clip
    expected = in_words(log_probs, mask, advantages, old, pair, options.get("dual_clip"))
    assert found.item() == pytest.approx(expected, rel=1e-13)
    moved = log_probs.detach() + 1e-6
    slope = (in_words(moved, mask, advantages, old, pair, options.get("dual_clip")) - expected) / 1e-6
    assert gradient(found, log_probs).sum().item() == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_ratio_forms_at_ratio_1_have_the_gradient_of_the_policy(options):
    log_probs, mask, advantages, _ = make_batch()
    expected = gradient(LOSS(log_probs, mask, advantages), log_probs)
    found = RL2MLLoss(**options)(log_probs, mask, advantages, log_probs.detach())
    assert torch.allclose(gradient(found, log_probs), expected, rtol=1e-13)


def test_clipped_tokens_have_no_gradient_whatever_their_ratio():
    log_probs = torch.tensor([[-0.1], [-0.1], [-900.0]], requires_grad=True)
    old = torch.tensor([[-900.0], [-1.0], [-1.0]])
    mask = torch.ones(3, 1, dtype=torch.bool)
    loss = RL2MLLoss(clip=0.2)(log_probs, mask, torch.tensor([1.0, 1.0, -1.0]), old)
    assert loss.item() == pytest.approx(-(1.2 + 1.2 - 0.8) / 3)
    assert gradient(loss, log_probs).tolist() == [[0.0]] * 3


# ---- what is refused ----


def call(log_probs=None, mask=None, advantages=None, old=None, loss=LOSS, **options):
    """A batch with some of it replaced."""
    usual = make_batch()
    return loss(
        usual[0] if log_probs is None else log_probs,
        usual[1] if mask is None else mask,
        usual[2] if advantages is None else advantages,
        old,
        **options,
    )


def changed(values, index, value):
    values = values.detach().clone()
    values[index] = value
    return values


LOG_PROBS, MASK, ADVANTAGES, OLD = make_batch()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_probs": changed(LOG_PROBS, (3, 1), NAN)}, r"log_probs must be finite; got nan at index 3, 1"),
        ({"log_probs": changed(LOG_PROBS, (5, 0), -math.inf)}, r"log_probs must be finite; got -inf at index 5, 0"),
        (
            {"log_probs": changed(LOG_PROBS, (3, 1), NAN), "mask": MASK.double()},
            r"log_probs must be finite; got nan at index 3, 1",
        ),
        (
            {"log_probs": changed(LOG_PROBS, (3, 1), NAN), "old": OLD},
            r"log_probs must be finite; got nan at index 3, 1",
        ),
        ({"log_probs": changed(LOG_PROBS, (3, 1), -math.inf), "old": OLD}, r"log_probs must be finite; got -inf"),
        ({"old": changed(OLD, (2, 0), NAN)}, r"old_log_probs must be finite; got nan at index 2, 0"),
        (
            {"old": changed(OLD, (2, 0), -math.inf), "loss": RL2MLLoss(clip=0.2)},
            r"old_log_probs must be finite; got -inf at index 2, 0",
        ),
        ({"advantages": changed(ADVANTAGES, 4, math.inf)}, r"advantages must be finite; got inf at index 4"),
        (
            {"advantages": torch.full_like(ADVANTAGES, 1e308), "num_responses": 0.1},
            r"the loss must be finite; got finite values that overflow",
        ),
        ({"mask": MASK[:, :4]}, r"mask must have the shape \[6, 5\] of log_probs; got \[6, 4\]"),
        ({"old": OLD[:5]}, r"old_log_probs must have the shape \[6, 5\] of log_probs; got \[5, 5\]"),
        ({"advantages": ADVANTAGES.view(2, 3)}, r"advantages must be one per response, of shape \[6\]; got \[2, 3\]"),
        ({"advantages": ADVANTAGES[:5]}, r"of shape \[6\]; got \[5\]"),
        ({"log_probs": torch.zeros(6, 5, dtype=torch.int64)}, r"floating point; got torch.int64"),
        ({"loss": RL2MLLoss(clip=0.2)}, r"old_log_probs must be given where ratios are clipped"),
        ({"loss": RL2MLLoss(dual_clip=2)}, r"old_log_probs must be given where ratios are clipped"),
        ({"num_responses": 0}, r"num_responses must be a finite number above 0; got 0"),
        ({"num_responses": NAN}, r"num_responses must be a finite number above 0; got nan"),
    ],
)
def test_refused_with_its_index(options, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        call(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0}, r"clip \(low\) must be a finite number above 0 and at most 1; got 0"),
        ({"clip": 1.5}, r"clip \(low\).*got 1.5"),
        ({"clip": (0.2, 0)}, r"clip \(high\).*got 0"),
        ({"clip": (0.2, 0.2, 0.2)}, r"clip must be a number or \(low, high\)"),
        ({"dual_clip": 1}, r"dual_clip.*above 1; got 1"),
        ({"length_budget": 0}, r"length_budget.*above 0; got 0"),
    ],
)
def test_bounds_outside_their_range(options, message):
    with pytest.raises(rl2ml.InvalidInput, match=message):
        RL2MLLoss(**options)


def test_unchecked_values_make_an_unusable_loss():
    log_probs = changed(LOG_PROBS, (3, 1), NAN)
    assert RL2MLLoss(check=False)(log_probs, MASK, ADVANTAGES).isnan()


def test_a_mask_that_is_not_finite_is_blamed_by_its_index():
    mask = torch.tensor([[1.0, float("nan"), 0.0], [1.0, 1.0, 1.0]])
    with pytest.raises(rl2ml.InvalidInput, match="mask must be finite; got nan at index 0, 1") as refused:
        RL2MLLoss()(torch.zeros(2, 3), mask, torch.ones(2))
    assert (refused.value.field, refused.value.index) == ("mask", 0)
