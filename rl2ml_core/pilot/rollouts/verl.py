"""verl: `{step}.jsonl` in `trainer.rollout_data_dir` or `trainer.validation_data_dir`.

A row is an output. Version 1 gives it a uid `{sample}_{rollout}_{output}`: rows of one rollout repeat its score, and
its first one holds the prompt. Older dumps have no uid: their rows may be in any order, so that the prompt and the step
say what belongs together.
"""

from dataclasses import replace
from typing import Any

from rl2ml_core.pilot.rollouts.columns import column, declared
from rl2ml_core.pilot.rollouts.format import Format, Head, Options, Scan, require
from rl2ml_core.pilot.rollouts.sql import content_key

__all__ = ["FORMAT"]


def _matches(head: Head) -> bool:
    return head.kind in ("jsonl", "parquet") and head.has("input", "output", "score")


def _plan(head: Head, options: Options) -> Scan:
    require(head, FORMAT.title, "input", "output")
    name = options.chosen or options.reward or "score"
    score = column(head, name, "JSON")
    prompt, output = column(head, "input"), column(head, "output")
    used = [score, prompt, output]
    scan = Scan(
        format="verl",
        kind=head.kind,
        prompt=content_key(prompt.text),
        shown=prompt.text,
        score=score.number,
        given=score.text,
        skip=f"CASE WHEN {output.text} = '' THEN 'empty' END",
        completion=f"hash({output.text})",
    )
    changes: dict[str, Any] = {}
    if "step" in head.fields:
        step = column(head, "step", "JSON")
        used.append(step)
        changes["step"] = step.whole
    if "uid" in head.fields:
        uid = column(head, "uid")
        used.append(uid)
        # The sample may hold underscores; the last two parts are numbers.
        changes["group"] = content_key(f"coalesce({_part(uid.text, 1)}, {uid.text})")
        changes["rollout"] = content_key(f"coalesce({_part(uid.text, 2)}, {uid.text})")
        changes["order"] = f"TRY_CAST({_part(uid.text, 3)} AS BIGINT)"
    return replace(scan, **changes, columns=declared(head, used))


def _part(uid: str, which: int) -> str:
    """A part of a uid, NULL where it has no three."""
    pattern = ("^(.*)_[^_]*_[^_]*$", "^(.*_[^_]*)_[^_]*$", "^.*_[^_]*_([^_]*)$")[which - 1]
    return f"nullif(regexp_extract({uid}, '{pattern}', 1), '')"


FORMAT = Format(
    name="verl",
    title="a verl rollout dump",
    fields="input, output, score, step, uid",
    matches=_matches,
    plan=_plan,
)
