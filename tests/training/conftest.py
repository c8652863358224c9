"""A policy whose gradient is known, and every group that it can draw. Shapes: A responses, N rollouts, D parameters.

torch is an extra: each module here skips itself where it is missing.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest

# Responses as tokens (position, choice): 0 is right; 1 then 0 is right as well, 1 then 1 is wrong. Lengths differ.
RESPONSES = [([0], 1), ([1, 0], 1), ([1, 1], 0)]
# One token each, so that a response is its reward.
BINARY = [([0], 1), ([1], 0)]


class TabularPolicy:
    """Softmax tables of two tokens at two positions, float64."""

    def __init__(self, responses: list[tuple[list[int], int]] = RESPONSES):
        import torch

        self.logits = torch.tensor([[-0.7, 0.4], [0.3, -0.5]], dtype=torch.float64, requires_grad=True)
        self.rewards = torch.tensor([reward for _, reward in responses])
        length = max(len(tokens) for tokens, _ in responses)
        self._tokens = torch.tensor([tokens + [0] * (length - len(tokens)) for tokens, _ in responses])
        self.mask = torch.tensor([[1] * len(tokens) + [0] * (length - len(tokens)) for tokens, _ in responses]).bool()

    def log_probs(self) -> Any:
        """Of each response's tokens, [A, T]; NaN beyond its end, as nothing there may matter."""
        import torch

        table = self.logits.log_softmax(1)
        values = torch.stack([table[t, self._tokens[:, t]] for t in range(self._tokens.shape[1])], dim=1)
        return torch.where(self.mask, values, math.nan)

    def chances(self) -> Any:
        """π of each response, [A]."""
        import torch

        return torch.where(self.mask, self.log_probs(), 0).sum(1).exp()

    def groups(self, num_rollouts: int) -> Any:
        """Every group that can be drawn, [A^N, N], as indices of responses."""
        import torch

        return torch.tensor(list(itertools.product(range(len(self.rewards)), repeat=num_rollouts)))

    def objective_gradient(self, gamma: float, num_rollouts: int) -> Any:
        """∇J_{γ,N} from its definition: Σ_k (c_{k−1}/k) pass@k, pass@k = 1 − (1−p)^k, c_m = (γ)_m/m!."""
        import torch

        p = self.chances()[self.rewards == 1].sum()
        total, coefficient = torch.zeros((), dtype=torch.float64), 1.0
        for k in range(1, num_rollouts + 1):
            total = total + coefficient / k * (1 - (1 - p) ** k)
            coefficient *= (gamma + k - 1) / k
        if not num_rollouts:
            return torch.zeros_like(self.logits)
        return torch.autograd.grad(total, self.logits)[0]


@pytest.fixture
def make_policy() -> Callable[..., TabularPolicy]:
    return TabularPolicy


@pytest.fixture
def binary_responses() -> list[tuple[list[int], int]]:
    return BINARY
