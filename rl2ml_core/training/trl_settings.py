"""Settings of TRL's `GRPOConfig` that break the estimator, read by their names. docs/trl.md has the table."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from rl2ml_core.errors import InvalidInput
from rl2ml_core.training.lookup import Tables, table_of
from rl2ml_core.training.settings import DROPS_TERMS, LENGTHS, OFF_POLICY, SAMPLER, Setting

__all__ = ["check_arguments", "check_bases", "reward_roles", "trl_settings"]

#: Loss types that divide by a constant: the batch's rows, and for dr_grpo max_completion_length as well.
_CONSTANT = ("dr_grpo", "luspo")
#: How sampling may leave the distribution that log-probabilities are taken of, and the values with which it does not:
#: fields of `GRPOConfig`, then what only generation_kwargs or a model's own generation_config has. None never does.
_FIELDS = {"top_p": (1.0,), "top_k": (0, -1), "min_p": (0.0,), "repetition_penalty": (1.0,)}
_OTHERS = (
    dict.fromkeys(("num_beams", "typical_p", "guidance_scale"), (1,))
    | dict.fromkeys(("epsilon_cutoff", "eta_cutoff", "presence_penalty", "frequency_penalty"), (0,))
    | dict.fromkeys(("no_repeat_ngram_size", "min_length", "min_new_tokens", "min_tokens"), (0,))
    | dict.fromkeys(("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "bad_words", "sequence_bias"), ())
    | dict.fromkeys(("logit_bias", "allowed_token_ids", "exponential_decay_length_penalty", "penalty_alpha"), ())
)


def trl_settings(args: Any, model: nn.Module | None = None) -> Iterator[Setting]:
    """What is wrong with a `GRPOConfig`, one setting after the other; nothing where the estimator is unbiased.

    Args:
        args: the config.
        model: whose dropout and generation_config play a part, too.
    """
    if args.loss_type not in _CONSTANT:
        yield Setting(f"loss_type={args.loss_type!r}", LENGTHS, "loss_type='dr_grpo'")
    if args.loss_type == "luspo" and args.importance_sampling_level != "sequence":
        yield Setting(
            f"importance_sampling_level={args.importance_sampling_level!r} with loss_type='luspo'",
            "divides by the longest response of a batch in some releases of TRL",
            "importance_sampling_level='sequence'",
        )
    yield from _off_policy(args)
    if args.mask_truncated_completions:
        yield Setting("mask_truncated_completions=True", DROPS_TERMS, "mask_truncated_completions=False")
    if args.top_entropy_quantile < 1:
        yield Setting(f"top_entropy_quantile={args.top_entropy_quantile}", DROPS_TERMS, "top_entropy_quantile=1.0")
    if args.delta is not None and args.delta < 1:
        yield Setting(f"delta={args.delta}", "is below 1, where no success has a gradient", "delta=None")
    yield from _sampling(args, getattr(model, "generation_config", None))
    if model is not None and any(isinstance(part, nn.Dropout) and part.p > 0 for part in model.modules()):
        yield Setting("The model's dropout", SAMPLER, "disable_dropout=True")
    if args.neftune_noise_alpha is not None:
        yield Setting(f"neftune_noise_alpha={args.neftune_noise_alpha}", SAMPLER, "neftune_noise_alpha=None")


def _off_policy(args: Any) -> Iterator[Setting]:
    """Steps on rollouts of an older policy: TRL then keeps the old log-probabilities."""
    window, steps = args.gradient_accumulation_steps, args.steps_per_generation
    if window % (steps * args.num_iterations):
        if args.num_iterations > 1:
            yield Setting(f"num_iterations={args.num_iterations}", OFF_POLICY, "num_iterations=1")
        if window % steps:
            yield Setting(
                f"steps_per_generation={steps} (generation_batch_size={args.generation_batch_size})",
                OFF_POLICY,
                f"steps_per_generation={window}, like gradient_accumulation_steps, or leave both out",
            )
    if args.off_policy_mask_threshold is not None:
        yield Setting(
            f"off_policy_mask_threshold={args.off_policy_mask_threshold}",
            "drops failures alone when they are off-policy",
            "off_policy_mask_threshold=None",
        )
    if args.use_vllm and not args.vllm_importance_sampling_correction:
        yield Setting("vllm_importance_sampling_correction=False", SAMPLER, "vllm_importance_sampling_correction=True")


def _sampling(args: Any, inherited: Any) -> Iterator[Setting]:
    """In TRL's order: generation_kwargs before the config's fields, and those before the model's own settings."""
    extra = args.generation_kwargs or {}
    if extra.get("temperature") not in (None, args.temperature):
        yield Setting(
            f"generation_kwargs={{'temperature': {extra['temperature']}}}",
            SAMPLER,
            f"temperature={extra['temperature']} in the config itself",
        )
    if extra.get("do_sample") is False:
        yield Setting("generation_kwargs={'do_sample': False}", SAMPLER, "generation_kwargs without 'do_sample'")
    for name, neutral in (_FIELDS | _OTHERS).items():
        own = getattr(args, name, None) if name in _FIELDS else None
        models = None if args.use_vllm else getattr(inherited, name, None)
        for value, written, instead in (
            (
                extra.get(name),
                f"generation_kwargs={{{name!r}: {extra.get(name)!r}}}",
                f"generation_kwargs without {name!r}",
            ),
            (own, f"{name}={own}", f"{name}={_FIELDS.get(name, (None,))[0]}"),
            (models, f"The model's generation_config.{name}={models!r:.40}", f"model.generation_config.{name}=None"),
        ):
            if value is not None:
                if value not in (*neutral, []):
                    yield Setting(written, SAMPLER, instead)
                break
    if args.use_vllm and args.vllm_structured_outputs_regex is not None:
        yield Setting(
            f"vllm_structured_outputs_regex={args.vllm_structured_outputs_regex!r}",
            SAMPLER,
            "vllm_structured_outputs_regex=None",
        )


