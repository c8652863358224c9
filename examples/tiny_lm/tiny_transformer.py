"""A character-level transformer, small enough for a CPU, and the two passes that reinforcement learning makes.

Sampling goes one character at a time and keeps keys and values; training reads whole responses at once. Both must mean
the same policy: tests/examples/test_tiny_lm.py compares their log-probabilities. Shapes: P prompts of L characters, N
rollouts each of T characters, B rows of S characters, V characters in the vocabulary, H heads, D channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TinyTransformer", "response_log_probs", "response_mask", "sample", "step_of_length"]

Cache = list[tuple[Tensor, Tensor]]  # keys and values of each layer, [B, H, S, D/H]


class Block(nn.Module):
    """Pre-norm attention and perceptron. Returns its keys and values too, so that sampling can keep them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        rows, length, width = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        # With a past there is one new character, and it may look at everything.
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=past is None)
        x = x + self.out(attended.transpose(1, 2).reshape(rows, length, width))
        return x + self.down(F.gelu(self.up(self.norm_2(x)))), (k, v)


class TinyTransformer(nn.Module):
    """Decoder-only, learned positions. The defaults make about 100,000 parameters.

    Args:
        vocabulary: V.
        window: the most characters it can read.
    """

    def __init__(self, vocabulary: int, window: int, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(window, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """Log-probabilities of the next character at every place, [B, S, V], and the keys and values so far.

        With a cache, `tokens` is [B, 1]: the one character that follows it.
        """
        start = 0 if cache is None else cache[0][0].shape[2]
        x = self.characters(tokens) + self.positions(torch.arange(start, start + tokens.shape[1]))
        grown: Cache = []
        for number, block in enumerate(self.blocks):
            x, kept = block(x, None if cache is None else cache[number])
            grown.append(kept)
        return self.head(self.norm(x)).log_softmax(-1), grown


@torch.no_grad()
def sample(
    model: TinyTransformer, prompts: Tensor, num_rollouts: int, length: int, noise: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rollouts at temperature 1 and the log-probability of each of their characters, [P, N, T] both.

    Every rollout takes `length` characters, whatever it has written: the noise that a place receives is then the same
    for all policies that are sampled with one seed. What follows the end is for `response_mask` to leave out.
    """
    log_probs, cache = model(prompts)
    # A prompt is read once; its rollouts begin with copies of what was read.
    cache = [(k.repeat_interleave(num_rollouts, 0), v.repeat_interleave(num_rollouts, 0)) for k, v in cache]
    following = log_probs[:, -1].repeat_interleave(num_rollouts, 0)
    written, chosen = [], []
    for place in range(length):
        # Dividing probabilities by exponential noise and taking the largest is an exact draw (the Gumbel trick).
        exponential = torch.empty_like(following).exponential_(generator=noise)
        token = (following - exponential.log()).argmax(-1, keepdim=True)
        written.append(token)
        chosen.append(following.gather(-1, token))
        if place < length - 1:
            log_probs, cache = model(token, cache)
            following = log_probs[:, -1]
    shape = (len(prompts), num_rollouts, length)
    return torch.cat(written, 1).view(shape), torch.cat(chosen, 1).view(shape)


def response_log_probs(model: TinyTransformer, prompts: Tensor, responses: Tensor) -> Tensor:
    """log π of each character of responses [P, N, T] to prompts [P, L], with gradients, [P, N, T]."""
    count, rollouts, length = responses.shape
    rows = responses.reshape(count * rollouts, length)
    # The last character is never read: nothing is predicted after it.
    read = torch.cat([prompts.repeat_interleave(rollouts, 0), rows[:, :-1]], dim=1)
    log_probs, _ = model(read)
    following = log_probs[:, prompts.shape[1] - 1 :]
    return following.gather(-1, rows[..., None]).view(count, rollouts, length)


def response_mask(responses: Tensor, end: int) -> Tensor:
    """Which characters belong to a response, [..., T]: all up to and including its end."""
    ends = (responses == end).long()
    return ends.cumsum(-1) - ends == 0


@torch.no_grad()
def step_of_length(parameters: Sequence[Tensor], length: float) -> None:
    """θ ← θ − ℓ g/‖g‖: the step rule. Where no group has anything to teach g is 0, and so is the step."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])).item()
    if norm > 0:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=length / norm)
