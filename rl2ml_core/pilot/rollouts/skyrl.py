"""SkyRL's evaluations: `dumped_evals/global_step_{step}_evals/{data_source}.jsonl`.

The step is in the path alone. A score may be one number per token, of which the sum is the rollout's. The training dump
beside them is a pickle and is refused; `aggregated_results.jsonl` holds no rollouts.
"""

import os

from rl2ml_core.pilot.rollouts.columns import FILE, column, declared
from rl2ml_core.pilot.rollouts.format import Format, Head, Options, Scan, require
from rl2ml_core.pilot.rollouts.sql import content_key, matches_text

__all__ = ["FORMAT"]

_STEP = r"global_step_(\d+)"
#: Reasons to stop that say the rollout never ended.
_ERRORS = ("error", "abort", "aborted", "env_error", "exception")


def _matches(head: Head) -> bool:
    return head.kind == "jsonl" and head.has("input_prompt", "output_response", "score")


def _plan(head: Head, options: Options) -> Scan:
    require(head, FORMAT.title, "input_prompt", "output_response")
    prompt, output = column(head, "input_prompt"), column(head, "output_response")
    score = column(head, options.chosen or options.reward or "score", "JSON")
    used = [prompt, output, score]
    errors = []
    if "stop_reason" in head.fields:
        stop = column(head, "stop_reason")
        used.append(stop)
        errors.append(matches_text(f"lower({stop.text})", *_ERRORS))
    if "exception_type" in head.fields:
        exception = column(head, "exception_type")
        used.append(exception)
        errors.append(f"{exception.text} IS NOT NULL")
    errored = f"WHEN {' OR '.join(errors)} THEN 'errored' " if errors else ""
    # An element that is no number becomes NULL, which a sum would pass over.
    tokens = f"TRY_CAST({score.sql} AS DOUBLE[])"
    total = f"CASE WHEN list_count({tokens}) = len({tokens}) THEN list_sum({tokens}) END"
    return Scan(
        format="skyrl",
        kind=head.kind,
        columns=declared(head, used),
        prompt=content_key(prompt.text),
        shown=prompt.text,
        score=f"CASE WHEN json_type({score.sql}) = 'ARRAY' THEN {total} ELSE {score.number} END",
        given=f"CASE WHEN {score.text} <> '[]' THEN {score.text} END",
        skip=f"CASE {errored}WHEN {output.text} = '' THEN 'empty' END",
        step=f"TRY_CAST(regexp_extract({FILE}, '{_STEP}', 1) AS BIGINT)"
        if "global_step_" in os.path.abspath(head.path)
        else None,
        completion=f"hash({output.text})",
    )


FORMAT = Format(
    name="skyrl",
    title="a SkyRL evaluation",
    fields="input_prompt, output_response, score",
    matches=_matches,
    plan=_plan,
)
