"""TRL's GRPO trainer: `completions/completions_{step}.parquet`, at logging steps only.

One column per reward function, and no total: it must be said which of several decides. Columns that a trainer logs
beside them cannot be told from rewards if they hold numbers, too.
"""

from rl2ml_core.errors import InvalidTable
from rl2ml_core.pilot.rollouts.columns import column
from rl2ml_core.pilot.rollouts.format import Format, Head, Options, Scan, listed, require
from rl2ml_core.pilot.rollouts.sql import content_key

__all__ = ["FORMAT"]

_OTHERS = ("step", "prompt", "completion", "advantage")


def _matches(head: Head) -> bool:
    return head.kind == "parquet" and head.has("step", "prompt", "completion", "advantage")


def _plan(head: Head, options: Options) -> Scan:
    require(head, FORMAT.title, "step", "prompt", "completion")
    if head.kind != "parquet":
        raise InvalidTable(f"expected {FORMAT.title}, which is parquet; this file is {head.kind}")
    prompt, completion, step = (column(head, name) for name in ("prompt", "completion", "step"))
    score = column(head, options.chosen or options.reward or _reward(head))
    rewards = [name for name in head.fields if name not in _OTHERS and head.types[name] in ("FLOAT", "DOUBLE")]
    return Scan(
        format="trl",
        kind=head.kind,
        prompt=content_key(prompt.text),
        shown=prompt.text,
        score=score.number,
        given=score.text,
        skip=f"CASE WHEN {completion.text} IN ('', '[]') THEN 'empty' END",
        step=step.whole,
        completion=f"hash({completion.text})",
        single=score.type == "FLOAT",
        others=tuple(name for name in rewards if name != score.name),
    )


def _reward(head: Head) -> str:
    """The one column of rewards: floats, or else any numbers."""
    others = [name for name in head.fields if name not in _OTHERS]
    floats = [name for name in others if head.types[name] in ("FLOAT", "DOUBLE")]
    rewards = floats or [name for name in others if column(head, name).numeric]
    if len(rewards) == 1:
        return rewards[0]
    if not rewards:
        raise InvalidTable(f"no column holds rewards; found {listed(head.fields)}", field="reward")
    raise InvalidTable(
        f"several columns may be the reward: {listed(rewards)}; TRL saves no total. Say which decides, "
        f"such as success={f'{rewards[0]} >= 1'!r}",
        field="success",
    )


FORMAT = Format(
    name="trl",
    title="TRL's completions",
    fields="step, prompt, completion, advantage and a column per reward function (parquet)",
    matches=_matches,
    plan=_plan,
)
