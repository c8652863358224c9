"""What verl's configuration says: the objective it names, and the settings that break the estimator. See docs/verl.md.

Configurations are read through `.get` alone, so nothing of verl is imported.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.objective import Objective
from rl2ml_core.training.lookup import Tables, table_of
from rl2ml_core.training.settings import (
    DROPS_GROUPS,
    DROPS_TERMS,
    LENGTHS,
    OFF_POLICY,
    SAMPLER,
    Setting,
    objective_of,
    warn_of,
)

__all__ = ["no_such_field", "verl_objective", "verl_settings", "warn_of_verl", "with_culprit"]

_KEYS = ("rl2ml_objective", "rl2ml_gamma", "rl2ml_baseline", "rl2ml_correctness")
_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
_CORRECTION = "algorithm.rollout_correction"
#: Policy losses whose gradient differs from Σ A ∇log π at ratio 1 although `loss_agg_mode` is right.
_LOSSES = {"sapo": LENGTHS, "geo_mean": LENGTHS, "clip_cov": DROPS_TERMS}
_warned: set[str] = set()

IGNORED: Final = "has no effect here but on logs, as correctness is counted before the KL penalty"
TRUNCATED: Final = "multiplies tokens by truncated importance weights, so baselines no longer cancel exactly"
ROLLOUT_RATIO: Final = "clips ratios to the rollout engine's probabilities, which are not 1 even in the first step"


def verl_objective(algorithm: Any) -> Tables:
    """The objective that `algorithm.rl2ml_…` names. A file is read once, and again when it changes.

    Raises:
        InvalidInput: no objective or two, an unknown key of ours, or a value outside its range.
    """
    for key in algorithm:
        if str(key).startswith("rl2ml_") and key not in _KEYS:
            raise InvalidInput(f"algorithm must have no rl2ml_ key but {', '.join(_KEYS)}; got {key}", field=str(key))
    path, gamma, baseline = (algorithm.get(key) for key in _KEYS[:3])
    if path is not None:
        for key, value in (("rl2ml_gamma", gamma), ("rl2ml_baseline", baseline)):
            if value is not None:
                raise InvalidInput(
                    f"algorithm.{key} must be left out where algorithm.rl2ml_objective names a file, which has its "
                    f"own; got {value!r:.60}",
                    field=key,
                )
        file = Path(str(path)).expanduser()
        return _load(str(path), file.stat().st_mtime_ns if file.is_file() else 0)
    if gamma is None:
        raise InvalidInput(
            "algorithm.rl2ml_objective must name the objective's file: +algorithm.rl2ml_objective=PATH (or "
            "+algorithm.rl2ml_gamma=NUMBER for one without a pilot); got none",
            field="rl2ml_objective",
        )
    try:
        return _make(gamma, baseline)
    except InvalidInput as error:
        hint = "" if error.field != "baseline" else "; a file has one: +algorithm.rl2ml_objective=PATH"
        raise InvalidInput(f"algorithm.rl2ml_{error.field}: {error}{hint}", field=f"rl2ml_{error.field}") from None


def no_such_field(name: Any, fields: Iterable[str]) -> InvalidInput:
    """The error where `algorithm.rl2ml_correctness` is none of a reward's `fields`."""
    return InvalidInput(
        f"algorithm.rl2ml_correctness must name a field of all rewards, one of {', '.join(fields) or 'none'}; "
        f"got {name!r:.60}",
        field="rl2ml_correctness",
    )


def with_culprit(error: InvalidInput, rewards: Mapping[str, Sequence[Any]], uids: Sequence[Any]) -> InvalidInput:
    """An error of `group_advantages`, in verl's words where it is about one trajectory of the one field counted."""
    if error.index is None:
        return error
    ((field, values),) = rewards.items()
    return InvalidInput(
        f"algorithm.rl2ml_correctness must name a field that is 0, 1 or None (missing): "
        f"+algorithm.rl2ml_correctness=NAME; got {values[error.index]!s:.60} as {field} of uid {uids[error.index]}",
        field="rl2ml_correctness",
        index=error.index,
    )


@lru_cache(maxsize=4)
def _load(path: str, changed: int) -> Tables:  # noqa: ARG001  # the time is part of the key
    return objective_of(path, "algorithm.rl2ml_objective")


@lru_cache(maxsize=4)
def _make(gamma: float, baseline: str | None) -> Objective:
    return Objective(gamma, baseline)


def verl_settings(config: Any, objective: Tables | None = None, num_rows: int = 0) -> Iterator[Setting]:
    """What is wrong with a trainer's configuration, one setting after the other.

    Args:
        config: of the whole trainer. What it does not say is not judged.
        objective: what it trains with.
        num_rows: rows of a batch without padding; 0: one per trajectory.
    """
    yield from _loss(config)
    yield from _rewards(config, objective)
    yield from _policies(config, num_rows)


def warn_of_verl(config: Any, objective: Tables | None = None, num_rows: int = 0) -> None:
    """One warning per process for each of `verl_settings`: an estimator is called every step."""
    news = [setting for setting in verl_settings(config, objective, num_rows) if setting.written not in _warned]
    _warned.update(setting.written for setting in news)
    warn_of(news)


