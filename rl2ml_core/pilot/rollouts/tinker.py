"""tinker-cookbook: `iteration_{i}/*_rollout_summaries.jsonl`.

No prompts are saved: a prompt is a group of one iteration of one file, and the same prompt at two iterations cannot be
recognised.
"""

from rl2ml_core.pilot.rollouts.columns import column, declared, scoped
from rl2ml_core.pilot.rollouts.format import Format, Head, Options, Scan, require

__all__ = ["FORMAT"]


def _matches(head: Head) -> bool:
    return (
        head.kind == "jsonl"
        and head.has("group_idx", "traj_idx")
        and bool({"total_reward", "final_reward"} & set(head.fields))
    )


def _plan(head: Head, options: Options) -> Scan:
    require(head, FORMAT.title, "iteration", "group_idx", "traj_idx")
    total = "total_reward" if "total_reward" in head.fields else "final_reward"
    score = column(head, options.chosen or options.reward or total, "JSON")
    group, trajectory, iteration = (column(head, name) for name in ("group_idx", "traj_idx", "iteration"))
    used = [score, group, trajectory, iteration]
    parts = [iteration.text, group.text]
    if "split" in head.fields:
        split = column(head, "split")
        used.append(split)
        parts.append(f"coalesce({split.text}, '')")
    prompt = scoped(*parts)
    return Scan(
        format="tinker",
        kind=head.kind,
        columns=declared(head, used),
        prompt=prompt,
        shown=f"concat('group ', {group.text}, ' of iteration ', {iteration.text})",
        score=score.number,
        given=score.text,
        group=prompt,
        step=iteration.whole,
        rollout=scoped(*parts, trajectory.text),
    )


FORMAT = Format(
    name="tinker",
    title="tinker-cookbook's rollout summaries",
    fields="iteration, group_idx, traj_idx, total_reward or final_reward",
    matches=_matches,
    plan=_plan,
)
