"""Sketches of every rollout's score ∇ log π in one backward pass per batch. E36.

A linear layer's gradient for one rollout is G = Σ_t δ_t x_tᵀ, δ the gradient at its output and x its input. With random
signs u_j, v_j the coordinate u_jᵀ G v_j = Σ_t (u_j·δ_t)(v_j·x_t) needs no G, and its square is ‖G‖² in the mean. The
same signs serve a parameter wherever it is used, so that tied weights add up. Shapes: B rollouts (rows of a batch), T
tokens, D coordinates.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from rl2ml_core.checks import integer
from rl2ml_core.errors import InvalidInput

__all__ = ["ScoreSketches"]

_VALUES_PER_CHUNK = 1 << 23  # of temporary tensors: tens of megabytes
_LARGEST_GRADIENTS = 1 << 28  # numbers; single rollouts' gradients of a layer without a formula of its own


class ScoreSketches:
    """Collects a sketch of each rollout's score from one forward and one backward pass of a model.

        collector = ScoreSketches(model)
        with collector:
            log_probs = ...  # log π of each response, [B], from one call of the model on B rows
        sketches = collector.sketches(log_probs)  # [B, D]

    Sketches of different batches, steps and processes are comparable where `seed`, `dim` and names of parameters are
    the same. `.grad` is left alone.

    Args:
        model: calls of itself are watched; its first tensor argument has the rollouts as rows. Parameters that need no
            gradient have no part in the score.
        dim: D. κ's error from the sketch falls with it: `Estimate.sketch_error`.
        seed: of the random signs.
        parameters: names to include; None for all. With a part, everything measured is about that part alone: sketches
            of disjoint parts add up to the whole's.
        check: compare the first batch with the gradient of all parameters that autograd finds, at the price of one
            ordinary backward pass: a parameter that is used outside its layer's call would be missed otherwise.

    Raises:
        InvalidInput: no parameter to watch, or one that no layer's call shows.
    """

    def __init__(
        self,
        model: nn.Module,
        dim: int = 256,
        *,
        seed: int = 0,
        parameters: Callable[[str], bool] | None = None,
        check: bool = True,
    ) -> None:
        self.dim, self.seed, self.check = integer(dim, "dim", minimum=1), integer(seed, "seed", minimum=0), check
        self._model = model
        self._parameters = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and (parameters is None or parameters(name))
        }
        if not self._parameters:
            raise InvalidInput("parameters must leave one that needs a gradient; got none", field="parameters")
        names = {id(parameter): name for name, parameter in self._parameters.items()}
        self._layers: dict[nn.Module, dict[str, str]] = {}  # layer → its own names → names in the model
        for layer in model.modules():
            own = {key: names[id(p)] for key, p in layer._parameters.items() if p is not None and id(p) in names}
            if not own:
                continue
            if next(layer.children(), None) is not None or isinstance(layer, nn.ParameterList | nn.ParameterDict):
                raise InvalidInput(
                    f"{type(layer).__name__} has parameters beside layers of its own, and no layer's call shows their "
                    f"gradients: leave out {', '.join(own.values())} with parameters=",
                    field="parameters",
                )
            self._layers[layer] = own
        self._signs: dict[tuple[str, str, torch.dtype, torch.device], Tensor] = {}
        self._handles: list[Any] = []
        self._rows: int | None = None
        self._token: Tensor | None = None
        self._paused = False
        self._sum: Tensor | None = None
        self._parts: dict[str, Tensor] | None = None
        self._coarsest = 0.0  # rounding of the gradients that were seen

    def __enter__(self) -> Self:
        if self._handles:
            raise InvalidInput("the collector is in use already", field="model")
        self._token, self._rows = torch.zeros((), requires_grad=True), None
        self._handles = [self._model.register_forward_pre_hook(self._read_rows, with_kwargs=True, prepend=True)]
        self._handles += [layer.register_forward_hook(self._tap, with_kwargs=True) for layer in self._layers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def sketches(self, log_probs: Tensor, *, retain_graph: bool = False) -> Tensor:
        """Sketches of the scores, [B, D], in float32 (float64 for models in float64): one backward pass.

        Args:
            log_probs: log π of each whole response in the order of the rows, with their graph: [B], or any shape of B
                elements. Sums of tokens' log-probabilities, not means.
            retain_graph: keep the graph for another backward pass, of a loss, say.

        Raises:
            InvalidInput: other than B values, none with a part of the model in it, or a gradient that the layers'
                calls do not show.
        """
        token, rows = self._token, self._rows
        if token is None or rows is None or not log_probs.requires_grad:
            raise InvalidInput(
                "log_probs must come, with gradients, from a call of the model inside `with collector:`",
                field="log_probs",
            )
        if log_probs.numel() != rows:
            raise InvalidInput(
                f"log_probs must be one per row of the batch, {rows}; got shape {list(log_probs.shape)}",
                field="log_probs",
            )
        wide = torch.float64 if log_probs.dtype == torch.float64 else torch.float32
        self._sum = torch.zeros(rows, self.dim, dtype=wide, device=log_probs.device)
        self._parts = {} if self.check else None
        watched = [*self._parameters.values()] if self.check else []
        try:
            total = log_probs.to(wide).sum()
            found = torch.autograd.grad(total, [token, *watched], retain_graph=retain_graph, allow_unused=True)
            if found[0] is None:
                raise InvalidInput("log_probs must depend on a watched layer; got none", field="log_probs")
            if self._parts is not None:
                self._compare(dict(zip(self._parameters, found[1:], strict=True)), self._parts)
                self.check = False
            return self._sum
        finally:
            self._sum, self._parts, self._token = None, None, None

    def project(self, gradients: Mapping[str, Tensor | None]) -> Tensor:
        """The sketch [D] of a gradient given by names of parameters: the linear map itself.

        What is not watched, and None, has no part.
        """
        parts = [self._map(name, g[None])[0] for name, g in gradients.items() if g is not None and name in self]
        return torch.stack(parts).sum(0) if parts else torch.zeros(self.dim)

    def __contains__(self, name: object) -> bool:
        return name in self._parameters

    def __iter__(self) -> Iterator[str]:
        """Names of the parameters that are watched."""
        return iter(self._parameters)

    # ---- the map ----

    def _side(self, name: str, side: str, like: Tensor) -> Tensor:
        """Signs of one side of a parameter, [size, D]; those of the columns carry 1/√D."""
        key = (name, side, like.dtype, like.device)
        if key not in self._signs:
            shape = self._parameters[name].shape
            size = shape[0] if side == "rows" else math.prod(shape[1:]) if len(shape) > 1 else math.prod(shape)
            digest = hashlib.blake2b(f"{self.seed}/{name}/{side}".encode(), digest_size=7).digest()
            noise = torch.Generator().manual_seed(int.from_bytes(digest, "big"))  # the same on every device
            signs = torch.randint(2, (size, self.dim), generator=noise, dtype=torch.int8) * 2 - 1
            scale = self.dim**-0.5 if side == "columns" else 1
            self._signs[key] = signs.to(like.device, like.dtype) * scale
        return self._signs[key]

    def _map(self, name: str, gradients: Tensor) -> Tensor:
        """Sketches of rollouts' gradients [B, *shape], [B, D]."""
        wide = _wide(gradients)
        if gradients.ndim <= 2:
            return wide.reshape(len(wide), -1) @ self._side(name, "columns", wide)
        matrices = wide.flatten(2)
        return (matrices @ self._side(name, "columns", wide) * self._side(name, "rows", wide)).sum(1)

    # ---- forward ----

    def _read_rows(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._paused or not torch.is_grad_enabled():  # sampling has no part in it
            return
        first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim), None)
        if first is None:
            raise InvalidInput("the model must be called with a tensor that has the rollouts as rows", field="model")
        if self._rows not in (None, len(first)):
            raise InvalidInput(
                f"the model must be called once per batch: got {len(first)} rows after {self._rows}", field="model"
            )
        self._rows = len(first)

    def _tap(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if self._paused or not torch.is_grad_enabled() or self._token is None:
            return None
        names, rows = self._layers[layer], self._rows
        inputs = (*args, *kwargs.values())
        if rows is None:
            raise InvalidInput(
                "the watched model itself must be called, so that its rows are known; a part of it was called",
                field="model",
            )
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
            raise InvalidInput(
                f"{type(layer).__name__} must map one tensor to one: leave out {', '.join(names.values())} with "
                "parameters=",
                field="parameters",
            )
        x = inputs[0]
        if isinstance(layer, nn.Embedding) and x.ndim <= 2 and (x.ndim < 2 or len(x) == 1 != rows):
            # Positions, shared by all rows: from here on each row has its own.
            if x.ndim == 1 and len(x) == rows:
                raise InvalidInput(
                    f"{rows} indices in a batch of {rows} rows may be rows or places: give rows as [{rows}, 1], take "
                    f"another batch size, or leave out {', '.join(names.values())} with parameters=",
                    field="parameters",
                )
            x, output = x.reshape(1, -1).expand(rows, -1), output.reshape(1, -1, output.shape[-1])
            output = output.expand(rows, -1, -1)
        if len(x) != rows or len(output) != rows or output.ndim < 2:
            raise InvalidInput(
                f"{type(layer).__name__} must see the {rows} rows of the batch; got {list(x.shape)} → "
                f"{list(output.shape)}: leave out {', '.join(names.values())} with parameters=",
                field="parameters",
            )
        return _Tap.apply(output, self._token, self, layer, x.detach())

    # ---- backward ----

    def _add(self, layer: nn.Module, x: Tensor, delta: Tensor) -> None:
        """Take in one call's part of every row's sketch. x [B, …], delta [B, …, width]."""
        if self._sum is None:  # a loss's own backward pass
            return
        names = self._layers[layer]
        self._coarsest = max(self._coarsest, torch.finfo(delta.dtype).eps)
        per_row = max(x[0].numel(), delta[0].numel(), self.dim * (delta[0].numel() // delta.shape[-1]))
        if not (_is_linear(layer) or _is_conv1d(layer) or _is_embedding(layer)):
            per_row = max(per_row, sum(self._parameters[name].numel() for name in names.values()))
        step = max(1, _VALUES_PER_CHUNK // per_row)
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            for name, value in self._of_layer(layer, names, x[rows], delta[rows]):
                self._sum[rows] += value
                if self._parts is not None:
                    part = self._parts.setdefault(name, torch.zeros_like(self._sum))
                    part[rows] += value

    def _of_layer(
        self, layer: nn.Module, names: dict[str, str], x: Tensor, delta: Tensor
    ) -> Iterator[tuple[str, Tensor]]:
        """Names of the layer's parameters with their part of the sketches [B, D]."""
        if _is_embedding(layer):
            x, delta = x.flatten(1), delta.flatten(1, -2)
            name = names["weight"]
            rows = self._side(name, "rows", delta)[x]
            if layer.padding_idx is not None:  # such tokens leave no gradient
                rows = rows * (x != layer.padding_idx)[..., None]
            yield name, _products(rows, delta @ self._side(name, "columns", delta))
        elif _is_linear(layer) or _is_conv1d(layer):
            x, delta = (value.flatten(1, -2) if value.ndim > 2 else value[:, None] for value in (x, delta))
            if "weight" in names:
                name, x = names["weight"], x.to(delta.dtype)  # autocast rounds inputs inside the layer
                out, into = ("columns", "rows") if _is_conv1d(layer) else ("rows", "columns")
                yield name, _products(x @ self._side(name, into, delta), delta @ self._side(name, out, delta))
            if "bias" in names:
                yield names["bias"], self._map(names["bias"], _wide(delta).sum(1))
        else:
            for key, gradients in self._singly(layer, names, x, delta).items():
                yield names[key], self._map(names[key], gradients)

    def _singly(self, layer: nn.Module, names: dict[str, str], x: Tensor, delta: Tensor) -> dict[str, Tensor]:
        """Gradients of single rows, [B, *shape] by the layer's own names: fine for norms, a lot for large layers."""
        if len(x) * sum(self._parameters[name].numel() for name in names.values()) > _LARGEST_GRADIENTS:
            raise InvalidInput(
                f"{type(layer).__name__} is too large for gradients of single rows: leave out "
                f"{', '.join(names.values())} with parameters=",
                field="parameters",
            )

        def one(row: Tensor, change: Tensor) -> Any:
            def call(own: dict[str, Tensor]) -> Any:
                return torch.func.functional_call(layer, own, (row[None],))

            return torch.func.vjp(call, {key: layer._parameters[key] for key in names})[1](change[None])[0]

        self._paused = True
        try:
            found: dict[str, Tensor] = torch.func.vmap(one)(x, delta)
            return found
        finally:
            self._paused = False

    def _compare(self, gradients: Mapping[str, Tensor | None], parts: Mapping[str, Tensor]) -> None:
        """Raise where the rows' sketches of a parameter do not add up to the sketch of its whole gradient."""
        for name, gradient in gradients.items():
            part = parts.get(name)
            found = torch.zeros(self.dim) if part is None else part.sum(0)
            expected = torch.zeros_like(found) if gradient is None else self._map(name, gradient[None])[0].to(found)
            scale = max(expected.norm().item(), 0.0 if part is None else part.norm().item())
            tolerance = max(1e-3, 20 * self._coarsest)
            if not (found - expected).norm().item() <= tolerance * scale:
                raise InvalidInput(
                    f"the layers' calls do not show the whole gradient of {name} (it is used elsewhere, or rows are "
                    "not the first dimension of a layer): leave it out with parameters=",
                    field="parameters",
                )


class _Tap(torch.autograd.Function):
    """The identity; its backward hands the layer's input and its output's gradient to the collector.

    The token makes the pass reach every tap, whatever else needs a gradient; asking for its gradient alone leaves out
    the products that gradients of weights would cost.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, _: Tensor, owner: ScoreSketches, layer: nn.Module, x: Tensor) -> Any:
        ctx.owner, ctx.layer = owner, layer
        ctx.save_for_backward(x)
        return output.data  # an alias, not a view: what follows may work in place

    @staticmethod
    def backward(ctx: Any, delta: Tensor) -> Any:
        ctx.owner._add(ctx.layer, ctx.saved_tensors[0], delta)
        return delta, torch.zeros(()), None, None, None


def _products(rows: Tensor, columns: Tensor) -> Tensor:
    """Σ_t rows × columns, [B, T, D] → [B, D]."""
    return (_wide(rows) * _wide(columns)).sum(1)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _is_linear(layer: nn.Module) -> bool:
    return type(layer).forward is nn.Linear.forward


def _is_embedding(layer: nn.Module) -> bool:
    return type(layer).forward is nn.Embedding.forward and not layer.scale_grad_by_freq and layer.max_norm is None


def _is_conv1d(layer: nn.Module) -> bool:
    """Transformers' Conv1D, a linear layer with its weight turned: [in, out]."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")