def _loss(config: Any) -> Iterator[Setting]:
    mode, loss = _at(config, f"{_ACTOR}.loss_agg_mode"), _at(config, f"{_ACTOR}.policy_loss.loss_mode")
    if mode in ("token-mean", "seq-mean-token-mean"):
        yield Setting(f"{_ACTOR}.loss_agg_mode={mode}", LENGTHS, f"{_ACTOR}.loss_agg_mode=seq-mean-token-sum")
    if mode == "seq-mean-token-sum-norm" and _at(config, f"{_ACTOR}.loss_scale_factor") is None:
        longest = _at(config, "data.max_response_length") or "data.max_response_length"
        yield Setting(
            f"{_ACTOR}.loss_agg_mode={mode} without a loss_scale_factor",
            LENGTHS,
            f"{_ACTOR}.loss_scale_factor={longest}",
        )
    if loss in _LOSSES:
        yield Setting(
            f"{_ACTOR}.policy_loss.loss_mode={loss}", _LOSSES[loss], f"{_ACTOR}.policy_loss.loss_mode=vanilla"
        )


def _rewards(config: Any, objective: Tables | None) -> Iterator[Setting]:
    if _at(config, "algorithm.use_kl_in_reward"):
        yield Setting(
            "algorithm.use_kl_in_reward=True",
            IGNORED,
            f"algorithm.use_kl_in_reward=False {_ACTOR}.use_kl_loss=True",
        )
    if _at(config, "algorithm.filter_groups.enable"):
        counted, metric = _at(config, "algorithm.rl2ml_correctness") or "reward", "algorithm.filter_groups.metric"
        if objective is None or _has_to_lose(objective, _at(config, f"{_ROLLOUT}.n") or 2):
            yield Setting(
                "algorithm.filter_groups.enable=True",
                DROPS_GROUPS,
                "algorithm.filter_groups.enable=False, or make the objective with --filter-groups",
            )
        elif _at(config, metric) != counted:
            yield Setting(f"{metric}={_at(config, metric)}", DROPS_GROUPS, f"{metric}={counted}")


def _policies(config: Any, num_rows: int) -> Iterator[Setting]:
    """Rollouts from other policies than the one that is trained."""
    epochs, mini = _at(config, f"{_ACTOR}.ppo_epochs"), _at(config, f"{_ACTOR}.ppo_mini_batch_size")
    prompts, rollouts = _at(config, "data.train_batch_size"), _at(config, f"{_ROLLOUT}.n")
    if epochs and epochs > 1:
        yield Setting(f"{_ACTOR}.ppo_epochs={epochs}", OFF_POLICY, f"{_ACTOR}.ppo_epochs=1")
    if mini and prompts and mini < prompts:
        yield Setting(f"{_ACTOR}.ppo_mini_batch_size={mini}", OFF_POLICY, f"{_ACTOR}.ppo_mini_batch_size={prompts}")
    elif mini and rollouts and num_rows > mini * rollouts:  # verl cuts the batch by rows, not by trajectories
        yield Setting(
            f"{_ACTOR}.ppo_mini_batch_size={mini}, with several outputs per trajectory,",
            OFF_POLICY,
            f"{_ACTOR}.use_dynamic_bsz=True {_ACTOR}.ppo_mini_batch_size={-(-num_rows // rollouts)} or more (the most "
            f"rows of a batch, {num_rows} here, over {_ROLLOUT}.n)",
        )
    mode = _at(config, "trainer.v1.trainer_mode")
    if mode not in (None, "sync") and _at(config, "trainer.use_v1") is not False:
        yield Setting(f"trainer.v1.trainer_mode={mode}", OFF_POLICY, "trainer.v1.trainer_mode=sync")
    for name, does in (("rollout_is", TRUNCATED), ("rollout_rs", DROPS_TERMS)):
        given = _at(config, f"{_CORRECTION}.{name}")
        if given is not None:
            yield Setting(f"{_CORRECTION}.{name}={given}", does, f"{_CORRECTION}.{name}=null")
    if _at(config, f"{_CORRECTION}.bypass_mode"):
        yield Setting(f"{_CORRECTION}.bypass_mode=True", ROLLOUT_RATIO, f"{_CORRECTION}.bypass_mode=False")
    for name, kept in (("top_p", (1,)), ("top_k", (-1, 0))):
        given = _at(config, f"{_ROLLOUT}.{name}")
        if given is not None and given not in kept:
            yield Setting(f"{_ROLLOUT}.{name}={given}", SAMPLER, f"{_ROLLOUT}.{name}={kept[0]}")


def _has_to_lose(objective: Tables, num_rollouts: int) -> bool:
    """Whether groups of equal rewards have an advantage."""
    table = table_of(objective, num_rollouts)
    return bool(max(abs(table.failure[0]), abs(table.success[num_rollouts])) > 1e-12)


def _at(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = None if config is None else config.get(name)
    return config
