"""Plain tables: prompt_id and reward, one row per rollout; or num_successes and num_rollouts, one row per prompt."""

from dataclasses import replace
from typing import Any

from rl2ml_core.errors import InvalidTable
from rl2ml_core.pilot.rollouts.columns import FILE, Column, column, declared
from rl2ml_core.pilot.rollouts.format import Format, Head, Options, Scan, found
from rl2ml_core.pilot.rollouts.sql import content_key

__all__ = ["FORMAT"]

_COUNTS = ("num_successes", "num_rollouts")
_TABLES = ("csv", "tsv", "jsonl", "parquet")


def _matches(head: Head) -> bool:
    return head.kind in _TABLES and (head.has(*_COUNTS) or head.has("prompt_id", "reward"))


def _plan(head: Head, options: Options) -> Scan:
    if head.kind not in _TABLES:
        raise InvalidTable(f"expected {FORMAT.title} in csv, tsv, jsonl or parquet; this file is {head.kind}")
    used = []
    changes: dict[str, Any] = {}
    if "step" in head.fields and options.step is None:
        step = column(head, "step", "JSON")
        used.append(step)
        changes["step"] = step.whole
    if head.has(*_COUNTS) and options.reward is None and options.chosen is None:
        scan, columns = _counts(head, options)
    else:
        scan, columns = _rollouts(head, options)
    return replace(scan, **changes, columns=declared(head, used + columns))


def _rollouts(head: Head, options: Options) -> tuple[Scan, list[Column]]:
    names = options.prompt or "prompt_id", options.reward or options.chosen or "reward"
    for name in names:
        if name not in head.fields and name.split(".")[0] not in head.fields:
            raise InvalidTable(f"expected columns {' and '.join(names)} (one row per rollout){found(head)}")
    prompt, reward = column(head, names[0]), column(head, names[1], "JSON")
    scan = Scan(
        format="plain",
        kind=head.kind,
        prompt=prompt.key if prompt.integer else f"CASE WHEN {prompt.text} <> '' THEN {prompt.key} END",
        shown=prompt.text,
        score=reward.number,
        given=reward.text if reward.numeric else f"nullif({reward.text}, '')",
        missing="no reward",
        single=reward.type == "FLOAT",
    )
    return scan, [prompt, reward]


def _counts(head: Head, options: Options) -> tuple[Scan, list[Column]]:
    if "weight" in head.fields:
        raise InvalidTable("prompts have weights here; read such a table with read_pilot", field="weight")
    k, n = (column(head, name, "JSON") for name in _COUNTS)
    used = [k, n]
    if "prompt_id" in head.fields or options.prompt:
        prompt = column(head, options.prompt or "prompt_id")
        used.append(prompt)
        key, shown = prompt.key, prompt.text
    else:
        # Every row is a prompt of its own.
        key, shown = content_key(FILE, "CAST(row_number() OVER () AS VARCHAR)"), "''"
    scan = Scan(
        format="plain",
        kind=head.kind,
        prompt=key,
        shown=shown,
        score="CAST(1 AS DOUBLE)",
        given="''",
        counts=(k.number, n.number),
    )
    return scan, used


FORMAT = Format(
    name="plain",
    title="a plain table",
    fields="prompt_id and reward, or num_successes and num_rollouts",
    matches=_matches,
    plan=_plan,
)
