"""Sketches in one backward pass equal those of each rollout's own gradient, whatever the model. E36."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import rl2ml_core as rl2ml

torch = pytest.importorskip("torch", reason="torch is not installed: TRAINING=1 make test")

from torch import nn  # noqa: E402

from rl2ml_core.training import ScoreSketches, measure_geometry, sketches  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY, ROWS, TOKENS = 11, 6, 7


class TinyPolicy(nn.Module):
    """Embeddings of tokens and of places (one row for all), a norm, dropout, work in place, perhaps a tied head."""

    def __init__(self, tied=False, dropout=0.0, width=8):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, width, padding_idx=0), nn.Embedding(TOKENS, width)
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 12), nn.Linear(12, width)
        self.act, self.drop = nn.ReLU(inplace=True), nn.Dropout(dropout)
        self.head = nn.Linear(width, VOCABULARY, bias=not tied)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, tokens):
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
        x = self.drop(x.cumsum(1) / 3)
        x = x + self.down(self.act(self.up(self.norm(x))))
        return self.head(x).log_softmax(-1)


def make_batch(seed=0):
    """Tokens with padding behind responses of other lengths (and before prompts), and the mask of what is scored."""
    noise = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, VOCABULARY, (ROWS, TOKENS), generator=noise)
    lengths = torch.randint(3, TOKENS + 1, (ROWS, 1), generator=noise)
    mask = (torch.arange(TOKENS) < lengths) & (torch.arange(TOKENS) >= 2)
    tokens[torch.arange(TOKENS) >= lengths] = 0
    tokens[0, 0] = 0
    return tokens, mask


def log_probs_of(model, tokens, mask):
    found = model(tokens)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    return torch.where(mask[:, 1:], found, 0).sum(-1)


def one_by_one(collector, model, log_prob_of_row, rows=ROWS):
    """A backward pass for every row, and the same projection."""
    parameters = {name: p for name, p in model.named_parameters() if name in collector}
    found = []
    for row in range(rows):
        gradients = torch.autograd.grad(log_prob_of_row(row), list(parameters.values()), allow_unused=True)
        found.append(collector.project(dict(zip(parameters, gradients, strict=True))))
    return torch.stack(found)


def collect(collector, model, batch):
    with collector:
        log_probs = log_probs_of(model, *batch)
    return collector.sketches(log_probs)


def assert_one_by_one(model, batch, tolerance, **options):
    collector = ScoreSketches(model, 32, **options)
    found = collect(collector, model, batch)
    expected = one_by_one(collector, model, lambda i: log_probs_of(model, *(part[i : i + 1] for part in batch)).sum())
    assert found.shape == (len(batch[0]), 32)
    assert not found.requires_grad
    assert (found - expected).norm() <= tolerance * expected.norm()
    assert expected.norm() > 0


# ---- exact ----


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5), ("bfloat16", 0.03)])
def test_equal_to_a_backward_pass_per_rollout(tied, dtype, tolerance):
    torch.manual_seed(0)
    model = TinyPolicy(tied).to(getattr(torch, dtype))
    assert_one_by_one(model, make_batch(), tolerance)
    if dtype != "bfloat16":
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_hugging_face_llama_with_padding(tied):
    pytest.importorskip("transformers", reason="transformers is not installed: TRAINING=1 make test")
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 13, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = LlamaConfig(
        **sizes, num_attention_heads=2, num_key_value_heads=1, pad_token_id=0, tie_word_embeddings=tied
    )
    torch.manual_seed(0)
    assert_hugging_face(LlamaForCausalLM(config))


def test_hugging_face_gpt2_with_padding():
    pytest.importorskip("transformers", reason="transformers is not installed: TRAINING=1 make test")
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 13, "n_positions": 16, "n_embd": 16, "n_layer": 2, "n_head": 2}
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    assert_hugging_face(GPT2LMHeadModel(GPT2Config(**sizes, **rates, bos_token_id=0, eos_token_id=0)))


def assert_hugging_face(model):
    ids = torch.randint(1, 13, (ROWS, 9), generator=torch.Generator().manual_seed(1))
    there = torch.ones_like(ids)
    for row in range(ROWS):  # prompts of other lengths, padded on the left
        there[row, : row // 2] = 0
    ids[there == 0] = 0

    def log_probs(rows):
        logits = model(input_ids=ids[rows], attention_mask=there[rows]).logits
        return logits.log_softmax(-1)[:, 4:-1].gather(-1, ids[rows][:, 5:, None])[..., 0].sum(-1)

    collector = ScoreSketches(model, 32)
    with collector:
        values = log_probs(slice(None))
    found = collector.sketches(values)
    expected = one_by_one(collector, model, lambda i: log_probs(slice(i, i + 1)).sum())
    assert (found - expected).norm() <= 1e-5 * expected.norm()
    assert set(collector) == {name for name, _ in model.named_parameters()}


def test_training_mode_with_dropout():
    # One draw of dropout for the whole batch: the rows' sketches add up to the gradient of that pass (which `check`
    # compares), and the next pass is another draw.
    torch.manual_seed(0)
    model, batch = TinyPolicy(dropout=0.5).train(), make_batch()
    collector = ScoreSketches(model, 32)
    first, second = collect(collector, model, batch), collect(collector, model, batch)
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(collect(collector, model, batch), collect(collector, model, batch))


def test_large_batches_are_taken_in_pieces(monkeypatch):
    torch.manual_seed(0)
    model, batch = TinyPolicy().double(), make_batch()
    expected = collect(ScoreSketches(model, 32), model, batch)
    monkeypatch.setattr(sketches, "_VALUES_PER_CHUNK", 200)
    assert torch.allclose(collect(ScoreSketches(model, 32), model, batch), expected, rtol=1e-12)


def test_autocast():
    torch.manual_seed(0)
    model, batch = TinyPolicy(), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        assert_one_by_one(model, batch, 0.03)


def test_a_norm_without_a_formula_of_its_own_and_a_convolution():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.linspace(0.5, 2, 8))

        def forward(self, x):
            return self.weight * x / x.square().mean(-1, keepdim=True).add(1e-6).sqrt()

    class Policy(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.norm = nn.Embedding(VOCABULARY, 8), Scale()
            self.mix, self.head = nn.Conv1d(8, 8, 2, padding=1), nn.Linear(8, VOCABULARY)

        def forward(self, tokens):
            x = self.norm(self.tokens(tokens)).mT
            return self.head(self.mix(x)[..., :-1].mT).log_softmax(-1)

    torch.manual_seed(0)
    assert_one_by_one(Policy(), make_batch(), 1e-5)


def test_squared_lengths_and_products_are_kept_in_the_mean():
    torch.manual_seed(0)
    model, batch = TinyPolicy(tied=True).double(), make_batch()
    gradients = []
    for row in range(2):
        model.zero_grad()
        log_probs_of(model, *(part[row : row + 1] for part in batch)).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    a, b = gradients
    found = torch.stack(
        [collect(ScoreSketches(model, 16, seed=seed, check=False), model, batch) for seed in range(300)]
    )
    for values, expected in (
        (found[:, 0].square().sum(-1), a @ a),
        (found[:, 1].square().sum(-1), b @ b),
        ((found[:, 0] * found[:, 1]).sum(-1), a @ b),
    ):
        assert abs(values.mean() - expected) < 4 * values.std() / 300**0.5
        assert values.std() < 2 * a.norm() * b.norm()  # 16 coordinates; √(2/16) were it a Gaussian map


# ---- parts, passes, reproducibility ----


def test_disjoint_parts_add_up_and_seeds_differ():
    torch.manual_seed(0)
    model, batch = TinyPolicy(tied=True).double(), make_batch()
    whole = collect(ScoreSketches(model, 16), model, batch)
    head = ScoreSketches(model, 16, parameters=lambda name: name.startswith("tokens"))
    rest = ScoreSketches(model, 16, parameters=lambda name: not name.startswith("tokens"))
    with head, rest:
        log_probs = log_probs_of(model, *batch)
    parts = head.sketches(log_probs, retain_graph=True) + rest.sketches(log_probs)
    assert torch.allclose(parts, whole)
    assert torch.equal(collect(ScoreSketches(model, 16), model, batch), whole)
    assert not torch.allclose(collect(ScoreSketches(model, 16, seed=1), model, batch), whole)
    assert list(head) == ["tokens.weight"]


def test_frozen_parameters_have_no_part():
    torch.manual_seed(0)
    model, batch = TinyPolicy(), make_batch()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("down"))
    collector = ScoreSketches(model, 32)
    assert list(collector) == ["down.weight", "down.bias"]
    assert_one_by_one(model, batch, 1e-5)


def test_a_loss_may_use_the_same_graph():
    torch.manual_seed(0)
    model, batch = TinyPolicy(), make_batch()
    collector = ScoreSketches(model, 8)
    with collector:
        log_probs = log_probs_of(model, *batch)
    collector.sketches(log_probs, retain_graph=True)
    (-log_probs.mean()).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    (-log_probs_of(model, *batch).mean()).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad), name


def test_sampling_inside_is_not_watched():
    torch.manual_seed(0)
    model, batch = TinyPolicy(), make_batch()
    collector = ScoreSketches(model, 8)
    with collector:
        with torch.no_grad():
            model(batch[0][:2])
        log_probs = log_probs_of(model, *batch)
    assert torch.equal(collector.sketches(log_probs), collect(ScoreSketches(model, 8), model, batch))


def test_gradient_checkpointing():
    class Checkpointed(TinyPolicy):
        def forward(self, tokens):
            x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1]))
            inner = lambda x: self.down(self.act(self.up(self.norm(x))))  # noqa: E731
            x = x + torch.utils.checkpoint.checkpoint(inner, x, use_reentrant=False)
            return self.head(x).log_softmax(-1)

    torch.manual_seed(0)
    model, batch = Checkpointed(), make_batch()
    collector = ScoreSketches(model, 16)
    with collector:  # the layers are called again inside the backward pass
        log_probs = log_probs_of(model, *batch)
        found = collector.sketches(log_probs)
    expected = one_by_one(collector, model, lambda i: log_probs_of(model, *(part[i : i + 1] for part in batch)).sum())
    assert (found - expected).norm() <= 1e-5 * expected.norm()


def test_kappa_of_a_softmax_policy_through_sketches():
    # Two answers per prompt and a logit for each: S = (r − p)(1, −1), κ = ‖(1, −1)‖²/(2pq) = 1/(pq), 4 at p = ½.
    model = nn.Embedding(40, 2)
    nn.init.zeros_(model.weight)
    prompts = torch.arange(40).repeat_interleave(8)
    answers = torch.randint(2, (320,), generator=torch.Generator().manual_seed(0))
    collector = ScoreSketches(model, 128)
    with collector:
        log_probs = model(prompts[:, None])[:, 0].log_softmax(-1).gather(-1, answers[:, None])
    geometry = measure_geometry(collector.sketches(log_probs), answers, prompts)
    assert geometry.kappa.value == pytest.approx(4, abs=3 * geometry.kappa.error)
    assert geometry.kappa.error < 0.5


# ---- misuse ----


def test_what_the_calls_do_not_show_is_noticed():
    class Outside(TinyPolicy):
        def forward(self, tokens):  # the head's weight is used, the head is not called
            return (self.norm(self.tokens(tokens)) @ self.head.weight.T).log_softmax(-1)

    torch.manual_seed(0)
    model, batch = Outside(tied=True), make_batch()
    with pytest.raises(rl2ml.InvalidInput, match=r"whole gradient of tokens\.weight"):
        collect(ScoreSketches(model, 16), model, batch)
    left = ScoreSketches(model, 16, parameters=lambda name: name != "tokens.weight")
    assert collect(left, model, batch).shape == (ROWS, 16)


def test_misuse_is_refused():
    torch.manual_seed(0)
    model, (tokens, mask) = TinyPolicy(), make_batch()
    with pytest.raises(rl2ml.InvalidInput, match="needs a gradient; got none"):
        ScoreSketches(model, parameters=lambda name: False)
    with pytest.raises(rl2ml.InvalidInput, match=r"leave out in_proj_weight"):
        ScoreSketches(nn.MultiheadAttention(4, 2))
    collector = ScoreSketches(model, 8)
    with pytest.raises(rl2ml.InvalidInput, match="inside `with collector:`"):
        collector.sketches(log_probs_of(model, tokens, mask))
    with collector:
        log_probs = log_probs_of(model, tokens, mask)
        with pytest.raises(rl2ml.InvalidInput, match="in use already"), collector:
            pass
    with pytest.raises(rl2ml.InvalidInput, match=r"one per row of the batch, 6; got shape \[5\]"):
        collector.sketches(log_probs[:5])
    with collector, pytest.raises(rl2ml.InvalidInput, match="once per batch: got 3 rows after 6"):
        model(tokens), model(tokens[:3])
    with collector, pytest.raises(rl2ml.InvalidInput, match="a part of it was called"):
        model.up(torch.ones(2, 8))
    with collector, pytest.raises(rl2ml.InvalidInput, match="may be rows or places"):
        model(tokens[:, :ROWS])

    class Flat(TinyPolicy):
        def forward(self, tokens):
            return self.head(self.tokens(tokens).flatten(0, 1))

    flat = Flat()
    with ScoreSketches(flat), pytest.raises(rl2ml.InvalidInput, match=r"Linear must see the 6 rows of the batch"):
        flat(tokens)


# ---- what the page says ----


def test_the_pages_code_measures_kappa(capsys):
    text = (ROOT / "docs" / "geometry.md").read_text(encoding="utf-8")
    names = {}
    exec(compile(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], "docs/geometry.md", "exec"), names)
    geometry = names["geometry"]
    assert capsys.readouterr().out == geometry.summary() + "\n"
    assert geometry.kappa.value > 3 * geometry.kappa.error > 0
    assert abs(geometry.mean_score.value) < 4 * geometry.mean_score.error
    assert names["answer"].gamma is not None
    for name in re.findall(r"^\| `([\w`, ]+)`", text, re.MULTILINE) + re.findall(
        r"^- `([\w`, ]+)`", text, re.MULTILINE
    ):
        for part in name.replace("`", "").split(", "):
            assert hasattr(geometry, part)


@pytest.mark.parametrize(("option", "rows"), [((), 5), (("--train",), 2)])
def test_the_benchmark_runs(option, rows):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: the example needs it")
    command = [sys.executable, "-W", "error", "benchmarks/geometry.py", "--quick", *option]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    if option:
        assert re.search(r"^κ = ‖μ−ν‖²/E‖S‖² +[\d.]+ ± [\d.]+$", done.stdout, re.MULTILINE)
        assert "γ for pass@8" in done.stdout
    else:  # the ways agree, or it would have stopped
        assert len(re.findall(r"× time", done.stdout)) == rows
