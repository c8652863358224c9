"""verl's estimator `rl2ml`: `algorithm.adv_estimator=rl2ml +algorithm.rl2ml_objective=PATH`. See docs/verl.md.

verl loads this module by itself while it is being imported, through the entry points `verl.plugins`.
"""

import importlib
import sys
from typing import Any

import torch

from rl2ml_core.errors import InvalidInput, MissingExtra
from rl2ml_core.training.advantages import group_advantages
from rl2ml_core.training.verl_settings import no_such_field, verl_objective, warn_of_verl, with_culprit

try:
    from verl.trainer.ppo.core_algos import register_adv_est
except ModuleNotFoundError as error:
    if error.name != "verl":
        raise
    raise MissingExtra("Training with verl", "verl") from None

__all__ = ["rl2ml_advantages"]


@register_adv_est("rl2ml")  # type: ignore[untyped-decorator]  # verl is not followed
def rl2ml_advantages(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, config: Any, index: Any, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Advantages and, the same, returns, [rows, T]. A trajectory counts once, however many rows it has."""
    objective, caller = verl_objective(config), _callers()
    keys = caller.get("batch_keys") or [f"{row}_0" for row in range(len(index))]
    trajectories, outputs = zip(*(key.rsplit("_", 1) for key in keys), strict=True)
    trained = response_mask.any(1).tolist()
    rows = [row for row, uid in enumerate(index) if trained[row] or not str(uid).startswith("pad")]  # verl's padding
    last = {trajectories[row]: row for row in sorted(rows, key=lambda row: int(outputs[row]))}
    field, values = _correctness(caller, config.get("rl2ml_correctness"), [*last.values()], token_level_rewards)
    scored = {key: value for key, value in zip(last, values, strict=True) if value is not None and value == value}
    uids, dtype = [index[last[key]] for key in scored], torch.promote_types(token_level_rewards.dtype, torch.float32)
    rewards = {field: [*scored.values()]}
    try:
        groups = group_advantages(objective, rewards, uids, correctness=field, dtype=dtype)
    except InvalidInput as error:
        raise with_culprit(error, rewards, uids) from None
    warn_of_verl(getattr(caller.get("self"), "config", {"algorithm": config}), objective, len(rows))
    by_trajectory = dict(zip(scored, groups.advantages.tolist(), strict=True))
    of_rows = [by_trajectory.get(trajectory, 0.0) for trajectory in trajectories]
    advantages = torch.tensor(of_rows, dtype=dtype, device=response_mask.device)[:, None] * response_mask
    return advantages, advantages


def _callers() -> dict[str, Any]:
    """Local variables of verl's functions that lead to the estimator, the nearest first."""
    # verl gives an estimator neither the batch nor its keys, which tell trajectories, nor the trainer's configuration.
    found: dict[str, Any] = {}
    frame = sys._getframe(2)
    while (module := str(frame.f_globals.get("__name__"))).startswith("verl.") and frame.f_back:
        found, frame = {**frame.f_locals, **found}, frame.f_back
        if module.startswith("verl.trainer.ppo.v1.") and "batch_keys" not in found:
            raise InvalidInput("trainer.use_v1 must be False: this verl does not tell which rows are one trajectory")
    return found


def _correctness(caller: dict[str, Any], name: str | None, rows: list[int], rewards: Any) -> tuple[str, list[Any]]:
    """The field that is counted, a named one or rewards before KL, and its values in some rows."""
    data, keys = caller.get("data"), caller.get("batch_keys")
    if name is None:
        scores = None if data is None else data.batch.get("token_level_scores", None)
        kind, counted = ("rewards", rewards) if scores is None else ("scores", scores)
        return f"token_level_{kind}", counted[rows].sum(1).tolist()
    extra: Any = {} if data is None else data.non_tensor_batch
    if keys is None or name in extra:
        found = [{key: values[row] for key, values in extra.items()} for row in rows]
    else:  # the v1 trainer leaves them in its queue
        queue, partition = importlib.import_module("transfer_queue"), getattr(caller.get("batch"), "partition_id", None)
        fetched = queue.kv_batch_get([keys[i] for i in rows], partition or "train", select_fields=["extra_fields"])
        found = [getattr(value, "data", value).get("reward_extra_info", {}) for value in fetched["extra_fields"]]
    if absent := [fields for fields in found if name not in fields]:
        raise no_such_field(name, absent[0])
    return name, [fields[name] for fields in found]