# ---- arguments of the trainer ----


def check_arguments(args: Any, objective: Tables) -> None:
    """Refuse what would fail in the first step, or in evaluation.

    Args:
        args: the config; None: TRL's default.
        objective: what is trained with.

    Raises:
        InvalidInput: no table for the groups' size, or no length to divide by.
    """
    if args is None:
        return
    for name in ("num_generations", "num_generations_eval"):
        size = getattr(args, name)
        if size is not None:
            try:
                table_of(objective, size)
            except InvalidInput as error:
                raise InvalidInput(f"{name}={size}: {error}", field=name) from None
    if args.loss_type == "dr_grpo" and args.max_completion_length is None:
        raise InvalidInput(
            "max_completion_length must be a number with loss_type='dr_grpo', which divides by it; got None",
            field="max_completion_length",
        )


def check_bases(trainer: type, mixin: type, base: type) -> None:
    """Refuse `class Mine(MyTrainer, RL2MLMixin)`: TRL's own methods would win, and nothing would be replaced.

    Raises:
        InvalidInput: the base comes before the mixin.
    """
    order = trainer.__mro__
    if base in order and order.index(base) < order.index(mixin):
        names = ", ".join(each.__name__ for each in trainer.__bases__)
        raise InvalidInput(f"{mixin.__name__} must come before the trainer; got class {trainer.__name__}({names})")


def reward_roles(
    names: Sequence[str], correctness: str | None, weights: Sequence[float] | None, *, warn: bool = True
) -> tuple[str, dict[str, float]]:
    """Which reward function is correctness, and the weights of those that shape.

    Args:
        names: of all reward functions.
        correctness: what was asked for; None: the only one.
        weights: of all functions, where the user gave them; None: only correctness is trained on.
        warn: of functions that are not trained on.

    Raises:
        InvalidInput: none or several of that name, or a weight of correctness other than 1.
    """
    chosen = names[0] if correctness is None and len(names) == 1 else correctness
    if chosen is None or names.count(chosen) != 1:
        got = "none" if chosen is None else f"{chosen!r}, of which there are {names.count(chosen)}"
        raise InvalidInput(
            f"correctness must name the reward function that gives 0 or 1, one of {', '.join(names)}; got {got}",
            field="correctness",
        )
    others = [name for name in names if name != chosen]
    if weights is None:
        if others and warn:
            warnings.warn(
                f"Rewards of {', '.join(others)} are logged, not trained on: advantages count {chosen} alone. Set "
                "reward_weights to add them as shaping (outside the theory), with 1 for "
                f"{chosen} and 0 for what is only logged.",
                stacklevel=3,
            )
        return chosen, {}
    pairs = list(zip(names, weights, strict=True))
    weight = dict(pairs)[chosen]
    if weight != 1:
        raise InvalidInput(
            f"reward_weights must have 1 for {chosen}, as the objective sets its scale; got {weight:g}",
            field="reward_weights",
        )
    shaping = {name: weight for name, weight in pairs if name != chosen and weight}
    for name in shaping:
        if names.count(name) > 1:
            raise InvalidInput(
                f"reward functions must have names of their own; got {name!r} more than once", field="reward_funcs"
            )
    return chosen, shaping
